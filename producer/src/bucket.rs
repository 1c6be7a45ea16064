//! A job's standing as its output has it, without Redis and RabbitMQ.
//!
//! The output is the truth: the plan says how much there is to do, the footers of the parts what is done.
//! Reads kilobytes per part and never a row; writes nothing.

use crate::{errors::Stop, target};
use futures::{Stream, TryStreamExt, stream};
use std::sync::Arc;
use trawl_common::{
    job::JobSpec,
    ledger::{BatchOutcome, JobState, Progress},
    location::Location,
    planning::cancellation,
    results::{Manifest, OutputLayout, PlanDone, PlanFileFooter, part::read_footer},
    storage::{Storage, StorageError, Stores},
};

/// Footers under way at once: the latency of a bucket is hidden, its request limit (thousands a second) is
/// not reached.
pub const FOOTERS_AT_ONCE: usize = 32;

/// A manifest of more bytes is none: ten million parts fit.
const MAX_MANIFEST_BYTES: u64 = 2 << 30;

/// `plan/_DONE` is a few numbers.
const MAX_DONE_BYTES: u64 = 64 << 10;

/// The standing of the job whose output is at `out`, with its spec. Rate and estimate are left empty: files
/// have no clock.
///
/// # Errors
/// Not found if the place is no output, or what the store gives.
pub async fn progress(stores: &Arc<Stores>, out: &Location) -> Result<(JobSpec, Progress), Stop> {
    let spec = target::spec(stores, out).await?;
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
    if let Some(manifest) = finished(store.as_ref(), &layout).await? {
        progress.state = JobState::Complete;
        (progress.images_planned, progress.batches_planned) = (manifest.rows, manifest.batches);
        (progress.images_ok, progress.images_failed) = (manifest.images_ok, manifest.images_failed);
        (progress.batches_done, progress.errors) = (manifest.batches, manifest.errors);
        progress.stages = manifest.stages.ms_an_image(manifest.rows);
        progress.binding = manifest.stages.binding();
        return Ok((spec, progress));
    }
    plan(store.as_ref(), &layout, &mut progress).await?;
    if let Some(hold) = cancellation::marked(store.as_ref(), &layout).await? {
        progress.state = hold.state();
    }
    parts(store.as_ref(), &layout, &mut progress).await?;
    Ok((spec, progress))
}

/// The manifest, once the job is complete: `_SUCCESS` is what says so, the manifest may be there before it.
async fn finished(store: &dyn Storage, layout: &OutputLayout) -> Result<Option<Manifest>, Stop> {
    match store.head(&layout.success()).await {
        Ok(_) => {}
        Err(StorageError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    match store.get(&layout.manifest(), MAX_MANIFEST_BYTES).await {
        Ok(object) => Ok(Some(Manifest::parse(&object.bytes)?)),
        // Deleted by hand: the parts can be counted.
        Err(StorageError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn plan(store: &dyn Storage, layout: &OutputLayout, progress: &mut Progress) -> Result<(), Stop> {
    match store.get(&layout.plan_done(), MAX_DONE_BYTES).await {
        Ok(object) => {
            let done = PlanDone::parse(&object.bytes)?;
            progress.state = JobState::Running;
            (progress.images_planned, progress.batches_planned) = (done.images, done.batches);
            return Ok(());
        }
        Err(StorageError::NotFound { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    // The last file's footer has the sums up to it.
    let mut last = None;
    let mut pages = store.list(&layout.plan_prefix(), None);
    while let Some(page) = pages.try_next().await? {
        let keys = page.objects.into_iter().map(|object| object.key);
        last = keys.rev().find(|key| key.ends_with(".parquet")).or(last);
    }
    if let Some(key) = last {
        let footer = PlanFileFooter::fetch(store, &key).await?;
        progress.images_planned = footer.cursor.images;
        progress.batches_planned = footer.first_batch.0 + footer.batches;
    }
    Ok(())
}

async fn parts(store: &dyn Storage, layout: &OutputLayout, progress: &mut Progress) -> Result<(), Stop> {
    let mut footers = part_keys(store, layout)
        .map_ok(|key| async move { Ok::<_, Stop>(read_footer(store, &key).await?) })
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
) -> impl Stream<Item = Result<String, Stop>> + 'a {
    store
        .list(&layout.part_prefix(), None)
        .map_err(Stop::from)
        .map_ok(move |page| {
            let ours = page.objects.into_iter().map(|object| object.key);
            stream::iter(ours.filter(|key| layout.batch_of_part(key).is_some()).map(Ok))
        })
        .try_flatten()
}
