//! The command line of `trawl-worker`.
//!
//! Only parsing and validation: what changes a result is in the job flags (shared with `trawl submit`),
//! what changes only speed or safety is here.

use crate::{
    model::{Device, GraphPasses},
    pipeline::{fetch::FetchLimits, pace::Reads, sizing::Rule},
    preprocess::{DEFAULT_MAX_FRAMES, Limits},
};
use clap::{Args, Parser, Subcommand};
use std::{num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};
use trawl_common::{
    command_line,
    config::{AddressArgs, JobArgs, OutputFormat, ServiceArgs},
    job::{Decode, Precision, QueueName},
    model_file,
    storage::Stores,
    telemetry::LogFormat,
};

/// The first size of a micro-batch on a CPU, and the largest that is tried: throughput is nearly flat from 4 to 64
/// (EfficientNet-Lite0 and ResNet-50, measured), while the activations of each thread grow with it: two threads with 64
/// images of EfficientNet-Lite0 take 1.6 GB, with 16 half a gigabyte. A pass of the same size takes up to a tenth more or less
/// on shared cores, so less than that is worth nothing.
const CPU_MICRO_BATCH: Rule = Rule::Climb { start: 8, most: 16, worth: 0.1 };

/// The same on a CUDA device: convolutions at 224 pixels fill an H100 at some hundreds.
const CUDA_MICRO_BATCH: Rule = Rule::Climb { start: 64, most: 512, worth: 0.04 };

/// Runs a PyTorch vision model over batches of images
#[derive(Debug, Parser)]
#[command(
    name = "trawl-worker",
    version,
    args_conflicts_with_subcommands = true,
    before_help = "Examples:
  trawl-worker --queue default                 serve the lane `default` (TRAWL_AMQP_URL, TRAWL_REDIS_URL)
  trawl-worker run photos --model m.pt --out o everything in this process, no servers
  trawl-worker check-model m.pt                does this bundle load, and what does it want?
  trawl-worker bench --model m.pt              how fast is it here, and what binds?",
    after_help = "\
OTEL_EXPORTER_OTLP_ENDPOINT switches OpenTelemetry traces on, OTEL_SDK_DISABLED=true off."
)]
pub struct Cli {
    /// What to do; serving is the default
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Flags of the default command
    #[command(flatten)]
    pub serve: ServeArgs,

    /// How results are printed
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub output: OutputFormat,

    /// How logs are written to stderr
    #[arg(long, global = true, value_enum, default_value = "pretty", env = "TRAWL_LOG_FORMAT")]
    pub log_format: LogFormat,

    /// More logs; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// No colour (NO_COLOR, CLICOLOR_FORCE and TERM=dumb are obeyed too)
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Take batches from a queue until told to stop (the default)
    Serve(ServeArgs),
    /// Do a whole job in this process, without RabbitMQ and Redis
    Run(Box<RunArgs>),
    /// Load a model bundle, run it once, and say what it is
    CheckModel(CheckModelArgs),
    /// Compute one row of a job again and show it beside the stored one
    Replay(ReplayArgs),
    /// Measure each stage alone, predict a run from them, and do one
    Bench(BenchArgs),
    /// Print a completion script for a shell
    #[command(before_help = "Examples:
  trawl-worker completions bash > ~/.local/share/bash-completion/completions/trawl-worker")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder
    #[command(
        hide = true,
        before_help = "Examples:
  trawl-worker man ~/.local/share/man/man1"
    )]
    Man {
        /// The folder; it is made if it is not there
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

/// The command line as it is parsed and shown.
pub fn command() -> clap::Command {
    command_line::laid_out(<Cli as clap::CommandFactory>::command())
}

/// Flags of `serve`.
#[derive(Debug, Clone, Args)]
#[command(before_help = "Examples:
  trawl-worker serve --queue default,gpu --device cuda:0
  trawl-worker serve --threads 4 --http 127.0.0.1:9100     with /metrics, /livez, /readyz and /startupz
  trawl-worker serve --grace 120                           two minutes to finish after SIGTERM")]
pub struct ServeArgs {
    /// Lanes to serve, by one set of compute threads
    #[arg(long, default_value = "default", value_name = "NAME", value_delimiter = ',')]
    pub queue: Vec<QueueName>,

    /// Batches in hand at once from each lane; a batch that kills the worker takes the others back to the queue with it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    pub prefetch: u16,

    /// Address for /livez, /readyz, /startupz and /metrics; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    pub http: Option<std::net::SocketAddr>,

    /// Seconds to finish what is in hand after SIGTERM before it goes back to the queue
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(0..=3600), value_name = "SECONDS")]
    pub grace: u64,

    /// When the queue is empty, take over batches that another worker has had for so many seconds; 0 never does
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=86_400), value_name = "SECONDS")]
    pub reclaim_after: u64,

    #[command(flatten)]
    #[expect(missing_docs)]
    pub services: ServiceArgs,

    #[command(flatten)]
    #[expect(missing_docs)]
    pub compute: ComputeArgs,
}

impl ServeArgs {
    /// The drain's grace.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace)
    }

    /// The age at which somebody else's batch may be taken over.
    pub fn reclaim_after(&self) -> Option<Duration> {
        (self.reclaim_after > 0).then(|| Duration::from_secs(self.reclaim_after))
    }
}

/// Flags of `run`.
#[derive(Debug, Clone, Args)]
#[command(
    before_help = "Examples:
  trawl-worker run photos/ --model resnet50.pt --out results/
  trawl-worker run s3://bucket/images/ --model s3://bucket/m.pt --out s3://bucket/results --limit 1000
  trawl-worker run photos/ --model resnet50.pt --out results/ --dry-run",
    after_help = "\
The same command again goes on where the last one ended; what is done is not done twice."
)]
pub struct RunArgs {
    #[command(flatten)]
    #[expect(missing_docs)]
    pub job: JobArgs,

    #[command(flatten)]
    #[expect(missing_docs)]
    pub compute: ComputeArgs,

    /// Batches in work at once
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64), value_name = "N")]
    pub prefetch: u16,

    /// Address for /livez, /readyz, /startupz and /metrics; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    pub http: Option<std::net::SocketAddr>,

    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Exit with 3 if any image failed
    #[arg(long)]
    pub strict: bool,
}

/// Flags that change speed and safety, never a result.
#[derive(Debug, Clone, Args)]
pub struct ComputeArgs {
    /// Where the model runs: auto, cpu, cuda:N, or several of the latter
    #[arg(long, default_value = "auto", value_name = "DEVICE", value_delimiter = ',')]
    pub device: Vec<DeviceChoice>,

    /// The CUDA half of libtorch, where it is not on the library path
    #[arg(long, value_name = "PATH", env = "TRAWL_CUDA_LIB")]
    pub cuda_lib: Option<String>,

    /// Images in one forward pass; auto climbs to the best size during the work and remembers it
    #[arg(long, default_value = "auto", value_name = "auto|N")]
    pub micro_batch: Auto,

    /// Compute threads: decode everywhere, and the forward passes on the CPU
    #[arg(long, default_value = "auto", value_name = "auto|N")]
    pub threads: Auto,

    /// Make the model's graph faster when it is loaded, if its answers stay the same
    #[arg(long, value_enum, default_value = "on", value_name = "on|off")]
    pub graph_passes: GraphPasses,

    /// Where models from a bucket are kept [default: the user's cache folder]
    #[arg(long, value_name = "DIR", env = "TRAWL_CACHE")]
    pub cache: Option<PathBuf>,

    /// Objects read at once; auto begins with 32 and follows the store
    #[arg(long, default_value = "auto", value_name = "auto|N")]
    pub fetches: Auto,

    /// Memory for objects that are read or wait for decode, in MiB
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1 << 20), value_name = "MIB")]
    pub fetch_memory: u32,

    /// A larger object is an error row (`too_many_bytes`), in MiB
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=4096), value_name = "MIB")]
    pub max_image_bytes: u32,

    /// An image of more pixels is an error row (`too_many_pixels`), in millions
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096), value_name = "MEGAPIXELS")]
    pub max_pixels: Option<u32>,

    /// An animation of more frames, or a TIFF of more pages, is an error row (`too_many_frames`)
    #[arg(long, default_value_t = DEFAULT_MAX_FRAMES, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub max_frames: u32,

    #[command(flatten)]
    #[expect(missing_docs)]
    pub addresses: AddressArgs,
}

/// A device, or the best there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// CUDA if it is there, else the CPU.
    Auto,
    /// This one.
    Given(Device),
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Given(device) => device.fmt(f),
        }
    }
}

impl std::str::FromStr for DeviceChoice {
    type Err = crate::model::UnknownDevice;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::Given) }
    }
}

/// A positive number, or our choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auto {
    /// Ours.
    Auto,
    /// The user's.
    Given(NonZeroUsize),
}

impl std::fmt::Display for Auto {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Given(n) => n.fmt(f),
        }
    }
}

impl std::str::FromStr for Auto {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Far above any use; a typing error must not allocate the machine away.
        const MAX: usize = 65_536;
        match text.parse::<NonZeroUsize>() {
            _ if text == "auto" => Ok(Self::Auto),
            Ok(n) if n.get() <= MAX => Ok(Self::Given(n)),
            _ => Err(format!("`{text}` is neither `auto` nor a number from 1 to {MAX}")),
        }
    }
}

impl ComputeArgs {
    /// The stores that the flags allow.
    pub fn stores(&self) -> Arc<Stores> {
        Stores::with_private_addresses(self.addresses.allow_private_addresses)
    }

    /// Compute threads to start.
    pub fn thread_count(&self) -> usize {
        match self.threads {
            Auto::Given(n) => n.get(),
            Auto::Auto => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        }
    }

    /// Where models from a bucket are kept.
    pub fn cache_dir(&self) -> PathBuf {
        self.cache.clone().unwrap_or_else(model_file::default_cache_dir)
    }

    /// How many images a full micro-batch has on `devices`.
    pub fn micro_batch_rule(&self, devices: &[Device]) -> Rule {
        match self.micro_batch {
            Auto::Given(n) => Rule::Fixed(n.get()),
            Auto::Auto if devices == [Device::Cpu] => CPU_MICRO_BATCH,
            Auto::Auto => CUDA_MICRO_BATCH,
        }
    }

    /// The fetch stage's bounds.
    pub fn fetch_limits(&self) -> FetchLimits {
        FetchLimits {
            reads: match self.fetches {
                Auto::Auto => Reads::Auto,
                Auto::Given(n) => Reads::Fixed(n.get()),
            },
            bytes: u64::from(self.fetch_memory) << 20,
            max_image_bytes: u64::from(self.max_image_bytes) << 20,
        }
    }

    /// What an image may be at most.
    pub fn image_limits(&self) -> Limits {
        let mut limits = Limits { max_frames: self.max_frames, ..Limits::default() };
        if let Some(megapixels) = self.max_pixels {
            limits.max_pixels = u64::from(megapixels) * 1_000_000;
        }
        limits
    }
}

/// Flags of `check-model`.
#[derive(Debug, Clone, Args)]
#[command(before_help = "Examples:
  trawl-worker check-model resnet50.pt
  trawl-worker check-model vit/                              model.pt with config.json, or Triton's layout
  trawl-worker check-model s3://bucket/m.pt --image photo.jpg --output json")]
pub struct CheckModelArgs {
    /// The model: a bundle, or a bare .pt or a folder with a description beside it; local, in a bucket or on the web
    #[arg(value_name = "MODEL")]
    pub model: String,

    /// An image to show the model's answer on [default: a photo of `make demo`, or a drawn picture]
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,

    #[command(flatten)]
    #[expect(missing_docs)]
    pub compute: ComputeArgs,
}

/// Flags of `replay`.
#[derive(Debug, Clone, Args)]
#[command(
    before_help = "Examples:
  trawl-worker replay labels/ photos/cat.jpg
  trawl-worker replay s3://bucket/labels s3://bucket/photos/cat.jpg --model retrained.pt --output json",
    after_help = "\
The row is made by the job's own spec and model; nothing is written to the output. Exit codes: 0 the same,
1 another, 4 no such row."
)]
pub struct ReplayArgs {
    /// The output of a job: a folder or an s3:// prefix
    #[arg(value_name = "OUT")]
    pub out: String,

    /// The row's key, as `trawl results` shows it
    #[arg(value_name = "KEY")]
    pub key: String,

    /// Another model than the job's
    #[arg(long, value_name = "BUNDLE")]
    pub model: Option<String>,

    /// The largest difference that counts as the same: of a probability, of a number of a vector, of a box's corner as a
    /// share of the image's longer side
    #[arg(long, default_value_t = 1e-4, value_name = "D")]
    pub tolerance: f64,

    #[command(flatten)]
    #[expect(missing_docs)]
    pub compute: ComputeArgs,
}

/// Flags of `bench`.
#[derive(Debug, Clone, Args)]
#[command(before_help = "Examples:
  trawl-worker bench --model resnet50.pt                  what this machine does with photos of 500x375
  trawl-worker bench --model m.pt --images photos/        the same with yours, and a real run to compare with
  trawl-worker bench --model m.pt --images s3://b/photos/ with the store's latency")]
pub struct BenchArgs {
    /// The bundle, local or s3://
    #[arg(long, value_name = "BUNDLE")]
    pub model: String,

    /// A folder or s3:// prefix of images; without it, photo-like ones are drawn
    #[arg(long, value_name = "SOURCE")]
    pub images: Option<String>,

    /// Read a sample of a job from the standard input and measure with it: for `trawl submit --dry-run --sample`
    #[arg(long, hide = true, conflicts_with_all = ["images", "decode", "precision"])]
    pub job_sample: bool,

    /// Take no more of the images than this
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=10_000_000), value_name = "N")]
    pub limit: u64,

    /// Seconds for each measurement
    #[arg(long, default_value_t = 2.0, value_parser = seconds, value_name = "SECONDS")]
    pub seconds: f64,

    /// Measure and predict, and do not run
    #[arg(long)]
    pub no_run: bool,

    /// As in a job: Pillow's pixels, or close ones sooner
    #[arg(long, value_enum, default_value = "exact")]
    pub decode: Decode,

    /// As in a job
    #[arg(long, value_enum, default_value = "fp32")]
    pub precision: Precision,

    #[command(flatten)]
    #[expect(missing_docs)]
    pub compute: ComputeArgs,
}

impl BenchArgs {
    /// The time of each measurement.
    pub fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    const MOST: f64 = 600.0;
    match text.parse::<f64>() {
        Ok(n) if n > 0.0 && n <= MOST => Ok(n),
        _ => Err(format!("`{text}` is no time from 0 to {MOST} seconds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_and_they_come_first() {
        let mut left = vec![command()];
        while let Some(command) = left.pop() {
            let help = command.clone().render_help().to_string();
            let (examples, options) = (help.find("Examples:"), help.find("Options:"));
            assert!(examples.is_some() && examples < options, "{}: {help}", command.get_name());
            left.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn serve_is_the_default_and_takes_its_flags() {
        let cli = Cli::try_parse_from([
            "trawl-worker",
            "--queue",
            "q1,q2",
            "--threads",
            "3",
            "--micro-batch",
            "auto",
        ])
        .unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.serve.queue.iter().map(QueueName::as_str).collect::<Vec<_>>(), ["q1", "q2"]);
        assert_eq!(cli.serve.compute.thread_count(), 3);
        assert_eq!(cli.serve.compute.micro_batch_rule(&[Device::Cpu]), CPU_MICRO_BATCH);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for wrong in [
            ["--threads", "0"],
            ["--micro-batch", "-1"],
            ["--prefetch", "0"],
            ["--queue", "a b"],
            ["--device", "gpu"],
            ["--max-image-bytes", "0"],
            ["--max-frames", "0"],
        ] {
            assert!(Cli::try_parse_from(["trawl-worker"].into_iter().chain(wrong)).is_err(), "{wrong:?}");
        }
    }
}
