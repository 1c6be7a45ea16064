//! A fleet: many consumers on one queue, with work that costs next to nothing.
//!
//! Each consumer is what a worker process has: a pipeline, a connection to RabbitMQ and one to Redis, a thread that
//! decodes. Only the model is the fake one and the images are eight pixels wide. So what is seen is what a batch costs
//! in coordination, and whether the consumers get as much each. Feeding the queue and finishing the job are in it.
//! `bench/scale` runs it and makes a table of the JSON line that it prints. It must never be pointed at services that
//! somebody works with: the job stays behind in Redis and RabbitMQ.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use trawl_common::{
    broker::{Broker, BrokerError, Consumer},
    bundle::BundleSpec,
    job::{JobSpec, Precision},
    ledger::{JobState, Ledger, redis::RedisLedger},
    model_file::ModelFile,
    planning::{Enlisting, Ready, enlist, open_output, submit::PUBLISH_WINDOW},
    shutdown::Shutdown,
    storage::Stores,
};
use trawl_scale::{
    job::{self, Source},
    servers::{Clock, Services, peak_rss, rounded},
    submit::requests,
};
use trawl_worker::{
    jobs::{Jobs, Loader},
    model::{Model, ModelError, fake::FakeModel},
    pipeline::{
        Drained, Pipeline,
        fetch::{FetchLimits, Fetcher},
        knees::Knees,
        meters::Meters,
        pace::Reads,
        pool::{PoolSettings, PoolThreads},
        settle::SettleOrder,
        sizing::Rule,
        solo::Room,
        start_pool,
        tail::Stalled,
    },
    preprocess::Limits,
};

/// How often the counters are looked at: one question, so that it does not show in the figures.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A job that has not moved for so long is stuck: longer than idle workers wait until they look a still job over, so
/// that such a pause shows as one.
const STUCK_AFTER: Duration = Duration::from_secs(180);

/// What is in hand at the end is settled long before.
const GRACE: Duration = Duration::from_secs(30);

/// Where the parts go unless a folder is given: a bucket in memory, so that no disk is measured.
const IN_MEMORY: &str = "s3://scale-out/run";

/// Works a job off with many consumers that do next to nothing.
#[derive(Parser)]
struct Options {
    /// Consumers, each with connections of its own
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    consumers: u16,
    /// Batches of the job
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    batches: u64,
    /// Images in a batch
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch_size: u32,
    /// Batches that a consumer has in hand
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000))]
    prefetch: u16,
    #[command(flatten)]
    source: Source,
    /// Folder of the output, new or empty; a bucket in memory if it is not given
    #[arg(long)]
    out: Option<PathBuf>,
    /// Works off the job of that folder as `scale submit` left it, and queues nothing
    #[arg(long, requires = "out", conflicts_with_all = ["batches", "batch_size"])]
    existing: bool,
    /// A server whose processor time is measured, as beam=4711
    #[arg(long, value_name = "NAME=PID")]
    server: Vec<String>,
    #[command(flatten)]
    services: Services,
}

fn main() -> Result<()> {
    trawl_worker::allocator::tune();
    let options = Options::parse();
    trawl_common::telemetry::init(trawl_common::telemetry::LogFormat::Pretty, tracing::Level::WARN)?;
    // As the worker has it: the network and timers, nothing that computes.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let report = runtime.block_on(run(&options))?;
    println!("{report}");
    Ok(())
}

/// A job that waits for its fleet.
struct Waiting {
    spec: JobSpec,
    stores: Arc<Stores>,
    /// Batches that are not done.
    open: u64,
    /// Batches in all.
    batches: u64,
}

async fn run(options: &Options) -> Result<Value> {
    let ledger = options.services.ledger().await?;
    let Waiting { spec, stores, open, batches } = match options.existing {
        true => existing(options, &ledger).await?,
        false => enqueued(options, &ledger).await?,
    };
    let mut fleet = Fleet::subscribe(options, &spec, &stores).await?;

    let asked_before = requests();
    let clock = Clock::start(&options.server)?;
    let began = Instant::now();
    fleet.begin();
    let pause = until(&ledger, &spec, &mut fleet, |_, done| done >= batches).await?;
    let seconds = began.elapsed().as_secs_f64();
    let spent = serde_json::to_value(clock.report(open)?)?;
    until(&ledger, &spec, &mut fleet, |state, _| state == JobState::Complete).await?;
    let finish = began.elapsed().as_secs_f64() - seconds;
    let asked = difference(&requests(), &asked_before);
    let mut each = fleet.end().await?;
    each.sort_unstable();
    let done: u64 = each.iter().sum();
    let mean = done as f64 / each.len() as f64;
    let deviation = (each.iter().map(|n| (*n as f64 - mean).powi(2)).sum::<f64>() / each.len() as f64).sqrt();
    Ok(json!({
        "command": "fleet",
        "consumers": options.consumers,
        "prefetch": options.prefetch,
        "batches": open,
        "batch_size": spec.batch_size,
        "seconds": rounded(seconds),
        "batches_per_second": rounded(open as f64 / seconds),
        "longest_pause_seconds": rounded(pause.as_secs_f64()),
        "finish_seconds": rounded(finish),
        "spent": spent,
        "requests": asked,
        "batches_per_consumer": {
            "min": each.first(), "median": each[each.len() / 2], "max": each.last(),
            "mean": rounded(mean), "deviation": rounded(deviation),
        },
        "done_first": done,
        "peak_rss_bytes": peak_rss()?,
    }))
}

/// A new job, planned and queued as far as a queue takes it.
async fn enqueued(options: &Options, ledger: &RedisLedger) -> Result<Waiting> {
    let stores = options.source.stores(options.batches * u64::from(options.batch_size));
    let out = options.out.as_deref().map_or_else(|| Ok(IN_MEMORY.to_owned()), job::folder)?;
    let broker = options.services.broker("scale-work").await?;
    let (_, spec) = open_output(&job::spec(&out, options.batch_size)?, &stores).await?;
    let ready = Ready::Share { prefetch: options.prefetch };
    let ctx =
        Enlisting { spec: &spec, stores: &stores, broker: &broker, ledger, window: PUBLISH_WINDOW, ready };
    enlist(ctx, &mut |_| {}, &CancellationToken::new()).await?;
    Ok(Waiting { spec, stores, open: options.batches, batches: options.batches })
}

/// The job that is in the folder and in the services.
async fn existing(options: &Options, ledger: &RedisLedger) -> Result<Waiting> {
    let out = options.out.as_deref().context("--existing needs --out")?;
    let spec = JobSpec::parse(&std::fs::read(out.join("_trawl/job.json"))?)?;
    let progress = ledger.progress(&spec.job).await?.context("the ledger does not know the job")?;
    ensure!(progress.state == JobState::Running, "the job is {:?}, not planned to its end", progress.state);
    let batches = progress.batches_planned;
    let stores = options.source.stores(progress.images_planned);
    Ok(Waiting { spec, stores, open: batches - progress.batches_done, batches })
}

/// The consumers, first subscribed and then at work.
struct Fleet {
    waiting: Vec<(Arc<Pipeline>, Box<dyn Consumer>)>,
    pipelines: Vec<Arc<Pipeline>>,
    _threads: Vec<PoolThreads>,
    shutdown: Shutdown,
    serving: JoinSet<Result<Drained, BrokerError>>,
}

impl Fleet {
    async fn subscribe(options: &Options, spec: &JobSpec, stores: &Arc<Stores>) -> Result<Self> {
        let (mut waiting, mut pipelines, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..options.consumers {
            let name = format!("scale-{number:04}");
            let broker: Arc<dyn Broker> = Arc::new(options.services.broker(&name).await?);
            let consumer = broker.consume(&spec.queue, options.prefetch).await?;
            let ledger = Arc::new(options.services.ledger().await?);
            let (pipeline, its_threads) = pipeline(name, options, spec, stores.clone(), broker, ledger)?;
            threads.push(its_threads);
            pipelines.push(pipeline.clone());
            waiting.push((pipeline, consumer));
        }
        let (shutdown, serving) = (Shutdown::manual(), JoinSet::new());
        Ok(Self { waiting, pipelines, _threads: threads, shutdown, serving })
    }

    fn begin(&mut self) {
        for (pipeline, consumer) in self.waiting.drain(..) {
            let shutdown = self.shutdown.clone();
            self.serving.spawn(async move { pipeline.serve(consumer, &shutdown, GRACE).await });
        }
    }

    /// Drains all and says how many batches each of them completed first.
    async fn end(mut self) -> Result<Vec<u64>> {
        self.shutdown.drain();
        while let Some(drained) = self.serving.join_next().await {
            drained??;
        }
        self.pipelines.iter().map(|pipeline| batches_done(&pipeline.meters)).collect()
    }
}

fn batches_done(meters: &Meters) -> Result<u64> {
    let text = meters.render();
    let line = text.lines().find_map(|line| line.strip_prefix("trawl_batches_total{outcome=\"done\"} "));
    Ok(line.context("the metrics count no batches")?.parse()?)
}

fn pipeline(
    worker: String,
    options: &Options,
    spec: &JobSpec,
    stores: Arc<Stores>,
    broker: Arc<dyn Broker>,
    ledger: Arc<dyn Ledger>,
) -> Result<(Arc<Pipeline>, PoolThreads)> {
    let meters = Arc::new(Meters::new());
    let settings =
        PoolSettings { threads: 1, micro_batch: Rule::Fixed(1), forward_in_pool: true, devices: 0 };
    let (pool, threads) = start_pool(settings, Knees::none(), meters.clone());
    let limits = FetchLimits { reads: Reads::Fixed(8), bytes: 16 << 20, max_image_bytes: 1 << 20 };
    let jobs = Jobs::new(
        stores.clone(),
        Arc::new(Nothing),
        "/nowhere".into(),
        Limits::default(),
        Some(job::model()?),
    );
    let pipeline = Pipeline {
        broker,
        ledger,
        jobs: Arc::new(jobs),
        fetcher: Arc::new(Fetcher::new(stores.clone(), limits, meters.clone())),
        stores,
        pool,
        meters,
        queue: spec.queue.clone(),
        worker,
        attempts: Arc::default(),
        finished: watch::Sender::new(0),
        order: SettleOrder::AckLast,
        room: Room::default(),
        ready: Ready::Share { prefetch: options.prefetch },
        reclaim_after: Some(Duration::from_secs(30)),
        stalled: Stalled::default(),
        begun: None,
        in_hand: trawl_worker::pipeline::in_hand::InHand::default(),
        device_lost: CancellationToken::new(),
    };
    Ok((Arc::new(pipeline), threads))
}

/// Loads the fake model, whatever is asked for.
struct Nothing;

impl Loader for Nothing {
    fn load(&self, _: &ModelFile, _: &BundleSpec, _: Precision) -> Result<Vec<Box<dyn Model>>, ModelError> {
        Ok(vec![Box::new(FakeModel::default())])
    }
}

/// Waits until the job's state and its batches done are as wanted; gives the longest time in which none was done.
async fn until(
    ledger: &dyn Ledger,
    spec: &JobSpec,
    fleet: &mut Fleet,
    wanted: impl Fn(JobState, u64) -> bool,
) -> Result<Duration> {
    let (mut seen, mut moved, mut longest) = (0, Instant::now(), Duration::ZERO);
    loop {
        let progress = ledger.progress(&spec.job).await?.context("the ledger has lost the job")?;
        longest = longest.max(moved.elapsed());
        if wanted(progress.state, progress.batches_done) {
            return Ok(longest);
        }
        if progress.batches_done > seen {
            (seen, moved) = (progress.batches_done, Instant::now());
        }
        if moved.elapsed() > STUCK_AFTER {
            bail!("stuck: {} of {} batches are done", progress.batches_done, progress.batches_planned);
        }
        if let Some(ended) = fleet.serving.try_join_next() {
            bail!("a consumer ended early: {ended:?}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn difference(now: &Value, before: &Value) -> Value {
    let of = |value: &Value, name: &str| value[name].as_u64().unwrap_or(0);
    let names = now.as_object().into_iter().flatten().map(|(name, _)| name);
    names
        .map(|name| (name.clone(), json!(of(now, name) - of(before, name))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}
