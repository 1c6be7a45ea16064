//! Brings an output, its ledger and its queue back in step, from the bucket alone.
//!
//! For a ledger that was wiped, a queue that was deleted, a producer that never came back, and parts that are not
//! what they should be. The order makes a crash at any point harmless, because each step leaves an output that the
//! next `trawl repair` finds as it is:
//!
//! 1. a cancelled or paused job is marked as such in the output, before the ledger is asked to forget it;
//! 2. `_SUCCESS`, then the manifest, are removed if a planned batch has no good part or will lose a bad one: an
//!    output must never claim to be complete while one of its parts is being removed;
//! 3. with `discard`, bad parts are removed, each only if it is still the object that was looked at;
//! 4. the ledger forgets the job: what it counted may be what step 3 removed;
//! 5. `enlist`, as `submit` does it: the plan is ended if it was not, parts are counted, the rest is queued;
//! 6. a finish is asked for if every batch has its part.
//!
//! A batch may be queued twice by this; its part's one name makes that harmless. It must never remove a good part,
//! or anything that trawl did not write.

use super::{
    Enlisting, PlanError, Planned,
    cancellation::{self, Hold},
    publish::{on_ledger, publish_finalize},
    rebuild::{held, rebuild},
    submit::{enlist_around_bad_parts, output, preflight},
};
use crate::{
    audit::{
        Audit, AuditError, Depth, audit,
        finding::{Finding, Kind},
        report::Findings,
    },
    results::OutputLayout,
    storage::{Storage, StorageError},
};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::BTreeSet;
use tokio_util::sync::CancellationToken;

/// Objects removed at a time.
const REMOVALS_AT_ONCE: usize = 16;

/// What an audit found, and what may be done about it.
#[derive(Debug)]
pub struct Survey {
    /// The counts.
    pub audit: Audit,
    /// What is wrong, the first of each kind.
    pub findings: Findings,
    /// Every object that `discard` removes, once each.
    pub bad: Vec<Finding>,
    /// Planned batches whose place is held by one of them.
    pub bad_batches: u64,
}

impl Survey {
    /// Audits an output and remembers what can be discarded; at most `limit` findings of each kind are kept.
    ///
    /// # Errors
    /// As [`audit()`].
    pub async fn of(
        store: &dyn Storage,
        layout: &OutputLayout,
        depth: Depth,
        limit: usize,
    ) -> Result<Self, AuditError> {
        let (mut findings, mut bad, mut seen) = (Findings::keeping(limit), Vec::new(), BTreeSet::new());
        let mut take = |finding: Finding| {
            let object = finding.object.as_ref().filter(|_| finding.kind.is_discardable());
            if let Some(object) = object
                && seen.insert(object.clone())
            {
                bad.push(finding.clone());
            }
            findings.push(finding);
        };
        let audit = audit(store, layout, depth, &mut take).await?;
        let places = bad.iter().filter_map(|finding| layout.batch_of_part(finding.object.as_deref()?));
        let bad_batches = places.filter(|batch| batch.0 < audit.batches_planned).count() as u64;
        Ok(Self { audit, findings, bad, bad_batches })
    }

    /// Batches that [`repair`] queues, of those planned so far.
    pub fn to_enqueue(&self, discard: bool) -> u64 {
        self.findings.count(Kind::Missing) + if discard { self.bad_batches } else { 0 }
    }

    /// Whether [`repair`] takes `_SUCCESS` and the manifest away.
    pub fn takes_success_away(&self, discard: bool) -> bool {
        // A manifest that differs because of a bad part would differ again as long as that is there.
        let manifest_alone = self.findings.count(Kind::BadManifest) > 0 && self.bad_batches == 0;
        self.audit.success && (self.to_enqueue(discard) > 0 || manifest_alone)
    }

    /// Why nothing can be repaired: a plan that cannot be read.
    pub fn broken_plan(&self) -> Option<&str> {
        self.findings.first(Kind::BrokenPlan).first().map(|finding| finding.detail.as_str())
    }
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repaired {
    /// `_SUCCESS` and the manifest were removed.
    pub success_removed: bool,
    /// Objects removed.
    pub discarded: u64,
    /// Objects that were to be removed and were others by then: somebody else is at work here.
    pub changed_meanwhile: u64,
    /// Batches queued.
    pub enqueued: u64,
    /// The plan's end was not there and is now.
    pub plan_ended: bool,
    /// A worker was asked to compare plan and parts and to write `_SUCCESS`.
    pub finish_requested: bool,
    /// The job is cancelled or paused: its ledger was rebuilt and nothing was queued.
    pub held: Option<Hold>,
    /// The job is complete: its ledger was rebuilt and nothing was queued.
    pub complete: bool,
}

/// Repairs what `survey` found, in the order of the module's head. Cancel safe: cut short anywhere, the next call
/// goes on.
///
/// # Errors
/// [`PlanError::BrokenPlan`] before anything is changed, [`PlanError::Interrupted`] after `cancel`, or what the
/// services give.
pub async fn repair(
    ctx: Enlisting<'_>,
    survey: &Survey,
    discard: bool,
    on_progress: &mut (dyn FnMut(&Planned) + Send),
    cancel: &CancellationToken,
) -> Result<Repaired, PlanError> {
    let spec = ctx.spec;
    let (store, layout) = output(spec, ctx.stores).await?;
    if let Some(reason) = survey.broken_plan() {
        return Err(PlanError::BrokenPlan { prefix: layout.plan_prefix(), reason: reason.to_owned() });
    }
    preflight(spec, ctx.broker, ctx.ledger).await?;
    let mut done = Repaired {
        held: match survey.audit.held {
            Some(hold) => Some(hold),
            None => held(spec, ctx.ledger).await?,
        },
        success_removed: survey.takes_success_away(discard),
        ..Repaired::default()
    };
    if let Some(hold) = done.held.filter(|_| survey.audit.held.is_none()) {
        cancellation::mark(&*store, &layout, spec, hold, crate::config::unix_ms()).await?;
    }
    if done.success_removed {
        store.delete(&layout.success()).await?;
        store.delete(&layout.manifest()).await?;
    }
    if discard {
        (done.discarded, done.changed_meanwhile) = remove(&*store, &survey.bad).await?;
    }
    on_ledger(|| ctx.ledger.forget(&spec.job)).await?;
    done.complete = survey.audit.success && !done.success_removed;
    if done.held.is_some() || done.complete {
        rebuild(spec, &layout, &store, ctx.ledger).await?;
        return Ok(done);
    }
    let planned = enlist_around_bad_parts(ctx, on_progress, cancel).await?;
    (done.enqueued, done.plan_ended) = (planned.published, !survey.audit.plan_done);
    done.finish_requested = planned.job_done;
    let bad_left = if discard { 0 } else { survey.bad_batches };
    if !planned.job_done && planned.published == 0 && bad_left == 0 && done.changed_meanwhile == 0 {
        // The ledger was wiped or touched by others while it was filled; the worker that is asked compares for itself.
        publish_finalize(&ctx).await?;
        done.finish_requested = true;
    }
    Ok(done)
}

/// Removes the objects that are still those that were looked at; how many were, and how many were not.
async fn remove(store: &dyn Storage, bad: &[Finding]) -> Result<(u64, u64), StorageError> {
    let one = |finding: Finding| async move {
        let Some(key) = &finding.object else { return Ok(None) };
        match store.head(key).await {
            Ok(there) if there.etag == finding.etag => store.delete(key).await.map(|()| Some(true)),
            Ok(_) => Ok(Some(false)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    };
    // Owned: a stream over a borrowing iterator is not `Send` for every lifetime.
    let mut removals = stream::iter(bad.to_vec()).map(one).buffer_unordered(REMOVALS_AT_ONCE);
    let (mut removed, mut changed) = (0, 0);
    while let Some(outcome) = removals.try_next().await? {
        removed += u64::from(outcome == Some(true));
        changed += u64::from(outcome == Some(false));
    }
    Ok((removed, changed))
}

#[cfg(test)]
#[path = "repair_tests.rs"]
pub(crate) mod tests;
