//! What a simulation does to the broker in memory: things that happen to a real one.

use super::{
    MemoryBroker, Rules,
    queues::{Return, Unsettled},
};
use crate::job::QueueName;
use std::time::Duration;

impl MemoryBroker {
    /// The same queues by other rules for what comes back.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        self.shared.lock().rules = rules;
        self
    }

    /// The connection of the worker that is `named` so is lost: all its deliveries go back, and settling them is
    /// too late. How many there were.
    pub fn lose_connection(&self, worker: &str) -> usize {
        self.take_back(Return::Lost, |held| held.subscriber.worker.as_deref() == Some(worker))
    }

    /// The consumer time-out: deliveries that are out for longer than `patience` go back.
    pub fn time_out(&self, patience: Duration) -> usize {
        self.take_back(Return::TimedOut, |held| held.since.elapsed() > patience)
    }

    fn take_back(&self, why: Return, which: impl Fn(&Unsettled) -> bool) -> usize {
        let mut state = self.shared.lock();
        let tags: Vec<u64> =
            state.unsettled.iter().filter(|(_, held)| which(held)).map(|(tag, _)| *tag).collect();
        state.give_back(&tags, why);
        drop(state);
        self.shared.changed.notify_waiters();
        tags.len()
    }

    /// Mixes what is ready; `draw(n)` gives a number below `n`.
    pub fn reorder(&self, queue: &QueueName, mut draw: impl FnMut(usize) -> usize) {
        self.shared.lock().change(queue, |queue| {
            for last in (1..queue.ready.len()).rev() {
                queue.ready.swap(last, draw(last + 1));
            }
        });
    }

    /// Whether no message is ready, resting or out.
    pub fn is_idle(&self) -> bool {
        let mut state = self.shared.lock();
        let quiet =
            state.queues.values_mut().all(|queue| queue.depth().ready == 0 && queue.resting.is_empty());
        quiet && state.unsettled.is_empty()
    }
}
