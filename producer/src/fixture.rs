//! An output in memory with a plan and parts, for the tests of the commands that read one.

use crate::connect::Context;
use crate::rows::tests::{failed_row, ok_row};
use std::{path::Path, sync::Arc};
use trawl_common::{
    batch::{BatchNumber, ImageRef},
    error_code::ErrorCode,
    job::{Decode, JOB_SPEC_VERSION, JobSpec, ModelRef, Orient, Precision, Truncated},
    location::Location,
    results::{
        Columns, Cursor, Manifest, OutputLayout, PartFooter, PlanDone, encode_part,
        manifest::MANIFEST_VERSION, manifest_pieces, plan_file::encode_plan_file, row::ResultRow,
    },
    storage::Stores,
};

/// The place of the output.
pub(crate) const OUT: &str = "s3://bucket/labels";

/// Images in each of the three planned batches.
const BATCH: usize = 3;

/// The place of the output, parsed.
pub(crate) fn place() -> Location {
    Location::parse(OUT, Path::new("/")).unwrap()
}

/// The spec of the output's job.
pub(crate) fn spec() -> JobSpec {
    JobSpec {
        version: JOB_SPEC_VERSION,
        job: "job-1".parse().unwrap(),
        queue: "default".parse().unwrap(),
        sources: vec!["s3://bucket/photos".into()],
        base_dir: "/".into(),
        include: vec![],
        exclude: vec![],
        select: Default::default(),
        carry: Vec::new(),
        limit: None,
        batch_size: 3,
        out: OUT.into(),
        model: ModelRef { location: "s3://models/m.pt".into(), sha256: "ab".repeat(32) },
        topk: 5,
        decode: Decode::Exact,
        truncated: Truncated::Reject,
        orient: Orient::None,
        precision: Precision::Fp32,
        created_unix_ms: 1_000,
        trace: None,
    }
}

/// The rows of a batch: the first part has no failures, the second two.
fn rows(batch: u64) -> Vec<ResultRow> {
    let key = |i: usize| format!("s3://bucket/photos/{batch}-{i}.jpg");
    match batch {
        0 => (0..BATCH).map(|i| ok_row(&key(i))).collect(),
        _ => vec![
            failed_row(&key(0), ErrorCode::Truncated),
            ok_row(&key(1)),
            failed_row(&key(2), ErrorCode::Corrupt),
        ],
    }
}

/// Surroundings without services.
pub(crate) fn context(stores: Arc<Stores>) -> Context {
    use clap::Parser;
    Context {
        output: trawl_common::config::OutputFormat::Text,
        services: crate::cli::Cli::parse_from(["trawl", "jobs"]).global.services,
        stores,
        base_dir: "/".into(),
        shutdown: trawl_common::shutdown::Shutdown::manual(),
    }
}

/// Three planned batches of three images, and the parts of the first `done`. With all three done the
/// output is complete.
pub(crate) async fn output(done: u64, plan_ended: bool) -> Arc<Stores> {
    output_in_pieces(done, plan_ended, u64::MAX).await
}

/// The same with a manifest in pieces of so many parts.
pub(crate) async fn output_in_pieces(done: u64, plan_ended: bool, parts_a_piece: u64) -> Arc<Stores> {
    let stores = Stores::in_memory();
    let (store, layout, spec) = (stores.open(&place()).await, OutputLayout::new(place()), spec());
    let put = async |key: String, bytes: bytes::Bytes| store.put(&key, bytes).await.unwrap();
    put(layout.job(), spec.to_json().into()).await;
    let image = |key: String| ImageRef::whole(key, None, 1);
    let plan: Vec<Vec<ImageRef>> =
        (0..3).map(|b| rows(b).into_iter().map(|row| image(row.key)).collect()).collect();
    for (index, batches) in [&plan[..1], &plan[1..]].into_iter().enumerate() {
        let images = if index == 0 { 3 } else { 9 };
        let cursor = Cursor { images, ..Cursor::default() };
        let file = encode_plan_file(BatchNumber(index as u64), batches, &cursor).unwrap();
        put(layout.plan_file(u32::try_from(index).unwrap()), file).await;
    }
    if plan_ended {
        let ended = PlanDone { batches: 3, images: 9, skipped: 0, unlistable: 0 };
        put(layout.plan_done(), ended.to_json()).await;
    }
    let mut manifest = Manifest {
        version: MANIFEST_VERSION,
        job: spec.job.clone(),
        batches: 0,
        rows: 0,
        images_ok: 0,
        images_failed: 0,
        errors: Default::default(),
        stages: Default::default(),
        model_sha256: spec.model.sha256.clone(),
        preprocess_sha256: spec.preprocess_digest(),
        created_unix_ms: spec.created_unix_ms,
        finished_unix_ms: 2_000,
        engines: Default::default(),
        trawl: "0.1.0".into(),
        parts: vec![],
        pieces: Vec::new(),
    };
    for batch in (0..done).map(BatchNumber) {
        let rows = rows(batch.0);
        let footer = PartFooter::new(&spec, batch, "attempt", "worker").counted(&rows);
        let part = encode_part(&rows, &Columns::classes(), &footer).unwrap();
        manifest.push(format!("part-{batch}.parquet"), part.len() as u64, &footer);
        put(layout.part(batch), part).await;
    }
    if done == 3 {
        let manifest = manifest_pieces::cut(&*store, &layout, manifest, parts_a_piece).await.unwrap();
        put(layout.manifest(), manifest.to_json()).await;
        put(layout.success(), bytes::Bytes::new()).await;
    }
    stores
}

/// Starts a file that is a bundle in all that `submit` looks at, with its description inside or not.
pub(crate) fn write_bundle(path: &Path, inside: bool) {
    use std::io::Write;
    let mut zip = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("m/{name}"), options).unwrap();
        zip.write_all(bytes).unwrap();
    };
    add("constants.pkl", b"x");
    add("code/__torch__.py", b"x");
    if inside {
        add("extra/trawl.json", DESCRIPTION.as_bytes());
    }
    zip.finish().unwrap();
}

/// A bundle's description.
pub(crate) const DESCRIPTION: &str = r#"{"version": 1, "name": "tiny", "head": "classification", "labels": ["a", "b"],
  "input": {"crop": [8, 8], "resize": 8, "resize_mode": "shortest", "interpolation": "bilinear",
            "mean": [0, 0, 0], "std": [1, 1, 1]}}"#;
