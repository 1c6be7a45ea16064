//! One object among the parts: is it the part that the plan and the spec ask for?
//!
//! The one check of a part's footer, for all who ask before they count a part as done: finalize, verify, repair, a
//! resumed submission and the rebuild of a ledger. No request is made beyond the footer's.

use super::finding::{Finding, Kind};
use crate::{
    batch::BatchNumber,
    disposition::describe,
    job::JobSpec,
    planning::PlanShape,
    results::{
        OutputLayout, PartFooter,
        footer::{FetchFooterError, FooterError},
        part::read_footer,
    },
    storage::{ObjectMeta, Storage, StorageError},
};

/// What a part says of itself that the plan or the spec does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// What follows from it.
    pub kind: Kind,
    /// What differs.
    pub what: &'static str,
    /// In the part.
    pub found: String,
    /// By the plan or the spec.
    pub expected: String,
}

/// The first thing in which the part of batch `batch` is not `spec`'s; `images` are those planned for it, `None` if
/// the plan is not known.
pub fn mismatch(
    spec: &JobSpec,
    batch: BatchNumber,
    images: Option<u64>,
    footer: &PartFooter,
) -> Option<Mismatch> {
    // An older part does not say which submission it is of: that is no proof against it.
    let created = footer.created_unix_ms.unwrap_or(spec.created_unix_ms);
    let checks = [
        (Kind::Foreign, "the job", footer.job.to_string(), spec.job.to_string()),
        (Kind::Foreign, "the submission time", created.to_string(), spec.created_unix_ms.to_string()),
        (Kind::Duplicate, "the batch", footer.batch.to_string(), batch.to_string()),
        (Kind::WrongModel, "the model", footer.model_sha256.clone(), spec.model.sha256.clone()),
        (
            Kind::WrongPreprocessing,
            "the preprocessing",
            footer.preprocess_sha256.clone(),
            spec.preprocess_digest(),
        ),
        (
            Kind::WrongRows,
            "a row count of",
            footer.rows.to_string(),
            images.unwrap_or(footer.rows).to_string(),
        ),
    ];
    let differing = checks.into_iter().find(|(_, _, found, expected)| found != expected);
    differing.map(|(kind, what, found, expected)| Mismatch { kind, what, found, expected })
}

/// An object that was looked at.
#[derive(Debug)]
pub(super) struct Looked {
    /// The object.
    pub(super) object: ObjectMeta,
    /// The batch whose place it holds; `None` for another name than a part's.
    pub(super) place: Option<BatchNumber>,
    /// What it is, if it is what it should be.
    pub(super) footer: Option<PartFooter>,
    /// What is wrong, if something is.
    pub(super) finding: Option<Finding>,
}

/// Looks at an object that readers of `OUT/*.parquet` take up.
pub(super) async fn look(
    store: &dyn Storage,
    layout: &OutputLayout,
    spec: &JobSpec,
    shape: &PlanShape,
    object: ObjectMeta,
) -> Result<Option<Looked>, StorageError> {
    let place = layout.batch_of_part(&object.key);
    let name = layout.top_level_name(&object.key).unwrap_or(&object.key);
    let found = |kind, batch: Option<BatchNumber>, detail: String| {
        let finding = Finding::of_object(kind, &object.key, detail);
        Some(Finding { batch, etag: object.etag.clone(), ..finding })
    };
    let (footer, finding) = match read_footer(store, &object.key).await {
        Ok(footer) => match judge(spec, shape, place, &footer) {
            None => (Some(footer), None),
            Some((kind, detail)) => (None, found(kind, place.or(Some(footer.batch)), detail)),
        },
        // Removed since it was listed: what is left is what counts.
        Err(error) if error.is_not_found() => return Ok(None),
        Err(FetchFooterError::Storage(error)) => return Err(error),
        Err(FetchFooterError::Unusable { reason, .. }) => {
            let ours = place.is_some() || name.starts_with("part-");
            let kind = match &reason {
                _ if !ours => Kind::Stray,
                FooterError::Missing(_) => Kind::Foreign,
                FooterError::Bad { name: "trawl.rows", .. } => Kind::WrongRows,
                FooterError::Bad { .. } | FooterError::Parquet(_) | FooterError::NeedMore(_) => {
                    Kind::Unreadable
                }
            };
            (None, found(kind, place, describe(&reason)))
        }
    };
    Ok(Some(Looked { object, place, footer, finding }))
}

/// What is wrong with a readable part at this place.
fn judge(
    spec: &JobSpec,
    shape: &PlanShape,
    place: Option<BatchNumber>,
    footer: &PartFooter,
) -> Option<(Kind, String)> {
    let Some(batch) = place else {
        let theirs = footer.job != spec.job;
        return Some(match theirs {
            true => (Kind::Foreign, format!("it is batch {} of job {}", footer.batch, footer.job)),
            false => (Kind::Duplicate, format!("its rows are those of batch {}", footer.batch)),
        });
    };
    let images = shape.images_of(batch);
    if let Some(Mismatch { kind, what, found, expected }) = mismatch(spec, batch, images, footer) {
        return Some((kind, format!("it has {what} {found} instead of {expected}")));
    }
    // While the plan grows, the file that has this batch may have been written after it was read.
    let beyond = shape.is_done() && images.is_none();
    beyond.then(|| (Kind::Foreign, format!("the plan has {} batches", shape.batches())))
}
