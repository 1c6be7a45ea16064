//! Goes through the dead letters: shows each to a judge and keeps, retries or drops it.
//!
//! Serves `trawl dead`, after the life of a batch went wrong. Letters are taken without being acked, so that those
//! which stay go back when the channel closes, in their order and whatever happens to this process. A retry is
//! confirmed before its letter is acked. It must never ack a letter that nobody judged.

use super::{
    connection::Endpoint,
    consumer::{as_count, trace_context},
    publisher::{Headers, Outgoing, Publisher},
};
use crate::{
    broker::{BrokerError, DeadLetter, Judge, Publication, Verdict, topology},
    job::QueueName,
};
use bytes::Bytes;
use lapin::{
    Acker,
    options::{BasicAckOptions, BasicGetOptions},
    types::{AMQPValue, FieldTable},
};

/// Where the broker itself says why it gave a message up, and from which queue.
const FIRST_REASON: &str = "x-first-death-reason";
const FIRST_QUEUE: &str = "x-first-death-queue";

/// See the module.
pub(super) async fn judge(
    endpoint: &Endpoint,
    publisher: &Publisher,
    limit: usize,
    judge: Judge<'_>,
) -> Result<Vec<(DeadLetter, Verdict)>, BrokerError> {
    let channel = publisher.throwaway_channel(true).await?;
    let mut judged = Vec::new();
    // What is kept stays with the channel until it closes, so that no letter is seen twice.
    while judged.len() < limit {
        let getting = channel.basic_get(topology::DEAD.into(), BasicGetOptions::default());
        let Some(message) = endpoint.queue_request(topology::DEAD, getting).await? else { break };
        let message = message.delivery;
        let letter = letter(message.data, message.properties.headers().as_ref());
        let verdict = match (judge(&letter), &letter.queue) {
            (Verdict::Retry, Some(lane)) => {
                retry(publisher, lane, &letter).await?;
                Verdict::Retry
            }
            (Verdict::Drop, _) => Verdict::Drop,
            (Verdict::Keep, _) | (Verdict::Retry, None) => Verdict::Keep,
        };
        if verdict != Verdict::Keep {
            forget(endpoint, &message.acker).await?;
        }
        judged.push((letter, verdict));
    }
    let closing = channel.close(200, "done".into());
    // The broker takes the rest back with the channel, closed by us or by the end of the connection.
    if let Err(error) = endpoint.request(closing).await {
        tracing::debug!(%error, "the channel of the dead letters was not closed in order");
    }
    Ok(judged)
}

async fn retry(publisher: &Publisher, lane: &QueueName, letter: &DeadLetter) -> Result<(), BrokerError> {
    let work_queue = topology::work_queue(lane);
    let outgoing = Outgoing {
        queue: lane.as_str(),
        exchange: "",
        routing_key: &work_queue,
        body: &letter.body,
        headers: Headers { trace: letter.trace.as_ref(), ..Headers::default() },
    };
    publisher.publish(&outgoing).await
}

async fn forget(endpoint: &Endpoint, acker: &Acker) -> Result<(), BrokerError> {
    match endpoint.request(acker.ack(BasicAckOptions::default())).await? {
        true => Ok(()),
        false => Err(BrokerError::Stale),
    }
}

/// A letter of ours, or one that the broker made: then its headers say less.
fn letter(body: Vec<u8>, headers: Option<&FieldTable>) -> DeadLetter {
    let header = |name: &str| headers.and_then(|headers| headers.inner().get(name));
    let count = |name: &str| header(name).map_or(0, as_count);
    let text = |name: &str| header(name).and_then(as_text);
    let Publication { body, attempt, deliveries, trace } = Publication {
        body: Bytes::from(body),
        attempt: count(topology::ATTEMPT_HEADER),
        deliveries: count(topology::DELIVERIES_HEADER),
        trace: headers.and_then(trace_context),
    };
    // Only one that a worker gave up names its lane; a retry's reason must not pass for the end's.
    let ours = text(topology::QUEUE_HEADER).and_then(|lane| lane.parse().ok());
    let (queue, reason, worker) = match ours {
        Some(lane) => (Some(lane), text(topology::REASON_HEADER), text(topology::WORKER_HEADER)),
        None => {
            let lane = text(FIRST_QUEUE).and_then(|queue| {
                // One that was retried before died first in the retry queue, of its time to live.
                topology::lane_of(queue.strip_suffix(".retry").unwrap_or(&queue))
            });
            (lane, Some(broker_reason(headers).unwrap_or_else(|| "unknown".to_owned())), None)
        }
    };
    let died_unix_ms = match (worker.is_some(), header(topology::TIME_HEADER)) {
        (true, Some(AMQPValue::LongLongInt(ms))) => u64::try_from(*ms).ok(),
        _ => None,
    };
    let reason = reason.unwrap_or_else(|| "unknown".to_owned());
    DeadLetter { queue, body, attempt, deliveries, reason, worker, died_unix_ms, trace }
}

/// The latest of the broker's own reasons; the first if there is no list.
fn broker_reason(headers: Option<&FieldTable>) -> Option<String> {
    let headers = headers?.inner();
    if let Some(AMQPValue::FieldArray(deaths)) = headers.get("x-death")
        && let Some(AMQPValue::FieldTable(latest)) = deaths.as_slice().first()
        && let Some(reason) = latest.inner().get("reason").and_then(as_text)
    {
        return Some(reason);
    }
    headers.get(FIRST_REASON).and_then(as_text)
}

fn as_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&str, &str)]) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in entries {
            table.insert((*name).into(), AMQPValue::LongString((*value).into()));
        }
        table
    }

    #[test]
    fn letters_of_workers_and_of_the_broker_are_told_apart() {
        let ours = table(&[
            (topology::QUEUE_HEADER, "gpu"),
            (topology::REASON_HEADER, "no JSON"),
            (topology::WORKER_HEADER, "w1"),
        ]);
        let found = letter(b"x".to_vec(), Some(&ours));
        assert_eq!((found.queue.as_ref().map(QueueName::as_str), &*found.reason), (Some("gpu"), "no JSON"));
        assert_eq!(found.worker.as_deref(), Some("w1"));
        let brokers = table(&[
            (FIRST_QUEUE, "trawl.gpu.retry"),
            (FIRST_REASON, "delivery_limit"),
            (topology::REASON_HEADER, "an earlier retry's"),
        ]);
        let found = letter(b"x".to_vec(), Some(&brokers));
        assert_eq!(found.queue.as_ref().map(QueueName::as_str), Some("gpu"));
        assert_eq!((&*found.reason, found.worker), ("delivery_limit", None));
        let foreign = letter(b"x".to_vec(), None);
        assert_eq!((foreign.queue, &*foreign.reason), (None, "unknown"));
    }
}
