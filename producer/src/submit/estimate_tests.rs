//! Estimates from what a worker says, and what is made of a worker that fails.

use super::*;
use crate::fixture;
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

/// What a worker says that does 100 images a second.
fn answer() -> serde_json::Value {
    serde_json::json!({
        "model": "m", "device": "cpu", "threads": 2, "micro_batch": 8,
        "sample": {
            "images": 8, "ok": 7, "failed": {"truncated": 1},
            "fetch": {"images_per_second": 4000.0, "requests": 8, "at_once": 32, "bytes": 81920, "seconds": 0.002,
                "counted": true},
        },
        "predicted": {
            "stages": {
                "fetch": {"images_per_second": 4000.0, "cpu_ms_an_image": 0.1},
                "decode": {"images_per_second": 500.0, "cpu_ms_an_image": 4.0},
                "forward": {"images_per_second": 125.0, "cpu_ms_an_image": 16.0},
                "encode": {"images_per_second": 90000.0, "cpu_ms_an_image": 0.01},
            },
            "images_per_second": 100.0, "binding": "forward",
        },
    })
}

fn measured() -> Measured {
    serde_json::from_value(answer()).unwrap()
}

/// A worker that takes what it is given and then does as the script says.
fn worker(dir: &tempfile::TempDir, script: &str) -> PathBuf {
    let path = dir.path().join(WORKER);
    fs::write(&path, format!("#!/bin/sh\ncat > {}/sample\n{script}\n", dir.path().display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

async fn measure(worker: &Path) -> Result<Measured, Stop> {
    let sampling = Sampling { worker, model: Path::new("m.pt"), private_addresses: false };
    sampling.measure(&fixture::spec(), vec![ImageRef::whole("photos/a.jpg", None, 7)]).await
}

#[test]
fn hours_are_images_by_speed_and_workers() {
    let estimate = Estimate::of(measured(), 100_000_000).unwrap();
    assert!((estimate.worker_hours - 1e8 / 100.0 / 3600.0).abs() < 1e-9);
    let hours: Vec<(u32, f64)> = estimate.hours.iter().map(|one| (one.workers, one.hours)).collect();
    assert_eq!(hours.iter().map(|(workers, _)| *workers).collect::<Vec<_>>(), [1, 10, 100]);
    assert!(hours.iter().all(|(n, hours)| (hours * f64::from(*n) - estimate.worker_hours).abs() < 1e-9));
    let mut text = Vec::new();
    estimate.print(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    for part in [
        "8 images: 7 ok, 1 failed (truncated 1)",
        "8 requests with 80 KiB in 0.00 s, up to 32 at once\n",
        "fetch 4000, decode 500, forward 125, encode 90000",
        "100 images/s on a machine like this one (cpu, 2 threads, micro-batch 8); forward binds",
        "277.8 worker-hours",
        "1 worker      11d13h",
        "100 workers    2h46m",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_is_not_counted_is_said_and_no_speed_is_no_estimate() {
    let mut answer = answer();
    answer["sample"]["fetch"]["counted"] = false.into();
    let estimate = Estimate::of(serde_json::from_value(answer.clone()).unwrap(), 5).unwrap();
    let mut text = Vec::new();
    estimate.print(&mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("not in the estimate") && text.contains("less than 0.1 worker-hours"), "{text}");
    answer["predicted"]["images_per_second"] = 0.0.into();
    assert!(Estimate::of(serde_json::from_value(answer).unwrap(), 5).is_err());
}

#[tokio::test]
async fn the_worker_gets_the_sample_and_gives_the_figures() {
    let dir = tempfile::tempdir().unwrap();
    let answering = worker(&dir, &format!("echo 'a note' >&2; echo '{}'", answer()));
    assert_eq!(measure(&answering).await.unwrap().sample.ok, 7);
    let (spec, images) = JobSample::parse(&fs::read(dir.path().join("sample")).unwrap()).unwrap();
    assert_eq!((spec, images[0].key.as_str()), (fixture::spec(), "photos/a.jpg"));
}

#[tokio::test]
async fn a_worker_that_fails_is_quoted_with_a_next_step() {
    let dir = tempfile::tempdir().unwrap();
    for (script, code, words, step) in [
        ("echo 'error: no such layer' >&2; exit 2", 2, "no such layer", "check-model"),
        ("echo 'error: none of the 8 files' >&2; exit 1", 1, "none of the 8", "--include"),
        ("echo 'error: s3://b is slow' >&2; exit 5", 5, "s3://b is slow", "again"),
        ("kill -9 $$", 1, "signal: 9", "hint"),
        ("echo 'no json'", 1, "cannot be read", "--version"),
    ] {
        let stop = measure(&worker(&dir, script)).await.unwrap_err();
        let lines = stop.lines();
        assert_eq!(stop.code, code, "{script}: {lines}");
        assert!(lines.contains(words) && lines.contains(step), "{script}: {lines}");
    }
    let stop = measure(Path::new("/no/such/worker")).await.unwrap_err();
    assert!(stop.message.contains("/no/such/worker"), "{stop:?}");
    assert_eq!(no_worker().code, exit::NOT_FOUND);
}

#[tokio::test]
async fn a_worker_that_is_no_longer_wanted_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600", pid.display());
    let path = worker(&dir, &script);
    let id = {
        let measuring = measure(&path);
        tokio::pin!(measuring);
        let begun = async {
            loop {
                match fs::read_to_string(&pid) {
                    Ok(text) => break text.trim().parse::<i32>().unwrap(),
                    Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                }
            }
        };
        tokio::select! {
            ended = &mut measuring => panic!("it ended: {ended:?}"),
            id = begun => id,
        }
    };
    // Dropped: it is killed, and taken from the list of processes a moment later.
    let gone = async {
        // SAFETY: signal 0 asks whether the process is there.
        while unsafe { libc::kill(id, 0) } == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.expect("it is killed");
}
