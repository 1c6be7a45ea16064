//! What the tests of this crate share: an output in memory, and a monitor on seams in memory.

use crate::{
    Monitor, Settings,
    management::{Management, ManagementError, QueueFigures},
    seams::{LateBroker, Seams},
    web::guard::Guard,
};
use async_trait::async_trait;
use std::{
    path::Path,
    sync::{Arc, Mutex},
};
use tokio_util::sync::CancellationToken;
use trawl_common::{
    batch::BatchNumber,
    broker::memory::MemoryBroker,
    error_code::ErrorCode,
    fleet::memory::MemoryFleet,
    job::{Decode, JOB_SPEC_VERSION, JobSpec, ModelRef, Orient, Precision, Truncated},
    ledger::memory::MemoryLedger,
    location::Location,
    results::{
        Columns, Manifest, OutputLayout, PartFooter, encode_part,
        manifest::MANIFEST_VERSION,
        manifest_pieces,
        row::{ClassScore, Outcome, Prediction, ResultRow},
    },
    storage::{Storage, Stores},
};

/// The token of the monitors in tests.
pub(crate) const TOKEN: &str = "a-token-of-tests-7261";

/// An output of `batches` parts; each has one failed row, its last.
pub(crate) struct Output {
    pub(crate) stores: Arc<Stores>,
    pub(crate) store: Arc<dyn Storage>,
    pub(crate) place: Location,
    pub(crate) spec: JobSpec,
    rows: u64,
    manifest: Mutex<Manifest>,
}

impl Output {
    pub(crate) async fn new(job: &str, batches: u64, rows: u64) -> Self {
        Self::at(&format!("s3://bucket/{job}"), job, batches, rows).await
    }

    pub(crate) async fn at(out: &str, job: &str, batches: u64, rows: u64) -> Self {
        let place = Location::parse(out, Path::new("/")).unwrap();
        let stores = Stores::in_memory();
        let store = stores.open(&place).await;
        let spec = spec(job, &place.to_string());
        store.put(&OutputLayout::new(place.clone()).job(), spec.to_json().into()).await.unwrap();
        let manifest = Manifest {
            stages: Default::default(),
            version: MANIFEST_VERSION,
            job: spec.job.clone(),
            batches: 0,
            rows: 0,
            images_ok: 0,
            images_failed: 0,
            errors: Default::default(),
            model_sha256: "ab".repeat(32),
            preprocess_sha256: "cd".repeat(32),
            created_unix_ms: spec.created_unix_ms,
            finished_unix_ms: 5_000,
            engines: Default::default(),
            trawl: "0.1.0".into(),
            parts: Vec::new(),
            pieces: Vec::new(),
        };
        let output = Self { stores, store, place, spec, rows, manifest: Mutex::new(manifest) };
        for batch in 0..batches {
            output.add_part(batch).await;
        }
        output
    }

    /// The key of a row.
    pub(crate) fn key(&self, batch: u64, row: u64) -> String {
        format!("s3://bucket/photos/{batch}-{row}.png")
    }

    pub(crate) async fn add_part(&self, batch: u64) {
        let row = |row: u64| {
            let class = |index: i32, probability| ClassScore {
                index,
                label: Some(format!("label {index}")),
                probability,
            };
            let last = row + 1 == self.rows;
            let outcome = match last {
                true => Outcome::Failed { code: ErrorCode::Corrupt, message: "<b>broken</b>".into() },
                false => {
                    let sure = 0.5 + (row as f32) / 100.0;
                    Outcome::Ok(Prediction::Classes(vec![class(0, sure), class(1, 1.0 - sure)]))
                }
            };
            ResultRow {
                key: self.key(batch, row),
                etag: None,
                size: 1,
                width: Some(40),
                height: Some(30),
                outcome,
                carried: Vec::new(),
            }
        };
        let rows: Vec<ResultRow> = (0..self.rows).map(row).collect();
        let footer = PartFooter {
            stages: Default::default(),
            engine: Default::default(),
            job: self.spec.job.clone(),
            created_unix_ms: std::num::NonZeroU64::new(self.spec.created_unix_ms),
            batch: BatchNumber(batch),
            rows: 0,
            failures: 0,
            errors: Default::default(),
            model_sha256: "ab".repeat(32),
            preprocess_sha256: "cd".repeat(32),
            version: "0.1.0".into(),
            attempt_id: "a".into(),
            worker: "w".into(),
        };
        let footer = footer.counted(&rows);
        let part = encode_part(&rows, &Columns::classes(), &footer).unwrap();
        let layout = OutputLayout::new(self.place.clone());
        self.manifest.lock().unwrap().push(
            format!("part-{}.parquet", footer.batch),
            part.len() as u64,
            &footer,
        );
        self.store.put(&layout.part(BatchNumber(batch)), part).await.unwrap();
    }

    /// The same with a manifest in pieces of so many parts.
    pub(crate) async fn finish_in_pieces(&self, parts: u64) {
        let layout = OutputLayout::new(self.place.clone());
        let whole = self.manifest.lock().unwrap().clone();
        let manifest = manifest_pieces::cut(&*self.store, &layout, whole, parts).await.unwrap();
        self.store.put(&layout.manifest(), manifest.to_json()).await.unwrap();
        self.store.put(&layout.success(), bytes::Bytes::new()).await.unwrap();
    }

    pub(crate) async fn finish(&self) {
        let layout = OutputLayout::new(self.place.clone());
        let manifest = self.manifest.lock().unwrap().to_json();
        self.store.put(&layout.manifest(), manifest).await.unwrap();
        self.store.put(&layout.success(), bytes::Bytes::new()).await.unwrap();
    }
}

pub(crate) fn spec(job: &str, out: &str) -> JobSpec {
    JobSpec {
        version: JOB_SPEC_VERSION,
        job: job.parse().unwrap(),
        queue: "default".parse().unwrap(),
        sources: vec!["s3://bucket/photos".into()],
        base_dir: "/".into(),
        include: vec![],
        exclude: vec![],
        select: Default::default(),
        carry: Vec::new(),
        limit: None,
        batch_size: 4,
        out: out.into(),
        model: ModelRef { location: "s3://models/tiny.pt".into(), sha256: "ab".repeat(32) },
        topk: 5,
        decode: Decode::Exact,
        truncated: Truncated::Reject,
        orient: Orient::None,
        precision: Precision::Fp32,
        created_unix_ms: 1_000,
        trace: None,
    }
}

/// A management API that says what it was told to.
#[derive(Default)]
pub(crate) struct FakeManagement(pub(crate) Mutex<Vec<QueueFigures>>);

#[async_trait]
impl Management for FakeManagement {
    async fn queues(&self) -> Result<Vec<QueueFigures>, ManagementError> {
        Ok(self.0.lock().unwrap().clone())
    }
}

/// A monitor on seams in memory, which stay in the test's hands.
pub(crate) struct Scene {
    pub(crate) monitor: Arc<Monitor>,
    pub(crate) ledger: Arc<MemoryLedger>,
    pub(crate) fleet: Arc<MemoryFleet>,
    pub(crate) broker: Arc<MemoryBroker>,
    pub(crate) management: Arc<FakeManagement>,
}

impl Scene {
    pub(crate) fn new(stores: Arc<Stores>) -> Self {
        let (ledger, fleet) = (Arc::new(MemoryLedger::new()), Arc::new(MemoryFleet::default()));
        let (broker, management) = (Arc::new(MemoryBroker::new()), Arc::new(FakeManagement::default()));
        let seams = Seams {
            ledger: ledger.clone(),
            fleet: fleet.clone(),
            broker: LateBroker::ready(broker.clone()),
            management: Some(management.clone()),
            stores,
        };
        let settings = Settings {
            gallery_rows: 1000,
            max_streams: 4,
            below: Vec::new(),
            guard: Guard::new("127.0.0.1:8265".parse().unwrap(), &[], false),
            token: Some(TOKEN.to_owned()),
        };
        let monitor = Monitor::new(seams, settings, CancellationToken::new());
        Self { monitor, ledger, fleet, broker, management }
    }
}
