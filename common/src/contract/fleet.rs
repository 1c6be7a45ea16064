//! What every [`Fleet`] must do.
//!
//! [`suite`] works on workers of its own, named by `name`, and minds no others. It waits for the end of
//! `forgotten_after`, so that the registry under test should forget early.

use crate::fleet::{BatchInHand, Fleet, Heard, WorkerReport};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// More workers than a registry under test has.
const ALL: usize = 10_000;

/// A registry that forgets forgets within this time, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(20);

/// Checks everything on workers whose names begin with `name`, which must be new to the registry.
pub async fn suite(fleet: Arc<dyn Fleet>, name: &str, forgotten_after: Duration) {
    what_was_said_last_is_shown(&*fleet, &format!("{name}-said")).await;
    a_listing_is_bounded_and_in_order(&*fleet, &format!("{name}-order")).await;
    who_leaves_is_gone(&*fleet, &format!("{name}-leaves")).await;
    who_is_silent_is_forgotten(&*fleet, &format!("{name}-silent"), forgotten_after).await;
}

fn report(worker: &str) -> WorkerReport {
    WorkerReport {
        worker: worker.into(),
        host: "host <b>&\"'\u{202e}".into(),
        pid: 7,
        version: "0.1.0".into(),
        device: "cpu".into(),
        model: Some("tiny".into()),
        queues: vec!["default".into(), "gpu".into()],
        started_unix_ms: 1_700_000_000_123,
        images_per_second: 12.5,
        busy: [("decode".to_owned(), 0.75), ("put".to_owned(), 0.0)].into(),
        binding: Some("decode".into()),
        memory_bytes: 3 << 30,
        device_memory_bytes: None,
        in_flight: vec![BatchInHand {
            job: "j-1".parse().expect("a name"),
            batch: crate::batch::BatchNumber(3),
            age_ms: 4,
        }],
        images_total: u64::from(u32::MAX) + 1,
        draining: false,
    }
}

async fn found(fleet: &dyn Fleet, name: &str) -> Vec<Heard> {
    let mut workers = fleet.workers(ALL).await.expect("a listing");
    workers.retain(|heard| heard.report.worker.starts_with(name));
    workers
}

/// A later report takes the place of the earlier one, and comes back whole.
pub async fn what_was_said_last_is_shown(fleet: &dyn Fleet, name: &str) {
    assert!(found(fleet, name).await.is_empty());
    let first = report(name);
    fleet.report(&first).await.expect("a report");
    let heard = found(fleet, name).await;
    assert_eq!(heard.len(), 1);
    assert_eq!(heard[0].report, first);
    assert!(!heard[0].is_silent());
    let later = WorkerReport { draining: true, binding: None, in_flight: Vec::new(), ..first };
    fleet.report(&later).await.expect("a report");
    let heard = found(fleet, name).await;
    assert_eq!(heard.iter().map(|heard| &heard.report).collect::<Vec<_>>(), [&later]);
    fleet.leave(name).await.expect("it leaves");
}

/// In the order of the names whatever the order of the reports, and no more than asked for.
pub async fn a_listing_is_bounded_and_in_order(fleet: &dyn Fleet, name: &str) {
    let names = ["c", "a", "d", "b"].map(|last| format!("{name}-{last}"));
    for worker in &names {
        fleet.report(&report(worker)).await.expect("a report");
    }
    let shown: Vec<String> = found(fleet, name).await.into_iter().map(|heard| heard.report.worker).collect();
    assert_eq!(shown, ["a", "b", "c", "d"].map(|last| format!("{name}-{last}")));
    assert!(fleet.workers(0).await.expect("a listing").is_empty());
    assert_eq!(fleet.workers(2).await.expect("a listing").len(), 2);
    for worker in &names {
        fleet.leave(worker).await.expect("it leaves");
    }
}

/// Leaving takes a worker away at once, and again is no error; it may come back.
pub async fn who_leaves_is_gone(fleet: &dyn Fleet, name: &str) {
    fleet.leave(name).await.expect("one that never was may leave");
    fleet.report(&report(name)).await.expect("a report");
    fleet.leave(name).await.expect("it leaves");
    assert!(found(fleet, name).await.is_empty());
    fleet.leave(name).await.expect("again");
    fleet.report(&report(name)).await.expect("a report");
    assert_eq!(found(fleet, name).await.len(), 1);
    fleet.leave(name).await.expect("it leaves");
}

/// A worker that says nothing any more vanishes, while one that goes on stays; its age grows meanwhile.
pub async fn who_is_silent_is_forgotten(fleet: &dyn Fleet, name: &str, forgotten_after: Duration) {
    let (mute, alive) = (format!("{name}-mute"), format!("{name}-alive"));
    fleet.report(&report(&mute)).await.expect("a report");
    let began = Instant::now();
    let mut oldest = 0;
    loop {
        fleet.report(&report(&alive)).await.expect("a report");
        let shown = found(fleet, name).await;
        assert!(shown.iter().any(|heard| heard.report.worker == alive), "{shown:?}");
        let Some(heard) = shown.iter().find(|heard| heard.report.worker == mute) else { break };
        assert!(heard.age_ms >= oldest, "{} after {oldest}", heard.age_ms);
        oldest = heard.age_ms;
        assert!(
            began.elapsed() < forgotten_after + PATIENCE,
            "it is still there after {:?}",
            began.elapsed()
        );
        tokio::time::sleep(forgotten_after / 10).await;
    }
    assert!(oldest > 0, "its age was never shown");
    // By another clock than ours: a little sooner is no fault.
    assert!(began.elapsed() >= forgotten_after * 9 / 10, "gone after {:?}", began.elapsed());
    fleet.leave(&alive).await.expect("it leaves");
}
