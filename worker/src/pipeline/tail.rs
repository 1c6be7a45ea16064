//! The tail: an idle worker takes over what another one is slow with, so that nobody holds a job at 99 %.
//!
//! Runs when the lane's queue is empty and nothing is in hand. The batch is computed beside its first owner, whose
//! delivery stays where it is: the first put wins, and whoever is second finds the part. So this needs no lease
//! and loses nothing if it is wrong about the other one. It must never take a batch that may kill its worker.

use super::{Pipeline, Sight, settle::Subject};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use trawl_common::{
    batch::BatchDescriptor,
    disposition::{Failure, describe},
    ledger::{Claim, JobState, Progress},
    planning::plan_log::read_batch,
};

/// Between two looks of an idle worker: three small questions to broker and ledger.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Jobs that are looked through, the newest first.
const JOBS_LOOKED_AT: usize = 32;

/// Claims that are looked through in each job, the oldest first.
const CLAIMS_LOOKED_AT: usize = 4;

impl Pipeline {
    /// Takes over the oldest claim of this lane, if one is old enough. Errors are for the next look.
    pub(super) async fn look_at_the_tail(&self, cut: CancellationToken) {
        let Some(older_than) = self.reclaim_after else { return };
        let taking = async {
            match self.stale_claim(older_than).await {
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
        older_than: Duration,
    ) -> Result<Option<(Progress, Claim)>, Box<dyn std::error::Error + Send + Sync>> {
        if self.broker.depth(&self.queue).await?.is_none_or(|depth| depth.ready > 0) {
            return Ok(None);
        }
        for job in self.ledger.jobs(JOBS_LOOKED_AT).await? {
            let at_work = matches!(job.state, JobState::Enqueuing | JobState::Running);
            if !at_work || job.queue != self.queue.as_str() {
                continue;
            }
            for claim in self.ledger.claims(&job.job, CLAIMS_LOOKED_AT).await? {
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

    /// Computes and commits a batch without a delivery.
    async fn take_over(&self, job: &Progress, claim: &Claim) {
        tracing::warn!(
            job.id = %job.job, batch.number = claim.batch.0, owner = %claim.worker, age_ms = claim.age_ms,
            "taking over a batch that another worker is slow with"
        );
        self.meters.reclaims.inc();
        let _place = self.room.enter(false).await;
        let done = async {
            let descriptor = self.planned_batch(job, claim).await?;
            let subject = Subject::of(&descriptor);
            let sight = Sight { seen: true, alone: false, last: false };
            let finished = self.work(descriptor, sight).await?;
            self.commit(&subject, finished).await
        };
        if let Err(failure) = done.await {
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
