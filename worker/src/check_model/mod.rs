//! `trawl-worker check-model`: does this model load, what does it want, what does it cost, what does it answer?
//!
//! Runs the very code that a worker runs on it, so a model that passes here works there. Looks at one thread of one device;
//! `bench` measures a whole machine.

mod words;

use crate::{
    assemble,
    bench::sample,
    cli::CheckModelArgs,
    jobs::{Loader, TorchLoader},
    model::{Device, GraphPasses, Model, network, output, verdicts::Verdicts},
    pipeline::sizing::Sizing,
    preprocess::{self, Recipe, Scratch},
    shown::shown,
};
use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use std::{path::PathBuf, time::Instant};
use trawl_common::{
    bundle::{BundleFormat, BundleSpec, weight_bytes},
    config::{OutputFormat, exit},
    job::{Decode, Orient, Precision, Truncated},
    location::Location,
    model_import::{Imported, import},
    telemetry::printable,
    tls,
};

/// Passes of each size that are timed; the median is shown.
const TIMED_PASSES: usize = 3;

/// A larger micro-batch is the knee only if it makes so many times the images a second.
const WORTH: f64 = 1.03;

/// Photos that `make demo` unpacks; one of them is shown the model's answer on unless a file is given.
const DEMO_PHOTOS: &str = ".demo/photos";

/// Without any photo one of this size is drawn.
const DRAWN_SIZE: [usize; 2] = [500, 375];

/// Answers that are shown.
const SHOWN: usize = 5;

/// Checks the model and prints what it is.
///
/// # Errors
/// If it is no model, nobody describes it, or it does not load or run.
pub async fn check_model(args: CheckModelArgs, format: OutputFormat) -> Result<u8> {
    tls::install_crypto_provider();
    let base_dir = std::env::current_dir().context("the working directory cannot be read")?;
    let place = Location::parse(&args.model, &base_dir)?;
    let imported = import(&args.compute.stores(), &place, &args.compute.cache_dir()).await?;
    let (report, devices) = tokio::task::spawn_blocking(move || check(&args, &imported)).await??;
    let mut report = report;
    for (device, bytes) in network::device_memories(&devices).await {
        report["device_memory_bytes"][device.to_string()] = bytes.into();
    }
    match format {
        OutputFormat::Json => println!("{report}"),
        OutputFormat::Text => print_text(&report),
    }
    Ok(exit::OK)
}

fn check(args: &CheckModelArgs, imported: &Imported) -> Result<(Value, Vec<Device>)> {
    let Imported { file, spec, described_by, .. } = imported;
    let devices = assemble::devices(&args.compute)?;
    let full = Sizing::new(args.compute.micro_batch_rule(&devices), None).full();
    let (before, began) = (resident(), Instant::now());
    let (graph_passes, verdicts) = (args.compute.graph_passes, Verdicts::of(&args.compute.cache_dir()));
    let loader = TorchLoader { devices: devices.clone(), graph_passes, verdicts: verdicts.clone() };
    let replicas = loader.load(file, spec, Precision::Fp32)?;
    let loaded = began.elapsed();
    let model = replicas.first().context("a device has a replica")?;
    let [height, width] = spec.input.crop;
    let measured = climb(&**model, height as usize * width as usize * 3, full)?;
    let knee = measured.last().context("a size was measured")?;
    let format = BundleFormat::of(&file.path)?;
    let weights = weight_bytes(&file.path)?;
    let more = |resident: u64| resident.saturating_sub(before);
    let mut report = json!({
        "model": file.path, "described_by": described_by, "sha256": file.sha256, "name": spec.name,
        "format": match format { BundleFormat::TorchScript => "TorchScript", BundleFormat::Exported => "torch.export" },
        "file_bytes": std::fs::metadata(&file.path)?.len(),
        "weight_bytes": weights, "parameters": weights / size_of::<f32>() as u64,
        "head": spec.heads_in_words(), "labels": spec.labels().len(),
        "first_labels": spec.labels().iter().take(SHOWN).collect::<Vec<_>>(),
        "outputs": model.width(), "input": spec.input, "preprocessing": words::preprocessing(&spec.input),
        "engine": loader.engine(Precision::Fp32), "device": loader.engine(Precision::Fp32).device,
        "load_ms": loaded.as_secs_f64() * 1e3,
        "graph_passes": verdict(format, graph_passes, verdicts.on(&file.sha256, devices[0]).known()),
        "micro_batch": knee.size, "forward_images_per_second": knee.rate,
        "memory_bytes": { "one": more(measured[0].resident), "knee": more(knee.resident) },
    });
    let (shown, bytes) = photo(args)?;
    report["photo"] = shown.into();
    report["answer"] = answer(&**model, spec, &bytes).with_context(|| report["photo"].to_string())?;
    Ok((report, devices))
}

/// What the graph passes came to, in words.
fn verdict(format: BundleFormat, asked: GraphPasses, known: Option<bool>) -> &'static str {
    match (format, asked, known) {
        (BundleFormat::Exported, ..) => "none: a torch.export graph runs as it is",
        (_, GraphPasses::Off, _) => "off",
        (_, GraphPasses::On, Some(true)) => "applied: the answers are the same",
        (_, GraphPasses::On, Some(false)) => "left out: they would change the answers",
        (_, GraphPasses::On, None) => "nothing to change",
    }
}

/// One size of a micro-batch.
struct Measured {
    size: usize,
    /// Images a second.
    rate: f64,
    /// Bytes of the process that are in memory.
    resident: u64,
}

/// Sizes from one image on, doubled while that brings more images a second; the last one is the knee.
fn climb(model: &dyn Model, bytes: usize, most: usize) -> Result<Vec<Measured>> {
    let blank = vec![127_u8; bytes];
    let mut measured: Vec<Measured> = Vec::new();
    let mut size = 1;
    while size <= most {
        let images = vec![&blank[..]; size];
        let mut seconds = Vec::with_capacity(TIMED_PASSES);
        for _ in 0..TIMED_PASSES {
            let began = Instant::now();
            model.forward(&images)?;
            seconds.push(began.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let rate = size as f64 / seconds[TIMED_PASSES / 2];
        let gained = measured.last().is_none_or(|before| rate > before.rate * WORTH);
        if !gained {
            break;
        }
        measured.push(Measured { size, rate, resident: resident() });
        size *= 2;
    }
    Ok(measured)
}

/// Bytes of this process that are in memory; 0 where the system does not say.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    // SAFETY: no pointers; the name is one that every Linux knows.
    pages * u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0)
}

/// The photo to show an answer on, and what it is called.
fn photo(args: &CheckModelArgs) -> Result<(String, Vec<u8>)> {
    let demo = || {
        let mut photos: Vec<PathBuf> =
            std::fs::read_dir(DEMO_PHOTOS).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        photos.sort_unstable();
        photos.into_iter().find(|path| path.extension().is_some_and(|ending| ending == "jpg"))
    };
    let Some(path) = args.image.clone().or_else(demo) else {
        let [width, height] = DRAWN_SIZE;
        return Ok(("a drawn picture".into(), sample::photo(1, width, height)?.to_vec()));
    };
    let bytes = std::fs::read(&path).with_context(|| format!("`{}` cannot be read", path.display()))?;
    Ok((path.display().to_string(), bytes))
}

fn answer(model: &dyn Model, spec: &BundleSpec, bytes: &[u8]) -> Result<Value> {
    let recipe = Recipe {
        input: spec.input.clone(),
        decode: Decode::Exact,
        truncated: Truncated::Reject,
        orient: Orient::None,
        limits: preprocess::Limits::default(),
    };
    let prepared = preprocess::prepare(bytes, &recipe, &mut Scratch::new())
        .map_err(|e| anyhow!("the image is not usable: {}: {}", e.code, e.message))?;
    let outputs = model.forward(&[&prepared.pixels])?;
    let prediction = output::predict(&outputs, 0, spec, SHOWN, &prepared.placement);
    Ok(shown(&prediction.map_err(anyhow::Error::msg)?, SHOWN))
}

fn print_text(report: &Value) {
    let text = |field: &str| printable(report[field].as_str().unwrap_or_default());
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let mb = |value: &Value| number(value) / 1e6;
    println!("model       {} ({})", text("name"), text("sha256"));
    for file in report["described_by"].as_array().into_iter().flatten() {
        println!("described   by {}", printable(file.as_str().unwrap_or_default()));
    }
    println!(
        "format      {}, {:.1} MB, {:.2} million parameters ({:.1} MB)",
        text("format"),
        mb(&report["file_bytes"]),
        number(&report["parameters"]) / 1e6,
        mb(&report["weight_bytes"])
    );
    println!(
        "head        {} ({} numbers an image, {} labels)",
        text("head"),
        report["outputs"],
        report["labels"]
    );
    println!("input       {} pixels: an image is", report["input"]["crop"]);
    for step in report["preprocessing"].as_array().into_iter().flatten() {
        println!("            - {}", step.as_str().unwrap_or_default());
    }
    println!(
        "device      {}, libtorch {}, loaded in {:.0} ms",
        text("device"),
        printable(report["engine"]["torch"].as_str().unwrap_or_default()),
        number(&report["load_ms"])
    );
    println!("graph       {}", text("graph_passes"));
    println!(
        "forward     {:.1} images/s on one thread, {} at a time",
        number(&report["forward_images_per_second"]),
        report["micro_batch"]
    );
    println!(
        "memory      {:.0} MB with one image at a time, {:.0} MB with {}",
        mb(&report["memory_bytes"]["one"]),
        mb(&report["memory_bytes"]["knee"]),
        report["micro_batch"]
    );
    for (device, bytes) in report["device_memory_bytes"].as_object().into_iter().flatten() {
        println!("            {:.0} MB on {device}", mb(bytes));
    }
    println!("answer      on {}", text("photo"));
    match &report["answer"] {
        Value::Array(classes) => {
            for class in classes {
                let name =
                    class["label"].as_str().map_or_else(|| class["idx"].to_string(), ToOwned::to_owned);
                println!("  {:6.3}  {}", number(&class["prob"]), printable(&name));
            }
        }
        vector => println!("            {vector}"),
    }
}
