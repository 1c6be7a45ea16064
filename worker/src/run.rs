//! `trawl-worker run`: a whole job in one process, with the same planner, pipeline and output as a fleet.
//!
//! The work list and the ledger are in memory and rebuilt from the output at every start, so a run that
//! was killed goes on where it ended, and one that is complete does nothing and says so. Nothing is written
//! before the model has loaded and an image was found.

use crate::{
    assemble::{self, Seams},
    cli::RunArgs,
    http::{self, Health},
    pipeline::{Drained, Pipeline, meters::Meters, pool::PoolThreads},
    progress::{Display, TICK},
    report::{self, Report},
};
use anyhow::{Context, Result, anyhow};
use futures::StreamExt;
use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;
use trawl_common::{
    broker::{Broker, Consumer, memory::MemoryBroker, topology::RetryPolicy},
    config::{JobArgs, OutputFormat, exit},
    job::{JobSpec, ModelRef},
    ledger::{JobState, Ledger, Progress, memory::MemoryLedger},
    location::Location,
    model_file::ModelFile,
    model_import::{Imported, import},
    planning::{
        PlanError, Ready, dry_run,
        submit::{Enlisting, Opened, PUBLISH_WINDOW, Planned, enlist, open_output},
    },
    results::{Columns, Manifest, OutputLayout, manifest::MAX_MANIFEST_BYTES},
    shutdown::Shutdown,
    stdin_list,
    storage::Stores,
    tls, trace,
};

/// Batches that wait in memory between the planner and the pipeline: enough that the pipeline never
/// starves, few enough that a listing of millions does not pile up.
const QUEUED_BATCHES: usize = 64;

/// What is wrong with the machine rather than with a batch is tried again so often; somebody sits and waits.
const MAX_DEFERRALS: u32 = 2;

/// After Ctrl-C the batches in hand get this long; their images are computed again otherwise.
const GRACE: Duration = Duration::from_secs(10);

/// So many failed batches before the first good one, and the run ends: what fails them is not one of them.
const HOPELESS_AFTER: usize = 8;

/// Runs the job; the answer is the exit code. `started` is when the process began.
///
/// # Errors
/// Bad input, an output of another job, a model or device that cannot be used, batches that cannot be
/// completed.
pub async fn run(args: RunArgs, output: OutputFormat, shutdown: Shutdown, started: Instant) -> Result<u8> {
    tls::install_crypto_provider();
    let ready = tokio::select! {
        biased;
        () = shutdown.draining.cancelled() => {
            eprintln!("interrupted before anything was done; run the same command again to go on");
            return Ok(signal_code(&shutdown));
        }
        ready = prepare(&args, output, &shutdown) => ready?,
    };
    let (run, consumer, threads) = match ready {
        Prepared::Ready(ready) => *ready,
        Prepared::Answered(code) => return Ok(code),
    };
    let serving = {
        let (pipeline, shutdown) = (run.pipeline.clone(), run.shutdown.clone());
        tokio::spawn(async move { pipeline.serve(consumer, &shutdown, GRACE).await })
    };
    let followed = run.follow().await;
    run.shutdown.drain();
    match serving.await?? {
        Drained::Clean => drop(threads),
        // A thread may be in a forward pass of any length; the process ends without it.
        Drained::CutShort { .. } => std::mem::forget(threads),
        Drained::DeviceLost => {
            std::mem::forget(threads);
            anyhow::bail!("the device is lost; what is done is kept: run the same command again to go on");
        }
    }
    followed?;
    run.conclude(&args, output, started).await
}

/// What there is to do.
enum Prepared {
    /// Nothing more; the exit code.
    Answered(u8),
    /// The job.
    Ready(Box<(Embedded, Box<dyn Consumer>, PoolThreads)>),
}

/// Everything up to the first batch. Writes nothing before the model has loaded, the health endpoint is
/// bound and an image was found. Cancel safe.
async fn prepare(args: &RunArgs, output: OutputFormat, shutdown: &Shutdown) -> Result<Prepared> {
    let base_dir = std::env::current_dir().context("the working directory cannot be read")?;
    let stores = args.compute.stores();
    let (spec, file) = spec(args, &base_dir, &stores).await?;
    if args.dry_run {
        let found = dry_run(&spec, &stores).await?;
        report::print_dry_run(&found, output);
        return Ok(Prepared::Answered(exit::OK));
    }
    if let Some(code) = already_complete(&spec, &stores, output, args.strict).await? {
        return Ok(Prepared::Answered(code));
    }
    let compute = args.compute.clone();
    let devices = tokio::task::spawn_blocking(move || assemble::devices(&compute)).await??;
    let worker = assemble::worker_name();
    let retries = RetryPolicy { max_deferrals: MAX_DEFERRALS, ..RetryPolicy::default() };
    let broker = Arc::new(MemoryBroker::with_capacity(QUEUED_BATCHES).with_retries(retries).named(&worker));
    let ledger = Arc::new(MemoryLedger::new());
    let meters = Arc::new(Meters::new());
    let health = Health::new(meters.clone());
    http::serve_if_asked(args.http, &health).await?;
    let used = devices.clone();
    let seams =
        Seams { broker: broker.clone(), ledger: ledger.clone(), stores: stores.clone(), worker, meters };
    let (mut pipeline, threads) =
        assemble::pipeline(&args.compute, devices, args.prefetch, spec.queue.clone(), seams, Some(file));
    let begun = Arc::new(Mutex::new(HashSet::new()));
    pipeline.begun = Some(begun.clone());
    let pipeline = Arc::new(pipeline);
    health.at("loading the model");
    pipeline.jobs.model(&spec).await.context("the model cannot be used")?;
    broker.ensure_queue(&spec.queue).await?;
    let consumer = broker.consume(&spec.queue, args.prefetch).await?;
    health.started(vec![consumer.attached()], used);
    let (opened, spec) = open_output(&spec, &stores).await?;
    if opened == Opened::Resumed {
        let found = begun_batches(&spec, &stores).await?;
        begun.lock().expect("nobody else has it yet").extend(found);
        tracing::info!(job.id = %spec.job, "going on with the job that is in {}", spec.out);
    }
    let quiet = output == OutputFormat::Json;
    let began = Instant::now();
    let run = Embedded { spec, pipeline, broker, ledger, shutdown: shutdown.clone(), quiet, began };
    Ok(Prepared::Ready(Box::new((run, consumer, threads))))
}

/// The batches that were in work when an earlier process ended without a word.
async fn begun_batches(spec: &JobSpec, stores: &Stores) -> Result<Vec<u64>> {
    let out = Location::parse(&spec.out, Path::new("/"))?;
    let (layout, store) = (OutputLayout::new(out.clone()), stores.open(&out).await);
    let (prefix, mut begun) = (layout.solo_prefix(), Vec::new());
    let mut pages = store.list(&prefix, None);
    while let Some(page) = pages.next().await {
        begun
            .extend(page?.objects.iter().filter_map(|object| layout.batch_of_solo(&object.key)).map(|n| n.0));
    }
    Ok(begun)
}

/// Checks the model's description and makes the spec.
async fn spec(args: &RunArgs, base_dir: &Path, stores: &Arc<Stores>) -> Result<(JobSpec, ModelFile)> {
    let cache = args.compute.cache_dir();
    let kept = stdin_list::keep(&args.job.sources, &cache).await.context("the list by standard input")?;
    let job = JobArgs { sources: kept, ..args.job.clone() };
    let place = job.model_location(base_dir)?;
    job.out_location(base_dir)?;
    let Imported { file, spec: bundle, location, .. } = import(stores, &place, &cache).await?;
    let spec =
        job.spec(base_dir, ModelRef { location: location.to_string(), sha256: file.sha256.clone() })?;
    Columns::check(&bundle.heads, &spec.carry).map_err(anyhow::Error::msg)?;
    Ok((spec, file))
}

/// The exit code if the output is complete, after having said so.
async fn already_complete(
    spec: &JobSpec,
    stores: &Arc<Stores>,
    output: OutputFormat,
    strict: bool,
) -> Result<Option<u8>> {
    let out = Location::parse(&spec.out, Path::new("/"))?;
    let (layout, store) = (OutputLayout::new(out.clone()), stores.open(&out).await);
    match store.head(&layout.success()).await {
        Err(error) if error.is_not_found() => return Ok(None),
        found => found?,
    };
    // Of this work? open_output refuses the output of another job, and writes nothing where one is.
    let (_, spec) = open_output(spec, stores).await?;
    let manifest = Manifest::parse(&store.get(&layout.manifest(), MAX_MANIFEST_BYTES).await?.bytes)?;
    if output == OutputFormat::Json {
        println!("{}", serde_json::to_string(&complete_progress(&spec, &manifest))?);
    }
    eprintln!(
        "{} is complete: {} images, {} ok, {} failed; nothing to do",
        spec.out, manifest.rows, manifest.images_ok, manifest.images_failed
    );
    Ok(Some(if strict && manifest.images_failed > 0 { exit::FAILED_IMAGES } else { exit::OK }))
}

fn complete_progress(spec: &JobSpec, manifest: &Manifest) -> Progress {
    Progress {
        job: spec.job.clone(),
        state: JobState::Complete,
        out: spec.out.clone(),
        queue: spec.queue.to_string(),
        created_unix_ms: spec.created_unix_ms,
        images_planned: manifest.rows,
        images_ok: manifest.images_ok,
        images_failed: manifest.images_failed,
        batches_planned: manifest.batches,
        batches_done: manifest.batches,
        errors: manifest.errors.clone(),
        images_per_second: 0.0,
        eta_seconds: None,
        stages: manifest.stages.ms_an_image(manifest.rows),
        binding: manifest.stages.binding(),
    }
}

/// A run under way.
struct Embedded {
    spec: JobSpec,
    pipeline: Arc<Pipeline>,
    broker: Arc<MemoryBroker>,
    ledger: Arc<MemoryLedger>,
    shutdown: Shutdown,
    quiet: bool,
    /// When all was ready for the first batch.
    began: Instant,
}

impl Embedded {
    /// Plans and waits until the job is finished, interrupted, or cannot go on.
    async fn follow(&self) -> Result<()> {
        let mut finished = self.pipeline.finished.subscribe();
        let mut display = Display::new(self.quiet);
        let mut planning = self.plan();
        let mut planned = false;
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                biased;
                () = self.shutdown.draining.cancelled() => break,
                () = self.pipeline.device_lost.cancelled() => break,
                ended = &mut planning, if !planned => {
                    ended??;
                    planned = true;
                }
                changed = finished.changed() => {
                    changed.expect("the pipeline outlives this loop");
                    break;
                }
                _ = tick.tick() => {}
            }
            if let Some(progress) = self.ledger.progress(&self.spec.job).await? {
                display.show(&progress);
                self.check_stuck(&progress, planned)?;
            }
        }
        display.end();
        Ok(())
    }

    fn plan(&self) -> JoinHandle<Result<Planned, PlanError>> {
        let (spec, stores) = (self.spec.clone(), self.pipeline.stores.clone());
        let (broker, ledger) = (self.broker.clone(), self.ledger.clone());
        let cancel = self.shutdown.draining.clone();
        tokio::spawn(async move {
            let ctx = Enlisting {
                spec: &spec,
                stores: &stores,
                broker: &*broker,
                ledger: &*ledger,
                window: PUBLISH_WINDOW,
                ready: Ready::All,
            };
            let span = trace::begin("submit", trace::Kind::Producer, None);
            if trace::is_on() {
                span.set("messaging.system", broker.system());
                span.set("messaging.operation.type", "create");
                span.set("trawl.job.id", spec.job.to_string());
            }
            let context = span.context();
            span.around(context, enlist(ctx, &mut |_| {}, &cancel)).await
        })
    }

    /// Once every batch is either done or in the dead letters, the job will not get any further; nor will it
    /// if the first of them all fail.
    fn check_stuck(&self, progress: &Progress, planned: bool) -> Result<()> {
        let dead = self.broker.dead_letters();
        let Some(first) = dead.first() else { return Ok(()) };
        let failed = dead.len() as u64;
        let at_the_end = planned && progress.batches_done + failed >= progress.batches_planned;
        let hopeless = progress.batches_done == 0 && dead.len() >= HOPELESS_AFTER;
        if !at_the_end && !hopeless {
            return Ok(());
        }
        Err(anyhow!(
            "{failed} of {} batches could not be completed: {}; what is done is kept, run the same command again \
             to try the rest",
            progress.batches_planned,
            first.reason
        ))
    }

    async fn conclude(&self, args: &RunArgs, output: OutputFormat, started: Instant) -> Result<u8> {
        let Some(progress) = self.ledger.progress(&self.spec.job).await? else {
            eprintln!("interrupted before anything was done; run the same command again to go on");
            return Ok(signal_code(&self.shutdown));
        };
        let done = progress.images_ok + progress.images_failed;
        if progress.state != JobState::Complete {
            let more = if progress.state == JobState::Enqueuing { " or more" } else { "" };
            eprintln!(
                "interrupted: {done} of {}{more} images are done; run the same command again to go on",
                progress.images_planned
            );
            return Ok(self
                .shutdown
                .exit_code()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(exit::FAILED));
        }
        let report = Report {
            progress: &progress,
            meters: &self.pipeline.meters,
            elapsed: started.elapsed(),
            working: self.began.elapsed(),
            computed: self.pipeline.meters.computed(),
            threads: args.compute.thread_count(),
        };
        match output {
            OutputFormat::Json => println!("{}", report.json()),
            OutputFormat::Text => print!("{}", report.text()),
        }
        Ok(if args.strict && progress.images_failed > 0 { exit::FAILED_IMAGES } else { exit::OK })
    }
}

fn signal_code(shutdown: &Shutdown) -> u8 {
    shutdown.exit_code().and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::FAILED)
}
