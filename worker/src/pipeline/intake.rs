//! Intake: from a delivery to an open batch, or to the reason why there is nothing to compute.
//!
//! The first stage. Asks, in this order and cheapest first: is the message ours, is the job cancelled, is
//! its part there already (asked if the ledger says so or the broker has delivered it before). Only then is
//! anything fetched. It must never ack: that is settle's.

use super::{Pipeline, journal::Journal, settle::Subject};
use crate::jobs::JobContext;
use std::sync::Arc;
use trawl_common::{
    batch::BatchDescriptor,
    disposition::{Failure, describe},
    ledger::{BatchOutcome, JobState},
    location::Location,
    results::{OutputLayout, part},
};

/// What a batch needs.
pub enum Intake {
    /// Nothing: the job was cancelled, or its output removed and submitted anew.
    Cancelled,
    /// Only the commit: an earlier attempt wrote its part.
    Written(BatchOutcome),
    /// The work.
    Compute(Arc<JobContext>),
}

impl Pipeline {
    /// Decides about a parsed batch; `seen` if somebody may have worked on it before. Cancel safe.
    ///
    /// # Errors
    /// [`Failure`] if the job or its model is not to be had.
    pub(super) async fn take_in(&self, descriptor: &BatchDescriptor, seen: bool) -> Result<Intake, Failure> {
        trawl_common::failpoint::hit(trawl_common::failpoint::INTAKE_BEFORE).await;
        // A ledger that is away must not stop the work: what it would have saved is only repeated work,
        // and the part decides.
        let recorded = match self.ledger.state(&descriptor.job).await {
            Ok(Some(JobState::Cancelled)) => return Ok(Intake::Cancelled),
            // The ledger is a cache: what it calls done is looked up, and computed again if its part was deleted.
            Ok(Some(_)) => self.ledger.is_done(&descriptor.job, descriptor.batch).await.unwrap_or(false),
            // Wiped: rebuilt now, so that progress is shown and done batches are known before the next commit.
            Ok(None) => {
                // Whoever comes second waits here, and finds it done.
                drop(self.jobs.rebuilding.lock().await);
                let known = matches!(self.ledger.state(&descriptor.job).await, Ok(Some(_)));
                if !known && let Err(error) = self.rebuild_ledger(&descriptor.job, &descriptor.out).await {
                    tracing::warn!(error = %describe(&error), "the ledger could not be rebuilt; going on without it");
                }
                // The output remembers what the ledger has forgotten.
                if matches!(self.ledger.state(&descriptor.job).await, Ok(Some(JobState::Cancelled))) {
                    return Ok(Intake::Cancelled);
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the ledger does not answer; going on without it");
                false
            }
        };
        if recorded || seen {
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
        Ok(self.jobs.get(descriptor).await?.map_or(Intake::Cancelled, Intake::Compute))
    }

    /// Says in the ledger that this worker is at the batch; a ledger that is away shows nothing.
    pub(super) async fn claim(&self, descriptor: &BatchDescriptor) {
        let claiming = self.ledger.claim(&descriptor.job, descriptor.batch, &self.worker);
        if let Err(error) = claiming.await {
            tracing::debug!(%error, "a batch is worked on without a claim");
        }
    }

    /// Takes that back.
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
