//! The same images from every kind of source: the same predictions, row by row.
//!
//! A folder, SeaweedFS, Azurite and our stub of GCS; archives, tables, lists and an inventory report are written here by
//! hand and by Python's own writers, as users have them. What else the clouds' stores do is in `stores.rs`.

use arrow::array::{ArrayRef, BinaryArray, Int64Array, RecordBatch};
use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};
use std::{
    collections::BTreeMap,
    io::Write,
    process::{Command, Stdio},
    sync::Arc,
};
use tokio::runtime::Runtime;
use trawl_common::{
    planning::contents::packing::Packing,
    results::row::ResultRow,
    storage::{Storage, object::ObjectStorage},
};
use trawl_tests::{
    gcs::Gcs,
    images,
    programs::{Ended, make_model, python, run, tiny_model},
    rows,
    scene::Scene,
    stack::Stack,
};

const IMAGES: u32 = 200;

/// One image at a time: how many go through the model together moves the last bit of a probability.
const ONE_BY_ONE: [&str; 2] = ["--micro-batch", "1"];

struct Rig {
    scene: Scene,
    photos: Vec<(String, Vec<u8>)>,
}

impl Rig {
    fn new(name: &str) -> Self {
        let scene = Scene::new(name);
        let photos: Vec<_> =
            (0..IMAGES).map(|i| (format!("img_{i:03}.png"), images::png(i, 40 + i % 7, 30))).collect();
        let folder = scene.dir.path().join("photos");
        std::fs::create_dir(&folder).unwrap();
        for (name, bytes) in &photos {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
        let keyed = photos.iter().map(|(name, bytes)| (format!("{}{name}", scene.input()), bytes.clone()));
        scene.bucket.upload(keyed);
        Self { scene, photos }
    }

    fn embedded(&self, source: &[&str], out: &str) -> Command {
        let mut command = self.scene.trawl(&["run"]);
        command.args(source).args(["--out", out, "--batch-size", "16", "--output", "json", "--model"]);
        command.arg(tiny_model()).args(ONE_BY_ONE);
        command
    }

    /// Runs over `source` into a folder; the rows by the name of their image.
    fn rows(&self, source: &[&str], out: &str, name: impl Fn(&str) -> String) -> BTreeMap<String, ResultRow> {
        let _ended: Ended = run(&mut self.embedded(source, out)).expect(0);
        self.read(out, name)
    }

    fn read(&self, out: &str, name: impl Fn(&str) -> String) -> BTreeMap<String, ResultRow> {
        let plain = |row: ResultRow| {
            (name(&row.key), ResultRow { key: String::new(), etag: None, carried: Vec::new(), ..row })
        };
        rows::of_folder(&self.scene.dir.path().join(out)).into_iter().map(plain).collect()
    }

    fn url(&self, key: &str) -> String {
        format!("s3://trawl/{}/{key}", self.scene.name)
    }

    fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) -> String {
        self.scene.bucket.upload([(format!("{}/{key}", self.scene.name), bytes.into())]);
        self.url(key)
    }

    fn tar(&self) -> Vec<u8> {
        let mut archive = Packing::default();
        for (name, bytes) in &self.photos {
            archive.add(name, bytes);
            archive.add(&name.replace(".png", ".cls"), b"7");
        }
        archive.end().into()
    }

    fn table(&self) -> Vec<u8> {
        let files = BinaryArray::from_iter_values(self.photos.iter().map(|(_, bytes)| bytes));
        let ids = Int64Array::from_iter_values(0..i64::from(IMAGES));
        let columns: [(&str, ArrayRef); 2] = [("id", Arc::new(ids)), ("image", Arc::new(files))];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let properties = WriterProperties::builder().set_max_row_group_row_count(Some(25)).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
        writer.write(&batch).unwrap();
        writer.into_inner().unwrap()
    }

    /// An S3 Inventory report of the uploaded images, below `inventory/`.
    fn inventory(&self) -> String {
        let rows: String = self
            .photos
            .iter()
            .map(|(name, bytes)| format!("\"trawl\",\"{}{name}\",\"{}\"\n", self.scene.input(), bytes.len()))
            .collect();
        let md5 = |bytes: &[u8]| {
            let mut sum =
                Command::new("md5sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            sum.stdin.take().unwrap().write_all(bytes).unwrap();
            let out = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
            out.split(' ').next().unwrap().to_owned()
        };
        let data = format!("{}/inventory/data/1.csv", self.scene.name);
        let manifest = serde_json::json!({
            "sourceBucket": "trawl", "fileFormat": "CSV", "fileSchema": "Bucket, Key, Size",
            "files": [{"key": data, "size": rows.len(), "MD5checksum": md5(rows.as_bytes())}],
        });
        self.put("inventory/data/1.csv", rows);
        self.put("inventory/now/manifest.checksum", md5(manifest.to_string().as_bytes()));
        self.put("inventory/now/manifest.json", manifest.to_string())
    }
}

/// The clouds beside S3, with the photos below `in/`: their addresses and what the programs must know.
struct Clouds {
    // Ends with the test; Azurite does with its stack.
    _gcs: Gcs,
    _azure: Stack,
    env: Vec<(String, String)>,
    prefixes: [String; 2],
}

impl Clouds {
    fn with(photos: &[(String, Vec<u8>)]) -> Self {
        let (gcs, azure) = (Gcs::start(), Stack::start("azure"));
        Runtime::new().unwrap().block_on(async {
            let container = ObjectStorage::azure_with("trawl", azure.azure()).await;
            for (name, bytes) in photos {
                container.put(&format!("in/{name}"), bytes.clone().into()).await.unwrap();
            }
        });
        for (name, bytes) in photos {
            gcs.insert(&format!("in/{name}"), bytes.clone());
        }
        let mut env: Vec<_> = azure.env.clone().into_iter().collect();
        env.extend(gcs.env().map(|(name, value)| (name.to_owned(), value)));
        let prefixes = ["az://trawl/in/".to_owned(), format!("gs://{}/in/", Gcs::BUCKET)];
        Self { _gcs: gcs, _azure: azure, env, prefixes }
    }
}

fn base_name(key: &str) -> String {
    key.rsplit(['/', '#']).next().unwrap_or_default().to_owned()
}

#[test]
fn every_kind_of_source_gives_the_same_rows() {
    let rig = Rig::new("sources");
    let expected = rig.rows(&["photos"], "of-folder", base_name);
    assert_eq!(expected.len(), IMAGES as usize);
    let check = |what: &str, source: &[&str], out: &str| {
        assert_eq!(rig.rows(source, out, base_name), expected, "{what}");
    };
    check("a prefix", &[&rig.url("in/")], "of-s3");
    let clouds = Clouds::with(&rig.photos);
    for prefix in &clouds.prefixes {
        let out = &format!("of-{}", &prefix[..2]);
        let _ended = run(rig.embedded(&[prefix], out).envs(clouds.env.clone())).expect(0);
        assert_eq!(rig.read(out, base_name), expected, "{prefix}");
    }
    rig.put("shards/000.tar", rig.tar());
    check("an archive", &[&rig.url("shards/{000..009}.tar")], "of-tar");
    std::fs::write(rig.scene.dir.path().join("local.tar"), rig.tar()).unwrap();
    check("a local archive", &["local.tar"], "of-local-tar");
    let keys: String =
        rig.photos.iter().map(|(name, _)| format!("{}{name},x\n", rig.scene.input())).collect();
    let list = rig.put("keys.csv", format!("key,label\n{keys}"));
    check("keys of the list's own bucket", &[&list], "of-csv");
    check("an inventory", &[&rig.inventory()], "of-inventory");
    let table = rig.put("table.parquet", rig.table());
    let of_table = |key: &str| {
        let row: usize = base_name(key).parse().unwrap();
        rig.photos[row].0.clone()
    };
    assert_eq!(rig.rows(&[&table, "--carry", "id:int"], "of-table", of_table), expected, "a table");
    // Names by standard input, below a root.
    let mut command = rig.embedded(&["-", "--root", &rig.url("in")], "of-stdin");
    let mut running = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let names: String = rig.photos.iter().map(|(name, _)| format!("{name}\n")).collect();
    running.stdin.take().unwrap().write_all(names.as_bytes()).unwrap();
    assert!(running.wait().unwrap().success());
    assert_eq!(rig.read("of-stdin", base_name), expected, "standard input");
}

#[test]
fn workers_take_archives_and_tables_and_read_each_byte_about_once() {
    let rig = Rig::new("shards");
    let expected = rig.rows(&["photos"], "of-folder", base_name);
    let shards = rig.put("shards/000.tar", rig.tar());
    let model = tiny_model().to_str().unwrap().to_owned();
    let out = format!("s3://trawl/{}", rig.scene.out());
    let worker = rig.scene.worker(&[&ONE_BY_ONE[..], &["--http", "127.0.0.1:0"]].concat());
    let submit = [
        "submit",
        &shards,
        "--out",
        &out,
        "--queue",
        &rig.scene.name,
        "--batch-size",
        "16",
        "--model",
        &model,
    ];
    let job = trawl_tests::scene::job_id(run(&mut rig.scene.trawl(&submit)));
    rig.scene.wait_complete(&job);
    let rows = rig.scene.bucket.rows(&rig.scene.out()).into_iter();
    let plain = |row: ResultRow| (base_name(&row.key), ResultRow { key: String::new(), etag: None, ..row });
    assert_eq!(rows.map(plain).collect::<BTreeMap<_, _>>(), expected);
    let (read, there) = (worker.metric("trawl_image_bytes_total"), rig.tar().len() as f64);
    assert!(read <= there, "{read} bytes were read of an archive of {there}");
}

#[test]
fn archives_and_tables_that_python_wrote() {
    let rig = Rig::new("python");
    let expected = rig.rows(&["photos"], "of-folder", base_name);
    let script = "
import io, pathlib, sys, tarfile
photos = sorted(pathlib.Path('photos').iterdir())
for name, form in (('pax', tarfile.PAX_FORMAT), ('gnu', tarfile.GNU_FORMAT), ('ustar', tarfile.USTAR_FORMAT)):
    with tarfile.open(f'{name}.tar', 'w', format=form) as archive:
        for photo in photos:
            member = tarfile.TarInfo(('long-' * 30 if name != 'ustar' else '') + photo.name)
            member.size, member.mtime = photo.stat().st_size, 1700000000.25 if name == 'pax' else 1700000000
            archive.addfile(member, io.BytesIO(photo.read_bytes()))
";
    let written = python().current_dir(rig.scene.dir.path()).args(["-c", script]).status().unwrap();
    assert!(written.success());
    for name in ["pax", "gnu", "ustar"] {
        let short = |key: &str| base_name(key).replace("long-", "");
        assert_eq!(rig.rows(&[&format!("{name}.tar")], &format!("of-{name}"), short), expected, "{name}");
    }
}

#[test]
fn failed_images_and_new_ones_are_runs_of_their_own() {
    let rig = Rig::new("again");
    let model = make_model(&["--classes", "7"]).to_str().unwrap().to_owned();
    let broken = rig.scene.dir.path().join("photos/img_007.png");
    std::fs::write(&broken, b"no image").unwrap();
    let json = |arguments: &[&str]| {
        let mut command = rig.scene.trawl(&["run", "--output", "json", "--model", &model]);
        run(command.args(arguments)).expect(0).json()
    };
    let first = json(&["photos", "--out", "first"]);
    assert_eq!(
        (first["images_ok"].as_u64(), first["images_failed"].as_u64()),
        (Some(u64::from(IMAGES) - 1), Some(1))
    );
    std::fs::write(&broken, images::png(7, 40, 30)).unwrap();
    let again = json(&["--from-failures", "first", "--code", "not_an_image", "--out", "again"]);
    assert_eq!(again["images_ok"].as_u64(), Some(1));
    std::fs::write(rig.scene.dir.path().join("photos/new.png"), images::png(99, 40, 30)).unwrap();
    let since = json(&["photos", "--since", "first", "--out", "since"]);
    assert_eq!(since["images_ok"].as_u64(), Some(2), "the mended one and the new one");
}
