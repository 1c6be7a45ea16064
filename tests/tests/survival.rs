//! Workers that die, stop and wake up: what their batches become, with real processes and real signals.

use std::{os::unix::process::ExitStatusExt, time::Duration};
use trawl_common::{error_code::ErrorCode, results::row::Outcome};
use trawl_tests::{
    images,
    programs::{Running, make_model, program, run},
    rows,
    scene::{PATIENCE, Scene, job_id},
    wait,
};

const WHITE: [u8; 3] = [255; 3];

/// A killer may take so many workers with it before it is a row.
const MAX_DEATHS: usize = 6;

/// Starts workers again that have died, as a supervisor does, until `done`; gives the number of deaths.
fn supervise(scene: &Scene, flags: &[&str], workers: usize, mut done: impl FnMut() -> bool) -> usize {
    let start = || Running::start(&mut scene.worker_command(flags), scene.dir.path());
    let mut fleet: Vec<Running> = (0..workers).map(|_| start()).collect();
    let mut deaths = 0;
    wait::until("the end of the job", PATIENCE * 2, || {
        for worker in &mut fleet {
            if !worker.is_running() {
                let status = worker.wait(PATIENCE);
                assert_eq!(status.signal(), Some(libc::SIGSEGV), "{}", worker.log());
                deaths += 1;
                *worker = start();
            }
        }
        done().then_some(())
    });
    deaths
}

#[test]
fn an_image_that_kills_its_workers_costs_one_row_and_nobody_else() {
    const IMAGES: u32 = 2_000;
    const KILLER: u32 = 777;
    let scene = Scene::new("killer");
    scene.bucket.upload((0..IMAGES).map(|i| {
        let bytes = if i == KILLER { images::plain(WHITE, 40, 30) } else { images::png(i, 40, 30) };
        (format!("{}img_{i:05}.png", scene.input()), bytes)
    }));
    let model = make_model(&["--crash-for-white"]);
    let job = job_id(run(&mut scene.submit(&model, &[])));
    let mut looks = 0;
    let deaths = supervise(&scene, &[], 2, || {
        looks += 1;
        // Each look is a process; the workers need the cores.
        looks % 10 == 0 && scene.status(&job)["state"] == "complete"
    });
    assert!((1..=MAX_DEATHS).contains(&deaths), "{deaths} workers died");
    let status = scene.status(&job);
    assert_eq!((&status["images_ok"], &status["images_failed"]), (&1_999.into(), &1.into()), "{status}");
    assert_eq!(status["errors"]["crashed_worker"], 1, "{status}");
    scene.assert_keys(IMAGES as usize);
    let failed: Vec<_> = scene
        .bucket
        .rows(&scene.out())
        .into_iter()
        .filter_map(|row| match row.outcome {
            Outcome::Failed { code, message } => Some((row.key, code, message)),
            Outcome::Ok(_) | Outcome::OkTruncated(_) => None,
        })
        .collect();
    let [(key, code, message)] = &failed[..] else { panic!("one: {failed:?}") };
    assert!(key.ends_with("img_00777.png"), "{key}");
    assert_eq!(*code, ErrorCode::CrashedWorker, "{message}");
    assert_eq!(scene.dead_letters(), 0);
    assert!(scene.bucket.keys(&format!("{}/_trawl/solo/", scene.out())).is_empty(), "journals are closed");
    scene.queue_is_empty();
}

#[test]
fn a_stopped_worker_holds_nothing_up_and_does_no_harm_when_it_wakes() {
    const IMAGES: u32 = 48;
    let scene = Scene::new("zombie");
    scene.bucket.upload_images(&scene.input(), IMAGES);
    let slow = make_model(&["--work", "40"]);
    // It is stopped before its second put, not within: the store may lock an object that is being written. What it has
    // in hand stays its own, which is one batch, and a claimed one; only the tail can take it.
    let url = patient_url(&scene, 60);
    let variables = [("TRAWL_FAILPOINTS", "settle.put.before=pause:20s@2"), ("TRAWL_AMQP_URL", &url)];
    let flags = ["--micro-batch", "4", "--prefetch", "1", "--http", "127.0.0.1:0"];
    let mut stopped = scene.worker_with(&flags, &variables);
    let job = job_id(run(&mut scene.submit(&slow, &["--batch-size", "4"])));
    stopped.wait_for_log("failpoint reached", PATIENCE);
    stopped.signal(libc::SIGSTOP);
    assert!(scene.parts().len() < 10, "stopped too late to prove anything");
    let helper = scene.worker(&["--reclaim-after", "2", "--http", "127.0.0.1:0"]);
    let status = scene.wait_complete(&job);
    assert_eq!(status["images_ok"], IMAGES);
    assert!(helper.metric("trawl_reclaims_total") >= 1.0, "the tail was taken over");
    let before: Vec<_> = scene.parts().iter().map(|key| scene.bucket.get(key)).collect();
    stopped.signal(libc::SIGCONT);
    let conflicts = || {
        ["self", "other"]
            .map(|winner| stopped.metric(&format!("trawl_commit_conflicts_total{{outcome=\"{winner}\"}}")))
            .iter()
            .sum::<f64>()
    };
    wait::until("the sleeper's own parts", PATIENCE, || (conflicts() >= 1.0).then_some(()));
    scene.queue_is_empty();
    let after: Vec<_> = scene.parts().iter().map(|key| scene.bucket.get(key)).collect();
    assert!(before == after, "a part was changed after the job was complete");
    scene.assert_exact(&job, 12, IMAGES as usize);
    stopped.signal(libc::SIGTERM);
    assert_eq!(stopped.wait(PATIENCE).code(), Some(0), "{}", stopped.log());
}

/// The broker's URL with a heartbeat of so many seconds.
fn patient_url(scene: &Scene, seconds: u16) -> String {
    format!("{}?heartbeat={seconds}", scene.stack.get("TRAWL_AMQP_URL"))
}

#[test]
fn what_a_stopped_worker_was_sent_and_never_began_comes_back_with_the_heartbeats() {
    let scene = Scene::new("sent");
    scene.bucket.upload_images(&scene.input(), 24);
    let url = patient_url(&scene, 2);
    let variables = [("TRAWL_FAILPOINTS", "settle.put.before=pause:600s@2"), ("TRAWL_AMQP_URL", &url)];
    let stopped = scene.worker_with(&["--prefetch", "4"], &variables);
    let model = make_model(&[] as &[&str]);
    let job = job_id(run(&mut scene.submit(&model, &["--batch-size", "2"])));
    stopped.wait_for_log("failpoint reached", PATIENCE);
    stopped.signal(libc::SIGSTOP);
    // This one takes nothing over by itself.
    let _other = scene.worker(&["--reclaim-after", "0"]);
    scene.assert_exact(&job, 12, 24);
    assert_eq!(scene.dead_letters(), 0);
}

#[test]
fn a_second_sigterm_gives_the_work_back_at_once_and_counts_as_nobodys_death() {
    let scene = Scene::new("twice");
    scene.bucket.upload_images(&scene.input(), 16);
    // A pass of seconds.
    let slow = make_model(&["--work", "400"]);
    let job = job_id(run(&mut scene.submit(&slow, &["--batch-size", "4"])));
    let mut hasty = scene.worker(&["--micro-batch", "4", "--grace", "600"]);
    wait::until("work in hand", PATIENCE, || hasty.log().contains("model ready").then_some(()));
    hasty.signal(libc::SIGTERM);
    hasty.wait_for_log("finishing what is in flight", PATIENCE);
    hasty.signal(libc::SIGTERM);
    assert_eq!(hasty.wait(Duration::from_secs(20)).code(), Some(0), "{}", hasty.log());
    let next = scene.worker(&[]);
    scene.assert_exact(&job, 4, 16);
    assert!(!next.log().contains("came back without a word"), "{}", next.log());
}

#[test]
fn an_embedded_run_that_is_killed_by_an_image_gets_past_it_when_it_is_repeated() {
    const IMAGES: u32 = 40;
    let dir = tempfile::tempdir().unwrap();
    images::folder(&dir.path().join("in"), IMAGES);
    std::fs::write(dir.path().join("in/img_00017.png"), images::plain(WHITE, 40, 30)).unwrap();
    let model = make_model(&["--crash-for-white"]);
    let mut deaths = 0;
    loop {
        let mut command = program("trawl-worker");
        command.current_dir(dir.path()).args(["run", "in", "--out", "out", "--batch-size", "8", "--model"]);
        let ended = run(command.arg(&model));
        if ended.code() == 0 {
            break;
        }
        assert_eq!(ended.status.signal(), Some(libc::SIGSEGV), "{}", ended.stderr);
        deaths += 1;
        assert!(deaths <= MAX_DEATHS, "{}", ended.stderr);
    }
    assert!(deaths > 0);
    let rows = rows::of_folder(&dir.path().join("out"));
    let failed: Vec<_> = rows.iter().filter(|row| matches!(row.outcome, Outcome::Failed { .. })).collect();
    assert_eq!((rows.len(), failed.len()), (IMAGES as usize, 1));
    assert!(failed[0].key.ends_with("img_00017.png"), "{failed:?}");
}
