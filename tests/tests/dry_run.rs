//! `trawl submit --dry-run --sample`: real programs, real JPEGs, and no servers: an estimate, and nothing else left.

use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tempfile::TempDir;
use trawl_common::planning::contents::packing::Packing;
use trawl_tests::{
    programs::{Ended, Running, program, run, tiny_model},
    repository, wait,
};

/// Each decodes.
const JPEGS: [&str; 4] =
    ["jpeg_420_64x48.jpg", "jpeg_444_64x48.jpg", "jpeg_progressive.jpg", "jpeg_422_37x53.jpg"];

struct Scene {
    dir: TempDir,
}

impl Scene {
    /// With a folder of so many JPEGs.
    fn new(images: usize) -> Self {
        let scene = Self { dir: tempfile::tempdir().unwrap() };
        for folder in ["photos", "tmp", "cache"] {
            std::fs::create_dir(scene.path(folder)).unwrap();
        }
        for n in 0..images {
            std::fs::write(scene.path(&format!("photos/{n:03}.jpg")), jpeg(n)).unwrap();
        }
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A dry run, where no service can be.
    fn command(&self, source: &str, model: &Path, flags: &[&str]) -> Command {
        let mut command = program("trawl");
        command
            .current_dir(self.dir.path())
            .env("TMPDIR", self.path("tmp"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("TRAWL_AMQP_URL", "amqp://127.0.0.1:1")
            .env("TRAWL_REDIS_URL", "redis://127.0.0.1:1")
            .args(["submit", source, "--out", "out", "--dry-run", "--model"])
            .arg(model)
            .args(flags);
        command
    }

    fn dry_run(&self, source: &str, flags: &[&str]) -> Ended {
        run(&mut self.command(source, tiny_model(), flags))
    }

    /// What is beside the cache.
    fn left(&self) -> BTreeSet<String> {
        let names = |dir: &Path| -> Vec<String> {
            let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
            entries.map(|name| name.into_string().unwrap()).collect()
        };
        assert_eq!(names(&self.path("tmp")), Vec::<String>::new(), "nothing temporary is left");
        names(self.dir.path()).into_iter().collect()
    }
}

fn jpeg(n: usize) -> Vec<u8> {
    let name = JPEGS[n % JPEGS.len()];
    std::fs::read(repository().join("worker/tests/golden/images").join(name)).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

#[test]
fn a_sample_becomes_an_estimate_and_nothing_is_written() {
    let scene = Scene::new(24);
    std::fs::write(scene.path("photos/notes.txt"), "no image").unwrap();
    let found = scene.dry_run("photos", &["--sample", "8", "--output", "json"]).expect(0).json();
    assert_eq!((&found["images"], &found["skipped_by"]["not_an_image"]), (&24.into(), &1.into()), "{found}");
    let histogram = found["size_histogram"].as_array().unwrap();
    assert_eq!(histogram.iter().map(|bucket| bucket["images"].as_u64().unwrap()).sum::<u64>(), 24);

    let estimate = &found["estimate"];
    assert_eq!((&estimate["sampled"], &estimate["ok"]), (&8.into(), &8.into()), "{estimate}");
    assert_eq!((&estimate["failed"], &estimate["device"]), (&json!({}), &"cpu".into()), "{estimate}");
    let fetch = &estimate["fetch"];
    assert_eq!(fetch["counted"], true, "{estimate}");
    assert!(fetch["requests"].as_u64() >= Some(8) && fetch["bytes"].as_u64() > Some(8 * 1000), "{estimate}");
    let rate = number(&estimate["images_per_second"]);
    let worker_hours = number(&estimate["worker_hours"]);
    assert!((worker_hours * 3600.0 * rate / 24.0 - 1.0).abs() < 1e-9, "images / rate: {estimate}");
    for (n, workers) in [1, 10, 100].into_iter().enumerate() {
        let hours = &estimate["hours"][n];
        assert_eq!(hours["workers"], workers);
        assert!(
            (number(&hours["hours"]) * f64::from(workers) / worker_hours - 1.0).abs() < 1e-9,
            "{estimate}"
        );
    }
    let stages = estimate["stages"].as_object().unwrap();
    assert_eq!(stages.keys().collect::<Vec<_>>(), ["decode", "encode", "fetch", "forward"]);
    let slowest = stages.values().map(|stage| number(&stage["images_per_second"])).fold(f64::MAX, f64::min);
    assert!(rate <= slowest, "{estimate}");
    let binding = &stages[estimate["binding"].as_str().unwrap()];
    assert!((number(&binding["images_per_second"]) - slowest).abs() < 1e-9, "{estimate}");
    assert_eq!(scene.left(), ["cache", "photos", "tmp"].map(String::from).into());
}

#[test]
fn what_fails_is_told_by_code_and_a_sample_without_any_image_is_refused() {
    let scene = Scene::new(2);
    std::fs::write(scene.path("photos/html.jpg"), "<html>403 Forbidden</html>").unwrap();
    std::fs::write(scene.path("photos/cut.jpg"), &jpeg(0)[..400]).unwrap();
    let text = scene.dry_run("photos", &["--sample", "1024"]).expect(0).stdout;
    for part in ["4 images: 2 ok, 2 failed", "not_an_image 1", "truncated 1", "100 workers", "sizes  "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for n in 0..2 {
        std::fs::remove_file(scene.path(&format!("photos/{n:03}.jpg"))).unwrap();
    }
    let refused = scene.dry_run("photos", &["--sample", "8"]).expect(1);
    for part in ["not_an_image 1", "truncated 1", "hint:", "--exclude"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    assert_eq!(scene.left(), ["cache", "photos", "tmp"].map(String::from).into());
}

#[test]
fn a_model_that_cannot_run_is_named_with_a_next_step() {
    let scene = Scene::new(2);
    // Four numbers an image, and one label: what only the model itself knows.
    let golden = repository().join("worker/tests/golden/modules/branches.pt");
    std::fs::copy(golden, scene.path("m.pt")).unwrap();
    let description = json!({
        "version": 1, "name": "wrong", "head": "classification", "labels": ["cat"],
        "input": {"crop": [32, 32], "resize_mode": "squash", "interpolation": "bilinear",
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    });
    std::fs::write(scene.path("m.json"), description.to_string()).unwrap();
    let _listed = run(&mut scene.command("photos", Path::new("m.pt"), &[])).expect(0);
    let refused = run(&mut scene.command("photos", Path::new("m.pt"), &["--sample", "2"])).expect(2);
    for part in ["1 label", "hint:", "check-model"] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
}

#[test]
fn members_of_an_archive_are_read_as_a_job_reads_them() {
    let scene = Scene::new(0);
    let mut archive = Packing::default();
    for n in 0..12 {
        archive.add(&format!("{n:03}.jpg"), &jpeg(n));
    }
    std::fs::write(scene.path("photos/0.tar"), archive.end()).unwrap();
    let found = scene.dry_run("photos/0.tar", &["--sample", "4", "--output", "json"]).expect(0).json();
    let estimate = &found["estimate"];
    assert_eq!((&found["images"], &estimate["ok"]), (&12.into(), &4.into()), "{found}");
    // Neighbours come together in a job, so what a request for one costs is no part of the estimate.
    assert_eq!(estimate["fetch"]["counted"], false);
    assert!(estimate["stages"].get("fetch").is_none(), "{estimate}");
}

#[test]
fn an_interrupt_ends_it_and_its_worker() {
    let scene = Scene::new(8);
    let mut dry = scene.command("photos", tiny_model(), &["--sample", "8"]);
    let mut running = Running::start(&mut dry, scene.dir.path());
    // The worker measures for some seconds.
    let worker = wait::until("the worker", Duration::from_secs(60), || child_of(running.pid()));
    running.signal(libc::SIGINT);
    assert_eq!(running.wait(Duration::from_secs(20)).code(), Some(130), "{}", running.log());
    wait::until("the worker's end", Duration::from_secs(20), || {
        (!Path::new(&format!("/proc/{worker}")).exists()).then_some(())
    });
    drop(running);
    assert!(!scene.path("out").exists());
    assert_eq!(std::fs::read_dir(scene.path("tmp")).unwrap().count(), 0);
}

/// A process that was started by `parent`, if there is one. Linux keeps them by thread.
fn child_of(parent: i32) -> Option<u32> {
    let threads = std::fs::read_dir(format!("/proc/{parent}/task")).ok()?.flatten();
    let children = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    children.into_iter().find_map(|list| list.split_whitespace().next()?.parse().ok())
}
