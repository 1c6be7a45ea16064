//! The planner as a whole, over fakes that can be made to fail at any call.

mod resume;

use super::{plan_log::read_batches, submit::PUBLISH_WINDOW, *};
use crate::{
    batch::{BatchNumber, ImageRef, Message},
    broker::{Broker, Consumer, DeadLetter, Judge, Publication, QueueDepth, Verdict, memory::MemoryBroker},
    job::{Decode, JOB_SPEC_VERSION, JobSpec, ModelRef, Orient, Precision, QueueName, Truncated},
    ledger::{BatchOutcome, Begun, Claim, Completion, Fed, JobRecord, JobState, Ledger, Progress},
    location::Location,
    results::{
        Columns, OutputLayout, PartFooter, encode_part,
        row::{ClassScore, Outcome, Prediction, ResultRow},
    },
    storage::{Storage, Stores},
};
use async_trait::async_trait;
use bytes::Bytes;
use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// A job over `sources` with small batches, into another bucket.
pub(crate) fn spec(sources: &[&str]) -> JobSpec {
    JobSpec {
        version: JOB_SPEC_VERSION,
        job: "job-1".parse().unwrap(),
        queue: "default".parse().unwrap(),
        sources: sources.iter().map(ToString::to_string).collect(),
        base_dir: "/base".into(),
        include: vec![],
        exclude: vec![],
        select: Default::default(),
        carry: Vec::new(),
        limit: None,
        batch_size: 10,
        out: "s3://results/out".into(),
        model: ModelRef { location: "s3://models/m.pt".into(), sha256: "ab".repeat(32) },
        topk: 5,
        decode: Decode::Exact,
        truncated: Truncated::Reject,
        orient: Orient::None,
        precision: Precision::Fp32,
        created_unix_ms: 1,
        trace: None,
    }
}

/// Puts a byte at a URL.
pub(crate) async fn put(stores: &Stores, url: &str) {
    let location = Location::parse(url, Path::new("/")).unwrap();
    stores.open(&location).await.put(location.key(), Bytes::from_static(b"x")).await.unwrap();
}

/// A part with a prediction for every image of a batch.
pub(crate) async fn put_part(stores: &Stores, spec: &JobSpec, batch: BatchNumber, images: &[ImageRef]) {
    put_part_with(stores, spec, batch, images, |_| false).await;
}

/// The same with an error (`corrupt`) for those that `failed`.
async fn put_part_with(
    stores: &Stores,
    spec: &JobSpec,
    batch: BatchNumber,
    images: &[ImageRef],
    failed: impl Fn(&ImageRef) -> bool,
) {
    let class = ClassScore { index: 1, label: None, probability: 0.5 };
    let row = |image: &ImageRef| ResultRow {
        key: image.key.clone(),
        etag: None,
        size: 1,
        width: None,
        height: None,
        outcome: match failed(image) {
            true => Outcome::Failed { code: crate::error_code::ErrorCode::Corrupt, message: "x".into() },
            false => Outcome::Ok(Prediction::Classes(vec![class.clone()])),
        },
        carried: Vec::new(),
    };
    let rows: Vec<_> = images.iter().map(row).collect();
    let footer = PartFooter::new(spec, batch, "attempt", "worker").counted(&rows);
    let part = encode_part(&rows, &Columns::classes(), &footer).unwrap();
    let (store, layout) = output(stores, spec).await;
    store.put(&layout.part(batch), part).await.unwrap();
}

pub(crate) async fn output(stores: &Stores, spec: &JobSpec) -> (Arc<dyn Storage>, OutputLayout) {
    let out = Location::parse(&spec.out, Path::new("/")).unwrap();
    (stores.open(&out).await, OutputLayout::new(out))
}

/// The whole plan as the bucket has it.
pub(crate) async fn plan(stores: &Stores, spec: &JobSpec) -> Vec<(BatchNumber, Vec<ImageRef>)> {
    let (store, layout) = output(stores, spec).await;
    let mut batches = Vec::new();
    for index in 0.. {
        match read_batches(&*store, &layout, index).await {
            Ok(file) => batches.extend(file),
            Err(PlanError::Storage(error)) if error.is_not_found() => break,
            Err(error) => panic!("{error}"),
        }
    }
    batches
}

/// A ledger of one job, with the rules that the planner relies on. It fails for good once `left` calls were
/// made; there is a call around every step of the planner, so that the producer can be killed at each.
pub(crate) struct OneJob {
    state: Mutex<OneJobState>,
    left: AtomicI64,
}

impl OneJob {
    pub(crate) fn new(calls: i64) -> Self {
        Self { state: Mutex::default(), left: AtomicI64::new(calls) }
    }

    fn call(&self) -> Result<MutexGuard<'_, OneJobState>, LedgerError> {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            1.. => Ok(self.state.lock().unwrap()),
            _ => Err(LedgerError::Other { ledger: "test".into(), reason: "dead".into() }),
        }
    }
}

#[derive(Default)]
struct OneJobState {
    open: bool,
    cancelled: bool,
    planned: (u64, u64),
    end: Option<u64>,
    done: BTreeSet<u64>,
    images_ok: u64,
}

#[async_trait]
impl Ledger for OneJob {
    async fn open(&self, _: &JobRecord) -> Result<(), LedgerError> {
        self.call()?.open = true;
        Ok(())
    }
    async fn pause(&self, _: &JobId) -> Result<bool, LedgerError> {
        Ok(false)
    }
    async fn set_fed(&self, _: &JobId, _: Fed) -> Result<(), LedgerError> {
        self.call().map(drop)
    }
    async fn advance_fed(&self, _: &JobId, _: Fed) -> Result<(), LedgerError> {
        self.call().map(drop)
    }
    async fn fed(&self, _: &JobId) -> Result<Option<Fed>, LedgerError> {
        Ok(None)
    }
    async fn planned(&self, _: &JobId, batches: u64, images: u64) -> Result<(), LedgerError> {
        let mut state = self.call()?;
        state.planned = state.planned.max((batches, images));
        Ok(())
    }
    async fn plan_complete(&self, _: &JobId, batches: u64, images: u64) -> Result<bool, LedgerError> {
        let mut state = self.call()?;
        (state.planned, state.end) = ((batches, images), Some(batches));
        Ok(state.done.len() as u64 == batches)
    }
    async fn is_done(&self, _: &JobId, batch: BatchNumber) -> Result<bool, LedgerError> {
        Ok(self.call()?.done.contains(&batch.0))
    }
    async fn begin(&self, _: &JobId, _: BatchNumber, _: Option<&str>) -> Result<Option<Begun>, LedgerError> {
        unreachable!("planning works on no batch")
    }
    async fn complete(
        &self,
        _: &JobId,
        batch: BatchNumber,
        outcome: &BatchOutcome,
    ) -> Result<Option<Completion>, LedgerError> {
        let mut state = self.call()?;
        let first = state.done.insert(batch.0);
        state.images_ok += if first { outcome.images_ok } else { 0 };
        let (job_done, announced) = (state.end == Some(state.done.len() as u64), state.planned.0 > 0);
        Ok(Some(Completion { first, job_done, announced }))
    }
    async fn finalized(&self, _: &JobRecord, _: u64, _: &BatchOutcome) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn forget(&self, _: &JobId) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn claim(&self, _: &JobId, _: BatchNumber, _: &str) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn release(&self, _: &JobId, _: BatchNumber) -> Result<(), LedgerError> {
        Ok(())
    }
    async fn claims(&self, _: &JobId, _: usize) -> Result<Vec<Claim>, LedgerError> {
        Ok(vec![])
    }
    async fn reclaim(&self, _: &JobId, _: BatchNumber, _: &str, _: Duration) -> Result<bool, LedgerError> {
        Ok(false)
    }
    async fn cancel(&self, _: &JobId) -> Result<bool, LedgerError> {
        self.call()?.cancelled = true;
        Ok(true)
    }
    async fn state(&self, _: &JobId) -> Result<Option<JobState>, LedgerError> {
        let state = self.call()?;
        let known = if state.cancelled { JobState::Cancelled } else { JobState::Enqueuing };
        Ok(state.open.then_some(known))
    }
    async fn progress(&self, _: &JobId) -> Result<Option<Progress>, LedgerError> {
        Ok(None)
    }
    async fn jobs(&self, _: usize) -> Result<Vec<Progress>, LedgerError> {
        Ok(vec![])
    }
}

/// A broker that keeps what is published, and fails for good once `left` messages were.
pub(crate) struct Outbox {
    sent: Mutex<Vec<Message>>,
    left: AtomicI64,
}

impl Outbox {
    pub(crate) fn new(messages: i64) -> Self {
        Self { sent: Mutex::default(), left: AtomicI64::new(messages) }
    }

    pub(crate) fn batches(&self) -> Vec<(BatchNumber, Vec<ImageRef>)> {
        let sent = self.sent.lock().unwrap();
        let batch = |message: &Message| match message {
            Message::Batch(batch) => Some((batch.batch, batch.images.clone())),
            Message::Feed(_) | Message::Finalize(_) => None,
        };
        sent.iter().filter_map(batch).collect()
    }

    pub(crate) fn finalizes(&self) -> usize {
        self.sent.lock().unwrap().iter().filter(|m| matches!(m, Message::Finalize(_))).count()
    }
}

#[async_trait]
impl Broker for Outbox {
    async fn ensure_queue(&self, _: &QueueName) -> Result<(), BrokerError> {
        Ok(())
    }
    async fn publish(&self, _: &QueueName, message: Publication) -> Result<(), BrokerError> {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(BrokerError::Closed);
        }
        self.sent.lock().unwrap().push(Message::parse(&message.body).unwrap());
        Ok(())
    }
    async fn consume(&self, _: &QueueName, _: u16) -> Result<Box<dyn Consumer>, BrokerError> {
        Err(BrokerError::Closed)
    }
    async fn depth(&self, _: &QueueName) -> Result<Option<QueueDepth>, BrokerError> {
        Ok(None)
    }
    async fn dead_depth(&self) -> Result<u64, BrokerError> {
        Ok(0)
    }
    async fn judge_dead(&self, _: usize, _: Judge<'_>) -> Result<Vec<(DeadLetter, Verdict)>, BrokerError> {
        Ok(vec![])
    }
}

/// Calls or messages of a fake that never fails.
pub(crate) const FOREVER: i64 = i64::MAX;

pub(crate) async fn submit(
    stores: &Arc<Stores>,
    spec: &JobSpec,
    broker: &dyn Broker,
    ledger: &dyn Ledger,
) -> Result<Planned, PlanError> {
    let (_, spec) = open_output(spec, stores).await?;
    let ctx = Enlisting { spec: &spec, stores, broker, ledger, window: PUBLISH_WINDOW, ready: Ready::All };
    enlist(ctx, &mut |_| {}, &CancellationToken::new()).await
}

pub(crate) async fn bucket(images: usize) -> Arc<Stores> {
    let stores = Stores::in_memory();
    for n in 0..images {
        put(&stores, &format!("s3://b/p/{n:06}.jpg")).await;
        if n % 50 == 0 {
            put(&stores, &format!("s3://b/p/{n:06}.txt")).await;
        }
    }
    stores
}

async fn undisturbed(images: usize, spec: &JobSpec) -> Vec<(BatchNumber, Vec<ImageRef>)> {
    let stores = bucket(images).await;
    submit(&stores, spec, &Outbox::new(FOREVER), &OneJob::new(FOREVER)).await.unwrap();
    plan(&stores, spec).await
}

#[tokio::test]
async fn a_new_job_is_planned_and_published_in_order() {
    let (stores, job) = (bucket(12_345).await, spec(&["s3://b/p"]));
    let (outbox, ledger) = (Outbox::new(FOREVER), OneJob::new(FOREVER));
    let mut seen = Vec::new();
    let (opened, job) = open_output(&job, &stores).await.unwrap();
    assert_eq!(opened, Opened::New);
    let ctx = Enlisting {
        spec: &job,
        stores: &stores,
        broker: &outbox,
        ledger: &ledger,
        window: 3,
        ready: Ready::All,
    };
    let planned = enlist(ctx, &mut |planned| seen.push(*planned), &CancellationToken::new()).await.unwrap();
    let expected = Planned {
        batches: 1235,
        images: 12_345,
        published: 1235,
        skipped: 247,
        unlistable: 0,
        job_done: false,
    };
    assert_eq!(planned, expected);
    assert!(
        seen.len() > 4
            && seen.windows(2).all(|w| w[0].images <= w[1].images && w[0].published <= w[1].published)
    );
    let planned = plan(&stores, &job).await;
    assert_eq!(planned.iter().map(|(n, _)| n.0).collect::<Vec<_>>(), (0..1235).collect::<Vec<_>>());
    let mut published = outbox.batches();
    published.sort_by_key(|(n, _)| *n);
    assert_eq!(published, planned);
    assert_eq!(ledger.state.lock().unwrap().planned, (1235, 12_345));
    assert_eq!(ledger.state.lock().unwrap().end, Some(1235));
}

/// The embedded run plans and finishes in tasks of their own.
#[tokio::test]
async fn planning_can_be_spawned() {
    fn spawnable<F: Future + Send>(future: F) -> F {
        future
    }
    let (stores, job) = (bucket(5).await, spec(&["s3://b/p"]));
    let (outbox, ledger) = (Outbox::new(FOREVER), OneJob::new(FOREVER));
    spawnable(preflight(&job, &outbox, &ledger)).await.unwrap();
    spawnable(open_output(&job, &stores)).await.unwrap();
    let ctx = Enlisting {
        spec: &job,
        stores: &stores,
        broker: &outbox,
        ledger: &ledger,
        window: 1,
        ready: Ready::All,
    };
    spawnable(enlist(ctx, &mut |_| {}, &CancellationToken::new())).await.unwrap();
    spawnable(dry_run(&job, &stores)).await.unwrap();
    let out = Location::parse(&job.out, Path::new("/")).unwrap();
    spawnable(crate::finalize::finalize(&job.job, &out, &stores)).await.unwrap();
}

#[tokio::test]
async fn nothing_is_written_for_a_job_without_images() {
    let stores = Stores::in_memory();
    put(&stores, "s3://b/p/readme.txt").await;
    for sources in [["s3://b/p"], ["s3://b/typo"]] {
        let job = spec(&sources);
        let error = open_output(&job, &stores).await.unwrap_err();
        assert!(
            matches!(error, PlanError::NoImages { skipped: 1, .. } | PlanError::SourceMissing { .. }),
            "{error}"
        );
        let (store, layout) = output(&stores, &job).await;
        assert!(store.head(&layout.job()).await.unwrap_err().is_not_found());
    }
}

#[tokio::test]
async fn an_output_has_one_job() {
    let (stores, job) = (bucket(20).await, spec(&["s3://b/p"]));
    assert_eq!(open_output(&job, &stores).await.unwrap().0, Opened::New);
    let renamed = JobSpec { job: "other-name".parse().unwrap(), created_unix_ms: 9, ..job.clone() };
    let (opened, stored) = open_output(&renamed, &stores).await.unwrap();
    assert_eq!((opened, stored.job.as_str()), (Opened::Resumed, "job-1"));
    let other = JobSpec { topk: 1, batch_size: 20, ..job.clone() };
    let error = open_output(&other, &stores).await.unwrap_err();
    assert!(
        matches!(&error, PlanError::OtherJob { differences, .. } if differences == &["batch_size", "topk"]),
        "{error}"
    );
    // Parts without a spec are somebody's results.
    let elsewhere = JobSpec { out: "s3://results/old".into(), ..job };
    put(&stores, "s3://results/old/part-00000003.parquet").await;
    let error = open_output(&elsewhere, &stores).await.unwrap_err();
    assert!(matches!(error, PlanError::Leftovers { .. }), "{error}");
}

#[tokio::test]
async fn another_jobs_part_is_refused() {
    let (stores, job) = (bucket(20).await, spec(&["s3://b/p"]));
    submit(&stores, &job, &Outbox::new(FOREVER), &OneJob::new(FOREVER)).await.unwrap();
    let (number, images) = plan(&stores, &job).await.swap_remove(1);
    let other = JobSpec { job: "job-2".parse().unwrap(), ..job.clone() };
    put_part(&stores, &other, number, &images).await;
    let error = submit(&stores, &job, &Outbox::new(FOREVER), &OneJob::new(FOREVER)).await.unwrap_err();
    assert!(matches!(error, PlanError::ForeignPart { what: "the job", .. }), "{error}");
}

#[tokio::test]
async fn cancelling_ends_the_producer() {
    let (stores, job) = (bucket(20).await, spec(&["s3://b/p"]));
    let (outbox, ledger) = (Outbox::new(FOREVER), OneJob::new(FOREVER));
    ledger.cancel(&job.job).await.unwrap();
    let error = submit(&stores, &job, &outbox, &ledger).await.unwrap_err();
    assert!(matches!(error, PlanError::Cancelled(_)), "{error}");
    let stop = CancellationToken::new();
    stop.cancel();
    let ctx = Enlisting {
        spec: &job,
        stores: &stores,
        broker: &outbox,
        ledger: &ledger,
        window: 1,
        ready: Ready::All,
    };
    let error = enlist(ctx, &mut |_| {}, &stop).await.unwrap_err();
    assert!(matches!(error, PlanError::Interrupted), "{error}");
    assert!(outbox.batches().is_empty());
}

#[tokio::test]
async fn a_queue_with_few_places_does_not_hold_back_the_plan() {
    let (stores, job) = (bucket(500).await, spec(&["s3://b/p"]));
    let (broker, ledger) = (MemoryBroker::with_capacity(2), OneJob::new(FOREVER));
    let (_, job) = open_output(&job, &stores).await.unwrap();
    let ctx = Enlisting {
        spec: &job,
        stores: &stores,
        broker: &broker,
        ledger: &ledger,
        window: 4,
        ready: Ready::All,
    };
    let cancel = CancellationToken::new();
    let mut planned = Planned::default();
    let mut on_progress = |now: &Planned| {
        planned = *now;
        if ledger.state.lock().unwrap().end.is_some() {
            cancel.cancel();
        }
    };
    let error = enlist(ctx, &mut on_progress, &cancel).await.unwrap_err();
    assert!(matches!(error, PlanError::Interrupted), "{error}");
    assert_eq!((planned.images, planned.published), (500, 0));
}

#[tokio::test]
async fn a_dry_run_counts_and_writes_nothing() {
    let (stores, job) = (bucket(105).await, spec(&["s3://b/p"]));
    let run = dry_run(&job, &stores).await.unwrap();
    assert_eq!((run.images, run.bytes, run.batches, run.skipped), (105, 105, 11, 3));
    assert_eq!(run.by_extension, [("jpg".to_owned(), 105)].into());
    assert_eq!(run.first_keys[0], "s3://b/p/000000.jpg");
    let (store, layout) = output(&stores, &job).await;
    assert!(store.head(&layout.job()).await.is_err());
}

/// Submits a job and gives each of its batches a part; the images whose key ends with `failing` fail there.
async fn complete(stores: &Arc<Stores>, job: &JobSpec, failing: &str) {
    submit(stores, job, &Outbox::new(FOREVER), &OneJob::new(FOREVER)).await.unwrap();
    for (number, images) in plan(stores, job).await {
        put_part_with(stores, job, number, &images, |image| image.key.ends_with(failing)).await;
    }
    let (store, layout) = output(stores, job).await;
    store.put(&layout.success(), Bytes::new()).await.unwrap();
}

async fn planned(stores: &Arc<Stores>, job: &JobSpec) -> Vec<String> {
    let run = dry_run(job, stores).await;
    match run {
        Ok(run) => run.first_keys,
        Err(PlanError::NoImages { .. }) => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn only_what_is_new_or_changed_since() {
    let (stores, job) = (bucket(20).await, spec(&["s3://b/p"]));
    let later = |out: &str, since: &[&str]| {
        let mut job = JobSpec { out: format!("s3://results/{out}"), ..job.clone() };
        job.select.since = since.iter().map(|out| format!("s3://results/{out}")).collect();
        job
    };
    let second = later("second", &["out"]);
    submit(&stores, &job, &Outbox::new(FOREVER), &OneJob::new(FOREVER)).await.unwrap();
    let error = dry_run(&second, &stores).await.unwrap_err();
    assert!(matches!(error, PlanError::Unfinished { .. }), "{error}");
    complete(&stores, &job, "nothing").await;
    assert!(planned(&stores, &second).await.is_empty());
    put(&stores, "s3://b/p/new.jpg").await;
    let changed = Location::parse("s3://b/p/000003.jpg", Path::new("/")).unwrap();
    stores.open(&changed).await.put(changed.key(), Bytes::from_static(b"other")).await.unwrap();
    assert_eq!(planned(&stores, &second).await, ["s3://b/p/000003.jpg", "s3://b/p/new.jpg"]);
    complete(&stores, &second, "nothing").await;
    // What changed is known from the second output; the first alone would ask for it again.
    assert!(planned(&stores, &later("third", &["out", "second"])).await.is_empty());
    assert_eq!(planned(&stores, &later("third", &["out"])).await.len(), 2);
}

#[tokio::test]
async fn the_failed_images_of_a_job() {
    let (stores, job) = (bucket(35).await, spec(&["s3://b/p"]));
    complete(&stores, &job, "7.jpg").await;
    let mut again = JobSpec { out: "s3://results/again".into(), ..job.clone() };
    again.sources = vec!["s3://results/out/_trawl/plan/".into()];
    again.select.kind = crate::selection::SourceKind::Failures;
    let failed = ["s3://b/p/000007.jpg", "s3://b/p/000017.jpg", "s3://b/p/000027.jpg"];
    assert_eq!(planned(&stores, &again).await, failed);
    again.select.codes = vec![crate::error_code::ErrorCode::Corrupt];
    assert_eq!(planned(&stores, &again).await, failed);
    again.select.codes = vec![crate::error_code::ErrorCode::Empty];
    assert!(planned(&stores, &again).await.is_empty());
}
