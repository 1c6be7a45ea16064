//! A job's ledger from its output: for a ledger that was wiped, lost its last writes, or has evicted keys.
//!
//! The bucket is the truth, so this can be done at any time, by anybody, and by several at once: every step is
//! idempotent and counts a batch at most once. Run by a worker that finds its job unknown and by `trawl repair`.
//! It publishes nothing and never touches the output.

use super::{
    PlanError,
    cancellation::{self, Hold},
    publish::{FOOTERS_AT_ONCE, on_ledger, parts_there, record_part},
    shape::PlanShape,
};
use crate::{
    batch::BatchNumber,
    disposition::describe,
    finalize::finished_manifest,
    job::{JobId, JobSpec},
    ledger::{JobRecord, Ledger, LedgerError},
    results::OutputLayout,
    storage::Storage,
};
use futures::{StreamExt, TryStreamExt, stream};
use std::sync::Arc;

/// How often a ledger that forgets the job while it is filled is filled anew: wiped again and again it is none.
const FILLS: usize = 3;

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
    /// The job was given up or held back, and is so again.
    pub held: bool,
}

/// Fills `ledger` with what `store` has of the job. What is counted there already stays counted once, and a job that
/// was held stays so, by the ledger's word or by the mark in the output. Cancel safe: what is missing is filled
/// in by the next call.
///
/// # Errors
/// [`PlanError`] if plan or parts cannot be listed, or if the ledger stays away.
pub async fn rebuild(
    spec: &JobSpec,
    layout: &OutputLayout,
    store: &Arc<dyn Storage>,
    ledger: &dyn Ledger,
) -> Result<Rebuilt, PlanError> {
    for _ in 0..FILLS {
        let rebuilt = fill(spec, layout, store, ledger).await?;
        // Forgotten again in the middle of it, in whole or in part, nobody may be left who would notice.
        let counted = on_ledger(|| ledger.progress(&spec.job)).await?;
        if counted.is_some_and(|progress| progress.batches_done + rebuilt.unusable >= rebuilt.parts) {
            return Ok(rebuilt);
        }
    }
    Err(LedgerError::Forgotten { job: spec.job.clone() }.into())
}

async fn fill(
    spec: &JobSpec,
    layout: &OutputLayout,
    store: &Arc<dyn Storage>,
    ledger: &dyn Ledger,
) -> Result<Rebuilt, PlanError> {
    let record = JobRecord::of(spec);
    if let Some(manifest) = finished_manifest(&**store, layout, &spec.job).await? {
        let totals = manifest.totals();
        on_ledger(|| ledger.finalized(&record, manifest.batches, &totals)).await?;
        let (batches_planned, parts) = (manifest.batches, manifest.listed());
        return Ok(Rebuilt { batches_planned, parts, complete: true, ..Rebuilt::default() });
    }
    let shape = PlanShape::read(&**store, layout).await?;
    let there = parts_there(&**store, layout).await?;
    // The last that is read, so that it is no older than a moment: the job may be submitted again while the output is
    // listed. Opening takes a held job back to work, so the two calls stand next to each other.
    let held = match cancellation::marked(&**store, layout).await? {
        Some(hold) => Some(hold),
        None => held(spec, ledger).await?,
    };
    on_ledger(|| ledger.open(&record)).await?;
    match held {
        Some(Hold::Cancelled) => drop(on_ledger(|| ledger.cancel(&spec.job)).await?),
        Some(Hold::Paused) => drop(on_ledger(|| ledger.pause(&spec.job)).await?),
        None => {}
    }
    let (parts, mut unusable) = (there.len(), 0);
    let mut recorded = stream::iter(there.into_numbers())
        .map(|number| record_if_usable(spec, &shape, ledger, &**store, layout, BatchNumber(number)))
        .buffer_unordered(FOOTERS_AT_ONCE);
    while let Some(recorded) = recorded.try_next().await? {
        unusable += u64::from(recorded.is_none());
    }
    // Last: until a plan is announced the ledger is known to be half filled (see `is_half_filled`), should this
    // process end before.
    let (batches, images) = (shape.batches(), shape.images());
    let job_done = match shape.is_done() {
        true => on_ledger(|| ledger.plan_complete(&spec.job, batches, images)).await?,
        false => {
            on_ledger(|| ledger.planned(&spec.job, batches, images)).await?;
            false
        }
    };
    Ok(Rebuilt { batches_planned: batches, parts, unusable, job_done, complete: false, held: held.is_some() })
}

/// Whether whoever filled this job's ledger did not come to the end of it: every job has its plan announced before
/// its first message, and a rebuild announces it last.
///
/// # Errors
/// What the ledger gives. Cancel safe.
pub async fn is_half_filled(job: &JobId, ledger: &dyn Ledger) -> Result<bool, LedgerError> {
    Ok(ledger.progress(job).await?.is_none_or(|progress| progress.batches_planned == 0))
}

/// How the ledger has this very job as held, if it has.
pub(super) async fn held(spec: &JobSpec, ledger: &dyn Ledger) -> Result<Option<Hold>, PlanError> {
    let known = on_ledger(|| ledger.progress(&spec.job)).await?;
    let known = known.filter(|known| known.created_unix_ms == spec.created_unix_ms);
    Ok(known.and_then(|known| Hold::of(known.state)))
}

/// `None` for a part that is none of this job's; `trawl verify` says what is wrong with it.
async fn record_if_usable(
    spec: &JobSpec,
    shape: &PlanShape,
    ledger: &dyn Ledger,
    store: &dyn Storage,
    layout: &OutputLayout,
    batch: BatchNumber,
) -> Result<Option<bool>, PlanError> {
    let images = shape.images_of(batch);
    if images.is_none() && shape.is_done() {
        tracing::warn!("part {batch} is beyond the plan and is not counted");
        return Ok(None);
    }
    match record_part(spec, ledger, store, layout, batch, images).await {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.is_damage() => {
            tracing::warn!(error = %describe(&error), "a part is not counted");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::JobState;
    use crate::{
        ledger::memory::MemoryLedger,
        planning::{
            open_output,
            tests::{FOREVER, OneJob, Outbox, bucket, output, plan, put_part, spec, submit},
        },
    };

    #[tokio::test]
    async fn a_cancelled_job_stays_cancelled_until_it_is_submitted_again() {
        let (stores, job) = (bucket(95).await, spec(&["s3://b/p"]));
        submit(&stores, &job, &Outbox::new(FOREVER), &OneJob::new(FOREVER)).await.unwrap();
        let (store, layout) = output(&stores, &job).await;
        let batches = plan(&stores, &job).await;
        for (number, images) in &batches[..3] {
            put_part(&stores, &job, *number, images).await;
        }
        // One that has other rows than planned does not count.
        put_part(&stores, &job, BatchNumber(3), &batches[3].1[..9]).await;
        cancellation::mark(&*store, &layout, &job, Hold::Cancelled, 5).await.unwrap();
        let ledger = MemoryLedger::new();
        let rebuilt = rebuild(&job, &layout, &store, &ledger).await.unwrap();
        assert_eq!((rebuilt.parts, rebuilt.unusable, rebuilt.held), (4, 1, true));
        let progress = ledger.progress(&job.job).await.unwrap().unwrap();
        assert_eq!((progress.state, progress.images_ok, progress.batches_done), (JobState::Cancelled, 30, 3));
        assert_eq!((progress.batches_planned, progress.images_planned), (10, 95));

        open_output(&job, &stores).await.unwrap();
        assert_eq!(cancellation::marked(&*store, &layout).await.unwrap(), None);
        // The ledger still says so itself, and is believed.
        assert!(rebuild(&job, &layout, &store, &ledger).await.unwrap().held);
        ledger.forget(&job.job).await.unwrap();
        assert!(!rebuild(&job, &layout, &store, &ledger).await.unwrap().held);
        assert_eq!(ledger.state(&job.job).await.unwrap(), Some(JobState::Running));
    }
}
