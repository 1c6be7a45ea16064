//! Processes that die between two steps of a batch's life, of a job's end, and of a plan.

use super::{batches, images, ran};
use std::os::unix::process::ExitStatusExt;
use trawl_tests::{
    programs::{run, tiny_model},
    scene::{PATIENCE, Scene, job_id},
};

/// Five batches of eight; the worker dies in its third.
const BATCHES: usize = 5;
const BATCH: u32 = 8;
const IMAGES: usize = 40;
const HTTP: &[&str] = &["--http", "127.0.0.1:0", "--prefetch", "1"];

/// A job whose first worker was killed at `place` of its third batch.
fn killed_at(name: &str, place: &str) -> (Scene, String) {
    let scene = Scene::new(name);
    scene.bucket.upload_images(&scene.input(), IMAGES as u32);
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "8"])));
    let failpoint = format!("{place}=kill@3");
    let mut doomed = scene.worker_with(HTTP, &[("TRAWL_FAILPOINTS", &failpoint)]);
    let status = doomed.wait(PATIENCE);
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{}", doomed.log());
    assert!(doomed.log().contains(place), "killed elsewhere: {}", doomed.log());
    (scene, job)
}

#[test]
fn a_worker_killed_before_the_put_costs_its_batch_again() {
    let (scene, job) = killed_at("before-put", "settle.put.before");
    assert_eq!((scene.parts().len(), &scene.status(&job)["batches_done"]), (2, &2.into()));
    let second = scene.worker(HTTP);
    scene.assert_exact(&job, BATCHES, IMAGES);
    assert_eq!((ran(&second, "decode"), images(&second)), (3 * BATCH, 3 * BATCH), "two done, three to do");
    assert_eq!(second.metric("trawl_redeliveries_total"), 1.0);
}

#[test]
fn a_worker_killed_between_put_and_ledger_costs_no_computation() {
    let (scene, job) = killed_at("before-ledger", "settle.complete.before");
    assert_eq!((scene.parts().len(), &scene.status(&job)["batches_done"]), (3, &2.into()));
    let second = scene.worker(HTTP);
    scene.assert_exact(&job, BATCHES, IMAGES);
    assert_eq!(ran(&second, "decode"), 2 * BATCH, "the third batch was computed again");
    assert_eq!(ran(&second, "put"), 2);
    assert_eq!(images(&second), 3 * BATCH, "it counts what the first one could not");
}

#[test]
fn a_worker_killed_between_ledger_and_ack_counts_nothing_twice() {
    let (scene, job) = killed_at("before-ack", "settle.ack.before");
    assert_eq!((scene.parts().len(), &scene.status(&job)["batches_done"]), (3, &3.into()));
    let second = scene.worker(HTTP);
    scene.assert_exact(&job, BATCHES, IMAGES);
    assert_eq!((ran(&second, "decode"), images(&second)), (2 * BATCH, 2 * BATCH));
    assert!(batches(&second, "skipped") >= 1, "the third batch came again and was nobody's");
}

#[test]
fn a_job_whose_worker_died_between_manifest_and_success_ends() {
    for (place, manifest) in [
        ("settle.complete.after=kill@5", false),
        ("settle.finish.published=kill", false),
        ("finalize.manifest.before=kill", false),
        ("finalize.success.before=kill", true),
        ("finalize.after=kill", true),
    ] {
        let scene = Scene::new("end");
        scene.bucket.upload_images(&scene.input(), IMAGES as u32);
        let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "8"])));
        let mut doomed = scene.worker_with(HTTP, &[("TRAWL_FAILPOINTS", place)]);
        assert_eq!(doomed.wait(PATIENCE).signal(), Some(libc::SIGKILL), "{place}: {}", doomed.log());
        assert_eq!(scene.parts().len(), BATCHES, "{place}");
        assert_eq!(scene.bucket.has(&format!("{}/_trawl/manifest.json", scene.out())), manifest, "{place}");
        let second = scene.worker(HTTP);
        scene.assert_exact(&job, BATCHES, IMAGES);
        assert_eq!(ran(&second, "decode"), 0, "{place}");
    }
}

#[test]
fn a_producer_killed_anywhere_goes_on_with_the_same_numbers() {
    for place in ["plan.durable=kill", "publish.before=kill@3", "publish.after=kill@5"] {
        let scene = Scene::new("producer");
        scene.bucket.upload_images(&scene.input(), IMAGES as u32);
        let mut submit = scene.submit(tiny_model(), &["--batch-size", "8"]);
        let killed = run(submit.env("TRAWL_FAILPOINTS", place));
        assert_eq!(killed.status.signal(), Some(libc::SIGKILL), "{place}: {}", killed.stderr);
        let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "8"])));
        let _worker = scene.worker(HTTP);
        scene.assert_exact(&job, BATCHES, IMAGES);
    }
}

#[test]
fn a_batch_whose_decoder_panics_is_tried_again() {
    let scene = Scene::new("panic");
    scene.bucket.upload_images(&scene.input(), IMAGES as u32);
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "8"])));
    let points = "decode.before=panic@3;settle.put.before=panic@2";
    let worker = scene.worker_with(HTTP, &[("TRAWL_FAILPOINTS", points)]);
    scene.assert_exact(&job, BATCHES, IMAGES);
    assert!(worker.log().contains("panics as told"), "{}", worker.log());
}

#[test]
fn a_failpoint_that_does_not_exist_is_said_at_the_start() {
    let scene = Scene::new("typo");
    let mut command = scene.worker_command(&[]);
    let ended = run(command.env("TRAWL_FAILPOINTS", "settle.put.befor=kill"));
    assert_ne!(ended.code(), 0);
    assert!(ended.stderr.contains("there is no place `settle.put.befor`"), "{}", ended.stderr);
}
