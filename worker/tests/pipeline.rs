//! The pipeline on the in-memory seams with the fake model: what a job's rows are, and what failures cost.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
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
    planning::submit::{Enlisting, PUBLISH_WINDOW, enlist, open_output},
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
        meters::{Meters, Stage},
        pool::{PoolSettings, PoolThreads},
        settle::SettleOrder,
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
    fn load(&self, _: &Path, _: &BundleSpec, _: Precision) -> Result<Vec<Box<dyn Model>>, ModelError> {
        let Flaws { refuses, fits, kills_device } = self.0;
        Ok(vec![Box::new(FakeModel { refuses, fits, kills_device, ..FakeModel::default() })])
    }
}

/// Everything a job needs, in memory.
struct Scene {
    stores: Arc<Stores>,
    bucket: Arc<dyn Storage>,
    broker: MemoryBroker,
    ledger: Arc<MemoryLedger>,
    spec: JobSpec,
    recipe: Recipe,
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
        Self { stores, bucket, broker, ledger: Arc::new(MemoryLedger::new()), spec, recipe }
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
        let settings = PoolSettings { threads: 2, micro_batch: 4, forward_in_pool: true, devices: 0 };
        let (pool, threads) = start_pool(settings, meters.clone());
        let limits = FetchLimits { images: 3, bytes: 1 << 20, max_image_bytes: 1 << 20 };
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
            reclaim_after: None,
            stalled: Stalled::default(),
            begun: None,
            device_lost: CancellationToken::new(),
            order: SettleOrder::default(),
        };
        (Arc::new(pipeline), threads)
    }

    /// Serves until `enough`, then drains.
    async fn serve(&self, pipeline: &Arc<Pipeline>, enough: impl AsyncFn() -> bool) {
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
        tokio::time::timeout(PATIENCE, wait).await.expect("the condition holds in time");
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

#[tokio::test(flavor = "multi_thread")]
async fn every_image_gets_the_models_answer_in_the_order_of_the_plan() {
    let scene = Scene::new(3).await;
    scene.upload(0..20).await;
    let pipeline = scene.run(None).await;
    let rows = scene.rows(7).await;
    assert_eq!(rows.len(), 20);
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row.key, format!("s3://b/in/{i:04}.png"));
        assert_eq!(row.outcome, scene.expected(&format!("in/{i:04}.png")).await);
    }
    assert!(scene.bucket.head("out/_SUCCESS").await.is_ok());
    assert_eq!(pipeline.meters.computed(), 20);
    let passes = pipeline.meters.render();
    assert!(passes.contains("trawl_batch_fill_ratio_count"), "{passes}");
    assert_eq!(pipeline.meters.total(Stage::Forward).count, 20);
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_the_model_cannot_bear_pays_alone() {
    let scene = Scene::new(8).await;
    scene.upload([1, 2, 77, 4, 5, 6, 7, 8]).await;
    scene.run(Some(77)).await;
    for (i, row) in scene.rows(1).await.into_iter().enumerate() {
        match row.outcome {
            Outcome::Failed { code, message } => {
                assert_eq!((i, code), (2, ErrorCode::ModelFailed));
                assert!(message.contains("the fake refuses"), "{message}");
            }
            outcome => assert_eq!(outcome, scene.expected(&format!("in/{i:04}.png")).await),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_one_unbearable_image_still_has_its_row() {
    let scene = Scene::new(1).await;
    scene.upload([77]).await;
    scene.run(Some(77)).await;
    let rows = scene.rows(1).await;
    assert!(matches!(rows[0].outcome, Outcome::Failed { code: ErrorCode::ModelFailed, .. }), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_always_fails_ends_in_the_dead_letters_and_writes_nothing() {
    let scene = Scene::new(2).await;
    // Black images: the blank image that tells a broken model from a bad picture fails like them.
    let black = image::RgbImage::new(9, 7);
    let mut bytes = std::io::Cursor::new(Vec::new());
    black.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    for i in 0..2 {
        scene.bucket.put(&format!("in/{i}.png"), bytes.get_ref().clone().into()).await.unwrap();
    }
    let (pipeline, _threads) = scene.pipeline(Some(0));
    scene.enlist().await;
    scene.serve(&pipeline, async || scene.broker.dead_depth().await.unwrap() == 1).await;
    let dead = scene.broker.dead_letters();
    assert!(dead[0].reason.contains("the fake refuses"), "{}", dead[0].reason);
    assert!(scene.bucket.head("out/part-00000000.parquet").await.is_err());
    assert!(scene.bucket.head("out/_SUCCESS").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_enqueued_twice_are_computed_and_counted_once() {
    let scene = Scene::new(2).await;
    scene.upload(0..10).await;
    scene.enlist().await;
    let pipeline = scene.run(None).await;
    let empty = async || {
        let depth = scene.broker.depth(&scene.spec.queue).await.unwrap().unwrap();
        depth.ready == 0
    };
    let (second, _threads) = scene.pipeline(None);
    scene.serve(&second, empty).await;
    let progress = scene.ledger.progress(&scene.spec.job).await.unwrap().unwrap();
    assert_eq!((progress.images_ok, progress.batches_done), (10, 5));
    assert_eq!(pipeline.meters.computed() + second.meters.computed(), 10);
    assert_eq!(scene.rows(5).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_object_is_a_row() {
    let scene = Scene::new(4).await;
    scene.upload(0..4).await;
    let (pipeline, _threads) = scene.pipeline(None);
    scene.enlist().await;
    scene.bucket.delete("in/0001.png").await.unwrap();
    scene.bucket.put("in/0002.png", bytes::Bytes::from_static(b"another file")).await.unwrap();
    scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
    let codes: Vec<_> = scene
        .rows(1)
        .await
        .into_iter()
        .map(|row| match row.outcome {
            Outcome::Failed { code, .. } => Some(code),
            Outcome::Ok(_) | Outcome::OkTruncated(_) => None,
        })
        .collect();
    assert_eq!(codes, [None, Some(ErrorCode::NotFound), Some(ErrorCode::Changed), None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_micro_batch_that_does_not_fit_is_halved_and_nothing_fails() {
    for fits in [1, 3] {
        let scene = Scene::new(5).await;
        scene.upload(0..20).await;
        let (pipeline, _threads) = scene.flawed(Flaws { fits: Some(fits), ..Flaws::default() });
        scene.enlist().await;
        scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
        for (i, row) in scene.rows(4).await.into_iter().enumerate() {
            assert_eq!(row.outcome, scene.expected(&format!("in/{i:04}.png")).await);
        }
        // Not once more than needed: the size that works is remembered.
        let passes = pipeline.meters.total(Stage::Forward).count;
        assert!(passes < 20 * 2, "{passes} images went through passes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_ends_the_worker_and_costs_its_batches_nothing() {
    let scene = Scene::new(2).await;
    scene.upload([1, 2, 3, 99]).await;
    let (pipeline, threads) = scene.flawed(Flaws { kills_device: Some(99), ..Flaws::default() });
    scene.enlist().await;
    let consumer = scene.broker.consume(&scene.spec.queue, 2).await.unwrap();
    let shutdown = Shutdown::manual();
    let served = tokio::time::timeout(PATIENCE, pipeline.serve(consumer, &shutdown, PATIENCE)).await;
    assert_eq!(served.expect("it ends by itself").unwrap(), Drained::DeviceLost);
    drop(threads);
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
    // No attempt is used up, but one of them may have done it: they are worked on alone from now on.
    let mut consumer = scene.broker.consume(&scene.spec.queue, 2).await.unwrap();
    let (one, other) = (consumer.next().await.unwrap(), consumer.next().await.unwrap());
    assert_eq!((one.attempt, other.attempt), (0, 0));
    assert!(one.deliveries + other.deliveries > 0);
    drop((one, other, consumer));
    let (healthy, _threads) = scene.pipeline(None);
    scene.serve(&healthy, async || scene.state().await == Some(JobState::Complete)).await;
    assert_eq!(scene.rows(2).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_kills_the_device_again_and_again_is_a_row() {
    let scene = Scene::new(2).await;
    scene.upload([1, 2, 3, 99]).await;
    scene.enlist().await;
    let mut lost = 0;
    while scene.state().await != Some(JobState::Complete) {
        assert!(lost <= 6, "{lost} devices were lost");
        let (pipeline, threads) = scene.flawed(Flaws { kills_device: Some(99), ..Flaws::default() });
        let consumer = scene.broker.consume(&scene.spec.queue, 2).await.unwrap();
        let shutdown = Shutdown::manual();
        let done = async {
            while scene.state().await != Some(JobState::Complete) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            shutdown.drain();
            std::future::pending::<()>().await;
        };
        let served = tokio::select! {
            served = pipeline.serve(consumer, &shutdown, PATIENCE) => served.unwrap(),
            () = done => unreachable!("it waits for ever"),
        };
        lost += usize::from(served == Drained::DeviceLost);
        drop(threads);
    }
    let codes: Vec<_> = scene
        .rows(2)
        .await
        .into_iter()
        .filter_map(|row| match row.outcome {
            Outcome::Failed { code, .. } => Some((row.key, code)),
            Outcome::Ok(_) | Outcome::OkTruncated(_) => None,
        })
        .collect();
    assert_eq!(codes, [("s3://b/in/0003.png".to_owned(), ErrorCode::CrashedWorker)]);
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_removed_output_write_nothing_into_the_next_one() {
    let mut scene = Scene::new(2).await;
    scene.upload(0..6).await;
    scene.spec.created_unix_ms = 1;
    let (pipeline, _threads) = scene.pipeline(None);
    scene.enlist().await;
    let mut consumer = scene.broker.consume(&scene.spec.queue, 1).await.unwrap();
    let old = consumer.next().await.unwrap().body.clone();
    drop(consumer);
    // Done once, so that the worker knows the job; then the output is removed and submitted anew.
    scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
    for object in list_all(&*scene.bucket, "out/", None).await {
        scene.bucket.delete(&object.key).await.unwrap();
    }
    scene.spec.created_unix_ms = 2;
    scene.broker.publish(&scene.spec.queue, Publication::new(old)).await.unwrap();
    scene.enlist().await;
    scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
    for number in 0..3 {
        let key = format!("out/part-{number:08}.parquet");
        let footer = trawl_common::results::part::read_footer(&*scene.bucket, &key).await.unwrap();
        assert!(footer.is_of(&scene.spec.job, 2), "{footer:?}");
    }
    assert!(scene.bucket.head("out/_SUCCESS").await.is_ok());
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_came_back_without_a_word_is_done_alone_and_leaves_no_journal() {
    let scene = Scene::new(4).await;
    scene.upload(0..12).await;
    scene.enlist().await;
    // A worker that dies with two batches in hand.
    let mut consumer = scene.broker.consume(&scene.spec.queue, 2).await.unwrap();
    drop((consumer.next().await.unwrap(), consumer.next().await.unwrap(), consumer));
    let (pipeline, _threads) = scene.pipeline(None);
    scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
    for (i, row) in scene.rows(3).await.into_iter().enumerate() {
        assert_eq!(row.outcome, scene.expected(&format!("in/{i:04}.png")).await);
    }
    assert!(list_all(&*scene.bucket, "out/_trawl/solo/", None).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_killed_three_workers_is_a_row_and_one_that_killed_two_is_not() {
    let scene = Scene::new(4).await;
    scene.upload(0..4).await;
    scene.enlist().await;
    let mut consumer = scene.broker.consume(&scene.spec.queue, 1).await.unwrap();
    drop((consumer.next().await.unwrap(), consumer));
    // As the third worker that died with image 2 left it, and one that died twice with image 1.
    let journal = br#"{"created_unix_ms":0,"passes":1,"current":2,"deaths":{"1":2,"2":2}}"#;
    scene.bucket.put("out/_trawl/solo/00000000.json", journal[..].into()).await.unwrap();
    let (pipeline, _threads) = scene.pipeline(None);
    scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
    for (i, row) in scene.rows(1).await.into_iter().enumerate() {
        match row.outcome {
            Outcome::Failed { code, message } => {
                assert_eq!((i, code), (2, ErrorCode::CrashedWorker));
                assert!(message.contains("3 times"), "{message}");
            }
            outcome => assert_eq!(outcome, scene.expected(&format!("in/{i:04}.png")).await),
        }
    }
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_takes_over_what_another_one_sits_on() {
    let scene = Scene::new(4).await;
    scene.upload(0..8).await;
    scene.enlist().await;
    // Somebody claims a batch and never settles it.
    let mut stopped = scene.broker.consume(&scene.spec.queue, 1).await.unwrap();
    let held = stopped.next().await.unwrap();
    scene.ledger.claim(&scene.spec.job, BatchNumber(0), "stopped").await.unwrap();
    let (mut pipeline, _threads) = scene.pipeline(None);
    Arc::get_mut(&mut pipeline).unwrap().reclaim_after = Some(Duration::ZERO);
    scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
    assert_eq!(pipeline.meters.reclaims.get(), 1);
    assert_eq!((scene.rows(2).await.len(), pipeline.meters.computed()), (8, 8));
    // It wakes up: the part is there, and nothing is counted twice.
    drop(held);
    let (late, _threads) = scene.pipeline(None);
    let empty = async || scene.broker.depth(&scene.spec.queue).await.unwrap().unwrap().ready == 0;
    drop(stopped);
    scene.serve(&late, empty).await;
    let progress = scene.ledger.progress(&scene.spec.job).await.unwrap().unwrap();
    assert_eq!((progress.images_ok, progress.batches_done, late.meters.computed()), (8, 2, 0));
}

/// A store that refuses some objects for a while.
#[derive(Debug)]
struct Locked {
    inner: Arc<dyn Storage>,
    /// Keys that hold one of these are refused.
    locked: std::sync::Mutex<Vec<&'static str>>,
}

#[async_trait::async_trait]
impl Storage for Locked {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn list<'a>(
        &'a self,
        prefix: &str,
        start_after: Option<&str>,
    ) -> futures::stream::BoxStream<'a, Result<ListPage, StorageError>> {
        self.inner.list(prefix, start_after)
    }
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        if self.locked.lock().unwrap().iter().any(|part| key.contains(part)) {
            return Err(StorageError::Forbidden {
                key: key.to_owned(),
                reason: "the token has expired".into(),
            });
        }
        self.inner.get(key, max_bytes).await
    }
    async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError> {
        self.inner.get_suffix(key, len).await
    }
    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.inner.head(key).await
    }
    async fn put(&self, key: &str, bytes: bytes::Bytes) -> Result<(), StorageError> {
        self.inner.put(key, bytes).await
    }
    async fn put_if_absent(&self, key: &str, bytes: bytes::Bytes) -> Result<PutOutcome, StorageError> {
        self.inner.put_if_absent(key, bytes).await
    }
    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.inner.delete(key).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_ran_out_hold_the_job_and_use_nothing_up() {
    let mut scene = Scene::new(10).await;
    // Far more rests than attempts, so that an attempt that was counted would show as a dead letter.
    scene.broker = MemoryBroker::new().with_retries(RetryPolicy {
        delay: Duration::from_millis(5),
        max_attempts: 0,
        max_deferrals: 10_000,
    });
    scene.upload(0..20).await;
    let locked = Arc::new(Locked { inner: scene.bucket.clone(), locked: vec!["in/"].into() });
    scene.stores.replace("b", locked.clone());
    let (pipeline, _threads) = scene.pipeline(None);
    scene.enlist().await;
    let deferred = "trawl_batches_total{outcome=\"deferred\"} ";
    let enough = async || {
        let text = pipeline.meters.render();
        let n: u64 = text.lines().find_map(|l| l.strip_prefix(deferred)).map_or(0, |n| n.parse().unwrap());
        if n >= 6 {
            // Renewed, but for one object that really is forbidden.
            *locked.locked.lock().unwrap() = vec!["in/0003"];
        }
        scene.state().await == Some(JobState::Complete)
    };
    scene.serve(&pipeline, enough).await;
    let failed: Vec<_> = scene
        .rows(2)
        .await
        .into_iter()
        .enumerate()
        .filter_map(|(i, row)| match row.outcome {
            Outcome::Failed { code, .. } => Some((i, code)),
            Outcome::Ok(_) | Outcome::OkTruncated(_) => None,
        })
        .collect();
    assert_eq!(failed, [(3, ErrorCode::Forbidden)]);
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_cache_cannot_be_written_uses_nothing_up() {
    let mut scene = Scene::new(4).await;
    scene.broker = MemoryBroker::new().with_retries(RetryPolicy {
        delay: Duration::from_millis(5),
        max_attempts: 0,
        max_deferrals: 10_000,
    });
    scene.upload(0..4).await;
    scene.bucket.put("m.pt", std::fs::read(BUNDLE).unwrap().into()).await.unwrap();
    scene.spec.model.location = "s3://b/m.pt".into();
    scene.spec.job = scene.spec.derived_id();
    let dir = tempfile::tempdir().unwrap();
    // A file where the folder should be fails like a disk that is full, and for root too.
    let cache = dir.path().join("cache");
    std::fs::write(&cache, b"in the way").unwrap();
    let (pipeline, _threads) = scene.caching(Flaws::default(), &cache);
    scene.enlist().await;
    let enough = async || {
        if pipeline.meters.render().contains("outcome=\"deferred\"} 3") {
            let _gone = std::fs::remove_file(&cache);
        }
        scene.state().await == Some(JobState::Complete)
    };
    scene.serve(&pipeline, enough).await;
    assert_eq!(scene.rows(1).await.len(), 4);
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
}

/// The model seam's contract, for the fake and for TorchScript alike.
fn rows_out_are_images_in(model: &dyn Model, bytes: usize) {
    let images: Vec<Vec<u8>> =
        (0..5_u8).map(|i| (0..bytes).map(|b| (b as u8).wrapping_mul(i + 1)).collect()).collect();
    let one: Vec<Outputs> = images.iter().map(|image| model.forward(&[image]).unwrap()).collect();
    let all: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let together = model.forward(&all).unwrap();
    assert_eq!(together.rows().len(), 5);
    assert_eq!(together.width, model.width());
    for (alone, row) in one.iter().zip(together.rows()) {
        for (a, b) in alone.values.iter().zip(row) {
            assert!((a - b).abs() <= 1e-3, "{a} alone, {b} in a batch");
        }
    }
}

#[test]
fn both_models_keep_the_contract() {
    use trawl_worker::model::{self, Device, GraphPasses};
    rows_out_are_images_in(&FakeModel::default(), 300);
    let spec = BundleSpec::read(Path::new(BUNDLE)).unwrap();
    let model = model::load(Path::new(BUNDLE), &spec, Device::Cpu, Precision::Fp32, GraphPasses::On).unwrap();
    rows_out_are_images_in(&model, 64 * 64 * 3);
    let fake = FakeModel { refuses: Some(0), ..FakeModel::default() };
    assert!(matches!(fake.forward(&[&[0, 1]]), Err(ModelError::Forward(_))));
    assert_eq!(fake.passes.load(Ordering::Relaxed), 1);
    let half = model::load(Path::new(BUNDLE), &spec, Device::Cpu, Precision::Fp16, GraphPasses::On);
    assert!(matches!(half, Err(ModelError::Device(_))));
}
