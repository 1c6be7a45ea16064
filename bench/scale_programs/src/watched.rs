//! The work list with a clock: when the first message was confirmed, and how many were.
//!
//! Around the real broker while a job is submitted. It must never hold a message back.

use async_trait::async_trait;
use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};
use trawl_common::{
    broker::{Broker, BrokerError, Consumer, DeadLetter, Judge, Publication, QueueDepth, Verdict},
    job::QueueName,
};

/// See the file's head.
pub(crate) struct Watched<B> {
    inner: B,
    first: OnceLock<Instant>,
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl<B: Broker> Watched<B> {
    pub(crate) fn new(inner: B) -> Self {
        Self { inner, first: OnceLock::new(), messages: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }

    /// When the first message was confirmed.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.first.get().copied()
    }

    /// Messages that were confirmed, and the bytes of their bodies.
    pub(crate) fn sent(&self) -> (u64, u64) {
        (self.messages.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

#[async_trait]
impl<B: Broker> Broker for Watched<B> {
    async fn ensure_queue(&self, queue: &QueueName) -> Result<(), BrokerError> {
        self.inner.ensure_queue(queue).await
    }

    async fn publish(&self, queue: &QueueName, message: Publication) -> Result<(), BrokerError> {
        let bytes = message.body.len() as u64;
        self.inner.publish(queue, message).await?;
        self.first.get_or_init(Instant::now);
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    async fn consume(&self, queue: &QueueName, prefetch: u16) -> Result<Box<dyn Consumer>, BrokerError> {
        self.inner.consume(queue, prefetch).await
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
