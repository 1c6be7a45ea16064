//! The monitor's first page: how soon after a cold start it is there, and how much has to be fetched until it shows.
//!
//! Beside a Redis with a thousand jobs of ten thousand batches, none of which the page may wait for. In a test binary
//! of its own, so that nothing else of it runs meanwhile.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use trawl_tests::{
    programs::Running,
    scene::{PATIENCE, Scene},
    wait,
    web::{Monitor, monitor_command, try_ask},
};

/// What is promised of a release build is kept by the debug build that runs here.
const FIRST_PAGE: Duration = Duration::from_millis(100);

/// Of the page, all its files and the first answers of the API, as they come from the socket.
const FIRST_LOAD_BYTES: usize = 300_000;

/// Starts of which the best counts.
const COLD_STARTS: usize = 7;

#[test]
fn the_first_page_is_small_and_there_at_once_beside_a_thousand_large_jobs() {
    const JOBS: u64 = 1000;
    let scene = Scene::new("thousand");
    let client = redis::Client::open(scene.stack.get("TRAWL_REDIS_URL")).expect("a URL");
    let mut link = client.get_connection().expect("a connection");
    let mut fill = redis::pipe();
    for n in 0..JOBS {
        let job = format!("{}-{n}", scene.name);
        let meta = format!("trawl:{{{job}}}:meta");
        let state = if n % 20 == 0 { "running" } else { "complete" };
        fill.cmd("HSET")
            .arg(&meta)
            .arg(&[
                ("open", "1"),
                ("state", state),
                ("out", "s3://trawl/none"),
                ("queue", "none"),
                ("plan_complete", "1"),
                ("images_planned", "2560000"),
                ("batches_planned", "10000"),
                ("done", "5000"),
                ("ok", "1280000"),
            ])
            .ignore();
        fill.cmd("HSET").arg(&meta).arg("created").arg(1_700_000_000_000_u64 + n).ignore();
        fill.cmd("SETBIT").arg(format!("trawl:{{{job}}}:done")).arg(9_999).arg(1).ignore();
        fill.cmd("ZADD").arg("trawl:jobs").arg(1_700_000_000_000_u64 + n).arg(&job).ignore();
    }
    fill.query::<()>(&mut link).expect("Redis takes them");
    // The best of several: what a busy machine adds to one start is not the monitor's.
    let starts: Vec<Duration> = (0..COLD_STARTS).map(|_| first_page_from_cold(&scene)).collect();
    let best = starts.iter().min().expect("several starts");
    let monitor = Monitor::start(&mut monitor_command(scene.stack, None), scene.dir.path());
    let began = Instant::now();
    let sums = wait::until("all of them", PATIENCE, || {
        let sums = monitor.get("/api/overview");
        (sums["jobs"]["running"].as_u64()? + sums["jobs"]["complete"].as_u64()? >= JOBS).then_some(sums)
    });
    let known = began.elapsed();
    let asked = Instant::now();
    let list = monitor.get("/api/jobs?limit=500");
    let listed = asked.elapsed();
    assert_eq!(list["jobs"].as_array().map(Vec::len), Some(500));
    let bytes = first_load(&monitor);
    eprintln!(
        "first page of {COLD_STARTS} cold starts {starts:?}, {bytes} bytes until it shows; all {JOBS} jobs {known:?}, \
         a list of 500 {listed:?}: {sums}"
    );
    assert!(*best < FIRST_PAGE, "the first page after {best:?} at best: {starts:?}");
    assert!(bytes < FIRST_LOAD_BYTES, "{bytes} bytes until the first page shows");
}

/// From the start of the process to the last byte of its first page, which is asked for until it is answered.
fn first_page_from_cold(scene: &Scene) -> Duration {
    let listen = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let listen = listen.expect("a port").to_string();
    let mut command = monitor_command(scene.stack, None);
    command.env("TRAWL_MONITOR_LISTEN", &listen);
    let began = Instant::now();
    let _monitor = Running::start(&mut command, scene.dir.path());
    loop {
        match try_ask(&listen, "/") {
            Some(page) => {
                let took = began.elapsed();
                assert_eq!(page.status, 200, "{}", page.text());
                return took;
            }
            // Shorter than what is measured; the kernel refuses at once.
            None => std::thread::sleep(Duration::from_millis(1)),
        }
        assert!(began.elapsed() < PATIENCE, "the monitor does not answer");
    }
}

/// What a browser without a cache gets until the page of jobs shows: the page, every file that it or one of those
/// names, the list of jobs and the sums, with their heads.
fn first_load(monitor: &Monitor) -> usize {
    let bytes = |path: &str| {
        let answer = monitor.ask("GET", path, &[], "");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        (answer.head.len() + 4 + answer.body.len(), String::from_utf8(answer.body).expect("UTF-8"))
    };
    let (mut total, page) = bytes("/");
    let mut open: Vec<String> = named(&page, "/assets/");
    let mut loaded = BTreeSet::new();
    while let Some(name) = open.pop() {
        if loaded.insert(name.clone()) {
            let (size, text) = bytes(&format!("/assets/{name}"));
            total += size;
            // Modules that are loaded for one page alone count too: which of them it is, is not asked here.
            open.extend(named(&text, "\"./"));
        }
    }
    for needed in ["app.js", "app.css", "jobs.js", "chart.js", "icon.svg"] {
        assert!(loaded.contains(needed), "{needed} is not among {loaded:?}");
    }
    total + bytes("/api/overview").0 + bytes("/api/jobs?limit=100").0
}

/// The names that stand behind `before` in a text.
fn named(text: &str, before: &str) -> Vec<String> {
    let ends = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    text.split(before).skip(1).filter_map(|rest| rest.split(ends).next()).map(str::to_owned).collect()
}
