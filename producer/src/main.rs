//! The `trawl` command: submit a job, follow it, read its results.
//!
//! Starts in milliseconds: no torch is linked, and nothing connects that a command does not need. Data goes
//! to stdout, everything else to stderr; the exit codes are fixed. Each command is a file; this one only
//! wires them up.

mod bucket;
mod cancel;
mod cells;
mod cli;
mod compact;
mod completions;
mod connect;
mod dead;
mod doctor;
mod errors;
mod export;
mod failures;
#[cfg(test)]
mod fixture;
mod follow;
mod jobs;
mod next;
mod progress;
mod repair;
mod report;
mod results;
mod resume;
mod rows;
mod run;
mod screen;
mod status;
mod submit;
mod table;
mod target;
mod verify;
mod watch;

use clap::FromArgMatches;
use cli::{Cli, Command, DeadCommand, GlobalArgs, JobsArgs};
use connect::Context;
use errors::Stop;
use results::Printing;
use std::{
    env,
    ffi::OsString,
    io::{self, BufWriter, Write},
    process::ExitCode,
    sync::Arc,
};
use tracing::Level;
use trawl_common::{
    audit::Depth,
    broker::Broker,
    config::{OutputFormat, unix_ms},
    failpoint,
    ledger::Ledger,
    location::Location,
    planning::cancellation::Hold,
    shutdown::Shutdown,
    storage::Stores,
    telemetry, terminal, text, tls, trace,
};

/// Threads that drive requests; the work of this command is waiting.
const RUNTIME_THREADS: usize = 2;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let ended = match run::requested(&arguments) {
        Some(arguments) => Err(run::hand_over(&arguments)),
        None => start(parse(&arguments)),
    };
    let code = ended.unwrap_or_else(|stop| {
        let lines = stop.lines();
        if !lines.is_empty() {
            // Nobody may be left to read it.
            let _ = writeln!(io::stderr(), "{lines}");
        }
        stop.code
    });
    ExitCode::from(code)
}

/// Reads the command line; usage and help end the process, as clap does.
fn parse(arguments: &[OsString]) -> Cli {
    let command = cli::command().color(terminal::obey_no_color(arguments));
    Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

fn start(cli: Cli) -> Result<u8, Stop> {
    let Cli { global, command } = cli;
    if matches!(command, Command::Submit(_)) {
        trawl_common::heap::share();
    }
    let level = match global.verbose {
        0 => Level::WARN,
        1 => Level::INFO,
        2 => Level::DEBUG,
        _ => Level::TRACE,
    };
    telemetry::init(global.log_format, level)?;
    failpoint::check();
    tls::install_crypto_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(RUNTIME_THREADS)
        .enable_all()
        .build()
        .map_err(|error| Stop::failed(format!("no threads can be started: {error}")))?;
    // Rust ignores SIGPIPE and that stays so: resetting it would let a connection that a server closed kill
    // the process. A reader of ours that went away is an error of `write`, and `Stop` takes it for none.
    let mut out = BufWriter::new(io::stdout());
    let traces = trace::setup::init("trawl", runtime.handle());
    let ended = runtime.block_on(async {
        let cx = context(global)?;
        dispatch(&cx, command, &mut out).await
    });
    let flushed = out.flush();
    traces.end();
    // Threads that still wait for a server must not hold the exit up.
    runtime.shutdown_background();
    let code = ended?;
    flushed?;
    Ok(code)
}

fn context(global: GlobalArgs) -> Result<Context, Stop> {
    let base_dir = env::current_dir()
        .map_err(|error| Stop::failed(format!("the working directory cannot be found: {error}")))?;
    Ok(Context {
        output: global.output,
        services: global.services,
        stores: Stores::with_private_addresses(global.addresses.allow_private_addresses),
        base_dir,
        shutdown: Shutdown::manual(),
    })
}

async fn dispatch(cx: &Context, command: Command, out: &mut dyn Write) -> Result<u8, Stop> {
    let ledger = async || -> Result<Box<dyn Ledger>, Stop> {
        let ledger: Box<dyn Ledger> = Box::new(connect::ledger(&cx.services).await?);
        Ok(ledger)
    };
    let terminal_width = match cx.output {
        OutputFormat::Text => table::stdout_width(),
        OutputFormat::Json => None,
    };
    match command {
        // Taken before the command line was parsed.
        Command::Run { .. } | Command::Replay { .. } => Err(run::missing()),
        Command::Submit(args) => submit::run(&listening(cx), &args, out).await,
        Command::Watch { target, strict } => watch::run(&listening(cx), target.as_deref(), strict, out).await,
        Command::Status { target: Some(text) } => {
            let target = target::parse(&text, &cx.base_dir)?;
            let broker = async || -> Result<Arc<dyn Broker>, Stop> {
                let broker: Arc<dyn Broker> = Arc::new(connect::broker(&cx.services).await?);
                Ok(broker)
            };
            let asking = status::Asking { ledger, broker };
            status::run(&cx.stores, target, asking, cx.output, out).await
        }
        Command::Status { target: None } => list(cx, &JobsArgs::default(), terminal_width, out).await,
        Command::Jobs(args) => list(cx, &args, terminal_width, out).await,
        Command::Results { target, limit } => {
            let place = target::out_of(target::parse(&target, &cx.base_dir)?, &cx.base_dir, ledger).await?;
            results::run(&cx.stores, &place, Printing { limit, output: cx.output, terminal_width, out }).await
        }
        Command::Failures { target, code, limit } => {
            let place = target::out_of(target::parse(&target, &cx.base_dir)?, &cx.base_dir, ledger).await?;
            let printing = Printing { limit, output: cx.output, terminal_width, out };
            failures::run(&cx.stores, &place, code, printing).await
        }
        Command::Export(args) => {
            let target = target::parse(&args.target, &cx.base_dir)?;
            let place = target::out_of(target, &cx.base_dir, ledger).await?;
            export::run(&cx.stores, &place, &args, out).await
        }
        Command::Compact(args) => {
            let target = target::parse(&args.target, &cx.base_dir)?;
            let from = target::out_of(target, &cx.base_dir, ledger).await?;
            let to = Location::parse(&args.to, &cx.base_dir)?;
            compact::run(&cx.stores, &from, &to, &args, cx.output, out).await
        }
        Command::Verify { target, deep } => {
            let place = target::out_of(target::parse(&target, &cx.base_dir)?, &cx.base_dir, ledger).await?;
            verify::run(&cx.stores, &place, depth(deep), cx.output, out).await
        }
        Command::Repair { target, discard, deep, dry_run } => {
            let place = target::out_of(target::parse(&target, &cx.base_dir)?, &cx.base_dir, ledger).await?;
            let asked = repair::Asked { discard, depth: depth(deep), dry_run };
            repair::run(&listening(cx), &place, asked, out).await
        }
        Command::Dead { action } => dead(cx, action, terminal_width, out).await,
        Command::Cancel { job } => {
            cancel::run(&cx.stores, ledger().await?.as_ref(), &job, Hold::Cancelled, cx.output, out).await
        }
        Command::Pause { job } => {
            cancel::run(&cx.stores, ledger().await?.as_ref(), &job, Hold::Paused, cx.output, out).await
        }
        Command::Resume { job } => resume::run(cx, &job, out).await,
        Command::Doctor(args) => doctor::run(cx, &args, out).await,
        Command::Completions { shell } => completions::run(shell, out),
        Command::Man { dir } => completions::manual(&dir, out),
    }
}

fn depth(deep: bool) -> Depth {
    if deep { Depth::Keys } else { Depth::Footers }
}

async fn dead(
    cx: &Context,
    command: DeadCommand,
    terminal_width: Option<usize>,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    let (selection, action) = match command {
        DeadCommand::List(selection) => (selection, dead::Action::List),
        DeadCommand::Retry(selection) => (selection, dead::Action::Retry),
        DeadCommand::Drop { selection, yes } => (selection, dead::Action::Drop { yes }),
    };
    let broker = connect::broker(&cx.services).await?;
    dead::run(&broker, &selection, action, cx.output, terminal_width, out).await
}

async fn list(
    cx: &Context,
    args: &JobsArgs,
    terminal_width: Option<usize>,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    let ledger = connect::ledger(&cx.services).await?;
    jobs::run(&ledger, args.limit as usize, cx.output, terminal_width, unix_ms(), out).await
}

/// The same surroundings with an ear for SIGINT and SIGTERM. Commands that only read keep the signals'
/// default meaning: they have nothing to end gently.
fn listening(cx: &Context) -> Context {
    Context {
        output: cx.output,
        services: cx.services.clone(),
        stores: cx.stores.clone(),
        base_dir: cx.base_dir.clone(),
        shutdown: Shutdown::install(),
    }
}
