//! The parts of trawl that see every batch, at sizes that no test has: planning, the queue, the ledger, the audit.
//!
//! `bench/scale` runs it and makes tables of what it prints: one JSON line a subcommand. Images and model are made up
//! and cost nothing, so that what is measured is coordination. Planner, pipeline, ledger, broker and audit are the
//! real ones. It must never be pointed at services that somebody works with: jobs stay behind in Redis and RabbitMQ.

mod job;
mod ledger;
mod servers;
mod submit;
mod synthetic;
mod verify;
mod watched;
mod work;

use clap::{Parser, Subcommand};

/// Measures what a batch costs besides its images, and what grows with a job.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists, plans and queues a job of made-up keys
    Submit(submit::Options),
    /// Works a job off with many consumers that do next to nothing
    Work(work::Options),
    /// The ledger's memory and the cost of a completion, by batches done
    Ledger(ledger::Options),
    /// Makes a complete output of many small parts and audits it
    Verify(verify::Options),
}

fn main() -> anyhow::Result<()> {
    trawl_worker::allocator::tune();
    let options = Options::parse();
    trawl_common::telemetry::init(trawl_common::telemetry::LogFormat::Pretty, tracing::Level::WARN)?;
    // As both programs have it: the network and timers, nothing that computes.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(async {
        match options.command {
            Command::Submit(options) => submit::run(&options).await,
            Command::Work(options) => work::run(&options).await,
            Command::Ledger(options) => ledger::run(&options).await,
            Command::Verify(options) => verify::run(&options).await,
        }
    })?;
    println!("{report}");
    Ok(())
}
