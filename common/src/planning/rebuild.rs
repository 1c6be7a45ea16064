//! A job's ledger from its output: for a ledger that was wiped, lost its last writes, or has evicted keys.
//!
//! The bucket is the truth, so this can be done at any time, by anybody, and by several at once: every step is
//! idempotent and counts a batch at most once. Run by a worker that finds its job unknown and by `trawl repair`.
//! It publishes nothing and never touches the output.

use super::{
    PlanError,
    plan_log::PlanLog,
    publish::{FOOTERS_AT_ONCE, on_ledger, parts_there, record_part},
};
use crate::{
    batch::BatchNumber,
    disposition::describe,
    finalize::finished_manifest,
    job::JobSpec,
    ledger::{JobRecord, Ledger},
    results::OutputLayout,
    storage::Storage,
};
use futures::{StreamExt, TryStreamExt, stream};
use std::sync::Arc;

/// What a ledger was rebuilt to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rebuilt {
    /// Batches planned so far.
    pub batches_planned: u64,
    /// Parts that were found.
    pub parts: u64,
    /// Parts that could not be read or are not this job's; not counted.
    pub unusable: u64,
    /// The plan is at its end and every batch is done: somebody must ask for the finish.
    pub job_done: bool,
    /// The job was complete already.
    pub complete: bool,
}

/// Fills `ledger` with what `store` has of the job. What is counted there already stays counted once.
/// Cancel safe: what is missing is filled in by the next call.
///
/// # Errors
/// [`PlanError`] if plan or parts cannot be listed, or if the ledger stays away.
pub async fn rebuild(
    spec: &JobSpec,
    layout: &OutputLayout,
    store: &Arc<dyn Storage>,
    ledger: &dyn Ledger,
) -> Result<Rebuilt, PlanError> {
    let record = JobRecord::of(spec);
    if let Some(manifest) = finished_manifest(&**store, layout, &spec.job).await? {
        let totals = manifest.totals();
        on_ledger(|| ledger.finalized(&record, manifest.batches, &totals)).await?;
        let (batches_planned, parts) = (manifest.batches, manifest.parts.len() as u64);
        return Ok(Rebuilt { batches_planned, parts, complete: true, ..Rebuilt::default() });
    }
    on_ledger(|| ledger.open(&record)).await?;
    let mut log = PlanLog::new(store.clone(), layout.clone());
    log.catch_up().await?;
    let (batches, images) = (log.next_batch, log.cursor.images);
    let mut job_done = match log.done().await? {
        Some(_) => on_ledger(|| ledger.plan_complete(&spec.job, batches, images)).await?,
        None => {
            on_ledger(|| ledger.planned(&spec.job, batches, images)).await?;
            false
        }
    };
    let mut there: Vec<u64> = parts_there(&**store, layout).await?.into_iter().collect();
    there.sort_unstable();
    let (parts, mut unusable) = (there.len() as u64, 0);
    let mut recorded = stream::iter(there)
        .map(|number| record_if_usable(spec, ledger, &**store, layout, BatchNumber(number)))
        .buffer_unordered(FOOTERS_AT_ONCE);
    while let Some(recorded) = recorded.try_next().await? {
        match recorded {
            Some(done) => job_done |= done,
            None => unusable += 1,
        }
    }
    Ok(Rebuilt { batches_planned: batches, parts, unusable, job_done, complete: false })
}

/// `None` for a part that is none of this job's; `trawl verify` says what is wrong with it.
async fn record_if_usable(
    spec: &JobSpec,
    ledger: &dyn Ledger,
    store: &dyn Storage,
    layout: &OutputLayout,
    batch: BatchNumber,
) -> Result<Option<bool>, PlanError> {
    match record_part(spec, ledger, store, layout, batch).await {
        Ok(done) => Ok(Some(done)),
        Err(error @ PlanError::ForeignPart { .. }) => {
            tracing::warn!(error = %describe(&error), "a part is not counted");
            Ok(None)
        }
        Err(PlanError::Footer(error)) if !error.is_transient() => {
            tracing::warn!(error = %describe(&error), "a part is not counted");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
