//! Planned batches become messages, or are recorded as done if their part is there.
//!
//! Reads only what the plan files say, so that a first run and a resume are the same thing. A message may be
//! queued twice (after an unconfirmed publish, or by a resume while the first one still waits): the part's
//! one name makes that harmless.

use super::{Enlisting, PlanError};
use crate::{
    audit::part::{Mismatch, mismatch},
    batch::{BatchDescriptor, BatchNumber, FeedRequest, FinalizeRequest, ImageRef, Message},
    bits::Bits,
    broker::{BrokerError, Publication, topology},
    chance,
    disposition::describe,
    failpoint,
    job::JobSpec,
    ledger::{Fed, Ledger, LedgerError},
    results::{OutputLayout, part::read_footer},
    retry::{RetryPolicy, retry},
    storage::Storage,
    trace,
};
use futures::{StreamExt, TryStreamExt, stream};
use std::{future::Future, time::Duration};

/// For messages and ledger commands while a job is enlisted: a restart of a service is bridged, an outage
/// ends the command, which goes on where it stopped when it is given again.
const ENLIST_RETRY: RetryPolicy = RetryPolicy {
    initial: Duration::from_millis(200),
    max_interval: Duration::from_secs(5),
    max_elapsed: Duration::from_secs(60),
};

/// Part footers read at a time when a job is resumed.
pub(super) const FOOTERS_AT_ONCE: usize = 16;

/// Runs a ledger command, again if need be.
pub(super) async fn on_ledger<T, F>(command: impl FnMut() -> F) -> Result<T, PlanError>
where
    F: Future<Output = Result<T, LedgerError>>,
{
    Ok(retry(ENLIST_RETRY, LedgerError::is_transient, command).await?)
}

/// Runs a broker command, again if need be.
pub(super) async fn on_broker<T, F>(command: impl FnMut() -> F) -> Result<T, PlanError>
where
    F: Future<Output = Result<T, BrokerError>>,
{
    Ok(retry(ENLIST_RETRY, BrokerError::is_transient, command).await?)
}

/// The batches of an output that have a part.
pub(super) async fn parts_there(store: &dyn Storage, layout: &OutputLayout) -> Result<Bits, PlanError> {
    let mut there = Bits::default();
    let prefix = layout.part_prefix();
    let mut pages = store.list(&prefix, None);
    while let Some(page) = pages.next().await {
        for object in page?.objects {
            if let Some(batch) = layout.batch_of_part(&object.key) {
                there.set(batch.0);
            }
        }
    }
    Ok(there)
}

/// The span of what sends a job's messages; they are created in that of the submission, so it is a client's.
pub(super) fn publishing(ctx: &Enlisting<'_>) -> trace::Running {
    let span = trace::child_of_kind("publish", trace::Kind::Client);
    if trace::is_on() {
        span.set("messaging.system", ctx.broker.system());
        span.set("messaging.operation.type", "send");
        span.set("messaging.operation.name", "publish");
        span.set("messaging.destination.name", topology::work_queue(&ctx.spec.queue));
    }
    span
}

/// Queues the batches, at most [`Enlisting::window`] under way at once.
pub(super) async fn publish(
    ctx: &Enlisting<'_>,
    batches: Vec<(BatchNumber, Vec<ImageRef>)>,
) -> Result<(), PlanError> {
    let messages = batches.into_iter().map(|(batch, images)| {
        let descriptor = BatchDescriptor {
            created_unix_ms: ctx.spec.created_unix_ms,
            job: ctx.spec.job.clone(),
            batch,
            out: ctx.spec.out.clone(),
            model_sha256: ctx.spec.model.sha256.clone(),
            images,
        };
        // Encoded when its turn comes: a window of messages in memory, not a file of them.
        async move { publish_message(ctx, &Message::Batch(descriptor)).await }
    });
    stream::iter(messages).buffer_unordered(ctx.window.max(1)).try_collect().await
}

/// Asks a worker to queue the batches from `from` on, and takes that over from whoever was asked before.
pub(super) async fn publish_feed(ctx: &Enlisting<'_>, file: u32, from: BatchNumber) -> Result<(), PlanError> {
    let JobSpec { job, out, created_unix_ms, .. } = ctx.spec.clone();
    let chain = chance::number();
    on_ledger(|| ctx.ledger.set_fed(&job, Fed { chain, next: from })).await?;
    let request = FeedRequest { job, out, created_unix_ms, chain, file, from };
    publish_message(ctx, &Message::Feed(request)).await
}

/// Asks a worker to compare parts and plan.
pub(super) async fn publish_finalize(ctx: &Enlisting<'_>) -> Result<(), PlanError> {
    let request = FinalizeRequest { job: ctx.spec.job.clone(), out: ctx.spec.out.clone() };
    publish_message(ctx, &Message::Finalize(request)).await
}

pub(super) async fn publish_message(ctx: &Enlisting<'_>, message: &Message) -> Result<(), PlanError> {
    // Of the submission, or of the delivery that asks for more; the job's own if a worker acts by itself.
    let trace = trace::carried().or_else(|| ctx.spec.trace.clone());
    let publication = Publication::new(message.to_json()).traced(trace);
    let queue = &ctx.spec.queue;
    let sent =
        retry(ENLIST_RETRY, BrokerError::is_transient, || ctx.broker.publish(queue, publication.clone()));
    failpoint::hit(failpoint::PUBLISH_BEFORE).await;
    sent.await?;
    failpoint::hit(failpoint::PUBLISH_AFTER).await;
    Ok(())
}

/// What becomes of a part that is there and is not what plan and spec say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadParts {
    /// It ends the command.
    Refuse,
    /// It is left alone: not counted, and its batch not queued, since its part could not be written.
    PassOver,
}

/// Tells the ledger of batches that have a part already, each with the number of its images; true if one of them
/// was the job's last.
///
/// # Errors
/// [`PlanError::ForeignPart`] for a part that is not this job's, besides what store and ledger give.
pub(super) async fn record_done(
    spec: &JobSpec,
    ledger: &dyn Ledger,
    store: &dyn Storage,
    layout: &OutputLayout,
    batches: Vec<(BatchNumber, u64)>,
    bad_parts: BadParts,
) -> Result<bool, PlanError> {
    let record = |(batch, images)| async move {
        match record_part(spec, ledger, store, layout, batch, Some(images)).await {
            Err(error) if bad_parts == BadParts::PassOver && error.is_damage() => {
                tracing::warn!(error = %describe(&error), "a part is not counted");
                Ok(false)
            }
            recorded => recorded,
        }
    };
    let recorded = stream::iter(batches).map(record).buffer_unordered(FOOTERS_AT_ONCE);
    recorded.try_fold(false, |any, done| async move { Ok(any || done) }).await
}

/// The same for one batch; its `images` are compared if they are known.
pub(super) async fn record_part(
    spec: &JobSpec,
    ledger: &dyn Ledger,
    store: &dyn Storage,
    layout: &OutputLayout,
    batch: BatchNumber,
    images: Option<u64>,
) -> Result<bool, PlanError> {
    let job = &spec.job;
    if on_ledger(|| ledger.is_done(job, batch)).await? {
        return Ok(false);
    }
    let key = layout.part(batch);
    let footer = read_footer(store, &key).await?;
    if let Some(Mismatch { what, found, expected, .. }) = mismatch(spec, batch, images, &footer) {
        return Err(PlanError::ForeignPart { key, what, found, expected });
    }
    let outcome = footer.outcome();
    let completion = on_ledger(|| ledger.complete(job, batch, &outcome)).await?;
    // Wiped in the middle of this: a worker rebuilds it, or the next `trawl repair`.
    Ok(completion.is_some_and(|completion| completion.job_done))
}
