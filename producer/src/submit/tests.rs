//! Submitting with every seam in memory: what is made, what is refused, what a second try does.

use super::*;
use crate::{cli::Cli, cli::Command, fixture};
use clap::Parser;
use trawl_common::{broker::memory::MemoryBroker, ledger::memory::MemoryLedger};

struct Bench {
    dir: tempfile::TempDir,
    stores: Arc<Stores>,
    broker: MemoryBroker,
    ledger: MemoryLedger,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("photos")).unwrap();
        for i in 0..5 {
            std::fs::write(dir.path().join(format!("photos/{i}.jpg")), "jpeg").unwrap();
        }
        fixture::write_bundle(&dir.path().join("m.pt"), true);
        Self {
            dir,
            stores: Stores::in_memory(),
            broker: MemoryBroker::default(),
            ledger: MemoryLedger::default(),
        }
    }

    async fn prepare(&self, flags: &str) -> Result<Prepared, Stop> {
        let line =
            format!("trawl submit photos --model m.pt --out s3://bucket/labels --batch-size 2 {flags}");
        let Command::Submit(args) = Cli::parse_from(line.split_whitespace()).command else {
            panic!("submit")
        };
        prepare(&args.job, self.dir.path(), &self.stores, &self.dir.path().join("cache")).await
    }

    async fn place(&self, prepared: &Prepared, cancel: &CancellationToken) -> Result<Submitted, Stop> {
        let services = Services { stores: &self.stores, broker: &self.broker, ledger: &self.ledger };
        place(services, prepared, trawl_common::planning::Ready::DEFAULT, &mut |_| {}, cancel).await
    }

    async fn queued(&self) -> u64 {
        let depth = self.broker.depth(&"default".parse().unwrap()).await.unwrap();
        depth.map_or(0, |depth| depth.ready)
    }

    async fn keys(&self) -> Vec<String> {
        use futures::TryStreamExt;
        let store = self.stores.open(&fixture::place()).await;
        let pages: Vec<_> = store.list("", None).try_collect().await.unwrap();
        pages.into_iter().flat_map(|page| page.objects).map(|object| object.key).collect()
    }
}

#[tokio::test]
async fn a_new_job_then_the_same_again() {
    let (bench, go_on) = (Bench::new(), CancellationToken::new());
    let prepared = bench.prepare("").await.unwrap();
    let submitted = bench.place(&prepared, &go_on).await.unwrap();
    let planned = submitted.planned.unwrap();
    assert_eq!((planned.images, planned.batches, planned.published), (5, 3, 3));
    assert_eq!(bench.queued().await, 3);
    let model = format!("labels/_trawl/model-{}.pt", prepared.model.sha256);
    assert!(bench.keys().await.contains(&model), "the model is where the spec says");
    assert_eq!(submitted.spec.model.location, format!("s3://bucket/{model}"));

    let again = bench.place(&bench.prepare("").await.unwrap(), &go_on).await.unwrap();
    assert!(matches!(again.opened, Opened::Resumed));
    assert_eq!(again.spec.job, submitted.spec.job);
    let mut out = Vec::new();
    announce(&again, OutputFormat::Text, &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), format!("{}\n", submitted.spec.job), "the id alone");
    let mut out = Vec::new();
    announce(&again, OutputFormat::Json, &mut out).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!((json["resumed"].as_bool(), json["images"].as_u64()), (Some(true), Some(5)));
    assert_eq!(json["job"], submitted.spec.job.as_str());
}

#[tokio::test]
async fn other_work_in_the_output_is_refused_with_the_differences() {
    let (bench, go_on) = (Bench::new(), CancellationToken::new());
    bench.place(&bench.prepare("").await.unwrap(), &go_on).await.unwrap();
    let queued = bench.queued().await;
    let stop = bench.place(&bench.prepare("--topk 3").await.unwrap(), &go_on).await.unwrap_err();
    assert_eq!(stop.code, exit::USAGE);
    assert!(stop.message.contains("topk") && stop.message.contains("--out"), "{}", stop.message);
    assert_eq!(bench.queued().await, queued, "nothing was enqueued");
}

#[tokio::test]
async fn nothing_is_written_for_a_source_without_images_or_a_stopped_command() {
    let bench = Bench::new();
    let stop = bench
        .place(&bench.prepare("--include *.png").await.unwrap(), &CancellationToken::new())
        .await
        .unwrap_err();
    assert_eq!(stop.code, exit::NOT_FOUND, "{}", stop.message);
    let stopped = CancellationToken::new();
    stopped.cancel();
    let stop = bench.place(&bench.prepare("").await.unwrap(), &stopped).await.unwrap_err();
    assert_eq!(stop.code, exit::INTERRUPTED);
    assert!(stop.message.contains("same command"), "{}", stop.message);
    assert_eq!(bench.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_bundle_is_refused_before_anything_is_made() {
    let bench = Bench::new();
    let model = bench.dir.path().join("m.pt");
    fixture::write_bundle(&model, false);
    assert_eq!(bench.prepare("").await.unwrap_err().code, exit::USAGE);
    std::fs::write(model.with_extension("json"), "{}").unwrap();
    let stop = bench.prepare("").await.unwrap_err();
    assert_eq!(stop.code, exit::USAGE);
    assert!(stop.message.contains("m.json"), "{}", stop.message);
    fixture::write_bundle(&model, true);
    bench.prepare("").await.unwrap();
    std::fs::write(&model, "no zip").unwrap();
    assert_eq!(bench.prepare("").await.unwrap_err().code, exit::USAGE);
    std::fs::remove_file(&model).unwrap();
    let stop = bench.prepare("").await.unwrap_err();
    assert_eq!(stop.code, exit::USAGE);
    assert!(stop.lines().contains("hint:"), "{}", stop.lines());
    assert_eq!(bench.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_description_beside_the_model_travels_inside_it() {
    let bench = Bench::new();
    let model = bench.dir.path().join("m.pt");
    fixture::write_bundle(&model, false);
    let bare = std::fs::read(&model).unwrap();
    std::fs::write(model.with_extension("json"), fixture::DESCRIPTION).unwrap();
    let prepared = bench.prepare("").await.unwrap();
    let again = bench.prepare("").await.unwrap();
    assert!(prepared.spec.same_work(&again.spec), "the same files are the same job");
    assert_eq!(std::fs::read(&model).unwrap(), bare, "the model stays as it is");
    bench.place(&prepared, &CancellationToken::new()).await.unwrap();
    // Whoever gets it from the output needs nothing else.
    let sha256 = &prepared.spec.model.sha256;
    let place = Location::parse(&prepared.spec.model.location, Path::new("/")).unwrap();
    let stored = bench.stores.open(&place).await.get(place.key(), 1 << 20).await.unwrap();
    assert_eq!(hex_sha256(&stored.bytes), *sha256);
    let copy = bench.dir.path().join("copy.pt");
    std::fs::write(&copy, stored.bytes).unwrap();
    let spec = trawl_common::bundle::BundleSpec::read(&copy).unwrap();
    assert_eq!(spec, trawl_common::bundle::BundleSpec::parse(fixture::DESCRIPTION.as_bytes()).unwrap());
}

#[tokio::test]
async fn a_complete_output_is_nothing_to_do() {
    let bench = Bench { stores: fixture::output(3, true).await, ..Bench::new() };
    let spec = fixture::spec();
    let model = ModelFile { path: bench.dir.path().join("m.pt"), sha256: spec.model.sha256.clone() };
    let submitted = bench.place(&Prepared { spec, model }, &CancellationToken::new()).await.unwrap();
    assert!(matches!(submitted.opened, Opened::AlreadyComplete));
    let mut out = Vec::new();
    announce(&submitted, OutputFormat::Text, &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), "job-1\n");
    assert_eq!(bench.queued().await, 0);
}

/// A dry run as people and as programs see it.
async fn dry(bench: &Bench, flags: &str) -> (String, serde_json::Value) {
    let prepared = bench.prepare(flags).await.unwrap();
    let found = trawl_common::planning::dry_run(&prepared.spec, &bench.stores).await.unwrap();
    let print = |output| {
        let mut out = Vec::new();
        dry_run::print(&prepared.spec, &found, None, output, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    (print(OutputFormat::Text), serde_json::from_str(&print(OutputFormat::Json)).unwrap())
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_taken() {
    let bench = Bench::new();
    let (text, json) = dry(&bench, "").await;
    assert!(text.contains("5 with 20 bytes in 3 batches") && text.contains("photos/0.jpg"), "{text}");
    assert!(text.contains("left out    0 objects\n"), "{text}");
    assert_eq!((json["images"].as_u64(), json["by_extension"]["jpg"].as_u64()), (Some(5), Some(5)));
    assert!(json.get("estimate").is_none(), "{json}");
    assert_eq!(bench.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_dry_run_says_how_large_the_images_are_and_what_is_left_out() {
    let bench = Bench::new();
    let write = |name: &str, bytes: usize| {
        std::fs::write(bench.dir.path().join("photos").join(name), vec![b'x'; bytes]).unwrap();
    };
    write("notes.txt", 1);
    write("large.jpg", 3_000_000);
    write("empty.jpg", 0);
    write("5-thumb.jpg", 1000);
    let (text, json) = dry(&bench, "--exclude *-thumb.*").await;
    for part in [
        "sizes       488 KiB on average, 2.9 MiB in all\n",
        "\n                0 B - 1 KiB   5  ##############################\n",
        "\n              1 MiB - 4 MiB   1  ######\n",
        "\n            empty or unknown  1\n",
        "left out    2 objects: 1 without an image's extension, 1 matched by --exclude\n",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let buckets = json["size_histogram"].as_array().unwrap();
    let images = |n: usize| buckets[n]["images"].as_u64().unwrap();
    assert_eq!((buckets.len(), images(0), images(6)), (12, 5, 1), "{json}");
    assert_eq!((&json["size_unknown"], &json["mean_bytes"]), (&1.into(), &500_003.into()));
    let by = &json["skipped_by"];
    assert_eq!(
        (&json["skipped"], &by["not_an_image"], &by["excluded"], &by["size"]),
        (&2.into(), &1.into(), &1.into(), &0.into())
    );
    let (_, json) = dry(&bench, "--min-size 1MB").await;
    assert_eq!((&json["images"], &json["skipped_by"]["size"]), (&2.into(), &6.into()), "{json}");
}
