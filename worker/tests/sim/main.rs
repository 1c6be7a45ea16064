//! The whole fleet in one thread, on a paused clock, from a seed: producer, workers, services and what befalls them.
//!
//! The pipeline, the planner, the finish and the rebuild are the real ones; the services are those in memory, behind
//! `trawl_common::faults`. A seed decides everything, so that one that fails can be replayed:
//!
//!     make sim SEED=4711       one seed, with its log
//!     make sim SEEDS=2000      that many, and a summary
//!
//! `scenario` is what a seed draws, `photos` what is in the bucket, `fleet` the processes, `nemesis` what befalls
//! them, `verdict` what must hold at the end, `report` the summary.

mod fleet;
mod nemesis;
mod photos;
mod report;
mod scenario;
mod verdict;

use fleet::Mutation;
use report::{Report, Story};
use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

/// Seeds of an ordinary `cargo test`.
const FEW: u64 = 30;

/// Seeds within which a broken worker must be found out.
const ENOUGH: u64 = 50;

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

/// Runs seeds on every core.
fn run(seeds: std::ops::Range<u64>, mutation: Mutation) -> Report {
    let (next, report) = (AtomicU64::new(seeds.start), Mutex::new(Report::default()));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let story = fleet::live(seed, mutation);
                    report.lock().expect("no panic while the report is held").add(&story);
                }
            });
        }
    });
    report.into_inner().expect("no panic while the report is held")
}

#[test]
fn every_job_ends_with_each_row_once_whatever_befalls_the_fleet() {
    if let Some(seed) = number_from("TRAWL_SIM_SEED") {
        let story = fleet::live(seed, Mutation::None);
        println!("{}", story.log);
        let mut report = Report::default();
        report.add(&story);
        println!("{report}");
        assert!(story.violations.is_empty(), "{:#?}", story.violations);
        return;
    }
    let report = run(0..number_from("TRAWL_SIM_SEEDS").unwrap_or(FEW), Mutation::None);
    println!("{report}");
    assert!(report.failed.is_empty(), "{report}");
    assert!(report.redeliveries > 0 && report.computed_twice > 0, "nothing went wrong: {report}");
}

#[test]
fn a_seed_always_tells_the_same_story() {
    for seed in [3, 14, 15] {
        let (one, other) = (fleet::live(seed, Mutation::None), fleet::live(seed, Mutation::None));
        let differ = one.log.lines().zip(other.log.lines()).position(|(a, b)| a != b);
        assert!(one.log == other.log, "seed {seed} tells another story from line {differ:?} on");
        assert!(one.log.lines().count() > 50, "{}", one.log);
    }
    let another = |seed| fleet::live(seed, Mutation::None).log;
    assert_ne!(another(3), another(14));
}

fn found_out(mutation: Mutation) -> Story {
    let found =
        (0..ENOUGH).map(|seed| fleet::live(seed, mutation)).find(|story| !story.violations.is_empty());
    found.unwrap_or_else(|| panic!("{ENOUGH} seeds do not find {mutation:?}"))
}

#[test]
fn an_ack_before_the_put_is_found_out() {
    let story = found_out(Mutation::AckFirst);
    println!("seed {}: {:?}", story.seed, story.violations);
    let lost = story.violations.iter().any(|v| v.contains("lost") || v.contains("did not end"));
    assert!(lost, "{:?}", story.violations);
}

#[test]
fn a_ledger_that_counts_twice_is_found_out() {
    let story = found_out(Mutation::CountTwice);
    println!("seed {}: {:?}", story.seed, story.violations);
    assert!(story.violations.iter().any(|v| v.contains("ledger")), "{:?}", story.violations);
}
