//! Each stage alone, and the two that share threads in turn: all their lanes at work for a given time, with the code that a
//! run uses.

use super::{
    job::{Failed, codes},
    prediction::Speed,
};
use crate::{
    model::{LoadedModel, OutputTensor, Outputs, network, output},
    preprocess::{self, Placement, Recipe, Scratch, Slot},
};
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use trawl_common::{
    batch::BatchNumber,
    bundle::BundleSpec,
    job::{Decode, JOB_SPEC_VERSION, JobSpec, ModelRef, Orient, Precision, Truncated},
    results::{
        part::{PartFooter, encode_part},
        row::{Outcome, Prediction, ResultRow},
        schema::Columns,
    },
};

/// A size that gives so much less than the best one ends the measuring.
const CLEARLY_WORSE: f64 = 1.1;

/// Pixels that are kept for the forward passes, in images.
const PIXELS_KEPT: usize = 256;

/// Rows of a part: the default batch.
const ROWS: usize = 64;

/// Classes kept per image: the default.
const TOP_K: usize = 5;

/// The files of a sample that are images.
pub struct Usable {
    /// They themselves; never empty.
    pub files: Vec<Bytes>,
    /// Pixels of some of them.
    pub pixels: Vec<Slot>,
    /// Images of the sample that have no pixels.
    pub unusable: Failed,
}

/// Decodes each file once.
///
/// # Errors
/// If none of them is an image.
pub fn usable(files: &[Bytes], recipe: &Recipe) -> Result<Usable> {
    let mut scratch = Scratch::new();
    let mut usable = Usable { files: Vec::new(), pixels: Vec::new(), unusable: Failed::default() };
    for file in files {
        match preprocess::prepare(file, recipe, &mut scratch) {
            Ok(prepared) => {
                usable.files.push(file.clone());
                if usable.pixels.len() < PIXELS_KEPT {
                    usable.pixels.push(prepared.pixels);
                }
            }
            Err(error) => *usable.unusable.entry(error.code).or_default() += 1,
        }
    }
    ensure!(
        !usable.files.is_empty(),
        "none of the {} files that were read is an image that can be decoded: {}",
        files.len(),
        codes(&usable.unusable)
    );
    Ok(usable)
}

/// Decodes and resizes the files over and over, on so many threads. There must be one.
///
/// # Errors
/// None that depends on files that are images.
pub fn decode(files: &[Bytes], recipe: &Recipe, threads: usize, patience: Duration) -> Result<Speed> {
    let next = AtomicUsize::new(0);
    together(threads, patience, || {
        let mut scratch = Scratch::new();
        let next = &next;
        move || {
            let file = &files[next.fetch_add(1, Ordering::Relaxed) % files.len()];
            Ok(usize::from(preprocess::prepare(file, recipe, &mut scratch).is_ok()))
        }
    })
}

/// Runs the model in micro-batches of `size`, on so many threads.
///
/// # Errors
/// What the model raises.
pub fn forward(
    model: &LoadedModel,
    pixels: &[Slot],
    threads: usize,
    size: usize,
    patience: Duration,
) -> Result<Speed> {
    let (lane, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
    together(threads, patience, || {
        network::prepare_thread();
        let (taken, replica) = (&taken, lane.fetch_add(1, Ordering::Relaxed) % model.replicas.len());
        move || {
            // Others each time, as in a run: the same ones again would be in the core's caches.
            let first = taken.fetch_add(size, Ordering::Relaxed);
            let images: Vec<&[u8]> = (first..first + size).map(|at| &*pixels[at % pixels.len()]).collect();
            model.replicas[replica].forward(&images)?;
            Ok(size)
        }
    })
}

/// What decode and forward do on threads that they share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InTurn {
    /// Were there nothing but this, at the pace that it has beside the other.
    pub decode: Speed,
    /// As above.
    pub forward: Speed,
}

/// Decodes `size` files and runs the model on them, over and over, on so many threads: as a run does on the CPU, where each of
/// the two finds the core's caches full of the other's.
///
/// # Errors
/// What the model raises.
pub fn in_turn(
    model: &LoadedModel,
    recipe: &Recipe,
    files: &[Bytes],
    threads: usize,
    size: usize,
    patience: Duration,
) -> Result<InTurn> {
    let (taken, spent) = (AtomicUsize::new(0), Mutex::new([Spent::default(); 2]));
    together(threads, patience, || {
        network::prepare_thread();
        let (mut scratch, mut counts) = (Scratch::new(), false);
        let (taken, spent) = (&taken, &spent);
        move || {
            let first = taken.fetch_add(size, Ordering::Relaxed);
            let mut prepare =
                |at: usize| preprocess::prepare(&files[at % files.len()], recipe, &mut scratch).ok();
            let decode = Clocks::start();
            let decoded: Vec<_> = (first..first + size).filter_map(&mut prepare).collect();
            let decode = decode.stop(size);
            let images: Vec<&[u8]> = decoded.iter().map(|prepared| &*prepared.pixels).collect();
            let forward = Clocks::start();
            model.replicas[0].forward(&images)?;
            let forward = forward.stop(size);
            // The first round is not counted, as that of any stage.
            if std::mem::replace(&mut counts, true) {
                let mut spent = spent.lock().expect("no panic while it is held");
                spent[0].add(decode);
                spent[1].add(forward);
            }
            Ok(size)
        }
    })?;
    let [decode, forward] = spent.into_inner().expect("as above").map(|spent| spent.speed(threads));
    Ok(InTurn { decode, forward })
}

/// A thread's clocks when it began with something.
struct Clocks {
    began: Instant,
    cpu_seconds: f64,
}

impl Clocks {
    fn start() -> Self {
        Self { began: Instant::now(), cpu_seconds: thread_cpu_seconds() }
    }

    fn stop(self, images: usize) -> Spent {
        let seconds = self.began.elapsed().as_secs_f64();
        Spent { images, seconds, cpu_seconds: thread_cpu_seconds() - self.cpu_seconds }
    }
}

/// What threads spent on so many images.
#[derive(Debug, Clone, Copy, Default)]
struct Spent {
    images: usize,
    seconds: f64,
    cpu_seconds: f64,
}

impl Spent {
    fn add(&mut self, more: Self) {
        self.images += more.images;
        self.seconds += more.seconds;
        self.cpu_seconds += more.cpu_seconds;
    }

    /// Of so many threads that do nothing else.
    fn speed(self, threads: usize) -> Speed {
        let images = self.images as f64;
        Speed {
            images_per_second: threads.max(1) as f64 * images / self.seconds.max(1e-9),
            cpu_seconds_an_image: self.cpu_seconds / images.max(1.0),
        }
    }
}

/// Measures the speed of each of the `sizes`, until one is clearly worse than one before it.
///
/// # Errors
/// Those of `measure`.
pub fn by_size(sizes: &[usize], measure: impl Fn(usize) -> Result<Speed>) -> Result<Vec<(usize, Speed)>> {
    let mut measured: Vec<(usize, Speed)> = Vec::new();
    for &size in sizes {
        let speed = measure(size)?;
        measured.push((size, speed));
        let best = measured.iter().map(|(_, speed)| speed.images_per_second).fold(0.0, f64::max);
        if speed.images_per_second * CLEARLY_WORSE < best {
            break;
        }
    }
    Ok(measured)
}

/// The smallest size beyond which no more than the share `worth` is gained, as a worker's own search has it.
pub fn knee(measured: &[(usize, Speed)], worth: f64) -> Option<(usize, Speed)> {
    let best = measured.iter().map(|(_, speed)| speed.images_per_second).fold(0.0, f64::max);
    measured.iter().find(|(_, speed)| speed.images_per_second * (1.0 + worth) >= best).copied()
}

/// Encodes parts of the model's kind, on one thread.
///
/// # Errors
/// If the model's output does not fit its head.
pub fn encode(model: &LoadedModel, patience: Duration) -> Result<Speed> {
    let shapes = model.replicas[0].shapes();
    let columns = Columns::of_job(&model.spec.heads, &shapes, &[]).map_err(anyhow::Error::msg)?;
    let tensors = shapes.iter().map(|shape| {
        let values = values(shape.iter().map(|side| *side as usize).product());
        OutputTensor { width: values.len(), values, shape: shape[..].into() }
    });
    let outputs = Outputs { tensors: tensors.collect() };
    let prediction = output::predict(&outputs, 0, &model.spec, TOP_K, &Placement::default());
    let prediction = prediction.map_err(anyhow::Error::msg)?;
    let (spec, rows, columns) = (job(&model.sha256)?, rows_of(ROWS, &prediction), &columns);
    together(1, patience, || {
        let (spec, rows) = (&spec, &rows);
        move || {
            let footer = PartFooter::new(spec, BatchNumber(0), "bench-0", "bench").counted(rows);
            encode_part(rows, columns, &footer)?;
            Ok(ROWS)
        }
    })
}

/// Rows with the `k` best of so many classes.
///
/// # Errors
/// None that depends on the arguments.
pub fn rows(count: usize, classes: usize, k: usize) -> Result<Vec<ResultRow>> {
    let spec = BundleSpec::parse(
        br#"{"version":1,"name":"bench","head":"classification","input":{"crop":[224,224],"resize_mode":"squash",
            "interpolation":"nearest","mean":[0,0,0],"std":[1,1,1]}}"#,
    )
    .map_err(anyhow::Error::msg)?;
    let prediction = output::interpret(&values(classes), &spec, k).context("finite numbers")?;
    Ok(rows_of(count, &prediction))
}

fn values(width: usize) -> Vec<f32> {
    (0..width).map(|i| ((i * 37) % 101) as f32 / 10.0).collect()
}

fn rows_of(count: usize, prediction: &Prediction) -> Vec<ResultRow> {
    let row = |i: usize| ResultRow {
        key: format!("s3://bucket/folder/image_{i:08}.jpg"),
        etag: Some(format!("{:032x}", i * 7919)),
        size: 90_000,
        width: Some(500),
        height: Some(375),
        outcome: Outcome::Ok(prediction.clone()),
        carried: Vec::new(),
    };
    (0..count).map(row).collect()
}

/// A job for the footers; its parts are thrown away.
///
/// # Errors
/// None that depends on the argument.
pub fn job(model_sha256: &str) -> Result<JobSpec> {
    Ok(JobSpec {
        version: JOB_SPEC_VERSION,
        job: "bench".parse()?,
        queue: "bench".parse()?,
        sources: Vec::new(),
        base_dir: "/".into(),
        include: Vec::new(),
        exclude: Vec::new(),
        select: Default::default(),
        carry: Vec::new(),
        limit: None,
        batch_size: u32::try_from(ROWS)?,
        out: "/".into(),
        model: ModelRef { location: "bench".into(), sha256: model_sha256.to_owned() },
        topk: TOP_K as u16,
        decode: Decode::Exact,
        truncated: Truncated::Reject,
        orient: Orient::None,
        precision: Precision::Fp32,
        created_unix_ms: 1,
        trace: None,
    })
}

/// Does a lane's work on each of `threads` threads, at least once and until `patience` is over, after a first round that
/// is not counted.
fn together<Work>(threads: usize, patience: Duration, lane: impl Fn() -> Work + Sync) -> Result<Speed>
where
    Work: FnMut() -> Result<usize>,
{
    let rates: Mutex<Vec<(f64, f64, usize)>> = Mutex::default();
    let (ready, lane, rates_of) = (std::sync::Barrier::new(threads.max(1)), &lane, &rates);
    std::thread::scope(|scope| -> Result<()> {
        let running: Vec<_> = (0..threads.max(1))
            .map(|_| {
                let ready = &ready;
                scope.spawn(move || -> Result<()> {
                    let mut work = lane();
                    let first = work();
                    // Everybody comes here, whatever happened: nobody may wait for one that gave up.
                    ready.wait();
                    first?;
                    let (began, cpu, mut images) = (Instant::now(), thread_cpu_seconds(), 0);
                    while images == 0 || began.elapsed() < patience {
                        images += work()?;
                    }
                    let took = (began.elapsed().as_secs_f64(), thread_cpu_seconds() - cpu, images);
                    rates_of.lock().expect("no panic while it is held").push(took);
                    Ok(())
                })
            })
            .collect();
        running.into_iter().try_for_each(|thread| thread.join().expect("a measuring thread does not panic"))
    })?;
    let rates = rates.into_inner().expect("as above");
    let images: usize = rates.iter().map(|(_, _, images)| images).sum();
    Ok(Speed {
        images_per_second: rates.iter().map(|(seconds, _, images)| *images as f64 / seconds).sum(),
        cpu_seconds_an_image: rates.iter().map(|(_, cpu, _)| cpu).sum::<f64>() / images.max(1) as f64,
    })
}

fn thread_cpu_seconds() -> f64 {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Core time of all threads of this process so far.
pub fn process_cpu_seconds() -> f64 {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn clock(id: libc::clockid_t) -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on Linux, and the pointer is to a timespec that outlives the call.
    let failed = unsafe { libc::clock_gettime(id, &mut time) };
    if failed != 0 { 0.0 } else { time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9 }
}
