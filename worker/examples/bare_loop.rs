//! Forward passes and nothing else: how fast a bundle can be at all, with the graph passes and without, in turn.
//!
//! `cargo run --example bare_loop -- BUNDLE [--threads T]`. One input, prepared once, in the worker's own layout;
//! T threads share the module, as the worker's do. It is the ceiling that a benchmark of the whole way is measured
//! against. Both modules run in one process and take turns, so that what else the machine does meets both; believe
//! `img/cpu-s` (images for a second of processor time), and ratios. No images are read, no batch passes here.

use anyhow::{Context, ensure};
use clap::Parser;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use trawl_common::{bundle::BundleSpec, job::Precision};
use trawl_worker::{
    allocator,
    model::{self, Device, GraphPasses, network, network::Network},
};

/// Measures forward passes of a model bundle.
#[derive(Parser)]
struct Options {
    /// The bundle.
    bundle: PathBuf,
    /// Bundles to measure in turn with the first: other exports of the same network.
    others: Vec<PathBuf>,
    /// Images in a pass.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: u16,
    /// Threads that share the module.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Seconds of a turn.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Turns; the median is shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    turns: u16,
    /// Only with the graph passes, or only without: for a profile.
    #[arg(long)]
    graph_passes: Option<GraphPasses>,
    /// Logs what the graph passes did.
    #[arg(short, long)]
    verbose: bool,
}

struct Contender {
    name: String,
    model: Network,
    /// Images a second and images a second of processor time, of each turn.
    rates: Vec<[f64; 2]>,
}

fn main() -> anyhow::Result<()> {
    allocator::tune();
    let options = Options::parse();
    ensure!(options.seconds.is_finite() && options.seconds > 0.0, "--seconds must be more than 0");
    let level = if options.verbose { tracing::Level::INFO } else { tracing::Level::WARN };
    trawl_common::telemetry::init(trawl_common::telemetry::LogFormat::Pretty, level)?;
    network::prepare_process();
    let mut contenders = Vec::new();
    for path in std::iter::once(&options.bundle).chain(&options.others) {
        let spec = BundleSpec::read(path)?;
        for passes in [GraphPasses::Off, GraphPasses::On] {
            if options.graph_passes.is_some_and(|only| only != passes) {
                continue;
            }
            let model = model::load(path, &spec, Device::Cpu, Precision::Fp32, passes, None)
                .with_context(|| format!("{}", path.display()))?;
            let name = format!("{} {passes:?}", path.display());
            contenders.push(Contender { name, model, rates: Vec::new() });
        }
    }
    for _ in 0..options.turns {
        for contender in &mut contenders {
            contender.rates.push(turn(&contender.model, &options)?);
        }
    }
    println!("{:>8} {:>10}  bundle, graph passes", "img/s", "img/cpu-s");
    for contender in &mut contenders {
        let [wall, processor] = [0, 1].map(|which| median(contender.rates.iter().map(|rate| rate[which])));
        println!("{wall:8.1} {processor:10.1}  {}", contender.name);
    }
    Ok(())
}

/// One turn of all threads.
fn turn(model: &Network, options: &Options) -> anyhow::Result<[f64; 2]> {
    let (began, used) = (Instant::now(), processor_seconds()?);
    let end = began + Duration::from_secs_f64(options.seconds);
    let images = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..options.threads)
            .map(|_| {
                scope.spawn(|| {
                    network::prepare_thread();
                    model.bare_passes(options.batch.into(), end)
                })
            })
            .collect();
        let mut images = 0;
        for thread in threads {
            images += thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        anyhow::Ok(images)
    })?;
    let images = images as f64;
    Ok([images / began.elapsed().as_secs_f64(), images / (processor_seconds()? - used)])
}

/// User and system time of this process so far.
fn processor_seconds() -> anyhow::Result<f64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: `usage` is a place for one rusage, which the call fills if it gives 0.
    let usage = unsafe {
        ensure!(libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) == 0, "getrusage failed");
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    Ok(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = numbers.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
