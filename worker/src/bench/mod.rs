//! `trawl-worker bench`: what each stage can do on this machine with this model, and so what a run will do.
//!
//! Measures the stages one after the other, each with all its lanes and nothing beside it, and those that share threads in a
//! run in turn on them, and predicts a run from that. With `--images` it then does that run, as a process of its own into a folder of its own, and says how far off
//! the prediction was; a short run several times, see [`rounds`]. With a job's sample it measures with the job's own
//! images and settings. It runs the very code of the stages; it never writes to the user's output.

pub mod job;
pub mod prediction;
mod rounds;
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
use prediction::{Prediction, Speed};
use rounds::{Round, Rounds};
use serde_json::{Value, json};
use stages::InTurn;
use std::{
    process::Stdio,
    time::{Duration, Instant},
};
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
    let (bench, mut report, prediction) = {
        let args = args.clone();
        tokio::task::spawn_blocking(move || Bench::begin(&args, settings, &file, spec, &images)).await??
    };
    report["predicted"] = prediction.json();
    if format == OutputFormat::Text {
        print_measured(&report, &prediction);
    }
    if args.images.is_some() && !args.no_run {
        let micro_batch = report["micro_batch"].as_u64().unwrap_or(1);
        let rounds =
            tokio::task::spawn_blocking(move || bench.rounds(&args, micro_batch, prediction)).await??;
        report["run"] = rounds.json();
        if format == OutputFormat::Text {
            println!("{}", rounds.text());
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

/// What is measured, and how.
struct Bench {
    model: LoadedModel,
    recipe: Recipe,
    images: stages::Usable,
    /// Threads that decode.
    threads: usize,
    /// Threads that run forward passes, where those that decode do not.
    lanes: usize,
    patience: Duration,
}

/// The stages that compute.
struct Measured {
    decode: Speed,
    forward: Speed,
    in_turn: Option<InTurn>,
}

impl Bench {
    /// Loads the model and measures each stage for the first time: with the report of it, and what it says of a run.
    fn begin(
        args: &BenchArgs,
        settings: Settings,
        file: &model_file::ModelFile,
        spec: BundleSpec,
        sample: &sample::Sample,
    ) -> Result<(Self, Value, Prediction)> {
        let devices = assemble::devices(&args.compute)?;
        let shown: Vec<String> = devices.iter().map(ToString::to_string).collect();
        let rule = args.compute.micro_batch_rule(&devices);
        let on_cpu = devices == [crate::model::Device::Cpu];
        let lanes = if on_cpu { 0 } else { devices.len() * THREADS_PER_DEVICE };
        let began = Instant::now();
        let (graph_passes, verdicts) = (args.compute.graph_passes, Verdicts::of(&args.compute.cache_dir()));
        let replicas =
            TorchLoader { devices, graph_passes, verdicts }.load(file, &spec, settings.precision)?;
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
        let (threads, patience) = (args.compute.thread_count(), args.patience());
        let images = stages::usable(&sample.files, &recipe)?;
        let bench = Self { model, recipe, images, threads, lanes, patience };
        let forward = stages::by_size(&sizes(rule), |size| bench.forward_at_work(size))?;
        let best = stages::knee(&forward, rule.worth()).context("a size was measured")?;
        let measured = bench.measure(best.0)?;
        let encode = stages::encode(&bench.model, patience)?;
        let (unusable, model) = (&bench.images.unusable, &bench.model);
        let prediction = Prediction {
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            devices: lanes,
            // Alone, an image within an object costs a request that it shares with its neighbours in a job.
            fetch: sample.read.filter(|_| sample.gathered.as_ref().is_none_or(|gathered| gathered.alike)),
            decode: measured.decode,
            forward: measured.forward,
            encode,
            in_turn: measured.in_turn,
        };
        let mut report = json!({
            "model": model.spec.name, "sha256": model.sha256, "device": shown.join(","), "threads": threads,
            "load_ms": loaded.as_secs_f64() * 1e3, "images_sampled": sample.files.len(),
            "images_unusable": unusable.values().sum::<usize>(), "decode": settings.decode,
            "precision": settings.precision,
            "micro_batch": best.0,
            "forward_by_micro_batch": forward.iter()
                .map(|(size, speed)| (size.to_string(), json!(speed.images_per_second)))
                .collect::<serde_json::Map<_, _>>(),
        });
        if let (Some(gathered), Some(read)) = (&sample.gathered, &sample.read) {
            report["sample"] = gathered.json(read, unusable);
        }
        Ok((bench, report, prediction))
    }

    fn forward(&self, micro_batch: usize) -> Result<Speed> {
        let threads = if self.lanes == 0 { self.threads } else { self.lanes };
        stages::forward(&self.model, &self.images.pixels, threads, micro_batch, self.patience)
    }

    /// `None` where the two stages do not share threads.
    fn in_turn(&self, micro_batch: usize) -> Result<Option<InTurn>> {
        let Self { model, recipe, threads, patience, .. } = self;
        let measure = || stages::in_turn(model, recipe, &self.images.files, *threads, micro_batch, *patience);
        (self.lanes == 0).then(measure).transpose()
    }

    /// Forward passes as a run has them: the size that is the best alone need not be the best there.
    fn forward_at_work(&self, micro_batch: usize) -> Result<Speed> {
        match self.in_turn(micro_batch)? {
            Some(in_turn) => Ok(in_turn.forward),
            None => self.forward(micro_batch),
        }
    }

    /// What the stages that compute do now.
    fn measure(&self, micro_batch: usize) -> Result<Measured> {
        let decode = stages::decode(&self.images.files, &self.recipe, self.threads, self.patience)?;
        let (forward, in_turn) = (self.forward(micro_batch)?, self.in_turn(micro_batch)?);
        Ok(Measured { decode, forward, in_turn })
    }

    /// What they do now, and so a run.
    fn again(&self, micro_batch: usize, before: Prediction) -> Result<Prediction> {
        let Measured { decode, forward, in_turn } = self.measure(micro_batch)?;
        Ok(Prediction { decode, forward, in_turn, ..before })
    }

    /// Runs, each between two measurements.
    fn rounds(&self, args: &BenchArgs, micro_batch: u64, first: Prediction) -> Result<Rounds> {
        let (mut rounds, mut before) = (Rounds::default(), first);
        while !rounds.are_enough() {
            let ran = run(args, micro_batch)?;
            let after = self.again(usize::try_from(micro_batch)?, before)?;
            let mean = |of: fn(&Prediction) -> f64| (of(&before) + of(&after)) / 2.0;
            let (predicted, alone) = (mean(Prediction::images_per_second), mean(Prediction::alone));
            rounds.add(Round::new(&ran, predicted, alone));
            before = after;
        }
        Ok(rounds)
    }
}

/// Powers of two around where a worker's own search begins, or the size that was asked for.
fn sizes(rule: Rule) -> Vec<usize> {
    match rule {
        Rule::Fixed(size) => vec![size],
        Rule::Climb { start, most, .. } => {
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
