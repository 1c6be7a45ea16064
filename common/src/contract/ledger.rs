//! What every [`Ledger`] must do.
//!
//! [`suite`] works on jobs of its own, named by `name`, and minds no others.

use crate::{
    batch::BatchNumber,
    error_code::ErrorCode,
    job::JobId,
    ledger::{BatchOutcome, Begun, Completion, Fed, JobRecord, JobState, Ledger, Progress},
    stages::{Stage, StageTimes},
};
use futures::future::join_all;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// More jobs than a ledger under test has.
const ALL_JOBS: usize = 10_000;

/// When the jobs of the suite were submitted.
const CREATED: u64 = 1_700_000_000_123;

/// Checks everything on jobs whose ids begin with `name`, which must be new to the ledger.
pub async fn suite(ledger: Arc<dyn Ledger>, name: &str) {
    let job = |what: &str| -> JobId { format!("{name}-{what}").parse().expect("a short name") };
    unknown_jobs(&*ledger, &job("unknown")).await;
    counts_once(&ledger, &job("once")).await;
    errors_by_code(&*ledger, &job("errors")).await;
    done_after_the_plan(&*ledger, &job("done")).await;
    what_is_fed_is_noted(&*ledger, &job("fed")).await;
    a_paused_job_is_held(&*ledger, &job("paused")).await;
    plan_after_the_work(&*ledger, &job("late-plan")).await;
    plans_only_grow(&*ledger, &job("grow")).await;
    cancel_and_reopen(&*ledger, &job("cancel")).await;
    work_after_a_wipe(&*ledger, &job("wiped")).await;
    the_manifest_has_the_last_word(&*ledger, &job("manifest")).await;
    claims_are_taken_over_once(&ledger, &job("claims")).await;
    one_question_before_a_batch(&*ledger, &job("begin")).await;
    a_plan_is_announced_or_not(&*ledger, &job("announced")).await;
    another_time_is_another_job(&*ledger, &job("again")).await;
    large_numbers(&*ledger, &job("large")).await;
    newest_first(&*ledger, name).await;
}

fn record(job: &JobId, created_unix_ms: u64) -> JobRecord {
    JobRecord { job: job.clone(), out: format!("s3://b/{job}"), queue: "default".into(), created_unix_ms }
}

async fn open(ledger: &dyn Ledger, job: &JobId) {
    ledger.open(&record(job, CREATED)).await.expect("open");
}

async fn progress(ledger: &dyn Ledger, job: &JobId) -> Progress {
    ledger.progress(job).await.expect("progress").expect("the job is known")
}

async fn complete(ledger: &dyn Ledger, job: &JobId, batch: u64, images_ok: u64) -> Completion {
    let outcome = BatchOutcome { images_ok, ..BatchOutcome::default() };
    ledger.complete(job, BatchNumber(batch), &outcome).await.expect("complete").expect("the job is known")
}

/// Nothing is known of a job that nobody opened, and asking does not make it known.
pub async fn unknown_jobs(ledger: &dyn Ledger, job: &JobId) {
    for _ in 0..2 {
        assert_eq!(ledger.state(job).await.expect("state"), None);
        assert_eq!(ledger.progress(job).await.expect("progress"), None);
        assert!(!ledger.is_done(job, BatchNumber(0)).await.expect("is_done"));
        assert!(!ledger.cancel(job).await.expect("cancel"));
    }
    assert!(ledger.jobs(ALL_JOBS).await.expect("jobs").iter().all(|progress| progress.job != *job));
}

/// Of 32 concurrent completions of each batch one counts.
pub async fn counts_once(ledger: &Arc<dyn Ledger>, job: &JobId) {
    const BATCHES: u64 = 8;
    const RACERS: usize = 32;
    open(&**ledger, job).await;
    for batch in 0..BATCHES {
        assert!(!ledger.is_done(job, BatchNumber(batch)).await.expect("is_done"));
        let race = (0..RACERS).map(|_| {
            let (ledger, job) = (ledger.clone(), job.clone());
            let errors = BTreeMap::from([(ErrorCode::Truncated, 1)]);
            let outcome =
                BatchOutcome { images_ok: 9, images_failed: 1, errors, stages: clock(Stage::Decode, 20) };
            tokio::spawn(async move { ledger.complete(&job, BatchNumber(batch), &outcome).await })
        });
        let first = join_all(race).await.into_iter().filter(|answer| {
            let answer = answer.as_ref().expect("no panic").as_ref().expect("no error");
            answer.expect("the job is known").first
        });
        assert_eq!(first.count(), 1, "batch {batch}");
        assert!(ledger.is_done(job, BatchNumber(batch)).await.expect("is_done"));
    }
    let seen = progress(&**ledger, job).await;
    assert_eq!((seen.batches_done, seen.images_ok, seen.images_failed), (BATCHES, 9 * BATCHES, BATCHES));
    assert_eq!(seen.errors, BTreeMap::from([(ErrorCode::Truncated, BATCHES)]));
    assert!(seen.images_per_second > 0.0, "work was done just now");
    assert_eq!(seen.eta_seconds, None, "the plan is not at its end");
    assert_eq!(seen.stages, BTreeMap::from([(Stage::Decode, 2.0)]), "20 ms a batch of ten");
    assert_eq!(seen.binding, Some(Stage::Decode));
}

/// A batch that spent so many milliseconds in one stage, which bound.
fn clock(stage: Stage, ms: u64) -> StageTimes {
    let mut times = StageTimes { binding: [(stage, 1)].into(), ..StageTimes::default() };
    times.spent(stage, Duration::from_millis(ms));
    times
}

/// Failed images add up by code.
pub async fn errors_by_code(ledger: &dyn Ledger, job: &JobId) {
    open(ledger, job).await;
    for (batch, codes) in [
        &[(ErrorCode::NotFound, 2), (ErrorCode::Corrupt, 1)][..],
        &[(ErrorCode::Corrupt, 4)],
        &[],
        &[(ErrorCode::CrashedWorker, 1)],
    ]
    .into_iter()
    .enumerate()
    {
        let errors: BTreeMap<_, _> = codes.iter().copied().collect();
        let images_failed = errors.values().sum();
        let outcome = BatchOutcome { images_ok: 1, images_failed, errors, ..BatchOutcome::default() };
        ledger.complete(job, BatchNumber(batch as u64), &outcome).await.expect("complete");
    }
    let seen = progress(ledger, job).await;
    let expected = [(ErrorCode::NotFound, 2), (ErrorCode::Corrupt, 5), (ErrorCode::CrashedWorker, 1)];
    assert_eq!(seen.errors, expected.into_iter().collect());
    assert_eq!((seen.images_ok, seen.images_failed), (4, 8));
}

/// A job is done when its plan is at its end and all of it is done; repeated completions still say so.
pub async fn done_after_the_plan(ledger: &dyn Ledger, job: &JobId) {
    open(ledger, job).await;
    ledger.planned(job, 2, 20).await.expect("planned");
    assert_eq!(
        complete(ledger, job, 0, 10).await,
        Completion { first: true, job_done: false, announced: true }
    );
    let two_of_two = complete(ledger, job, 1, 10).await;
    assert_eq!(
        two_of_two,
        Completion { first: true, job_done: false, announced: true },
        "the listing may go on"
    );
    assert_eq!(ledger.state(job).await.expect("state"), Some(JobState::Enqueuing));
    assert!(!ledger.plan_complete(job, 3, 30).await.expect("plan_complete"));
    assert_eq!(ledger.state(job).await.expect("state"), Some(JobState::Running));
    assert!(progress(ledger, job).await.eta_seconds.is_some_and(|eta| eta > 0.0));
    assert_eq!(
        complete(ledger, job, 0, 10).await,
        Completion { first: false, job_done: false, announced: true }
    );
    assert_eq!(
        complete(ledger, job, 2, 10).await,
        Completion { first: true, job_done: true, announced: true }
    );
    for batch in 0..3 {
        let repeated = complete(ledger, job, batch, 10).await;
        assert_eq!(
            repeated,
            Completion { first: false, job_done: true, announced: true },
            "a crash before the finalize message"
        );
    }
    assert_eq!(ledger.state(job).await.expect("state"), Some(JobState::Running), "until `_SUCCESS` is there");
    finalized(ledger, job, 3, 30).await;
    finalized(ledger, job, 3, 30).await;
    let seen = progress(ledger, job).await;
    assert_eq!((seen.state, seen.images_ok, seen.images_planned), (JobState::Complete, 30, 30));
    assert!(!ledger.cancel(job).await.expect("cancel"), "it is complete");
    open(ledger, job).await;
    assert_eq!(ledger.state(job).await.expect("state"), Some(JobState::Complete));
}

/// Workers may be quicker than the producer; a plan of nothing is done at once.
pub async fn plan_after_the_work(ledger: &dyn Ledger, job: &JobId) {
    open(ledger, job).await;
    for batch in 0..2 {
        complete(ledger, job, batch, 5).await;
    }
    assert!(ledger.plan_complete(job, 2, 10).await.expect("plan_complete"));
    assert!(ledger.plan_complete(job, 2, 10).await.expect("plan_complete"), "asked again");
    let empty: JobId = format!("{job}-empty").parse().expect("a short name");
    open(ledger, &empty).await;
    assert!(ledger.plan_complete(&empty, 0, 0).await.expect("plan_complete"));
    let seen = progress(ledger, &empty).await;
    assert_eq!((seen.images_per_second, seen.eta_seconds), (0.0, None));
}

/// What is planned only grows, whatever comes late.
pub async fn plans_only_grow(ledger: &dyn Ledger, job: &JobId) {
    open(ledger, job).await;
    for (batches, images) in [(5, 50), (3, 30), (9, 90), (8, 95)] {
        ledger.planned(job, batches, images).await.expect("planned");
    }
    ledger.plan_complete(job, 4, 40).await.expect("plan_complete");
    ledger.planned(job, 1, 1).await.expect("planned");
    let seen = progress(ledger, job).await;
    assert_eq!((seen.batches_planned, seen.images_planned, seen.state), (9, 95, JobState::Running));
}

/// A cancelled job stays so until it is opened again, and keeps its counters; opening twice changes nothing.
pub async fn cancel_and_reopen(ledger: &dyn Ledger, job: &JobId) {
    open(ledger, job).await;
    let other = JobRecord { out: "elsewhere".into(), queue: "other".into(), ..record(job, CREATED) };
    ledger.open(&other).await.expect("open again");
    complete(ledger, job, 0, 3).await;
    let seen = progress(ledger, job).await;
    let expected = record(job, CREATED);
    assert_eq!(
        (seen.out, seen.queue, seen.created_unix_ms),
        (expected.out, expected.queue, expected.created_unix_ms)
    );

    assert!(ledger.cancel(job).await.expect("cancel"));
    assert!(ledger.cancel(job).await.expect("cancel"), "cancelling twice is no error");
    assert_eq!(ledger.state(job).await.expect("state"), Some(JobState::Cancelled));
    ledger.planned(job, 2, 6).await.expect("planned");
    assert_eq!(ledger.state(job).await.expect("state"), Some(JobState::Cancelled));
    open(ledger, job).await;
    assert_eq!(ledger.state(job).await.expect("state"), Some(JobState::Enqueuing));

    ledger.plan_complete(job, 2, 6).await.expect("plan_complete");
    assert!(ledger.cancel(job).await.expect("cancel"));
    open(ledger, job).await;
    let seen = progress(ledger, job).await;
    assert_eq!((seen.state, seen.batches_done, seen.images_ok), (JobState::Running, 1, 3));
}

/// A job whose output was removed and submitted again starts from nothing.
///
/// # Panics
/// If anything of the old one holds.
pub async fn another_time_is_another_job(ledger: &dyn Ledger, job: &JobId) {
    open(ledger, job).await;
    ledger.plan_complete(job, 10, 100).await.unwrap();
    complete(ledger, job, 3, 10).await;
    ledger.open(&record(job, 9_999)).await.unwrap();
    let fresh = progress(ledger, job).await;
    assert_eq!((fresh.batches_planned, fresh.batches_done, fresh.images_ok), (0, 0, 0));
    assert_eq!(fresh.state, JobState::Enqueuing);
    assert!(!ledger.is_done(job, BatchNumber(3)).await.unwrap(), "a bit of the job before it");
    assert!(complete(ledger, job, 3, 10).await.first);
    // The same time again is the same job.
    ledger.open(&record(job, 9_999)).await.unwrap();
    assert_eq!(progress(ledger, job).await.batches_done, 1);
}

/// A ledger that was wiped under a running job says so instead of counting from nothing, until it is rebuilt.
pub async fn work_after_a_wipe(ledger: &dyn Ledger, job: &JobId) {
    open(ledger, job).await;
    complete(ledger, job, 0, 4).await;
    ledger.forget(job).await.expect("forget");
    ledger.forget(job).await.expect("forgetting twice is no error");
    for _ in 0..2 {
        let answer = ledger.complete(job, BatchNumber(7), &BatchOutcome::default()).await.expect("complete");
        assert_eq!(answer, None);
    }
    ledger.planned(job, 9, 90).await.expect("a submit that goes on");
    assert_eq!(ledger.state(job).await.expect("state"), None);
    assert_eq!(ledger.progress(job).await.expect("progress"), None);
    assert!(!ledger.cancel(job).await.expect("cancel"));
    open(ledger, job).await;
    for batch in [0, 7] {
        assert!(!ledger.is_done(job, BatchNumber(batch)).await.expect("is_done"));
        assert!(complete(ledger, job, batch, 4).await.first);
    }
    let seen = progress(ledger, job).await;
    assert_eq!((seen.state, seen.batches_planned, seen.batches_done), (JobState::Enqueuing, 9, 2));
}

/// The manifest's counters replace whatever was counted, also in a ledger that never heard of the job; what comes
/// after counts nothing.
pub async fn the_manifest_has_the_last_word(ledger: &dyn Ledger, job: &JobId) {
    open(ledger, job).await;
    ledger.plan_complete(job, 2, 20).await.expect("plan_complete");
    let outcome = BatchOutcome { images_ok: 3, stages: clock(Stage::Put, 10), ..BatchOutcome::default() };
    ledger.complete(job, BatchNumber(0), &outcome).await.expect("complete");
    for known in [true, false] {
        if !known {
            ledger.forget(job).await.expect("forget");
        }
        let errors = BTreeMap::from([(ErrorCode::Empty, 2), (ErrorCode::Corrupt, 1)]);
        let mut stages = clock(Stage::Forward, 100);
        stages.add(&clock(Stage::Forward, 0));
        let totals = BatchOutcome { images_ok: 17, images_failed: 3, errors: errors.clone(), stages };
        ledger.finalized(&record(job, CREATED), 2, &totals).await.expect("finalized");
        for batch in 0..2 {
            let late = complete(ledger, job, batch, 10).await;
            assert_eq!(late, Completion { first: false, job_done: true, announced: true });
        }
        let seen = progress(ledger, job).await;
        assert_eq!((seen.state, seen.batches_done, seen.batches_planned), (JobState::Complete, 2, 2));
        assert_eq!((seen.images_ok, seen.images_failed, seen.images_planned), (17, 3, 20));
        assert_eq!(seen.errors, errors);
        // Times that the parts do not know stay as they were counted.
        let put = known.then_some((Stage::Put, 0.5));
        assert_eq!(seen.stages, [(Stage::Forward, 5.0)].into_iter().chain(put).collect());
        assert_eq!(seen.binding, Some(Stage::Forward));
    }
}

/// A claim is shown until its batch is done or it is released, and one of many takes an old one over.
pub async fn claims_are_taken_over_once(ledger: &Arc<dyn Ledger>, job: &JobId) {
    const NOW: Duration = Duration::ZERO;
    let unclaimed = ledger.reclaim(job, BatchNumber(1), "w", NOW).await.expect("reclaim");
    assert!(!unclaimed, "the job is not known");
    ledger.claim(job, BatchNumber(1), "w").await.expect("no error for a job that is not known");
    assert!(ledger.claims(job, 10).await.expect("claims").is_empty());
    open(&**ledger, job).await;
    for batch in 1..=3 {
        ledger.claim(job, BatchNumber(batch), &format!("w{batch}")).await.expect("claim");
    }
    assert_eq!(claimers(&**ledger, job).await, ["w1", "w2", "w3"]);
    assert_eq!(ledger.claims(job, 2).await.expect("claims").len(), 2);
    complete(&**ledger, job, 1, 1).await;
    ledger.release(job, BatchNumber(2)).await.expect("release");
    assert_eq!(claimers(&**ledger, job).await, ["w3"]);
    let hour = Duration::from_secs(3600);
    assert!(!ledger.reclaim(job, BatchNumber(3), "w4", hour).await.expect("reclaim"), "it is young");
    for gone in [1, 2] {
        assert!(!ledger.reclaim(job, BatchNumber(gone), "w4", NOW).await.expect("reclaim"));
    }
    // Old enough that a second taker finds it young again.
    let age = Duration::from_millis(500);
    let deadline = Instant::now() + Duration::from_secs(30);
    while ledger.claims(job, 1).await.expect("claims")[0].age_ms < 500 {
        assert!(Instant::now() < deadline, "a claim gets older");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let race = (0..16).map(|n| {
        let (ledger, job) = (ledger.clone(), job.clone());
        tokio::spawn(async move { ledger.reclaim(&job, BatchNumber(3), &format!("taker-{n}"), age).await })
    });
    let won =
        join_all(race).await.into_iter().filter(|won| *won.as_ref().expect("no panic").as_ref().expect("ok"));
    assert_eq!(won.count(), 1);
    assert!(claimers(&**ledger, job).await[0].starts_with("taker-"));
}

/// State, bit and claim in one call: what is done, given up or not known is not claimed.
pub async fn one_question_before_a_batch(ledger: &dyn Ledger, job: &JobId) {
    let begin = |batch, claimant| async move {
        ledger.begin(job, BatchNumber(batch), claimant).await.expect("an answer")
    };
    let known = |state, done| Some(Begun { state, done });
    ledger.planned(job, 3, 30).await.expect("planned");
    assert_eq!(begin(0, Some("w")).await, None, "it is not open");
    open(ledger, job).await;
    assert!(ledger.claims(job, 10).await.expect("claims").is_empty());
    assert_eq!(begin(0, None).await, known(JobState::Enqueuing, false));
    assert!(ledger.claims(job, 10).await.expect("claims").is_empty(), "nobody claimed it");
    assert_eq!(begin(0, Some("w0")).await, known(JobState::Enqueuing, false));
    assert_eq!(begin(1, Some("w1")).await, known(JobState::Enqueuing, false));
    assert_eq!(begin(1, Some("w2")).await, known(JobState::Enqueuing, false), "nothing is locked");
    assert_eq!(claimers(ledger, job).await, ["w0", "w2"]);
    complete(ledger, job, 0, 10).await;
    assert_eq!(begin(0, Some("w0")).await, known(JobState::Enqueuing, true));
    assert_eq!(claimers(ledger, job).await, ["w2"]);
    ledger.plan_complete(job, 3, 30).await.expect("plan_complete");
    assert_eq!(begin(0, None).await, known(JobState::Running, true));
    ledger.cancel(job).await.expect("cancel");
    assert_eq!(begin(2, Some("w3")).await, known(JobState::Cancelled, false));
    assert_eq!(claimers(ledger, job).await, ["w2"]);
    for beyond in [1 << 32, u64::MAX] {
        assert!(ledger.begin(job, BatchNumber(beyond), None).await.is_err_and(|e| !e.is_transient()));
    }
}

/// A completion says whether a plan was announced, whoever counts first.
pub async fn a_plan_is_announced_or_not(ledger: &dyn Ledger, job: &JobId) {
    open(ledger, job).await;
    let unplanned = complete(ledger, job, 0, 5).await;
    assert_eq!(unplanned, Completion { first: true, job_done: false, announced: false });
    assert!(!complete(ledger, job, 0, 5).await.announced);
    ledger.planned(job, 2, 10).await.expect("planned");
    let planned = complete(ledger, job, 0, 5).await;
    assert_eq!(planned, Completion { first: false, job_done: false, announced: true });
}

async fn claimers(ledger: &dyn Ledger, job: &JobId) -> Vec<String> {
    let mut workers: Vec<_> =
        ledger.claims(job, 10).await.expect("claims").into_iter().map(|claim| claim.worker).collect();
    workers.sort();
    workers
}

async fn finalized(ledger: &dyn Ledger, job: &JobId, batches: u64, images_ok: u64) {
    let totals = BatchOutcome { images_ok, ..BatchOutcome::default() };
    ledger.finalized(&record(job, CREATED), batches, &totals).await.expect("finalized");
}

/// A billion images in four million batches; beyond every plan is an error, not a gigabyte.
pub async fn large_numbers(ledger: &dyn Ledger, job: &JobId) {
    open(ledger, job).await;
    ledger.planned(job, 4_000_001, 1_024_000_256).await.expect("planned");
    assert!(complete(ledger, job, 4_000_000, 256).await.first);
    assert!(!complete(ledger, job, 4_000_000, 256).await.first);
    assert!(ledger.is_done(job, BatchNumber(4_000_000)).await.expect("is_done"));
    assert!(!ledger.is_done(job, BatchNumber(3_999_999)).await.expect("is_done"));
    let seen = progress(ledger, job).await;
    assert_eq!((seen.batches_planned, seen.images_planned), (4_000_001, 1_024_000_256));
    for batch in [1 << 32, u64::MAX] {
        let refused = ledger.complete(job, BatchNumber(batch), &BatchOutcome::default()).await;
        assert!(refused.is_err_and(|e| !e.is_transient()), "batch {batch}");
        assert!(ledger.is_done(job, BatchNumber(batch)).await.is_err(), "batch {batch}");
    }
}

/// Jobs come newest first, equally old ones by name backwards, and no more than asked for.
pub async fn newest_first(ledger: &dyn Ledger, name: &str) {
    // Later than every other job of the suite.
    let base = 4_000_000_000_000;
    let made = [("b", 2), ("a", 2), ("new", 3), ("old", 1)];
    for (what, age) in made {
        let job: JobId = format!("{name}-order-{what}").parse().expect("a short name");
        ledger.open(&record(&job, base + age)).await.expect("open");
    }
    let all = ledger.jobs(ALL_JOBS).await.expect("jobs");
    let ours: Vec<_> =
        all.iter().filter_map(|p| p.job.as_str().strip_prefix(&format!("{name}-order-"))).collect();
    assert_eq!(ours, ["new", "b", "a", "old"]);
    assert!(all.windows(2).all(|pair| pair[0].created_unix_ms >= pair[1].created_unix_ms));
    assert_eq!(ledger.jobs(2).await.expect("jobs").len(), 2);
    assert!(ledger.jobs(0).await.expect("jobs").is_empty());
}

/// How far a job is queued is noted for a job at work, by whoever noted it last.
pub async fn what_is_fed_is_noted(ledger: &dyn Ledger, job: &JobId) {
    assert_eq!(ledger.fed(job).await.expect("fed"), None);
    open(ledger, job).await;
    assert_eq!(ledger.fed(job).await.expect("fed"), None);
    for fed in [
        Fed { chain: u64::MAX, next: BatchNumber(7) },
        Fed { chain: 0, next: BatchNumber(0) },
        Fed { chain: 0x00ab, next: BatchNumber(100_000_000) },
    ] {
        ledger.set_fed(job, fed).await.expect("set_fed");
        open(ledger, job).await;
        assert_eq!(ledger.fed(job).await.expect("fed"), Some(fed));
    }
    // Of the chain that is noted, and on: all else is late.
    for (chain, next, noted) in [(0x00ab, 100_000_001, true), (0x00ab, 7, false), (9, 200_000_000, false)] {
        let (before, fed) = (ledger.fed(job).await.expect("fed"), Fed { chain, next: BatchNumber(next) });
        ledger.advance_fed(job, fed).await.expect("advance_fed");
        assert_eq!(ledger.fed(job).await.expect("fed"), if noted { Some(fed) } else { before });
    }
    // Another submission of that name begins anew.
    ledger.open(&record(job, CREATED + 1)).await.expect("open");
    assert_eq!(ledger.fed(job).await.expect("fed"), None);
    let first = Fed { chain: 3, next: BatchNumber(4) };
    ledger.advance_fed(job, first).await.expect("advance_fed");
    assert_eq!(ledger.fed(job).await.expect("fed"), Some(first));
}

/// A paused job's batches are neither begun nor claimed, it counts what is finished all the same, and opening it takes
/// it back to work.
pub async fn a_paused_job_is_held(ledger: &dyn Ledger, job: &JobId) {
    assert!(!ledger.pause(job).await.expect("pause"), "it is not known");
    open(ledger, job).await;
    ledger.plan_complete(job, 2, 20).await.expect("plan_complete");
    for _ in 0..2 {
        assert!(ledger.pause(job).await.expect("pause"));
        assert_eq!(ledger.state(job).await.expect("state"), Some(JobState::Paused));
    }
    let begun = ledger.begin(job, BatchNumber(0), Some("w")).await.expect("begin");
    assert_eq!(begun, Some(Begun { state: JobState::Paused, done: false }));
    assert!(ledger.claims(job, 10).await.expect("claims").is_empty());
    assert!(complete(ledger, job, 0, 10).await.first, "what was in hand counts");
    open(ledger, job).await;
    assert_eq!(ledger.state(job).await.expect("state"), Some(JobState::Running));
    assert!(ledger.cancel(job).await.expect("cancel"));
    assert!(!ledger.pause(job).await.expect("pause"), "it was given up");
    assert_eq!(ledger.state(job).await.expect("state"), Some(JobState::Cancelled));
}
