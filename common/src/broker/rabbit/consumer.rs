//! A subscription at RabbitMQ that outlives connections, channels and queues.
//!
//! Feeds the worker's intake. A supervisor task owns the session (connection, channel, prefetch, consumer) and
//! makes it again, with jittered waits and for ever, after whatever ended it: a lost connection, a closed
//! channel, a cancelled consumer, a deleted queue. lapin's own recovery is off: it does not see the last three.
//! The supervisor must never hold more than the prefetch, nor hand out what the broker has taken back.

use super::{
    connection::{self, Endpoint, Waits},
    declare,
    publisher::Publisher,
    settlement::{RabbitSettlement, Settler},
};
use crate::{
    broker::{
        BrokerError, Consumer, Delivery, Disposition, Publication,
        reconnects::{self, Lost},
        topology::{self, RetryPolicy},
    },
    job::QueueName,
    trace::TraceContext,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use lapin::{
    Acker, Channel, Connection,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::{AMQPValue, FieldTable},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A session that stood this long was a good one: the next waits begin short again.
const GOOD_SESSION: Duration = Duration::from_secs(30);

/// How long unsubscribing may take: it stands between a SIGTERM and the worker's last batches, and without it
/// the broker takes everything back with the connection.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel and the connection under it; both close when the last delivery of theirs is settled.
pub(super) struct Session {
    endpoint: Arc<Endpoint>,
    channel: Channel,
    // lapin closes a connection that nobody holds.
    _connection: Connection,
}

impl Session {
    /// A transient failure of this session.
    pub(super) fn unreachable(&self, reason: &str) -> BrokerError {
        self.endpoint.unreachable(reason)
    }
}

/// What is needed to subscribe, again and again.
pub(super) struct Subscription {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) queue: QueueName,
    pub(super) prefetch: u16,
    pub(super) policy: RetryPolicy,
    pub(super) worker: Option<Arc<str>>,
}

/// A subscription that stands.
struct Attached {
    settler: Arc<Settler>,
    stream: lapin::Consumer,
}

impl Subscription {
    /// Subscribes once and leaves a supervisor behind that keeps it so.
    pub(super) async fn start(self) -> Result<RabbitConsumer, BrokerError> {
        let first = self.attach().await?;
        let inbox = Arc::new(Inbox::default());
        let (attached, watching) = watch::channel(true);
        let stop = CancellationToken::new();
        let supervisor =
            Supervisor { subscription: self, inbox: inbox.clone(), attached, stop: stop.clone() };
        tokio::spawn(supervisor.run(first));
        Ok(RabbitConsumer { inbox, attached: watching, stop: stop.drop_guard() })
    }

    async fn attach(&self) -> Result<Attached, BrokerError> {
        let endpoint = &self.endpoint;
        let connection = endpoint.connect(&format!("consumer of {}", self.queue)).await?;
        let channel = endpoint.request(connection.create_channel()).await?;
        declare::declare(endpoint, &channel, &self.queue, &self.policy).await?;
        endpoint.request(channel.basic_qos(self.prefetch, BasicQosOptions::default())).await?;
        let queue = topology::work_queue(&self.queue);
        let consuming = channel.basic_consume(
            queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let stream = endpoint.queue_request(&queue, consuming).await?;
        let session = Session { endpoint: endpoint.clone(), channel, _connection: connection };
        let settler = Settler {
            session,
            publisher: self.publisher.clone(),
            queue: self.queue.clone(),
            policy: self.policy,
            worker: self.worker.clone(),
        };
        Ok(Attached { settler: Arc::new(settler), stream })
    }
}

/// Deliveries between supervisor and consumer: at most the prefetch, since the broker sends no more.
#[derive(Default)]
struct Inbox {
    state: Mutex<InboxState>,
    changed: Notify,
}

#[derive(Default)]
struct InboxState {
    waiting: VecDeque<Inbound>,
    /// Set once, when the supervisor has ended.
    end: Option<End>,
}

struct Inbound {
    acker: Acker,
    delivery: Delivery,
}

enum End {
    /// By us; or the failure has been told.
    Closed,
    /// By something that no waiting mends, to be told once.
    Failed(BrokerError),
}

impl Inbox {
    fn put(&self, inbound: Inbound) {
        self.lock().waiting.push_back(inbound);
        self.changed.notify_one();
    }

    fn end(&self, end: End) {
        self.lock().end = Some(end);
        self.changed.notify_one();
    }

    /// Everything that was not handed out.
    fn take_all(&self) -> VecDeque<Inbound> {
        std::mem::take(&mut self.lock().waiting)
    }

    /// The next delivery or the end, if there is one of them. Cancel safe.
    async fn next(&self) -> Result<Delivery, BrokerError> {
        loop {
            if let Some(next) = self.try_next() {
                return next;
            }
            // A notification in between is kept: there is one waiter.
            self.changed.notified().await;
        }
    }

    fn try_next(&self) -> Option<Result<Delivery, BrokerError>> {
        let mut state = self.lock();
        while let Some(inbound) = state.waiting.pop_front() {
            // The broker has taken back what came over a channel that is gone.
            if !inbound.acker.poisoned() {
                return Some(Ok(inbound.delivery));
            }
        }
        match std::mem::replace(state.end.as_mut()?, End::Closed) {
            End::Closed => Some(Err(BrokerError::Closed)),
            End::Failed(error) => Some(Err(error)),
        }
    }

    async fn ended(&self) {
        while self.lock().end.is_none() {
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The consuming half of the broker, for one queue.
pub(super) struct RabbitConsumer {
    inbox: Arc<Inbox>,
    attached: watch::Receiver<bool>,
    /// Stops the supervisor when the consumer is dropped, too.
    stop: DropGuard,
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        self.inbox.next().await
    }

    async fn cancel(&mut self) -> Result<(), BrokerError> {
        self.stop.token().cancel();
        self.inbox.ended().await;
        // So that a `next` after this one finds the end at once.
        self.inbox.changed.notify_one();
        Ok(())
    }

    fn attached(&self) -> watch::Receiver<bool> {
        self.attached.clone()
    }
}

/// Keeps one subscription standing.
struct Supervisor {
    subscription: Subscription,
    inbox: Arc<Inbox>,
    attached: watch::Sender<bool>,
    stop: CancellationToken,
}

impl Drop for Supervisor {
    /// Whoever waits for a delivery must learn of an end that `run` could not tell: a panic, a runtime that stops.
    fn drop(&mut self) {
        self.attached.send_replace(false);
        let silent = self.inbox.lock().end.is_none();
        if silent {
            let reason = "the task that keeps the subscription has ended unexpectedly";
            self.inbox.end(End::Failed(self.subscription.endpoint.unreachable(reason)));
        }
    }
}

impl Supervisor {
    async fn run(self, first: Attached) {
        let mut next = Ok(first);
        let mut waits = Waits::new();
        let end = loop {
            let attached = match next {
                Ok(attached) => attached,
                Err(lost) => match self.attach_again(&mut waits).await {
                    Ok(attached) => {
                        reconnects::note(lost);
                        attached
                    }
                    Err(end) => break end,
                },
            };
            let since = Instant::now();
            let Some((lost, reason)) = self.serve(attached).await else { break End::Closed };
            tracing::warn!(queue = %self.subscription.queue, reason, "subscription lost");
            next = Err(lost);
            if since.elapsed() >= GOOD_SESSION {
                waits = Waits::new();
            }
        };
        self.attached.send_replace(false);
        self.inbox.end(end);
    }

    /// Hands deliveries over until the session is lost (and says why) or the consumer is closed (`None`).
    async fn serve(&self, attached: Attached) -> Option<(Lost, String)> {
        let Attached { settler, mut stream } = attached;
        let lost = loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break None,
                item = stream.next() => match item {
                    Some(Ok(message)) => self.inbox.put(inbound(&settler, message)),
                    Some(Err(error)) => break Some((connection::lost(&error), connection::words(&error))),
                    None => break Some((Lost::Cancelled, "the broker cancelled the consumer".to_owned())),
                },
            }
        };
        self.attached.send_replace(false);
        if lost.is_none() {
            self.give_back(&settler, stream).await;
        } else {
            // Requeued by dropping, unless the channel is gone and the broker did it.
            drop(self.inbox.take_all());
        }
        lost
    }

    /// Unsubscribes and sends back what was not handed out. The channel lives on with what was.
    async fn give_back(&self, settler: &Arc<Settler>, mut stream: lapin::Consumer) {
        let session = &settler.session;
        let cancelling = session.channel.basic_cancel(stream.tag(), BasicCancelOptions::default());
        if !matches!(timeout(CANCEL_TIMEOUT, cancelling).await, Ok(Ok(()))) {
            tracing::debug!(queue = %settler.queue, "the broker did not confirm the end of the subscription");
        }
        let mut unwanted = self.inbox.take_all();
        // lapin puts `None` behind the last delivery once the broker has confirmed.
        while let Some(Some(Ok(message))) = futures::FutureExt::now_or_never(stream.next()) {
            unwanted.push_back(inbound(settler, message));
        }
        for inbound in unwanted {
            if let Err(error) = inbound.delivery.settle(Disposition::Requeue).await {
                tracing::debug!(queue = %settler.queue, %error, "a prefetched delivery went back with its channel");
            }
        }
    }

    /// Subscribes again, however long it takes.
    async fn attach_again(&self, waits: &mut Waits) -> Result<Attached, End> {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(End::Closed),
                () = sleep(waits.next()) => {}
            }
            let attaching = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(End::Closed),
                attached = self.subscription.attach() => attached,
            };
            match attaching {
                Ok(attached) => {
                    tracing::info!(queue = %self.subscription.queue, "subscribed again");
                    self.attached.send_replace(true);
                    return Ok(attached);
                }
                Err(error) if error.is_transient() => {
                    tracing::warn!(queue = %self.subscription.queue, %error, "not subscribed, trying again");
                }
                Err(error) => return Err(End::Failed(error)),
            }
        }
    }
}

/// A delivery of lapin's as one of ours.
fn inbound(settler: &Arc<Settler>, message: lapin::message::Delivery) -> Inbound {
    let headers = message.properties.headers().as_ref();
    let count = |name: &str| headers.and_then(|headers| headers.inner().get(name)).map_or(0, as_count);
    let message_anew = Publication {
        body: Bytes::from(message.data),
        attempt: count(topology::ATTEMPT_HEADER),
        deliveries: count(topology::DELIVERIES_HEADER).saturating_add(count(topology::DELIVERY_COUNT_HEADER)),
        trace: headers.and_then(trace_context),
    };
    let deferrals = count(topology::DEFERRALS_HEADER);
    let settlement =
        RabbitSettlement::new(settler.clone(), message.acker.clone(), message_anew.clone(), deferrals);
    Inbound {
        acker: message.acker,
        delivery: Delivery::new(message_anew, message.redelivered, Box::new(settlement))
            .tagged(message.delivery_tag),
    }
}

/// The context in a message's headers, if there is a valid one.
pub(super) fn trace_context(headers: &FieldTable) -> Option<TraceContext> {
    let text = |name: &str| match headers.inner().get(name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    };
    TraceContext::parse(text(topology::TRACEPARENT_HEADER)?, text(topology::TRACESTATE_HEADER))
}

/// A counter from a header, whatever width the sender chose; anything else counts as 0.
pub(super) fn as_count(value: &AMQPValue) -> u32 {
    let wide = match value {
        AMQPValue::ShortShortInt(n) => i64::from(*n),
        AMQPValue::ShortShortUInt(n) => i64::from(*n),
        AMQPValue::ShortInt(n) => i64::from(*n),
        AMQPValue::ShortUInt(n) => i64::from(*n),
        AMQPValue::LongInt(n) => i64::from(*n),
        AMQPValue::LongUInt(n) => i64::from(*n),
        AMQPValue::LongLongInt(n) => *n,
        _ => 0,
    };
    u32::try_from(wide.max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_any_integer_and_never_negative() {
        assert_eq!(as_count(&AMQPValue::LongLongInt(3)), 3);
        assert_eq!(as_count(&AMQPValue::ShortShortUInt(4)), 4);
        assert_eq!(as_count(&AMQPValue::LongInt(-1)), 0);
        assert_eq!(as_count(&AMQPValue::LongLongInt(i64::MAX)), u32::MAX);
        assert_eq!(as_count(&AMQPValue::Boolean(true)), 0);
    }
}
