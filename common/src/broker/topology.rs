//! What is declared at the broker: names, arguments and limits, in one place and without a client library.
//!
//! Stands before the first publish of a job and before every subscription: [`super::rabbit`] declares what
//! is written here, [`super::memory`] imitates it. The arguments of an existing queue cannot be changed, so
//! a changed value here is refused by a broker that has the old one: change them only with a new name. This
//! file must never learn how they are declared.

use super::BrokerError;
use crate::job::QueueName;
use std::time::Duration;

/// The exchange that dead letters go to, and the queue that is bound to it.
pub const DEAD: &str = "trawl.dead";

/// How often the broker itself redelivers a message (a killed worker, a requeue) before it dead-letters it.
/// Said explicitly: RabbitMQ before 4.0 has no limit and a batch that kills its worker would go round for ever.
pub const DELIVERY_LIMIT: u32 = 20;

/// The delivery limit of the dead letters themselves. Looking at them counts as a delivery, and what is over
/// the limit there is gone; RabbitMQ 4 would set 20.
pub const DEAD_DELIVERY_LIMIT: u32 = 1_000_000;

/// How long a batch rests before it is tried again: long enough for a store to recover, short enough that
/// nobody waits for the last batch of a job.
pub const RETRY_DELAY: Duration = Duration::from_secs(5);

/// How often a batch is tried again before it becomes a dead letter; the worker's own retries come on top.
pub const MAX_ATTEMPTS: u32 = 5;

/// How often a message may be put off without an attempt being counted: an hour at [`RETRY_DELAY`]. What is not
/// mended by then is for a human.
pub const MAX_DEFERRALS: u32 = 720;

/// The longest reason kept in a header, in bytes: headers travel with every look at the dead letters.
pub const MAX_REASON_BYTES: usize = 1_000;

/// Header: how often the message was tried before it was published.
pub const ATTEMPT_HEADER: &str = "x-trawl-attempt";
/// Header: how often the message was handed out and came back without a word, before it was published anew.
pub const DELIVERIES_HEADER: &str = "x-trawl-deliveries";
/// Header: how often it was put off without counting an attempt.
pub const DEFERRALS_HEADER: &str = "x-trawl-deferrals";
/// Header of a retry or a dead letter: the worker that gave it up.
pub const WORKER_HEADER: &str = "x-trawl-worker";
/// Header of a retry or a dead letter: when, in milliseconds since 1970.
pub const TIME_HEADER: &str = "x-trawl-unix-ms";
/// Header: why it was retried or dead-lettered.
pub const REASON_HEADER: &str = "x-trawl-reason";
/// Header of a dead letter: the lane it came from, without the prefix.
pub const QUEUE_HEADER: &str = "x-trawl-queue";
/// Header: the broker's own count of earlier deliveries; absent on the first.
pub const DELIVERY_COUNT_HEADER: &str = "x-delivery-count";

/// Header: the context of the submission, as W3C Trace Context has it; not ours, so without our prefix.
pub const TRACEPARENT_HEADER: &str = "traceparent";
/// Header: what other tracing systems add to it.
pub const TRACESTATE_HEADER: &str = "tracestate";

/// How failed messages are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The rest before the next attempt; an argument of the retry queue, so one value for a broker.
    pub delay: Duration,
    /// The highest attempt that is still delivered; the one after it is a dead letter.
    pub max_attempts: u32,
    /// How often a message may be put off without counting an attempt.
    pub max_deferrals: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { delay: RETRY_DELAY, max_attempts: MAX_ATTEMPTS, max_deferrals: MAX_DEFERRALS }
    }
}

impl RetryPolicy {
    /// The count of a message that is put off once more, or `None` when that was often enough.
    pub fn next_deferral(&self, deferrals: u32) -> Option<u32> {
        deferrals.checked_add(1).filter(|next| *next <= self.max_deferrals)
    }

    /// The next attempt's number, or `None` when the attempts are used up.
    pub fn next_attempt(&self, attempt: u32) -> Option<u32> {
        attempt.checked_add(1).filter(|next| *next <= self.max_attempts)
    }
}

/// The value of a queue argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// A durable queue to be declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueShape {
    /// Its name at the broker.
    pub name: String,
    /// Its arguments.
    pub arguments: Vec<(&'static str, Argument)>,
}

/// The broker's name of a lane's queue.
pub fn work_queue(queue: &QueueName) -> String {
    format!("trawl.{queue}")
}

/// The broker's name of the queue in which a lane's failed messages rest.
pub fn retry_queue(queue: &QueueName) -> String {
    format!("trawl.{queue}.retry")
}

/// The lane of a work queue, by the broker's name of it.
pub fn lane_of(work_queue: &str) -> Option<QueueName> {
    let lane: QueueName = work_queue.strip_prefix("trawl.")?.parse().ok()?;
    check_name(&lane).ok().map(|()| lane)
}

/// Refuses lanes whose queue would be another lane's retry queue or the dead letters.
///
/// # Errors
/// [`BrokerError::Precondition`] for `dead` and for names that end in `.retry`.
pub fn check_name(queue: &QueueName) -> Result<(), BrokerError> {
    let name = queue.as_str();
    if name == "dead" || name.ends_with(".retry") {
        return Err(BrokerError::Precondition {
            queue: name.to_owned(),
            reason: "the names `dead` and `*.retry` are kept for dead letters and retries; choose another queue name"
                .to_owned(),
        });
    }
    Ok(())
}

/// The queue that workers of a lane consume.
pub fn work_shape(queue: &QueueName) -> QueueShape {
    let mut arguments =
        vec![text("x-queue-type", "quorum"), number("x-delivery-limit", i64::from(DELIVERY_LIMIT))];
    arguments.extend(dead_lettering(DEAD));
    QueueShape { name: work_queue(queue), arguments }
}

/// The queue in which a lane's failed messages rest until the time to live sends them back.
pub fn retry_shape(queue: &QueueName, delay: Duration) -> QueueShape {
    let delay = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
    let mut arguments = vec![text("x-queue-type", "quorum"), number("x-message-ttl", delay)];
    // The default exchange routes by queue name.
    arguments.extend(dead_lettering(""));
    arguments.push(text("x-dead-letter-routing-key", &work_queue(queue)));
    QueueShape { name: retry_queue(queue), arguments }
}

/// The queue of dead letters of all lanes.
pub fn dead_shape() -> QueueShape {
    let limit = number("x-delivery-limit", i64::from(DEAD_DELIVERY_LIMIT));
    // A policy that bounds it must not drop the oldest: then nothing is acked that is not in there.
    let overflow = text("x-overflow", "reject-publish");
    QueueShape { name: DEAD.to_owned(), arguments: vec![text("x-queue-type", "quorum"), limit, overflow] }
}

/// A reason cut to what a header may hold.
pub fn header_reason(reason: &str) -> &str {
    let mut end = reason.len().min(MAX_REASON_BYTES);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

/// Without all three the broker dead-letters at most once, silently.
fn dead_lettering(exchange: &str) -> [(&'static str, Argument); 3] {
    [
        text("x-dead-letter-exchange", exchange),
        text("x-dead-letter-strategy", "at-least-once"),
        text("x-overflow", "reject-publish"),
    ]
}

fn text(name: &'static str, value: &str) -> (&'static str, Argument) {
    (name, Argument::Text(value.to_owned()))
}

fn number(name: &'static str, value: i64) -> (&'static str, Argument) {
    (name, Argument::Number(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_never_collide_with_retries_or_dead_letters() {
        for name in ["dead", "a.retry"] {
            assert!(
                matches!(check_name(&name.parse().unwrap()), Err(BrokerError::Precondition { .. })),
                "{name}"
            );
        }
        for name in ["default", "retry", "dead.x", "a.retry.b"] {
            check_name(&name.parse().unwrap()).unwrap();
        }
    }

    #[test]
    fn attempts_are_counted_up_to_the_limit() {
        let policy = RetryPolicy { max_attempts: 2, ..RetryPolicy::default() };
        assert_eq!([0, 1, 2, u32::MAX].map(|n| policy.next_attempt(n)), [Some(1), Some(2), None, None]);
    }

    #[test]
    fn reasons_are_cut_between_characters() {
        let long = "é".repeat(MAX_REASON_BYTES);
        assert_eq!(header_reason(&long).len(), MAX_REASON_BYTES);
        assert_eq!(header_reason(&format!("x{long}")).len(), MAX_REASON_BYTES - 1);
        assert_eq!(header_reason("short"), "short");
    }

    #[test]
    fn every_queue_is_a_quorum_queue_and_work_is_never_dropped() {
        let queue: QueueName = "q".parse().unwrap();
        let (work, retry) = (work_shape(&queue), retry_shape(&queue, Duration::from_millis(250)));
        for shape in [&work, &retry, &dead_shape()] {
            assert!(shape.arguments.contains(&text("x-queue-type", "quorum")), "{}", shape.name);
        }
        for shape in [&work, &retry] {
            assert!(
                shape.arguments.contains(&text("x-dead-letter-strategy", "at-least-once")),
                "{}",
                shape.name
            );
            assert!(shape.arguments.contains(&text("x-overflow", "reject-publish")), "{}", shape.name);
        }
        assert!(retry.arguments.contains(&number("x-message-ttl", 250)));
        assert!(retry.arguments.contains(&text("x-dead-letter-routing-key", "trawl.q")));
    }
}
