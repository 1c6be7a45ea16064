//! `trawl-worker replay OUT KEY`: computes one row of a finished or running job again and shows it beside the stored one.
//!
//! The row goes the whole way that it went in the job: a job of one batch of this one image, with the job's own spec and model,
//! through the same pipeline, into a scratch folder. The job's output is read and never written to.

use crate::{
    assemble::{self, Seams},
    cli::ReplayArgs,
    pipeline::meters::Meters,
    shown::shown,
};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use serde_json::{Value, json};
use std::{path::Path, sync::Arc, time::Duration};
use trawl_common::{
    batch::{BatchNumber, ImageRef},
    broker::{Broker, memory::MemoryBroker},
    config::{OutputFormat, exit},
    job::{JobSpec, ModelRef},
    ledger::memory::MemoryLedger,
    location::Location,
    model_file::{self, ModelFile},
    model_import::import,
    planning::{
        Ready,
        submit::{Enlisting, PUBLISH_WINDOW, enlist},
    },
    results::{
        Cursor, OutputLayout, PartFooter, PlanDone,
        part_rows::read_rows,
        plan_file::{encode_plan_file, read_plan_file},
        row::{ClassScore, FoundBox, Outcome, Prediction, ResultRow},
    },
    shutdown::Shutdown,
    storage::{Storage, StorageError, Stores},
    telemetry::printable,
    tls,
};

/// A larger plan file or part is refused.
const MAX_FILE_BYTES: u64 = 1 << 30;
/// A larger spec is none.
const MAX_SPEC_BYTES: u64 = 16 << 20;
/// Between two looks at whether the batch was given up.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Values of a vector that are shown.
const SHOWN: usize = 4;

/// Computes the row again; the answer is the exit code: 0 the same, 1 another, 4 no such row.
///
/// # Errors
/// If the output, the model or the image cannot be used.
pub async fn replay(args: ReplayArgs, format: OutputFormat, shutdown: Shutdown) -> Result<u8> {
    tls::install_crypto_provider();
    let base_dir = std::env::current_dir().context("the working directory cannot be read")?;
    let stores = args.compute.stores();
    let out = Location::parse(&args.out, &base_dir)?;
    let (layout, store) = (OutputLayout::new(out.clone()), stores.open(&out).await);
    let Some(spec) = get(&*store, &layout.job(), MAX_SPEC_BYTES).await? else {
        eprintln!("error: `{out}` is not the output of a job: it has no _trawl/job.json");
        return Ok(exit::NOT_FOUND);
    };
    let spec = JobSpec::parse(&spec)?;
    let Some((batch, image)) = find(&*store, &layout, &args.key).await? else {
        eprintln!(
            "error: `{}` has no image `{}` in its plan: keys are whole names, as `trawl results {out}` shows them",
            printable(&spec.out),
            printable(&args.key)
        );
        return Ok(exit::NOT_FOUND);
    };
    let Some(part) = get(&*store, &layout.part(batch), MAX_FILE_BYTES).await? else {
        eprintln!(
            "error: batch {batch} of `{}`, which the image is in, has no part yet",
            printable(&spec.out)
        );
        return Ok(exit::NOT_FOUND);
    };
    let stored = row_of(part, &args.key)?
        .with_context(|| format!("part {batch} has no row of the image; `trawl verify` says more"))?;
    let cache = args.compute.cache_dir();
    let model = match &args.model {
        Some(given) => import(&stores, &Location::parse(given, &base_dir)?, &cache).await?.file,
        None => {
            let place = Location::parse(&spec.model.location, Path::new("/"))?;
            model_file::of_job(&stores, &spec, &place, &out, &cache).await?
        }
    };
    let again = once_more(&args, &spec, image, model, &stores, &shutdown).await?;
    let compared = Compared::of(&stored.row, &again.row, args.tolerance);
    let report = json!({
        "key": args.key, "batch": batch.0, "same": compared.same, "same_top1": compared.same_top1,
        "max_difference": compared.difference, "tolerance": args.tolerance,
        "stored": stored.json(), "replayed": again.json(),
    });
    match format {
        OutputFormat::Json => println!("{report}"),
        OutputFormat::Text => print_text(&report),
    }
    Ok(if compared.same { exit::OK } else { exit::FAILED })
}

/// An object, unless it is not there.
async fn get(store: &dyn Storage, key: &str, most: u64) -> Result<Option<Bytes>, StorageError> {
    match store.get(key, most).await {
        Ok(object) => Ok(Some(object.bytes)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The image of that key in the plan, with its batch.
async fn find(
    store: &dyn Storage,
    layout: &OutputLayout,
    key: &str,
) -> Result<Option<(BatchNumber, ImageRef)>> {
    for index in 0.. {
        let Some(bytes) = get(store, &layout.plan_file(index), MAX_FILE_BYTES).await? else { break };
        let batches = tokio::task::spawn_blocking(move || read_plan_file(bytes)).await??;
        for (number, images) in batches {
            if let Some(image) = images.into_iter().find(|image| image.key == key) {
                return Ok(Some((number, image)));
            }
        }
    }
    Ok(None)
}

/// A row and what its part says.
struct Known {
    row: ResultRow,
    footer: PartFooter,
}

fn row_of(part: Bytes, key: &str) -> Result<Option<Known>> {
    let footer = PartFooter::read(&part, part.len() as u64)?;
    let row = read_rows(part)?.into_iter().find(|row| row.key == key);
    Ok(row.map(|row| Known { row, footer }))
}

/// Runs the image through the pipeline, as a job of its own.
async fn once_more(
    args: &ReplayArgs,
    spec: &JobSpec,
    image: ImageRef,
    model: ModelFile,
    stores: &Arc<Stores>,
    shutdown: &Shutdown,
) -> Result<Known> {
    let scratch = tempfile::tempdir().context("there is no room for a scratch folder")?;
    let here = Location::parse(&scratch.path().to_string_lossy(), Path::new("/"))?;
    let spec = JobSpec {
        out: here.to_string(),
        model: ModelRef { location: model.path.display().to_string(), sha256: model.sha256.clone() },
        trace: None,
        ..spec.clone()
    };
    let (layout, store) = (OutputLayout::new(here.clone()), stores.open(&here).await);
    let (key, plan) = (
        image.key.clone(),
        encode_plan_file(BatchNumber(0), &[vec![image]], &Cursor { images: 1, ..Cursor::default() })?,
    );
    store.put(&layout.job(), spec.to_json().into()).await?;
    store.put(&layout.plan_file(0), plan).await?;
    let done = PlanDone { batches: 1, images: 1, skipped: 0, unlistable: 0 };
    store.put(&layout.plan_done(), done.to_json()).await?;

    let compute = args.compute.clone();
    let devices = tokio::task::spawn_blocking(move || assemble::devices(&compute)).await??;
    let (broker, ledger) = (Arc::new(MemoryBroker::default()), Arc::new(MemoryLedger::new()));
    let seams = Seams {
        broker: broker.clone(),
        ledger: ledger.clone(),
        stores: stores.clone(),
        worker: assemble::worker_name(),
        meters: Arc::new(Meters::new()),
    };
    let (pipeline, threads) =
        assemble::pipeline(&args.compute, devices, 1, spec.queue.clone(), seams, Some(model));
    let pipeline = Arc::new(pipeline);
    pipeline.jobs.model(&spec).await.context("the model cannot be used")?;
    broker.ensure_queue(&spec.queue).await?;
    let consumer = broker.consume(&spec.queue, 1).await?;
    let enlisting = Enlisting {
        spec: &spec,
        stores,
        broker: &*broker,
        ledger: &*ledger,
        window: PUBLISH_WINDOW,
        ready: Ready::All,
    };
    enlist(enlisting, &mut |_| {}, &shutdown.draining).await?;
    let mut finished = pipeline.finished.subscribe();
    let serving = {
        let (pipeline, shutdown) = (pipeline.clone(), shutdown.clone());
        tokio::spawn(async move { pipeline.serve(consumer, &shutdown, Duration::ZERO).await })
    };
    let ended = loop {
        tokio::select! {
            changed = finished.changed() => break changed.map_err(|_| anyhow!("the pipeline ended early")),
            () = shutdown.draining.cancelled() => break Err(anyhow!("interrupted")),
            () = tokio::time::sleep(LOOK_EVERY) => {
                if let Some(dead) = broker.dead_letters().first() {
                    break Err(anyhow!("the image could not be computed again: {}", dead.reason));
                }
            }
        }
    };
    shutdown.drain();
    let drained = serving.await?;
    // A thread may be in a forward pass of any length; the process ends without it.
    std::mem::forget(threads);
    ended?;
    drained?;
    let Some(part) = get(&*store, &layout.part(BatchNumber(0)), MAX_FILE_BYTES).await? else {
        bail!("the image was computed and its part is not there");
    };
    row_of(part, &key)?.context("the image was computed and its row is not there")
}

/// How two rows compare.
#[derive(Debug, PartialEq)]
struct Compared {
    same: bool,
    /// None for what has no classes.
    same_top1: Option<bool>,
    /// The largest difference of a probability, of a number, or of a box's corner as a share of the image's longer side;
    /// none where nothing can be compared.
    difference: Option<f64>,
}

impl Compared {
    fn of(stored: &ResultRow, again: &ResultRow, tolerance: f64) -> Self {
        let (a, b) = match (&stored.outcome, &again.outcome) {
            (Outcome::Ok(a), Outcome::Ok(b)) | (Outcome::OkTruncated(a), Outcome::OkTruncated(b)) => (a, b),
            (Outcome::Failed { code: a, .. }, Outcome::Failed { code: b, .. }) => {
                return Self { same: a == b, same_top1: None, difference: None };
            }
            _ => return Self { same: false, same_top1: None, difference: None },
        };
        let side = stored.width.max(stored.height).unwrap_or(1).max(1);
        Self::of_answers(a, b, side, tolerance)
    }

    /// Of an image whose longer side has `side` pixels.
    fn of_answers(a: &Prediction, b: &Prediction, side: u32, tolerance: f64) -> Self {
        let of = |difference: f64, same_top1| Self {
            same: difference <= tolerance && same_top1 != Some(false),
            same_top1,
            difference: Some(difference),
        };
        let other = || Self { same: a == b, same_top1: None, difference: None };
        match (a, b) {
            (Prediction::Classes(a), Prediction::Classes(b)) => {
                let first = a.first().map(|c| c.index) == b.first().map(|c| c.index);
                of(apart_by_class(a, b), Some(first))
            }
            (Prediction::Labels(a), Prediction::Labels(b)) if a.len() == b.len() => {
                of(apart_by_class(a, b), None)
            }
            (Prediction::Boxes(a), Prediction::Boxes(b)) if a.len() == b.len() => {
                let alike = a.iter().zip(b).all(|(a, b)| a.index == b.index);
                let worst = a.iter().zip(b).map(|(a, b)| apart_by_box(a, b, side)).fold(0.0, f64::max);
                if alike { of(worst, None) } else { other() }
            }
            (Prediction::Vector(a), Prediction::Vector(b)) if a.len() == b.len() => of(apart(a, b), None),
            (Prediction::Tensor(a, shape), Prediction::Tensor(b, shaped)) if shape == shaped => {
                of(apart(a, b), None)
            }
            (Prediction::Several(a), Prediction::Several(b)) if a.len() == b.len() => {
                let heads = a.iter().zip(b).map(|((_, a), (_, b))| Self::of_answers(a, b, side, tolerance));
                let all = Self { same: true, same_top1: None, difference: None };
                heads.fold(all, |all, head| Self {
                    same: all.same && head.same,
                    same_top1: match (all.same_top1, head.same_top1) {
                        (Some(a), Some(b)) => Some(a && b),
                        (a, b) => a.or(b),
                    },
                    difference: match (all.difference, head.difference) {
                        (Some(a), Some(b)) => Some(f64::max(a, b)),
                        (a, b) => a.or(b),
                    },
                })
            }
            _ => other(),
        }
    }
}

/// The largest difference of two vectors' numbers.
fn apart(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max)
}

/// The larger of the differences of a score and of a corner. A corner's is a share of the image's longer side: a number
/// of pixels would mean another thing for a thumbnail than for a scan, and one tolerance is for both.
fn apart_by_box(a: &FoundBox, b: &FoundBox, side: u32) -> f64 {
    let score = f64::from((a.score - b.score).abs());
    score.max(apart(&a.corners, &b.corners) / f64::from(side))
}

/// The largest difference of a class's probability.
fn apart_by_class(a: &[ClassScore], b: &[ClassScore]) -> f64 {
    // A class at the end of one list may be missing from the other; it is not more probable than the last.
    let of = |list: &[ClassScore], index| {
        let there = list.iter().find(|class| class.index == index).or(list.last());
        there.map_or(0.0, |class| f64::from(class.probability))
    };
    let worst = |all: &[ClassScore]| {
        all.iter().map(|class| (of(a, class.index) - of(b, class.index)).abs()).fold(0.0, f64::max)
    };
    worst(a).max(worst(b))
}

impl Known {
    fn json(&self) -> Value {
        let (status, prediction) = match &self.row.outcome {
            Outcome::Ok(prediction) => ("ok".to_owned(), Some(prediction)),
            Outcome::OkTruncated(prediction) => ("ok (truncated)".to_owned(), Some(prediction)),
            Outcome::Failed { code, message } => (format!("{code}: {message}"), None),
        };
        let answer = prediction.map_or(Value::Null, |prediction| shown(prediction, SHOWN.max(10)));
        json!({
            "status": status, "answer": answer, "etag": self.row.etag, "size": self.row.size,
            "model_sha256": self.footer.model_sha256, "preprocess_sha256": self.footer.preprocess_sha256,
            "engine": self.footer.engine, "worker": self.footer.worker,
        })
    }
}

/// Two columns, and the verdict.
fn print_text(report: &Value) {
    let text = |value: &Value| match value {
        Value::String(text) => printable(text),
        Value::Null => String::new(),
        other => printable(&other.to_string()),
    };
    let line = |name: &str, of: &dyn Fn(&Value) -> String| {
        println!("{name:10}  {:44}  {}", of(&report["stored"]), of(&report["replayed"]));
    };
    println!("{}", text(&report["key"]));
    println!("{:10}  {:44}  replayed", "", "stored");
    line("status", &|row| text(&row["status"]));
    line("model", &|row| text(&row["model_sha256"]).chars().take(12).collect());
    line("engine", &|row| {
        ["trawl", "torch", "device", "precision"]
            .iter()
            .filter_map(|field| row["engine"][field].as_str().filter(|value| !value.is_empty()))
            .map(printable)
            .collect::<Vec<_>>()
            .join(" ")
    });
    let rows = |row: &Value| row["answer"].as_array().map_or(0, Vec::len);
    for i in 0..rows(&report["stored"]).max(rows(&report["replayed"])) {
        line(&format!("{}.", i + 1), &|row| {
            let class = &row["answer"][i];
            let name = class["label"].as_str().map_or_else(|| text(&class["idx"]), printable);
            let corners = class["box"].as_array().map_or(String::new(), |corners| {
                let pixels: Vec<_> =
                    corners.iter().filter_map(Value::as_f64).map(|c| format!("{c:.1}")).collect();
                format!("  [{}]", pixels.join(" "))
            });
            class["prob"].as_f64().map_or(String::new(), |p| format!("{p:.6}  {name}{corners}"))
        });
    }
    if report["stored"]["answer"].is_object() {
        line("vector", &|row| text(&row["answer"]["first"]));
    }
    let difference = report["max_difference"].as_f64().map_or_else(
        || "the rows cannot be compared number by number".to_owned(),
        |d| format!("largest difference {d:.2e}, {} is allowed", report["tolerance"]),
    );
    let verdict = if report["same"] == true { "the same" } else { "DIFFERENT" };
    let top1 = match report["same_top1"].as_bool() {
        Some(true) => ", the same first class",
        Some(false) => ", another first class",
        None => "",
    };
    println!("{verdict}: {difference}{top1}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_common::{error_code::ErrorCode, results::row::ClassScore};

    fn row(outcome: Outcome) -> ResultRow {
        ResultRow {
            key: "k".into(),
            etag: None,
            size: 1,
            width: None,
            height: None,
            carried: Default::default(),
            outcome,
        }
    }

    fn classes(scores: &[(i32, f32)]) -> ResultRow {
        let score = |&(index, probability)| ClassScore { index, label: None, probability };
        row(Outcome::Ok(Prediction::Classes(scores.iter().map(score).collect())))
    }

    fn boxes(found: &[(i32, f32, [f32; 4])]) -> Prediction {
        let one = |&(index, score, corners)| FoundBox { corners, index, label: None, score };
        Prediction::Boxes(found.iter().map(one).collect())
    }

    #[test]
    fn boxes_are_the_same_by_class_score_and_corners() {
        let of_image = |answer: Prediction| ResultRow {
            width: Some(1000),
            height: Some(2000),
            ..row(Outcome::Ok(answer))
        };
        let (first, second) = ((1, 0.9, [10.0, 20.0, 30.0, 40.0]), (2, 0.5, [0.0; 4]));
        let stored = of_image(boxes(&[first, second]));
        let compare = |answer: Prediction| Compared::of(&stored, &of_image(answer), 1e-3);
        let of = |same, difference| Compared { same, same_top1: None, difference };
        assert_eq!(compare(boxes(&[first, second])), of(true, Some(0.0)));
        // A pixel of 2000 is within a thousandth, four are not; nor is a score of a hundredth more.
        let moved = |by: f32| boxes(&[(1, 0.9, [10.0, 20.0, 30.0, 40.0 + by]), second]);
        assert_eq!(compare(moved(1.0)), of(true, Some(0.0005)));
        assert_eq!(compare(moved(-4.0)), of(false, Some(0.002)));
        assert!(!compare(boxes(&[(1, 0.91, first.2), second])).same);
        // Another class, one box less, none at all.
        assert_eq!(compare(boxes(&[(3, 0.9, first.2), second])), of(false, None));
        assert_eq!(compare(boxes(&[first])), of(false, None));
        assert_eq!(compare(boxes(&[])), of(false, None));
        // Beside other heads.
        let beside = |found| {
            of_image(Prediction::Several(vec![
                ("look".into(), Prediction::Vector(vec![1.0])),
                ("things".into(), found),
            ]))
        };
        let both = Compared::of(&beside(boxes(&[first, second])), &beside(moved(-4.0)), 1e-3);
        assert_eq!(both, of(false, Some(0.002)));
    }

    #[test]
    fn rows_are_the_same_within_the_tolerance_and_with_the_same_first_class() {
        let stored = classes(&[(3, 0.5), (1, 0.25)]);
        let compare = |again: &ResultRow| Compared::of(&stored, again, 1e-3);
        assert_eq!(
            compare(&stored.clone()),
            Compared { same: true, same_top1: Some(true), difference: Some(0.0) }
        );
        assert!(compare(&classes(&[(3, 0.5005), (1, 0.25)])).same);
        assert!(!compare(&classes(&[(3, 0.52), (1, 0.25)])).same);
        let swapped = compare(&classes(&[(1, 0.5), (3, 0.25)]));
        assert_eq!((swapped.same, swapped.same_top1, swapped.difference), (false, Some(false), Some(0.25)));
        // Two classes that are as good as equal at the list's end.
        assert!(compare(&classes(&[(3, 0.5), (2, 0.2501)])).same);
        let failed = |code| row(Outcome::Failed { code, message: "m".into() });
        assert!(!compare(&failed(ErrorCode::Corrupt)).same);
        assert!(Compared::of(&failed(ErrorCode::Corrupt), &failed(ErrorCode::Corrupt), 0.0).same);
        let vector = |values: &[f32]| row(Outcome::Ok(Prediction::Vector(values.to_vec())));
        assert_eq!(Compared::of(&vector(&[1.0, 2.0]), &vector(&[1.0, 2.5]), 0.1).difference, Some(0.5));
        assert!(!Compared::of(&vector(&[1.0]), &vector(&[1.0, 2.0]), 9.0).same);
    }
}
