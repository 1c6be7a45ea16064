//! The routes as a browser and a script meet them, on seams in memory.

use super::{guard::Peer, router};
use crate::{
    management::QueueFigures,
    output,
    testing::{Output, Scene, TOKEN},
    watch::{dead::tests::bury, poll},
};
use axum::{
    Router,
    body::{Body, to_bytes},
    http::{HeaderMap, Request, Response, StatusCode, header},
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;
use tower_service::Service;
use trawl_common::{
    batch::BatchNumber,
    broker::Broker,
    fleet::{Fleet, WorkerReport},
    job::JobId,
    ledger::{BatchOutcome, JobRecord, JobState, Ledger},
    storage::Stores,
};

const HERE: &str = "http://127.0.0.1:8265";

async fn ask(app: &Router, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response<Body> {
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, "127.0.0.1:8265");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(Body::from(body.to_owned())).unwrap();
    request.extensions_mut().insert(Peer("127.0.0.1".parse().unwrap()));
    app.clone().call(request).await.unwrap()
}

async fn json_of(answer: Response<Body>) -> (u16, HeaderMap, Value) {
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let bytes = to_bytes(answer.into_body(), 1 << 24).await.unwrap();
    (status, headers, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

async fn get(app: &Router, path: &str) -> (u16, HeaderMap, Value) {
    json_of(ask(app, "GET", path, &[], "").await).await
}

async fn post(app: &Router, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let (status, _, json) = json_of(ask(app, "POST", path, headers, "").await).await;
    (status, json)
}

/// A job at work in the ledger, and polled.
async fn scene() -> (Scene, Router) {
    let scene = Scene::new(Stores::in_memory());
    let job: JobId = "job-1".parse().unwrap();
    let (out, queue) = ("s3://bucket/out".to_owned(), "default".to_owned());
    scene.ledger.open(&JobRecord { job: job.clone(), out, queue, created_unix_ms: 1000 }).await.unwrap();
    scene.ledger.plan_complete(&job, 10, 100).await.unwrap();
    scene.ledger.claim(&job, BatchNumber(3), "worker-1").await.unwrap();
    let one = BatchOutcome { images_ok: 10, ..BatchOutcome::default() };
    scene.ledger.complete(&job, BatchNumber(0), &one).await.unwrap();
    let report =
        WorkerReport { worker: "worker-1".into(), images_per_second: 7.5, ..WorkerReport::default() };
    scene.fleet.report(&report).await.unwrap();
    bury(&scene.broker, "job-1", 7).await;
    let figures =
        |name: &str, ready, unacked| QueueFigures { name: name.into(), ready, unacked, ..Default::default() };
    let lanes = [figures("trawl.default", 4, 2), figures("trawl.default.retry", 1, 0)];
    scene.management.0.lock().unwrap().extend(lanes);
    poll::look_at_jobs(&scene.monitor, 0).await;
    poll::look_at_queues(&scene.monitor).await;
    let app = router(scene.monitor.clone());
    (scene, app)
}

#[tokio::test]
async fn everything_known_is_answered_in_the_contracts_words() {
    let (_scene, app) = scene().await;
    let (status, _, overview) = get(&app, "/api/overview").await;
    assert_eq!(status, 200);
    assert_eq!(
        (&overview["jobs"]["running"], &overview["workers"], &overview["dead"]),
        (&json!(1), &json!(1), &json!(1))
    );
    assert_eq!((&overview["read_only"], &overview["csrf"]), (&json!(false), &Value::Null));
    assert_eq!(overview["services"]["redis"], json!({"ok": true, "reason": null}));
    assert_eq!(overview["images_per_second"], 7.5);
    let (_, _, jobs) = get(&app, "/api/jobs?limit=5").await;
    assert_eq!((jobs["jobs"][0]["job"].as_str(), &jobs["jobs"][0]["images_ok"]), (Some("job-1"), &json!(10)));
    let (_, _, job) = get(&app, "/api/jobs/job-1").await;
    assert_eq!(
        (&job["detail"]["in_flight"][0]["batch"], &job["detail"]["in_flight"][0]["worker"]),
        (&json!(3), &json!("worker-1"))
    );
    let letter = &job["detail"]["dead"][0];
    assert_eq!((&letter["batch"], &letter["reason"]), (&json!(7), &json!("the <b>model</b> failed")), "raw");
    let (_, _, workers) = get(&app, "/api/workers").await;
    assert_eq!(
        (&workers["workers"][0]["silent"], workers["workers"][0]["last_heartbeat_ms"].is_u64()),
        (&json!(false), true)
    );
    let (_, _, queues) = get(&app, "/api/queues").await;
    assert_eq!(queues["management"]["ok"], true);
    let lane = &queues["queues"][0];
    assert_eq!(
        (&lane["ready"], &lane["unacked"], &lane["retry"], &lane["dead"]),
        (&json!(4), &json!(2), &json!(1), &json!(1))
    );
    assert_eq!(
        (&overview["ready"], &overview["unacked"], &job["detail"]["retries"]),
        (&json!(4), &json!(2), &json!(1))
    );
    for (path, expected) in [
        ("/api/jobs/none", 404),
        ("/api/jobs/%3Cimg%3E", 404),
        ("/api/jobs?limit=x", 400),
        ("/nowhere", 404),
        ("/api/jobs/job-1/gallery?order=x", 400),
        ("/api/jobs/job-1/gallery?cursor=x", 400),
        ("/api/jobs/job-1/thumbnail/x/1", 400),
        ("/api/events?topics=x", 400),
    ] {
        let (status, headers, json) = get(&app, path).await;
        assert_eq!(status, expected, "{path}");
        if path != "/api/jobs/job-1/thumbnail/x/1" {
            assert!(json["error"].is_string(), "{path}: {json}");
            assert_eq!(headers[header::CONTENT_TYPE], "application/json", "{path}");
        }
    }
}

#[tokio::test]
async fn every_answer_is_protected() {
    let (_scene, app) = scene().await;
    for path in
        ["/", "/api/jobs", "/metrics", "/nowhere", "/assets/nothing.js", "/livez", "/api/jobs/job-1/gallery"]
    {
        let (_, headers, _) = get(&app, path).await;
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'") && !policy.contains("unsafe"),
            "{policy}"
        );
    }
    let foreign = Request::get("/api/jobs").header(header::HOST, "evil.example").body(Body::empty()).unwrap();
    let answer = app.clone().call(foreign).await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
    let nameless = Request::get("/api/jobs").body(Body::empty()).unwrap();
    assert_eq!(app.clone().call(nameless).await.unwrap().status(), StatusCode::BAD_REQUEST);
    for path in ["/", "/jobs/job-1", "/jobs/job-1/gallery", "/workers", "/queues"] {
        let answer = ask(&app, "GET", path, &[], "").await;
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8", "{path}");
    }
}

#[tokio::test]
async fn nothing_is_changed_without_the_token_and_all_of_it_with() {
    let (scene, app) = scene().await;
    let job: JobId = "job-1".parse().unwrap();
    let (_, _, detail) = get(&app, "/api/jobs/job-1").await;
    let letter = detail["detail"]["dead"][0]["id"].as_str().unwrap().to_owned();
    let retry = format!("/api/jobs/job-1/dead/{letter}/retry");
    for path in [
        "/api/jobs/job-1/cancel",
        "/api/jobs/job-1/pause",
        "/api/jobs/job-1/resume",
        "/api/jobs/job-1/dead/retry",
        &retry,
        &format!("/api/jobs/job-1/dead/{letter}/drop"),
        "/api/logout",
    ] {
        let (status, json) = post(&app, path, &[("origin", HERE)]).await;
        assert_eq!(status, 403, "{path}: {json}");
        assert_eq!(ask(&app, "GET", path, &[], "").await.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    assert_eq!(scene.ledger.state(&job).await.unwrap(), Some(JobState::Running));
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 1);

    let wrong = ask(&app, "POST", "/api/login", &[("origin", HERE)], "{\"token\": \"wrong\"}").await;
    assert_eq!(wrong.status(), StatusCode::FORBIDDEN);
    let long = format!("{{\"token\": \"{}\"}}", "x".repeat(100_000));
    assert_eq!(ask(&app, "POST", "/api/login", &[], &long).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let login = format!("{{\"token\": \"{TOKEN}\"}}");
    let (status, headers, json) =
        json_of(ask(&app, "POST", "/api/login", &[("origin", HERE)], &login).await).await;
    assert_eq!(status, 200);
    let cookie = headers[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned();
    let csrf = json["csrf"].as_str().unwrap().to_owned();
    let session = [("cookie", cookie.as_str()), ("x-trawl-csrf", csrf.as_str()), ("origin", HERE)];
    let overview = json_of(ask(&app, "GET", "/api/overview", &[("cookie", &cookie)], "").await).await.2;
    assert_eq!(overview["csrf"], csrf.as_str());

    let (status, json) = post(&app, &retry, &session).await;
    assert_eq!((status, &json["done"]), (200, &json!(1)), "{json}");
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
    assert_eq!(post(&app, &retry, &session).await.0, 404, "it is gone");
    let (status, json) = post(&app, "/api/jobs/job-1/pause", &session).await;
    assert_eq!((status, &json["state"]), (200, &json!("paused")));
    assert_eq!(scene.ledger.state(&job).await.unwrap(), Some(JobState::Paused));
    assert_eq!(get(&app, "/api/jobs/job-1").await.2["state"], "paused", "shown at once");
    // There is nothing to queue it from.
    let (status, json) = post(&app, "/api/jobs/job-1/resume", &session).await;
    assert_eq!(status, 409);
    assert!(json["error"].as_str().unwrap().contains("no _trawl/job.json"), "{json}");
    let bearer = format!("Bearer {TOKEN}");
    let (status, json) = post(&app, "/api/jobs/job-1/cancel", &[("authorization", &bearer)]).await;
    assert_eq!((status, &json["state"]), (200, &json!("cancelled")));
    assert_eq!(scene.ledger.state(&job).await.unwrap(), Some(JobState::Cancelled));
    assert_eq!(get(&app, "/api/jobs/job-1").await.2["state"], "cancelled", "shown at once");
    assert_eq!(post(&app, "/api/jobs/none/cancel", &session).await.0, 404);
    assert_eq!(post(&app, "/api/logout", &session).await.0, 200);
    assert_eq!(post(&app, "/api/jobs/job-1/cancel", &session).await.0, 403, "signed out");
}

#[tokio::test]
async fn a_job_that_the_ledger_has_forgotten_is_read_from_its_output() {
    let output = Output::new("job-2", 3, 4).await;
    output.finish().await;
    let scene = Scene::new(output.stores.clone());
    let app = router(scene.monitor.clone());
    let record = JobRecord::of(&output.spec);
    scene.ledger.open(&record).await.unwrap();
    scene.ledger.plan_complete(&record.job, 3, 12).await.unwrap();
    poll::look_at_jobs(&scene.monitor, 0).await;
    assert_eq!(get(&app, "/api/jobs/job-2").await.2["source"], "redis");
    scene.ledger.forget(&record.job).await.unwrap();
    poll::look_at_jobs(&scene.monitor, 1).await;
    output::read_due(&scene.monitor).await;
    let (_, _, job) = get(&app, "/api/jobs/job-2").await;
    assert_eq!(
        (&job["source"], &job["state"], &job["images_ok"]),
        (&json!("bucket"), &json!("complete"), &json!(9))
    );
    assert_eq!((&job["model"], &job["detail"]["finished_unix_ms"]), (&json!("tiny"), &json!(5000)));
    assert_eq!(job["errors"], json!({"corrupt": 3}));

    let (_, _, gallery) = get(&app, "/api/jobs/job-2/gallery?limit=4&order=-confidence").await;
    assert_eq!(
        (gallery["rows"].as_array().unwrap().len(), &gallery["complete"], &gallery["total_rows"]),
        (4, &json!(true), &json!(12))
    );
    assert_eq!(
        (&gallery["rows"][0]["label"], &gallery["rows"][0]["status"]),
        (&json!("label 0"), &json!("ok"))
    );
    let next = gallery["cursor"].as_str().unwrap();
    let (_, _, second) =
        get(&app, &format!("/api/jobs/job-2/gallery?limit=4&order=-confidence&cursor={next}")).await;
    assert_ne!(second["rows"][0], gallery["rows"][0]);
    let (_, _, failures) = get(&app, "/api/jobs/job-2/failures?code=corrupt&limit=2").await;
    assert_eq!((failures["rows"].as_array().unwrap().len(), failures["cursor"].is_string()), (2, true));
    assert_eq!(failures["rows"][0]["message"], "<b>broken</b>", "raw");
    assert_eq!(get(&app, "/api/jobs/job-2").await.2["detail"]["labels"], json!([["label 0", 9]]));

    // Its images are not there: one is put, another stays away.
    let png = {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(600, 300).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    output.store.put("photos/1-0.png", png.into()).await.unwrap();
    output.store.put("photos/1-1.png", "no image".into()).await.unwrap();
    let thumbnail = async |place: &str| {
        ask(&app, "GET", &format!("/api/jobs/job-2/thumbnail/{place}?size=64"), &[], "").await
    };
    let found = thumbnail("1/0").await;
    assert_eq!(
        (found.status().as_u16(), &found.headers()[header::CONTENT_TYPE]),
        (200, &"image/jpeg".parse().unwrap())
    );
    let jpeg = to_bytes(found.into_body(), 1 << 20).await.unwrap();
    assert_eq!(image::load_from_memory(&jpeg).unwrap().width(), 64);
    for (place, status) in [("1/1", 422), ("0/0", 404), ("1/99", 404), ("99/0", 404)] {
        assert_eq!(thumbnail(place).await.status().as_u16(), status, "{place}");
    }
}

#[tokio::test]
async fn outputs_of_before_are_found_below_a_place() {
    let output = Output::at("s3://bucket/labels/3", "job-3", 2, 4).await;
    let scene = Scene::new(output.stores.clone());
    let below =
        trawl_common::location::Location::parse("s3://bucket/labels", std::path::Path::new("/")).unwrap();
    output::discover::look_below(&scene.monitor, &below).await;
    let app = router(scene.monitor.clone());
    let (_, _, jobs) = get(&app, "/api/jobs").await;
    let job = &jobs["jobs"][0];
    assert_eq!(
        (&job["source"], &job["batches_done"], &job["state"]),
        (&json!("bucket"), &json!(2), &json!("enqueuing"))
    );
}

#[tokio::test]
async fn a_service_that_is_away_is_said_and_pages_go_on() {
    let (scene, app) = scene().await;
    scene.monitor.known.state().services.redis = crate::watch::Health::bad("gone");
    let (status, _, overview) = get(&app, "/api/overview").await;
    assert_eq!((status, &overview["services"]["redis"]["reason"]), (200, &json!("gone")));
    assert_eq!(get(&app, "/api/jobs").await.2["jobs"][0]["job"], "job-1");
    let metrics = ask(&app, "GET", "/metrics", &[], "").await;
    let text = String::from_utf8(to_bytes(metrics.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap();
    for line in [
        "trawl_monitor_service_up{service=\"redis\"} 0",
        "trawl_monitor_service_up{service=\"rabbitmq\"} 1",
        "trawl_jobs{state=\"running\"} 1",
        "trawl_fleet_workers{state=\"live\"} 1",
        "trawl_fleet_images_per_second 7.5",
        "trawl_build_info{version=",
        "trawl_job_stalled_seconds{queue=\"default\"} 0.0",
        "trawl_queue_messages{queue=\"default\",state=\"unacked\"} 2",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("job-1"), "no job is a label");
}

/// The events of a stream, as they come.
async fn next_event(
    body: &mut (impl futures::Stream<Item = Result<bytes::Bytes, axum::Error>> + Unpin),
) -> Option<(String, Value)> {
    let frame = tokio::time::timeout(Duration::from_secs(30), body.next()).await.ok()??.ok()?;
    let text = String::from_utf8(frame.to_vec()).unwrap();
    let event = text.lines().find_map(|line| line.strip_prefix("event: "))?.to_owned();
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    Some((event, serde_json::from_str(data).unwrap()))
}

#[tokio::test]
async fn what_is_new_is_told_and_only_that() {
    let (scene, app) = scene().await;
    let answer = ask(&app, "GET", "/api/events?topics=jobs,job:job-1", &[], "").await;
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut body = answer.into_body().into_data_stream();
    assert_eq!(next_event(&mut body).await.unwrap().0, "jobs");
    assert_eq!(next_event(&mut body).await.unwrap().0, "job");
    let one = BatchOutcome { images_ok: 10, ..BatchOutcome::default() };
    scene.ledger.complete(&"job-1".parse().unwrap(), BatchNumber(1), &one).await.unwrap();
    poll::look_at_jobs(&scene.monitor, 1).await;
    poll::speak(&scene.monitor).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        // Between them lies the line that says nothing.
        if let Some((event, data)) = next_event(&mut body).await {
            let job = if event == "job" { data } else { data["jobs"][0].clone() };
            assert_eq!(job["images_ok"], 20, "{event}");
            seen.push(event);
        }
    }
    // Four places in this scene.
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(ask(&app, "GET", "/api/events", &[], "").await);
    }
    assert_eq!(ask(&app, "GET", "/api/events", &[], "").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop((open, body));
    let again = async {
        while ask(&app, "GET", "/api/events", &[], "").await.status() != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("a place is free again");
}

/// An hour of polls with pages that listen, and one that does not read: memory stays where it was.
#[tokio::test]
async fn an_hour_of_events_leaves_memory_flat() {
    const WARM_UP: u64 = 600;
    const POLLS: u64 = 3600;
    let (scene, app) = scene().await;
    let mut readers = Vec::new();
    for topics in ["overview,jobs,workers,queues", "jobs,job:job-1", "overview,workers"] {
        let mut body = ask(&app, "GET", &format!("/api/events?topics={topics}"), &[], "")
            .await
            .into_body()
            .into_data_stream();
        readers.push(tokio::spawn(async move {
            let mut events = 0_u64;
            while let Some(Ok(_)) = body.next().await {
                events += 1;
            }
            events
        }));
    }
    let _mute = ask(&app, "GET", "/api/events?topics=overview,jobs", &[], "").await;
    let outcome = BatchOutcome { images_ok: 1, ..BatchOutcome::default() };
    let mut before = 0;
    for second in 0..WARM_UP + POLLS {
        // A new job now and then, progress all the time, workers that come and go.
        let job: JobId = format!("hour-{}", second / 100).parse().unwrap();
        let record = JobRecord {
            job: job.clone(),
            out: format!("s3://bucket/{job}"),
            queue: "default".into(),
            created_unix_ms: second / 100,
        };
        scene.ledger.open(&record).await.unwrap();
        scene.ledger.complete(&job, BatchNumber(second), &outcome).await.unwrap();
        scene.ledger.complete(&"job-1".parse().unwrap(), BatchNumber(10 + second), &outcome).await.unwrap();
        if second % 100 == 99 {
            scene.ledger.forget(&job).await.unwrap();
        }
        let report = WorkerReport {
            worker: format!("w-{}", second % 50),
            images_total: second,
            ..WorkerReport::default()
        };
        scene.fleet.report(&report).await.unwrap();
        poll::look_at_jobs(&scene.monitor, second).await;
        poll::speak(&scene.monitor).await;
        for _ in 0..8 {
            // From the topic to the stream to the reader: all on this one thread.
            tokio::task::yield_now().await;
        }
        if second == WARM_UP {
            before = resident_bytes();
        }
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(scene.monitor.known.state().jobs.len() <= crate::watch::MAX_JOBS);
    scene.monitor.stop.cancel();
    for reader in readers {
        assert!(reader.await.unwrap() > POLLS / 2, "the pages were told");
    }
    // The list of jobs goes on growing to its limit, some kilobytes each; an event kept for each poll would be 500 MB.
    assert!(grown < 24 << 20, "{} MiB more after an hour", grown >> 20);
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
