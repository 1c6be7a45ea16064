//! Settle: the one function that ends a delivery, and the order that makes a crash harmless.
//!
//! The last stage: **put if absent -> ledger.complete -> ack**. A crash between any two of them costs a
//! redelivery that finds the part and skips the model. Nobody else acks. A part that is there already is
//! the truth, whoever wrote it: its footer is what gets counted.

use super::{
    Pipeline,
    meters::Stage,
    outcomes::{BatchEnd, Quarantine, Winner},
    sink::EncodedPart,
    traced::{error_type, whole},
};
use crate::jobs::JobContext;
use bytes::Bytes;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use trawl_common::{
    batch::{BatchDescriptor, BatchNumber, FinalizeRequest, Message},
    broker::{Delivery, Disposition, Publication, topology::MAX_ATTEMPTS},
    disposition::{Failure, describe, disposition},
    job::{JobId, QueueName},
    ledger::{BatchOutcome, Completion, LedgerError},
    results::part,
    retry::{RetryPolicy, retry},
    storage::{PutOutcome, Storage, StorageError, probe::ConditionalPut},
    trace,
};

/// A ledger that is away holds a batch's commit for this long; its part is safe, and the worker computes on
/// with the deliveries that its prefetch leaves. After that the batch goes through the retry queue.
const COMMIT: RetryPolicy = RetryPolicy {
    initial: Duration::from_millis(100),
    max_interval: Duration::from_secs(5),
    max_elapsed: Duration::from_secs(120),
};

/// How often a ledger that forgets a job is rebuilt for one batch: wiped again and again it is none.
const REBUILDS: usize = 3;

/// What became of a delivery's work.
#[expect(clippy::large_enum_variant, reason = "there is one a batch, and it lives for moments")]
pub enum Finished {
    /// Computed: put, complete, ack.
    Part {
        /// Its job.
        job: Arc<JobContext>,
        /// The part.
        part: EncodedPart,
        /// Whether a journal of it is in the output.
        journalled: bool,
    },
    /// An earlier attempt put it: complete, ack.
    Written(BatchOutcome),
    /// Nothing to do with it: ack.
    Dropped,
}

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// The batch is done, or there was nothing to do.
    Batch,
    /// And with it every batch of its job.
    LastOfJob,
}

/// The batch that a delivery was about.
pub struct Subject {
    /// Its job.
    pub job: JobId,
    /// The job's output.
    pub out: String,
    /// Its number.
    pub batch: BatchNumber,
}

impl Subject {
    /// The batch of a message.
    pub fn of(descriptor: &BatchDescriptor) -> Self {
        Self { job: descriptor.job.clone(), out: descriptor.out.clone(), batch: descriptor.batch }
    }
}

/// In which order a batch is settled.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SettleOrder {
    /// The right one: put, complete, ack.
    #[default]
    AckLast,
    /// Wrong: a crash after the ack loses the batch.
    AckFirst,
}

impl Pipeline {
    /// Ends `delivery`. Not cancel safe: once begun it must run to its end, or the broker delivers again.
    pub(super) async fn settle(
        &self,
        delivery: Delivery,
        subject: Option<&Subject>,
        finished: Result<Finished, Failure>,
    ) {
        #[cfg(any(test, feature = "testing"))]
        if self.order == SettleOrder::AckFirst {
            return self.ack_first(delivery, subject, finished).await;
        }
        let committed = match (finished, subject) {
            (Ok(finished), Some(subject)) => self.commit(subject, finished).await,
            (Ok(_), None) => Ok(Committed::Batch),
            (Err(failure), _) => Err(failure),
        };
        let disposition = match &committed {
            Ok(_) => {
                if subject.is_none() {
                    trace::note("trawl.outcome", BatchEnd::Done.name());
                }
                Disposition::Ack
            }
            Err(failure) => {
                let disposition = disposition(failure);
                let end = match &disposition {
                    Disposition::Requeue | Disposition::Abandon => BatchEnd::Requeued,
                    // The attempts are used up.
                    Disposition::Retry { .. } if delivery.attempt >= MAX_ATTEMPTS => BatchEnd::Dead,
                    Disposition::Retry { .. } => BatchEnd::Retried,
                    Disposition::Defer { .. } => BatchEnd::Deferred,
                    Disposition::DeadLetter { .. } => BatchEnd::Dead,
                    Disposition::Ack => BatchEnd::Skipped,
                };
                self.ended(end);
                if end == BatchEnd::Dead {
                    self.meters.quarantine(Quarantine::dead(failure));
                }
                // A drain is nobody's error.
                if !matches!(failure, Failure::Draining) {
                    trace::note_failure(error_type(failure), || describe(failure));
                }
                // Nobody works on it now. Not asked of a ledger that is away.
                if let Some(Subject { job, batch, .. }) = subject.filter(|_| !is_ledgers(failure)) {
                    let _shown_too_long = self.ledger.release(job, *batch).await;
                }
                tracing::warn!(
                    error = %describe(failure), attempt = delivery.attempt, outcome = end.name(),
                    job.id = subject.map(|s| s.job.as_str()), batch.number = subject.map(|s| s.batch.0),
                    "a batch was not completed"
                );
                disposition
            }
        };
        trawl_common::failpoint::hit(trawl_common::failpoint::ACK_BEFORE).await;
        let settling = trace::child(if disposition == Disposition::Ack { "ack" } else { "give back" });
        if let Err(error) = delivery.settle(disposition).await {
            // The broker delivers it again; whoever gets it finds the part.
            tracing::warn!(%error, "the delivery could not be settled");
            settling.fail("broker", || error.to_string());
        }
        drop(settling);
        if matches!(committed, Err(Failure::DeviceLost(_))) {
            self.device_lost.cancel();
        }
        trawl_common::failpoint::hit(trawl_common::failpoint::ACK_AFTER).await;
        if let (Ok(Committed::LastOfJob), Some(subject)) = (committed, subject) {
            self.finish_at_once(subject).await;
        }
    }

    #[cfg(any(test, feature = "testing"))]
    async fn ack_first(
        &self,
        delivery: Delivery,
        subject: Option<&Subject>,
        finished: Result<Finished, Failure>,
    ) {
        let acked = delivery.settle(finished.as_ref().map_or_else(disposition, |_| Disposition::Ack)).await;
        if let (Ok(()), Ok(finished), Some(subject)) = (acked, finished, subject) {
            let _nobody_left_to_tell = self.commit(subject, finished).await;
        }
    }

    /// Counts how a batch ended, and says it on its span; `committed` counts those that are done.
    fn ended(&self, end: BatchEnd) {
        self.meters.batch(end);
        trace::note("trawl.outcome", end.name());
    }

    /// Puts, completes, and asks for the finish of a job whose last batch it was.
    pub(super) async fn commit(&self, subject: &Subject, finished: Finished) -> Result<Committed, Failure> {
        let outcome = match finished {
            Finished::Dropped => {
                self.ended(BatchEnd::Skipped);
                return Ok(Committed::Batch);
            }
            Finished::Written(outcome) => outcome,
            Finished::Part { job, .. } if !self.jobs.is_current(&job).await? => {
                // Its output was removed, and perhaps submitted anew: nothing of this one may be put there.
                self.ended(BatchEnd::Skipped);
                return Ok(Committed::Batch);
            }
            Finished::Part { job, part, journalled } => {
                let outcome = self.put(&job, part).await?;
                if journalled {
                    self.close_journal(&job, subject).await;
                }
                outcome
            }
        };
        let (_committing, began) = (trace::child("commit"), Instant::now());
        trawl_common::failpoint::hit(trawl_common::failpoint::COMPLETE_BEFORE).await;
        let completion = self.complete(subject, &outcome).await?;
        trawl_common::failpoint::hit(trawl_common::failpoint::COMPLETE_AFTER).await;
        if completion.job_done {
            self.ask_for_finish(&subject.job, &subject.out).await?;
            trawl_common::failpoint::hit(trawl_common::failpoint::FINISH_PUBLISHED).await;
        }
        self.meters.stage(Stage::Commit, began.elapsed(), 1);
        if trace::is_on() {
            trace::note("trawl.images_ok", whole(outcome.images_ok));
            trace::note("trawl.images_failed", whole(outcome.errors.values().sum()));
        }
        if completion.first {
            trace::note("trawl.outcome", BatchEnd::Done.name());
            self.meters.committed(outcome.images_ok, outcome.errors);
        } else {
            self.ended(BatchEnd::Skipped);
        }
        Ok(if completion.job_done { Committed::LastOfJob } else { Committed::Batch })
    }

    /// Does what the message asks for that lies in the queue, if it lies behind others' batches. Best effort: the message
    /// is there.
    pub(super) async fn finish_at_once(&self, Subject { job, out, .. }: &Subject) {
        // The message alone comes at once, and all parts' footers are not read twice for nothing.
        if self.broker.depth(&self.queue).await.ok().flatten().is_none_or(|depth| depth.ready <= 1) {
            return;
        }
        let request = FinalizeRequest { job: job.clone(), out: out.clone() };
        if let Err(failure) = self.finish(&request).await {
            tracing::debug!(job.id = %job, error = %describe(&failure), "the finish is left to its message");
        }
    }

    async fn put(&self, job: &JobContext, part: EncodedPart) -> Result<BatchOutcome, Failure> {
        let (putting, began) = (trace::child("put"), Instant::now());
        let store = self.stores.open(job.layout.root()).await;
        let key = job.layout.part(part.footer.batch);
        if trace::is_on() {
            trace::note("trawl.part.bytes", whole(part.bytes.len() as u64));
        }
        trawl_common::failpoint::hit(trawl_common::failpoint::PUT_BEFORE).await;
        let outcome = match job.conditional_put {
            ConditionalPut::Real => store.put_if_absent(&key, part.bytes).await?,
            ConditionalPut::Unreliable { .. } => put_and_look(&*store, &key, part.bytes).await?,
        };
        trawl_common::failpoint::hit(trawl_common::failpoint::PUT_AFTER).await;
        let took = began.elapsed();
        drop(putting);
        self.meters.stage(Stage::Put, took, 1);
        if outcome == PutOutcome::Created {
            let mut outcome = part.footer.outcome();
            outcome.stages.spent(Stage::Encode, part.took);
            outcome.stages.spent(Stage::Put, took);
            return Ok(outcome);
        }
        let winner = part::read_footer(&*store, &key).await.map_err(|e| Failure::Output(describe(&e)))?;
        if !winner.is_of(&job.spec.job, job.spec.created_unix_ms) {
            return Err(Failure::Output(format!(
                "`{key}` belongs to another submission of job `{}`",
                winner.job
            )));
        }
        if winner.attempt_id == part.footer.attempt_id {
            self.meters.conflict(Winner::Own);
        } else {
            self.meters.conflict(Winner::Other);
        }
        Ok(winner.outcome())
    }

    /// The part is there: whatever the journal says is history.
    async fn close_journal(&self, job: &JobContext, subject: &Subject) {
        let store = self.stores.open(job.layout.root()).await;
        if let Err(error) = store.delete(&job.layout.solo(subject.batch)).await {
            tracing::debug!(%error, "a journal was left behind");
        }
    }

    async fn complete(&self, subject: &Subject, outcome: &BatchOutcome) -> Result<Completion, Failure> {
        let complete = || self.ledger.complete(&subject.job, subject.batch, outcome);
        for _ in 0..REBUILDS {
            let completion = retry(COMMIT, LedgerError::is_transient, complete).await?;
            if let Some(completion) = completion.filter(|completion| completion.announced) {
                return Ok(completion);
            }
            // Wiped, failed over or evicted, and perhaps not filled again to the end: the part is there, so it is
            // counted with all the others.
            self.rebuild_ledger(&subject.job, &subject.out).await?;
        }
        Err(LedgerError::Forgotten { job: subject.job.clone() }.into())
    }

    /// Queues the request to compare parts and plan; more than one is harmless.
    pub(super) async fn ask_for_finish(&self, job: &JobId, out: &str) -> Result<(), Failure> {
        let request = FinalizeRequest { job: job.clone(), out: out.to_owned() };
        let message = Publication::new(Message::Finalize(request).to_json()).traced(trace::carried());
        let queue: &QueueName = &self.queue;
        self.broker.publish(queue, message).await.map_err(|e| Failure::Output(describe(&e)))
    }
}

fn is_ledgers(failure: &Failure) -> bool {
    matches!(failure, Failure::Ledger(_))
}

/// The commit on a store without a create-only put: look, put, and let the caller read back who is there. Two who
/// look at the same moment both put, to one name: the later one stands, and both count what stands then. There is
/// one part a batch whatever happens; which of the two may change once.
async fn put_and_look(store: &dyn Storage, key: &str, bytes: Bytes) -> Result<PutOutcome, StorageError> {
    match store.head(key).await {
        Ok(_) => {}
        Err(error) if error.is_not_found() => store.put(key, bytes).await?,
        Err(error) => return Err(error),
    }
    // Never `Created`: the footer that is read back says whose part it is.
    Ok(PutOutcome::AlreadyExists)
}
