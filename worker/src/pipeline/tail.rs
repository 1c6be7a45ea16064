//! The tail: an idle worker takes over what another one is slow with, so that nobody holds a job at 99 %.
//!
//! Runs when the lane's queue is empty and nothing is in hand. The batch is computed beside its first owner, whose
//! delivery stays where it is: the first put wins, and whoever is second finds the part. So this needs no lease
//! and loses nothing if it is wrong about the other one. A job that nobody works on and that does not end is looked
//! over: whoever rebuilt its ledger may have died half-way. It must never take a batch that may kill its worker.

use super::{
    Pipeline, Sight,
    settle::{Committed, Subject},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use trawl_common::{
    batch::BatchDescriptor,
    disposition::{Failure, describe},
    job::JobId,
    ledger::{Claim, JobState, Progress},
    planning::plan_log::read_batch,
};

/// Between two looks of an idle worker: three small questions to broker and ledger.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Jobs that are looked through, the newest first.
const JOBS_LOOKED_AT: usize = 32;

/// Claims that are looked through in each job, the oldest first.
const CLAIMS_LOOKED_AT: usize = 4;

/// A job without a message, a claim or a new part for so long is looked over. Far above the rest of a retry.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// Then not again for so long: a look is a listing of the output and the footers that are not counted.
const LOOK_OVER_AGAIN: Duration = Duration::from_secs(600);

/// Jobs that did not move, by id: how many batches were done, and when to look them over.
pub type Stalled = Arc<Mutex<BTreeMap<JobId, (u64, Instant)>>>;

impl Pipeline {
    /// Takes over the oldest claim of this lane, if one is old enough. Errors are for the next look.
    pub(super) async fn look_at_the_tail(&self, cut: CancellationToken) {
        let taking = async {
            match self.stale_claim().await {
                Ok(Some((job, claim))) => self.take_over(&job, &claim).await,
                Ok(None) => {}
                Err(error) => tracing::debug!(error = %describe(&*error), "the tail was not looked at"),
            }
        };
        tokio::select! {
            biased;
            () = cut.cancelled() => {}
            () = taking => {}
        }
    }

    async fn stale_claim(
        &self,
    ) -> Result<Option<(Progress, Claim)>, Box<dyn std::error::Error + Send + Sync>> {
        if self.broker.depth(&self.queue).await?.is_none_or(|depth| depth.ready > 0) {
            return Ok(None);
        }
        for job in self.ledger.jobs(JOBS_LOOKED_AT).await? {
            let at_work = matches!(job.state, JobState::Enqueuing | JobState::Running);
            if !at_work || job.queue != self.queue.as_str() {
                continue;
            }
            let claims = self.ledger.claims(&job.job, CLAIMS_LOOKED_AT).await?;
            if claims.is_empty() && self.has_stalled(&job) {
                self.look_over(&job).await?;
            }
            let Some(older_than) = self.reclaim_after else { continue };
            for claim in claims {
                if Duration::from_millis(claim.age_ms) < older_than {
                    break;
                }
                if self.ledger.reclaim(&job.job, claim.batch, &self.worker, older_than).await? {
                    return Ok(Some((job, claim)));
                }
            }
        }
        Ok(None)
    }

    /// Whether a job that nobody works on has not moved since an earlier look.
    fn has_stalled(&self, job: &Progress) -> bool {
        let now = Instant::now();
        let mut stalled = self.stalled.lock().expect("no panic while the map is held");
        if stalled.len() > JOBS_LOOKED_AT {
            stalled.clear();
        }
        let (done, due) = stalled.entry(job.job.clone()).or_insert((job.batches_done, now + STALLED_AFTER));
        if *done != job.batches_done {
            (*done, *due) = (job.batches_done, now + STALLED_AFTER);
        }
        if now < *due {
            return false;
        }
        *due = now + LOOK_OVER_AGAIN;
        true
    }

    /// Counts what the output has, and asks for the finish if that is everything.
    async fn look_over(&self, job: &Progress) -> Result<(), Failure> {
        let rebuilding = self.jobs.rebuilding.lock().await;
        let rebuilt = self.fill_ledger(&job.job, &job.out).await?;
        drop(rebuilding);
        if rebuilt.job_done {
            return self.ask_for_finish(&job.job, &job.out).await;
        }
        if rebuilt.parts < rebuilt.batches_planned {
            // With no dead letter anywhere nobody gave them up: the queue, or the message that feeds it, was lost.
            if job.state == JobState::Running && self.broker.dead_depth().await.is_ok_and(|dead| dead == 0) {
                tracing::warn!(
                    job.id = %job.job, missing = rebuilt.batches_planned - rebuilt.parts,
                    "batches of a job have no part, no message and no worker, and none is a dead letter: queueing them again"
                );
                return self.feed_anew(&job.job, &job.out, job.created_unix_ms).await;
            }
            tracing::warn!(
                job.id = %job.job, missing = rebuilt.batches_planned - rebuilt.parts,
                "batches of a job have no part, no message and no worker: `trawl repair {}` queues them", job.out
            );
        }
        Ok(())
    }

    /// Computes and commits a batch without a delivery.
    async fn take_over(&self, job: &Progress, claim: &Claim) {
        let surroundings = self.surroundings_of_takeover(&job.job, claim.batch.0);
        surroundings.around(self.compute_for_another(job, claim)).await;
    }

    async fn compute_for_another(&self, job: &Progress, claim: &Claim) {
        tracing::warn!(
            job.id = %job.job, batch.number = claim.batch.0, owner = %claim.worker, age_ms = claim.age_ms,
            "taking over a batch that another worker is slow with"
        );
        self.meters.reclaims.inc();
        let _place = self.room.enter(false).await;
        let done = async {
            let descriptor = self.planned_batch(job, claim).await?;
            let subject = Subject::of(&descriptor);
            let _held = self.in_hand.hold(&subject);
            let sight = Sight { seen: true, alone: false, last: false };
            let finished = self.work(descriptor, sight).await?;
            if self.commit(&subject, finished).await? == Committed::LastOfJob {
                self.finish_at_once(&subject).await;
            }
            Ok::<_, Failure>(())
        };
        if let Err(failure) = done.await {
            if let Err(error) = self.ledger.release(&job.job, claim.batch).await {
                tracing::debug!(%error, "a claim was not released");
            }
            // Its owner still has the delivery; what fails here is nobody's attempt.
            tracing::warn!(
                job.id = %job.job, batch.number = claim.batch.0, error = %describe(&failure),
                "a batch that was taken over was not completed"
            );
            if matches!(failure, Failure::DeviceLost(_)) {
                self.device_lost.cancel();
            }
        }
    }

    async fn planned_batch(&self, job: &Progress, claim: &Claim) -> Result<BatchDescriptor, Failure> {
        let (layout, spec) = self.jobs.spec(&job.job, &job.out).await?;
        let store = self.stores.open(layout.root()).await;
        let images = read_batch(&*store, &layout, claim.batch).await;
        let images = images.map_err(|error| Failure::Output(describe(&error)))?;
        let Some(images) = images else {
            return Err(Failure::Job(format!("batch {} is in no plan file", claim.batch)));
        };
        Ok(BatchDescriptor {
            job: spec.job,
            batch: claim.batch,
            out: spec.out,
            created_unix_ms: spec.created_unix_ms,
            model_sha256: spec.model.sha256,
            images,
        })
    }
}
