//! Intake: from a delivery to an open batch, or to the reason why there is nothing to compute.
//!
//! The first stage. Asks, in this order and cheapest first: is the message ours, is the job cancelled, is
//! its part there already (asked if the ledger says so or the broker has delivered it before). Only then is
//! anything fetched. It must never ack: that is settle's.

use super::Pipeline;
use crate::jobs::JobContext;
use std::sync::Arc;
use trawl_common::{
    batch::BatchDescriptor,
    disposition::Failure,
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
        match self.ledger.state(&descriptor.job).await {
            Ok(Some(JobState::Cancelled)) => return Ok(Intake::Cancelled),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the ledger does not answer; going on without it"),
        }
        // The ledger is a cache: what it calls done is looked up, and computed again if its part was deleted.
        let recorded = self.ledger.is_done(&descriptor.job, descriptor.batch).await.unwrap_or(false);
        if recorded || seen {
            let out = Location::parse(&descriptor.out, std::path::Path::new("/"))
                .map_err(|e| Failure::Job(e.to_string()))?;
            let store = self.stores.open(&out).await;
            let key = OutputLayout::new(out).part(descriptor.batch);
            match part::read_footer(&*store, &key).await {
                Ok(footer) if footer.job == descriptor.job => return Ok(Intake::Written(footer.outcome())),
                Ok(footer) => {
                    return Err(Failure::Job(format!("`{key}` belongs to job `{}`", footer.job)));
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(Failure::Output(trawl_common::disposition::describe(&error))),
            }
        }
        Ok(self.jobs.get(descriptor).await?.map_or(Intake::Cancelled, Intake::Compute))
    }
}
