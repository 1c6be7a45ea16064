//! `trawl-monitor`: the program's start and end.

use clap::Parser;
use std::process::ExitCode;
use tracing::Level;
use trawl_common::{config::exit, disposition::describe, shutdown::Shutdown, telemetry, tls};
use trawl_monitor::{cli::Cli, serve};

/// Runtime threads: requests wait more than they compute; images are decoded elsewhere.
const RUNTIME_THREADS: usize = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => Level::INFO,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    if let Err(error) = telemetry::init(cli.log_format, level) {
        return fail(&error.into());
    }
    tls::install_crypto_provider();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let ended = runtime.block_on(async { serve::serve(cli, Shutdown::install()).await });
    // A read that hangs on a blocking thread must not hold up the end.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let error: &(dyn std::error::Error + 'static) = error.as_ref();
    eprintln!("error: {}", telemetry::printable(&describe(error)));
    let usage = error.downcast_ref::<serve::UsageError>().is_some();
    ExitCode::from(if usage { exit::USAGE } else { trawl_common::exit::code_of(error) })
}
