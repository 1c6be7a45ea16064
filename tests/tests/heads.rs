//! A whole job with each kind of head, from `trawl run` to readers of Parquet that are not ours, and what `trawl export`
//! and `trawl compact` make of it.
//!
//! The models are the worker's golden ones and the workspace's tiny one.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use tempfile::TempDir;
use trawl_common::results::row::Prediction;
use trawl_tests::{
    images,
    programs::{make_model, program, python, run},
    repository, rows,
};

/// Photos, beside one broken file: a row without an answer must have the same columns.
const PHOTOS: u32 = 12;

fn golden(name: &str) -> PathBuf {
    repository().join("worker/tests/golden/modules").join(name)
}

/// A job of the photos and of a file that fails.
fn job(model: &Path) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    images::folder(&photos, PHOTOS);
    std::fs::write(photos.join("broken.jpg"), b"no image").unwrap();
    let mut command = program("trawl");
    command.current_dir(dir.path()).args(["run", "photos", "--out", "out", "--batch-size", "5", "--model"]);
    let _ended = run(command.arg(model)).expect(0);
    dir
}

/// The columns that a head adds, with their types, after every reader that there is has read the same rows.
fn columns(dir: &TempDir, out: &str) -> BTreeMap<String, String> {
    let photos = std::fs::read_dir(dir.path().join("photos")).unwrap().count();
    let script = repository().join("tests/python/read_output.py");
    let ended = run(python().arg("-B").arg(script).arg(dir.path().join(out))).expect(0);
    let seen = ended.json();
    for reader in ["pyarrow", "duckdb", "pandas", "polars", "datasets", "lancedb"] {
        assert_eq!(seen["rows"][reader], photos, "{seen}");
    }
    let every = ["key", "etag", "size", "width", "height", "status", "error_code", "error_message"];
    let columns: BTreeMap<String, String> = serde_json::from_value(seen["columns"].clone()).unwrap();
    columns.into_iter().filter(|(name, _)| !every.contains(&name.as_str())).collect()
}

fn expect(dir: &TempDir, wanted: &[(&str, &str)]) {
    let wanted: BTreeMap<String, String> =
        wanted.iter().map(|(name, of)| ((*name).to_owned(), (*of).to_owned())).collect();
    assert_eq!(columns(dir, "out"), wanted);
}

const CLASSES: &str =
    "list<element: struct<idx: int32 not null, label: string, prob: float not null> not null>";
const BOXES: &str = "list<element: struct<x0: float not null, y0: float not null, x1: float not null, \
                     y1: float not null, idx: int32 not null, label: string, score: float not null> not null>";

#[test]
fn readers_agree_on_each_head() {
    let half = "fixed_size_list<element: halffloat>[16]";
    let map = "fixed_size_list<element: float>[784]";
    for (head, wanted) in [
        ("multi-label", &[("labels", CLASSES)][..]),
        ("half-embedding", &[("embedding", half)]),
        ("raw", &[("embedding", map), ("shape", "list<element: int32 not null>")]),
    ] {
        expect(&job(&make_model(&["--head", head])), wanted);
    }
    expect(&job(&golden("detector.pt")), &[("boxes", BOXES)]);
}

#[test]
fn five_heads_are_exported_and_compacted_without_a_change() {
    let dir = job(&golden("several.pt"));
    let wanted = [
        ("species_predicted_class_idx", "int32"),
        ("species_predicted_label", "string"),
        ("species_confidence", "float"),
        ("species_topk", CLASSES),
        ("tags_labels", CLASSES),
        ("look_embedding", "fixed_size_list<element: halffloat>[3]"),
        ("things_boxes", BOXES),
        ("map_embedding", "fixed_size_list<element: float>[18]"),
        ("map_shape", "list<element: int32 not null>"),
    ];
    expect(&dir, &wanted);
    let read = rows::of_folder(&dir.path().join("out"));
    let trawl = |arguments: &[&str]| {
        let ended = run(program("trawl").current_dir(dir.path()).args(arguments));
        ended.expect(0).stdout
    };
    let lines = trawl(&["export", "out", "--to", "jsonl"]);
    let keys: Vec<String> = lines
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["key"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(keys, read.iter().map(|row| row.key.clone()).collect::<Vec<_>>());

    trawl(&["export", "out", "--to", "npy", "--file", "look.npy", "--columns", "look_embedding"]);
    let header =
        "import sys; d = open(sys.argv[1], 'rb').read(); print(d[10:10 + int.from_bytes(d[8:10], 'little')])";
    let header = run(python().args(["-c", header]).arg(dir.path().join("look.npy"))).expect(0).stdout;
    assert!(header.contains("'<f2'") && header.contains(&format!("({PHOTOS}, 3)")), "{header}");
    let listed = std::fs::read_to_string(dir.path().join("look.keys.csv")).unwrap();
    assert_eq!(listed.lines().count() as u32, PHOTOS + 1);

    trawl(&["compact", "out", "--to", "compact"]);
    assert_eq!(rows::of_folder(&dir.path().join("compact")), read);
    assert_eq!(columns(&dir, "compact").len(), wanted.len());
    trawl(&["verify", "compact", "--deep"]);
    trawl(&["results", "compact"]);
    let status: serde_json::Value =
        serde_json::from_str(&trawl(&["status", "compact", "--output", "json"])).unwrap();
    assert_eq!((&status["state"], &status["images_ok"]), (&"complete".into(), &PHOTOS.into()), "{status}");
    let many = read.iter().filter_map(|row| row.outcome.prediction());
    assert!(many.clone().count() as u32 == PHOTOS);
    assert!(many.into_iter().all(|answer| matches!(answer, Prediction::Several(heads) if heads.len() == 5)));
}
