//! The real broker: RabbitMQ through lapin. This folder is the only place that names lapin.
//!
//! `connection` makes connections, `publisher` sends with confirms, `consumer` keeps a subscription
//! standing, `settlement` ends deliveries, `declare` makes the queues, `dead` goes through the dead letters. Nothing here may leak a type of lapin's
//! or a password, and nothing may wait without a limit, except a consumer for a broker that is away.

mod connection;
mod consumer;
mod dead;
mod declare;
mod publisher;
mod settlement;

use super::{
    Broker, BrokerError, Consumer, DeadLetter, Judge, Publication, QueueDepth, Verdict,
    topology::{self, RetryPolicy},
};
use crate::{job::QueueName, tls::TlsFiles};
use async_trait::async_trait;
use connection::Endpoint;
use consumer::Subscription;
use lapin::{Queue, options::QueueDeclareOptions, types::FieldTable};
use publisher::{Headers, Outgoing, Publisher};
use std::sync::Arc;

/// RabbitMQ 3.10 or later. Cheap to share behind an `Arc`; dropping it closes the publishing connection.
pub struct RabbitBroker {
    endpoint: Arc<Endpoint>,
    publisher: Arc<Publisher>,
    policy: RetryPolicy,
    worker: Option<Arc<str>>,
}

impl RabbitBroker {
    /// Connects within 10 seconds (or the URL's `connection_timeout=` in milliseconds). Of the other query
    /// parameters `heartbeat=` (seconds), `frame_max=` and `channel_max=` are heeded; `amqps://` is TLS with the
    /// system's certificates. Must be called within a tokio runtime, which then also drives the heartbeats.
    ///
    /// # Errors
    /// [`BrokerError::BadUrl`], [`BrokerError::AccessRefused`] (also for a vhost that does not exist) or
    /// [`BrokerError::Unreachable`].
    pub async fn connect(url: &str) -> Result<Self, BrokerError> {
        Self::connect_with(url, RetryPolicy::default()).await
    }

    /// The same with other retries than the default. The delay is an argument of the retry queue: all who use
    /// a queue must agree on it.
    ///
    /// # Errors
    /// As [`RabbitBroker::connect`].
    pub async fn connect_with(url: &str, policy: RetryPolicy) -> Result<Self, BrokerError> {
        Self::connect_over(url, policy, TlsFiles::default()).await
    }

    /// The same with a private CA or a client certificate, which count for `amqps://` only.
    ///
    /// # Errors
    /// As [`RabbitBroker::connect`].
    pub async fn connect_over(url: &str, policy: RetryPolicy, tls: TlsFiles) -> Result<Self, BrokerError> {
        let endpoint = Arc::new(Endpoint::parse(url)?.over(tls));
        let connection = endpoint.connect("publisher").await?;
        let publisher = Arc::new(Publisher::new(endpoint.clone(), connection));
        Ok(Self { endpoint, publisher, policy, worker: None })
    }

    /// The same for a worker whose name goes into what fails in its hands.
    #[must_use]
    pub fn named(mut self, worker: &str) -> Self {
        self.worker = Some(worker.into());
        self
    }

    /// Asks for a queue without making it.
    async fn look_at(&self, name: &str) -> Result<Option<Queue>, BrokerError> {
        let channel = self.publisher.throwaway_channel(false).await?;
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        self.endpoint.lookup(channel.queue_declare(name.into(), passive, FieldTable::default())).await
    }
}

#[async_trait]
impl Broker for RabbitBroker {
    async fn ensure_queue(&self, queue: &QueueName) -> Result<(), BrokerError> {
        topology::check_name(queue)?;
        let channel = self.publisher.throwaway_channel(true).await?;
        declare::declare(&self.endpoint, &channel, queue, &self.policy).await
    }

    async fn publish(&self, queue: &QueueName, message: Publication) -> Result<(), BrokerError> {
        topology::check_name(queue)?;
        let work_queue = topology::work_queue(queue);
        let outgoing = Outgoing {
            queue: queue.as_str(),
            exchange: "",
            routing_key: &work_queue,
            body: &message.body,
            headers: Headers {
                attempt: message.attempt,
                deliveries: message.deliveries,
                trace: message.trace.as_ref(),
                ..Headers::default()
            },
        };
        self.publisher.publish(&outgoing).await
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, BrokerError> {
        topology::check_name(queue)?;
        let subscription = Subscription {
            endpoint: self.endpoint.clone(),
            publisher: self.publisher.clone(),
            queue: queue.clone(),
            // To AMQP, 0 means no limit.
            prefetch: prefetch.max(1),
            policy: self.policy,
            worker: self.worker.clone(),
        };
        Ok(Box::new(subscription.start().await?))
    }

    async fn depth(&self, queue: &QueueName) -> Result<Option<QueueDepth>, BrokerError> {
        topology::check_name(queue)?;
        let found = self.look_at(&topology::work_queue(queue)).await?;
        Ok(found.map(|queue| QueueDepth {
            ready: u64::from(queue.message_count()),
            consumers: u64::from(queue.consumer_count()),
        }))
    }

    async fn dead_depth(&self) -> Result<u64, BrokerError> {
        Ok(self.look_at(topology::DEAD).await?.map_or(0, |queue| u64::from(queue.message_count())))
    }

    async fn judge_dead(
        &self,
        limit: usize,
        judge: Judge<'_>,
    ) -> Result<Vec<(DeadLetter, Verdict)>, BrokerError> {
        if self.look_at(topology::DEAD).await?.is_none() {
            return Ok(Vec::new());
        }
        dead::judge(&self.endpoint, &self.publisher, limit, judge).await
    }
}
