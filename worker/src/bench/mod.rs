//! `trawl-worker bench`: what each stage can do on this machine with this model, and so what a run will do.
//!
//! Measures the stages one after the other, each with all its lanes and nothing beside it, and predicts a run from
//! them. With `--images` it then does that run, as a process of its own into a folder of its own, and says how far off
//! the prediction was. With a job's sample it measures with the job's own images and settings. It runs the very code of
//! the stages; it never writes to the user's output.

pub mod job;
pub mod prediction;
pub mod sample;
pub mod stages;

use crate::{
    assemble,
    cli::{BenchArgs, ComputeArgs},
    jobs::{Loader, TorchLoader},
    model::{GraphPasses, LoadedModel, verdicts::Verdicts},
    pipeline::{pool::THREADS_PER_DEVICE, sizing::Rule},
    preprocess::Recipe,
    report::rate,
};
use anyhow::{Context, Result, ensure};
use prediction::Prediction;
use serde_json::{Value, json};
use std::{process::Stdio, time::Instant};
use trawl_common::{
    bundle::BundleSpec,
    config::{OutputFormat, exit},
    job::{Decode, JobSpec, Orient, Precision, Truncated},
    location::Location,
    model_file,
    model_import::{Imported, import},
    telemetry::printable,
};

/// Measures, predicts and, given images, runs.
///
/// # Errors
/// If the model or the images cannot be used, or the run fails.
pub async fn bench(args: BenchArgs, format: OutputFormat) -> Result<u8> {
    trawl_common::tls::install_crypto_provider();
    let base_dir = std::env::current_dir().context("the working directory cannot be read")?;
    let stores = args.compute.stores();
    let place = Location::parse(&args.model, &base_dir)?;
    let Imported { file, spec, .. } = import(&stores, &place, &args.compute.cache_dir()).await?;
    let mut settings = Settings::of(&args);
    let images = match &args.images {
        _ if args.job_sample => {
            let (job, images) = job::from_stdin().await?;
            settings = Settings::of_job(&job);
            job::fetch(&job, images, &stores, &args.compute).await?
        }
        Some(source) => sample::read(source, &base_dir, &stores, args.limit, &args.compute).await?,
        None => tokio::task::spawn_blocking(sample::drawn).await??,
    };
    let measuring = {
        let args = args.clone();
        tokio::task::spawn_blocking(move || measure(&args, settings, &file, spec, &images))
    };
    let (mut report, prediction) = measuring.await??;
    report["predicted"] = prediction.json();
    if format == OutputFormat::Text {
        print_measured(&report, &prediction);
    }
    if args.images.is_some() && !args.no_run {
        let ran = run(&args, report["micro_batch"].as_u64().unwrap_or(1))?;
        let working = ran["images_computed"].as_f64().unwrap_or(0.0)
            / ran["working_seconds"].as_f64().unwrap_or(f64::INFINITY);
        report["run"] = json!({
            "images": ran["images_computed"], "seconds": ran["seconds"], "working_seconds": ran["working_seconds"],
            "images_per_second": working, "of_predicted": working / prediction.images_per_second(),
            "stages": ran["stages"],
        });
        if format == OutputFormat::Text {
            print_run(&report["run"]);
        }
    }
    if format == OutputFormat::Json {
        println!("{report}");
    }
    Ok(exit::OK)
}

/// What a job says of its pixels and its numbers.
#[derive(Debug, Clone, Copy)]
struct Settings {
    decode: Decode,
    truncated: Truncated,
    orient: Orient,
    precision: Precision,
}

impl Settings {
    fn of(args: &BenchArgs) -> Self {
        let BenchArgs { decode, precision, .. } = *args;
        Self { decode, truncated: Truncated::Reject, orient: Orient::None, precision }
    }

    fn of_job(spec: &JobSpec) -> Self {
        let JobSpec { decode, truncated, orient, precision, .. } = *spec;
        Self { decode, truncated, orient, precision }
    }
}

fn measure(
    args: &BenchArgs,
    settings: Settings,
    file: &model_file::ModelFile,
    spec: BundleSpec,
    images: &sample::Sample,
) -> Result<(Value, Prediction)> {
    let devices = assemble::devices(&args.compute)?;
    let shown: Vec<String> = devices.iter().map(ToString::to_string).collect();
    let rule = args.compute.micro_batch_rule(&devices);
    let threads = args.compute.thread_count();
    let on_cpu = devices == [crate::model::Device::Cpu];
    let lanes = if on_cpu { 0 } else { devices.len() * THREADS_PER_DEVICE };
    let began = Instant::now();
    let (graph_passes, verdicts) = (args.compute.graph_passes, Verdicts::of(&args.compute.cache_dir()));
    let replicas = TorchLoader { devices, graph_passes, verdicts }.load(file, &spec, settings.precision)?;
    let loaded = began.elapsed();
    let recipe = Recipe {
        input: spec.input.clone(),
        decode: settings.decode,
        truncated: settings.truncated,
        orient: settings.orient,
        limits: args.compute.image_limits(),
    };
    let model = LoadedModel {
        replicas,
        spec,
        sha256: file.sha256.clone(),
        variant: String::new(),
        engine: Default::default(),
    };
    let patience = args.patience();
    let decoded = stages::decode(&images.files, &recipe, threads, patience)?;
    let sizes = sizes(rule);
    let forward =
        stages::forward(&model, &decoded.pixels, if on_cpu { threads } else { lanes }, &sizes, patience)?;
    let best = stages::knee(&forward).context("a size was measured")?;
    let encode = stages::encode(&model, patience)?;
    let prediction = Prediction {
        cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        devices: lanes,
        // Alone, an image within an object costs a request that it shares with its neighbours in a job.
        fetch: images.read.filter(|_| images.gathered.as_ref().is_none_or(|gathered| gathered.alike)),
        decode: decoded.speed,
        forward: best.1,
        encode,
    };
    let mut report = json!({
        "model": model.spec.name, "sha256": model.sha256, "device": shown.join(","), "threads": threads,
        "load_ms": loaded.as_secs_f64() * 1e3, "images_sampled": images.files.len(),
        "images_unusable": decoded.unusable.values().sum::<usize>(), "decode": settings.decode,
        "precision": settings.precision,
        "micro_batch": best.0,
        "forward_by_micro_batch": forward.iter()
            .map(|(size, speed)| (size.to_string(), json!(speed.images_per_second)))
            .collect::<serde_json::Map<_, _>>(),
    });
    if let (Some(gathered), Some(read)) = (&images.gathered, &images.read) {
        report["sample"] = gathered.json(read, &decoded.unusable);
    }
    Ok((report, prediction))
}

/// Powers of two around where a worker's own search begins, or the size that was asked for.
fn sizes(rule: Rule) -> Vec<usize> {
    match rule {
        Rule::Fixed(size) => vec![size],
        Rule::Climb { start, most } => {
            let first = (start / 2).max(1);
            std::iter::successors(Some(first), |size| Some(size * 2))
                .take_while(|size| *size <= most)
                .collect()
        }
    }
}

/// A whole run over the images, by this very program. The size is given, so that a search does not blur the figure.
fn run(args: &BenchArgs, micro_batch: u64) -> Result<Value> {
    let out = tempfile::tempdir().context("a folder for the run's output")?;
    let program = std::env::current_exe().context("the path of this program")?;
    let ComputeArgs { fetches, fetch_memory, max_image_bytes, graph_passes, .. } = &args.compute;
    let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
    let mut command = std::process::Command::new(program);
    command
        .arg("run")
        .arg(args.images.as_deref().unwrap_or_default())
        .args(["--output", "json", "--model", &args.model])
        .arg("--out")
        .arg(out.path().join("out"))
        .args(["--decode", &text(json!(args.decode)), "--precision", &text(json!(args.precision))])
        .args(["--limit", &args.limit.to_string(), "--micro-batch", &micro_batch.to_string()])
        .args(["--threads", &args.compute.thread_count().to_string(), "--fetches", &fetches.to_string()])
        .args(["--fetch-memory", &fetch_memory.to_string()])
        .args(["--max-image-bytes", &max_image_bytes.to_string()])
        .args(["--graph-passes", if *graph_passes == GraphPasses::On { "on" } else { "off" }])
        .arg("--cache")
        .arg(args.compute.cache_dir());
    for device in &args.compute.device {
        command.arg("--device").arg(device.to_string());
    }
    if let Some(library) = &args.compute.cuda_lib {
        command.args(["--cuda-lib", library]);
    }
    let ended = command.stderr(Stdio::inherit()).output().context("the run could not be started")?;
    ensure!(ended.status.success(), "the run ended with {}; its words are above", ended.status);
    serde_json::from_slice(&ended.stdout).context("the run's report")
}

fn print_measured(report: &Value, prediction: &Prediction) {
    println!(
        "{} on {}, {} compute threads; loaded in {:.0} ms",
        printable(report["model"].as_str().unwrap_or_default()),
        report["device"].as_str().unwrap_or_default(),
        report["threads"],
        report["load_ms"].as_f64().unwrap_or_default(),
    );
    let by_size = report["forward_by_micro_batch"].as_object();
    let mut sizes: Vec<(usize, f64)> = by_size
        .into_iter()
        .flatten()
        .filter_map(|(size, rate)| Some((size.parse().ok()?, rate.as_f64()?)))
        .collect();
    sizes.sort_by_key(|(size, _)| *size);
    let shown: Vec<String> = sizes.iter().map(|(size, speed)| format!("{size}: {}", rate(*speed))).collect();
    println!("forward images/s by micro-batch: {}; taken {}", shown.join(", "), report["micro_batch"]);
    println!("{}", prediction.text());
}

fn print_run(run: &Value) {
    let number = |name: &str| run[name].as_f64().unwrap_or_default();
    println!(
        "run: {} images in {:.2} s, start included; {} images/s from the first batch on, {:.0} % of the prediction",
        run["images"],
        number("seconds"),
        rate(number("images_per_second")),
        number("of_predicted") * 100.0,
    );
}
