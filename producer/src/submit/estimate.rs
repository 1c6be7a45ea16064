//! How long a job would take: some of its images go through `trawl-worker bench`, and the rest is a division.
//!
//! Part of `trawl submit --dry-run --sample N`. This binary links no torch, so the worker beside it reads the images,
//! decodes them and runs the model; what it says is scaled to the whole job. The sample goes through a pipe and the
//! worker is killed when it is no longer wanted: nothing is left behind.

use crate::{errors::Stop, run::WORKER, text};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    process::{Output, Stdio},
};
use tokio::{io::AsyncWriteExt, process::Command};
use trawl_common::{batch::ImageRef, config::exit, job::JobSpec, planning::sample::JobSample};

/// Time for each of the worker's measurements; there are some five of them.
const SECONDS: &str = "1";

/// Workers that the hours are told for.
const WORKERS: [u32; 3] = [1, 10, 100];

/// Seconds in an hour.
const HOUR: f64 = 3600.0;

/// How a worker is started for a sample.
pub struct Sampling<'a> {
    /// The program.
    pub worker: &'a Path,
    /// The bundle, on this machine.
    pub model: &'a Path,
    /// Whether `http(s)://` may lead to private addresses.
    pub private_addresses: bool,
}

/// What the worker says of a sample, as far as it is used here.
#[derive(Debug, Clone, Deserialize)]
pub struct Measured {
    device: String,
    threads: u64,
    micro_batch: u64,
    sample: Sample,
    predicted: Predicted,
}

#[derive(Debug, Clone, Deserialize)]
struct Sample {
    images: u64,
    ok: u64,
    failed: BTreeMap<String, u64>,
    fetch: Fetch,
}

/// How the sample was read.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Fetch {
    images_per_second: f64,
    requests: u64,
    at_once: u64,
    bytes: u64,
    seconds: f64,
    /// Whether it is among the stages: a job reads neighbours in an archive or table together.
    counted: bool,
}

#[derive(Debug, Clone, Deserialize)]
struct Predicted {
    stages: BTreeMap<String, Stage>,
    images_per_second: f64,
    binding: String,
}

/// What a stage does alone.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stage {
    images_per_second: f64,
    cpu_ms_an_image: f64,
}

/// How long a job would take with workers on machines like this one.
#[derive(Debug, Clone, Serialize)]
pub struct Estimate {
    /// Images of the sample, and of them those with a prediction and without, by code.
    sampled: u64,
    ok: u64,
    failed: BTreeMap<String, u64>,
    device: String,
    threads: u64,
    micro_batch: u64,
    fetch: Fetch,
    stages: BTreeMap<String, Stage>,
    binding: String,
    /// Of one worker.
    images_per_second: f64,
    /// Images of the job / [`Self::images_per_second`].
    worker_hours: f64,
    /// The same, divided by the workers.
    hours: Vec<Hours>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Hours {
    workers: u32,
    hours: f64,
}

/// There is nobody to run a sample.
pub fn no_worker() -> Stop {
    Stop::not_found(format!("`--sample` needs `{WORKER}`, which is neither beside `trawl` nor on PATH")).hint(
        "install it beside `trawl` (`cargo build --release` makes both); --dry-run without --sample needs none",
    )
}

impl Sampling<'_> {
    /// Has the worker read and run the images. Cancel safe: the worker is killed.
    ///
    /// # Errors
    /// What the worker says, under its exit code.
    pub async fn measure(&self, spec: &JobSpec, images: Vec<ImageRef>) -> Result<Measured, Stop> {
        let mut command = Command::new(self.worker);
        command
            .args(["bench", "--job-sample", "--output", "json", "--seconds", SECONDS, "--model"])
            .arg(self.model)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if self.private_addresses {
            command.arg("--allow-private-addresses");
        }
        let shown = self.worker.display();
        let cannot = |error| Stop::failed(format!("`{shown}` cannot be started: {error}"));
        let mut child = command.spawn().map_err(cannot)?;
        let (mut input, sample) = (child.stdin.take(), JobSample::new(spec, images).to_json());
        let sending = async move {
            if let Some(input) = &mut input {
                // A worker that does not take it says why when it ends.
                let _untaken = input.write_all(&sample).await;
            }
        };
        let (ended, ()) = tokio::join!(child.wait_with_output(), sending);
        understand(&ended.map_err(cannot)?)
    }
}

/// The worker's answer, or its last words.
fn understand(ended: &Output) -> Result<Measured, Stop> {
    let said = String::from_utf8_lossy(&ended.stderr);
    let (errors, notes): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.starts_with("error: "));
    for note in notes {
        eprintln!("{}", text::printable(note));
    }
    if !ended.status.success() {
        let why = match errors.last() {
            Some(line) => line.trim_start_matches("error: ").to_owned(),
            None => format!("`{WORKER} bench` ended with {}", ended.status),
        };
        return Err(failed(ended.status.code(), &why));
    }
    serde_json::from_slice(&ended.stdout).map_err(|error| {
        Stop::failed(format!("what `{WORKER} bench` says of the sample cannot be read: {error}"))
            .hint(format!("`trawl --version` and `{WORKER} --version` should be the same"))
    })
}

fn failed(code: Option<i32>, why: &str) -> Stop {
    let code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::FAILED);
    let message = format!("the sample could not be run: {why}");
    match code {
        exit::USAGE => Stop { code, ..Stop::usage(message) }
            .hint(format!("`{WORKER} check-model MODEL` says more of a model; --dry-run without --sample runs none")),
        exit::TRANSIENT => Stop::transient(message).hint("give the same command again"),
        _ => Stop { code, ..Stop::failed(message) }.hint(
            "--dry-run without --sample shows the first keys; --include and --exclude take others, --source-type \
             says what the source is",
        ),
    }
}

impl Estimate {
    /// For a job of so many images.
    ///
    /// # Errors
    /// If the worker predicts no speed.
    pub fn of(measured: Measured, images: u64) -> Result<Self, Stop> {
        let Measured { device, threads, micro_batch, sample, predicted } = measured;
        let Sample { images: sampled, ok, failed, fetch } = sample;
        let Predicted { stages, images_per_second, binding } = predicted;
        if !(images_per_second.is_finite() && images_per_second > 0.0) {
            return Err(Stop::failed(format!("`{WORKER} bench` predicts {images_per_second} images/s")));
        }
        #[allow(clippy::cast_precision_loss)] // An estimate.
        let worker_hours = images as f64 / images_per_second / HOUR;
        let hours =
            WORKERS.iter().map(|&workers| Hours { workers, hours: worker_hours / f64::from(workers) });
        Ok(Self {
            hours: hours.collect(),
            sampled,
            ok,
            failed,
            device,
            threads,
            micro_batch,
            fetch,
            stages,
            binding,
            images_per_second,
            worker_hours,
        })
    }

    /// For people.
    pub fn print(&self, out: &mut dyn Write) -> Result<(), Stop> {
        let bad: Vec<String> = self.failed.iter().map(|(code, n)| format!("{code} {n}")).collect();
        let failed = self.failed.values().sum::<u64>();
        let why = if bad.is_empty() { String::new() } else { format!(" ({})", bad.join(", ")) };
        let sampled = text::counted(self.sampled, "image", "images");
        writeln!(out, "sample      {sampled}: {} ok, {failed} failed{why}", self.ok)?;
        let fetch = &self.fetch;
        writeln!(
            out,
            "fetch       {} with {} in {:.2} s, up to {} at once{}",
            text::counted(fetch.requests, "request", "requests"),
            text::bytes(fetch.bytes),
            fetch.seconds,
            fetch.at_once,
            if fetch.counted {
                ""
            } else {
                "; not in the estimate: a job reads neighbours in an object together"
            },
        )?;
        let stages: Vec<String> = ["fetch", "decode", "forward", "encode"]
            .iter()
            .filter_map(|name| {
                Some(format!("{name} {}", text::rate(self.stages.get(*name)?.images_per_second)))
            })
            .collect();
        writeln!(out, "stages      images/s each does alone: {}", stages.join(", "))?;
        writeln!(
            out,
            "worker      {} images/s on a machine like this one ({}, {}, micro-batch {}); {} binds",
            text::rate(self.images_per_second),
            text::printable(&self.device),
            text::counted(self.threads, "thread", "threads"),
            self.micro_batch,
            self.binding,
        )?;
        let hours = match self.worker_hours {
            few if few < 0.1 => "less than 0.1".to_owned(),
            many => format!("{many:.1}"),
        };
        writeln!(out, "estimate    {hours} worker-hours, on machines like this one:")?;
        for Hours { workers, hours } in &self.hours {
            let workers = text::counted(u64::from(*workers), "worker", "workers");
            writeln!(out, "            {workers:<11} {:>8}", text::seconds(hours * HOUR))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "estimate_tests.rs"]
mod tests;
