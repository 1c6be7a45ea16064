//! Publishing with confirms: new work, retries and dead letters, over one connection of its own.
//!
//! Serves the producer's `submit` and the settlements of the worker. The connection is made when it is needed
//! and made again when it is lost. Each message under way has a channel to itself: lapin hands a returned
//! message to whichever confirm of its channel comes next, so on a shared channel a lost message could pass
//! for a queued one. No lock is held while a confirm is awaited, and no message is ever sent twice by itself.

use super::connection::{self, Endpoint, Waits};
use crate::{
    broker::{
        BrokerError,
        reconnects::{self, Lost},
        topology,
    },
    config::unix_ms,
    trace::TraceContext,
};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ErrorKind,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Mutex as AsyncMutex, Semaphore},
    time::{Instant, sleep, timeout},
};

/// How long a confirm may take: a quorum queue that elects a leader needs seconds, a broker that is out of
/// memory or disk never answers.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a publish tries for a connection before it says that the broker is away: a restart of the broker
/// fits in.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// Messages under way at once, each on a channel of its own; the broker allows 2,047 channels a connection by
/// default. Past some dozens a quorum queue's disk is the limit, not the round trip.
const WINDOW: usize = 64;

/// How often a publish takes another channel because the one it had was closed before the message was sent.
const UNSENT_RETRIES: usize = 3;

/// `delivery_mode` of a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// Where a message goes and what travels with it.
pub(super) struct Outgoing<'a> {
    /// The lane, for error texts.
    pub(super) queue: &'a str,
    /// An exchange, or the empty name of the default one.
    pub(super) exchange: &'a str,
    /// The queue's name at the broker.
    pub(super) routing_key: &'a str,
    /// The message.
    pub(super) body: &'a [u8],
    /// What is said of it.
    pub(super) headers: Headers<'a>,
}

/// What travels with a message besides its body.
#[derive(Clone, Copy, Default)]
pub(super) struct Headers<'a> {
    /// See [`topology::ATTEMPT_HEADER`].
    pub(super) attempt: u32,
    /// See [`topology::DELIVERIES_HEADER`].
    pub(super) deliveries: u32,
    /// See [`topology::DEFERRALS_HEADER`].
    pub(super) deferrals: u32,
    /// Of a message that failed.
    pub(super) failed: Option<FailedHeaders<'a>>,
    /// Whether to add [`topology::QUEUE_HEADER`].
    pub(super) name_queue: bool,
    /// See [`topology::TRACEPARENT_HEADER`].
    pub(super) trace: Option<&'a TraceContext>,
}

/// Why a message goes to rest or to the dead letters, and who says so.
#[derive(Clone, Copy)]
pub(super) struct FailedHeaders<'a> {
    /// See [`topology::REASON_HEADER`].
    pub(super) reason: &'a str,
    /// See [`topology::WORKER_HEADER`].
    pub(super) worker: Option<&'a str>,
}

impl Outgoing<'_> {
    fn properties(&self) -> BasicProperties {
        let Headers { attempt, deliveries, deferrals, failed, name_queue, trace } = self.headers;
        let mut headers = FieldTable::default();
        let number = |n: u32| AMQPValue::LongLongInt(i64::from(n));
        headers.insert(topology::ATTEMPT_HEADER.into(), number(attempt));
        for (name, n) in [(topology::DELIVERIES_HEADER, deliveries), (topology::DEFERRALS_HEADER, deferrals)]
        {
            if n > 0 {
                headers.insert(name.into(), number(n));
            }
        }
        if let Some(FailedHeaders { reason, worker }) = failed {
            let reason = topology::header_reason(reason);
            headers.insert(topology::REASON_HEADER.into(), AMQPValue::LongString(reason.into()));
            if let Some(worker) = worker {
                headers.insert(topology::WORKER_HEADER.into(), AMQPValue::LongString(worker.into()));
            }
            let now = i64::try_from(unix_ms()).unwrap_or(i64::MAX);
            headers.insert(topology::TIME_HEADER.into(), AMQPValue::LongLongInt(now));
        }
        if name_queue {
            headers.insert(topology::QUEUE_HEADER.into(), AMQPValue::LongString(self.queue.into()));
        }
        if let Some(trace) = trace {
            let text = |text: &str| AMQPValue::LongString(text.into());
            headers.insert(topology::TRACEPARENT_HEADER.into(), text(trace.traceparent()));
            if let Some(state) = trace.tracestate() {
                headers.insert(topology::TRACESTATE_HEADER.into(), text(state));
            }
        }
        BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_headers(headers)
    }
}

/// The publishing half of the broker; shared by all who publish.
pub(super) struct Publisher {
    endpoint: Arc<Endpoint>,
    link: AsyncMutex<Link>,
    idle: Mutex<Vec<Channel>>,
    window: Semaphore,
}

/// Locked while connecting, never while a message is under way.
struct Link {
    connection: Option<Arc<Connection>>,
    /// What ended the connection before, until it is made again.
    lost: Option<Lost>,
    failure: Option<Failure>,
}

/// Why the last attempts to connect failed. Whoever waited for them gets this instead of trying as long again.
struct Failure {
    at: Instant,
    reason: String,
}

impl Publisher {
    /// Takes over a connection that stands.
    pub(super) fn new(endpoint: Arc<Endpoint>, connection: Connection) -> Self {
        Self {
            endpoint,
            link: AsyncMutex::new(Link { connection: Some(Arc::new(connection)), lost: None, failure: None }),
            idle: Mutex::new(Vec::new()),
            window: Semaphore::new(WINDOW),
        }
    }

    /// Sends one message and waits for its confirm.
    pub(super) async fn publish(&self, message: &Outgoing<'_>) -> Result<(), BrokerError> {
        let entered = Instant::now();
        let _slot = self.window.acquire().await.map_err(|_| BrokerError::Closed)?;
        let mut attempts = 0;
        loop {
            let channel = self.confirming_channel(entered).await?;
            match timeout(CONFIRM_TIMEOUT, send(&channel, message)).await {
                Ok(Ok(confirmation)) => {
                    self.lock_idle().push(channel);
                    return verdict(message.queue, confirmation);
                }
                Ok(Err(Failed::Unsent(_))) if attempts < UNSENT_RETRIES => attempts += 1,
                Ok(Err(Failed::Unsent(error))) => return Err(self.endpoint.error(&error)),
                Ok(Err(Failed::Unknown(error))) => return Err(self.unconfirmed(message, &error)),
                Err(_) => return Err(self.timed_out(message.queue).await),
            }
        }
    }

    /// A channel for one question, of which a refusal closes it. `patient` also waits for a broker that is away.
    pub(super) async fn throwaway_channel(&self, patient: bool) -> Result<Channel, BrokerError> {
        let patience = if patient { RECONNECT_PATIENCE } else { Duration::ZERO };
        let connection = self.connection(Instant::now(), patience).await?;
        self.endpoint.request(connection.create_channel()).await
    }

    async fn confirming_channel(&self, entered: Instant) -> Result<Channel, BrokerError> {
        while let Some(channel) = self.pop_idle() {
            if channel.status().connected() {
                return Ok(channel);
            }
        }
        let connection = self.connection(entered, RECONNECT_PATIENCE).await?;
        let channel = self.endpoint.request(connection.create_channel()).await?;
        self.endpoint.request(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        Ok(channel)
    }

    /// The connection, made again if it is lost.
    async fn connection(&self, entered: Instant, patience: Duration) -> Result<Arc<Connection>, BrokerError> {
        let mut link = self.link.lock().await;
        if let Some(connection) =
            link.connection.as_ref().filter(|connection| connection.status().connected())
        {
            return Ok(connection.clone());
        }
        if link.connection.take().is_some() {
            link.lost = Some(Lost::Publisher);
        }
        if let Some(failure) = link.failure.as_ref().filter(|failure| failure.at >= entered) {
            return Err(self.endpoint.unreachable(failure.reason.as_str()));
        }
        let (began, mut waits) = (Instant::now(), Waits::new());
        loop {
            let error = match self.endpoint.connect("publisher").await {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    link.lost.take().into_iter().for_each(reconnects::note);
                    link.connection = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) => error,
            };
            let wait = waits.next();
            if !error.is_transient() || began.elapsed() + wait > patience {
                if let BrokerError::Unreachable { reason, .. } = &error {
                    link.failure = Some(Failure { at: Instant::now(), reason: reason.clone() });
                }
                return Err(error);
            }
            tracing::debug!(%error, ?wait, "publisher is not connected");
            sleep(wait).await;
        }
    }

    /// A connection on which a confirm does not come is not trusted with the next message.
    async fn timed_out(&self, queue: &str) -> BrokerError {
        let connection = {
            let mut link = self.link.lock().await;
            link.lost = link.connection.is_some().then_some(Lost::Unconfirmed).or(link.lost);
            link.connection.take()
        };
        self.lock_idle().clear();
        let blocked = connection.is_some_and(|connection| connection.status().blocked());
        let why = if blocked { ", it blocks publishers: is it out of memory or disk space?" } else { "" };
        BrokerError::Unconfirmed {
            queue: queue.to_owned(),
            reason: format!("no answer of the broker within {CONFIRM_TIMEOUT:?}{why}"),
        }
    }

    fn unconfirmed(&self, message: &Outgoing<'_>, error: &lapin::Error) -> BrokerError {
        let queue = message.queue.to_owned();
        // Without the exchange of dead letters there is no way to any queue.
        if connection::is_not_found(error) {
            return BrokerError::Unroutable { queue };
        }
        match self.endpoint.queue_error(message.queue, error) {
            BrokerError::Unreachable { reason, .. } => BrokerError::Unconfirmed { queue, reason },
            other => other,
        }
    }

    fn pop_idle(&self) -> Option<Channel> {
        self.lock_idle().pop()
    }

    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<Channel>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a failed message can be at the broker.
enum Failed {
    /// It never left.
    Unsent(lapin::Error),
    /// It may have arrived.
    Unknown(lapin::Error),
}

async fn send(channel: &Channel, message: &Outgoing<'_>) -> Result<Confirmation, Failed> {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let (exchange, key): (ShortString, ShortString) = (message.exchange.into(), message.routing_key.into());
    let sent = channel.basic_publish(exchange, key, options, message.body, message.properties()).await;
    let confirm = sent.map_err(|error| match error.kind() {
        ErrorKind::InvalidChannelState(..) | ErrorKind::InvalidConnectionState(_) => Failed::Unsent(error),
        _ => Failed::Unknown(error),
    })?;
    confirm.await.map_err(Failed::Unknown)
}

fn verdict(queue: &str, confirmation: Confirmation) -> Result<(), BrokerError> {
    let queue = queue.to_owned();
    match confirmation {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
            Err(unroutable(queue, &returned))
        }
        Confirmation::Nack(None) => Err(BrokerError::Unconfirmed {
            queue,
            reason: "the broker refused to take it (nack): the queue is full, or too few of its nodes are up"
                .into(),
        }),
        Confirmation::NotRequested => {
            Err(BrokerError::Unconfirmed { queue, reason: "the channel does not confirm".into() })
        }
    }
}

fn unroutable(queue: String, returned: &BasicReturnMessage) -> BrokerError {
    tracing::debug!(queue, code = returned.reply_code, reason = %returned.reply_text, "message returned");
    BrokerError::Unroutable { queue }
}
