//! The processes of a simulation and their supervisors: one producer, some workers, and the services.
//!
//! A supervisor does what Kubernetes and a person at a terminal do: it starts a process that died again.

use crate::{
    nemesis, photos,
    photos::{BUNDLE, PHOTOS, Photo, TOPK},
    report::Story,
    scenario::Scenario,
    verdict,
};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;
use trawl_common::{
    broker::{Broker, Publication, memory::MemoryBroker},
    bundle::BundleSpec,
    chance,
    faults::{
        World, broker::FaultyBroker, dice::Dice, ledger::FaultyLedger, line::Line, storage::FaultyStorage,
    },
    job::{Decode, JobSpec, ModelRef, Orient, Precision, Truncated, hex_sha256},
    ledger::{Ledger, memory::MemoryLedger},
    location::Location,
    model_file::ModelFile,
    offload,
    planning::{
        PlanError, Ready,
        submit::{Enlisting, PUBLISH_WINDOW, enlist, open_output},
    },
    results::OutputLayout,
    shutdown::Shutdown,
    storage::{Storage, Stores, memory::MemoryStorage, retry::RetryingStorage},
};
use trawl_worker::{
    jobs::{Jobs, Loader},
    model::{Model, ModelError, Outputs, fake::FakeModel},
    pipeline::{
        Pipeline,
        fetch::{FetchLimits, Fetcher},
        meters::Meters,
        pace::Reads,
        pool::{PoolSettings, PoolThreads},
        settle::SettleOrder,
        sizing::Rule,
        solo::Room,
        start_pool_as_task,
    },
    preprocess::Limits,
};

/// The one bucket.
const BUCKET: &str = "b";

/// After the faults a job has this long to end: longer than every retry, rest and patience together.
const ENDS_WITHIN: Duration = Duration::from_secs(3600);

/// What is broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    None,
    /// The worker acks before it puts.
    AckFirst,
    /// The ledger counts every completion.
    CountTwice,
}

static MODEL: LazyLock<ModelFile> = LazyLock::new(|| ModelFile {
    path: BUNDLE.into(),
    sha256: hex_sha256(&std::fs::read(BUNDLE).expect("the golden bundle")),
});

/// A worker process.
pub struct Process {
    pub line: Arc<Line>,
    pub shutdown: Shutdown,
}

/// See the file's head.
pub struct Fleet {
    pub world: Arc<World>,
    pub scenario: Scenario,
    pub spec: JobSpec,
    pub bucket: Arc<dyn Storage>,
    pub broker: MemoryBroker,
    pub ledger: Arc<MemoryLedger>,
    /// The image of each planned key, in the order of the plan.
    pub photos: Vec<(String, &'static Photo)>,
    /// How often each image's pixels went through the model.
    pub computed: Arc<Mutex<BTreeMap<u64, u64>>>,
    mutation: Mutation,
    workers: Mutex<Vec<Option<Arc<Process>>>>,
    producer: Mutex<Option<Arc<Line>>>,
    planned: AtomicBool,
    pub violations: Mutex<Vec<String>>,
}

/// Lives through one seed.
pub fn live(seed: u64, mutation: Mutation) -> Story {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime of one thread");
    offload::inline::switch(true);
    let story = runtime.block_on(async {
        let world = World::new(seed);
        let dice = world.dice.clone();
        chance::seeded::take_from(Some(Box::new(move || dice.roll())));
        let fleet = Fleet::found(world, mutation).await;
        let ended = fleet.clone().run().await;
        verdict::judge(&fleet, ended).await;
        Story::of(seed, &fleet)
    });
    drop(runtime);
    chance::seeded::take_from(None);
    offload::inline::switch(false);
    story
}

impl Fleet {
    async fn found(world: Arc<World>, mutation: Mutation) -> Arc<Self> {
        let scenario = Scenario::draw(&world.dice);
        world.chronicle.note("-", &format!("{scenario:?}"));
        let bucket = MemoryStorage::new(format!("s3://{BUCKET}")).with_pages_of(scenario.page);
        let photos = upload(&bucket, &scenario, &world.dice).await;
        let spec = spec(&scenario);
        let broker = MemoryBroker::new().with_rules(scenario.rules);
        broker.ensure_queue(&spec.queue).await.expect("a good name");
        for _ in 0..scenario.junk {
            broker.publish(&spec.queue, Publication::new("junk")).await.expect("the queue is there");
        }
        let ledger = MemoryLedger::new();
        if mutation == Mutation::CountTwice {
            ledger.count_twice();
        }
        Arc::new(Self {
            workers: Mutex::new((0..scenario.workers).map(|_| None).collect()),
            bucket: Arc::new(bucket),
            ledger: Arc::new(ledger),
            world,
            scenario,
            spec,
            broker,
            photos,
            computed: Arc::default(),
            mutation,
            producer: Mutex::default(),
            planned: AtomicBool::new(false),
            violations: Mutex::default(),
        })
    }

    /// Until the job is done and the queue empty, or it is too late for that; whether it was done.
    async fn run(self: Arc<Self>) -> bool {
        *self.world.weather() = self.scenario.weather.clone();
        tokio::spawn(self.clone().keep_submitting());
        for slot in 0..self.scenario.workers {
            tokio::spawn(self.clone().keep_working(slot));
        }
        tokio::spawn(nemesis::patience(self.clone()));
        tokio::spawn(nemesis::inspection(self.clone()));
        tokio::spawn(nemesis::strike(self.clone()));
        let until = tokio::time::Instant::now() + self.scenario.faults_until + ENDS_WITHIN;
        let success = self.layout().success();
        while tokio::time::Instant::now() < until {
            sleep(Duration::from_millis(500)).await;
            let planned = self.planned.load(Ordering::Relaxed);
            if planned && self.broker.is_idle() && self.bucket.head(&success).await.is_ok() {
                return true;
            }
        }
        false
    }

    pub fn layout(&self) -> OutputLayout {
        OutputLayout::new(Location::parse(&self.spec.out, Path::new("/")).expect("a good place"))
    }

    /// The worker processes that are up.
    pub fn workers(&self) -> Vec<Arc<Process>> {
        self.slots().iter().flatten().cloned().collect()
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Option<Arc<Process>>>> {
        self.workers.lock().expect("no panic while the slots are held")
    }

    /// The producer's process, if it is up.
    pub fn producer(&self) -> Option<Arc<Line>> {
        self.producer.lock().expect("no panic while the slot is held").clone()
    }

    pub fn violated(&self, what: String) {
        self.violations.lock().expect("no panic while they are held").push(what);
    }

    fn stores(&self, line: &Arc<Line>) -> Arc<Stores> {
        let faulty = FaultyStorage::new(self.bucket.clone(), line.clone());
        let stores = Stores::in_memory();
        stores.replace(BUCKET, Arc::new(RetryingStorage::new(faulty)));
        stores
    }

    async fn keep_working(self: Arc<Self>, slot: usize) {
        for life in 0.. {
            let line = Line::new(format!("w{slot}.{life}"), self.world.clone());
            let shutdown = Shutdown::manual();
            let process = Process { line: line.clone(), shutdown: shutdown.clone() };
            self.slots()[slot] = Some(Arc::new(process));
            let (pipeline, threads) = self.pipeline(&line);
            let (prefetch, queue) = (self.scenario.prefetch, self.spec.queue.clone());
            let grace = Duration::from_millis(self.world.dice.between(0, 20_000));
            let mut serving = tokio::spawn(async move {
                let consumer = pipeline.broker.consume(&queue, prefetch).await?;
                pipeline.serve(consumer, &shutdown, grace).await
            });
            let ended = tokio::select! {
                biased;
                () = line.died() => {
                    serving.abort();
                    "died".to_owned()
                }
                ended = &mut serving => format!("ended: {ended:?}"),
            };
            drop(threads);
            line.kill();
            self.world.chronicle.note(line.name(), &ended);
            self.slots()[slot] = None;
            sleep(Duration::from_millis(self.world.dice.between(10, 20_000))).await;
        }
    }

    fn pipeline(&self, line: &Arc<Line>) -> (Arc<Pipeline>, PoolThreads) {
        let meters = Arc::new(Meters::new());
        let settings = PoolSettings {
            threads: 1,
            micro_batch: Rule::Fixed(self.scenario.micro_batch),
            forward_in_pool: true,
            devices: 0,
        };
        let (pool, threads) = start_pool_as_task(settings, meters.clone(), self.scenario.pace);
        let limits = FetchLimits { reads: Reads::Fixed(4), bytes: 1 << 20, max_image_bytes: 1 << 20 };
        let stores = self.stores(line);
        let killer = self.scenario.killer.and_then(|killer| self.photos[killer].1.pixels);
        let loader = Arc::new(Counting { line: line.clone(), computed: self.computed.clone(), killer });
        let model = Some(MODEL.clone());
        let broken = self.mutation == Mutation::AckFirst;
        let pipeline = Pipeline {
            broker: Arc::new(FaultyBroker::new(self.broker.clone(), line.clone())),
            ledger: Arc::new(FaultyLedger::new(self.ledger.clone(), line.clone())),
            jobs: Arc::new(Jobs::new(stores.clone(), loader, "/nowhere".into(), Limits::default(), model)),
            fetcher: Arc::new(Fetcher::new(stores.clone(), limits, meters.clone())),
            stores,
            pool,
            meters,
            queue: self.spec.queue.clone(),
            worker: line.name().to_owned(),
            attempts: Arc::default(),
            finished: watch::Sender::new(0),
            order: if broken { SettleOrder::AckFirst } else { SettleOrder::AckLast },
            room: Room::default(),
            ready: Ready::AtMost(2),
            reclaim_after: self.scenario.reclaim_after,
            stalled: trawl_worker::pipeline::tail::Stalled::default(),
            begun: None,
            in_hand: trawl_worker::pipeline::in_hand::InHand::default(),
            device_lost: CancellationToken::new(),
        };
        (Arc::new(pipeline), threads)
    }

    async fn keep_submitting(self: Arc<Self>) {
        for life in 0.. {
            let line = Line::new(format!("p{life}"), self.world.clone());
            *self.producer.lock().expect("no panic while the slot is held") = Some(line.clone());
            let mut submitting = tokio::spawn(self.clone().submit(line.clone()));
            let ended = tokio::select! {
                biased;
                () = line.died() => {
                    submitting.abort();
                    None
                }
                ended = &mut submitting => Some(ended.expect("the producer does not panic")),
            };
            line.kill();
            *self.producer.lock().expect("no panic while the slot is held") = None;
            match ended {
                Some(Ok(())) => {
                    self.world.chronicle.note(line.name(), "enlisted everything");
                    self.planned.store(true, Ordering::Relaxed);
                    return;
                }
                Some(Err(error)) if !error.is_transient() => {
                    self.violated(format!("the producer gave up: {error}"));
                    return;
                }
                Some(Err(error)) => self.world.chronicle.note(line.name(), &format!("ended: {error}")),
                None => self.world.chronicle.note(line.name(), "died"),
            }
            sleep(Duration::from_millis(self.world.dice.between(10, 10_000))).await;
        }
    }

    async fn submit(self: Arc<Self>, line: Arc<Line>) -> Result<(), PlanError> {
        let stores = self.stores(&line);
        let broker = FaultyBroker::new(self.broker.clone(), line.clone());
        let ledger = FaultyLedger::new(self.ledger.clone() as Arc<dyn Ledger>, line);
        let (_, spec) = open_output(&self.spec, &stores).await?;
        let ctx = Enlisting {
            spec: &spec,
            stores: &stores,
            broker: &broker,
            ledger: &ledger,
            window: PUBLISH_WINDOW,
            ready: Ready::AtMost(2),
        };
        enlist(ctx, &mut |_| {}, &CancellationToken::new()).await.map(drop)
    }
}

async fn upload(bucket: &MemoryStorage, scenario: &Scenario, dice: &Dice) -> Vec<(String, &'static Photo)> {
    let (whole, spoiled) = &*PHOTOS;
    let mut photos = Vec::new();
    for number in 0..scenario.images {
        let spoil = dice.chance(scenario.spoiled) && scenario.killer != Some(number);
        let photo = if spoil { &spoiled[number] } else { &whole[number] };
        let key = format!("in/{number:04}.png");
        bucket.put(&key, photo.bytes.clone()).await.expect("memory takes it");
        photos.push((format!("s3://{BUCKET}/{key}"), photo));
    }
    photos
}

fn spec(scenario: &Scenario) -> JobSpec {
    let mut spec = JobSpec {
        version: 1,
        job: "unnamed".parse().expect("a good name"),
        queue: "default".parse().expect("a good name"),
        sources: vec![format!("s3://{BUCKET}/in/")],
        base_dir: "/".into(),
        include: vec![],
        exclude: vec![],
        select: Default::default(),
        carry: Vec::new(),
        limit: None,
        batch_size: scenario.batch_size,
        out: format!("s3://{BUCKET}/out"),
        model: ModelRef { location: BUNDLE.into(), sha256: MODEL.sha256.clone() },
        topk: TOPK,
        decode: Decode::Exact,
        truncated: Truncated::Reject,
        orient: Orient::None,
        precision: Precision::Fp32,
        created_unix_ms: 1,
        trace: None,
    };
    spec.job = "sim".parse().expect("a good name");
    spec
}

/// The fake model, in a process that it can kill.
#[derive(Clone)]
struct Counting {
    line: Arc<Line>,
    computed: Arc<Mutex<BTreeMap<u64, u64>>>,
    killer: Option<u64>,
}

impl Loader for Counting {
    fn load(&self, _: &ModelFile, _: &BundleSpec, _: Precision) -> Result<Vec<Box<dyn Model>>, ModelError> {
        Ok(vec![Box::new(self.clone())])
    }
}

impl Model for Counting {
    fn forward(&self, images: &[&[u8]]) -> Result<Outputs, ModelError> {
        for pixels in images {
            let seen = photos::fingerprint(pixels);
            if self.killer == Some(seen) {
                self.line.world().chronicle.fault(self.line.name(), "killer image", "ends the process");
                self.line.kill();
            }
            *self.computed.lock().expect("no panic while they are held").entry(seen).or_default() += 1;
        }
        FakeModel::default().forward(images)
    }

    fn width(&self) -> usize {
        FakeModel::default().width()
    }
}
