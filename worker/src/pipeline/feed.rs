//! Feed: a worker that is asked for more batches of a job queues them from its plan files.
//!
//! Beside the stages, for one kind of message. Two that are asked for the same, or one that is asked twice, are told apart
//! by what the ledger has noted; whoever cannot ask it goes on, and some batches are queued twice, of which one is dropped
//! or computed for nothing. It must never ack: that is settle's.

use super::Pipeline;
use trawl_common::{
    batch::FeedRequest,
    chance,
    disposition::{Failure, describe},
    job::JobId,
    ledger::{Fed, JobState},
    planning::{Enlisting, PlanError, feed::feed, submit::PUBLISH_WINDOW},
};

impl Pipeline {
    /// Queues the next batches of a job, unless somebody else did or the job is held. Not cancel safe in that some of
    /// the batches may be queued: the message then comes again.
    ///
    /// # Errors
    /// [`Failure`] if plan or broker are not to be had.
    pub(super) async fn feed_on(&self, request: &FeedRequest) -> Result<(), Failure> {
        let FeedRequest { job, out, chain, from, .. } = request;
        let (layout, spec) = match self.jobs.spec(job, out).await {
            Ok(found) => found,
            // The output was removed: there is nothing to feed.
            Err(Failure::Storage(error)) if error.is_not_found() => return Ok(()),
            Err(failure) => return Err(failure),
        };
        if spec.created_unix_ms != request.created_unix_ms || !self.may_feed(request).await {
            return Ok(());
        }
        let store = self.stores.open(layout.root()).await;
        let ctx = Enlisting {
            spec: &spec,
            stores: &self.stores,
            broker: &*self.broker,
            ledger: &*self.ledger,
            window: PUBLISH_WINDOW,
            ready: self.ready,
        };
        let next = feed(&ctx, &*store, &layout, request).await.map_err(|error| match error {
            PlanError::Storage(error) => Failure::Storage(error),
            error => Failure::Output(describe(&error)),
        })?;
        tracing::debug!(job.id = %job, batch.number = from.0, at_the_end = next.is_none(), "more batches are queued");
        if let Some((_, next)) = next
            && let Err(error) = self.ledger.advance_fed(job, Fed { chain: *chain, next }).await
        {
            tracing::debug!(%error, "how far a job is queued was not noted");
        }
        Ok(())
    }

    /// Whether the job is at work and nobody else feeds it from there. In doubt, yes.
    async fn may_feed(&self, FeedRequest { job, out, chain, from, .. }: &FeedRequest) -> bool {
        if matches!(self.ledger.state(job).await, Ok(None))
            && let Err(error) = self.rebuild_ledger(job, out).await
        {
            tracing::warn!(error = %describe(&error), "the ledger could not be rebuilt; going on without it");
        }
        match self.ledger.state(job).await {
            Ok(Some(JobState::Cancelled | JobState::Paused | JobState::Complete)) => return false,
            Ok(Some(JobState::Enqueuing | JobState::Running) | None) => {}
            Err(error) => tracing::warn!(%error, "the ledger does not answer; going on without it"),
        }
        let fed = self.ledger.fed(job).await.ok().flatten();
        fed.is_none_or(|fed| fed.is_followed_by(*chain, *from))
    }

    /// Begins to feed a job anew, from its first batch on: what was to be queued is lost.
    pub(super) async fn feed_anew(
        &self,
        job: &JobId,
        out: &str,
        created_unix_ms: u64,
    ) -> Result<(), Failure> {
        let fed = Fed { chain: chance::number(), next: trawl_common::batch::BatchNumber(0) };
        self.ledger.set_fed(job, fed).await?;
        let request = FeedRequest {
            job: job.clone(),
            out: out.to_owned(),
            created_unix_ms,
            chain: fed.chain,
            file: 0,
            from: fed.next,
        };
        self.feed_on(&request).await
    }
}
