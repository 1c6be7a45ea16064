//! Settle: the one function that ends a delivery, and the order that makes a crash harmless.
//!
//! The last stage: **put if absent -> ledger.complete -> ack**. A crash between any two of them costs a
//! redelivery that finds the part and skips the model. Nobody else acks. A part that is there already is
//! the truth, whoever wrote it: its footer is what gets counted.

use super::{Pipeline, meters::Stage, sink::EncodedPart};
use crate::jobs::JobContext;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use trawl_common::{
    batch::{BatchNumber, FinalizeRequest, Message},
    broker::{Delivery, Disposition, Publication},
    disposition::{Failure, describe, disposition},
    job::{JobId, QueueName},
    ledger::{BatchOutcome, Completion, LedgerError},
    results::part,
    retry::{RetryPolicy, retry},
    storage::PutOutcome,
};

/// A ledger that is away holds a batch's commit for this long; its part is safe, and the worker computes on
/// with the deliveries that its prefetch leaves. After that the batch goes through the retry queue.
const COMMIT: RetryPolicy = RetryPolicy {
    initial: Duration::from_millis(100),
    max_interval: Duration::from_secs(5),
    max_elapsed: Duration::from_secs(120),
};

/// What became of a delivery's work.
pub enum Finished {
    /// Computed: put, complete, ack.
    Part(Arc<JobContext>, EncodedPart),
    /// An earlier attempt put it: complete, ack.
    Written(BatchOutcome),
    /// Nothing to do with it: ack.
    Dropped,
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

impl Pipeline {
    /// Ends `delivery`. Not cancel safe: once begun it must run to its end, or the broker delivers again.
    pub(super) async fn settle(
        &self,
        delivery: Delivery,
        subject: Option<&Subject>,
        finished: Result<Finished, Failure>,
    ) {
        let committed = match (finished, subject) {
            (Ok(finished), Some(subject)) => self.commit(subject, finished).await,
            (Ok(_), None) => Ok(()),
            (Err(failure), _) => Err(failure),
        };
        let disposition = match &committed {
            Ok(()) => Disposition::Ack,
            Err(failure) => {
                let disposition = disposition(failure);
                let outcome = match &disposition {
                    Disposition::Requeue => "requeued",
                    Disposition::Retry { .. } => "retried",
                    Disposition::DeadLetter { .. } => "dead",
                    Disposition::Ack => "skipped",
                };
                self.meters.batch(outcome);
                tracing::warn!(
                    error = %describe(failure), attempt = delivery.attempt, outcome,
                    job.id = subject.map(|s| s.job.as_str()), batch.number = subject.map(|s| s.batch.0),
                    "a batch was not completed"
                );
                disposition
            }
        };
        trawl_common::failpoint::hit(trawl_common::failpoint::ACK_BEFORE).await;
        if let Err(error) = delivery.settle(disposition).await {
            // The broker delivers it again; whoever gets it finds the part.
            tracing::warn!(%error, "the delivery could not be settled");
        }
        trawl_common::failpoint::hit(trawl_common::failpoint::ACK_AFTER).await;
    }

    async fn commit(&self, subject: &Subject, finished: Finished) -> Result<(), Failure> {
        let outcome = match finished {
            Finished::Dropped => {
                self.meters.batch("skipped");
                return Ok(());
            }
            Finished::Written(outcome) => outcome,
            Finished::Part(job, part) => self.put(&job, part).await?,
        };
        let began = Instant::now();
        trawl_common::failpoint::hit(trawl_common::failpoint::COMPLETE_BEFORE).await;
        let completion = self.complete(subject, &outcome).await?;
        trawl_common::failpoint::hit(trawl_common::failpoint::COMPLETE_AFTER).await;
        if completion.job_done {
            self.ask_for_finish(subject).await?;
            trawl_common::failpoint::hit(trawl_common::failpoint::FINISH_PUBLISHED).await;
        }
        self.meters.stage(Stage::Commit, began.elapsed(), 1);
        if completion.first {
            self.meters.committed(outcome.images_ok, outcome.errors);
        } else {
            self.meters.batch("skipped");
        }
        Ok(())
    }

    async fn put(&self, job: &JobContext, part: EncodedPart) -> Result<BatchOutcome, Failure> {
        let began = Instant::now();
        let store = self.stores.open(job.layout.root()).await;
        let key = job.layout.part(part.footer.batch);
        trawl_common::failpoint::hit(trawl_common::failpoint::PUT_BEFORE).await;
        let outcome = store.put_if_absent(&key, part.bytes).await?;
        trawl_common::failpoint::hit(trawl_common::failpoint::PUT_AFTER).await;
        self.meters.stage(Stage::Put, began.elapsed(), 1);
        if outcome == PutOutcome::Created {
            return Ok(part.footer.outcome());
        }
        let winner = part::read_footer(&*store, &key).await.map_err(|e| Failure::Output(describe(&e)))?;
        if winner.job != part.footer.job {
            return Err(Failure::Output(format!("`{key}` belongs to job `{}`", winner.job)));
        }
        let ours = winner.attempt_id == part.footer.attempt_id;
        self.meters.conflict(if ours { "self" } else { "other" });
        Ok(winner.outcome())
    }

    async fn complete(&self, subject: &Subject, outcome: &BatchOutcome) -> Result<Completion, Failure> {
        let complete = || self.ledger.complete(&subject.job, subject.batch, outcome);
        Ok(retry(COMMIT, LedgerError::is_transient, complete).await?)
    }

    async fn ask_for_finish(&self, subject: &Subject) -> Result<(), Failure> {
        let request = FinalizeRequest { job: subject.job.clone(), out: subject.out.clone() };
        let message = Publication::new(Message::Finalize(request).to_json());
        let queue: &QueueName = &self.queue;
        self.broker.publish(queue, message).await.map_err(|e| Failure::Output(describe(&e)))
    }
}
