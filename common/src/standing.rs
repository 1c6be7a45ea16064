//! How a job stands by its output alone, without Redis and RabbitMQ.
//!
//! The output is the truth: the plan says how much there is to do, the footers of the parts what is done. For `trawl
//! status OUT` and for the monitor. Reads kilobytes a part and never a row; writes nothing.

use crate::{
    job::{JobSpec, JobSpecError},
    ledger::{BatchOutcome, JobState, Progress},
    location::Location,
    planning::cancellation,
    results::{
        Manifest, OutputLayout, PlanDone, PlanFileFooter,
        footer::FetchFooterError,
        manifest::{MAX_MANIFEST_BYTES, ManifestError},
        manifest_pieces::PieceError,
        part::read_footer,
        plan_file::PlanFileError,
    },
    storage::{Storage, StorageError, Stores},
};
use futures::{Stream, TryStreamExt, stream};

/// Footers under way at once: the latency of a bucket is hidden, its request limit (thousands a second) is
/// not reached.
pub const FOOTERS_AT_ONCE: usize = 32;

/// A `job.json` of more bytes is none; a thousand sources of a kilobyte fit.
const MAX_SPEC_BYTES: u64 = 4 << 20;

/// `plan/_DONE` is a few numbers.
const MAX_DONE_BYTES: u64 = 64 << 10;

/// Why an output does not say how its job stands.
#[derive(Debug, thiserror::Error)]
pub enum StandingError {
    /// No output of a job.
    #[error("`{out}` is not the output of a job: it has no _trawl/job.json")]
    NoOutput {
        /// The place.
        out: Location,
    },
    /// The store's.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// `job.json` is not readable.
    #[error(transparent)]
    Spec(#[from] JobSpecError),
    /// The manifest is not readable.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A piece of the manifest cannot be had.
    #[error(transparent)]
    Piece(#[from] PieceError),
    /// The plan's end is not readable.
    #[error(transparent)]
    Plan(#[from] PlanFileError),
    /// A plan file or a part.
    #[error(transparent)]
    Footer(#[from] FetchFooterError),
}

impl StandingError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_transient(),
            Self::Footer(error) => error.is_transient(),
            Self::Piece(error) => error.is_transient(),
            Self::NoOutput { .. } | Self::Spec(_) | Self::Manifest(_) | Self::Plan(_) => false,
        }
    }
}

/// A job by its output.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// What it does.
    pub spec: JobSpec,
    /// Its counters. Rate and estimate are left empty: files have no clock.
    pub progress: Progress,
    /// When it was finished, if it is complete and has its manifest, milliseconds since 1970.
    pub finished_unix_ms: Option<u64>,
}

/// The spec of the job whose output is at `out`. Cancel safe.
///
/// # Errors
/// `NoOutput` if the place is none, or what the store gives.
pub async fn spec(stores: &Stores, out: &Location) -> Result<JobSpec, StandingError> {
    let layout = OutputLayout::new(out.clone());
    match stores.open(out).await.get(&layout.job(), MAX_SPEC_BYTES).await {
        Ok(object) => Ok(JobSpec::parse(&object.bytes)?),
        Err(error) if error.is_not_found() => Err(StandingError::NoOutput { out: out.clone() }),
        Err(error) => Err(error.into()),
    }
}

/// The standing of the job whose output is at `out`. Cancel safe.
///
/// # Errors
/// `NoOutput` if the place is none, or what the store gives.
pub async fn standing(stores: &Stores, out: &Location) -> Result<Standing, StandingError> {
    let spec = spec(stores, out).await?;
    let layout = OutputLayout::new(out.clone());
    let store = stores.open(out).await;
    let mut progress = Progress {
        job: spec.job.clone(),
        state: JobState::Enqueuing,
        out: spec.out.clone(),
        queue: spec.queue.to_string(),
        created_unix_ms: spec.created_unix_ms,
        images_planned: 0,
        images_ok: 0,
        images_failed: 0,
        batches_planned: 0,
        batches_done: 0,
        errors: Default::default(),
        images_per_second: 0.0,
        eta_seconds: None,
        stages: Default::default(),
        binding: None,
    };
    if let Some(manifest) = manifest(store.as_ref(), &layout).await? {
        progress.state = JobState::Complete;
        (progress.images_planned, progress.batches_planned) = (manifest.rows, manifest.batches);
        (progress.images_ok, progress.images_failed) = (manifest.images_ok, manifest.images_failed);
        (progress.batches_done, progress.errors) = (manifest.batches, manifest.errors);
        progress.stages = manifest.stages.ms_an_image(manifest.rows);
        progress.binding = manifest.stages.binding();
        return Ok(Standing { spec, progress, finished_unix_ms: Some(manifest.finished_unix_ms) });
    }
    plan(store.as_ref(), &layout, &mut progress).await?;
    if let Some(hold) = cancellation::marked(store.as_ref(), &layout).await? {
        progress.state = hold.state();
    }
    parts(store.as_ref(), &layout, &mut progress).await?;
    Ok(Standing { spec, progress, finished_unix_ms: None })
}

/// The manifest, once the job is complete: `_SUCCESS` is what says so, the manifest may be there before it. Its parts
/// may be in pieces, which are not looked at.
///
/// # Errors
/// What the store gives, or that the manifest is not readable.
pub async fn manifest(store: &dyn Storage, layout: &OutputLayout) -> Result<Option<Manifest>, StandingError> {
    match store.head(&layout.success()).await {
        Ok(_) => {}
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    match store.get(&layout.manifest(), MAX_MANIFEST_BYTES).await {
        Ok(object) => Ok(Some(Manifest::parse(&object.bytes)?)),
        // Deleted by hand: the parts can be counted.
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn plan(
    store: &dyn Storage,
    layout: &OutputLayout,
    progress: &mut Progress,
) -> Result<(), StandingError> {
    match store.get(&layout.plan_done(), MAX_DONE_BYTES).await {
        Ok(object) => {
            let done = PlanDone::parse(&object.bytes)?;
            progress.state = JobState::Running;
            (progress.images_planned, progress.batches_planned) = (done.images, done.batches);
            return Ok(());
        }
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    // The last file's footer has the sums up to it. The last by its number: 100000 is listed before 99999.
    let mut last = None;
    let mut pages = store.list(&layout.plan_prefix(), None);
    while let Some(page) = pages.try_next().await? {
        let files = page.objects.iter().filter_map(|object| layout.index_of_plan_file(&object.key));
        last = last.max(files.max());
    }
    if let Some(index) = last {
        let footer = PlanFileFooter::fetch(store, &layout.plan_file(index)).await?;
        progress.images_planned = footer.cursor.images;
        progress.batches_planned = footer.first_batch.0 + footer.batches;
    }
    Ok(())
}

async fn parts(
    store: &dyn Storage,
    layout: &OutputLayout,
    progress: &mut Progress,
) -> Result<(), StandingError> {
    let mut footers = part_keys(store, layout)
        .map_err(StandingError::from)
        .map_ok(|key| async move { Ok::<_, StandingError>(read_footer(store, &key).await?) })
        .try_buffer_unordered(FOOTERS_AT_ONCE);
    let mut totals = BatchOutcome::default();
    while let Some(footer) = footers.try_next().await? {
        progress.batches_done += 1;
        totals.add(&footer.outcome());
    }
    progress.stages = totals.stages.ms_an_image(totals.images_ok + totals.images_failed);
    progress.binding = totals.stages.binding();
    (progress.images_ok, progress.images_failed) = (totals.images_ok, totals.images_failed);
    progress.errors = totals.errors;
    Ok(())
}

/// The keys of an output's parts, in the order of the batches.
pub fn part_keys<'a>(
    store: &'a dyn Storage,
    layout: &'a OutputLayout,
) -> impl Stream<Item = Result<String, StorageError>> + Send + 'a {
    store
        .list(&layout.part_prefix(), None)
        .map_ok(move |page| {
            let ours = page.objects.into_iter().map(|object| object.key);
            stream::iter(ours.filter(|key| layout.batch_of_part(key).is_some()).map(Ok))
        })
        .try_flatten()
}
