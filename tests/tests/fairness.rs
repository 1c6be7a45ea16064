//! Several jobs on one fleet: a small one that comes late is not stuck behind a huge one, and a paused one makes room.

use std::path::Path;
use trawl_tests::{
    images,
    programs::{run, tiny_model},
    scene::{Scene, job_id},
};

/// A folder with so many files, by hard links to a few.
fn many(dir: &Path, count: usize) {
    const KINDS: usize = 20;
    std::fs::create_dir_all(dir).unwrap();
    for number in 0..count {
        let path = dir.join(format!("{number:05}.png"));
        match number {
            n if n < KINDS => std::fs::write(path, images::png(n as u32, 16, 16)).unwrap(),
            n => std::fs::hard_link(dir.join(format!("{:05}.png", n % KINDS)), path).unwrap(),
        }
    }
}

/// Submits a folder into an output of its name, with default flags.
fn submit(scene: &Scene, folder: &str) -> String {
    let out = format!("s3://trawl/{}/{folder}", scene.name);
    let mut command = scene.trawl(&["submit", folder, "--out", &out, "--queue", &scene.name, "--model"]);
    job_id(run(command.arg(tiny_model())))
}

#[test]
fn a_small_job_that_comes_second_is_done_before_a_fifth_of_a_huge_one() {
    let scene = Scene::new("fair");
    many(&scene.dir.path().join("huge"), 50_000);
    many(&scene.dir.path().join("small"), 100);
    let huge = submit(&scene, "huge");
    let small = submit(&scene, "small");
    assert_eq!(scene.status(&huge)["batches_planned"], 196);
    let _worker = scene.worker(&[]);
    let done = scene.wait_complete(&small);
    assert_eq!(done["images_ok"], 100);
    let meanwhile = scene.status(&huge);
    let share = meanwhile["batches_done"].as_f64().unwrap() / 196.0;
    assert!(share < 0.2, "the huge job was at {share} when the small one was done");

    // Paused, it gives its place up; resumed, it loses nothing.
    run(&mut scene.trawl(&["pause", &huge])).expect(0);
    scene.queue_is_empty();
    let paused = scene.status(&huge);
    assert_eq!(paused["state"], "paused");
    assert!(paused["batches_done"].as_u64().unwrap() < 196);
    let refused = run(&mut scene.trawl(&["resume", &small])).expect(1);
    assert!(refused.stderr.contains("complete"), "{}", refused.stderr);
    run(&mut scene.trawl(&["resume", &huge])).expect(0);
    let done = scene.wait_complete(&huge);
    assert_eq!((&done["images_ok"], &done["batches_done"]), (&50_000.into(), &196.into()));
    let out = format!("s3://trawl/{}/huge", scene.name);
    let verified = run(&mut scene.trawl(&["verify", &out, "--output", "json"])).expect(0).json();
    assert_eq!(verified["complete"], true);
    scene.queue_is_empty();
}
