//! The broker in memory: for `run`, which needs no servers, and for tests.
//!
//! Stands where RabbitMQ stands in the life of a batch, with the same rules: redelivery with attempt + 1, a
//! delayed retry, limits, dead letters, first in first out. What is queued dies with the process, which is
//! fine for `run`: the bucket is the truth. It must never be more forgiving than the real one; both pass
//! `contract::broker`.

use super::{
    Broker, BrokerError, Consumer, DeadLetter, Delivery, Disposition, Judge, Publication, QueueDepth,
    Settlement, Verdict,
    topology::{self, DELIVERY_LIMIT, RetryPolicy},
};
use crate::{config::unix_ms, job::QueueName};
use async_trait::async_trait;
use std::{
    collections::{HashMap, VecDeque},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

/// The reason of a dead letter that was delivered too often without being settled; RabbitMQ's own word.
const OVER_DELIVERY_LIMIT: &str = "delivery_limit";

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

#[derive(Default)]
struct State {
    queues: HashMap<QueueName, Queue>,
    dead: Vec<DeadLetter>,
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<Stored>,
    /// Retries at rest; one delay for all, so the first is due first.
    resting: VecDeque<(Instant, Stored)>,
    consumers: u64,
}

#[derive(Clone)]
struct Stored {
    message: Publication,
    /// Earlier deliveries that were not settled; RabbitMQ's `x-delivery-count`.
    unsettled: u32,
    /// How often it was put off.
    deferrals: u32,
}

impl Stored {
    fn new(message: Publication) -> Self {
        Self { message, unsettled: 0, deferrals: 0 }
    }

    /// The message as it is delivered, and as it is published anew.
    fn renewed(&self) -> Publication {
        let Publication { body, attempt, deliveries } = self.message.clone();
        Publication { body, attempt, deliveries: deliveries.saturating_add(self.unsettled) }
    }
}

impl Queue {
    fn wake_due(&mut self, now: Instant) {
        while self.resting.front().is_some_and(|(due, _)| *due <= now) {
            self.ready.extend(self.resting.pop_front().map(|(_, stored)| stored));
        }
    }
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

    /// Changes a queue and wakes those who wait; does nothing for one that is not there.
    fn change(&self, name: &QueueName, change: impl FnOnce(&mut Queue)) {
        if let Some(queue) = self.lock().queues.get_mut(name) {
            change(queue);
        }
        self.changed.notify_waiters();
    }

    fn bury(&self, letter: DeadLetter) {
        self.lock().dead.push(letter);
    }
}

#[async_trait]
impl Broker for MemoryBroker {
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
        self.shared.change(queue, |queue| queue.consumers += 1);
        Ok(Box::new(MemoryConsumer {
            shared: self.shared.clone(),
            queue: queue.clone(),
            policy: self.policy,
            worker: self.worker.clone(),
            prefetch: usize::from(prefetch.max(1)),
            unsettled: Arc::new(()),
            attached: watch::Sender::new(true),
        }))
    }

    async fn depth(&self, queue: &QueueName) -> Result<Option<QueueDepth>, BrokerError> {
        topology::check_name(queue)?;
        Ok(self.shared.lock().queues.get_mut(queue).map(|queue| {
            queue.wake_due(Instant::now());
            QueueDepth { ready: queue.ready.len() as u64, consumers: queue.consumers }
        }))
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
                    ready.push_back(Stored::new(Publication::new(letter.body.clone())));
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
    queue: QueueName,
    policy: RetryPolicy,
    worker: Option<Arc<str>>,
    prefetch: usize,
    /// One clone for each unsettled delivery of this consumer.
    unsettled: Arc<()>,
    attached: watch::Sender<bool>,
}

impl MemoryConsumer {
    /// The next message that may be handed out, or else the time at which a resting one is due.
    fn take(&self) -> Result<Stored, Option<Instant>> {
        let mut state = self.shared.lock();
        let Some(queue) = state.queues.get_mut(&self.queue) else { return Err(None) };
        queue.wake_due(Instant::now());
        if Arc::strong_count(&self.unsettled) > self.prefetch {
            return Err(None);
        }
        queue.ready.pop_front().ok_or_else(|| queue.resting.front().map(|(due, _)| *due))
    }

    fn hand_out(&self, stored: Stored) -> Delivery {
        let (message, redelivered) = (stored.renewed(), stored.unsettled > 0);
        let settlement = MemorySettlement {
            shared: self.shared.clone(),
            queue: self.queue.clone(),
            policy: self.policy,
            worker: self.worker.clone(),
            stored: Some(stored),
            place: Some(self.unsettled.clone()),
        };
        Delivery::new(message, redelivered, Box::new(settlement))
    }

    fn close(&self) {
        if self.attached.send_replace(false) {
            self.shared.change(&self.queue, |queue| queue.consumers -= 1);
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
            match self.take() {
                Ok(stored) => {
                    // A publisher may wait for the place in the queue.
                    self.shared.changed.notify_waiters();
                    return Ok(self.hand_out(stored));
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
    queue: QueueName,
    policy: RetryPolicy,
    worker: Option<Arc<str>>,
    /// Taken by whatever ends the delivery.
    stored: Option<Stored>,
    /// The place in the consumer's prefetch.
    place: Option<Arc<()>>,
}

impl MemorySettlement {
    /// Nobody settled it: back to the queue, counted.
    fn returned(&self, mut stored: Stored) {
        stored.unsettled += 1;
        if stored.unsettled > DELIVERY_LIMIT {
            // By the broker itself, which knows no worker.
            return self.bury(&stored, OVER_DELIVERY_LIMIT.to_owned(), None);
        }
        self.append(stored);
    }

    /// To the end: a message that fails at once must not keep the others waiting.
    fn append(&self, stored: Stored) {
        self.shared.change(&self.queue, |queue| queue.ready.push_back(stored));
    }

    fn rest(&self, message: Publication, deferrals: u32) {
        let due = Instant::now() + self.policy.delay;
        let resting = Stored { message, unsettled: 0, deferrals };
        self.shared.change(&self.queue, |queue| queue.resting.push_back((due, resting)));
    }

    fn retry(&self, stored: &Stored, reason: String) {
        let message = stored.renewed();
        match self.policy.next_attempt(message.attempt) {
            Some(attempt) => self.rest(Publication { attempt, ..message }, 0),
            None => self.dead_letter(stored, reason),
        }
    }

    fn defer(&self, stored: &Stored, reason: String) {
        match self.policy.next_deferral(stored.deferrals) {
            Some(deferrals) => self.rest(stored.renewed(), deferrals),
            None => self.dead_letter(stored, reason),
        }
    }

    fn dead_letter(&self, stored: &Stored, reason: String) {
        self.bury(stored, reason, self.worker.as_deref().map(str::to_owned));
    }

    fn bury(&self, stored: &Stored, reason: String, worker: Option<String>) {
        let Publication { body, attempt, deliveries } = stored.renewed();
        let died_unix_ms = Some(unix_ms());
        let queue = Some(self.queue.clone());
        self.shared.bury(DeadLetter { queue, body, attempt, deliveries, reason, worker, died_unix_ms });
    }
}

#[async_trait]
impl Settlement for MemorySettlement {
    async fn settle(mut self: Box<Self>, disposition: Disposition) -> Result<(), BrokerError> {
        let Some(stored) = self.stored.take() else { return Err(BrokerError::Stale) };
        match disposition {
            Disposition::Ack => {}
            Disposition::Requeue => {
                let deferrals = stored.deferrals;
                self.append(Stored { deferrals, ..Stored::new(stored.renewed()) });
            }
            Disposition::Retry { reason } => self.retry(&stored, reason),
            Disposition::Defer { reason } => self.defer(&stored, reason),
            Disposition::DeadLetter { reason } => self.dead_letter(&stored, reason),
        }
        Ok(())
    }
}

impl Drop for MemorySettlement {
    fn drop(&mut self) {
        if let Some(stored) = self.stored.take() {
            self.returned(stored);
        }
        self.place = None;
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract;
    use futures::FutureExt;
    use std::time::Duration;

    fn lane() -> QueueName {
        "q".parse().unwrap()
    }

    #[tokio::test]
    async fn passes_the_contract() {
        let broker = Arc::new(MemoryBroker::new().with_retries(contract::broker::POLICY));
        contract::broker::suite(|| {
            let broker: Arc<dyn Broker> = broker.clone();
            async move { broker }
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_rests_for_the_whole_delay() {
        let broker = MemoryBroker::new();
        let mut consumer = broker.consume(&lane(), 1).await.unwrap();
        broker.publish(&lane(), Publication::new("a")).await.unwrap();
        let began = Instant::now();
        let first = consumer.next().await.unwrap();
        first.settle(Disposition::Retry { reason: "busy".into() }).await.unwrap();
        let again = consumer.next().await.unwrap();
        assert!(began.elapsed() >= topology::RETRY_DELAY, "{:?}", began.elapsed());
        assert_eq!((again.attempt, again.redelivered), (1, false));
        again.settle(Disposition::Ack).await.unwrap();
    }

    #[tokio::test]
    async fn publishing_waits_for_room() {
        let broker = MemoryBroker::with_capacity(2);
        let mut consumer = broker.consume(&lane(), 10).await.unwrap();
        for body in ["a", "b"] {
            broker.publish(&lane(), Publication::new(body)).await.unwrap();
        }
        let lane = lane();
        let mut third = broker.publish(&lane, Publication::new("c"));
        assert!((&mut third).now_or_never().is_none(), "there was no room");
        let first = consumer.next().await.unwrap();
        tokio::time::timeout(Duration::from_secs(10), third).await.expect("there is room").unwrap();
        first.settle(Disposition::Ack).await.unwrap();
    }

    #[tokio::test]
    async fn a_message_that_nobody_settles_becomes_a_dead_letter() {
        let broker = MemoryBroker::new();
        let mut consumer = broker.consume(&lane(), 1).await.unwrap();
        broker.publish(&lane(), Publication::new("killer")).await.unwrap();
        for deliveries in 0..=DELIVERY_LIMIT {
            let delivery = consumer.next().await.unwrap();
            assert_eq!((delivery.attempt, delivery.deliveries), (0, deliveries));
            assert_eq!((delivery.redelivered, delivery.seen()), (deliveries > 0, deliveries > 0));
        }
        assert!(consumer.next().now_or_never().is_none());
        let letters = broker.dead_letters();
        let [letter] = &letters[..] else { panic!("one: {letters:?}") };
        assert_eq!((&letter.queue, &letter.body[..]), (&Some(lane()), &b"killer"[..]));
        assert_eq!((letter.attempt, letter.deliveries), (0, DELIVERY_LIMIT + 1));
        assert_eq!((&*letter.reason, &letter.worker), (OVER_DELIVERY_LIMIT, &None));
    }

    #[tokio::test]
    async fn dead_letters_say_why_and_who() {
        let broker = MemoryBroker::new().named("w1");
        let mut consumer = broker.consume(&lane(), 1).await.unwrap();
        broker.publish(&lane(), Publication { attempt: 3, ..Publication::new("junk") }).await.unwrap();
        let delivery = consumer.next().await.unwrap();
        delivery.settle(Disposition::DeadLetter { reason: "not JSON".into() }).await.unwrap();
        let letters = broker.dead_letters();
        let [letter] = &letters[..] else { panic!("one: {letters:?}") };
        assert_eq!((letter.attempt, &*letter.reason, letter.worker.as_deref()), (3, "not JSON", Some("w1")));
        assert!(letter.died_unix_ms.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_put_off_too_often_is_a_dead_letter() {
        let policy = RetryPolicy { max_deferrals: 2, ..RetryPolicy::default() };
        let broker = MemoryBroker::new().with_retries(policy);
        let mut consumer = broker.consume(&lane(), 1).await.unwrap();
        broker.publish(&lane(), Publication::new("a")).await.unwrap();
        for _ in 0..3 {
            let delivery = consumer.next().await.unwrap();
            assert_eq!((delivery.attempt, delivery.deliveries), (0, 0));
            delivery.settle(Disposition::Defer { reason: "disk full".into() }).await.unwrap();
        }
        let dead: Vec<_> = broker.dead_letters().into_iter().map(|letter| letter.reason).collect();
        assert_eq!(dead, ["disk full"]);
    }
}
