//! Whether an output is what its plan says: the checks that `finalize`, `trawl verify` and `trawl repair` share.
//!
//! After the life of a batch. Believes the bucket alone: plan and parts are compared as sets, from footers, and
//! no row is read unless [`Depth::Keys`] asks for it. Works through any number of batches with one bit and some
//! bytes of each; what is wrong is handed to the caller as it is found. It must never write, and never call an
//! output complete that lacks a row or gives one twice to a reader of `OUT/*.parquet`.
//!
//! [`finding`] names what can be wrong, [`part`] looks at one part, [`keys`] at its rows, [`report`] sums up.

pub mod finding;
mod keys;
mod manifest_check;
pub mod part;
pub mod report;
mod top_level;

use crate::{
    batch::BatchNumber,
    bits::Bits,
    disposition::describe,
    job::JobSpec,
    ledger::BatchOutcome,
    planning::{
        PlanError, PlanShape,
        cancellation::{self, Hold},
        submit::stored_spec,
    },
    results::OutputLayout,
    storage::{Storage, StorageError},
};
use finding::{Finding, Kind};
use futures::{StreamExt, TryStreamExt, stream};
use manifest_check::ManifestCheck;
use part::{Looked, look};
use top_level::TopLevel;

/// Footers read at a time: the latency of a bucket is hidden, its limit of some thousand requests a second is not
/// reached.
pub const FOOTERS_AT_ONCE: usize = 32;

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Footers alone: some kilobytes a part.
    Footers,
    /// The keys and error codes of every row as well: every part is read as a whole.
    Keys,
}

/// Why an output cannot be looked at; what is wrong with it is a [`Finding`] instead.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// There is no job at this place.
    #[error("`{out}` is not the output of a job: it has no _trawl/job.json")]
    NoJob {
        /// The place.
        out: String,
    },
    /// The spec cannot be read, so that nothing can be compared with it; or the plan could not be listed.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl AuditError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_transient(),
            Self::Plan(error) => error.is_transient(),
            Self::NoJob { .. } => false,
        }
    }
}

/// What was counted; what is wrong went to the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The job that has the output.
    pub spec: JobSpec,
    /// Batches in the plan so far; 0 if the plan cannot be read.
    pub batches_planned: u64,
    /// Images in the plan so far.
    pub images_planned: u64,
    /// Whether the plan is at its end.
    pub plan_done: bool,
    /// Parts that are what they should be.
    pub parts: u64,
    /// Their rows.
    pub totals: BatchOutcome,
    /// Whether `_SUCCESS` is there.
    pub success: bool,
    /// Whether the job was given up or is held back, by the marks in its output.
    pub held: Option<Hold>,
}

/// Looks at the output of a job and calls `found` for all that is wrong; the same output gives the same findings in
/// the same order. Cancel safe; writes nothing.
///
/// # Errors
/// [`AuditError`]: no job, a spec of another version, or what the store gives after retries.
pub async fn audit(
    store: &dyn Storage,
    layout: &OutputLayout,
    depth: Depth,
    found: &mut (dyn FnMut(Finding) + Send),
) -> Result<Audit, AuditError> {
    let no_job = || AuditError::NoJob { out: layout.root().to_string() };
    let spec = stored_spec(store, layout).await?.ok_or_else(no_job)?;
    let success = is_there(store, &layout.success()).await?;
    // One that was given up and came to its end all the same is at its end.
    let held = if success { None } else { cancellation::marked(store, layout).await? };
    let shape = plan_shape(store, layout, found).await?;
    let mut manifest = ManifestCheck::begin(store, layout, &spec, success).await?;
    let (mut there, mut usable) = (Bits::default(), Bits::default());
    let (mut parts, mut totals) = (0, BatchOutcome::default());
    let mut listing = TopLevel::new(store, layout);
    while let Some(objects) = listing.next_page().await? {
        let looks: Vec<_> =
            objects.into_iter().map(|object| look(store, layout, &spec, &shape, object)).collect();
        let mut looked = stream::iter(looks).buffered(FOOTERS_AT_ONCE);
        while let Some(looked) = looked.try_next().await? {
            let Some(Looked { object, place, footer, finding }) = looked else { continue };
            if let Some(batch) = place {
                there.set(batch.0);
                if let Some(footer) = footer {
                    usable.set(batch.0);
                    manifest.part(batch, &object, &footer).await?;
                    parts += 1;
                    totals.add(&footer.outcome());
                }
            }
            finding.into_iter().for_each(&mut *found);
        }
    }
    for batch in (0..shape.batches()).filter(|n| !there.has(*n)).map(BatchNumber) {
        found(Finding::of_object(Kind::Missing, layout.part(batch), "it is not there").of_batch(batch));
    }
    if depth == Depth::Keys {
        keys::compare(store, layout, shape.files(), &usable, found).await?;
    }
    match success {
        true => manifest.end(parts, &totals).into_iter().for_each(&mut *found),
        false => found(Finding::of_job(Kind::NoSuccess, "there is no _SUCCESS")),
    }
    Ok(Audit {
        batches_planned: shape.batches(),
        images_planned: shape.images(),
        plan_done: shape.is_done(),
        parts,
        totals,
        success,
        held,
        spec,
    })
}

/// The plan as far as it can be read; what is wrong with it is a finding.
async fn plan_shape(
    store: &dyn Storage,
    layout: &OutputLayout,
    found: &mut (dyn FnMut(Finding) + Send),
) -> Result<PlanShape, PlanError> {
    let shape = match PlanShape::read(store, layout).await {
        Ok(shape) => shape,
        Err(error) if error.is_damage() => {
            found(Finding::of_job(Kind::BrokenPlan, describe(&error)));
            return Ok(PlanShape::default());
        }
        Err(error) => return Err(error),
    };
    if !shape.is_done() {
        let detail = format!(
            "it has {} batches so far and no end mark: its producer is still listing, or was stopped",
            shape.batches()
        );
        found(Finding::of_job(Kind::OpenPlan, detail));
    }
    Ok(shape)
}

async fn is_there(store: &dyn Storage, key: &str) -> Result<bool, StorageError> {
    match store.head(key).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(crate) mod tests;
