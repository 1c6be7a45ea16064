//! The main job over real servers: RabbitMQ, Redis, S3, the real binaries, and what goes wrong between them.

use std::{path::Path, process::Command};
use trawl_common::results::row::Outcome;
use trawl_tests::{
    images,
    programs::{Ended, Running, make_model, python, run, tiny_model},
    scene::{PATIENCE, Scene, job_id},
    wait,
};

#[test]
fn a_fleet_that_loses_a_worker_ends_with_every_row_once() {
    const IMAGES: u32 = 480;
    let scene = Scene::new("fleet");
    scene.bucket.upload_images(&format!("{}/in/", scene.name), IMAGES);
    // Both wait for work, and some 10 to 100 ms a batch leave time to kill one in its middle.
    let slow = make_model(&["--work", "8"]);
    let steady = scene.worker(&["--micro-batch", "4"]);
    let mut doomed = scene.worker(&["--micro-batch", "4", "--http", "127.0.0.1:0"]);
    let job = job_id(run(&mut scene.submit(&slow, &["--batch-size", "4"])));
    wait::until("a quarter of the parts", PATIENCE, || (scene.parts().len() >= 30).then_some(()));
    assert!(doomed.metric("trawl_batches_total{outcome=\"done\"}") > 0.0, "it has had its share");
    doomed.signal(libc::SIGKILL);
    let _status = doomed.wait(PATIENCE);
    assert!(scene.parts().len() < 120, "killed too late to prove anything");
    let _restarted = scene.worker(&["--micro-batch", "4"]);

    let status = scene.wait_complete(&job);
    assert_eq!(status["images_ok"], IMAGES);
    assert_eq!(status["images_planned"], IMAGES);
    assert_eq!(status["images_failed"], 0);
    assert_eq!((&status["batches_done"], &status["batches_planned"]), (&120.into(), &120.into()));
    assert_eq!(scene.parts().len(), 120);
    scene.assert_keys(IMAGES as usize);
    assert!(scene.bucket.has(&format!("{}/_SUCCESS", scene.out())));
    scene.queue_is_empty();
    drop(steady);

    // From the bucket alone, and with other people's tools.
    let by_out = scene.status(&format!("s3://trawl/{}", scene.out()));
    assert_eq!((&by_out["state"], &by_out["images_ok"]), (&"complete".into(), &IMAGES.into()));
    for key in scene.parts() {
        std::fs::write(scene.dir.path().join(key.rsplit('/').next().unwrap()), scene.bucket.get(&key))
            .unwrap();
    }
    let query = "import duckdb,sys;print(duckdb.sql(\"select count(*), count(distinct key) from \
                 read_parquet('\"+sys.argv[1]+\"/*.parquet') where status='ok' and confidence>0\").fetchone())";
    let counted = run(python().args(["-c", query]).arg(scene.dir.path())).expect(0);
    assert_eq!(counted.stdout.trim(), format!("({IMAGES}, {IMAGES})"));
}

#[test]
fn the_same_submit_resumes_and_then_does_nothing() {
    let scene = Scene::new("again");
    scene.bucket.upload_images(&format!("{}/in/", scene.name), 40);
    let first = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "4"])));
    // Enqueued twice before anybody works on it: duplicates must not become rows.
    let second = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "4"])));
    assert_eq!(first, second);
    let _worker = scene.worker(&[]);
    let status = scene.wait_complete(&first);
    assert_eq!(status["images_ok"], 40);
    scene.assert_keys(40);
    scene.queue_is_empty();

    let third = run(&mut scene.submit(tiny_model(), &["--batch-size", "4"])).expect(0);
    assert!(third.stderr.contains("nothing to do"), "{}", third.stderr);
    assert_eq!(third.stdout.trim(), first);
    let other = run(&mut scene.submit(tiny_model(), &["--batch-size", "5"])).expect(2);
    assert!(other.stderr.contains("batch_size"), "{}", other.stderr);

    let results = run(&mut scene.trawl(&[
        "results",
        &format!("s3://trawl/{}", scene.out()),
        "--limit",
        "3",
        "--output",
        "json",
    ]));
    let lines: Vec<serde_json::Value> =
        results.expect(0).stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["key"], format!("s3://trawl/{}/in/img_00000.png", scene.name));
    assert_eq!(lines[0]["topk"].as_array().unwrap().len(), 5);
}

#[test]
fn sigterm_drains_and_loses_nothing() {
    let scene = Scene::new("drain");
    scene.bucket.upload_images(&format!("{}/in/", scene.name), 200);
    let slow = make_model(&["--work", "4"]);
    let job = job_id(run(&mut scene.submit(&slow, &["--batch-size", "2"])));
    let mut first = scene.worker(&["--micro-batch", "2"]);
    wait::until("some parts", PATIENCE, || (scene.parts().len() >= 5).then_some(()));
    first.signal(libc::SIGTERM);
    assert_eq!(first.wait(PATIENCE).code(), Some(0), "{}", first.log());
    assert!(first.log().contains("drained"), "{}", first.log());
    assert!(scene.parts().len() < 100, "stopped too late to prove anything");
    let _second = scene.worker(&[]);
    assert_eq!(scene.wait_complete(&job)["images_ok"], 200);
    scene.assert_keys(200);
}

#[test]
fn broken_objects_are_rows_with_a_code() {
    let scene = Scene::new("broken");
    let prefix = format!("{}/in/", scene.name);
    scene.bucket.upload_images(&prefix, 6);
    let good = images::png(9, 64, 64);
    scene.bucket.upload([
        (format!("{prefix}x_cut.png"), good[..good.len() / 2].to_vec()),
        (format!("{prefix}x_text.jpg"), b"this is no image".to_vec()),
        (format!("{prefix}x_empty.webp"), Vec::new()),
        (format!("{prefix}odd name+&%20 \u{1f431}'\".png"), good.clone()),
    ]);
    let job = job_id(run(&mut scene.submit(tiny_model(), &[])));
    let _worker = scene.worker(&[]);
    let status = scene.wait_complete(&job);
    assert_eq!((&status["images_ok"], &status["images_failed"]), (&7.into(), &3.into()));
    assert_eq!(status["errors"], serde_json::json!({"empty": 1, "not_an_image": 1, "truncated": 1}));
    scene.assert_keys(10);
    let failures =
        run(&mut scene.trawl(&["failures", &format!("s3://trawl/{}", scene.out()), "--output", "json"]));
    assert_eq!(failures.expect(0).stdout.lines().count(), 3);
    let odd =
        scene.bucket.rows(&scene.out()).into_iter().find(|row| row.key.contains("odd name+&%20")).unwrap();
    assert!(matches!(odd.outcome, Outcome::Ok(_)), "{odd:?}");
}

#[test]
fn a_cancelled_job_is_not_worked_on() {
    let scene = Scene::new("cancel");
    scene.bucket.upload_images(&format!("{}/in/", scene.name), 20);
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "2"])));
    let _cancelled = run(&mut scene.trawl(&["cancel", &job])).expect(0);
    let worker = scene.worker(&["--http", "127.0.0.1:0"]);
    wait::until("its messages to be skipped", PATIENCE, || {
        (worker.metric("trawl_batches_total{outcome=\"skipped\"}") >= 8.0).then_some(())
    });
    assert_eq!(scene.parts(), Vec::<String>::new());
    assert_eq!(scene.status(&job)["state"], "cancelled");
    // Submitting it again takes it up.
    assert_eq!(job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "2"]))), job);
    assert_eq!(scene.wait_complete(&job)["images_ok"], 20);
}

#[test]
fn bad_input_is_one_clear_line_with_its_code_and_leaves_nothing() {
    let scene = Scene::new("bad");
    let model = tiny_model().to_str().unwrap();
    let (input, out) = (format!("s3://trawl/{}/in/", scene.name), format!("s3://trawl/{}", scene.out()));
    let submit = |source: &str, change: &dyn Fn(&mut Command)| {
        let mut command =
            scene.trawl(&["submit", source, "--out", &out, "--model", model, "--queue", &scene.name]);
        change(&mut command);
        run(&mut command)
    };
    let check = |ended: Ended, code: i32, words: &str| {
        let ended = ended.expect(code);
        assert!(ended.stderr.contains(words), "`{words}` is not in: {}", ended.stderr);
        assert!(ended.stderr.lines().count() <= 3 && !ended.stderr.contains("panicked"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("canary"), "a secret: {}", ended.stderr);
        assert_eq!(ended.stdout, "");
        assert_eq!(scene.bucket.keys(&format!("{}/", scene.name)), Vec::<String>::new(), "left behind");
    };
    check(submit("s3://no-such-bucket/x/", &|_| {}), 4, "no-such-bucket");
    check(submit(&input, &|_| {}), 4, "nothing in the bucket begins with it");
    check(
        submit(&input, &|c| {
            c.env("AWS_SECRET_ACCESS_KEY", "canary");
        }),
        2,
        "AWS_ACCESS_KEY_ID",
    );
    check(
        submit(&input, &|c| {
            c.env("TRAWL_AMQP_URL", "amqp://u:canary@127.0.0.1:1");
        }),
        5,
        "TRAWL_AMQP_URL",
    );
    check(
        submit(&input, &|c| {
            c.env("TRAWL_REDIS_URL", "redis://:canary@127.0.0.1:1");
        }),
        5,
        "TRAWL_REDIS_URL",
    );
    let amqp = scene.stack.get("TRAWL_AMQP_URL");
    let host = amqp.rsplit_once('@').unwrap().1;
    check(
        submit(&input, &|c| {
            c.env("TRAWL_AMQP_URL", format!("amqp://u:canary@{host}"));
        }),
        2,
        "password",
    );
    let redis = scene.stack.get("TRAWL_REDIS_URL").rsplit_once('@').unwrap().1;
    check(
        submit(&input, &|c| {
            c.env("TRAWL_REDIS_URL", format!("redis://:canary@{redis}"));
        }),
        2,
        "password",
    );
    let worker = |name: &str, value: &str| run(scene.worker_command(&[]).env(name, value));
    let ended = worker("TRAWL_AMQP_URL", "amqp://u:canary@127.0.0.1:1").expect(5);
    assert!(ended.stderr.contains("127.0.0.1:1") && !ended.stderr.contains("canary"), "{}", ended.stderr);
    let ended = worker("TRAWL_REDIS_URL", "redis://:canary@127.0.0.1:1").expect(5);
    assert!(ended.stderr.contains("127.0.0.1:1") && !ended.stderr.contains("canary"), "{}", ended.stderr);
    let unknown = run(&mut scene.trawl(&["status", "no-such-job"])).expect(4);
    assert!(unknown.stderr.contains("no-such-job"), "{}", unknown.stderr);
}

#[test]
fn a_replaced_model_is_refused() {
    let scene = Scene::new("model");
    scene.bucket.upload_images(&format!("{}/in/", scene.name), 4);
    let key = format!("{}/model.pt", scene.name);
    scene.bucket.upload([(key.clone(), std::fs::read(tiny_model()).unwrap())]);
    let url = format!("s3://trawl/{key}");
    let _job = job_id(run(&mut scene.submit(Path::new(&url), &[])));
    scene.bucket.upload([(key, b"another model".to_vec())]);
    let worker = scene.worker(&[]);
    worker.wait_for_log("it was replaced", PATIENCE);
    assert_eq!(scene.parts(), Vec::<String>::new());
}

/// Two heartbeats of a second each that do not come end a connection: what a pass must take to show that they come.
const MISSED_HEARTBEATS_SECONDS: f64 = 3.0;

#[test]
fn heartbeats_live_through_a_long_forward_pass() {
    // How much work takes so long depends on the machine and on who else uses it: more of it until it does.
    let mut work = 1300;
    let mut busy = pass_between_heartbeats(work);
    while busy < MISSED_HEARTBEATS_SECONDS && work < 20_000 {
        work *= 2;
        busy = pass_between_heartbeats(work);
    }
    assert!(busy >= MISSED_HEARTBEATS_SECONDS, "a pass of {busy} s is too short to miss heartbeats");
}

/// One image through a model of so much work, with a heartbeat a second; gives the seconds of its pass.
fn pass_between_heartbeats(work: u32) -> f64 {
    let scene = Scene::new("slow");
    scene.bucket.upload_images(&format!("{}/in/", scene.name), 1);
    let model = make_model(&["--work", &work.to_string()]);
    let job = job_id(run(&mut scene.submit(&model, &[])));
    let url = scene.stack.get("TRAWL_AMQP_URL");
    let mut command = scene.worker_command(&["--http", "127.0.0.1:0"]);
    command.env("TRAWL_AMQP_URL", format!("{url}?heartbeat=1"));
    let worker = Running::start(&mut command, scene.dir.path());
    worker.wait_for_log("worker ready", PATIENCE);
    scene.wait_complete(&job);
    // A connection that had died would have been delivered again.
    assert_eq!(worker.metric("trawl_redeliveries_total"), 0.0);
    assert_eq!(worker.metric("trawl_batches_total{outcome=\"done\"}"), 1.0);
    assert_eq!(scene.bucket.rows(&scene.out()).len(), 1);
    worker.metric("trawl_stage_duration_seconds_sum{stage=\"forward\"}")
}

#[test]
fn health_and_metrics_are_served() {
    let scene = Scene::new("health");
    let mut worker = scene.worker(&["--http", "127.0.0.1:0"]);
    let get = |path: &str| worker.http(path);
    assert!(get("/livez").starts_with("200"));
    wait::until("readiness", PATIENCE, || get("/readyz").starts_with("200").then_some(()));
    assert!(get("/metrics").contains("trawl_inflight_batches 0"), "{}", get("/metrics"));
    assert!(get("/startupz").starts_with("200"));
    assert!(worker.is_running());
}

#[test]
fn a_worker_that_has_not_started_says_what_it_waits_for() {
    let scene = Scene::new("startup");
    // Takes connections (the kernel does) and never says a word.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut command = scene.worker_command(&["--http", "127.0.0.1:0"]);
    let broker = mute.local_addr().expect("an address");
    command.env("TRAWL_AMQP_URL", format!("amqp://u:canary-password@{broker}?connection_timeout=60000"));
    let worker = Running::start(&mut command, scene.dir.path());
    worker.wait_for_log("http.address=", PATIENCE);
    let said = wait::until("the wait for RabbitMQ", PATIENCE, || {
        let said = worker.http("/startupz");
        (said.starts_with("503") && said.contains("connecting to RabbitMQ")).then_some(said)
    });
    assert!(!said.contains("canary") && !said.contains("127.0.0.1"), "{said}");
    assert!(worker.http("/readyz").starts_with("503 starting"), "{}", worker.http("/readyz"));
    assert!(worker.http("/livez").starts_with("200"), "waiting is no reason to be started again");
    assert!(worker.http("/metrics").contains("trawl_inflight_batches 0"));
}
