//! The end of a job: when the parts equal the plan, the manifest and `_SUCCESS` are written.
//!
//! Run by the worker that takes the `finalize` message, by `trawl repair`, and by the embedded run. Believes
//! the bucket alone, never the ledger. Running it twice, or on two workers at once, is harmless: both write
//! the same. It must never write `_SUCCESS` while a planned image has no row, or hold more than a bit of each part: a
//! huge job's manifest is written in pieces.

use crate::{
    audit::{
        FOOTERS_AT_ONCE,
        part::{Mismatch, mismatch},
    },
    batch::BatchNumber,
    bits::Bits,
    config::unix_ms,
    failpoint,
    job::{JobId, JobSpec},
    location::Location,
    planning::{PlanError, PlanShape, submit::stored_spec},
    results::{
        Manifest, OutputLayout,
        footer::FetchFooterError,
        manifest::{MANIFEST_VERSION, MAX_MANIFEST_BYTES},
        manifest_pieces::{ManifestWriter, PARTS_A_PIECE},
        part::read_sized_footer,
    },
    storage::{Storage, StorageError, Stores},
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::BTreeMap;

/// Missing batches named in an answer; the count says how many there are.
const MISSING_NAMED: usize = 20;

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finalized {
    /// The manifest and `_SUCCESS` are there; it has the sums, and the parts of a small job.
    Written(Box<Manifest>),
    /// Some batches have no part yet.
    Incomplete {
        /// The first of them.
        missing: Vec<BatchNumber>,
        /// How many there are.
        missing_count: u64,
    },
    /// The plan has no end yet: the producer is still listing, or was killed.
    PlanOpen,
}

/// Why a job cannot be finished.
#[derive(Debug, thiserror::Error)]
pub enum FinalizeError {
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A part or a plan file that cannot be read.
    #[error(transparent)]
    Footer(#[from] FetchFooterError),
    /// The output has another job than the message says.
    #[error("{out} belongs to job {found}, not to {expected}")]
    OtherJob {
        /// The output.
        out: String,
        /// The job that has it.
        found: JobId,
        /// The job to be finished.
        expected: JobId,
    },
    /// The spec or the plan cannot be read, or the plan contradicts itself.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Parts that no plan asks for; readers of `OUT/*.parquet` would take them for results.
    #[error(
        "`{key}` is not in the plan of {batches} batches, and {more} more are not: remove them, then run `trawl repair`"
    )]
    ForeignPart {
        /// The first of them.
        key: String,
        /// Batches in the plan.
        batches: u64,
        /// How many others.
        more: u64,
    },
    /// A part that is not what the plan and the spec say.
    #[error("`{key}` has {what} {found} instead of {expected}: remove it, then run `trawl repair`")]
    Mismatch {
        /// The part.
        key: String,
        /// What differs.
        what: &'static str,
        /// In the part.
        found: String,
        /// By the plan or the spec.
        expected: String,
    },
}

impl FinalizeError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_transient(),
            Self::Footer(error) => error.is_transient(),
            Self::Plan(error) => error.is_transient(),
            Self::OtherJob { .. } | Self::ForeignPart { .. } | Self::Mismatch { .. } => false,
        }
    }
}

/// Compares the parts of a job with its plan and, if they are equal, writes manifest and `_SUCCESS`.
/// Idempotent and cancel safe; a finished job is answered from its manifest.
///
/// # Errors
/// [`FinalizeError`] if the output cannot be finished; neither manifest nor `_SUCCESS` is written then.
pub async fn finalize(job: &JobId, out: &Location, stores: &Stores) -> Result<Finalized, FinalizeError> {
    finalize_in_pieces(job, out, stores, PARTS_A_PIECE).await
}

/// The same with a manifest that is cut into pieces of so many parts if there are more.
///
/// # Errors
/// As [`finalize`].
pub(crate) async fn finalize_in_pieces(
    job: &JobId,
    out: &Location,
    stores: &Stores,
    parts_a_piece: u64,
) -> Result<Finalized, FinalizeError> {
    let output = Output { store: &*stores.open(out).await, layout: &OutputLayout::new(out.clone()) };
    let spec = output.spec(job).await?;
    if let Some(manifest) = finished_manifest(output.store, output.layout, job).await? {
        return Ok(Finalized::Written(Box::new(manifest)));
    }
    failpoint::hit(failpoint::FINALIZE_BEFORE).await;
    let shape = PlanShape::read(output.store, output.layout).await?;
    if !shape.is_done() {
        return Ok(Finalized::PlanOpen);
    }
    let batches = shape.batches();
    let parts = output.parts().await?;
    if let Some((first, more)) = beyond(&parts, batches) {
        let key = output.layout.part(BatchNumber(first));
        return Err(FinalizeError::ForeignPart { key, batches, more });
    }
    if parts.len() < batches {
        let missing = (0..batches).filter(|n| !parts.has(*n)).map(BatchNumber);
        let missing_count = batches - parts.len();
        return Ok(Finalized::Incomplete { missing: missing.take(MISSING_NAMED).collect(), missing_count });
    }
    let manifest = output.manifest(&spec, &shape, parts_a_piece).await?;
    failpoint::hit(failpoint::MANIFEST_BEFORE).await;
    output.store.put(&output.layout.manifest(), manifest.to_json()).await?;
    failpoint::hit(failpoint::SUCCESS_BEFORE).await;
    output.store.put(&output.layout.success(), Bytes::new()).await?;
    failpoint::hit(failpoint::FINALIZED).await;
    Ok(Finalized::Written(Box::new(manifest)))
}

/// The first part beyond the plan, and how many others there are.
fn beyond(parts: &Bits, batches: u64) -> Option<(u64, u64)> {
    let mut beyond = parts.from(batches);
    Some((beyond.next()?, beyond.count() as u64))
}

struct Output<'a> {
    store: &'a dyn Storage,
    layout: &'a OutputLayout,
}

impl Output<'_> {
    async fn spec(&self, job: &JobId) -> Result<JobSpec, FinalizeError> {
        let key = self.layout.job();
        let spec = stored_spec(self.store, self.layout).await?.ok_or(StorageError::NotFound { key })?;
        if spec.job != *job {
            let out = self.layout.root().to_string();
            return Err(FinalizeError::OtherJob { out, found: spec.job, expected: job.clone() });
        }
        Ok(spec)
    }

    /// The batches that have a part.
    async fn parts(&self) -> Result<Bits, FinalizeError> {
        let mut parts = Bits::default();
        let prefix = self.layout.part_prefix();
        let mut pages = self.store.list(&prefix, None);
        while let Some(page) = pages.next().await {
            for object in page?.objects {
                if let Some(number) = self.layout.batch_of_part(&object.key) {
                    parts.set(number.0);
                }
            }
        }
        Ok(parts)
    }

    /// Reads every part's footer and sums them up; writes the pieces, if there are to be any.
    async fn manifest(
        &self,
        spec: &JobSpec,
        shape: &PlanShape,
        parts_a_piece: u64,
    ) -> Result<Manifest, FinalizeError> {
        let manifest = Manifest {
            version: MANIFEST_VERSION,
            job: spec.job.clone(),
            batches: 0,
            rows: 0,
            images_ok: 0,
            images_failed: 0,
            errors: BTreeMap::new(),
            stages: Default::default(),
            model_sha256: spec.model.sha256.clone(),
            preprocess_sha256: spec.preprocess_digest(),
            created_unix_ms: spec.created_unix_ms,
            finished_unix_ms: unix_ms(),
            engines: Default::default(),
            trawl: env!("CARGO_PKG_VERSION").to_owned(),
            parts: Vec::new(),
            pieces: Vec::new(),
        };
        let batches = shape.batches();
        let mut writer = ManifestWriter::new(self.store, self.layout, manifest, batches, parts_a_piece);
        let fetch = |number: u64| async move {
            let (batch, key) = (BatchNumber(number), self.layout.part(BatchNumber(number)));
            let (footer, bytes) = read_sized_footer(self.store, &key).await?;
            match mismatch(spec, batch, shape.images_of(batch), &footer) {
                None => Ok::<_, FinalizeError>((bytes, footer)),
                Some(Mismatch { what, found, expected, .. }) => {
                    Err(FinalizeError::Mismatch { key, what, found, expected })
                }
            }
        };
        let mut footers = stream::iter(0..batches).map(fetch).buffered(FOOTERS_AT_ONCE);
        while let Some((bytes, footer)) = footers.try_next().await? {
            writer.push(format!("part-{}.parquet", footer.batch), bytes, &footer).await?;
        }
        Ok(writer.finish().await?)
    }
}

/// An object that may not be there.
async fn optional(store: &dyn Storage, key: &str) -> Result<Option<Bytes>, StorageError> {
    match store.get(key, MAX_MANIFEST_BYTES).await {
        Ok(object) => Ok(Some(object.bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The manifest of a job with `_SUCCESS`; `None` if there is no mark, or if the manifest beside it cannot be read or
/// is another job's and wants to be made again.
///
/// # Errors
/// What the store gives, other than that the objects are not there.
pub async fn finished_manifest(
    store: &dyn Storage,
    layout: &OutputLayout,
    job: &JobId,
) -> Result<Option<Manifest>, StorageError> {
    if optional(store, &layout.success()).await?.is_none() {
        return Ok(None);
    }
    let json = optional(store, &layout.manifest()).await?;
    let manifest = json.and_then(|json| Manifest::parse(&json).ok());
    Ok(manifest.filter(|manifest| manifest.job == *job))
}

#[cfg(test)]
#[path = "finalize_tests.rs"]
pub(crate) mod tests;
