//! The broker in memory: the seam's contract, and what is particular to this one.

use super::{queues::OVER_DELIVERY_LIMIT, *};
use crate::{
    broker::topology::{self, DELIVERY_LIMIT},
    contract,
};
use futures::FutureExt;
use std::time::Duration;
use tokio::time::Instant;

fn lane() -> QueueName {
    "q".parse().unwrap()
}

#[tokio::test]
async fn passes_the_contract() {
    let broker = Arc::new(MemoryBroker::new().with_retries(contract::broker::POLICY));
    contract::broker::suite(|| {
        let broker: Arc<dyn Broker> = broker.clone();
        async move { broker }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_rests_for_the_whole_delay() {
    let broker = MemoryBroker::new();
    let mut consumer = broker.consume(&lane(), 1).await.unwrap();
    broker.publish(&lane(), Publication::new("a")).await.unwrap();
    let began = Instant::now();
    let first = consumer.next().await.unwrap();
    first.settle(Disposition::Retry { reason: "busy".into() }).await.unwrap();
    let again = consumer.next().await.unwrap();
    assert!(began.elapsed() >= topology::RETRY_DELAY, "{:?}", began.elapsed());
    assert_eq!((again.attempt, again.redelivered), (1, false));
    again.settle(Disposition::Ack).await.unwrap();
}

#[tokio::test]
async fn publishing_waits_for_room() {
    let broker = MemoryBroker::with_capacity(2);
    let mut consumer = broker.consume(&lane(), 10).await.unwrap();
    for body in ["a", "b"] {
        broker.publish(&lane(), Publication::new(body)).await.unwrap();
    }
    let lane = lane();
    let mut third = broker.publish(&lane, Publication::new("c"));
    assert!((&mut third).now_or_never().is_none(), "there was no room");
    let first = consumer.next().await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), third).await.expect("there is room").unwrap();
    first.settle(Disposition::Ack).await.unwrap();
}

#[tokio::test]
async fn a_message_that_nobody_settles_becomes_a_dead_letter() {
    let broker = MemoryBroker::new();
    let mut consumer = broker.consume(&lane(), 1).await.unwrap();
    broker.publish(&lane(), Publication::new("killer")).await.unwrap();
    for deliveries in 0..=DELIVERY_LIMIT {
        let delivery = consumer.next().await.unwrap();
        assert_eq!((delivery.attempt, delivery.deliveries), (0, deliveries));
        assert_eq!((delivery.redelivered, delivery.seen()), (deliveries > 0, deliveries > 0));
    }
    assert!(consumer.next().now_or_never().is_none());
    let letters = broker.dead_letters();
    let [letter] = &letters[..] else { panic!("one: {letters:?}") };
    assert_eq!((&letter.queue, &letter.body[..]), (&Some(lane()), &b"killer"[..]));
    assert_eq!((letter.attempt, letter.deliveries), (0, DELIVERY_LIMIT + 1));
    assert_eq!((&*letter.reason, &letter.worker), (OVER_DELIVERY_LIMIT, &None));
}

#[tokio::test]
async fn dead_letters_say_why_and_who() {
    let broker = MemoryBroker::new().named("w1");
    let mut consumer = broker.consume(&lane(), 1).await.unwrap();
    broker.publish(&lane(), Publication { attempt: 3, ..Publication::new("junk") }).await.unwrap();
    let delivery = consumer.next().await.unwrap();
    delivery.settle(Disposition::DeadLetter { reason: "not JSON".into() }).await.unwrap();
    let letters = broker.dead_letters();
    let [letter] = &letters[..] else { panic!("one: {letters:?}") };
    assert_eq!((letter.attempt, &*letter.reason, letter.worker.as_deref()), (3, "not JSON", Some("w1")));
    assert!(letter.died_unix_ms.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_is_put_off_too_often_is_a_dead_letter() {
    let policy = RetryPolicy { max_deferrals: 2, ..RetryPolicy::default() };
    let broker = MemoryBroker::new().with_retries(policy);
    let mut consumer = broker.consume(&lane(), 1).await.unwrap();
    broker.publish(&lane(), Publication::new("a")).await.unwrap();
    for _ in 0..3 {
        let delivery = consumer.next().await.unwrap();
        assert_eq!((delivery.attempt, delivery.deliveries), (0, 0));
        delivery.settle(Disposition::Defer { reason: "disk full".into() }).await.unwrap();
    }
    let dead: Vec<_> = broker.dead_letters().into_iter().map(|letter| letter.reason).collect();
    assert_eq!(dead, ["disk full"]);
}

/// Takes a, b and c, then loses the connection; what comes out of the queue after that, and how counted.
async fn after_a_loss(rules: Rules) -> Vec<(String, u32)> {
    let broker = MemoryBroker::new().with_rules(rules).named("w");
    let mut consumer = broker.consume(&lane(), 3).await.unwrap();
    for body in ["a", "b", "c", "d"] {
        broker.publish(&lane(), Publication::new(body)).await.unwrap();
    }
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(consumer.next().await.unwrap());
    }
    assert_eq!(broker.lose_connection("w"), 3);
    assert!(matches!(held.pop().unwrap().settle(Disposition::Ack).await, Err(BrokerError::Stale)));
    drop(held);
    let mut order = Vec::new();
    for _ in 0..4 {
        let delivery = consumer.next().await.unwrap();
        order.push((String::from_utf8(delivery.body.to_vec()).unwrap(), delivery.deliveries));
        delivery.settle(Disposition::Ack).await.unwrap();
    }
    assert!(broker.is_idle());
    order
}

#[tokio::test]
async fn what_a_lost_connection_held_comes_back_once_where_the_version_says() {
    let there = |order: [(&str, u32); 4]| order.map(|(body, n)| (body.to_owned(), n)).to_vec();
    assert_eq!(after_a_loss(Rules::V3_10).await, there([("d", 0), ("a", 1), ("b", 1), ("c", 1)]));
    assert_eq!(after_a_loss(Rules::V4_0).await, there([("a", 1), ("b", 1), ("c", 1), ("d", 0)]));
    assert_eq!(after_a_loss(Rules::V4_3).await, there([("a", 1), ("b", 1), ("c", 1), ("d", 0)]));
}

#[tokio::test(start_paused = true)]
async fn a_time_out_counts_except_by_the_newest_rules() {
    for (rules, counted) in [(Rules::V3_10, 1), (Rules::V4_0, 1), (Rules::V4_3, 0)] {
        let broker = MemoryBroker::new().with_rules(rules);
        let mut consumer = broker.consume(&lane(), 1).await.unwrap();
        broker.publish(&lane(), Publication::new("a")).await.unwrap();
        let zombie = consumer.next().await.unwrap();
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(broker.time_out(Duration::from_secs(60)), 0);
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(broker.time_out(Duration::from_secs(60)), 1);
        let again = consumer.next().await.unwrap();
        assert_eq!((again.deliveries, again.redelivered), (counted, true), "{rules:?}");
        again.settle(Disposition::Ack).await.unwrap();
        assert!(matches!(zombie.settle(Disposition::Ack).await, Err(BrokerError::Stale)));
    }
}
