//! Connections to RabbitMQ that die or fall silent, and a Redis that is slow and forgets its scripts.

use super::ran;
use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    time::{Duration, Instant},
};
use trawl_common::broker::reconnects::Lost;
use trawl_tests::{
    programs::{make_model, run, tiny_model},
    proxy::{Direction, Fault, Proxy},
    scene::{PATIENCE, Scene, job_id},
    wait,
};

/// Heartbeats of a second: a peer that is silent for two of them is dead.
const HEARTBEAT: &str = "heartbeat=1";

/// A heartbeat may just have been sent, two are missed, and then the connection is made again.
const NOTICED: Duration = Duration::from_secs(10);

const HTTP: [&str; 4] = ["--http", "127.0.0.1:0", "--prefetch", "2"];

fn amqp(scene: &Scene) -> (Proxy, String) {
    let direct = scene.stack.get("TRAWL_AMQP_URL");
    let proxy = Proxy::before(direct);
    let url = format!("{}?{HEARTBEAT}", proxy.url(direct));
    (proxy, url)
}

#[test]
fn a_half_open_connection_is_noticed_within_a_few_heartbeats() {
    let scene = Scene::new("half-open");
    scene.bucket.upload_images(&scene.input(), 48);
    let slow = make_model(&["--work", "8"]);
    let (proxy, url) = amqp(&scene);
    let worker = scene.worker_with(&HTTP, &[("TRAWL_AMQP_URL", &url)]);
    let job = job_id(run(&mut scene.submit(&slow, &["--batch-size", "4"])));
    scene.wait_parts(2);
    let before = proxy.accepted();
    proxy.half_open_all();
    let began = Instant::now();
    wait::until("a new connection", PATIENCE, || (proxy.accepted() > before).then_some(()));
    assert!(began.elapsed() < NOTICED, "noticed after {:?}", began.elapsed());
    scene.assert_exact(&job, 12, 48);
    scene.queue_is_empty();
    assert!(worker.metric("trawl_redeliveries_total") >= 1.0, "what it held was delivered again");
    assert!(worker.metric("trawl_amqp_reconnects_total{reason=\"heartbeat\"}") >= 1.0);
}

#[test]
fn an_ack_from_before_a_reset_acks_nothing() {
    let scene = Scene::new("stale");
    scene.bucket.upload_images(&scene.input(), 48);
    let slow = make_model(&["--work", "8"]);
    let (proxy, url) = amqp(&scene);
    // Time for the new session to get deliveries of its own, whose tags begin at 1 again.
    let points = "settle.ack.before=pause:4s@2";
    let worker = scene.worker_with(&HTTP, &[("TRAWL_AMQP_URL", &url), ("TRAWL_FAILPOINTS", points)]);
    let job = job_id(run(&mut scene.submit(&slow, &["--batch-size", "4"])));
    worker.wait_for_log("failpoint reached", PATIENCE);
    let before = proxy.accepted();
    proxy.reset_all();
    wait::until("a new connection", PATIENCE, || (proxy.accepted() > before).then_some(()));
    worker.wait_for_log("the delivery could not be settled", PATIENCE);
    // Had the old tag acked a new delivery, its batch would never be done.
    scene.assert_exact(&job, 12, 48);
    scene.queue_is_empty();
    assert!(worker.metric("trawl_redeliveries_total") >= 1.0);
}

#[test]
fn a_broker_that_resets_every_connection_for_a_while_is_waited_for() {
    let scene = Scene::new("resets");
    scene.bucket.upload_images(&scene.input(), 40);
    let slow = make_model(&["--work", "4"]);
    let (proxy, url) = amqp(&scene);
    let mut worker = scene.worker_with(&HTTP, &[("TRAWL_AMQP_URL", &url)]);
    let job = job_id(run(&mut scene.submit(&slow, &["--batch-size", "4"])));
    scene.wait_parts(1);
    proxy.set(Fault::Reset);
    let before = proxy.accepted();
    wait::until("three attempts", PATIENCE, || (proxy.accepted() >= before + 3).then_some(()));
    proxy.set(Fault::Refuse);
    assert!(worker.http("/readyz").starts_with("503"), "not ready without a broker");
    assert!(worker.is_running());
    proxy.heal();
    scene.assert_exact(&job, 10, 40);
    scene.queue_is_empty();
    assert!(worker.http("/readyz").starts_with("200"));
    let series = |reason: &str| format!("trawl_amqp_reconnects_total{{reason=\"{reason}\"}}");
    let again = |reason: &str| worker.metric(&series(reason));
    let counted: Vec<f64> = Lost::ALL.map(|lost| again(lost.name())).into();
    // The subscription's, and the publisher's where that was needed.
    assert!(again("io") + again("other") >= 1.0, "{counted:?}");
    assert!(worker.http("/startupz").starts_with("200"), "it has not started anew");
}

/// One command in Redis's inline form, past any proxy; its one-line answer.
fn redis(url: &str, command: &str) -> String {
    let rest = url.strip_prefix("redis://").unwrap();
    let (credentials, place) = rest.rsplit_once('@').unwrap_or(("", rest));
    let mut stream = TcpStream::connect(place.split('/').next().unwrap()).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut say = |text: &str| {
        stream.write_all(format!("{text}\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        answers.read_line(&mut answer).unwrap();
        answer.trim().to_owned()
    };
    if let Some((_, password)) = credentials.split_once(':') {
        assert_eq!(say(&format!("AUTH {password}")), "+OK");
    }
    say(command)
}

#[test]
fn a_slow_redis_that_forgets_its_scripts_costs_only_time() {
    const DELAY: Duration = Duration::from_millis(100);
    let scene = Scene::new("redis");
    scene.bucket.upload_images(&scene.input(), 48);
    let direct = scene.stack.get("TRAWL_REDIS_URL");
    let proxy = Proxy::before(direct);
    // 200 ms there and back.
    proxy.set(Fault::Latency { direction: Direction::Both, delay: DELAY, jitter: DELAY / 10 });
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "4"])));
    let url = proxy.url(direct);
    let worker = scene.worker_with(&["--http", "127.0.0.1:0"], &[("TRAWL_REDIS_URL", &url)]);
    scene.wait_parts(3);
    assert_eq!(redis(direct, "SCRIPT FLUSH SYNC"), "+OK");
    assert!(scene.parts().len() < 12, "flushed too late to prove anything");
    scene.assert_exact(&job, 12, 48);
    assert_eq!((ran(&worker, "put"), ran(&worker, "decode")), (12, 48), "nothing was done twice");
    assert_eq!(worker.metric("trawl_batches_total{outcome=\"retried\"}"), 0.0);
}

#[test]
fn a_redis_that_resets_every_connection_holds_only_the_commits() {
    let scene = Scene::new("redis-away");
    scene.bucket.upload_images(&scene.input(), 40);
    let direct = scene.stack.get("TRAWL_REDIS_URL");
    let proxy = Proxy::before(direct);
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "4"])));
    let (url, points) = (proxy.url(direct), "settle.complete.before=pause:1s@3");
    let variables = [("TRAWL_REDIS_URL", url.as_str()), ("TRAWL_FAILPOINTS", points)];
    let worker = scene.worker_with(&["--http", "127.0.0.1:0"], &variables);
    worker.wait_for_log("failpoint reached", PATIENCE);
    proxy.set(Fault::Reset);
    let before = proxy.accepted();
    wait::until("five attempts", PATIENCE, || (proxy.accepted() >= before + 5).then_some(()));
    assert!(scene.parts().len() < 10, "too late to prove anything");
    proxy.heal();
    scene.assert_exact(&job, 10, 40);
    assert_eq!(ran(&worker, "put"), 10, "nothing was done twice");
}
