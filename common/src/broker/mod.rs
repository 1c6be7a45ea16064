//! The broker seam: the work list between producers and workers.
//!
//! A [`Delivery`] has one owner and is settled once, by value; what is neither settled nor kept comes
//! back to the queue. Real: [`rabbit`] (the only file that names lapin). In memory: [`memory`], for
//! `run` and for tests. Both pass the suite in `contract::broker`. No type of a client library may cross
//! this seam, and nobody but `settle` in the worker acks.

pub mod memory;
pub mod rabbit;
pub mod reconnects;
pub mod topology;

use crate::{job::QueueName, trace::TraceContext};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

/// What can go wrong at the broker, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The broker cannot be reached or went away; trying again later may help.
    #[error("the broker at {broker} is not reachable: {reason}; is it running, and is TRAWL_AMQP_URL right?")]
    Unreachable {
        /// Host and port, never the credentials.
        broker: String,
        /// The client library's words.
        reason: String,
    },
    /// The broker refuses our credentials or permissions.
    #[error(
        "the broker at {broker} refuses access: {reason}; check user, password and vhost in TRAWL_AMQP_URL"
    )]
    AccessRefused {
        /// Host and port.
        broker: String,
        /// The broker's words.
        reason: String,
    },
    /// The queue exists with other arguments than ours, or some other condition of the broker's failed.
    #[error("the broker refuses queue `{queue}`: {reason}")]
    Precondition {
        /// The queue.
        queue: String,
        /// The broker's words.
        reason: String,
    },
    /// The message reached no queue.
    #[error(
        "queue `{queue}` does not exist, the message was returned; a worker or `trawl submit` creates it"
    )]
    Unroutable {
        /// The queue.
        queue: String,
    },
    /// The publish was not confirmed: the message may or may not be queued.
    #[error("queue `{queue}` did not confirm the message: {reason}")]
    Unconfirmed {
        /// The queue.
        queue: String,
        /// A nack, a time-out or a lost connection.
        reason: String,
    },
    /// The delivery's channel is gone; the broker redelivers the message by itself.
    #[error("the delivery was settled too late: its channel is closed and the broker will deliver it again")]
    Stale,
    /// The consumer was cancelled by us.
    #[error("the consumer is closed")]
    Closed,
    /// The URL is not one.
    #[error("the AMQP URL is not usable: {0}; it looks like amqp://user:password@host:5672/vhost")]
    BadUrl(String),
}

impl BrokerError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Unconfirmed { .. } | Self::Stale => true,
            Self::AccessRefused { .. }
            | Self::Precondition { .. }
            | Self::Unroutable { .. }
            | Self::Closed
            | Self::BadUrl(_) => false,
        }
    }
}

/// A message to be queued.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The JSON of a [`crate::batch::Message`].
    pub body: Bytes,
    /// How often it was tried before and failed; 0 for new work.
    pub attempt: u32,
    /// How often it was handed out before and came back without a word; 0 for new work.
    pub deliveries: u32,
    /// Where it comes from; stays with the message through retries and dead letters.
    pub trace: Option<TraceContext>,
}

impl Publication {
    /// A message that nobody has tried yet.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), attempt: 0, deliveries: 0, trace: None }
    }

    /// The same with the context that it is to carry.
    #[must_use]
    pub fn traced(self, trace: Option<TraceContext>) -> Self {
        Self { trace, ..self }
    }
}

/// What becomes of a delivery. There is no default: whoever settles says which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disposition {
    /// Done; the broker forgets it.
    Ack,
    /// Back to the end of the queue at once, for another worker (drain). Counts neither as an attempt nor as a
    /// delivery that came back without a word, unless the broker is away at this moment.
    Requeue,
    /// Back to the queue at once, counted as a delivery that came back without a word: it may have killed its
    /// worker's device, and must be worked on alone.
    Abandon,
    /// Back to the queue after the same delay as a retry, without counting an attempt: what is wrong is not the
    /// message (Redis is away, this worker's disk is full). To the dead letters after
    /// [`topology::MAX_DEFERRALS`] of them.
    Defer {
        /// Why, for the header and the log. Never a secret.
        reason: String,
    },
    /// Back to the queue after a delay with attempt + 1; to the dead letters when the attempts are used up.
    Retry {
        /// Why, for the dead letter's header and the log. Never a secret.
        reason: String,
    },
    /// To the dead letters now.
    DeadLetter {
        /// Why.
        reason: String,
    },
}

/// A message that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The lane it came from; `None` if the message does not say (somebody else's).
    pub queue: Option<QueueName>,
    /// The message.
    pub body: Bytes,
    /// How often it was tried and failed.
    pub attempt: u32,
    /// How often it was handed out and came back without a word.
    pub deliveries: u32,
    /// Why it was given up: the last error, or `delivery_limit` from the broker itself.
    pub reason: String,
    /// The worker that gave it up; `None` if the broker did.
    pub worker: Option<String>,
    /// When, in milliseconds since 1970, if it is known.
    pub died_unix_ms: Option<u64>,
    /// Where it comes from.
    pub trace: Option<TraceContext>,
}

/// What becomes of a dead letter that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// Back to its lane as new work. One whose lane is unknown stays.
    Retry,
    /// It is removed.
    Drop,
}

/// Decides about each dead letter; called once for each, the oldest first.
pub type Judge<'a> = &'a mut (dyn FnMut(&DeadLetter) -> Verdict + Send);

/// How many messages a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueDepth {
    /// Waiting for a consumer.
    pub ready: u64,
    /// Consumers attached.
    pub consumers: u64,
}

/// The implementation's half of a [`Delivery`]; dropping it unsettled gives the message back to the queue.
#[async_trait]
pub trait Settlement: Send + Sync {
    /// Carries the disposition out. A `Retry` or `DeadLetter` publishes with a confirm before it acks, so a
    /// crash between the two duplicates and never loses.
    async fn settle(self: Box<Self>, disposition: Disposition) -> Result<(), BrokerError>;
}

/// A message in the hands of one worker.
#[must_use = "an unsettled delivery goes back to the queue"]
pub struct Delivery {
    /// The message.
    pub body: Bytes,
    /// How often it was tried before and failed, by our own header.
    pub attempt: u32,
    /// How often it was handed out before and came back without a word: its worker died or lost its connection.
    /// Our own header plus the broker's count.
    pub deliveries: u32,
    /// The broker's flag: somebody may have seen it before.
    pub redelivered: bool,
    /// Where it comes from.
    pub trace: Option<TraceContext>,
    /// The broker's number of this delivery on its channel, if it has one.
    pub tag: Option<u64>,
    settlement: Box<dyn Settlement>,
}

impl Delivery {
    /// Joins a body with the way to settle it; for implementations of [`Broker`].
    pub fn new(message: Publication, redelivered: bool, settlement: Box<dyn Settlement>) -> Self {
        let Publication { body, attempt, deliveries, trace } = message;
        Self { body, attempt, deliveries, redelivered, trace, tag: None, settlement }
    }

    /// The same with the broker's number of it.
    pub fn tagged(self, tag: u64) -> Self {
        Self { tag: Some(tag), ..self }
    }

    /// Whether somebody may have worked on it before.
    pub fn seen(&self) -> bool {
        self.redelivered || self.attempt > 0 || self.deliveries > 0
    }

    /// Ends this delivery. Not cancel safe: once polled, run it to the end.
    ///
    /// # Errors
    /// [`BrokerError::Stale`] if the channel it came on is gone (the broker redelivers), or what publishing
    /// a retry or a dead letter gives (then it is not acked and comes back).
    pub async fn settle(self, disposition: Disposition) -> Result<(), BrokerError> {
        self.settlement.settle(disposition).await
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Delivery({} bytes, attempt {}, {} deliveries)",
            self.body.len(),
            self.attempt,
            self.deliveries
        )
    }
}

/// A subscription to one queue.
#[async_trait]
pub trait Consumer: Send {
    /// The next delivery; waits for one. Reconnects by itself after a lost connection, a closed channel or a
    /// cancelled consumer, with jittered waits and without end. Cancel safe.
    ///
    /// # Errors
    /// Only what no waiting mends (access refused, another queue of the same name), and
    /// [`BrokerError::Closed`] after [`Consumer::cancel`].
    async fn next(&mut self) -> Result<Delivery, BrokerError>;

    /// Takes no more deliveries; those already handed out can still be settled. Prefetched ones that were
    /// not handed out go back to the queue.
    async fn cancel(&mut self) -> Result<(), BrokerError>;

    /// True while the subscription stands; for readiness.
    fn attached(&self) -> watch::Receiver<bool>;
}

/// The work list.
#[async_trait]
pub trait Broker: Send + Sync {
    /// Its name in traces.
    fn system(&self) -> &'static str {
        "rabbitmq"
    }

    /// Makes the queue with its retry queue and the dead letters, if they are not there. Idempotent.
    async fn ensure_queue(&self, queue: &QueueName) -> Result<(), BrokerError>;

    /// Queues a message durably; resolves after the broker's confirm. Many may be under way at once: keep a
    /// window of them, one at a time is a hundred times slower. Dropping the future leaves the outcome unknown.
    async fn publish(&self, queue: &QueueName, message: Publication) -> Result<(), BrokerError>;

    /// Subscribes with at most `prefetch` unsettled deliveries.
    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, BrokerError>;

    /// What the queue holds now; `None` if there is no such queue.
    async fn depth(&self, queue: &QueueName) -> Result<Option<QueueDepth>, BrokerError>;

    /// What the dead letters hold now.
    async fn dead_depth(&self) -> Result<u64, BrokerError>;

    /// Shows up to `limit` dead letters to `judge`, the oldest first, and does what it says; the answer says what
    /// was done with each. Letters that are looked at by somebody else at this moment are not seen. A crash in
    /// the middle keeps or repeats, and never loses.
    async fn judge_dead(
        &self,
        limit: usize,
        judge: Judge<'_>,
    ) -> Result<Vec<(DeadLetter, Verdict)>, BrokerError>;
}
