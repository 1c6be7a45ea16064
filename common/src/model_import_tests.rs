//! Models with descriptions beside them: every convention, what is refused, and what travels.
//!
//! `fixtures/models/descriptions.json` has pairs of files with what they mean; `tests/python/test_descriptions.py` holds the
//! exporter to the same, and `make parity` holds both to transformers and timm.

use super::*;
use crate::{bundle::Head, job::hex_sha256};
use bytes::Bytes;
use serde_json::Value;
use std::io::Write;

/// A TorchScript archive without a description.
fn bare_model() -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in
        [("m/data.pkl", "pickle"), ("m/code/__torch__.py", "code"), ("m/constants.pkl", "none")]
    {
        zip.start_file(name, stored).unwrap();
        zip.write_all(bytes.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

struct Bucket {
    stores: Arc<Stores>,
    store: Arc<dyn Storage>,
    cache: tempfile::TempDir,
}

impl Bucket {
    async fn new(objects: &[(&str, &[u8])]) -> Self {
        let stores = Stores::in_memory();
        let store = stores.open(&place("s3://models/")).await;
        let bucket = Self { stores, store, cache: tempfile::tempdir().unwrap() };
        for (key, bytes) in objects {
            bucket.put(key, bytes).await;
        }
        bucket
    }

    async fn put(&self, key: &str, bytes: &[u8]) {
        self.store.put(key, Bytes::copy_from_slice(bytes)).await.unwrap();
    }

    async fn import(&self, at: &str) -> Result<Imported, ImportError> {
        import(&self.stores, &place(at), self.cache.path()).await
    }
}

fn place(text: &str) -> Location {
    Location::parse(text, Path::new("/")).unwrap()
}

const VIT: &[u8] =
    br#"{"image_processor_type": "ViTImageProcessor", "do_resize": true, "do_normalize": true, "resample": 2,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": {"height": 32, "width": 32}}"#;
const TWO: &[u8] =
    br#"{"architectures": ["ViTForImageClassification"], "id2label": {"0": "cat", "1": "dog"}}"#;
const OWN: &[u8] = br#"{"head": "classification", "labels": ["cat", "dog"], "input": {"crop": [32, 32],
    "resize_mode": "squash", "interpolation": "bilinear", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}"#;

#[tokio::test]
async fn every_pair_of_files_means_what_it_should() {
    let json = include_bytes!("../fixtures/models/descriptions.json");
    let cases: Vec<Value> = serde_json::from_slice(json).unwrap();
    let model = bare_model();
    let mut understood = 0;
    for case in &cases {
        let name = &case["name"];
        let bucket =
            Bucket::new(&[("m.pt", &model), ("config.json", case["config"].to_string().as_bytes())]).await;
        if let Some(processor) = case.get("processor") {
            bucket.put("preprocessor_config.json", processor.to_string().as_bytes()).await;
        }
        match (bucket.import("s3://models/m.pt").await, case.get("refused")) {
            (Ok(imported), None) => {
                let mut expect = case["expect"].clone();
                expect["version"] = 1.into();
                expect["name"] = "m".into();
                let expect = BundleSpec::parse(expect.to_string().as_bytes()).unwrap();
                assert_eq!(imported.spec, expect, "{name}");
                understood += 1;
            }
            (Err(error), Some(field)) => {
                let text = error.to_string();
                assert!(text.contains(field.as_str().unwrap()), "{name}: {text}");
                assert!(text.contains("config.json"), "{name}: {text}");
            }
            (outcome, _) => panic!("{name}: {outcome:?}"),
        }
    }
    assert!(understood >= 20 && cases.len() - understood >= 18, "{understood} of {}", cases.len());
}

#[tokio::test]
async fn what_was_found_travels_inside_and_the_same_files_are_the_same_bundle() {
    let model = bare_model();
    let bucket =
        Bucket::new(&[("vit/m.pt", &model), ("vit/config.json", TWO), ("vit/preprocessor_config.json", VIT)])
            .await;
    let imported = bucket.import("s3://models/vit/m.pt").await.unwrap();
    assert_eq!(
        imported.described_by,
        ["s3://models/vit/config.json", "s3://models/vit/preprocessor_config.json"]
    );
    assert_eq!((imported.spec.heads[0].head, imported.spec.labels().len()), (Head::Classification, 2));
    assert!(imported.location.is_local(), "what was made here is here");
    let bytes = std::fs::read(&imported.file.path).unwrap();
    assert_eq!(hex_sha256(&bytes), imported.file.sha256);
    assert_eq!(BundleSpec::read(&imported.file.path).unwrap(), imported.spec);
    assert_eq!(bytes[..20], model[..20], "the model's members stay where they were");
    let again = bucket.import("s3://models/vit/m.pt").await.unwrap();
    assert_eq!(again.file, imported.file);
    // It describes itself now, wherever it lies.
    bucket.put("elsewhere/m.pt", &bytes).await;
    let elsewhere = bucket.import("s3://models/elsewhere/m.pt").await.unwrap();
    assert_eq!((&elsewhere.spec, &elsewhere.file.sha256), (&imported.spec, &imported.file.sha256));
    assert_eq!(elsewhere.location, place("s3://models/elsewhere/m.pt"));
    // Another label is another bundle.
    bucket.put("vit/config.json", &replaced(TWO, "dog", "lion")).await;
    let other = bucket.import("s3://models/vit/m.pt").await.unwrap();
    assert_ne!(other.file.sha256, imported.file.sha256);
}

fn replaced(text: &[u8], from: &str, to: &str) -> Vec<u8> {
    std::str::from_utf8(text).unwrap().replace(from, to).into_bytes()
}

#[tokio::test]
async fn the_description_of_ours_comes_first_and_a_bare_model_is_refused_with_what_was_looked_for() {
    let model = bare_model();
    let bucket = Bucket::new(&[("a/cats.pt", &model)]).await;
    let error = bucket.import("s3://models/a/cats.pt").await.unwrap_err().to_string();
    assert!(error.contains("cats.json") && error.contains("preprocessor_config.json"), "{error}");
    bucket.put("a/config.json", b"not json").await;
    bucket.put("a/cats.json", OWN).await;
    let imported = bucket.import("s3://models/a/cats.pt").await.unwrap();
    assert_eq!((imported.spec.name.as_str(), imported.spec.labels().len()), ("cats", 2));
    bucket.put("a/cats.json", &replaced(OWN, "\"crop\"", "\"corp\"")).await;
    let error = bucket.import("s3://models/a/cats.pt").await.unwrap_err().to_string();
    assert!(error.contains("cats.json") && error.contains("corp"), "{error}");
    assert!(bucket.import("s3://models/a/dogs.pt").await.unwrap_err().to_string().contains("fetched"));
}

const PBTXT: &str = r#"name: "pets" platform: "pytorch_libtorch" max_batch_size: 8
    input [{ name: "INPUT__0" data_type: TYPE_FP32 dims: [3, 32, 32] }]
    output [{ name: "OUTPUT__0" data_type: TYPE_FP32 dims: [2] label_filename: "labels.txt" }]"#;

#[tokio::test]
async fn tritons_folder_gives_its_highest_version() {
    let model = bare_model();
    let unlabelled = replaced(OWN, r#""labels": ["cat", "dog"],"#, "");
    let bucket = Bucket::new(&[
        ("pets/config.pbtxt", PBTXT.as_bytes()),
        ("pets/labels.txt", b"cat\ndog\n"),
        ("pets/model.json", &unlabelled),
        ("pets/2/model.pt", &model),
        ("pets/10/model.pt", &[&model[..], b""].concat()),
        ("pets/old/model.pt", b"junk"),
    ])
    .await;
    for at in ["s3://models/pets", "s3://models/pets/"] {
        let imported = bucket.import(at).await.unwrap();
        assert_eq!(
            (imported.spec.name.as_str(), imported.spec.labels()),
            ("pets", &["cat".into(), "dog".into()][..])
        );
        assert_eq!(imported.described_by, ["s3://models/pets/model.json", "s3://models/pets/labels.txt"]);
    }
    // The newest version is what it is, also if it is broken.
    bucket.put("pets/11/model.pt", b"junk").await;
    let error = bucket.import("s3://models/pets").await.unwrap_err();
    assert!(matches!(error, ImportError::Bundle(BundleError::NotTorchScript { .. })), "{error}");
    bucket
        .put(
            "pets/config.pbtxt",
            (PBTXT.to_owned() + " version_policy { specific { versions: 2 } }").as_bytes(),
        )
        .await;
    bucket.import("s3://models/pets").await.unwrap();
    for (from, to, word) in [
        ("32, 32", "64, 32", "height is 64"),
        ("labels.txt", "names.txt", "names.txt"),
        ("dims: [2]", "dims: [3]", "3 numbers"),
        ("pytorch_libtorch", "onnx", "onnx"),
    ] {
        let text = PBTXT.replace(from, to) + " version_policy { specific { versions: 2 } }";
        bucket.put("pets/config.pbtxt", text.as_bytes()).await;
        let error = bucket.import("s3://models/pets").await.unwrap_err();
        assert!(matches!(error, ImportError::Beside { .. }) && error.to_string().contains(word), "{error}");
    }
    let error = bucket.import("s3://models/nothing").await.unwrap_err();
    assert!(matches!(error, ImportError::NoModel { .. }), "{error}");
}

#[tokio::test]
async fn a_local_folder_is_a_model_too() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("vit");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("model.pt"), bare_model()).unwrap();
    std::fs::write(folder.join("config.json"), TWO).unwrap();
    std::fs::write(folder.join("preprocessor_config.json"), VIT).unwrap();
    let given = Location::parse(folder.to_str().unwrap(), Path::new("/")).unwrap();
    let imported = import(&Stores::in_memory(), &given, &dir.path().join("cache")).await.unwrap();
    assert_eq!(imported.spec.labels(), ["cat", "dog"]);
    assert_eq!(std::fs::read(folder.join("model.pt")).unwrap(), bare_model());
}
