//! The context of a submission stays with its messages, whatever becomes of them.
//!
//! A part of the suite for both kinds of broker: through a requeue, a retry, a deferral, a drop, the dead letters and
//! back. A message without one gets none.

use super::{POLICY, SOON, fresh_queue, next, publish, soon, subscribe};
use crate::{
    broker::{Broker, DeadLetter, Disposition, Publication, Verdict},
    trace::TraceContext,
};

pub(super) async fn the_context_stays_with_its_message(broker: &dyn Broker) {
    let queue = fresh_queue("trace");
    let mut consumer = subscribe(broker, &queue, 1).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for state in [None, Some("vendor=a:1,other=2")] {
        let trace = TraceContext::parse(parent, state);
        assert_eq!(trace.as_ref().and_then(TraceContext::tracestate), state);
        let message = Publication::new("a").traced(trace.clone());
        soon("a confirm", broker.publish(&queue, message)).await.expect("a confirm");
        let reason = || "a reason".to_owned();
        let ways = [
            Some(Disposition::Requeue),
            Some(Disposition::Retry { reason: reason() }),
            Some(Disposition::Defer { reason: reason() }),
            Some(Disposition::Abandon),
            None,
            Some(Disposition::DeadLetter { reason: reason() }),
        ];
        for way in ways {
            let delivery = next(&mut consumer).await;
            assert_eq!(delivery.trace, trace, "before {way:?}");
            match way {
                Some(way) => soon("its settlement", delivery.settle(way)).await.expect("its settlement"),
                None => drop(delivery),
            }
        }
        let deadline = tokio::time::Instant::now() + SOON;
        loop {
            let mut found = None;
            let judge = &mut |letter: &DeadLetter| {
                if letter.queue.as_ref() != Some(&queue) {
                    return Verdict::Keep;
                }
                found = Some(letter.trace.clone());
                Verdict::Retry
            };
            soon("the verdicts", broker.judge_dead(1_000, judge)).await.expect("the verdicts");
            if let Some(found) = found {
                assert_eq!(found, trace, "of the dead letter");
                break;
            }
            assert!(tokio::time::Instant::now() < deadline, "no dead letter");
            tokio::time::sleep(POLICY.delay / 10).await;
        }
        let again = next(&mut consumer).await;
        assert_eq!((again.trace.clone(), again.attempt), (trace, 0), "as new work");
        super::ack(again).await;
    }
    publish(broker, &queue, "b").await;
    let plain = next(&mut consumer).await;
    assert_eq!(plain.trace, None);
    super::ack(plain).await;
}
