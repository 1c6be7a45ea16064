//! Ends a delivery at RabbitMQ: ack, requeue, retry or dead letter.
//!
//! The last step of a batch. A retry and a dead letter are published and confirmed before the ack, so a crash
//! between the two duplicates and never loses. Holds on to the session it came from: its channel stays open
//! until the last of its deliveries is settled. It must never ack what it was not told to.

use super::{
    connection::REQUEST_TIMEOUT,
    consumer::Session,
    publisher::{FailedHeaders, Headers, Outgoing, Publisher},
};
use crate::{
    broker::{
        BrokerError, Disposition, Publication, Settlement,
        topology::{self, RetryPolicy},
    },
    job::QueueName,
};
use async_trait::async_trait;
use lapin::{
    Acker,
    options::{BasicAckOptions, BasicRejectOptions},
};
use std::sync::Arc;
use tokio::{runtime::Handle, time::timeout};

/// What a settlement needs besides its message; one for all deliveries of a session.
pub(super) struct Settler {
    pub(super) session: Session,
    pub(super) publisher: Arc<Publisher>,
    pub(super) queue: QueueName,
    pub(super) policy: RetryPolicy,
    /// Named in what fails.
    pub(super) worker: Option<Arc<str>>,
}

/// One unsettled delivery.
pub(super) struct RabbitSettlement {
    settler: Arc<Settler>,
    acker: Acker,
    /// The message as it would be published anew.
    message: Publication,
    deferrals: u32,
}

impl RabbitSettlement {
    pub(super) fn new(settler: Arc<Settler>, acker: Acker, message: Publication, deferrals: u32) -> Self {
        Self { settler, acker, message, deferrals }
    }

    async fn ack(&self) -> Result<(), BrokerError> {
        self.written(self.acker.ack(BasicAckOptions::default())).await
    }

    /// Back to the head of the queue, counted by the broker.
    async fn reject(&self) -> Result<(), BrokerError> {
        // Not nack: from RabbitMQ 4.3 that no longer counts towards the delivery limit.
        self.written(self.acker.reject(BasicRejectOptions { requeue: true })).await
    }

    async fn written(&self, settling: impl Future<Output = lapin::Result<bool>>) -> Result<(), BrokerError> {
        match timeout(REQUEST_TIMEOUT, settling).await {
            Ok(Ok(true)) => Ok(()),
            // `Ok(false)` is how lapin says that the channel is gone.
            Ok(Ok(false) | Err(_)) => Err(BrokerError::Stale),
            Err(_) => Err(self.settler.session.unreachable("a settlement was not sent in time")),
        }
    }

    fn headers<'a>(&'a self, reason: Option<&'a str>) -> Headers<'a> {
        let failed = reason.map(|reason| FailedHeaders { reason, worker: self.settler.worker.as_deref() });
        let Publication { attempt, deliveries, ref trace, .. } = self.message;
        let trace = trace.as_ref();
        Headers { attempt, deliveries, deferrals: self.deferrals, failed, name_queue: false, trace }
    }

    /// To the end of its own queue. A copy, because a rejected message would count as one that killed its worker.
    async fn requeue(&self) -> Result<(), BrokerError> {
        let work_queue = topology::work_queue(&self.settler.queue);
        self.move_on(&self.outgoing("", &work_queue, self.headers(None))).await
    }

    /// To the retry queue, or to the dead letters when the attempts are used up.
    async fn retry(&self, reason: &str) -> Result<(), BrokerError> {
        let Some(attempt) = self.settler.policy.next_attempt(self.message.attempt) else {
            return self.dead_letter(reason).await;
        };
        self.rest(Headers { attempt, deferrals: 0, ..self.headers(Some(reason)) }).await
    }

    /// To the retry queue without counting an attempt, or to the dead letters after too many of these.
    async fn defer(&self, reason: &str) -> Result<(), BrokerError> {
        let Some(deferrals) = self.settler.policy.next_deferral(self.deferrals) else {
            return self.dead_letter(reason).await;
        };
        self.rest(Headers { deferrals, ..self.headers(Some(reason)) }).await
    }

    async fn rest(&self, headers: Headers<'_>) -> Result<(), BrokerError> {
        let retry_queue = topology::retry_queue(&self.settler.queue);
        self.move_on(&self.outgoing("", &retry_queue, headers)).await
    }

    async fn dead_letter(&self, reason: &str) -> Result<(), BrokerError> {
        let work_queue = topology::work_queue(&self.settler.queue);
        let headers = Headers { name_queue: true, ..self.headers(Some(reason)) };
        self.move_on(&self.outgoing(topology::DEAD, &work_queue, headers)).await
    }

    fn outgoing<'a>(&'a self, exchange: &'a str, routing_key: &'a str, headers: Headers<'a>) -> Outgoing<'a> {
        let queue = self.settler.queue.as_str();
        Outgoing { queue, exchange, routing_key, body: &self.message.body, headers }
    }

    /// Publishes, then acks; what could not be published goes back to where it came from.
    async fn move_on(&self, message: &Outgoing<'_>) -> Result<(), BrokerError> {
        // The broker delivers it again anyway: a copy would only be one more duplicate.
        if !self.acker.usable() {
            return Err(BrokerError::Stale);
        }
        if let Err(error) = self.settler.publisher.publish(message).await {
            if let Err(stale) = self.reject().await {
                tracing::debug!(queue = message.queue, %stale, "a delivery that could not be moved on went back by itself");
            }
            return Err(error);
        }
        self.ack().await
    }
}

#[async_trait]
impl Settlement for RabbitSettlement {
    async fn settle(self: Box<Self>, disposition: Disposition) -> Result<(), BrokerError> {
        match disposition {
            Disposition::Ack => self.ack().await,
            Disposition::Requeue => self.requeue().await,
            Disposition::Abandon => self.reject().await,
            Disposition::Retry { reason } => self.retry(&reason).await,
            Disposition::Defer { reason } => self.defer(&reason).await,
            Disposition::DeadLetter { reason } => self.dead_letter(&reason).await,
        }
    }
}

impl Drop for RabbitSettlement {
    fn drop(&mut self) {
        // False once it was settled, and after the channel's end, when the broker requeues by itself.
        if !self.acker.usable() {
            return;
        }
        // Outside a runtime the process is about to end, and its connections with it: the broker requeues.
        let Ok(runtime) = Handle::try_current() else { return };
        let (acker, settler) = (self.acker.clone(), self.settler.clone());
        runtime.spawn(async move {
            let rejecting = acker.reject(BasicRejectOptions { requeue: true });
            if !matches!(timeout(REQUEST_TIMEOUT, rejecting).await, Ok(Ok(true))) {
                tracing::debug!(queue = %settler.queue, "a dropped delivery went back with its channel");
            }
            drop(settler);
        });
    }
}
