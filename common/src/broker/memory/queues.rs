//! What the broker in memory holds, and the rules by which messages move.
//!
//! Plain data under one lock: ready, resting, handed out, dead. RabbitMQ's versions differ in where a message goes
//! that comes back and in what counts towards the delivery limit; [`Rules`] says which one is imitated. Nothing
//! here waits.

use crate::{
    broker::{
        DeadLetter, Publication, QueueDepth,
        topology::{DELIVERY_LIMIT, RetryPolicy},
    },
    config::unix_ms,
    job::QueueName,
};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};
use tokio::time::Instant;

/// The reason of a dead letter that was delivered too often without being settled; RabbitMQ's own word.
pub(super) const OVER_DELIVERY_LIMIT: &str = "delivery_limit";

/// Whose rules hold for a message that comes back unsettled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rules {
    /// To the end of the queue; every return counts.
    #[default]
    V3_10,
    /// To the head of the queue; every return counts.
    V4_0,
    /// Before all others, in the order of their return; a consumer's time-out does not count.
    V4_3,
}

/// Why a message comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Return {
    /// Its worker died, lost its connection, or dropped it.
    Lost,
    /// The broker's patience with the consumer ran out.
    #[cfg_attr(
        not(any(test, feature = "testing")),
        expect(dead_code, reason = "a worker in this process is trusted")
    )]
    TimedOut,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) queues: HashMap<QueueName, Queue>,
    pub(super) dead: Vec<DeadLetter>,
    pub(super) rules: Rules,
    /// By tag: the deliveries that nobody settled yet.
    pub(super) unsettled: BTreeMap<u64, Unsettled>,
    next_tag: u64,
    next_consumer: u64,
}

#[derive(Default)]
pub(super) struct Queue {
    /// Came back and goes out first ([`Rules::V4_3`]).
    returned: VecDeque<Stored>,
    pub(super) ready: VecDeque<Stored>,
    /// Retries at rest; one delay for all, so the first is due first.
    pub(super) resting: VecDeque<(Instant, Stored)>,
    pub(super) consumers: u64,
}

#[derive(Clone)]
pub(super) struct Stored {
    pub(super) message: Publication,
    /// Earlier deliveries that were not settled; RabbitMQ's `x-delivery-count`.
    unsettled: u32,
    redelivered: bool,
    /// How often it was put off.
    pub(super) deferrals: u32,
}

/// Who subscribed to what.
#[derive(Clone)]
pub(super) struct Subscriber {
    pub(super) consumer: u64,
    pub(super) queue: QueueName,
    /// Named in dead letters.
    pub(super) worker: Option<Arc<str>>,
    pub(super) prefetch: usize,
}

/// A message in somebody's hands.
pub(super) struct Unsettled {
    pub(super) subscriber: Subscriber,
    #[cfg_attr(
        not(any(test, feature = "testing")),
        expect(dead_code, reason = "a worker in this process is trusted")
    )]
    pub(super) since: Instant,
    pub(super) stored: Stored,
}

impl Stored {
    pub(super) fn new(message: Publication) -> Self {
        Self { message, unsettled: 0, redelivered: false, deferrals: 0 }
    }

    /// As new, but for how often it was put off.
    pub(super) fn put_off(message: Publication, deferrals: u32) -> Self {
        Self { deferrals, ..Self::new(message) }
    }

    /// The message as it is delivered, and as it is published anew.
    pub(super) fn renewed(&self) -> Publication {
        let deliveries = self.message.deliveries.saturating_add(self.unsettled);
        Publication { deliveries, ..self.message.clone() }
    }

    fn letter(&self, queue: &QueueName, reason: String, worker: Option<&str>) -> DeadLetter {
        let Publication { body, attempt, deliveries, trace } = self.renewed();
        DeadLetter {
            queue: Some(queue.clone()),
            body,
            attempt,
            deliveries,
            reason,
            worker: worker.map(str::to_owned),
            died_unix_ms: Some(unix_ms()),
            trace,
        }
    }
}

impl Queue {
    pub(super) fn wake_due(&mut self, now: Instant) {
        while self.resting.front().is_some_and(|(due, _)| *due <= now) {
            self.ready.extend(self.resting.pop_front().map(|(_, stored)| stored));
        }
    }

    pub(super) fn depth(&mut self) -> QueueDepth {
        self.wake_due(Instant::now());
        QueueDepth { ready: (self.returned.len() + self.ready.len()) as u64, consumers: self.consumers }
    }
}

impl State {
    pub(super) fn new_consumer(&mut self) -> u64 {
        self.next_consumer += 1;
        self.next_consumer
    }

    /// The next message that `to` may have with its tag and whether it was out before, or else the time at which
    /// a resting one is due.
    pub(super) fn hand_out(&mut self, to: &Subscriber) -> Result<(u64, Publication, bool), Option<Instant>> {
        let now = Instant::now();
        let Some(queue) = self.queues.get_mut(&to.queue) else { return Err(None) };
        queue.wake_due(now);
        let held = self.unsettled.values().filter(|held| held.subscriber.consumer == to.consumer).count();
        if held >= to.prefetch {
            return Err(None);
        }
        let next = queue.returned.pop_front().or_else(|| queue.ready.pop_front());
        let stored = next.ok_or_else(|| queue.resting.front().map(|(due, _)| *due))?;
        let (message, redelivered) = (stored.renewed(), stored.redelivered);
        self.next_tag += 1;
        self.unsettled.insert(self.next_tag, Unsettled { subscriber: to.clone(), since: now, stored });
        Ok((self.next_tag, message, redelivered))
    }

    /// Takes messages back that nobody settled, in the order in which they went out.
    pub(super) fn give_back(&mut self, tags: &[u64], why: Return) {
        let back: Vec<Unsettled> = tags.iter().filter_map(|tag| self.unsettled.remove(tag)).collect();
        let at_head = self.rules == Rules::V4_0;
        let in_order: Box<dyn Iterator<Item = Unsettled>> =
            if at_head { Box::new(back.into_iter().rev()) } else { Box::new(back.into_iter()) };
        for Unsettled { subscriber, mut stored, .. } in in_order {
            stored.redelivered = true;
            stored.unsettled += u32::from(why == Return::Lost || self.rules != Rules::V4_3);
            if stored.unsettled > DELIVERY_LIMIT {
                // By the broker itself, which knows no worker.
                self.dead.push(stored.letter(&subscriber.queue, OVER_DELIVERY_LIMIT.to_owned(), None));
                continue;
            }
            let Some(queue) = self.queues.get_mut(&subscriber.queue) else { continue };
            match self.rules {
                // A message that fails at once must not keep the others waiting.
                Rules::V3_10 => queue.ready.push_back(stored),
                Rules::V4_0 => queue.ready.push_front(stored),
                Rules::V4_3 => queue.returned.push_back(stored),
            }
        }
    }

    /// To the end of its queue, as a message that nobody has seen.
    pub(super) fn requeue(&mut self, held: &Unsettled) {
        let stored = Stored::put_off(held.stored.renewed(), held.stored.deferrals);
        self.change(&held.subscriber.queue, |queue| queue.ready.push_back(stored));
    }

    /// Back after a rest, or dead if `next` says that it was tried or put off often enough.
    pub(super) fn rest(
        &mut self,
        held: &Unsettled,
        policy: RetryPolicy,
        next: Option<Stored>,
        reason: String,
    ) {
        match next {
            Some(stored) => {
                let due = Instant::now() + policy.delay;
                self.change(&held.subscriber.queue, |queue| queue.resting.push_back((due, stored)));
            }
            None => self.bury(held, reason),
        }
    }

    pub(super) fn bury(&mut self, held: &Unsettled, reason: String) {
        let Unsettled { subscriber, stored, .. } = held;
        self.dead.push(stored.letter(&subscriber.queue, reason, subscriber.worker.as_deref()));
    }

    /// Changes a queue; does nothing for one that is not there.
    pub(super) fn change(&mut self, name: &QueueName, change: impl FnOnce(&mut Queue)) {
        if let Some(queue) = self.queues.get_mut(name) {
            change(queue);
        }
    }
}
