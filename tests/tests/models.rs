//! Models that do not describe themselves, in folders and in a bucket, and rows that are computed again, with the programs
//! themselves.
//!
//! The bucket is the stub of Google's; no other server is needed. Models are the worker's golden ones.

use image::{ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    process::Command,
};
use trawl_common::results::{
    PartFooter, encode_part,
    part_rows::read_part,
    row::{FoundBox, Outcome, Prediction},
};
use trawl_tests::{
    gcs::Gcs,
    images,
    programs::{Ended, program, run},
    repository, rows,
};

/// Four numbers an image, for images of any size, and no description inside.
const BARE: &str = "branches.pt";
/// The same with other numbers.
const OTHER: &str = "loop.pt";
/// Finds the red rectangle in a picture.
const DETECTOR: &str = "detector.pt";

const INPUT: &str = r#"{"crop": [32, 32], "resize_mode": "squash", "interpolation": "bilinear", "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5]}"#;

fn golden(name: &str) -> PathBuf {
    repository().join("worker/tests/golden/modules").join(name)
}

/// The files of a folder as Hugging Face's, with a traced model.
fn pets(model: &str) -> [(&'static str, Vec<u8>); 3] {
    let config = json!({"id2label": {"0": "cat", "1": "dog", "2": "eel", "3": "fly"}});
    let processor = json!({
        "image_processor_type": "ViTImageProcessor", "do_resize": true, "do_normalize": true, "resample": 2,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"height": 32, "width": 32},
    });
    [
        ("model.pt", std::fs::read(golden(model)).unwrap()),
        ("config.json", config.to_string().into()),
        ("preprocessor_config.json", processor.to_string().into()),
    ]
}

fn write(folder: &Path, files: &[(&str, Vec<u8>)]) {
    std::fs::create_dir_all(folder).unwrap();
    for (name, bytes) in files {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

fn trawl(dir: &Path, arguments: &[&str]) -> Ended {
    let mut command: Command = program("trawl");
    // A cache of its own, which is empty at first.
    run(command.current_dir(dir).env("XDG_CACHE_HOME", dir.join("cache")).args(arguments))
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn footer_of(part: &Path) -> PartFooter {
    let bytes = bytes::Bytes::from(std::fs::read(part).unwrap());
    PartFooter::read(&bytes, bytes.len() as u64).unwrap()
}

#[test]
fn a_folder_of_hugging_faces_is_a_model_and_its_rows_can_be_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    images::folder(&dir.join("photos"), 6);
    write(&dir.join("pets"), &pets(BARE));
    write(&dir.join("others"), &pets(OTHER));
    let line = ["run", "photos", "--model", "pets", "--out", "out", "--topk", "4", "--output", "json"];
    assert_eq!(trawl(dir, &line).expect(0).json()["images_ok"], 6);
    // The same files are the same job, and nothing is done again.
    let again = trawl(dir, &line).expect(0);
    assert!(again.stderr.contains("nothing to do"), "{}", again.stderr);
    let out = dir.join("out");
    let manifest = json_of(&out.join("_trawl/manifest.json"));
    let engine = &manifest["engines"][0];
    assert_eq!((&engine["device"], &engine["precision"]), (&"cpu".into(), &"fp32".into()), "{manifest}");
    assert!(engine["torch"].as_str().unwrap().starts_with("2."), "{manifest}");

    let read = rows::of_folder(&out);
    assert_eq!(read.len(), 6);
    let key = &read[5].key;
    let again = trawl(dir, &["replay", "out", key, "--output", "json"]).expect(0).json();
    assert_eq!((&again["same"], &again["same_top1"]), (&true.into(), &true.into()), "{again}");
    assert_eq!(&again["stored"]["engine"], engine, "{again}");
    let other = trawl(dir, &["replay", "out", key, "--model", "others"]).expect(1);
    assert!(other.stdout.contains("DIFFERENT"), "{}", other.stdout);
    let missing = trawl(dir, &["replay", "out", "photos/none.jpg"]).expect(4);
    assert!(missing.stderr.contains("photos/none.jpg"), "{}", missing.stderr);
    assert_eq!(rows::of_folder(&out), read, "a replay writes nothing there");

    // A compaction has computed nothing: its files say what did.
    let _ended = trawl(dir, &["compact", "out", "--to", "compact"]).expect(0);
    let (part, compacted) = (
        footer_of(&out.join("part-00000000.parquet")),
        footer_of(&dir.join("compact/part-00000000.parquet")),
    );
    assert_eq!((&compacted.engine, &*compacted.engine.device), (&part.engine, "cpu"));
    assert_ne!(compacted.worker, part.worker);
    assert_eq!(json_of(&dir.join("compact/_trawl/manifest.json"))["engines"], manifest["engines"]);
    let _same = trawl(dir, &["replay", "compact", key]).expect(0);
}

#[test]
fn what_does_not_describe_a_model_is_named_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    images::folder(&dir.join("photos"), 1);
    let folder = dir.join("pets");
    let refused = |word: &str| {
        let ended = trawl(dir, &["run", "photos", "--model", "pets", "--out", "out"]).expect(2);
        assert!(ended.stderr.contains(word), "{word}: {}", ended.stderr);
        assert!(!dir.join("out").exists());
    };
    let [model, config, processor] = pets(BARE);
    write(&folder, &[model, config.clone()]);
    refused("preprocessor_config.json");
    write(&folder, &[(processor.0, br#"{"image_processor_type": "DetrImageProcessor"}"#.into())]);
    refused("DetrImageProcessor");
    write(&folder, &[processor, (config.0, br#"{"id2label": {"0": "cat"}}"#.into())]);
    // What only the model itself knows.
    refused("1 label");
}

#[test]
fn a_bare_model_in_a_bucket_is_described_by_the_files_beside_it_there() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, gcs) = (dir.path(), Gcs::start());
    images::folder(&dir.join("photos"), 4);
    let given = |model: &str, out: &str| {
        let mut command = program("trawl");
        command.current_dir(dir).env("XDG_CACHE_HOME", dir.join("cache")).envs(gcs.env());
        run(command.args(["run", "photos", "--model", model, "--out", out, "--micro-batch", "1"]))
    };
    // What the same files give in a folder, and the digest of the bundle that they become.
    let answers = |out: &str| rows::of_folder(&dir.join(out));
    let bundle = |out: &str| json_of(&dir.join(out).join("_trawl/job.json"))["model"]["sha256"].clone();
    let model = std::fs::read(golden(BARE)).unwrap();
    let own = format!(
        r#"{{"head": "multi_label", "threshold": 0, "labels": ["a", "b", "c", "d"], "input": {INPUT}}}"#
    );
    write(&dir.join("tags"), &[("tags.pt", model.clone()), ("tags.json", own.clone().into())]);
    write(&dir.join("pets"), &pets(BARE));
    let _ended = given("tags/tags.pt", "own").expect(0);
    let _ended = given("pets", "faces").expect(0);

    let place = |key: &str| format!("gs://{}/{key}", Gcs::BUCKET);
    gcs.insert("models/tags.pt", model);
    // Alone it is no model, and what was looked for is named.
    let alone = given(&place("models/tags.pt"), "gs-own").expect(2);
    assert!(
        alone.stderr.contains("tags.json") && alone.stderr.contains(&place("models")),
        "{}",
        alone.stderr
    );
    gcs.insert("models/tags.json", own.clone());
    let _ended = given(&place("models/tags.pt"), "gs-own").expect(0);
    assert_eq!(answers("gs-own"), answers("own"));
    assert_eq!(bundle("gs-own"), bundle("own"));
    let labels = answers("own").remove(0).outcome;
    assert!(matches!(&labels, Outcome::Ok(Prediction::Labels(given)) if given.len() == 4), "{labels:?}");

    for (name, bytes) in pets(BARE) {
        gcs.insert(&format!("models/pets/{name}"), bytes);
    }
    let _ended = given(&place("models/pets/"), "gs-faces").expect(0);
    assert_eq!(answers("gs-faces"), answers("faces"));
    assert_eq!(bundle("gs-faces"), bundle("faces"));
    // Another threshold is another bundle, and so another job.
    gcs.insert("models/tags.json", own.replace("\"threshold\": 0", "\"threshold\": 1"));
    let _ended = given(&place("models/tags.pt"), "gs-strict").expect(0);
    assert_ne!(bundle("gs-strict"), bundle("own"));
    assert_eq!(answers("gs-strict")[0].outcome, Outcome::Ok(Prediction::Labels(Vec::new())));
}

/// A picture in grey of 320 x 160 with a red rectangle.
fn picture(path: &Path, [x0, y0, x1, y1]: [u32; 4]) {
    let pixel = |x, y| {
        let red = (x0..x1).contains(&x) && (y0..y1).contains(&y);
        Rgb(if red { [250, 10, 10] } else { [60, 70, 80] })
    };
    RgbImage::from_fn(320, 160, pixel).save_with_format(path, ImageFormat::Png).unwrap();
}

/// Changes the first box of every row of a part, which stays a part of its job in all else.
fn alter(part: &Path, change: impl Fn(&mut FoundBox)) {
    let footer = footer_of(part);
    let (columns, mut rows) = read_part(std::fs::read(part).unwrap().into()).unwrap();
    for row in &mut rows {
        let Outcome::Ok(Prediction::Boxes(found)) = &mut row.outcome else { panic!("{row:?}") };
        change(&mut found[0]);
    }
    std::fs::write(part, encode_part(&rows, &columns, &footer).unwrap()).unwrap();
}

#[test]
fn a_box_that_moved_or_changed_its_class_is_another_row() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::create_dir(dir.join("photos")).unwrap();
    picture(&dir.join("photos/a.png"), [100, 40, 200, 120]);
    picture(&dir.join("photos/b.png"), [0, 0, 60, 160]);
    std::fs::copy(golden(DETECTOR), dir.join("detector.pt")).unwrap();
    std::fs::copy(golden("several.pt"), dir.join("several.pt")).unwrap();
    let _ended = trawl(dir, &["run", "photos", "--model", "detector.pt", "--out", "out"]).expect(0);
    let part = dir.join("out/part-00000000.parquet");
    let untouched = std::fs::read(&part).unwrap();
    let replay = |more: &[&str], code: i32| {
        let line = ["replay", "out", "photos/a.png", "--output", "json"];
        trawl(dir, &[&line, more].concat()).expect(code).json()
    };
    let same = replay(&[], 0);
    assert_eq!((&same["same"], &same["max_difference"]), (&true.into(), &json!(0.0)), "{same}");
    assert_eq!(same["stored"]["answer"][0]["label"], "red thing", "{same}");

    // Eight pixels of 320 are a fortieth; the class and the score are what they were.
    alter(&part, |found| found.corners[2] -= 8.0);
    let moved = replay(&[], 1);
    assert_eq!(moved["same"], false, "{moved}");
    assert!((moved["max_difference"].as_f64().unwrap() - 0.025).abs() < 1e-6, "{moved}");
    assert_eq!(replay(&["--tolerance", "0.03"], 0)["same"], true);
    let shown = trawl(dir, &["replay", "out", "photos/a.png"]).expect(1).stdout;
    assert!(shown.contains("DIFFERENT") && shown.contains("red thing  ["), "{shown}");

    for change in [(|found| found.index = 2) as fn(&mut FoundBox), |found| found.score -= 0.1] {
        std::fs::write(&part, &untouched).unwrap();
        alter(&part, change);
        assert_eq!(replay(&[], 1)["same"], false);
    }
    std::fs::write(&part, &untouched).unwrap();
    assert_eq!(replay(&[], 0)["same"], true);
    assert_eq!(replay(&["--model", "several.pt"], 1)["same"], false);
}
