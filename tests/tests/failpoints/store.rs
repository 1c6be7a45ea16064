//! A bucket that cuts puts, loses replies, throttles, truncates and crawls.

use super::{batches, conflicts, ran};
use std::time::Duration;
use trawl_common::results::row::{Outcome, Prediction, ResultRow};
use trawl_tests::{
    http_faults::{HttpFaults, Misdeed, Rule},
    programs::{run, tiny_model},
    proxy::{Direction, Fault, Proxy},
    scene::{PATIENCE, Scene, job_id},
    wait,
};

const HTTP: &[&str] = &["--http", "127.0.0.1:0"];

/// A front before the scene's bucket, and the endpoint that leads through it.
fn front(scene: &Scene, seed: u64) -> (HttpFaults, String) {
    let endpoint = scene.stack.get("AWS_ENDPOINT_URL");
    let front = HttpFaults::before(endpoint, seed);
    let url = front.url(endpoint);
    (front, url)
}

/// Each image's name, tag, size and best classes. Probabilities vary in their last digits with the images that
/// share a pass.
fn answers(scene: &Scene) -> Vec<String> {
    let row = |row: ResultRow| {
        let Outcome::Ok(Prediction::Classes(classes)) = &row.outcome else { panic!("{row:?}") };
        let best = classes.first().map(|best| format!("{} {:.4}", best.index, best.probability));
        format!("{:?} {:?} {} {best:?}", row.key.rsplit('/').next(), row.etag, row.size)
    };
    let mut answers: Vec<String> = scene.bucket.rows(&scene.out()).into_iter().map(row).collect();
    answers.sort();
    answers
}

#[test]
fn a_put_that_is_cut_in_its_body_leaves_nothing_and_is_repeated() {
    let scene = Scene::new("cut");
    scene.bucket.upload_images(&scene.input(), 12);
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "4"])));
    let endpoint = scene.stack.get("AWS_ENDPOINT_URL");
    let proxy = Proxy::before(endpoint);
    let url = proxy.url(endpoint);
    let points = "settle.put.before=pause:2s@1";
    let flags = ["--http", "127.0.0.1:0", "--prefetch", "1"];
    let worker = scene.worker_with(&flags, &[("AWS_ENDPOINT_URL", &url), ("TRAWL_FAILPOINTS", points)]);
    worker.wait_for_log("failpoint reached", PATIENCE);
    // The headers of a put are some 1000 bytes, a part is some 7000.
    proxy.set(Fault::CutAfter { direction: Direction::Up, bytes: 3000 });
    let (connections, bytes) = (proxy.accepted(), proxy.bytes().up);
    wait::until("three puts to be cut", PATIENCE, || (proxy.accepted() >= connections + 3).then_some(()));
    assert!(proxy.bytes().up >= bytes + 3000, "cut before anything was sent");
    assert_eq!(scene.parts(), Vec::<String>::new(), "half a part is to be seen");
    proxy.heal();
    scene.assert_exact(&job, 3, 12);
    assert!(scene.bucket.get(&scene.parts()[0]).len() > 3000, "too small to have been cut in its body");
    assert_eq!(ran(&worker, "decode"), 12, "the put was repeated, not the batch");
}

#[test]
fn a_put_whose_reply_is_lost_is_recognised_as_ones_own() {
    let scene = Scene::new("own");
    scene.bucket.upload_images(&scene.input(), 24);
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "4"])));
    let (front, url) = front(&scene, 1);
    let puts = |misdeed| Rule::new(misdeed).methods(&["PUT"]).path("/out/part-").times(2);
    front.set([puts(Misdeed::LoseReply), puts(Misdeed::FalseError)]);
    let worker = scene.worker_with(HTTP, &[("AWS_ENDPOINT_URL", &url)]);
    scene.assert_exact(&job, 6, 24);
    let struck = front.struck(Misdeed::LoseReply) + front.struck(Misdeed::FalseError);
    assert_eq!(struck, 4);
    // The repeat of a lost put may lose its reply too.
    let own = conflicts(&worker, "self");
    assert!((2..=4).contains(&own), "{own} of four puts were recognised");
    assert_eq!(conflicts(&worker, "other"), 0);
    assert_eq!((ran(&worker, "decode"), batches(&worker, "done")), (24, 6));
}

#[test]
fn a_store_that_throttles_all_the_time_costs_only_time() {
    let scene = Scene::new("slow-down");
    scene.bucket.upload_images(&scene.input(), 40);
    let (front, url) = front(&scene, 29);
    front.set([Rule::new(Misdeed::SlowDown).share(0.3)]);
    let mut submit = scene.submit(tiny_model(), &["--batch-size", "8"]);
    let job = job_id(run(submit.env("AWS_ENDPOINT_URL", &url)));
    let worker = scene.worker_with(HTTP, &[("AWS_ENDPOINT_URL", &url)]);
    scene.assert_exact(&job, 5, 40);
    let throttled = worker.metric("trawl_store_throttled_total");
    let (struck, requests) = (front.struck(Misdeed::SlowDown), front.requests());
    // The answer to a HEAD has no body, and so no word of throttling.
    assert!(throttled >= 1.0 && throttled <= struck as f64, "{throttled} counted of {struck}");
    assert!(struck * 10 > requests * 2, "{struck} of {requests} is not 30 %");
    assert_eq!(batches(&worker, "retried"), 0, "no batch needed a second attempt");
    assert_eq!(conflicts(&worker, "self") + conflicts(&worker, "other"), 0);
}

#[test]
fn truncated_objects_are_read_again_and_never_become_garbage() {
    let scene = Scene::new("truncated");
    scene.bucket.upload_images(&scene.input(), 24);
    let (front, url) = front(&scene, 30);
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "8"])));
    front.set([Rule::new(Misdeed::Truncate).share(0.4).methods(&["GET"]).path("/in/img_")]);
    let _worker = scene.worker_with(HTTP, &[("AWS_ENDPOINT_URL", &url)]);
    scene.assert_exact(&job, 3, 24);
    assert!(front.struck(Misdeed::Truncate) >= 5, "{}", front.struck(Misdeed::Truncate));
    // The same images without any fault.
    let calm = Scene::new("calm");
    calm.bucket.upload_images(&calm.input(), 24);
    let job = job_id(run(&mut calm.submit(tiny_model(), &["--batch-size", "8"])));
    let _worker = calm.worker(&[]);
    calm.assert_exact(&job, 3, 24);
    assert_eq!(answers(&scene), answers(&calm));
}

#[test]
fn one_slow_object_holds_up_its_own_batch_only() {
    const SLOW: Duration = Duration::from_secs(12);
    let scene = Scene::new("one-slow");
    scene.bucket.upload_images(&scene.input(), 24);
    let (front, url) = front(&scene, 31);
    front.set([Rule::new(Misdeed::Delay(SLOW)).path("/in/img_00000").methods(&["GET"]).times(1)]);
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "4"])));
    let _worker = scene.worker_with(&["--prefetch", "2"], &[("AWS_ENDPOINT_URL", &url)]);
    scene.wait_parts(5);
    let first = format!("{}/part-00000000.parquet", scene.out());
    assert!(!scene.parts().contains(&first), "it was not slow, or the others waited for it");
    scene.assert_exact(&job, 6, 24);
}

#[test]
fn a_store_at_a_kilobyte_a_second_is_slow_and_right() {
    let scene = Scene::new("crawl");
    scene.bucket.upload_images(&scene.input(), 8);
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "4"])));
    let endpoint = scene.stack.get("AWS_ENDPOINT_URL");
    let proxy = Proxy::before(endpoint);
    let url = proxy.url(endpoint);
    // The model comes from its own cache, so that the images are what crawls.
    let points = "fetch.before=pause:2s";
    let worker = scene.worker_with(HTTP, &[("AWS_ENDPOINT_URL", &url), ("TRAWL_FAILPOINTS", points)]);
    worker.wait_for_log("failpoint reached", PATIENCE);
    proxy.set(Fault::Rate { direction: Direction::Down, bytes_per_second: 1000 });
    scene.assert_exact(&job, 2, 8);
    assert_eq!(batches(&worker, "retried"), 0);
    let seconds = worker.metric("trawl_stage_duration_seconds_sum{stage=\"fetch\"}");
    // Each waited two seconds for the crawl to begin, and then took another at the least.
    assert!(seconds > 8.0 * 3.0, "{seconds} s in all for eight objects is not slow");
}
