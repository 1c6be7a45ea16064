//! `trawl-worker check-model`: does this bundle load, what does it want, what does it answer?
//!
//! Runs the very code that a worker runs on it, so a bundle that passes here works there.

use crate::{
    assemble,
    cli::CheckModelArgs,
    jobs::{Loader, TorchLoader},
    model::{Model, output, verdicts::Verdicts},
    pipeline::sizing::Sizing,
    preprocess::{self, Recipe, Scratch},
};
use anyhow::{Context, Result, anyhow};
use serde_json::json;
use std::time::Instant;
use trawl_common::{
    bundle::BundleSpec,
    config::{OutputFormat, exit},
    job::{Decode, Orient, Precision, Truncated},
    model_file,
    results::row::Prediction,
    telemetry::printable,
};

/// Passes that are timed; the median is shown.
const TIMED_PASSES: usize = 5;

/// Checks the model and prints what it is.
///
/// # Errors
/// If it is no bundle, or does not load or run.
pub async fn check_model(args: CheckModelArgs, format: OutputFormat) -> Result<u8> {
    trawl_common::tls::install_crypto_provider();
    let base_dir = std::env::current_dir().context("the working directory cannot be read")?;
    let place = trawl_common::location::Location::parse(&args.model, &base_dir)?;
    let cache = args.compute.cache_dir();
    if place.is_local() {
        BundleSpec::read(std::path::Path::new(&place.to_string()))?;
    }
    let file = model_file::obtain(&args.compute.stores(), &place, None, &cache).await?;
    let report = tokio::task::spawn_blocking(move || check(&args, &file)).await??;
    match format {
        OutputFormat::Json => println!("{report}"),
        OutputFormat::Text => print_text(&report),
    }
    Ok(exit::OK)
}

fn check(args: &CheckModelArgs, file: &model_file::ModelFile) -> Result<serde_json::Value> {
    let spec = BundleSpec::read(&file.path)?;
    let devices = assemble::devices(&args.compute)?;
    let micro_batch = Sizing::new(args.compute.micro_batch_rule(&devices), None).full();
    let began = Instant::now();
    let shown: Vec<String> = devices.iter().map(ToString::to_string).collect();
    let graph_passes = args.compute.graph_passes;
    let verdicts = Verdicts::of(&args.compute.cache_dir());
    let loader = TorchLoader { devices, graph_passes, verdicts };
    let replicas = loader.load(file, &spec, Precision::Fp32)?;
    let loaded = began.elapsed();
    let model = replicas.first().context("a device has a replica")?;
    let [height, width] = spec.input.crop;
    let rate = measure(&**model, height as usize * width as usize * 3, micro_batch)?;
    let mut report = json!({
        "model": file.path, "sha256": file.sha256, "name": spec.name, "head": spec.heads_in_words(),
        "labels": spec.labels().len(), "outputs": model.width(), "input": spec.input,
        "device": shown.join(","), "load_ms": loaded.as_secs_f64() * 1e3,
        "micro_batch": micro_batch, "forward_images_per_second": rate,
    });
    if let Some(image) = &args.image {
        report["answer"] = answer(&**model, &spec, image)?;
    }
    Ok(report)
}

fn measure(model: &dyn Model, bytes: usize, micro_batch: usize) -> Result<f64> {
    let blank = vec![127_u8; bytes];
    let images = vec![&blank[..]; micro_batch];
    let mut seconds = Vec::with_capacity(TIMED_PASSES);
    for _ in 0..TIMED_PASSES {
        let began = Instant::now();
        model.forward(&images)?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(micro_batch as f64 / seconds[TIMED_PASSES / 2])
}

fn answer(model: &dyn Model, spec: &BundleSpec, image: &std::path::Path) -> Result<serde_json::Value> {
    const SHOWN: usize = 5;
    let bytes = std::fs::read(image).with_context(|| format!("`{}` cannot be read", image.display()))?;
    let recipe = Recipe {
        input: spec.input.clone(),
        decode: Decode::Exact,
        truncated: Truncated::Reject,
        orient: Orient::None,
        limits: preprocess::Limits::default(),
    };
    let prepared = preprocess::prepare(&bytes, &recipe, &mut Scratch::new())
        .map_err(|e| anyhow!("`{}` is not usable: {}: {}", image.display(), e.code, e.message))?;
    let outputs = model.forward(&[&prepared.pixels])?;
    let prediction = output::predict(&outputs, 0, spec, SHOWN, &prepared.placement);
    Ok(shown(&prediction.map_err(anyhow::Error::msg)?, SHOWN))
}

/// A prediction with at most so many of its entries.
fn shown(prediction: &Prediction, most: usize) -> serde_json::Value {
    match prediction {
        Prediction::Classes(classes) | Prediction::Labels(classes) => classes
            .iter()
            .take(most)
            .map(|class| json!({"idx": class.index, "label": class.label, "prob": class.probability}))
            .collect(),
        Prediction::Boxes(found) => found
            .iter()
            .take(most)
            .map(|one| json!({"idx": one.index, "label": one.label, "prob": one.score, "box": one.corners}))
            .collect(),
        Prediction::Vector(values) => {
            json!({"length": values.len(), "first": &values[..most.min(values.len())]})
        }
        Prediction::Tensor(values, shape) => {
            json!({"shape": &shape[..], "first": &values[..most.min(values.len())]})
        }
        Prediction::Several(heads) => {
            heads.iter().map(|(name, answer)| (name.to_string(), shown(answer, most))).collect()
        }
    }
}

fn print_text(report: &serde_json::Value) {
    let input = &report["input"];
    println!(
        "model       {} ({})",
        printable(report["name"].as_str().unwrap_or_default()),
        report["sha256"].as_str().unwrap_or_default()
    );
    println!(
        "head        {} ({} numbers an image, {} labels)",
        report["head"].as_str().unwrap_or_default(),
        report["outputs"],
        report["labels"]
    );
    println!(
        "input       {} pixels, resize {} ({}, {})",
        input["crop"],
        input["resize"],
        input["resize_mode"].as_str().unwrap_or_default(),
        input["interpolation"].as_str().unwrap_or_default()
    );
    println!("normalise   mean {} std {}", input["mean"], input["std"]);
    println!(
        "device      {}, loaded in {:.0} ms",
        report["device"].as_str().unwrap_or_default(),
        report["load_ms"].as_f64().unwrap_or_default()
    );
    println!(
        "forward     {:.1} images/s on one thread, {} at a time",
        report["forward_images_per_second"].as_f64().unwrap_or_default(),
        report["micro_batch"]
    );
    match &report["answer"] {
        serde_json::Value::Array(classes) => {
            for class in classes {
                let name =
                    class["label"].as_str().map_or_else(|| class["idx"].to_string(), ToOwned::to_owned);
                println!("  {:6.3}  {}", class["prob"].as_f64().unwrap_or_default(), printable(&name));
            }
        }
        serde_json::Value::Null => {}
        vector => println!("answer      {vector}"),
    }
}
