//! Whole jobs over the clouds' stores: read from one, written to another, the same predictions as from a folder.
//!
//! Azure is Azurite, GCS our stub, S3 SeaweedFS; the binaries find them by the variables that users set.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use trawl_common::{
    contract::storage::list_all,
    results::{part_rows::read_rows, row::ResultRow},
    storage::{
        Storage,
        object::{GcsConfig, ObjectStorage},
    },
};
use trawl_tests::{
    gcs::Gcs,
    images,
    programs::{Ended, Running, program, run, tiny_model},
    rows,
    stack::Stack,
    unique, wait,
    web_files::{Page, WebFiles},
};

const IMAGES: u32 = 20;

/// One image at a time: how many go through the model together moves the last bit of a probability.
const ONE_BY_ONE: [&str; 2] = ["--micro-batch", "1"];

/// Long enough for a debug build on two busy cores.
const PATIENCE: Duration = Duration::from_secs(120);

fn stack() -> &'static Stack {
    static STACK: OnceLock<Stack> = OnceLock::new();
    STACK.get_or_init(|| Stack::start("rabbitmq,redis,azure"))
}

/// One test's stores and folder.
struct Rig {
    dir: TempDir,
    gcs: Gcs,
    azure: Arc<dyn Storage>,
    google: Arc<dyn Storage>,
    runtime: Runtime,
    name: String,
}

impl Rig {
    fn new(name: &str) -> Self {
        let (stack, gcs) = (stack(), Gcs::start());
        let runtime = Runtime::new().unwrap();
        let google = GcsConfig { base_url: gcs.url(), token: None };
        let azure: Arc<dyn Storage> =
            Arc::new(runtime.block_on(ObjectStorage::azure_with("trawl", stack.azure())));
        let google: Arc<dyn Storage> =
            Arc::new(runtime.block_on(ObjectStorage::gcs_with(Gcs::BUCKET, google)));
        let dir = tempfile::tempdir().unwrap();
        images::folder(&dir.path().join("photos"), IMAGES);
        Self { dir, gcs, azure, google, runtime, name: unique(name) }
    }

    /// Uploads the photos below `in/` of the test's name.
    fn upload(&self, store: &dyn Storage) {
        for entry in std::fs::read_dir(self.dir.path().join("photos")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let (key, bytes) = (format!("{}/in/{name}", self.name), std::fs::read(&path).unwrap());
            self.runtime.block_on(store.put(&key, bytes.into())).unwrap();
        }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = program(name);
        command.current_dir(self.dir.path()).envs(&stack().env).envs(self.gcs.env());
        command
    }

    fn embedded(&self, source: &str, out: &str) -> Ended {
        let mut command = self.command("trawl");
        command.args(["run", source, "--out", out, "--batch-size", "7", "--output", "json", "--model"]);
        run(command.arg(tiny_model()).args(ONE_BY_ONE))
    }

    /// The rows of an output, by the name of their image and without what differs between stores.
    fn rows(&self, store: &dyn Storage, out: &str) -> BTreeMap<String, ResultRow> {
        self.runtime.block_on(async {
            let mut all = Vec::new();
            for part in list_all(store, &format!("{out}/part-"), None).await {
                all.extend(read_rows(store.get(&part.key, u64::MAX).await.unwrap().bytes).unwrap());
            }
            by_name(all)
        })
    }

    /// What the folder gives.
    fn expected(&self) -> BTreeMap<String, ResultRow> {
        let _ended = self.embedded("photos", "out").expect(0);
        by_name(rows::of_folder(&self.dir.path().join("out")))
    }
}

fn by_name(rows: Vec<ResultRow>) -> BTreeMap<String, ResultRow> {
    let name = |row: &ResultRow| row.key.rsplit('/').next().unwrap_or_default().to_owned();
    let plain = |row| ResultRow { key: String::new(), etag: None, ..row };
    rows.into_iter().map(|row| (name(&row), plain(row))).collect()
}

#[test]
fn a_run_reads_one_cloud_and_writes_another() {
    let rig = Rig::new("run");
    let expected = rig.expected();
    assert_eq!(expected.len(), IMAGES as usize);
    rig.upload(&*rig.azure);
    rig.upload(&*rig.google);
    let (name, bucket) = (&rig.name, Gcs::BUCKET);

    let ended =
        rig.embedded(&format!("az://trawl/{name}/in/"), &format!("gs://{bucket}/{name}/out")).expect(0);
    assert_eq!(ended.json()["images_ok"], IMAGES);
    assert_eq!(rig.rows(&*rig.google, &format!("{name}/out")), expected);
    assert!(rig.gcs.object(&format!("{name}/out/_SUCCESS")).is_some());

    let out = format!("az://trawl/{name}/out");
    let ended = rig.embedded(&format!("gs://{bucket}/{name}/in/"), &out).expect(0);
    assert_eq!(ended.json()["images_ok"], IMAGES);
    assert_eq!(rig.rows(&*rig.azure, &format!("{name}/out")), expected);
    // Again: nothing to do, and it is told from the store alone.
    let again = rig.embedded(&format!("gs://{bucket}/{name}/in/"), &out).expect(0);
    assert!(again.stderr.contains("nothing to do"), "{}", again.stderr);
    let status = run(rig.command("trawl").args(["status", &out, "--output", "json"])).expect(0).json();
    assert_eq!(status["images_ok"], IMAGES);
    let verified = run(rig.command("trawl").args(["verify", &out]));
    assert_eq!(verified.code(), 0, "{} {}", verified.stdout, verified.stderr);
    let shown = run(rig.command("trawl").args(["results", &out, "--limit", "2"])).expect(0);
    assert!(shown.stdout.contains(&format!("gs://{bucket}/{name}/in/img_00000.png")), "{}", shown.stdout);
}

#[test]
fn workers_read_one_cloud_and_write_another() {
    let rig = Rig::new("served");
    let expected = rig.expected();
    rig.upload(&*rig.azure);
    rig.upload(&*rig.google);
    let (name, bucket) = (&rig.name, Gcs::BUCKET);
    let mut worker = rig.command("trawl-worker");
    worker
        .args(ONE_BY_ONE)
        .args(["--queue", name, "--threads", "1", "--cache"])
        .arg(rig.dir.path().join("cache"));
    let worker = Running::start(&mut worker, rig.dir.path());
    worker.wait_for_log("worker ready", PATIENCE);
    for (source, out, store) in [
        (format!("gs://{bucket}/{name}/in"), format!("az://trawl/{name}/labels"), &rig.azure),
        (format!("az://trawl/{name}/in"), format!("gs://{bucket}/{name}/labels"), &rig.google),
    ] {
        let mut submit = rig.command("trawl");
        submit.args(["submit", &source, "--out", &out, "--queue", name, "--batch-size", "7", "--model"]);
        let job = run(submit.arg(tiny_model())).expect(0).stdout.trim().to_owned();
        wait::until("the job's completion", PATIENCE, || {
            let status =
                run(rig.command("trawl").args(["status", &job, "--output", "json"])).expect(0).json();
            (status["state"] == "complete").then_some(())
        });
        assert_eq!(rig.rows(&**store, &format!("{name}/labels")), expected, "{source}");
    }
}

#[test]
fn names_that_cannot_be_used_are_reported() {
    let rig = Rig::new("odd");
    rig.upload(&*rig.google);
    for key in ["a//b.png", "./c.png", "../d.png"] {
        rig.gcs.insert(&format!("{}/in/{key}", rig.name), images::png(1, 40, 30));
    }
    let source = format!("gs://{}/{}/in/", Gcs::BUCKET, rig.name);
    let mut dry = rig.command("trawl");
    dry.args(["submit", &source, "--out", "out", "--dry-run", "--output", "json", "--model"])
        .arg(tiny_model());
    let found = run(&mut dry).expect(0);
    assert_eq!((&found.json()["images"], &found.json()["unlistable"]), (&IMAGES.into(), &3.into()));
    assert!(found.stderr.contains("/../d.png"), "the first is named: {}", found.stderr);
    let ended = rig.embedded(&source, "out").expect(0);
    assert_eq!(ended.json()["images_ok"], IMAGES);
}

#[test]
fn the_doctor_proves_a_store_line_by_line() {
    let rig = Rig::new("doctor");
    let (azure, gcs) = (format!("az://trawl/{}", rig.name), format!("gs://{}", Gcs::BUCKET));
    for place in [azure.as_str(), gcs.as_str(), "photos"] {
        let doctor = ["doctor", "--store", place, "--only", "store"];
        let ended = run(rig.command("trawl").args(doctor).args(["--output", "json"])).expect(0);
        let checks = ended.json();
        let names: Vec<_> =
            checks.as_array().unwrap().iter().map(|check| check["check"].as_str().unwrap()).collect();
        assert_eq!(names, ["trawl", "put", "get", "range", "list", "create-only", "delete"], "{place}");
        assert!(checks.as_array().unwrap().iter().all(|check| check["ok"] == true), "{checks}");
        let text = run(rig.command("trawl").args(doctor)).expect(0).stdout;
        assert_eq!(text.lines().count(), names.len(), "{text}");
    }
    assert!(rig.gcs.keys().is_empty(), "{:?}", rig.gcs.keys());

    let wrong = run(rig
        .command("trawl")
        .args(["doctor", "--store", &azure, "--only", "store"])
        .env("AZURE_STORAGE_ACCOUNT_KEY", "Y2FuYXJ5LTAxMjM0NTY3ODk="))
    .expect(1);
    assert!(wrong.stdout.contains("AZURE_STORAGE_ACCOUNT_KEY"), "{}", wrong.stdout);
    let nobody =
        run(rig.command("trawl").args(["doctor", "--store", "gs://nobodys", "--only", "store"])).expect(1);
    assert!(nobody.stdout.contains("create it first"), "{}", nobody.stdout);
    for ended in [wrong, nobody] {
        assert!(!format!("{}{}", ended.stdout, ended.stderr).contains("Y2FuYXJ5"), "{}", ended.stdout);
    }
}

#[test]
fn a_model_comes_from_the_web_where_its_address_is_allowed() {
    let rig = Rig::new("web");
    let server = WebFiles::start();
    server.set("/m.pt", Page::File(std::fs::read(tiny_model()).unwrap().into()));
    let cache = rig.dir.path().join("cache");
    let with = |flags: &[&str], variable: Option<&str>| {
        let mut command = rig.command("trawl");
        command.args(["run", "photos", "--out", "weblabels", "--model", &server.url("/m.pt"), "--cache"]);
        command.arg(Path::new(&cache)).args(flags);
        if let Some(value) = variable {
            command.env("TRAWL_ALLOW_PRIVATE_ADDRESSES", value);
        }
        run(&mut command)
    };
    let refused = with(&[], None);
    assert_ne!(refused.code(), 0);
    assert!(refused.stderr.contains("--allow-private-addresses"), "{}", refused.stderr);
    assert!(server.asked().is_empty());
    let _ended = with(&["--allow-private-addresses"], None).expect(0);
    let _ended = with(&["--batch-size", "5"], Some("true"));
    assert!(!server.asked().is_empty());

    let listed = run(rig
        .command("trawl")
        .args(["run", &server.url("/photos/"), "--allow-private-addresses"])
        .args(["--out", "out2", "--model"])
        .arg(tiny_model()));
    assert!(listed.stderr.contains("list of URLs (a manifest)"), "{}", listed.stderr);
    let written = run(rig
        .command("trawl")
        .args(["run", "photos", "--out", &server.url("/out"), "--model"])
        .arg(tiny_model()));
    assert_ne!(written.code(), 0);
    assert!(written.stderr.contains("can only be read"), "{}", written.stderr);
}

#[test]
fn images_come_from_a_list_of_urls_where_their_addresses_are_allowed() {
    let rig = Rig::new("urls");
    let server = WebFiles::start();
    let mut list = String::new();
    for i in 0..IMAGES {
        let path = format!("/photos/img_{i:05}.png");
        server.set(&path, Page::File(images::png(i, 40, 30).into()));
        list += &format!("{}\n", server.url(&path));
    }
    server.set("/lists/urls.txt", Page::File(list.clone().into()));
    std::fs::write(rig.dir.path().join("urls.txt"), &list).unwrap();
    let expected = rig.expected();
    let run_with = |source: &str, out: &str, allowed: bool| {
        let mut command = rig.command("trawl");
        command.args(["run", source, "--out", out, "--output", "json", "--model"]).arg(tiny_model());
        command.env("TRAWL_ALLOW_PRIVATE_ADDRESSES", if allowed { "1" } else { "0" });
        run(command.args(ONE_BY_ONE))
    };
    let without_size = |rows: BTreeMap<String, ResultRow>| -> BTreeMap<String, ResultRow> {
        rows.into_iter().map(|(name, row)| (name, ResultRow { size: 0, ..row })).collect()
    };
    // From a file, and from a list on the web itself.
    for (source, out) in [("urls.txt".to_owned(), "from-file"), (server.url("/lists/urls.txt"), "from-web")] {
        let ended = run_with(&source, out, true).expect(0);
        assert_eq!(ended.json()["images_ok"], IMAGES, "{source}");
        let found = by_name(rows::of_folder(&rig.dir.path().join(out)));
        assert_eq!(without_size(found), without_size(expected.clone()), "{source}");
    }
    let asked = server.asked().len();
    let refused = run_with("urls.txt", "refused", false);
    assert_eq!(refused.json()["images_failed"], IMAGES, "{}", refused.stderr);
    let refused = rows::of_folder(&rig.dir.path().join("refused"));
    assert!(format!("{:?}", refused[0]).contains("--allow-private-addresses"), "{:?}", refused[0]);
    assert_eq!(server.asked().len(), asked, "a refused address was asked");
}
