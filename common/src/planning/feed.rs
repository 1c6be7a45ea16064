//! Feeds a job's batches to its queue, a few at a time, from its plan files.
//!
//! Between a plan that is at its end and the batches' turn. A queue holds a few batches of each job, so that a small
//! job that comes late waits for those and not for all of a huge one, and so that the broker never holds a whole plan.
//! Among them lies a feed message: whoever gets it queues as many again, with the next feed message in their middle. So
//! no producer needs to stay. A message that comes twice, or of an earlier submission, is told by what the ledger has
//! noted; without the ledger some batches are queued twice, which costs work and no row. It must never queue a batch
//! that is in no durable plan file.

use super::{Enlisting, PlanError, plan_log::read_batches, publish::publish_message};
use crate::{
    batch::{BatchNumber, FeedRequest, ImageRef, Message},
    broker::QueueDepth,
    results::OutputLayout,
    storage::Storage,
};
use futures::StreamExt;
use std::collections::HashSet;

/// Batches of one job that wait in the queue, at least: less than a job that comes behind them minds, and more than a
/// worker takes while a feed message is worked on.
const LEAST: usize = 8;

/// How often what a consumer has in hand waits for it: for the time that a feed message takes.
const SPARE: usize = 2;

/// What a consumer has in hand unless somebody says otherwise: the workers' default prefetch.
const PREFETCH: u16 = 2;

/// Batches that wait at most, however many consumers there are.
const MOST: usize = 1024;

/// Plan files that one message reads: a plan that is all done is walked through in steps that end.
const FILES_A_STEP: usize = 8;

/// How many batches of a job may wait in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// All: for a queue that has places enough, or blocks.
    All,
    /// As many for each consumer as it has in hand, and as many again.
    Share {
        /// What a consumer has in hand.
        prefetch: u16,
    },
    /// So many.
    AtMost(usize),
}

impl Ready {
    /// For workers with their default flags.
    pub const DEFAULT: Self = Self::Share { prefetch: PREFETCH };

    /// The number for a queue as it is now; `None` for all.
    pub fn limit(self, depth: Option<QueueDepth>) -> Option<usize> {
        match self {
            Self::All => None,
            Self::AtMost(n) => Some(n.max(1)),
            Self::Share { prefetch } => {
                let consumers = depth.map_or(0, |depth| usize::try_from(depth.consumers).unwrap_or(MOST));
                Some(consumers.saturating_mul(SPARE * usize::from(prefetch)).clamp(LEAST, MOST))
            }
        }
    }
}

/// A text that is none.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is neither `auto` nor `all` nor a number of batches from 1 to {MOST}")]
pub struct BadReady(String);

impl std::str::FromStr for Ready {
    type Err = BadReady;

    fn from_str(text: &str) -> Result<Self, BadReady> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::DEFAULT),
            ("all", _) => Ok(Self::All),
            (_, Ok(n)) if (1..=MOST).contains(&n) => Ok(Self::AtMost(n)),
            _ => Err(BadReady(text.to_owned())),
        }
    }
}

/// Where the next step begins; `None` at the plan's end.
pub type Next = Option<(u32, BatchNumber)>;

/// Queues the next batches that have no part, and the message that asks for those after them. The plan must be at its
/// end.
///
/// # Errors
/// [`PlanError`] if the plan cannot be read or the broker does not confirm; some of the batches may be queued then, and
/// the message is to be worked on again.
pub async fn feed(
    ctx: &Enlisting<'_>,
    store: &dyn Storage,
    layout: &OutputLayout,
    request: &FeedRequest,
) -> Result<Next, PlanError> {
    let depth = ctx.broker.depth(&ctx.spec.queue).await?;
    let wanted = ctx.ready.limit(depth).unwrap_or(MOST);
    let (mut open, next) = collect(store, layout, (request.file, request.from), wanted).await?;
    let Some((file, from)) = next else {
        super::publish::publish(ctx, open).await?;
        return Ok(None);
    };
    let after = open.split_off(open.len() / 2);
    super::publish::publish(ctx, open).await?;
    publish_message(ctx, &Message::Feed(FeedRequest { file, from, ..request.clone() })).await?;
    super::publish::publish(ctx, after).await?;
    Ok(next)
}

/// Up to `wanted` batches without a part, from `(file, batch)` on, and where to go on.
async fn collect(
    store: &dyn Storage,
    layout: &OutputLayout,
    (mut file, mut from): (u32, BatchNumber),
    wanted: usize,
) -> Result<(Vec<(BatchNumber, Vec<ImageRef>)>, Next), PlanError> {
    let mut open = Vec::new();
    for _ in 0..FILES_A_STEP {
        let batches = match read_batches(store, layout, file).await {
            Ok(batches) => batches,
            Err(PlanError::Storage(error)) if error.is_not_found() => return Ok((open, None)),
            Err(error) => return Err(error),
        };
        let Some(last) = batches.last().map(|(number, _)| *number) else { return Ok((open, None)) };
        let there = parts_between(store, layout, from, last).await?;
        for (number, images) in batches.into_iter().filter(|(number, _)| *number >= from) {
            if open.len() == wanted {
                return Ok((open, Some((file, number))));
            }
            if !there.contains(&number.0) {
                open.push((number, images));
            }
        }
        (file, from) = (file + 1, BatchNumber(last.0 + 1));
    }
    Ok((open, Some((file, from))))
}

/// The batches from `first` to `last` that have a part.
async fn parts_between(
    store: &dyn Storage,
    layout: &OutputLayout,
    first: BatchNumber,
    last: BatchNumber,
) -> Result<HashSet<u64>, PlanError> {
    let before = first.0.checked_sub(1).map(|number| layout.part(BatchNumber(number)));
    let (mut there, end) = (HashSet::new(), layout.part(last));
    let prefix = layout.part_prefix();
    let mut pages = store.list(&prefix, before.as_deref());
    while let Some(page) = pages.next().await {
        let page = page?;
        there.extend(page.objects.iter().filter_map(|object| layout.batch_of_part(&object.key)).map(|n| n.0));
        if page.objects.last().is_some_and(|object| object.key >= end) {
            break;
        }
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_holds_a_few_batches_for_each_consumer() {
        let with = |consumers| Ready::DEFAULT.limit(Some(QueueDepth { ready: 0, consumers }));
        assert_eq!(Ready::DEFAULT.limit(None), Some(LEAST));
        let eager = Ready::Share { prefetch: 64 };
        assert_eq!(eager.limit(Some(QueueDepth { ready: 0, consumers: 2 })), Some(256));
        assert_eq!((with(0), with(3), with(50), with(u64::MAX)), (Some(8), Some(12), Some(200), Some(1024)));
        assert_eq!((Ready::AtMost(0).limit(None), Ready::All.limit(None)), (Some(1), None));
        let read = |text: &str| text.parse::<Ready>().ok();
        assert_eq!((read("auto"), read("all")), (Some(Ready::DEFAULT), Some(Ready::All)));
        assert_eq!((read("12"), read("0"), read("many")), (Some(Ready::AtMost(12)), None, None));
    }
}
