//! The broker at the far end of a line.
//!
//! A settlement that is refused gives its delivery back, as a channel's end does. A retry may be published and
//! its delivery not acked, which duplicates.

use super::{
    line::{Call, Line},
    weather::Service,
};
use crate::{
    batch::Message,
    broker::{
        Broker, BrokerError, Consumer, DeadLetter, Delivery, Disposition, Judge, Publication, QueueDepth,
        Settlement, Verdict, memory::MemoryBroker,
    },
    job::QueueName,
};
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::watch;

/// The queues as one process sees them.
pub struct FaultyBroker {
    inner: MemoryBroker,
    line: Arc<Line>,
}

impl FaultyBroker {
    /// `inner`, seen by the process at the other end of `line` and under its name.
    pub fn new(inner: MemoryBroker, line: Arc<Line>) -> Self {
        Self { inner: inner.named(line.name()), line }
    }

    fn unconfirmed(queue: &QueueName) -> impl Fn(&str) -> BrokerError {
        let queue = queue.to_string();
        move |reason| BrokerError::Unconfirmed { queue: queue.clone(), reason: reason.to_owned() }
    }
}

/// What a message is about, for the log.
fn about(body: &[u8]) -> String {
    match Message::parse(body) {
        Ok(Message::Batch(batch)) => format!("batch {}", batch.batch.0),
        Ok(Message::Feed(request)) => format!("feed {}", request.from.0),
        Ok(Message::Finalize(_)) => "finalize".to_owned(),
        Err(_) => "junk".to_owned(),
    }
}

#[async_trait]
impl Broker for FaultyBroker {
    async fn ensure_queue(&self, queue: &QueueName) -> Result<(), BrokerError> {
        let (inner, name) = (self.inner.clone(), queue.clone());
        let call = Call::new(Service::Broker, "declare".to_owned());
        self.line.call(call, Self::unconfirmed(queue), async move { inner.ensure_queue(&name).await }).await
    }

    async fn publish(&self, queue: &QueueName, message: Publication) -> Result<(), BrokerError> {
        let (inner, name, what) = (self.inner.clone(), queue.clone(), about(&message.body));
        let world = self.line.world();
        let twice = world.weather().twice;
        let copy = world.dice.chance(twice).then(|| message.clone());
        if copy.is_some() {
            world.chronicle.fault(self.line.name(), "published twice", &what);
        }
        let call = Call::new(Service::Broker, format!("publish {what}"));
        let publish = async move {
            if let Some(copy) = copy {
                inner.publish(&name, copy).await?;
            }
            inner.publish(&name, message).await
        };
        self.line.call(call, Self::unconfirmed(queue), publish).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, BrokerError> {
        let inner = self.inner.consume(queue, prefetch).await?;
        let (broker, queue, line) = (self.inner.clone(), queue.clone(), self.line.clone());
        Ok(Box::new(FaultyConsumer { inner, broker, queue, line }))
    }

    async fn depth(&self, queue: &QueueName) -> Result<Option<QueueDepth>, BrokerError> {
        self.inner.depth(queue).await
    }

    async fn dead_depth(&self) -> Result<u64, BrokerError> {
        self.inner.dead_depth().await
    }

    async fn judge_dead(
        &self,
        limit: usize,
        judge: Judge<'_>,
    ) -> Result<Vec<(DeadLetter, Verdict)>, BrokerError> {
        self.inner.judge_dead(limit, judge).await
    }
}

struct FaultyConsumer {
    inner: Box<dyn Consumer>,
    broker: MemoryBroker,
    queue: QueueName,
    line: Arc<Line>,
}

#[async_trait]
impl Consumer for FaultyConsumer {
    async fn next(&mut self) -> Result<Delivery, BrokerError> {
        self.line.running().await;
        self.line.back(Service::Broker).await;
        // Nothing is waited for after this: a delivery in a dropped future would go back.
        let delivery = self.inner.next().await?;
        let what = about(&delivery.body);
        let Delivery { attempt, deliveries, redelivered, .. } = delivery;
        let seen = if delivery.seen() { " again" } else { "" };
        self.line.world().chronicle.note(
            self.line.name(),
            &format!("takes {what}{seen}, attempt {attempt}, {deliveries} deliveries"),
        );
        let (body, trace) = (delivery.body.clone(), delivery.trace.clone());
        let message = Publication { body, attempt, deliveries, trace };
        let (broker, queue, line) = (self.broker.clone(), self.queue.clone(), self.line.clone());
        let settlement = FaultySettlement { delivery, broker, queue, line };
        Ok(Delivery::new(message, redelivered, Box::new(settlement)))
    }

    async fn cancel(&mut self) -> Result<(), BrokerError> {
        self.inner.cancel().await
    }

    fn attached(&self) -> watch::Receiver<bool> {
        self.inner.attached()
    }
}

struct FaultySettlement {
    delivery: Delivery,
    broker: MemoryBroker,
    queue: QueueName,
    line: Arc<Line>,
}

#[async_trait]
impl Settlement for FaultySettlement {
    async fn settle(self: Box<Self>, disposition: Disposition) -> Result<(), BrokerError> {
        let Self { delivery, broker, queue, line } = *self;
        let verb = match &disposition {
            Disposition::Ack => "ack".to_owned(),
            Disposition::Requeue => "requeue".to_owned(),
            Disposition::Abandon => "abandon".to_owned(),
            Disposition::Defer { reason } => format!("defer ({reason})"),
            Disposition::Retry { reason } => format!("retry ({reason})"),
            Disposition::DeadLetter { reason } => format!("bury ({reason})"),
        };
        let what = format!("{verb} {}", about(&delivery.body));
        let world = line.world();
        let again = matches!(disposition, Disposition::Retry { .. } | Disposition::Defer { .. });
        let lose = world.weather().lose;
        let copied = again && world.dice.chance(lose) && world.weather().may_return();
        if copied {
            world.chronicle.fault(line.name(), "copied", &format!("and did not {what}"));
        }
        let call = Call { service: Service::Broker, what, returns: true };
        let work = async move {
            if copied {
                let copy = Publication {
                    body: delivery.body.clone(),
                    attempt: delivery.attempt,
                    deliveries: delivery.deliveries,
                    trace: delivery.trace.clone(),
                };
                broker.publish(&queue, copy).await?;
                return Err(BrokerError::Stale);
            }
            delivery.settle(disposition).await
        };
        line.call(call, |_| BrokerError::Stale, work).await
    }
}
