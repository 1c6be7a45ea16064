//! The contract of the broker seam: what RabbitMQ and the broker in memory must both do.
//!
//! Run by the unit tests of `broker::memory` and, against a real server, by the tests crate. The checks use
//! queues of their own names and may run on a broker that is in use, but not beside each other: they count
//! dead letters. A check panics where the contract is broken; it must never wait without a limit.

mod management;
mod rabbit;
mod trace;

pub use rabbit::{a_timed_out_delivery_comes_again, crash_is_survived, rabbit_only};

use crate::{
    broker::{
        Broker, BrokerError, Consumer, DeadLetter, Delivery, Disposition, Publication, QueueDepth, Verdict,
        topology::{DELIVERY_LIMIT, RetryPolicy},
    },
    job::QueueName,
};
use futures::{StreamExt, stream};
use std::{
    collections::BTreeSet,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::{Instant, sleep, timeout};

/// The retries that the factory must give its broker: short, so that the suite is.
pub const POLICY: RetryPolicy =
    RetryPolicy { delay: Duration::from_millis(500), max_attempts: 2, max_deferrals: 2 };

/// How long anything may take that must happen. Generous: brokers under test share a small machine.
const SOON: Duration = Duration::from_secs(30);

/// How long is waited for what must not happen.
const A_WHILE: Duration = Duration::from_millis(400);

/// Messages of the concurrency check.
const MANY: usize = 1_000;

/// Runs every check that both kinds of broker must pass. `make` gives a broker with [`POLICY`]; several calls
/// may give the same one.
///
/// # Panics
/// Where the contract is broken.
pub async fn suite<F, B>(make: F)
where
    F: Fn() -> B,
    B: Future<Output = Arc<dyn Broker>>,
{
    let broker = make().await;
    let broker = broker.as_ref();
    round_trip_in_order_and_acked_once(broker).await;
    unknown_queue_is_unroutable(broker).await;
    reserved_names_are_refused(broker).await;
    prefetch_is_a_limit(broker).await;
    dropped_delivery_comes_back(broker).await;
    requeued_delivery_comes_back(broker).await;
    deferred_delivery_comes_back_later(broker).await;
    retry_comes_back_later(broker).await;
    used_up_attempts_become_a_dead_letter(broker).await;
    dead_letter_is_counted(broker).await;
    dead_letters_are_judged(broker).await;
    killer_becomes_a_dead_letter(broker).await;
    depth_follows_the_queue(broker).await;
    cancel_gives_back_what_was_not_handed_out(broker).await;
    dropped_consumer_gives_back(broker).await;
    consumers_share(broker).await;
    many_at_once(broker).await;
    verdicts_are_not_mixed_up(broker).await;
    trace::the_context_stays_with_its_message(broker).await;
}

/// A queue that no other check, run or process uses.
pub(super) fn fresh_queue(check: &str) -> QueueName {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() & 0xffff_ffff);
    let (pid, n) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    format!("contract-{check}-{pid:x}-{now:x}-{n}").parse().expect("a valid queue name")
}

pub(super) async fn soon<T>(what: &str, doing: impl Future<Output = T>) -> T {
    timeout(SOON, doing).await.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
}

pub(super) async fn next(consumer: &mut Box<dyn Consumer>) -> Delivery {
    soon("a delivery", consumer.next()).await.expect("a delivery")
}

pub(super) async fn ack(delivery: Delivery) {
    soon("an ack", delivery.settle(Disposition::Ack)).await.expect("an ack");
}

pub(super) async fn publish(broker: &dyn Broker, queue: &QueueName, body: &str) {
    soon("a confirm", broker.publish(queue, Publication::new(body.to_owned()))).await.expect("a confirm");
}

pub(super) async fn subscribe(broker: &dyn Broker, queue: &QueueName, prefetch: u16) -> Box<dyn Consumer> {
    soon("a subscription", broker.consume(queue, prefetch)).await.expect("a subscription")
}

async fn nothing_comes(consumer: &mut Box<dyn Consumer>) {
    if let Ok(delivery) = timeout(A_WHILE, consumer.next()).await {
        panic!("nothing should come, but {delivery:?} did");
    }
}

/// Waits for `ready` messages, and for no consumer if `alone`: RabbitMQ counts a cancelled consumer until its
/// last delivery is settled.
pub(super) async fn until_ready(broker: &dyn Broker, queue: &QueueName, ready: u64, alone: bool) {
    let fits = |depth: QueueDepth| depth.ready == ready && !(alone && depth.consumers > 0);
    let deadline = Instant::now() + SOON;
    loop {
        let found = soon("a depth", broker.depth(queue)).await.expect("a depth");
        if found.is_some_and(fits) {
            return;
        }
        assert!(Instant::now() < deadline, "`{queue}` has {found:?}, not {ready} ready (alone: {alone})");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn until_dead(broker: &dyn Broker, wanted: u64) {
    let deadline = Instant::now() + SOON;
    loop {
        let found = soon("the dead letters", broker.dead_depth()).await.expect("the dead letters");
        if found == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{found} dead letters, not {wanted}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn round_trip_in_order_and_acked_once(broker: &dyn Broker) {
    let queue = fresh_queue("roundtrip");
    for _ in 0..2 {
        soon("ensure_queue", broker.ensure_queue(&queue)).await.expect("ensure_queue can be repeated");
    }
    for body in ["a", "b", "c"] {
        publish(broker, &queue, body).await;
    }
    let carried = Publication { attempt: 7, deliveries: 2, ..Publication::new("d") };
    soon("a confirm", broker.publish(&queue, carried)).await.expect("a confirm");
    let mut consumer = subscribe(broker, &queue, 10).await;
    assert!(*consumer.attached().borrow());
    for (body, attempt, deliveries) in [("a", 0, 0), ("b", 0, 0), ("c", 0, 0), ("d", 7, 2)] {
        let delivery = next(&mut consumer).await;
        assert_eq!((&delivery.body[..], delivery.attempt), (body.as_bytes(), attempt), "in order");
        assert_eq!((delivery.deliveries, delivery.seen()), (deliveries, attempt > 0));
        assert!(!delivery.redelivered);
        ack(delivery).await;
    }
    soon("cancel", consumer.cancel()).await.expect("cancel");
    assert!(!*consumer.attached().borrow());
    assert!(matches!(consumer.next().await, Err(BrokerError::Closed)));
    // What is acked never comes again.
    let mut other = subscribe(broker, &queue, 10).await;
    nothing_comes(&mut other).await;
}

async fn unknown_queue_is_unroutable(broker: &dyn Broker) {
    let queue = fresh_queue("unknown");
    assert_eq!(soon("a depth", broker.depth(&queue)).await.expect("no error"), None);
    let told = soon("an answer", broker.publish(&queue, Publication::new("x"))).await;
    assert!(matches!(told, Err(BrokerError::Unroutable { .. })), "{told:?}");
}

async fn reserved_names_are_refused(broker: &dyn Broker) {
    for name in ["dead", "default.retry"] {
        let told = broker.ensure_queue(&name.parse().expect("a valid name")).await;
        assert!(matches!(told, Err(BrokerError::Precondition { .. })), "{name}: {told:?}");
    }
}

async fn prefetch_is_a_limit(broker: &dyn Broker) {
    let queue = fresh_queue("prefetch");
    let mut consumer = subscribe(broker, &queue, 2).await;
    for body in ["a", "b", "c"] {
        publish(broker, &queue, body).await;
    }
    let first = next(&mut consumer).await;
    let second = next(&mut consumer).await;
    nothing_comes(&mut consumer).await;
    ack(first).await;
    let third = next(&mut consumer).await;
    assert_eq!(&third.body[..], b"c");
    ack(second).await;
    ack(third).await;
}

async fn dropped_delivery_comes_back(broker: &dyn Broker) {
    let queue = fresh_queue("drop");
    let mut consumer = subscribe(broker, &queue, 1).await;
    publish(broker, &queue, "a").await;
    for deliveries in 0..3 {
        let delivery = next(&mut consumer).await;
        assert_eq!((&delivery.body[..], delivery.attempt, delivery.deliveries), (&b"a"[..], 0, deliveries));
        assert_eq!((delivery.redelivered, delivery.seen()), (deliveries > 0, deliveries > 0));
        if deliveries == 2 {
            ack(delivery).await;
        }
    }
    nothing_comes(&mut consumer).await;
}

/// What was given back on purpose has not killed anybody, and keeps what was counted before.
async fn requeued_delivery_comes_back(broker: &dyn Broker) {
    let queue = fresh_queue("requeue");
    let mut consumer = subscribe(broker, &queue, 1).await;
    publish(broker, &queue, "a").await;
    for deliveries in [0, 1] {
        let delivery = next(&mut consumer).await;
        soon("a requeue", delivery.settle(Disposition::Requeue)).await.expect("a requeue");
        let again = next(&mut consumer).await;
        assert_eq!((&again.body[..], again.attempt, again.deliveries), (&b"a"[..], 0, deliveries));
        if deliveries == 1 {
            ack(again).await;
        }
    }
    nothing_comes(&mut consumer).await;
}

/// A message that waits for something else to be mended comes back late and uses nothing up.
async fn deferred_delivery_comes_back_later(broker: &dyn Broker) {
    let queue = fresh_queue("defer");
    let mut consumer = subscribe(broker, &queue, 1).await;
    let dead = broker.dead_depth().await.expect("the dead letters");
    publish(broker, &queue, "a").await;
    for _ in 0..=POLICY.max_deferrals {
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.attempt, delivery.deliveries), (0, 0));
        let began = Instant::now();
        let defer = Disposition::Defer { reason: "the ledger is away".into() };
        soon("a deferral", delivery.settle(defer)).await.expect("a deferral");
        assert!(began.elapsed() < SOON);
    }
    until_dead(broker, dead + 1).await;
    nothing_comes(&mut consumer).await;
}

/// Dead letters can be looked at, sent back and removed, one by one.
async fn dead_letters_are_judged(broker: &dyn Broker) {
    let queue = fresh_queue("judged");
    let mut consumer = subscribe(broker, &queue, 1).await;
    for body in ["keep", "retry", "drop"] {
        publish(broker, &queue, body).await;
        let verdict = Disposition::DeadLetter { reason: format!("to {body}") };
        soon("a dead letter", next(&mut consumer).await.settle(verdict)).await.expect("a dead letter");
    }
    let before = broker.dead_depth().await.expect("the dead letters");
    let judge = &mut |letter: &DeadLetter| match &letter.body[..] {
        _ if letter.queue.as_ref() != Some(&queue) => Verdict::Keep,
        b"retry" => Verdict::Retry,
        b"drop" => Verdict::Drop,
        _ => Verdict::Keep,
    };
    for round in 0..2 {
        let judged = soon("the verdicts", broker.judge_dead(1_000, judge)).await.expect("the verdicts");
        assert!(judged.iter().all(|(letter, _)| !letter.reason.is_empty()));
        let ours: Vec<_> =
            judged.iter().filter(|(letter, _)| letter.queue.as_ref() == Some(&queue)).collect();
        let bodies: Vec<&[u8]> = ours.iter().map(|(letter, _)| &letter.body[..]).collect();
        match round {
            0 => assert_eq!(bodies, [&b"keep"[..], b"retry", b"drop"], "the oldest first"),
            _ => assert_eq!(bodies, [b"keep"], "what was kept is there, and nothing else"),
        }
        assert_eq!(ours[0].0.reason, "to keep");
        until_dead(broker, before - 2).await;
    }
    let again = next(&mut consumer).await;
    assert_eq!((&again.body[..], again.attempt, again.deliveries), (&b"retry"[..], 0, 0), "as new work");
    ack(again).await;
    nothing_comes(&mut consumer).await;
    assert!(soon("none", broker.judge_dead(0, judge)).await.expect("none").is_empty());
}

async fn retry_comes_back_later(broker: &dyn Broker) {
    let queue = fresh_queue("retry");
    let mut consumer = subscribe(broker, &queue, 1).await;
    publish(broker, &queue, "a").await;
    let delivery = next(&mut consumer).await;
    let began = Instant::now();
    let retry = Disposition::Retry { reason: "the store is busy".into() };
    soon("a retry", delivery.settle(retry)).await.expect("a retry");
    // The place in the prefetch is free while it rests.
    publish(broker, &queue, "b").await;
    let other = next(&mut consumer).await;
    assert_eq!(&other.body[..], b"b");
    ack(other).await;
    let again = next(&mut consumer).await;
    assert_eq!((&again.body[..], again.attempt), (&b"a"[..], 1));
    assert!(began.elapsed() >= POLICY.delay, "after {:?}", began.elapsed());
    ack(again).await;
    nothing_comes(&mut consumer).await;
}

async fn used_up_attempts_become_a_dead_letter(broker: &dyn Broker) {
    let queue = fresh_queue("used-up");
    let mut consumer = subscribe(broker, &queue, 1).await;
    let dead = broker.dead_depth().await.expect("the dead letters");
    publish(broker, &queue, "a").await;
    for attempt in 0..=POLICY.max_attempts {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.attempt, attempt);
        let retry = Disposition::Retry { reason: "still broken".into() };
        soon("a retry", delivery.settle(retry)).await.expect("a retry");
    }
    until_dead(broker, dead + 1).await;
    tokio::time::sleep(POLICY.delay).await;
    nothing_comes(&mut consumer).await;
}

async fn dead_letter_is_counted(broker: &dyn Broker) {
    let queue = fresh_queue("dead");
    let mut consumer = subscribe(broker, &queue, 1).await;
    let dead = broker.dead_depth().await.expect("the dead letters");
    publish(broker, &queue, "junk").await;
    let delivery = next(&mut consumer).await;
    // Longer than a header may be, and not ASCII.
    let verdict = Disposition::DeadLetter { reason: "unlesbar: ä".repeat(1_000) };
    soon("a dead letter", delivery.settle(verdict)).await.expect("a dead letter");
    until_dead(broker, dead + 1).await;
    nothing_comes(&mut consumer).await;
}

/// A message that nobody lives to settle must not go round for ever.
async fn killer_becomes_a_dead_letter(broker: &dyn Broker) {
    let queue = fresh_queue("killer");
    let mut consumer = subscribe(broker, &queue, 1).await;
    let dead = broker.dead_depth().await.expect("the dead letters");
    publish(broker, &queue, "killer").await;
    for deliveries in 0..=DELIVERY_LIMIT {
        let delivery = next(&mut consumer).await;
        assert_eq!((delivery.attempt, delivery.deliveries), (0, deliveries));
    }
    until_dead(broker, dead + 1).await;
    nothing_comes(&mut consumer).await;
    let judge = &mut |letter: &DeadLetter| match letter.queue.as_ref() == Some(&queue) {
        true => Verdict::Drop,
        false => Verdict::Keep,
    };
    let judged = soon("the verdicts", broker.judge_dead(1_000, judge)).await.expect("the verdicts");
    let (letter, _) =
        judged.iter().find(|(_, verdict)| *verdict == Verdict::Drop).expect("the killer's lane is known");
    assert_eq!((&*letter.reason, &letter.worker), ("delivery_limit", &None));
}

async fn depth_follows_the_queue(broker: &dyn Broker) {
    let queue = fresh_queue("depth");
    broker.ensure_queue(&queue).await.expect("ensure_queue");
    assert_eq!(broker.depth(&queue).await.expect("a depth"), Some(QueueDepth::default()));
    publish(broker, &queue, "a").await;
    publish(broker, &queue, "b").await;
    until_ready(broker, &queue, 2, true).await;
    let mut consumer = subscribe(broker, &queue, 1).await;
    let delivery = next(&mut consumer).await;
    until_ready(broker, &queue, 1, false).await;
    assert_eq!(broker.depth(&queue).await.expect("a depth"), Some(QueueDepth { ready: 1, consumers: 1 }));
    soon("cancel", consumer.cancel()).await.expect("cancel");
    until_ready(broker, &queue, 1, false).await;
    ack(delivery).await;
    until_ready(broker, &queue, 1, true).await;
}

async fn cancel_gives_back_what_was_not_handed_out(broker: &dyn Broker) {
    let queue = fresh_queue("cancel");
    broker.ensure_queue(&queue).await.expect("ensure_queue");
    for body in ["a", "b", "c", "d"] {
        publish(broker, &queue, body).await;
    }
    let mut consumer = subscribe(broker, &queue, 3).await;
    let outstanding = next(&mut consumer).await;
    soon("cancel", consumer.cancel()).await.expect("cancel");
    soon("cancel", consumer.cancel()).await.expect("cancel can be repeated");
    assert!(matches!(soon("the end", consumer.next()).await, Err(BrokerError::Closed)));
    until_ready(broker, &queue, 3, false).await;
    drop(consumer);
    ack(outstanding).await;
    let mut other = subscribe(broker, &queue, 10).await;
    let mut bodies = BTreeSet::new();
    for _ in 0..3 {
        let delivery = next(&mut other).await;
        bodies.insert(delivery.body.clone());
        ack(delivery).await;
    }
    assert_eq!(bodies, BTreeSet::from(["b".into(), "c".into(), "d".into()]));
    nothing_comes(&mut other).await;
}

async fn dropped_consumer_gives_back(broker: &dyn Broker) {
    let queue = fresh_queue("drop-consumer");
    let mut consumer = subscribe(broker, &queue, 3).await;
    for body in ["a", "b", "c"] {
        publish(broker, &queue, body).await;
    }
    let outstanding = next(&mut consumer).await;
    drop(consumer);
    until_ready(broker, &queue, 2, false).await;
    drop(outstanding);
    until_ready(broker, &queue, 3, true).await;
}

async fn consumers_share(broker: &dyn Broker) {
    let queue = fresh_queue("share");
    let mut one = subscribe(broker, &queue, 1).await;
    let mut two = subscribe(broker, &queue, 1).await;
    for body in ["a", "b"] {
        publish(broker, &queue, body).await;
    }
    let (a, b) = (next(&mut one).await, next(&mut two).await);
    assert_ne!(a.body, b.body, "each message goes to one of them");
    ack(a).await;
    ack(b).await;
    nothing_comes(&mut one).await;
}

async fn many_at_once(broker: &dyn Broker) {
    let queue = fresh_queue("many");
    let mut consumer = subscribe(broker, &queue, 64).await;
    let publishing = futures::future::join_all(
        (0..MANY).map(|n| broker.publish(&queue, Publication::new(n.to_string().into_bytes()))),
    );
    let consuming = async {
        let mut seen = BTreeSet::new();
        while seen.len() < MANY {
            let delivery = next(&mut consumer).await;
            assert!(seen.insert(delivery.body.clone()), "{delivery:?} came twice");
            ack(delivery).await;
        }
    };
    let (confirms, ()) = futures::join!(soon("the confirms", publishing), consuming);
    for confirm in confirms {
        confirm.expect("a confirm");
    }
    nothing_comes(&mut consumer).await;
}

/// Whoever publishes at the same time as others must get the verdict on its own message.
async fn verdicts_are_not_mixed_up(broker: &dyn Broker) {
    let (known, unknown) = (fresh_queue("known"), fresh_queue("not-there"));
    broker.ensure_queue(&known).await.expect("ensure_queue");
    let mixed = stream::iter(0..300).map(|n| {
        let queue = if n % 3 == 0 { &unknown } else { &known };
        async move { (n, broker.publish(queue, Publication::new("x")).await) }
    });
    let verdicts: Vec<_> = soon("the verdicts", mixed.buffer_unordered(100).collect()).await;
    for (n, verdict) in verdicts {
        match n % 3 {
            0 => assert!(matches!(verdict, Err(BrokerError::Unroutable { .. })), "{n}: {verdict:?}"),
            _ => assert!(verdict.is_ok(), "{n}: {verdict:?}"),
        }
    }
    until_ready(broker, &known, 200, true).await;
}
