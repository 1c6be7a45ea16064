//! What only a real broker can do to us: break connections, delete queues, refuse access.
//!
//! Needs a private RabbitMQ with its management API; run by the tests crate after [`super::suite`].

use super::{
    POLICY, ack, fresh_queue,
    management::{Management, percent},
    next, publish, soon, subscribe, until_ready,
};
use crate::{
    broker::{Broker, BrokerError, Consumer, Disposition, Publication, rabbit::RabbitBroker, topology},
    job::QueueName,
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the management API may take to show a new connection: it lags behind by its collection interval.
const SHOWN: Duration = Duration::from_secs(30);

/// The age at which a new queue survives a crash. RabbitMQ 3.10 writes the register of its quorum queues half a
/// second late; a queue that is not in it after a crash never gets a leader again (rabbitmq-server#10070).
const REGISTERED: Duration = Duration::from_secs(3);

/// Runs the checks on the RabbitMQ at `amqp_url`, with the management API at `management_url`
/// (`http://user:password@host:port`). Its dead letters are lost.
///
/// # Panics
/// Where the contract is broken.
pub async fn rabbit_only(amqp_url: &str, management_url: &str) {
    let management = Management::new(management_url);
    refusals_are_told_apart_without_the_password(amqp_url).await;
    let broker = RabbitBroker::connect_with(amqp_url, POLICY).await.expect("a connection");
    other_arguments_are_a_precondition(&broker, amqp_url).await;
    headers_say_why(&broker, &management).await;
    lost_connection_is_made_again(&broker, &management).await;
    lost_publisher_is_made_again(&broker, &management).await;
    deleted_queue_is_declared_again(&broker, &management).await;
    closed_while_away(&broker, &management).await;
    full_queues_lose_nothing(&broker, &management).await;
}

async fn until_closed(management: &Management, part: &str) {
    let deadline = Instant::now() + SHOWN;
    while management.close_connections(part).await == 0 {
        assert!(Instant::now() < deadline, "no connection `{part}` is shown");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn until_attached(consumer: &dyn Consumer, wanted: bool) {
    let mut attached = consumer.attached();
    soon("the subscription's change", attached.wait_for(|now| *now == wanted)).await.expect("a supervisor");
}

async fn refusals_are_told_apart_without_the_password(url: &str) {
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let wrong = format!("{scheme}://nobody:hunter2@{host}");
    let told = soon("a refusal", RabbitBroker::connect(&wrong)).await.err().expect("a refusal");
    assert!(matches!(told, BrokerError::AccessRefused { .. }), "{told:?}");
    assert!(!format!("{told} {told:?}").contains("hunter2"), "{told:?}");
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    let no_vhost = format!("{scheme}://{authority}/no-such-vhost");
    let told = soon("a refusal", RabbitBroker::connect(&no_vhost)).await.err().expect("a refusal");
    assert!(matches!(told, BrokerError::AccessRefused { .. }), "{told:?}");
}

async fn other_arguments_are_a_precondition(broker: &RabbitBroker, url: &str) {
    let queue = fresh_queue("arguments");
    broker.ensure_queue(&queue).await.expect("ensure_queue");
    let other = topology::RetryPolicy { delay: POLICY.delay * 2, ..POLICY };
    let other = RabbitBroker::connect_with(url, other).await.expect("a connection");
    for told in [other.ensure_queue(&queue).await, other.consume(&queue, 1).await.map(drop)] {
        let told = told.expect_err("a refusal");
        assert!(
            matches!(&told, BrokerError::Precondition { queue: named, .. }
            if *named == topology::retry_queue(&queue)),
            "{told:?}"
        );
        assert!(told.to_string().contains("delete this queue"), "{told}");
    }
    // The refusal closed a channel, nothing else.
    other.publish(&queue, Publication::new("x")).await.expect("a confirm");
}

async fn headers_say_why(broker: &RabbitBroker, management: &Management) {
    let queue = fresh_queue("headers");
    let mut consumer = subscribe(broker, &queue, 1).await;
    management.ask("DELETE", "queues/%2f/trawl.dead/contents", None).await;
    publish(broker, &queue, "{}").await;
    let first = next(&mut consumer).await;
    soon("a retry", first.settle(Disposition::Retry { reason: "busy".into() })).await.expect("a retry");
    let second = next(&mut consumer).await;
    let verdict = Disposition::DeadLetter { reason: "no JSON".into() };
    soon("a dead letter", second.settle(verdict)).await.expect("a dead letter");
    let look = json!({"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"});
    let letters = management.ask("POST", "queues/%2f/trawl.dead/get", Some(&look)).await;
    let letter = &letters[0];
    assert_eq!(letter["payload"], "{}");
    let properties = &letter["properties"];
    assert_eq!(
        (&properties["delivery_mode"], &properties["content_type"]),
        (&json!(2), &json!("application/json"))
    );
    let headers = &properties["headers"];
    assert_eq!(headers[topology::REASON_HEADER], "no JSON");
    assert_eq!(headers[topology::QUEUE_HEADER], Value::from(queue.as_str()));
    assert_eq!(headers[topology::ATTEMPT_HEADER], 1);
    assert!(headers[topology::TIME_HEADER].as_u64().is_some_and(|ms| ms > 1_700_000_000_000), "{headers}");
}

async fn lost_connection_is_made_again(broker: &RabbitBroker, management: &Management) {
    let queue = fresh_queue("lost");
    let mut consumer = subscribe(broker, &queue, 2).await;
    for body in ["a", "b"] {
        publish(broker, &queue, body).await;
    }
    let mut held = vec![next(&mut consumer).await, next(&mut consumer).await];
    until_closed(management, queue.as_str()).await;
    // Acks over the dead channel must say so; nothing was lost by them.
    let mut again = Vec::new();
    for _ in 0..2 {
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.attempt, delivery.deliveries, delivery.redelivered), (0, 1, true));
        again.push(delivery);
    }
    let settling = [Disposition::Ack, Disposition::Retry { reason: "late".into() }];
    for (delivery, disposition) in held.drain(..).zip(settling) {
        let told = soon("an answer", delivery.settle(disposition)).await;
        assert!(matches!(told, Err(BrokerError::Stale)), "{told:?}");
    }
    assert!(*consumer.attached().borrow());
    for delivery in again {
        ack(delivery).await;
    }
    until_ready(broker, &queue, 0, false).await;
}

async fn lost_publisher_is_made_again(broker: &RabbitBroker, management: &Management) {
    let queue = fresh_queue("publisher");
    broker.ensure_queue(&queue).await.expect("ensure_queue");
    publish(broker, &queue, "a").await;
    let own = format!("trawl publisher, pid {}", std::process::id());
    until_closed(management, &own).await;
    // One message may be caught in the fall; then all is well.
    let deadline = Instant::now() + SHOWN;
    while let Err(error) = broker.publish(&queue, Publication::new("b")).await {
        assert!(error.is_transient(), "{error:?}");
        assert!(Instant::now() < deadline, "{error}");
    }
    publish(broker, &queue, "c").await;
    let depth = broker.depth(&queue).await.expect("a depth").expect("a queue");
    assert!(depth.ready >= 3, "{depth:?}");
}

async fn delete_queue(management: &Management, queue: &QueueName) {
    management.ask("DELETE", &format!("queues/%2f/{}", percent(&topology::work_queue(queue))), None).await;
}

async fn deleted_queue_is_declared_again(broker: &RabbitBroker, management: &Management) {
    let queue = fresh_queue("deleted");
    let mut consumer = subscribe(broker, &queue, 1).await;
    publish(broker, &queue, "a").await;
    let held = next(&mut consumer).await;
    let mut attached = consumer.attached();
    attached.mark_unchanged();
    delete_queue(management, &queue).await;
    soon("the loss", attached.changed()).await.expect("a supervisor");
    until_attached(consumer.as_ref(), true).await;
    publish(broker, &queue, "b").await;
    let delivery = next(&mut consumer).await;
    assert_eq!((&delivery.body[..], delivery.attempt), (&b"b"[..], 0));
    ack(delivery).await;
    // Its queue is gone, so whatever this says, it must not hang or harm.
    let _ = soon("an answer", held.settle(Disposition::Ack)).await;
    publish(broker, &queue, "c").await;
    ack(next(&mut consumer).await).await;
}

/// A queue that takes no more says so, and what should have gone there stays where it was.
async fn full_queues_lose_nothing(broker: &RabbitBroker, management: &Management) {
    let (full, source) = (fresh_queue("full"), fresh_queue("source"));
    let policy = |max_length: u32| {
        json!({
            "pattern": format!("^({}|{})$", topology::work_queue(&full).replace('.', "\\."), topology::DEAD.replace('.', "\\.")),
            "definition": {"max-length": max_length}, "apply-to": "queues", "priority": 1
        })
    };
    broker.ensure_queue(&full).await.expect("ensure_queue");
    management.ask("DELETE", "queues/%2f/trawl.dead/contents", None).await;
    management.ask("PUT", "policies/%2f/trawl-contract-full", Some(&policy(1))).await;
    // The limit is a soft one, and in force a moment after the policy.
    let refused = until_refused(broker, &full).await;
    assert!(matches!(refused, BrokerError::Unconfirmed { .. }) && refused.is_transient(), "{refused:?}");
    let mut consumer = subscribe(broker, &source, 1).await;
    publish(broker, &source, "junk").await;
    let mut kept = 0;
    let deadline = Instant::now() + SHOWN;
    loop {
        let delivery = next(&mut consumer).await;
        let bury = Disposition::DeadLetter { reason: "junk".into() };
        match soon("an answer", delivery.settle(bury)).await {
            // The first ones fit.
            Ok(()) => publish(broker, &source, "junk").await,
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                kept += 1;
                if kept == 1 {
                    continue;
                }
                break;
            }
        }
        assert!(Instant::now() < deadline, "the dead letters are never full");
    }
    // Raised, not removed: without any limit 3.10 never finds the queue below its limit again.
    management.ask("PUT", "policies/%2f/trawl-contract-full", Some(&policy(1_000))).await;
    // Back with its count: it came back unsettled, twice.
    let delivery = next(&mut consumer).await;
    assert_eq!((&delivery.body[..], delivery.deliveries), (&b"junk"[..], 2));
    ack(delivery).await;
    // A queue that was full looks at its limit again when somebody takes something out.
    let mut emptying = subscribe(broker, &full, 1).await;
    ack(next(&mut emptying).await).await;
    drop(emptying);
    let deadline = Instant::now() + SHOWN;
    while let Err(error) = soon("an answer", broker.publish(&full, Publication::new("again"))).await {
        assert!(error.is_transient() && Instant::now() < deadline, "{error}");
        sleep(Duration::from_millis(20)).await;
    }
    management.ask("DELETE", "policies/%2f/trawl-contract-full", None).await;
    management.ask("DELETE", "queues/%2f/trawl.dead/contents", None).await;
}

async fn until_refused(broker: &RabbitBroker, queue: &QueueName) -> BrokerError {
    let deadline = Instant::now() + SHOWN;
    loop {
        if let Err(error) = soon("an answer", broker.publish(queue, Publication::new("x"))).await {
            return error;
        }
        assert!(Instant::now() < deadline, "`{queue}` is never full");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A consumer can be closed while its connection is down.
async fn closed_while_away(broker: &RabbitBroker, management: &Management) {
    let queue = fresh_queue("away");
    let mut consumer = subscribe(broker, &queue, 1).await;
    let mut attached = consumer.attached();
    attached.mark_unchanged();
    until_closed(management, queue.as_str()).await;
    soon("the loss", attached.changed()).await.expect("a supervisor");
    soon("cancel", consumer.cancel()).await.expect("cancel");
    assert!(matches!(soon("the end", consumer.next()).await, Err(BrokerError::Closed)));
}

/// A delivery that is held for longer than the broker's patience costs its channel, and nothing else: the message
/// comes again, the late ack is known to be late, and the subscription stands anew. `make_impatient` sets the
/// broker's `consumer_timeout` to some seconds; the broker looks once a minute.
///
/// # Panics
/// Where the contract is broken.
pub async fn a_timed_out_delivery_comes_again(amqp_url: &str, make_impatient: impl FnOnce()) {
    tokio::task::block_in_place(make_impatient);
    let broker = RabbitBroker::connect_with(amqp_url, POLICY).await.expect("a connection");
    let queue = fresh_queue("patience");
    let mut consumer = subscribe(&broker, &queue, 1).await;
    publish(&broker, &queue, "a").await;
    let held = next(&mut consumer).await;
    let again = tokio::time::timeout(Duration::from_secs(150), consumer.next()).await;
    let again = again.expect("the broker loses patience").expect("a delivery");
    assert_eq!((&again.body[..], again.deliveries, again.redelivered), (&b"a"[..], 1, true));
    let told = soon("an answer", held.settle(Disposition::Ack)).await;
    assert!(matches!(told, Err(BrokerError::Stale)), "{told:?}");
    ack(again).await;
    publish(&broker, &queue, "b").await;
    ack(next(&mut consumer).await).await;
    until_ready(&broker, &queue, 0, false).await;
}

/// The broker dies and comes back with its data: what was confirmed is there, what was held comes again, and
/// neither publisher nor consumer needs help. `restart` returns when the broker takes connections again.
///
/// # Errors
/// What `restart` gives.
///
/// # Panics
/// Where the contract is broken.
pub async fn crash_is_survived<E>(amqp_url: &str, restart: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
    let broker = RabbitBroker::connect_with(amqp_url, POLICY).await.expect("a connection");
    let queue = fresh_queue("crash");
    let mut consumer = subscribe(&broker, &queue, 1).await;
    for body in ["a", "b"] {
        publish(&broker, &queue, body).await;
    }
    let held = next(&mut consumer).await;
    sleep(REGISTERED).await;
    tokio::task::block_in_place(restart)?;
    until_attached(consumer.as_ref(), true).await;
    let told = soon("an answer", held.settle(Disposition::Ack)).await;
    assert!(matches!(told, Err(BrokerError::Stale)), "{told:?}");
    // The publisher may find its old connection dead: that is told, and the next attempt makes a new one.
    let deadline = Instant::now() + SHOWN;
    while let Err(error) = broker.publish(&queue, Publication::new("c")).await {
        assert!(error.is_transient() && Instant::now() < deadline, "{error}");
    }
    let mut bodies = Vec::new();
    while !bodies.contains(&b"c".to_vec()) {
        let delivery = next(&mut consumer).await;
        bodies.push(delivery.body.to_vec());
        ack(delivery).await;
    }
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies, [b"a", b"b", b"c"]);
    Ok(())
}
