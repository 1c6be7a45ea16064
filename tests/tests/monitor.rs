//! The monitor beside a real fleet: numbers move, images show, what was given up is taken up, and secrets stay secret.
//!
//! One after the other: one of them empties the Redis that all share.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use trawl_common::{
    batch::Message,
    broker::{Broker, Disposition, rabbit::RabbitBroker},
};
use trawl_tests::{
    programs::{make_model, run, tiny_model},
    scene::{PATIENCE, Scene, job_id},
    stack::Stack,
    wait,
    web::{Monitor, monitor_command},
};

const TOKEN: &str = "canary-token-5c1f9a77e2";

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passwords of the stack's services, and the token.
fn secrets(stack: &Stack) -> Vec<String> {
    let mut secrets = vec![TOKEN.to_owned()];
    for name in ["TRAWL_AMQP_URL", "TRAWL_REDIS_URL", "RABBITMQ_MANAGEMENT_URL"] {
        let url = stack.get(name);
        secrets.push(url.to_owned());
        let login = url.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@')).map(|(login, _)| login);
        let password = login.and_then(|login| login.split_once(':')).map(|(_, password)| password.to_owned());
        // `guest` is a word of many texts.
        secrets.extend(password.filter(|password| password.len() > 8));
    }
    secrets
}

/// What every path answers.
fn everything(monitor: &Monitor, job: &str) -> String {
    let paths = [
        "/",
        "/metrics",
        "/livez",
        "/readyz",
        "/api/overview",
        "/api/jobs",
        "/api/workers",
        "/api/queues",
        &format!("/api/jobs/{job}"),
        &format!("/api/jobs/{job}/failures"),
        &format!("/api/jobs/{job}/gallery"),
        "/api/jobs/none",
        "/api/events?topics=none",
        "/nowhere",
    ];
    paths.map(|path| monitor.ask("GET", path, &[], "").text()).join("\n")
}

fn assert_secret(text: &str, secrets: &[String]) {
    for secret in secrets {
        assert!(!text.contains(secret.as_str()), "a secret is in what was said");
    }
}

#[test]
fn a_job_is_seen_from_its_first_batch_to_long_after_redis_was_emptied() {
    const IMAGES: u32 = 120;
    let _alone = one_at_a_time();
    let scene = Scene::new("monitor");
    scene.bucket.upload_images(&scene.input(), IMAGES);
    scene.bucket.upload([(format!("{}broken.png", scene.input()), b"no image".to_vec())]);
    let monitor = Monitor::start(&mut monitor_command(scene.stack, Some(TOKEN)), scene.dir.path());
    // Some seconds on the quickest machine: events come once a second at most.
    let slow = make_model(&["--work", "60"]);
    let worker = scene.worker(&["--micro-batch", "4"]);
    let job = job_id(run(&mut scene.submit(&slow, &["--batch-size", "8"])));

    // Numbers move, by events alone.
    wait::until("the job at the monitor", PATIENCE, || {
        (monitor.ask("GET", &format!("/api/jobs/{job}"), &[], "").status == 200).then_some(())
    });
    let mut events = monitor.events(&format!("overview,jobs,workers,job:{job}"));
    let mut seen = Vec::new();
    let last = events.until("job", PATIENCE, |told| {
        seen.push(told["batches_done"].as_u64().expect("a count"));
        told["state"] == "complete"
    });
    seen.dedup();
    assert!(seen.len() >= 3 && seen.is_sorted(), "{seen:?}");
    assert_eq!((&last["images_ok"], &last["images_failed"]), (&IMAGES.into(), &1.into()));
    assert_eq!(last["source"], "redis");
    let told =
        events.until("workers", PATIENCE, |told| !told["workers"].as_array().expect("a list").is_empty());
    let ours = |worker: &&serde_json::Value| worker["queues"][0] == scene.name.as_str();
    let shown = told["workers"].as_array().and_then(|workers| workers.iter().find(ours)).expect("our worker");
    assert_eq!(
        (&shown["silent"], &shown["draining"], &shown["device"]),
        (&false.into(), &false.into(), &"cpu".into())
    );
    assert!(
        shown["memory_bytes"].as_u64().expect("bytes") > 10 << 20 && shown["busy"]["decode"].is_f64(),
        "{shown}"
    );
    drop(events);
    wait::until("the lane's figures from the management API", PATIENCE, || {
        let queues = monitor.get("/api/queues");
        let lane = queues["queues"].as_array()?.iter().find(|lane| lane["queue"] == scene.name.as_str())?;
        (queues["management"]["ok"] == true && lane["consumers"] == 1 && lane["unacked"] == 0).then_some(())
    });
    let metrics = monitor.ask("GET", "/metrics", &[], "").text();
    assert!(metrics.contains(&format!("trawl_queue_consumers{{queue=\"{}\"}} 1", scene.name)), "{metrics}");

    images_show(&monitor, &job);

    // A worker that ends takes itself out.
    worker.signal(libc::SIGTERM);
    wait::until("an empty fleet", PATIENCE, || {
        let workers = monitor.get("/api/workers");
        workers["workers"]
            .as_array()?
            .iter()
            .all(|worker| worker["queues"][0] != scene.name.as_str())
            .then_some(())
    });
    assert_secret(&everything(&monitor, &job), &secrets(scene.stack));

    flush(scene.stack);
    let forgotten = wait::until("the job from its output", PATIENCE, || {
        let shown = monitor.get(&format!("/api/jobs/{job}"));
        (shown["source"] == "bucket" && shown["detail"]["finished_unix_ms"].is_u64()).then_some(shown)
    });
    assert_eq!((&forgotten["state"], &forgotten["images_ok"]), (&"complete".into(), &IMAGES.into()));
    assert_eq!(forgotten["detail"]["spec"]["batch_size"], 8);
    images_show(&monitor, &job);
    let listed = monitor.get("/api/jobs");
    assert!(listed["jobs"].as_array().expect("a list").iter().any(|listed| listed["job"] == job.as_str()));
    assert_secret(&monitor.running.log(), &secrets(scene.stack));
    drop(monitor);

    // One that never saw it finds it below a place.
    let mut command = monitor_command(scene.stack, None);
    let monitor =
        Monitor::start(command.args(["--outputs", &format!("s3://trawl/{}", scene.name)]), scene.dir.path());
    let found = wait::until("the job below --outputs", PATIENCE, || {
        monitor.get("/api/jobs")["jobs"]
            .as_array()?
            .iter()
            .find(|listed| listed["job"] == job.as_str())
            .cloned()
    });
    assert_eq!((&found["source"], &found["state"]), (&"bucket".into(), &"complete".into()));
    assert_eq!(monitor.get("/api/overview")["read_only"], true);
}

/// The gallery has a row an image, and each image a thumbnail but the broken one.
fn images_show(monitor: &Monitor, job: &str) {
    let gallery = wait::until("the whole gallery", PATIENCE, || {
        let gallery = monitor.get(&format!("/api/jobs/{job}/gallery?limit=200"));
        (gallery["complete"] == true).then_some(gallery)
    });
    let rows = gallery["rows"].as_array().expect("rows");
    assert_eq!(
        (rows.len(), &gallery["total_rows"], &gallery["cursor"]),
        (121, &121.into(), &serde_json::Value::Null)
    );
    let sure: Vec<f64> = rows.iter().filter_map(|row| row["confidence"].as_f64()).collect();
    assert!(sure.len() == 120 && sure.is_sorted(), "the least certain first");
    for row in rows.iter().step_by(10).chain(rows.last()) {
        let path = format!("/api/jobs/{job}/thumbnail/{}/{}?size=128", row["batch"], row["row"]);
        let answer = monitor.ask("GET", &path, &[], "");
        if row["status"] == "ok" {
            assert_eq!(
                (answer.status, answer.header("content-type")),
                (200, Some("image/jpeg")),
                "{}",
                answer.head
            );
            let image = image_of(&answer.body);
            assert_eq!(image, (40, 30), "{row}");
        } else {
            assert_eq!(answer.status, 422, "{}", answer.text());
            assert!(answer.json()["error"].is_string());
        }
    }
    let failures = monitor.get(&format!("/api/jobs/{job}/failures"));
    assert_eq!(
        (failures["rows"].as_array().map(Vec::len), &failures["rows"][0]["code"]),
        (Some(1), &"not_an_image".into())
    );
}

/// Width and height of a JPEG, out of its frame header.
fn image_of(jpeg: &[u8]) -> (u32, u32) {
    assert_eq!((&jpeg[..2], &jpeg[jpeg.len() - 2..]), (&[0xff, 0xd8][..], &[0xff, 0xd9][..]), "a whole JPEG");
    let mut at = 2;
    loop {
        let (marker, length) = (jpeg[at + 1], usize::from(jpeg[at + 2]) << 8 | usize::from(jpeg[at + 3]));
        if marker == 0xc0 {
            let two = |place: usize| u32::from(jpeg[at + place]) << 8 | u32::from(jpeg[at + place + 1]);
            return (two(7), two(5));
        }
        at += 2 + length;
    }
}

fn flush(stack: &Stack) {
    let client = redis::Client::open(stack.get("TRAWL_REDIS_URL")).expect("a URL");
    let mut link = client.get_connection().expect("a connection");
    redis::cmd("FLUSHALL").exec(&mut link).expect("it is emptied");
}

/// Takes one message of the lane and gives it up.
fn bury_one(scene: &Scene) {
    let lane = scene.name.parse().expect("a lane's name");
    let burying = async {
        let broker = RabbitBroker::connect(scene.stack.get("TRAWL_AMQP_URL")).await?;
        let mut consumer = broker.consume(&lane, 1).await?;
        let delivery = consumer.next().await?;
        assert!(matches!(Message::parse(&delivery.body), Ok(Message::Batch(_))));
        delivery
            .settle(Disposition::DeadLetter { reason: "the <img src=x onerror=alert(1)> failed".into() })
            .await?;
        consumer.cancel().await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(burying).expect("RabbitMQ answers");
}

#[test]
fn a_dead_letter_is_retried_by_who_has_the_token_and_the_job_completes() {
    let _alone = one_at_a_time();
    let scene = Scene::new("letters");
    scene.bucket.upload_images(&scene.input(), 12);
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "4"])));
    bury_one(&scene);
    let monitor = Monitor::start(&mut monitor_command(scene.stack, Some(TOKEN)), scene.dir.path());
    let _worker = scene.worker(&[]);
    scene.wait_parts(2);
    let letter = wait::until("the letter at the monitor", PATIENCE, || {
        let shown = monitor.ask("GET", &format!("/api/jobs/{job}"), &[], "");
        shown.json()["detail"]["dead"].as_array()?.first().cloned()
    });
    assert_eq!(letter["reason"], "the <img src=x onerror=alert(1)> failed", "raw: the page escapes it");
    let retry = format!("/api/jobs/{job}/dead/{}/retry", letter["id"].as_str().expect("an id"));
    for headers in
        [&[][..], &[("Authorization", "Bearer wrong-wrong-wrong")], &[("Origin", "http://evil.example")]]
    {
        let refused = monitor.ask("POST", &retry, headers, "");
        assert_eq!(refused.status, 403, "{}", refused.text());
    }
    assert_eq!(scene.dead_letters(), 1, "nothing was changed");
    assert_eq!(scene.status(&job)["state"], "running");
    let done = monitor.post(&retry, TOKEN);
    assert_eq!((done.status, &done.json()["done"]), (200, &1.into()));
    let complete = scene.wait_complete(&job);
    assert_eq!(complete["images_ok"], 12);
    wait::until("no letter at the monitor", PATIENCE, || {
        let shown = monitor.get(&format!("/api/jobs/{job}"));
        (shown["state"] == "complete" && shown["detail"]["dead"].as_array()?.is_empty()).then_some(())
    });
    let log = monitor.running.log();
    assert!(log.contains("a change was made") && log.contains("a change was refused"), "{log}");
    assert_secret(&log, &secrets(scene.stack));
}

#[test]
fn a_cancel_from_the_monitor_is_a_cancel() {
    let _alone = one_at_a_time();
    let scene = Scene::new("cancel");
    scene.bucket.upload_images(&scene.input(), 8);
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "4"])));
    let monitor = Monitor::start(&mut monitor_command(scene.stack, Some(TOKEN)), scene.dir.path());
    let done = monitor.post(&format!("/api/jobs/{job}/cancel"), TOKEN);
    assert_eq!((done.status, &done.json()["marked"]), (200, &true.into()), "{}", done.text());
    assert_eq!(scene.status(&job)["state"], "cancelled");
    assert!(scene.bucket.has(&format!("{}/_trawl/_CANCELLED", scene.out())));
    assert_eq!(monitor.get(&format!("/api/jobs/{job}"))["state"], "cancelled");
}

#[test]
fn services_that_refuse_or_are_away_are_named_and_their_passwords_are_not() {
    let _alone = one_at_a_time();
    let scene = Scene::new("canary");
    let mut command = monitor_command(scene.stack, Some(TOKEN));
    let port = |name: &str| {
        let url = scene.stack.get(name);
        url.rsplit(':').next().and_then(|tail| tail.split('/').next()).expect("a port").to_owned()
    };
    let amqp = format!("amqp://canary-user:canary-amqp@127.0.0.1:{}", port("TRAWL_AMQP_URL"));
    let management = format!("http://canary-user:canary-api@127.0.0.1:{}", port("RABBITMQ_MANAGEMENT_URL"));
    command.env("TRAWL_AMQP_URL", amqp).env("TRAWL_MANAGEMENT_URL", management);
    // Nothing listens on port 1.
    command.env("TRAWL_REDIS_URL", "redis://:canary-redis@127.0.0.1:1").arg("-vv");
    let began = Instant::now();
    let monitor = Monitor::start(&mut command, scene.dir.path());
    let page = monitor.ask("GET", "/", &[], "");
    assert_eq!(page.status, 200);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "the page does not wait for services: {:?}",
        began.elapsed()
    );
    let services = wait::until("three answers", PATIENCE, || {
        let services = monitor.get("/api/overview")["services"].clone();
        let asked = |name: &str| {
            services[name]["reason"].as_str().is_some_and(|reason| !reason.contains("not asked"))
        };
        ["redis", "rabbitmq", "management"].iter().all(|name| asked(name)).then_some(services)
    });
    assert!(
        services["redis"]["reason"].as_str().is_some_and(|reason| reason.contains("127.0.0.1:1")),
        "{services}"
    );
    assert!(
        services["management"]["reason"].as_str().is_some_and(|reason| reason.contains("401")),
        "{services}"
    );
    let refused = monitor.ask("POST", "/api/login", &[], "{\"token\": \"canary-wrong-guess\"}");
    assert_eq!(refused.status, 403);
    let login = format!("{{\"token\": \"{TOKEN}\"}}");
    assert_eq!(monitor.ask("POST", "/api/login", &[], &login).status, 200);
    let secrets =
        ["canary-amqp", "canary-redis", "canary-api", "canary-wrong-guess", TOKEN].map(str::to_owned);
    let said = everything(&monitor, "some-job") + &refused.text() + &monitor.running.log();
    assert_secret(&said, &secrets);
}

#[test]
fn bad_usage_is_said_with_the_next_step() {
    let _alone = one_at_a_time();
    let scene = Scene::new("usage");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().expect("an address").to_string();
    for (arguments, token, said) in [
        (vec!["--listen", taken.as_str()], None, "choose another --listen"),
        (vec![], Some("short"), "openssl rand"),
        (vec!["--token-file", "/nowhere/token"], None, "/nowhere/token"),
        (vec!["--outputs", "ftp://x/y"], None, "s3://"),
        (
            vec!["--management-url", "http://canary:canary-secret@127.0.0.1:port"],
            None,
            "http://user:password@host:15672",
        ),
        (vec!["--management-url", "http://u:canary-secret@rabbit.example:15672"], None, "--insecure"),
    ] {
        let mut command = monitor_command(scene.stack, token);
        let ended = run(command.args(&arguments)).expect(2);
        assert!(ended.stderr.contains(said), "{arguments:?}: {}", ended.stderr);
        assert!(!ended.stderr.contains("canary-secret"), "{}", ended.stderr);
    }
}
