//! The broker in memory: for `run`, which needs no servers, and for tests.
//!
//! Stands where RabbitMQ stands in the life of a batch, with the same rules: redelivery with attempt + 1, a
//! delayed retry, limits, dead letters, first in first out. What is queued dies with the process, which is
//! fine for `run`: the bucket is the truth. It must never be more forgiving than the real one; both pass
//! `contract::broker`.

#[cfg(any(test, feature = "testing"))]
mod hooks;
mod queues;

pub use queues::Rules;

use super::{
    Broker, BrokerError, Consumer, DeadLetter, Delivery, Disposition, Judge, Publication, QueueDepth,
    Settlement, Verdict,
    topology::{self, RetryPolicy},
};
use crate::job::QueueName;
use async_trait::async_trait;
use queues::{Return, State, Stored, Subscriber};
use std::{
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::{Notify, watch},
    time::sleep_until,
};

/// Queues in memory. Clones share them.
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
    capacity: usize,
    policy: RetryPolicy,
    /// Who consumes through this handle; named in dead letters.
    worker: Option<Arc<str>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Rung whenever a message, a place in a queue or a place in a prefetch may have become free.
    changed: Notify,
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBroker {
    /// A broker that takes whatever is published.
    pub fn new() -> Self {
        Self::with_capacity(usize::MAX)
    }

    /// A broker whose `publish` waits while the queue holds `capacity` ready messages (at least 1), so that a
    /// lister does not run ahead of the worker beside it. Retries and requeues always find room.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            shared: Arc::default(),
            capacity: capacity.max(1),
            policy: RetryPolicy::default(),
            worker: None,
        }
    }

    /// The same broker with other retries.
    #[must_use]
    pub fn with_retries(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The same queues for a worker whose name goes into the dead letters.
    #[must_use]
    pub fn named(mut self, worker: &str) -> Self {
        self.worker = Some(worker.into());
        self
    }

    /// The dead letters of all queues, the oldest first.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.shared.lock().dead.clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is held and wakes those who wait.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.lock());
        self.changed.notify_waiters();
        changed
    }
}

#[async_trait]
impl Broker for MemoryBroker {
    fn system(&self) -> &'static str {
        "memory"
    }

    async fn ensure_queue(&self, queue: &QueueName) -> Result<(), BrokerError> {
        topology::check_name(queue)?;
        self.shared.lock().queues.entry(queue.clone()).or_default();
        Ok(())
    }

    async fn publish(&self, queue: &QueueName, message: Publication) -> Result<(), BrokerError> {
        topology::check_name(queue)?;
        let mut stored = Some(Stored::new(message));
        loop {
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let queued = match self.shared.lock().queues.get_mut(queue) {
                None => return Err(BrokerError::Unroutable { queue: queue.to_string() }),
                Some(found) if found.ready.len() < self.capacity => {
                    found.ready.extend(stored.take());
                    true
                }
                Some(_) => false,
            };
            if queued {
                self.shared.changed.notify_waiters();
                return Ok(());
            }
            changed.await;
        }
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, BrokerError> {
        self.ensure_queue(queue).await?;
        let consumer = self.shared.change(|state| {
            state.change(queue, |queue| queue.consumers += 1);
            state.new_consumer()
        });
        Ok(Box::new(MemoryConsumer {
            shared: self.shared.clone(),
            policy: self.policy,
            subscriber: Subscriber {
                consumer,
                queue: queue.clone(),
                worker: self.worker.clone(),
                prefetch: usize::from(prefetch.max(1)),
            },
            attached: watch::Sender::new(true),
        }))
    }

    async fn depth(&self, queue: &QueueName) -> Result<Option<QueueDepth>, BrokerError> {
        topology::check_name(queue)?;
        Ok(self.shared.lock().queues.get_mut(queue).map(queues::Queue::depth))
    }

    async fn dead_depth(&self) -> Result<u64, BrokerError> {
        Ok(self.shared.lock().dead.len() as u64)
    }

    async fn judge_dead(
        &self,
        limit: usize,
        judge: Judge<'_>,
    ) -> Result<Vec<(DeadLetter, Verdict)>, BrokerError> {
        let (mut judged, mut state) = (Vec::new(), self.shared.lock());
        let mut kept = Vec::new();
        for letter in std::mem::take(&mut state.dead) {
            if judged.len() == limit {
                kept.push(letter);
                continue;
            }
            let verdict = match (judge(&letter), &letter.queue) {
                (Verdict::Retry, Some(lane)) => {
                    let ready = &mut state.queues.entry(lane.clone()).or_default().ready;
                    let anew = Publication::new(letter.body.clone()).traced(letter.trace.clone());
                    ready.push_back(Stored::new(anew));
                    Verdict::Retry
                }
                (Verdict::Drop, _) => Verdict::Drop,
                (Verdict::Keep, _) | (Verdict::Retry, None) => {
                    kept.push(letter.clone());
                    Verdict::Keep
                }
            };
            judged.push((letter, verdict));
        }
        state.dead = kept;
        drop(state);
        self.shared.changed.notify_waiters();
        Ok(judged)
    }
}

struct MemoryConsumer {
    shared: Arc<Shared>,
    policy: RetryPolicy,
    subscriber: Subscriber,
    attached: watch::Sender<bool>,
}

impl MemoryConsumer {
    fn close(&self) {
        if self.attached.send_replace(false) {
            let queue = &self.subscriber.queue;
            self.shared.change(|state| state.change(queue, |queue| queue.consumers -= 1));
        }
    }
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        loop {
            if !*self.attached.borrow() {
                return Err(BrokerError::Closed);
            }
            let mut changed = pin!(self.shared.changed.notified());
            // Before looking, so that no change falls between looking and waiting.
            changed.as_mut().enable();
            let next = self.shared.lock().hand_out(&self.subscriber);
            match next {
                Ok((tag, message, redelivered)) => {
                    // A publisher may wait for the place in the queue.
                    self.shared.changed.notify_waiters();
                    let (shared, policy) = (self.shared.clone(), self.policy);
                    let settlement = MemorySettlement { shared, policy, tag };
                    return Ok(Delivery::new(message, redelivered, Box::new(settlement)));
                }
                Err(None) => changed.await,
                Err(Some(due)) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(due) => {}
                },
            }
        }
    }

    async fn cancel(&mut self) -> Result<(), BrokerError> {
        self.close();
        Ok(())
    }

    fn attached(&self) -> watch::Receiver<bool> {
        self.attached.subscribe()
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        self.close();
    }
}

struct MemorySettlement {
    shared: Arc<Shared>,
    policy: RetryPolicy,
    tag: u64,
}

#[async_trait]
impl Settlement for MemorySettlement {
    async fn settle(self: Box<Self>, disposition: Disposition) -> Result<(), BrokerError> {
        let policy = self.policy;
        self.shared.change(|state| {
            if disposition == Disposition::Abandon {
                let there = state.unsettled.contains_key(&self.tag);
                state.give_back(&[self.tag], Return::Lost);
                return if there { Ok(()) } else { Err(BrokerError::Stale) };
            }
            // Not there: taken back meanwhile.
            let held = state.unsettled.remove(&self.tag).ok_or(BrokerError::Stale)?;
            let message = held.stored.renewed();
            match disposition {
                Disposition::Ack | Disposition::Abandon => {}
                Disposition::Requeue => state.requeue(&held),
                Disposition::Retry { reason } => {
                    let again = policy.next_attempt(message.attempt);
                    let again = again.map(|attempt| Stored::new(Publication { attempt, ..message }));
                    state.rest(&held, policy, again, reason);
                }
                Disposition::Defer { reason } => {
                    let again = policy.next_deferral(held.stored.deferrals);
                    let again = again.map(|deferrals| Stored::put_off(message, deferrals));
                    state.rest(&held, policy, again, reason);
                }
                Disposition::DeadLetter { reason } => state.bury(&held, reason),
            }
            Ok(())
        })
    }
}

impl Drop for MemorySettlement {
    fn drop(&mut self) {
        // Nobody settled it: back to the queue, counted. One that was settled is not there any more.
        self.shared.change(|state| state.give_back(&[self.tag], Return::Lost));
    }
}

#[cfg(test)]
mod tests;
