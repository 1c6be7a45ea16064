//! `verify`: a complete output of very many small parts, and its audit.
//!
//! Parts and plan files are what a job writes, but written straight into the folder: no queue, no ledger. The manifest
//! is made by `finalize`, so that the end of a huge job is measured as well. The folder stays, for `trawl verify` to be
//! timed on it.

use crate::{
    job,
    servers::{peak_rss, rounded},
};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    time::Instant,
};
use trawl_common::{
    audit::{Depth, audit},
    batch::{BatchNumber, ImageRef},
    finalize::{Finalized, finalize},
    job::JobSpec,
    location::Location,
    offload::offload,
    planning::cut::MAX_PLAN_FILE_IMAGES,
    results::{
        Columns, Cursor, OutputLayout, PartFooter, PlanDone, encode_part,
        plan_file::encode_plan_file,
        row::{ClassScore, Outcome, Prediction, ResultRow},
    },
    storage::Stores,
};

/// What is asked for.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Parts of the output, and batches of its plan
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    parts: u64,
    /// Rows of each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rows: u32,
    /// Leaves the end of the job and the audit to others
    #[arg(long)]
    only_make: bool,
    /// Folder of the output; must be new or empty
    #[arg(long)]
    out: PathBuf,
}

/// Makes the output, finishes it and looks at it.
///
/// # Errors
/// A folder that cannot be written, or an output that is not complete.
pub async fn run(options: &Options) -> Result<Value> {
    let out = job::folder(&options.out)?;
    let spec = job::spec(&out, options.rows)?;
    let (parts, made) = (options.parts, Instant::now());
    let folder = PathBuf::from(&out);
    let made_spec = spec.clone();
    offload(move || make(&folder, &made_spec, parts)).await?;
    let mut report = json!({
        "command": "verify",
        "parts": parts,
        "rows": options.rows,
        "make_seconds": rounded(made.elapsed().as_secs_f64()),
        "rss_before_bytes": peak_rss()?,
    });
    if options.only_make {
        return Ok(report);
    }
    let (stores, place) = (Stores::new(), Location::parse(&out, Path::new("/"))?);
    let began = Instant::now();
    let finalized = finalize(&spec.job, &place, &stores).await?;
    ensure!(matches!(finalized, Finalized::Written(_)), "the output is not complete: {finalized:?}");
    drop(finalized);
    report["finish_seconds"] = json!(rounded(began.elapsed().as_secs_f64()));
    report["rss_after_finish_bytes"] = json!(peak_rss()?);
    let (store, layout) = (stores.open(&place).await, OutputLayout::new(place));
    let (began, mut findings) = (Instant::now(), 0_u64);
    let audit = audit(&*store, &layout, Depth::Footers, &mut |_| findings += 1).await?;
    ensure!(findings == 0 && audit.parts == parts, "{findings} findings, {} parts", audit.parts);
    report["audit_seconds"] = json!(rounded(began.elapsed().as_secs_f64()));
    report["peak_rss_bytes"] = json!(peak_rss()?);
    Ok(report)
}

/// The objects of an output that has all of its parts and no end yet.
fn make(folder: &Path, spec: &JobSpec, parts: u64) -> Result<()> {
    let layout = OutputLayout::new(Location::parse(&spec.out, Path::new("/"))?);
    let write = |key: String, bytes: Bytes| -> Result<()> {
        let name = key.strip_prefix(&layout.prefix()).context("a key of another output")?;
        Ok(std::fs::write(folder.join(name), bytes)?)
    };
    std::fs::create_dir_all(folder.join("_trawl/plan"))?;
    write(layout.job(), spec.to_json().into())?;
    write_plan(spec, parts, |index, bytes| write(layout.plan_file(index), bytes))?;
    let images = parts * u64::from(spec.batch_size);
    let done = PlanDone { batches: parts, images, skipped: 0, unlistable: 0 };
    write(layout.plan_done(), done.to_json())?;
    for batch in (0..parts).map(BatchNumber) {
        write(layout.part(batch), part(spec, batch)?)?;
    }
    Ok(())
}

/// The plan files of so many batches of `spec`, as the planner groups them once the listing runs.
pub(crate) fn write_plan(
    spec: &JobSpec,
    batches: u64,
    mut write: impl FnMut(u32, Bytes) -> Result<()>,
) -> Result<()> {
    let in_a_file = (MAX_PLAN_FILE_IMAGES as u64 / u64::from(spec.batch_size)).max(1);
    for (index, first) in (0..batches).step_by(usize::try_from(in_a_file)?).enumerate() {
        let end = batches.min(first + in_a_file);
        let planned: Vec<Vec<ImageRef>> = (first..end)
            .map(|batch| keys(spec, BatchNumber(batch)).map(|key| ImageRef::whole(key, None, 1)).collect())
            .collect();
        let cursor = Cursor { images: end * u64::from(spec.batch_size), ..Cursor::default() };
        write(u32::try_from(index)?, encode_plan_file(BatchNumber(first), &planned, &cursor)?)?;
    }
    Ok(())
}

/// A part with a row for each of the batch's images.
pub(crate) fn part(spec: &JobSpec, batch: BatchNumber) -> Result<Bytes> {
    let answer = || vec![ClassScore { index: 1, label: Some("class 1".into()), probability: 0.5 }];
    let rows: Vec<ResultRow> = keys(spec, batch)
        .map(|key| ResultRow {
            key,
            etag: None,
            size: 1,
            width: Some(8),
            height: Some(8),
            outcome: Outcome::Ok(Prediction::Classes(answer())),
            carried: Vec::new(),
        })
        .collect();
    let footer = PartFooter::new(spec, batch, "scale-0", "scale").counted(&rows);
    Ok(encode_part(&rows, &Columns::classes(), &footer)?)
}

fn keys(spec: &JobSpec, batch: BatchNumber) -> impl Iterator<Item = String> {
    let size = u64::from(spec.batch_size);
    (batch.0 * size..(batch.0 + 1) * size).map(|number| format!("s3://scale-photos/photos/{number:010}.png"))
}
