//! `submit`: what listing, planning and queueing a job costs, and what it leaves in the servers.
//!
//! Calls what `trawl submit` calls, on RabbitMQ, Redis and a local folder, with a made-up bucket as the source. Killed
//! anywhere and started again with the same folder it goes on, as `trawl submit` does.

use crate::{
    job::{self, Source},
    servers::{Services, messages_ready, peak_rss, rounded},
    watched::Watched,
};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use std::{path::PathBuf, sync::Arc, time::Instant};
use tokio_util::sync::CancellationToken;
use trawl_common::{
    broker::Broker,
    job::JobSpec,
    ledger::Ledger,
    location::Location,
    planning::{Enlisting, Planned, Ready, enlist, open_output, preflight, submit::PUBLISH_WINDOW},
    results::OutputLayout,
    storage::{
        Stores,
        counted::{StoreCode, StoreOp, store_requests},
    },
};

/// What is asked for.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Images in the bucket
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000_000))]
    keys: u64,
    /// Images in a batch
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch_size: u32,
    #[command(flatten)]
    source: Source,
    /// Batches that may wait in the queue: `auto` as `trawl submit` has it, `all`, or a number
    #[arg(long, default_value = "auto")]
    ready: Ready,
    /// Submits a second time and says how long it takes until all is known again
    #[arg(long)]
    again: bool,
    /// Folder of the output: new, empty, or of the same job
    #[arg(long)]
    out: PathBuf,
    #[command(flatten)]
    services: Services,
}

/// Submits and says what it cost.
///
/// # Errors
/// What the services and the planner say.
pub async fn run(options: &Options) -> Result<Value> {
    let stores = options.source.stores(options.keys);
    let mut spec = job::spec(&job::folder(&options.out)?, options.batch_size)?;
    if let Ok(json) = std::fs::read(options.out.join("_trawl/job.json")) {
        // Of a submission that was killed: the same job in the same lane.
        spec.queue = JobSpec::parse(&json)?.queue;
    }
    let broker = Watched::new(options.services.broker("scale-submit").await?);
    let (ledger, mut redis) = (options.services.ledger().await?, options.services.redis().await?);
    let memory_before = redis.used_memory().await?;
    // What this program needs before it does anything.
    let base_rss = peak_rss()?;
    let began = Instant::now();
    let (_, spec) = open_output(&spec, &stores).await?;
    let (planned, first_plan) = submit(options, &spec, &stores, &broker, &ledger).await?;
    let seconds = began.elapsed().as_secs_f64();
    let requests = requests();
    let rss = peak_rss()?;
    ensure!(planned.images == options.keys, "{} of {} images are planned", planned.images, options.keys);
    let (messages, message_bytes) = broker.sent();
    let (plan_files, plan_bytes) = plan_size(&stores, &spec).await?;
    let since = |then: Option<Instant>| then.map(|then| rounded((then - began).as_secs_f64()));
    let mut report = json!({
        "command": "submit",
        "job": spec.job.as_str(),
        "keys": options.keys,
        "batch_size": options.batch_size,
        "shape": format!("{:?}", options.source.shape).to_lowercase(),
        "latency_ms": options.source.latency_ms,
        "page": options.source.page,
        "batches": planned.batches,
        "seconds": rounded(seconds),
        "keys_per_second": (options.keys as f64 / seconds).round(),
        "seconds_to_first_plan_file": since(first_plan),
        "seconds_to_first_message": since(broker.first()),
        "base_rss_bytes": base_rss,
        "peak_rss_bytes": rss,
        "plan_files": plan_files,
        "plan_bytes": plan_bytes,
        "messages": messages,
        "message_bytes": message_bytes,
        "messages_ready": messages_ready(&broker, &spec.queue, messages).await?,
        "redis_bytes": redis.used_memory().await?.saturating_sub(memory_before),
        "redis_job_bytes": redis.job_keys(&spec.job).await?,
        "requests": requests,
    });
    if options.again {
        let began = Instant::now();
        submit(options, &spec, &stores, &broker, &ledger).await?;
        report["again_seconds"] = json!(rounded(began.elapsed().as_secs_f64()));
    }
    Ok(report)
}

/// Plans and queues, and when the first plan file was durable.
async fn submit(
    options: &Options,
    spec: &JobSpec,
    stores: &Arc<Stores>,
    broker: &dyn Broker,
    ledger: &dyn Ledger,
) -> Result<(Planned, Option<Instant>)> {
    preflight(spec, broker, ledger).await?;
    let ctx = Enlisting { spec, stores, broker, ledger, window: PUBLISH_WINDOW, ready: options.ready };
    let mut first_plan = None;
    let mut on_progress = |planned: &Planned| {
        if planned.batches > 0 {
            first_plan.get_or_insert_with(Instant::now);
        }
    };
    let planned = enlist(ctx, &mut on_progress, &CancellationToken::new()).await?;
    Ok((planned, first_plan))
}

/// Plan files and their bytes.
async fn plan_size(stores: &Stores, spec: &JobSpec) -> Result<(usize, u64)> {
    use futures::TryStreamExt;
    let out = Location::parse(&spec.out, std::path::Path::new("/"))?;
    let store = stores.open(&out).await;
    let mut pages = store.list(&OutputLayout::new(out).plan_prefix(), None);
    let (mut files, mut bytes) = (0, 0);
    while let Some(page) = pages.try_next().await? {
        let plans = page.objects.iter().filter(|object| object.key.ends_with(".parquet"));
        for object in plans {
            (files, bytes) = (files + 1, bytes + object.size);
        }
    }
    Ok((files, bytes))
}

/// What this process asked of all stores so far, by kind.
pub fn requests() -> Value {
    let of = |op: StoreOp| StoreCode::ALL.iter().map(|code| store_requests(op, *code)).sum::<u64>();
    StoreOp::ALL
        .iter()
        .map(|op| (op.name().to_owned(), json!(of(*op))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
