//! `scale`: one measurement, one JSON line. See the library beside it.

use clap::{Parser, Subcommand};
use trawl_scale::{ledger, submit, verify};

/// Measures what grows with a job.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists, plans and queues a job of made-up keys
    Submit(submit::Options),
    /// The ledger's memory and the cost of a completion, by batches done
    Ledger(ledger::Options),
    /// Makes a complete output of many small parts and audits it
    Verify(verify::Options),
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    if matches!(options.command, Command::Submit(_)) {
        // As `trawl submit` does, whose memory this is about.
        trawl_common::heap::share();
    }
    trawl_common::telemetry::init(trawl_common::telemetry::LogFormat::Pretty, tracing::Level::WARN)?;
    // As both programs have it: the network and timers, nothing that computes.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(async {
        match options.command {
            Command::Submit(options) => submit::run(&options).await,
            Command::Ledger(options) => ledger::run(&options).await,
            Command::Verify(options) => verify::run(&options).await,
        }
    })?;
    println!("{report}");
    Ok(())
}
