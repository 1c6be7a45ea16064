//! `trawl-worker`: the program's start and end.
//!
//! Tunes the allocator before any thread exists, parses, starts the runtime, and turns the outcome into
//! an exit code. Heavy work runs on the pool's own threads, so the runtime needs few.

use anyhow::Context;
use clap::FromArgMatches;
use std::{ffi::OsString, io::Write, time::Instant};
use tracing::Level;
use trawl_common::{
    command_line,
    config::exit,
    disposition::{Failure, describe},
    failpoint,
    shutdown::Shutdown,
    telemetry, terminal, trace,
};
use trawl_worker::{
    allocator,
    bench::bench,
    check_model::check_model,
    cli::{Cli, Command, command},
    model::ModelError,
    replay::replay,
    run::run,
    serve::serve,
};

/// Runtime threads: network and timers only. Two, so that one slow poll does not hold up a heartbeat.
const RUNTIME_THREADS: usize = 2;

fn main() {
    allocator::tune();
    let started = Instant::now();
    let cli = parse();
    let serving = matches!(cli.command, None | Some(Command::Serve(_)));
    let level = match (cli.verbose, serving) {
        (0, true) => Level::INFO,
        (0, false) => Level::WARN,
        (1, _) => Level::INFO,
        (2, _) => Level::DEBUG,
        _ => Level::TRACE,
    };
    if let Err(error) = telemetry::init(cli.log_format, level) {
        leave(fail(&error));
    }
    failpoint::check();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => leave(fail(&error)),
    };
    let traces = trace::setup::init("trawl-worker", runtime.handle());
    let outcome = runtime.block_on(async {
        match cli.command {
            None => serve(cli.serve, Shutdown::install()).await,
            Some(Command::Serve(args)) => serve(args, Shutdown::install()).await,
            Some(Command::Run(args)) => run(*args, cli.output, Shutdown::install(), started).await,
            Some(Command::CheckModel(args)) => check_model(args, cli.output).await,
            Some(Command::Replay(args)) => replay(args, cli.output, Shutdown::install()).await,
            Some(Command::Bench(args)) => bench(args, cli.output).await,
            Some(Command::Completions { shell }) => completions(shell),
            Some(Command::Man { dir }) => manual(&dir),
        }
    });
    traces.end();
    // A read that hangs on a blocking thread must not hold up the end.
    runtime.shutdown_background();
    let code = match outcome {
        Ok(code) => code,
        Err(error) => fail(error.as_ref()),
    };
    leave(code)
}

/// Reads the command line; usage and help end the process as clap would, but without what libtorch does at an exit, which
/// takes a third of the time that `--version` takes.
fn parse() -> Cli {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut command = command().color(terminal::obey_no_color(&arguments));
    let matches = command.try_get_matches_from_mut(std::env::args_os());
    matches
        .and_then(|matches| Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command)))
        .unwrap_or_else(|error| {
            let _closed = error.print();
            leave(u8::try_from(error.exit_code()).unwrap_or(exit::USAGE))
        })
}

/// Prints a completion script.
fn completions(shell: clap_complete::Shell) -> anyhow::Result<u8> {
    // Made in memory first: the generator panics when its writer fails.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), "trawl-worker", &mut script);
    std::io::stdout().write_all(&script).context("the script cannot be printed")?;
    Ok(exit::OK)
}

/// Writes the manual pages and prints their names.
fn manual(dir: &std::path::Path) -> anyhow::Result<u8> {
    let written = command_line::write_manual(command(), dir)
        .with_context(|| format!("the manual pages cannot be written to `{}`", dir.display()))?;
    for path in written {
        println!("{}", path.display());
    }
    Ok(exit::OK)
}

/// Ends the process without its exit handlers: libtorch's would tear down what a compute thread that is still
/// in a forward pass is using. Everything that matters is written and flushed by now.
fn leave(code: u8) -> ! {
    let _closed = std::io::stdout().flush();
    // SAFETY: `_exit` takes no pointers and does not return.
    unsafe { libc::_exit(i32::from(code)) }
}

fn fail(error: &(dyn std::error::Error + 'static)) -> u8 {
    eprintln!("error: {}", telemetry::printable(&describe(error)));
    let device = |error: &(dyn std::error::Error + 'static)| {
        matches!(error.downcast_ref(), Some(ModelError::Device(_) | ModelError::Unusable(_)))
    };
    let unusable = matches!(error.downcast_ref(), Some(Failure::Model(_)))
        || error.source().is_some_and(|cause| matches!(cause.downcast_ref(), Some(Failure::Model(_))));
    if device(error) || unusable { exit::USAGE } else { trawl_common::exit::code_of(error) }
}
