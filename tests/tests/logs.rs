//! The JSON log of real workers on bad days: each line that concerns a batch says which one.
//!
//! Known messages are provoked and their fields compared; and no warning of the pipeline is without them, whatever it
//! says.

use serde_json::Value;
use trawl_tests::{
    http_faults::{HttpFaults, Misdeed, Rule},
    programs::{Running, run, tiny_model},
    proxy::{Fault, Proxy},
    scene::{PATIENCE, Scene, job_id},
};

const JSON: &[&str] = &["--log-format", "json", "--prefetch", "1"];

/// The lines with this message.
fn lines(worker: &Running, message: &str) -> Vec<Value> {
    let log = worker.log();
    let lines =
        log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}")));
    lines.filter(|line| line["message"] == message).collect()
}

/// What concerns no single batch.
const OF_NO_BATCH: &[&str] = &[
    "cannot replace the connection",
    "failpoints are set; this process is made to fail",
    "subscription lost",
    "not subscribed, trying again",
];

/// Every warning of the pipeline, and of what it calls, names job and batch.
fn all_named(worker: &Running, job: &str) {
    for line in worker.log().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let message = line["message"].as_str().unwrap_or_default();
        let warns = matches!(line["level"].as_str(), Some("WARN" | "ERROR"));
        if warns
            && !OF_NO_BATCH.contains(&message)
            && message != "failpoints are set; this process is made to fail"
        {
            assert_eq!(line["job.id"], job, "{line}");
            assert!(line["batch.number"].is_u64(), "{line}");
        }
    }
}

#[test]
fn each_line_of_a_batch_says_which_one() {
    let scene = Scene::new("logs");
    // Three batches of four; in the order of their names.
    scene.bucket.upload_images(&scene.input(), 12);
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "4"])));

    // The first worker dies over its first batch.
    let mut doomed = scene.worker_with(JSON, &[("TRAWL_FAILPOINTS", "settle.put.before=kill@1")]);
    let _killed = doomed.wait(PATIENCE);
    all_named(&doomed, &job);
    let [reached] = &lines(&doomed, "failpoint reached")[..] else { panic!("{}", doomed.log()) };
    let first = reached["batch.number"].as_u64().expect("a number");

    // The second one finds it, meets a store that is busy over one image of batch 1 or 2, and fails one attempt.
    let endpoint = scene.stack.get("AWS_ENDPOINT_URL");
    let front = HttpFaults::before(endpoint, 5);
    let images = scene.bucket.keys(&scene.input());
    let busy = if first == 2 { 1 } else { 2 };
    front.set([Rule::new(Misdeed::SlowDown).methods(&["GET"]).path(&images[busy * 4]).times(8)]);
    let url = front.url(endpoint);
    let variables = [("AWS_ENDPOINT_URL", url.as_str()), ("TRAWL_FAILPOINTS", "fetch.error=error@1")];
    let worker = scene.worker_with(JSON, &variables);
    scene.assert_exact(&job, 3, 12);
    all_named(&worker, &job);
    let alone = lines(&worker, "a batch came back without a word; it is worked on alone");
    assert!(alone.iter().any(|line| line["batch.number"] == first), "{}", worker.log());
    let [failed] = &lines(&worker, "a batch was not completed")[..] else { panic!("{}", worker.log()) };
    assert_eq!(failed["outcome"], "retried");
    let retries = lines(&worker, "still failing, trying again");
    assert!(!retries.is_empty(), "the store was not busy for long enough: {}", worker.log());
    for line in retries {
        assert_eq!(
            (&line["target"], &line["batch.number"]),
            (&"trawl_common::retry".into(), &busy.into()),
            "{line}"
        );
    }
}

#[test]
fn a_ledger_that_is_away_is_said_of_each_batch() {
    let scene = Scene::new("logs-ledger");
    scene.bucket.upload_images(&scene.input(), 8);
    let direct = scene.stack.get("TRAWL_REDIS_URL");
    let proxy = Proxy::before(direct);
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "2"])));
    let (url, points) = (proxy.url(direct), "settle.complete.before=pause:1s@1");
    let variables = [("TRAWL_REDIS_URL", url.as_str()), ("TRAWL_FAILPOINTS", points)];
    // The second batch is claimed while the first one waits for its commit.
    let worker = scene.worker_with(&["--log-format", "json", "--prefetch", "2"], &variables);
    worker.wait_for_log("failpoint reached", PATIENCE);
    proxy.set(Fault::Reset);
    worker.wait_for_log("still failing, trying again", PATIENCE);
    proxy.heal();
    scene.assert_exact(&job, 4, 8);
    all_named(&worker, &job);
}
