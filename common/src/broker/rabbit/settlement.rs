//! Ends a delivery at RabbitMQ: ack, requeue, retry or dead letter.
//!
//! The last step of a batch. A retry and a dead letter are published and confirmed before the ack, so a crash
//! between the two duplicates and never loses. Holds on to the session it came from: its channel stays open
//! until the last of its deliveries is settled. It must never ack what it was not told to.

use super::{
    connection::REQUEST_TIMEOUT,
    consumer::Session,
    publisher::{Outgoing, Publisher},
};
use crate::{
    broker::{
        BrokerError, Disposition, Settlement,
        topology::{self, RetryPolicy},
    },
    job::QueueName,
};
use async_trait::async_trait;
use bytes::Bytes;
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
}

/// One unsettled delivery.
pub(super) struct RabbitSettlement {
    settler: Arc<Settler>,
    acker: Acker,
    body: Bytes,
    attempt: u32,
}

impl RabbitSettlement {
    pub(super) fn new(settler: Arc<Settler>, acker: Acker, body: Bytes, attempt: u32) -> Self {
        Self { settler, acker, body, attempt }
    }

    async fn ack(&self) -> Result<(), BrokerError> {
        self.written(self.acker.ack(BasicAckOptions::default())).await
    }

    async fn requeue(&self) -> Result<(), BrokerError> {
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

    /// To the retry queue, or to the dead letters when the attempts are used up.
    async fn retry(&self, reason: &str) -> Result<(), BrokerError> {
        let Some(attempt) = self.settler.policy.next_attempt(self.attempt) else {
            return self.dead_letter(reason).await;
        };
        let retry_queue = topology::retry_queue(&self.settler.queue);
        let message = Outgoing {
            queue: self.settler.queue.as_str(),
            exchange: "",
            routing_key: &retry_queue,
            body: &self.body,
            attempt,
            reason: Some(reason),
            name_queue: false,
        };
        self.move_on(&message).await
    }

    async fn dead_letter(&self, reason: &str) -> Result<(), BrokerError> {
        let work_queue = topology::work_queue(&self.settler.queue);
        let message = Outgoing {
            queue: self.settler.queue.as_str(),
            exchange: topology::DEAD,
            routing_key: &work_queue,
            body: &self.body,
            attempt: self.attempt,
            reason: Some(reason),
            name_queue: true,
        };
        self.move_on(&message).await
    }

    /// Publishes, then acks; what could not be published goes back to where it came from.
    async fn move_on(&self, message: &Outgoing<'_>) -> Result<(), BrokerError> {
        // The broker delivers it again anyway: a copy would only be one more duplicate.
        if !self.acker.usable() {
            return Err(BrokerError::Stale);
        }
        if let Err(error) = self.settler.publisher.publish(message).await {
            if let Err(stale) = self.requeue().await {
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
            Disposition::Retry { reason } => self.retry(&reason).await,
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
