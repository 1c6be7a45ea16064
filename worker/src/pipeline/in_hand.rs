//! Which batches this process has in hand, and since when.
//!
//! Beside the pipeline, for display: a batch is entered when it is taken in and leaves with the task that works on
//! it, however that ends. Shared by all lanes. It must never hold a batch up.

use super::settle::Subject;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::time::Instant;
use trawl_common::{batch::BatchNumber, fleet::BatchInHand, job::JobId};

/// The batches in hand. Clones share them.
#[derive(Clone, Default)]
pub struct InHand {
    batches: Arc<Mutex<Batches>>,
}

#[derive(Default)]
struct Batches {
    next: u64,
    // In the order in which they came: the oldest are shown first.
    held: BTreeMap<u64, (JobId, BatchNumber, Instant)>,
}

/// A batch's place in the list; dropping it takes the batch out.
#[must_use = "the batch is in hand as long as this lives"]
pub struct Held {
    list: InHand,
    place: u64,
}

impl InHand {
    /// Enters a batch.
    pub fn hold(&self, subject: &Subject) -> Held {
        let mut batches = self.batches();
        let place = batches.next;
        batches.next += 1;
        batches.held.insert(place, (subject.job.clone(), subject.batch, Instant::now()));
        Held { list: self.clone(), place }
    }

    /// The oldest `limit` of them.
    pub fn oldest(&self, limit: usize) -> Vec<BatchInHand> {
        let age_ms = |since: &Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let shown = |(job, batch, since): &(JobId, BatchNumber, Instant)| BatchInHand {
            job: job.clone(),
            batch: *batch,
            age_ms: age_ms(since),
        };
        self.batches().held.values().take(limit).map(shown).collect()
    }

    fn batches(&self) -> MutexGuard<'_, Batches> {
        // A task that dies takes its batch out while it unwinds.
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.list.batches().held.remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(batch: u64) -> Subject {
        Subject { job: "j".parse().unwrap(), out: "/out".into(), batch: BatchNumber(batch) }
    }

    #[test]
    fn the_oldest_come_first_and_leave_whatever_happens() {
        let list = InHand::default();
        let first = list.hold(&subject(7));
        let second = list.clone();
        let died = std::thread::spawn(move || {
            let _held = second.hold(&subject(3));
            panic!("on purpose");
        });
        assert!(died.join().is_err());
        let _last = list.hold(&subject(5));
        let shown = |limit| list.oldest(limit).into_iter().map(|held| held.batch.0).collect::<Vec<_>>();
        assert_eq!(shown(9), [7, 5]);
        assert_eq!(shown(1), [7]);
        drop(first);
        assert_eq!(shown(9), [5]);
    }
}
