//! Intake: from a delivery to an open batch, or to the reason why there is nothing to compute.
//!
//! The first stage. Asks, in this order and cheapest first: is the message ours, is the job held, is
//! its part there already (asked if the ledger says so or the broker has delivered it before). Only then is
//! anything fetched. The ledger is asked once, and claims the batch by it. It must never ack: that is settle's.

use super::{Pipeline, journal::Journal, settle::Subject};
use crate::jobs::JobContext;
use std::sync::Arc;
use trawl_common::{
    batch::BatchDescriptor,
    disposition::{Failure, describe},
    ledger::{BatchOutcome, Begun},
    location::Location,
    results::{OutputLayout, part},
};

/// What a batch needs.
pub enum Intake {
    /// Nothing: the job was cancelled or is paused (whoever resumes it queues it anew), or its output was removed and
    /// submitted anew.
    Held,
    /// Only the commit: an earlier attempt wrote its part.
    Written(BatchOutcome),
    /// The work.
    Compute(Arc<JobContext>),
}

/// What the ledger knows of a batch.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    held: bool,
    may_be_written: bool,
    claimed: bool,
    asked_in_vain: bool,
}

impl Known {
    fn of(begun: Begun) -> Self {
        let held = begun.state.is_held();
        // What is done, or held, is not claimed by the question.
        Self { held, claimed: !begun.done && !held, ..Self::default() }
    }
}

impl Pipeline {
    /// Decides about a parsed batch, and claims it unless it must stay `unclaimed`; `seen` if somebody may have
    /// worked on it before. Cancel safe, but for the claim: the batch's end, or its failure, ends that too.
    ///
    /// # Errors
    /// [`Failure`] if the job or its model is not to be had.
    pub(super) async fn take_in(
        &self,
        descriptor: &BatchDescriptor,
        seen: bool,
        unclaimed: bool,
    ) -> Result<Intake, Failure> {
        trawl_common::failpoint::hit(trawl_common::failpoint::INTAKE_BEFORE).await;
        let claimant = (!unclaimed).then_some(self.worker.as_str());
        let known = self.ask_ledger(descriptor, claimant).await;
        if known.held {
            return Ok(Intake::Held);
        }
        if seen || known.may_be_written {
            let out = Location::parse(&descriptor.out, std::path::Path::new("/"))
                .map_err(|e| Failure::Job(e.to_string()))?;
            let store = self.stores.open(&out).await;
            let key = OutputLayout::new(out).part(descriptor.batch);
            match part::read_footer(&*store, &key).await {
                Ok(footer) if footer.is_of(&descriptor.job, descriptor.created_unix_ms) => {
                    return Ok(Intake::Written(footer.outcome()));
                }
                Ok(footer) => {
                    return Err(Failure::Job(format!(
                        "`{key}` belongs to another submission of job `{}`",
                        footer.job
                    )));
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(Failure::Output(describe(&error))),
            }
        }
        let Some(job) = self.jobs.get(descriptor).await? else {
            // What was claimed is the batch of this number in another submission, by a message that is not of it.
            self.release(descriptor).await;
            return Ok(Intake::Held);
        };
        if let Some(worker) = claimant.filter(|_| !known.asked_in_vain && !known.claimed)
            && let Err(error) = self.ledger.claim(&descriptor.job, descriptor.batch, worker).await
        {
            tracing::debug!(%error, "a batch is worked on without a claim");
        }
        Ok(Intake::Compute(job))
    }

    /// What the ledger says of a batch. One that has forgotten the job is rebuilt now, so that progress is shown and
    /// done batches are known before the next commit.
    async fn ask_ledger(&self, descriptor: &BatchDescriptor, claimant: Option<&str>) -> Known {
        let BatchDescriptor { job, batch, out, .. } = descriptor;
        match self.ledger.begin(job, *batch, claimant).await {
            // The ledger is a cache: what it calls done is looked up, and computed again if its part was deleted.
            Ok(Some(begun)) => Known { may_be_written: begun.done, ..Known::of(begun) },
            Ok(None) => {
                if let Err(error) = self.rebuild_ledger(job, out).await {
                    tracing::warn!(error = %describe(&error), "the ledger could not be rebuilt; going on without it");
                }
                // The output remembers what the ledger has forgotten.
                let begun = self.ledger.begin(job, *batch, claimant).await.ok().flatten();
                Known { may_be_written: true, ..begun.map(Known::of).unwrap_or_default() }
            }
            // One that is away must not stop the work: what it would have saved is only repeated work, and the part
            // decides.
            Err(error) => {
                tracing::warn!(%error, "the ledger does not answer; going on without it");
                Known { asked_in_vain: true, ..Known::default() }
            }
        }
    }

    /// Takes a claim back.
    pub(super) async fn release(&self, descriptor: &BatchDescriptor) {
        if let Err(error) = self.ledger.release(&descriptor.job, descriptor.batch).await {
            tracing::debug!(%error, "a claim was not released");
        }
    }

    /// Whether the process before this one ended while the batch was in work (embedded runs only).
    pub(super) fn has_begun(&self, subject: &Subject) -> bool {
        let begun = self.begun.as_ref().map(|begun| begun.lock().expect("no panic while the set is held"));
        begun.is_some_and(|begun| begun.contains(&subject.batch.0))
    }

    /// Leaves a mark for the process after this one, in case this one ends without a word (embedded runs only).
    pub(super) async fn mark_begun(
        &self,
        descriptor: &BatchDescriptor,
        job: &JobContext,
    ) -> Result<(), Failure> {
        if self.begun.is_none() {
            return Ok(());
        }
        let store = self.stores.open(job.layout.root()).await;
        Ok(Journal::new(descriptor).write(&*store, &job.layout, descriptor).await?)
    }

    /// A batch that is given back, by a process that lives, has killed nobody.
    pub(super) async fn forgive(&self, descriptor: &BatchDescriptor, alone: bool) {
        let Ok(out) = Location::parse(&descriptor.out, std::path::Path::new("/")) else { return };
        let store = self.stores.open(&out).await;
        let layout = OutputLayout::new(out);
        if alone {
            Journal::forgive(&*store, &layout, descriptor, &self.worker).await;
        } else if self.begun.is_some()
            && let Err(error) = store.delete(&layout.solo(descriptor.batch)).await
        {
            tracing::debug!(%error, "a mark was left behind");
        }
    }
}
