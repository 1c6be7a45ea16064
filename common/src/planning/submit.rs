//! Opens a job's output and puts its batches on the work list.
//!
//! Two halves run side by side: one lists and appends plan files, the other reads each file back when its
//! turn comes and publishes it. So a slow queue (the embedded one has few places) never holds back the
//! listing, memory is bounded by one file, and a resume is no special case: it finds files that are there
//! already. What must never happen: a message whose batch is in no durable plan file.

use super::{
    PlanError, cancellation,
    cut::{Cutter, PlanSlice},
    enumerate::{Enumeration, Scope},
    feed::Ready,
    plan_log::{Appended, PlanLog, read_batches},
    publish::{
        BadParts, on_broker, on_ledger, parts_there, publish, publish_feed, publish_finalize, publishing,
        record_done,
    },
    rebuild::rebuild,
};
use crate::{
    batch::{BatchNumber, ImageRef, MAX_BATCH_IMAGES},
    bits::Bits,
    broker::Broker,
    job::JobSpec,
    ledger::{JobRecord, JobState, Ledger},
    location::Location,
    results::{Cursor, OutputLayout, PlanDone, PlanFileFooter},
    storage::{PutOutcome, Storage, StorageError, Stores},
    trace,
};
use futures::StreamExt;
use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Messages in flight to the broker: enough to hide the confirm's round trip, few enough to lose.
pub const PUBLISH_WINDOW: usize = 256;

/// How often a producer that still lists looks whether the queue has room.
const QUEUE_LOOKED_AT_EVERY: Duration = Duration::from_millis(200);

/// The largest job spec read.
const MAX_SPEC_BYTES: u64 = 16 << 20;

/// What [`enlist`] works with.
#[derive(Clone, Copy)]
pub struct Enlisting<'a> {
    /// The job, as [`open_output`] gave it back.
    pub spec: &'a JobSpec,
    /// The stores of sources and output.
    pub stores: &'a Arc<Stores>,
    /// The work list.
    pub broker: &'a dyn Broker,
    /// The progress.
    pub ledger: &'a dyn Ledger,
    /// Messages in flight; [`PUBLISH_WINDOW`] unless there is a reason.
    pub window: usize,
    /// Batches that may wait in the queue; the rest is fed to it from the plan files.
    pub ready: Ready,
}

/// What [`open_output`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Nothing: the job is new.
    New,
    /// The same job, begun and not finished.
    Resumed,
    /// The same job, with `_SUCCESS`.
    AlreadyComplete,
}

/// How far a plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Planned {
    /// Batches in durable plan files.
    pub batches: u64,
    /// Images in them.
    pub images: u64,
    /// Batches queued by this call, or left to be fed to the queue; those that had a part are not.
    pub published: u64,
    /// Objects left out by the filters.
    pub skipped: u64,
    /// Entries whose names cannot be used: not text, or nothing the store's client can ask for.
    pub unlistable: u64,
    /// Whether every batch was done already, so that the job was sent to be finalized.
    pub job_done: bool,
}

/// Makes sure of both services before anything is written, and makes the queue.
///
/// # Errors
/// What the services say, at once: nothing is tried again.
pub async fn preflight(spec: &JobSpec, broker: &dyn Broker, ledger: &dyn Ledger) -> Result<(), PlanError> {
    ledger.state(&spec.job).await?;
    broker.ensure_queue(&spec.queue).await?;
    Ok(())
}

/// Claims the output for a job by its create-only spec, or finds that it has it. The spec given back is the
/// one in the output: of the same work, but it may have an older name and time. Writes nothing if a source is
/// missing or there is no image. Cancel safe.
///
/// # Errors
/// [`PlanError::OtherJob`] if the output belongs to other work.
pub async fn open_output(spec: &JobSpec, stores: &Arc<Stores>) -> Result<(Opened, JobSpec), PlanError> {
    if !(1..=MAX_BATCH_IMAGES).contains(&(spec.batch_size as usize)) {
        return Err(PlanError::BadBatchSize(spec.batch_size));
    }
    let (store, layout) = output(spec, stores).await?;
    if let Some(stored) = stored_spec(&*store, &layout).await? {
        return resumed(spec, stored, &*store, &layout).await;
    }
    for prefix in [layout.part_prefix(), layout.plan_prefix()] {
        let first = store.list(&prefix, None).next().await.transpose()?.unwrap_or_default();
        let ours = |key: &&str| layout.batch_of_part(key).is_some() || key.starts_with(&layout.plan_prefix());
        if let Some(found) = first.objects.iter().map(|object| object.key.as_str()).find(ours) {
            return Err(PlanError::Leftovers { out: spec.out.clone(), found: found.to_owned() });
        }
    }
    let scope = Scope::of(spec).await?;
    scope.check_sources(stores).await?;
    ensure_an_image(spec, scope, stores).await?;
    match store.put_if_absent(&layout.job(), spec.to_json().into()).await? {
        PutOutcome::Created => Ok((Opened::New, spec.clone())),
        // Another producer was quicker, or the reply to our own put was lost.
        PutOutcome::AlreadyExists => match stored_spec(&*store, &layout).await? {
            Some(stored) => resumed(spec, stored, &*store, &layout).await,
            None => Err(StorageError::NotFound { key: layout.job() }.into()),
        },
    }
}

/// The store and the names of a job's output.
pub(super) async fn output(
    spec: &JobSpec,
    stores: &Stores,
) -> Result<(Arc<dyn Storage>, OutputLayout), PlanError> {
    let out = Location::parse(&spec.out, Path::new(&spec.base_dir))?;
    Ok((stores.open(&out).await, OutputLayout::new(out)))
}

/// The spec in an output, if there is one.
pub(crate) async fn stored_spec(
    store: &dyn Storage,
    layout: &OutputLayout,
) -> Result<Option<JobSpec>, PlanError> {
    let key = layout.job();
    match store.get(&key, MAX_SPEC_BYTES).await {
        Ok(object) => {
            JobSpec::parse(&object.bytes).map(Some).map_err(|reason| PlanError::JobSpec { key, reason })
        }
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn resumed(
    spec: &JobSpec,
    stored: JobSpec,
    store: &dyn Storage,
    layout: &OutputLayout,
) -> Result<(Opened, JobSpec), PlanError> {
    if !spec.same_work(&stored) {
        let differences = spec.differences(&stored);
        return Err(PlanError::OtherJob { out: spec.out.clone(), job: stored.job, differences });
    }
    match store.head(&layout.success()).await {
        Ok(_) => Ok((Opened::AlreadyComplete, stored)),
        Err(error) if error.is_not_found() => {
            // Before the ledger is opened: a crash in between leaves a job that is cancelled until it is
            // submitted again, and never one that a rebuild would cancel behind the user's back.
            cancellation::unmark(store, layout).await?;
            Ok((Opened::Resumed, stored))
        }
        Err(error) => Err(error.into()),
    }
}

async fn ensure_an_image(spec: &JobSpec, scope: Scope, stores: &Arc<Stores>) -> Result<(), PlanError> {
    let mut pages = Enumeration::start(scope, stores.clone(), Cursor::default());
    let mut skipped = 0;
    while let Some(page) = pages.next().await? {
        if !page.found.is_empty() {
            return Ok(());
        }
        skipped = page.cursor.skipped;
    }
    Err(PlanError::NoImages { sources: spec.sources.clone(), skipped })
}

/// Plans and publishes a job: reads the plan files that are there, lists on after the last one, and queues
/// every batch that has no part. Ends when all of it is queued, not when it is done. `on_progress` is called
/// after each plan file and each published file.
///
/// Cancel safe: dropped or cancelled at any point, the next call goes on with the same numbers.
///
/// # Errors
/// [`PlanError::Interrupted`] after `cancel`; [`PlanError::Cancelled`] if the job is cancelled meanwhile;
/// transient ones after retries.
pub async fn enlist(
    ctx: Enlisting<'_>,
    on_progress: &mut (dyn FnMut(&Planned) + Send),
    cancel: &CancellationToken,
) -> Result<Planned, PlanError> {
    let enlisting = enlist_all(ctx, BadParts::Refuse, on_progress);
    cancel.run_until_cancelled(enlisting).await.unwrap_or(Err(PlanError::Interrupted))
}

/// The same around parts that are not what plan and spec say: they are neither counted nor queued again, and the
/// job is not sent to be finalized while they are there. For `trawl repair`.
///
/// # Errors
/// As [`enlist`], but never for a part.
pub async fn enlist_around_bad_parts(
    ctx: Enlisting<'_>,
    on_progress: &mut (dyn FnMut(&Planned) + Send),
    cancel: &CancellationToken,
) -> Result<Planned, PlanError> {
    let enlisting = enlist_all(ctx, BadParts::PassOver, on_progress);
    cancel.run_until_cancelled(enlisting).await.unwrap_or(Err(PlanError::Interrupted))
}

async fn enlist_all(
    ctx: Enlisting<'_>,
    bad_parts: BadParts,
    on_progress: &mut (dyn FnMut(&Planned) + Send),
) -> Result<Planned, PlanError> {
    let (store, layout) = output(ctx.spec, ctx.stores).await?;
    ctx.broker.ensure_queue(&ctx.spec.queue).await?;
    ctx.ledger.open(&JobRecord::of(ctx.spec)).await?;
    let enlistment = Enlistment {
        ctx,
        store,
        layout,
        bad_parts,
        queued: AtomicU64::new(0),
        progress: Mutex::new(Progress { planned: Planned::default(), on_progress }),
    };
    let (durable, seen) = watch::channel(PlanState::default());
    tokio::try_join!(enlistment.plan(durable), enlistment.publish(seen))?;
    let mut planned = enlistment.progress(|_| {});
    // Wiped since it was opened, perhaps after the last batch was counted: then nobody else would ask for the finish.
    if on_ledger(|| ctx.ledger.state(&ctx.spec.job)).await?.is_none() {
        let Enlistment { store, layout, .. } = &enlistment;
        planned.job_done |= rebuild(ctx.spec, layout, store, ctx.ledger).await?.job_done;
    }
    if planned.job_done {
        publish_finalize(&ctx).await?;
    }
    Ok(planned)
}

/// How many plan files are durable, and whether there will be more.
#[derive(Debug, Clone, Copy, Default)]
struct PlanState {
    files: u32,
    finished: bool,
}

struct Progress<'a> {
    planned: Planned,
    on_progress: &'a mut (dyn FnMut(&Planned) + Send),
}

struct Enlistment<'a> {
    ctx: Enlisting<'a>,
    store: Arc<dyn Storage>,
    layout: OutputLayout,
    bad_parts: BadParts,
    /// Batches queued.
    queued: AtomicU64,
    progress: Mutex<Progress<'a>>,
}

impl Enlistment<'_> {
    /// Changes the progress and shows it.
    fn progress(&self, change: impl FnOnce(&mut Planned)) -> Planned {
        let mut progress = self.progress.lock().expect("no panic while the progress is held");
        change(&mut progress.planned);
        let planned = progress.planned;
        (progress.on_progress)(&planned);
        planned
    }

    /// The listing half: makes every plan file durable, then the plan's end.
    async fn plan(&self, durable: watch::Sender<PlanState>) -> Result<(), PlanError> {
        let _planning = trace::child("plan");
        let mut log = PlanLog::new(self.store.clone(), self.layout.clone());
        let done = loop {
            log.catch_up().await?;
            if log.next_file > 0 {
                self.announce(&log, &durable).await?;
            }
            if let Some(done) = log.done().await? {
                break done;
            }
            if let Some(end) = self.extend(&mut log, &durable).await? {
                if log.next_batch == 0 {
                    let sources = self.ctx.spec.sources.clone();
                    return Err(PlanError::NoImages { sources, skipped: end.skipped });
                }
                break log.finish(&end).await?;
            }
        };
        let PlanDone { batches, images, skipped, unlistable } = done;
        let job = &self.ctx.spec.job;
        let all_done = on_ledger(|| self.ctx.ledger.plan_complete(job, batches, images)).await?;
        self.progress(|planned| {
            (planned.skipped, planned.unlistable) = (skipped, unlistable);
            planned.job_done |= all_done;
        });
        durable.send_replace(PlanState { files: log.next_file, finished: true });
        Ok(())
    }

    /// Lists on after the log's end and appends until all is listed; gives where the listing ended, or `None`
    /// if another producer has appended meanwhile.
    async fn extend(
        &self,
        log: &mut PlanLog,
        durable: &watch::Sender<PlanState>,
    ) -> Result<Option<Cursor>, PlanError> {
        let _enumerating = trace::child("enumerate");
        let scope = Scope::of(self.ctx.spec).await?;
        let mut pages = Enumeration::start(scope, self.ctx.stores.clone(), log.cursor.clone());
        let mut cutter = Cutter::new(self.ctx.spec.batch_size, log.next_batch);
        let mut end = log.cursor.clone();
        while let Some(page) = pages.next().await? {
            end = page.cursor.clone();
            cutter.push(page);
            while let Some(slice) = cutter.take_full(log.next_file) {
                if !self.append(log, slice, durable).await? {
                    return Ok(None);
                }
            }
        }
        if let Some(slice) = cutter.take_rest(&end)
            && !self.append(log, slice, durable).await?
        {
            return Ok(None);
        }
        Ok(Some(end))
    }

    /// False if another producer was quicker.
    async fn append(
        &self,
        log: &mut PlanLog,
        slice: PlanSlice,
        durable: &watch::Sender<PlanState>,
    ) -> Result<bool, PlanError> {
        match log.append(slice).await? {
            Appended::Overtaken => Ok(false),
            Appended::Written => self.announce(log, durable).await.map(|()| true),
        }
    }

    /// Says everywhere how much is durably planned.
    async fn announce(&self, log: &PlanLog, durable: &watch::Sender<PlanState>) -> Result<(), PlanError> {
        let (batches, images) = (log.next_batch, log.cursor.images);
        let job = &self.ctx.spec.job;
        // Before the first of these batches can be done: counters of work must not pass those of the plan.
        on_ledger(|| self.ctx.ledger.planned(job, batches, images)).await?;
        self.progress(|planned| {
            (planned.batches, planned.images) = (batches, images);
            (planned.skipped, planned.unlistable) = (log.cursor.skipped, log.cursor.unlistable);
        });
        durable.send_replace(PlanState { files: log.next_file, finished: false });
        Ok(())
    }

    /// The publishing half: takes each durable plan file in order.
    async fn publish(&self, mut durable: watch::Receiver<PlanState>) -> Result<(), PlanError> {
        let publishing = publishing(&self.ctx);
        let there = parts_there(&*self.store, &self.layout).await?;
        // Set when no more is queued here: where a feed goes on, if one is to.
        let mut rest: Option<Option<(u32, BatchNumber)>> = None;
        for index in 0.. {
            // The channel closes without `finished` only when the listing half has failed, which ends us both.
            let Ok(state) = durable.wait_for(|state| state.files > index || state.finished).await.map(|s| *s)
            else {
                break;
            };
            if state.files <= index {
                break;
            }
            let job = &self.ctx.spec.job;
            match on_ledger(|| self.ctx.ledger.state(job)).await? {
                Some(JobState::Cancelled) => return Err(PlanError::Cancelled(job.clone())),
                // Planned to its end, for whoever resumes it.
                Some(JobState::Paused) => rest = rest.or(Some(None)),
                Some(JobState::Enqueuing | JobState::Running | JobState::Complete) | None => {}
            }
            if rest.is_some()
                && let Some(published) = self.all_open(index, &there).await?
            {
                self.progress(|planned| planned.published += published);
                continue;
            }
            let batches = read_batches(&*self.store, &self.layout, index).await?;
            let (done, open): (Vec<_>, Vec<_>) = batches.into_iter().partition(|(n, _)| there.has(n.0));
            let done = done.into_iter().map(|(number, images)| (number, images.len() as u64)).collect();
            let published = open.len() as u64;
            if rest.is_none() {
                rest = self.publish_some(open, &durable).await?.map(|from| Some((index, from)));
            }
            let Enlisting { spec, ledger, .. } = self.ctx;
            let job_done =
                record_done(spec, ledger, &*self.store, &self.layout, done, self.bad_parts).await?;
            self.progress(|planned| {
                planned.published += published;
                planned.job_done |= job_done;
            });
        }
        if let Some(Some((file, from))) = rest {
            publish_feed(&self.ctx, file, from).await?;
        }
        let queued = self.queued.load(Ordering::Relaxed);
        publishing.set("messaging.batch.message_count", i64::try_from(queued).unwrap_or(i64::MAX));
        Ok(())
    }

    /// How many batches a plan file has, if none of them has a part: then nothing is to be recorded, and the file need
    /// not be read. A producer that leaves the rest to a feed goes through a huge plan by its footers.
    async fn all_open(&self, index: u32, there: &Bits) -> Result<Option<u64>, PlanError> {
        let PlanFileFooter { first_batch, batches, .. } =
            PlanFileFooter::fetch(&*self.store, &self.layout.plan_file(index)).await?;
        let any = there.any(first_batch.0..first_batch.0.saturating_add(batches));
        Ok((!any).then_some(batches))
    }

    /// Batches that this call queued and that are not done.
    async fn outstanding(&self) -> Result<usize, PlanError> {
        let progress = on_ledger(|| self.ctx.ledger.progress(&self.ctx.spec.job)).await?;
        let done = progress.map_or(0, |progress| progress.batches_done);
        let left = self.queued.load(Ordering::Relaxed).saturating_sub(done);
        Ok(usize::try_from(left).unwrap_or(usize::MAX))
    }

    /// Queues batches as far as the queue takes them: while the listing goes on it is waited for, and after that the
    /// rest is left, from the batch given back on.
    async fn publish_some(
        &self,
        mut open: Vec<(BatchNumber, Vec<ImageRef>)>,
        durable: &watch::Receiver<PlanState>,
    ) -> Result<Option<BatchNumber>, PlanError> {
        let Enlisting { broker, spec, ready, .. } = self.ctx;
        if ready == Ready::All {
            self.queued.fetch_add(open.len() as u64, Ordering::Relaxed);
            publish(&self.ctx, open).await?;
            return Ok(None);
        }
        let mut durable = durable.clone();
        while !open.is_empty() {
            let depth = on_broker(|| broker.depth(&spec.queue)).await?;
            let limit = ready.limit(depth).unwrap_or(usize::MAX);
            let room = match depth.is_none_or(|depth| depth.ready == 0) {
                true => limit,
                // Of its own, whatever else waits there: those that are queued and not done, some of them in hand.
                false => limit.saturating_mul(2).saturating_sub(self.outstanding().await?).min(limit),
            };
            let later = open.split_off(room.min(open.len()));
            let now = std::mem::replace(&mut open, later);
            self.queued.fetch_add(now.len() as u64, Ordering::Relaxed);
            publish(&self.ctx, now).await?;
            let Some((next, _)) = open.first() else { break };
            if durable.borrow().finished {
                return Ok(Some(*next));
            }
            let finished = durable.wait_for(|state| state.finished);
            if tokio::time::timeout(QUEUE_LOOKED_AT_EVERY, finished).await.is_ok() {
                return Ok(Some(*next));
            }
        }
        Ok(None)
    }
}
