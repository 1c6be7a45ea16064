//! `trawl run`: a whole job in one process, on real files, without servers.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tempfile::TempDir;
use trawl_common::{error_code::ErrorCode, results::row::Outcome};
use trawl_tests::{
    images,
    programs::{Running, make_model, program, run, tiny_model},
    rows, wait,
};

struct Job {
    dir: TempDir,
}

impl Job {
    fn new(count: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        images::folder(&dir.path().join("photos"), count);
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, out: &str) -> Command {
        let mut command = program("trawl");
        command
            .current_dir(self.dir.path())
            .args(["run", "photos", "--out", out, "--model"])
            .arg(tiny_model());
        command
    }
}

fn keys(out: &Path) -> BTreeSet<String> {
    let rows = rows::of_folder(out);
    let keys: BTreeSet<String> = rows.iter().map(|row| row.key.clone()).collect();
    assert_eq!(keys.len(), rows.len(), "a key twice");
    keys
}

#[test]
fn a_folder_becomes_rows_and_a_second_run_does_nothing() {
    let job = Job::new(30);
    let first = run(job.command("out").args(["--batch-size", "8", "--output", "json"])).expect(0).json();
    assert_eq!(first["state"], "complete");
    assert_eq!(first["images_ok"], 30);
    assert_eq!(first["images_computed"], 30);
    assert_eq!(first["batches_done"], 4);
    assert!(job.path("out/_SUCCESS").is_file());
    let keys = keys(&job.path("out"));
    assert_eq!(keys.len(), 30);
    // The folder as it was given plus the path below it.
    assert!(keys.contains("photos/img_00007.png"), "{keys:?}");
    for row in rows::of_folder(&job.path("out")) {
        assert_eq!((row.width, row.height), (Some(40), Some(30)));
        let Outcome::Ok(_) = row.outcome else { panic!("{row:?}") };
    }

    let part = job.path("out/part-00000000.parquet");
    let before = std::fs::metadata(&part).unwrap().modified().unwrap();
    let again = run(job.command("out").args(["--batch-size", "8"])).expect(0);
    assert!(again.stderr.contains("nothing to do"), "{}", again.stderr);
    assert_eq!(std::fs::metadata(&part).unwrap().modified().unwrap(), before);
}

#[test]
fn a_killed_run_goes_on_and_ends_with_the_same_rows() {
    let job = Job::new(120);
    // Some 25 ms an image: a run of seconds, so that it can be killed in its middle.
    let model = make_model(&["--work", "2"]);
    let flags = ["--batch-size", "4", "--threads", "1", "--micro-batch", "1"];
    let command = |out: &str| {
        let mut command = program("trawl");
        command
            .current_dir(job.dir.path())
            .args(["run", "photos", "--out", out, "--model"])
            .arg(&model)
            .args(flags);
        command
    };
    let parts = |out: &str| {
        let entries = std::fs::read_dir(job.path(out)).into_iter().flatten().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("part-")).count()
    };
    let _undisturbed = run(&mut command("straight")).expect(0);
    {
        let mut killed = Running::start(&mut command("killed"), job.dir.path());
        wait::until("five parts", Duration::from_secs(60), || (parts("killed") >= 5).then_some(()));
        killed.signal(libc::SIGKILL);
        let _status = killed.wait(Duration::from_secs(10));
    }
    let before = parts("killed");
    assert!(before < 30 && !job.path("killed/_SUCCESS").exists(), "{before} of 30 parts: killed too late");
    let resumed = run(command("killed").args(["--output", "json"])).expect(0).json();
    assert_eq!(resumed["images_computed"], 120 - 4 * before);
    assert_eq!(resumed["images_ok"], 120);
    assert_eq!(rows::of_folder(&job.path("killed")), rows::of_folder(&job.path("straight")));
}

#[test]
fn broken_files_cost_a_row_each() {
    let job = Job::new(5);
    let write = |name: &str, bytes: &[u8]| std::fs::write(job.path("photos").join(name), bytes).unwrap();
    let good = images::png(1, 64, 64);
    write("a_empty.png", b"");
    write("b_html.jpg", b"<html><body>403 Forbidden</body></html>");
    write("c_cut.png", &good[..good.len() / 2]);
    // A PNG header that asks for 100,000 x 100,000 pixels.
    write("d_bomb.png", &images::png_claiming(100_000, 100_000));
    write("notes.txt", b"not listed: no image by its name");
    let ended = run(job.command("out").args(["--output", "json", "--strict"])).expect(3).json();
    assert_eq!((&ended["images_ok"], &ended["images_failed"]), (&5.into(), &4.into()));
    let failures: Vec<_> = rows::of_folder(&job.path("out"))
        .into_iter()
        .filter_map(|row| match row.outcome {
            Outcome::Failed { code, message } => Some((row.key, code, message)),
            Outcome::Ok(_) | Outcome::OkTruncated(_) => None,
        })
        .collect();
    let expected = [
        ("photos/a_empty.png", ErrorCode::Empty),
        ("photos/b_html.jpg", ErrorCode::NotAnImage),
        ("photos/c_cut.png", ErrorCode::Truncated),
        ("photos/d_bomb.png", ErrorCode::TooManyPixels),
    ];
    let found: Vec<_> = failures.iter().map(|(key, code, _)| (key.as_str(), *code)).collect();
    assert_eq!(found, expected, "{failures:?}");
    assert!(failures.iter().all(|(_, _, message)| !message.is_empty()));
}

#[test]
fn bad_input_is_one_clear_line_and_leaves_nothing() {
    let job = Job::new(1);
    std::fs::create_dir(job.path("empty")).unwrap();
    std::fs::write(job.path("junk.pt"), b"junk").unwrap();
    let model = tiny_model().to_str().unwrap();
    let cases: [(&[&str], i32, &str); 6] = [
        (&["missing", "--model", model], 4, "missing"),
        (&["empty", "--model", model], 4, "no image"),
        (&["photos", "--model", "nowhere.pt"], 2, "nowhere.pt"),
        (&["photos", "--model", "junk.pt"], 2, "export.py"),
        (&["photos", "--model", model, "--batch-size", "0"], 2, "--batch-size"),
        (&["ftp://x", "--model", model], 2, "s3://"),
    ];
    for (arguments, code, words) in cases {
        let ended = run(program("trawl")
            .current_dir(job.dir.path())
            .arg("run")
            .args(arguments)
            .args(["--out", "out"]));
        let ended = ended.expect(code);
        assert!(ended.stderr.contains(words), "{arguments:?}: {}", ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        assert!(!job.path("out").exists(), "{arguments:?} left something behind");
    }
}

#[test]
fn the_output_of_another_job_is_refused() {
    let job = Job::new(3);
    let _first = run(&mut job.command("out")).expect(0);
    let other = run(job.command("out").args(["--topk", "2"])).expect(2);
    assert!(other.stderr.contains("topk") && other.stderr.contains("--out"), "{}", other.stderr);
    assert_eq!(keys(&job.path("out")).len(), 3);
}

#[test]
fn a_signal_stops_gently_and_says_how_to_go_on() {
    let job = Job::new(400);
    let flags = ["--batch-size", "2", "--threads", "1"];
    for (signal, code, part) in [(libc::SIGINT, 130, 2), (libc::SIGTERM, 143, 20)] {
        let mut running = Running::start(job.command("out").args(flags), job.dir.path());
        wait::until("another part", Duration::from_secs(60), || {
            job.path(&format!("out/part-{part:08}.parquet")).is_file().then_some(())
        });
        running.signal(signal);
        assert_eq!(running.wait(Duration::from_secs(30)).code(), Some(code), "{}", running.log());
        assert!(running.log().contains("run the same command again"), "{}", running.log());
    }
    let _resumed = run(job.command("out").args(flags)).expect(0);
    assert_eq!(keys(&job.path("out")).len(), 400);
}

#[test]
fn the_worker_says_what_it_is_and_what_is_wrong() {
    let job = Job::new(1);
    let worker =
        |arguments: &[&str]| run(program("trawl-worker").current_dir(job.dir.path()).args(arguments));
    let help = worker(&["--help"]).expect(0);
    for words in ["--queue", "--device", "--prefetch", "check-model", "Examples:"] {
        assert!(help.stdout.contains(words), "{words} is not in {}", help.stdout);
    }
    let model = tiny_model().to_str().unwrap();
    let check = worker(&["check-model", model, "--output", "json"]).expect(0).json();
    assert_eq!((&check["outputs"], &check["device"]), (&1000.into(), &"cpu".into()));
    let cases: [(&[&str], &str); 5] = [
        (&["--queue", "a b"], "queue name"),
        (&["--prefetch", "0"], "--prefetch"),
        (&["check-model", "nowhere.pt"], "nowhere.pt"),
        (&["check-model", model, "--device", "cuda:7"], "cuda"),
        (&["run", "photos", "--model", model, "--out", "out", "--precision", "fp16"], "fp32"),
    ];
    for (arguments, words) in cases {
        let ended = worker(arguments).expect(2);
        assert!(ended.stderr.contains(words), "{arguments:?}: {}", ended.stderr);
    }
    assert!(!job.path("out").exists());
}
