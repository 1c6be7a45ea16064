//! Keys are opaque bytes: the oddest names go through listing, plan, message, part and every printed table
//! unchanged, and never reach a terminal or a path as anything but a name.
//!
//! Names are made by a seeded generator; `KEYS_SEED` repeats a run.

use std::{collections::BTreeSet, fs, os::unix::ffi::OsStrExt, path::Path, process::Command, time::Duration};
use trawl_common::{
    batch::{BatchDescriptor, BatchNumber, ImageRef, Message},
    storage::{Storage, StorageError},
};
use trawl_tests::{
    bucket::Bucket,
    images,
    programs::{Ended, Running, program, run, tiny_model, with_stack},
    rows,
    stack::shared,
    unique, wait,
};

/// Generated names, beside the chosen ones.
const GENERATED: usize = 60;

/// Long enough for a debug build on two busy cores.
const PATIENCE: Duration = Duration::from_secs(120);

/// The longest key of S3, in bytes.
const S3_KEY_BYTES: usize = 1_024;

/// What names are made of: what paths, URLs, shells, terminals, SQL, HTML, globs and CSV take for their own.
const PIECES: &[&str] = &[
    "a",
    "..",
    ".",
    "%2e",
    "%2F",
    "%00",
    "%",
    "+",
    " ",
    "\n",
    "\r",
    "\t",
    "\u{1b}[31m",
    "\u{1b}]0;x\u{7}",
    "\u{9b}",
    "\u{7f}",
    "\\",
    "\"",
    "'",
    "`",
    "$(x)",
    ";",
    "&",
    "<img onerror=x>",
    "*",
    "?",
    "[x]",
    "{x}",
    "#",
    "@",
    ":",
    ",",
    "\u{202e}",
    "\u{2066}",
    "\u{200f}",
    "\u{2028}",
    "\u{feff}",
    "😀",
    "é",
    "e\u{301}",
    "שלום",
    "图",
    "-",
    "--help",
    "~",
    "null",
    "s3:",
    "=1+1",
];

/// xorshift64*: the same names for the same seed.
struct Random(u64);

impl Random {
    fn seeded() -> Self {
        let seed = std::env::var("KEYS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(20_261_122);
        println!("KEYS_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).expect("31 bits") % limit
    }

    /// One name without slashes.
    fn name(&mut self) -> String {
        (0..=self.below(5)).map(|_| PIECES[self.below(PIECES.len())]).collect()
    }
}

/// Paths that a folder can hold, of which every part is a name.
fn local_names() -> BTreeSet<String> {
    let mut random = Random::seeded();
    let mut names: BTreeSet<String> = ["n".repeat(251), format!("{}x", "d/".repeat(400))].into();
    names.extend(PIECES.iter().map(|piece| format!("x{piece}y")));
    names.extend((0..GENERATED).map(|i| format!("{}{i}/_{}", random.name(), random.name())));
    names.into_iter().map(|name| format!("{name}.png")).collect()
}

/// Keys as only a bucket can have them.
fn bucket_keys() -> BTreeSet<String> {
    let mut keys = local_names();
    keys.extend(
        ["../up.png", "/leading.png", "a//b.png", "./dot.png", "a/./b.png", "a/../b.png", "%2e%2e/x.png"]
            .map(str::to_owned),
    );
    keys
}

/// No byte that steers a terminal, and nothing that reorders text.
fn assert_harmless(what: &str, text: &str) {
    let bad = text.chars().find(|&c| {
        c.is_control() && c != '\n' || matches!(c, '\u{200f}' | '\u{2028}' | '\u{202e}' | '\u{2066}')
    });
    assert_eq!(bad, None, "{what}: {text:?}");
}

/// Every table and message about an output: one line a row, whatever the keys.
fn assert_printed(command: impl Fn() -> Command, out: &str, keys: usize) {
    for (arguments, lines) in [(&["results"][..], keys), (&["failures"], keys), (&["status"], 0)] {
        let ended = run(command().args(arguments).arg(out));
        assert_harmless(&format!("{arguments:?}"), &ended.stdout);
        assert_harmless(&format!("{arguments:?}"), &ended.stderr);
        if lines > 0 {
            assert_eq!(ended.stdout.lines().count(), lines + 1, "{arguments:?}: a header and one line each");
        }
    }
}

/// The keys of JSON lines, unescaped.
fn json_keys(ended: Ended) -> BTreeSet<String> {
    let ended = ended.expect(0);
    let key = |line: &str| {
        serde_json::from_str::<serde_json::Value>(line).expect("JSON")["key"].as_str().map(str::to_owned)
    };
    ended.stdout.lines().map(|line| key(line).expect("a key")).collect()
}

#[test]
fn messages_carry_any_key() {
    let mut random = Random::seeded();
    let mut keys: Vec<String> = bucket_keys().into_iter().collect();
    keys.extend((0..2_000).map(|_| random.name()));
    keys.extend(["\0".to_owned(), "\u{10ffff}".to_owned(), "k".repeat(S3_KEY_BYTES)]);
    let images = keys.iter().map(|key| ImageRef::whole(key.clone(), Some(key.clone()), 1)).collect();
    let batch = BatchDescriptor {
        job: "j".parse().expect("a name"),
        batch: BatchNumber(1),
        out: "s3://b/\n\u{202e}".into(),
        created_unix_ms: 1,
        model_sha256: "0".into(),
        images,
    };
    let message = Message::Batch(batch);
    let json = message.to_json();
    assert!(!json.iter().any(|byte| *byte < b' '), "a raw control character");
    assert_eq!(Message::parse(&json).expect("it reads back"), message);
}

#[test]
fn a_folder_of_odd_names_is_read_as_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let names = local_names();
    for (index, name) in names.iter().enumerate() {
        let path = dir.path().join("in").join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        // Every image is an error row, so that `failures` prints each of them too.
        fs::write(path, format!("no image {index}")).expect("a file");
    }
    fs::write(dir.path().join("in").join(std::ffi::OsStr::from_bytes(b"\xff\n.png")), "x").expect("a file");
    // Outside the folder, where a name that is taken for a path would lead.
    fs::write(dir.path().join("up.png"), "x").expect("a file");
    let worker = || {
        let mut command = program("trawl-worker");
        command
            .current_dir(dir.path())
            .args(["run", "in", "--out", "out", "--device", "cpu", "-v", "--model"]);
        command.arg(tiny_model());
        command
    };
    let planned = run(worker().arg("--dry-run")).expect(0);
    assert_harmless("--dry-run", &planned.stdout);
    let ended = run(&mut worker()).expect(0);
    assert_harmless("the report", &ended.stdout);
    assert_harmless("the log", &ended.stderr);
    let expected: BTreeSet<String> = names.iter().map(|name| format!("in/{name}")).collect();
    let found = rows::of_folder(&dir.path().join("out"));
    assert_eq!(found.len(), expected.len(), "one row each");
    assert_eq!(found.into_iter().map(|row| row.key).collect::<BTreeSet<_>>(), expected);
    let trawl = || {
        let mut command = program("trawl");
        command.current_dir(dir.path());
        command
    };
    assert_printed(trawl, "out", expected.len());
    assert_eq!(json_keys(run(trawl().args(["failures", "out", "--output", "json"]))), expected);
    assert_eq!(written_beside(dir.path()), ["in", "out", "up.png"], "nothing is written anywhere else");
}

fn written_beside(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_bucket_of_odd_keys_is_read_as_it_is() {
    let stack = shared();
    let bucket = Bucket::of(stack);
    let name = unique("keys");
    let prefix = format!("{name}/in/");
    let mut keys = bucket_keys();
    keys.insert(format!("{}.png", "k".repeat(S3_KEY_BYTES - prefix.len() - 4)));
    // What this store does not take under that very name is said, and left out.
    let mut held = BTreeSet::new();
    for (index, key) in keys.iter().enumerate() {
        let whole = format!("{prefix}{key}");
        match bucket.try_upload(&whole, format!("no image {index}").into_bytes()) {
            Ok(()) => drop(held.insert(whole)),
            Err(error) => println!("the store refuses {key:?}: {error}"),
        }
    }
    bucket.upload([(format!("{prefix}good.png"), images::png(1, 20, 20))]);
    held.insert(format!("{prefix}good.png"));
    let listed: BTreeSet<String> = bucket.keys(&prefix).into_iter().collect();
    for key in held.difference(&listed) {
        println!("the store takes {key:?} and lists it under another name");
    }
    assert!(listed.len() > 60, "only {} keys are left", listed.len());

    let dir = tempfile::tempdir().expect("a folder");
    let command = |program: &str| {
        let mut command = with_stack(program, stack);
        command.current_dir(dir.path());
        command
    };
    let mut worker = command("trawl-worker");
    worker.args(["--queue", &name, "--device", "cpu", "--threads", "1", "-v"]);
    let mut worker = Running::start(&mut worker, dir.path());
    worker.wait_for_log("worker ready", PATIENCE);
    let out = format!("s3://trawl/{name}/out");
    let source = format!("s3://trawl/{prefix}");
    let submit = ["submit", &source, "--out", &out, "--queue", &name, "--batch-size", "16", "--model"];
    let submitted = run(command("trawl").args(submit).arg(tiny_model())).expect(0);
    wait::until("the job's completion", PATIENCE, || {
        let status =
            run(command("trawl").args(["status", submitted.stdout.trim(), "--output", "json"])).expect(0);
        (status.json()["state"] == "complete").then_some(())
    });
    worker.signal(libc::SIGTERM);
    let _status = worker.wait(PATIENCE);
    assert_harmless("the worker's log", &worker.log());
    // Where the store makes slashes of backslashes a base name may be left with nothing before its extension.
    let images = listed.iter().filter(|key| !key.ends_with("/.png"));
    let expected: BTreeSet<String> = images.map(|key| format!("s3://trawl/{key}")).collect();
    let found = bucket.rows(&format!("{name}/out"));
    assert_eq!(found.len(), expected.len(), "one row each");
    // Not `not_found`: the very key that was listed was asked for.
    for row in &found {
        if let trawl_common::results::row::Outcome::Failed { code, .. } = &row.outcome {
            assert_eq!(code.as_str(), "not_an_image", "{:?}", row.key);
        }
    }
    assert_eq!(found.into_iter().map(|row| row.key).collect::<BTreeSet<_>>(), expected);
    assert_eq!(json_keys(run(command("trawl").args(["results", &out, "--output", "json"]))), expected);
    let printed = run(command("trawl").args(["failures", &out]));
    assert_harmless("failures", &printed.stdout);
    assert_eq!(printed.stdout.lines().count(), expected.len(), "a header and one line for each failure");
}

#[tokio::test]
async fn no_key_leads_out_of_a_folder() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::create_dir(dir.path().join("root")).expect("a folder");
    fs::write(dir.path().join("secret"), "secret").expect("a file");
    let store = trawl_common::storage::local::LocalStorage::new(dir.path().join("root"));
    let mut random = Random::seeded();
    for _ in 0..3_000 {
        let parts: Vec<&str> =
            (0..=random.below(4)).map(|_| ["..", ".", "", "root", "secret", "x"][random.below(6)]).collect();
        let key = parts.join("/");
        match store.get(&key, 100).await {
            Ok(object) => assert_ne!(&object.bytes[..], b"secret", "{key:?} leads out"),
            Err(StorageError::Invalid { .. } | StorageError::NotFound { .. }) => {}
            Err(error) => panic!("{key:?}: {error}"),
        }
        let _refused_or_inside = store.put(&key, "planted".into()).await;
    }
    assert_eq!(written_beside(dir.path()), ["root", "secret"]);
    assert_eq!(fs::read(dir.path().join("secret")).expect("it is there"), b"secret");
}
