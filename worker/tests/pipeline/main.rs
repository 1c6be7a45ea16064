//! The pipeline on the in-memory seams with the fake model: what a job's rows are, and what failures cost.

mod archives;
mod feeding;
mod refusals;
mod rows;
mod survival;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trawl_common::{
    batch::BatchNumber,
    broker::{Broker, Publication, memory::MemoryBroker, topology::RetryPolicy},
    bundle::BundleSpec,
    contract::storage::list_all,
    error_code::ErrorCode,
    job::{Decode, JobSpec, ModelRef, Orient, Precision, Truncated, hex_sha256},
    ledger::{JobState, Ledger, memory::MemoryLedger},
    location::Location,
    model_file::ModelFile,
    planning::{
        Ready,
        submit::{Enlisting, PUBLISH_WINDOW, enlist, open_output},
    },
    results::{OutputLayout, part_rows::read_rows, row::Outcome, row::ResultRow},
    shutdown::Shutdown,
    storage::{ListPage, Object, ObjectMeta, PutOutcome, Storage, StorageError, Stores},
};
use trawl_worker::{
    jobs::{Jobs, Loader},
    model::{
        Model, ModelError, Outputs,
        fake::{FakeModel, fake_row},
        output,
    },
    pipeline::{
        Drained, Pipeline,
        fetch::{FetchLimits, Fetcher},
        in_hand::InHand,
        knees::Knees,
        meters::{Meters, Stage},
        pace::Reads,
        pool::{PoolSettings, PoolThreads},
        settle::SettleOrder,
        sizing::Rule,
        solo::Room,
        start_pool,
        tail::Stalled,
    },
    preprocess::{self, Limits, Recipe, Scratch},
};

const BUNDLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/model.pt");

/// No test here takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the fake model cannot do.
#[derive(Clone, Copy, Default)]
struct Flaws {
    refuses: Option<u8>,
    fits: Option<usize>,
    kills_device: Option<u8>,
}

struct FakeLoader(Flaws);

impl Loader for FakeLoader {
    fn load(&self, _: &ModelFile, _: &BundleSpec, _: Precision) -> Result<Vec<Box<dyn Model>>, ModelError> {
        let Flaws { refuses, fits, kills_device } = self.0;
        Ok(vec![Box::new(FakeModel { refuses, fits, kills_device, ..FakeModel::default() })])
    }
}

/// Everything a job needs, in memory.
#[derive(Clone)]
struct Scene {
    stores: Arc<Stores>,
    bucket: Arc<dyn Storage>,
    broker: MemoryBroker,
    ledger: Arc<MemoryLedger>,
    spec: JobSpec,
    recipe: Recipe,
    /// How many batches may wait in the queue.
    ready: Ready,
}

impl Scene {
    async fn new(batch_size: u32) -> Self {
        let stores = Stores::in_memory();
        let bucket = stores.open(&Location::parse("s3://b", Path::new("/")).unwrap()).await;
        let bundle = BundleSpec::read(Path::new(BUNDLE)).unwrap();
        let model = ModelRef { location: BUNDLE.into(), sha256: hex_sha256(&std::fs::read(BUNDLE).unwrap()) };
        let mut spec = JobSpec {
            version: 1,
            job: "unnamed".parse().unwrap(),
            queue: "default".parse().unwrap(),
            sources: vec!["s3://b/in/".into()],
            base_dir: "/".into(),
            include: vec![],
            exclude: vec![],
            select: Default::default(),
            carry: Vec::new(),
            limit: None,
            batch_size,
            out: "s3://b/out".into(),
            model,
            topk: 3,
            decode: Decode::Exact,
            truncated: Truncated::Reject,
            orient: Orient::None,
            precision: Precision::Fp32,
            created_unix_ms: 0,
            trace: None,
        };
        spec.job = spec.derived_id();
        let recipe = Recipe {
            input: bundle.input,
            decode: spec.decode,
            truncated: spec.truncated,
            orient: spec.orient,
            limits: Limits::default(),
        };
        let retries = RetryPolicy { delay: Duration::from_millis(5), max_attempts: 2, max_deferrals: 2 };
        let broker = MemoryBroker::new().with_retries(retries);
        Self {
            stores,
            bucket,
            broker,
            ledger: Arc::new(MemoryLedger::new()),
            spec,
            recipe,
            ready: Ready::All,
        }
    }

    /// Plain images of one colour each: the model's crop of such an image is that colour all over.
    async fn upload(&self, colours: impl IntoIterator<Item = u8>) {
        for (i, colour) in colours.into_iter().enumerate() {
            let image = image::RgbImage::from_pixel(9, 7, image::Rgb([colour, i as u8, 3]));
            let mut bytes = std::io::Cursor::new(Vec::new());
            image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
            self.bucket.put(&format!("in/{i:04}.png"), bytes.into_inner().into()).await.unwrap();
        }
    }

    async fn enlist(&self) {
        self.broker.ensure_queue(&self.spec.queue).await.unwrap();
        let (_, spec) = open_output(&self.spec, &self.stores).await.unwrap();
        let ctx = Enlisting {
            spec: &spec,
            stores: &self.stores,
            broker: &self.broker,
            ledger: &*self.ledger,
            window: PUBLISH_WINDOW,
            ready: self.ready,
        };
        enlist(ctx, &mut |_| {}, &CancellationToken::new()).await.unwrap();
    }

    fn pipeline(&self, refuses: Option<u8>) -> (Arc<Pipeline>, PoolThreads) {
        self.flawed(Flaws { refuses, ..Flaws::default() })
    }

    fn flawed(&self, flaws: Flaws) -> (Arc<Pipeline>, PoolThreads) {
        self.caching(flaws, &std::env::temp_dir())
    }

    fn caching(&self, flaws: Flaws, cache: &Path) -> (Arc<Pipeline>, PoolThreads) {
        let meters = Arc::new(Meters::new());
        let settings =
            PoolSettings { threads: 2, micro_batch: Rule::Fixed(4), forward_in_pool: true, devices: 0 };
        let (pool, threads) = start_pool(settings, Knees::none(), meters.clone());
        let limits = FetchLimits { reads: Reads::Fixed(3), bytes: 1 << 20, max_image_bytes: 1 << 20 };
        let loader = Arc::new(FakeLoader(flaws));
        let cache = cache.to_owned();
        let pipeline = Pipeline {
            broker: Arc::new(self.broker.clone()),
            ledger: self.ledger.clone(),
            stores: self.stores.clone(),
            jobs: Arc::new(Jobs::new(self.stores.clone(), loader, cache, Limits::default(), None)),
            fetcher: Arc::new(Fetcher::new(self.stores.clone(), limits, meters.clone())),
            pool,
            meters,
            queue: self.spec.queue.clone(),
            worker: "test".into(),
            attempts: Arc::default(),
            finished: watch::Sender::new(0),
            room: Room::default(),
            ready: self.ready,
            reclaim_after: None,
            stalled: Stalled::default(),
            begun: None,
            in_hand: InHand::default(),
            device_lost: CancellationToken::new(),
            order: SettleOrder::default(),
        };
        (Arc::new(pipeline), threads)
    }

    /// Serves until `enough`, then drains.
    async fn serve(&self, pipeline: &Arc<Pipeline>, enough: impl AsyncFn() -> bool) {
        self.serve_for(pipeline, PATIENCE, enough).await;
    }

    /// The same with another patience.
    async fn serve_for(&self, pipeline: &Arc<Pipeline>, patience: Duration, enough: impl AsyncFn() -> bool) {
        let shutdown = Shutdown::manual();
        let consumer = self.broker.consume(&self.spec.queue, 2).await.unwrap();
        let serving = {
            let (pipeline, shutdown) = (pipeline.clone(), shutdown.clone());
            tokio::spawn(async move { pipeline.serve(consumer, &shutdown, PATIENCE).await })
        };
        let wait = async {
            while !enough().await {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(patience, wait).await.expect("the condition holds in time");
        shutdown.drain();
        assert_eq!(serving.await.unwrap().unwrap(), Drained::Clean);
    }

    async fn state(&self) -> Option<JobState> {
        self.ledger.state(&self.spec.job).await.unwrap()
    }

    async fn run(&self, refuses: Option<u8>) -> Arc<Pipeline> {
        let (pipeline, _threads) = self.pipeline(refuses);
        self.enlist().await;
        self.serve(&pipeline, async || self.state().await == Some(JobState::Complete)).await;
        pipeline
    }

    async fn rows(&self, batches: u64) -> Vec<ResultRow> {
        let layout = OutputLayout::new(Location::parse(&self.spec.out, Path::new("/")).unwrap());
        let mut rows = Vec::new();
        for number in 0..batches {
            let key = layout.part(BatchNumber(number));
            rows.extend(read_rows(self.bucket.get(&key, u64::MAX).await.unwrap().bytes).unwrap());
        }
        rows
    }

    /// What the fake answers for the object.
    async fn expected(&self, key: &str) -> Outcome {
        let bytes = self.bucket.get(key, u64::MAX).await.unwrap().bytes;
        let prepared = preprocess::prepare(&bytes, &self.recipe, &mut Scratch::new()).unwrap();
        let spec = BundleSpec::read(Path::new(BUNDLE)).unwrap();
        Outcome::Ok(output::interpret(&fake_row(&prepared.pixels), &spec, 3).unwrap())
    }
}
