//! Command-line arguments that `trawl` and `trawl-worker` share, checked before anything connects.
//!
//! `trawl submit` and `trawl-worker run` take the same job flags and must mean the same by them, so both
//! take [`JobArgs`] and get a [`JobSpec`] from it. Precedence: flag, then environment, then the default.
//! URLs with passwords come in through [`ServiceArgs`] and are never printed.

use crate::{
    job::{Decode, JOB_SPEC_VERSION, JobId, JobSpec, ModelRef, Orient, Precision, QueueName, Truncated},
    location::{Location, LocationError},
    source_args::SourceArgs,
};
use clap::{Args, builder::FalseyValueParser};
use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

/// Exit codes; scripts depend on them.
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// Failed.
    pub const FAILED: u8 = 1;
    /// Wrong usage or configuration; clap's own code too.
    pub const USAGE: u8 = 2;
    /// Finished, with failed images, and `--strict` was given.
    pub const FAILED_IMAGES: u8 = 3;
    /// The thing asked for does not exist.
    pub const NOT_FOUND: u8 = 4;
    /// A service is away: try again later.
    pub const TRANSIENT: u8 = 5;
    /// Ended by SIGINT.
    pub const INTERRUPTED: u8 = 130;
    /// Ended by SIGTERM.
    pub const TERMINATED: u8 = 143;
}

/// How a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// For people.
    Text,
    /// One JSON document, or JSON lines for streams.
    Json,
}

/// The flags that describe a job.
#[derive(Debug, Clone, Args)]
pub struct JobArgs {
    /// Folders, files, globs or prefixes of buckets (s3://, gs://, az://, abfss://) to take images from; archives, tables
    /// and lists of images
    #[arg(required_unless_present = "from_failures", value_name = "SOURCE")]
    pub sources: Vec<String>,

    /// How the sources are read
    #[command(flatten)]
    pub select: SourceArgs,

    /// Model bundle: a TorchScript file with its trawl.json, local, in a bucket or on the web
    #[arg(long, value_name = "BUNDLE")]
    pub model: String,

    /// Where the Parquet goes: a folder or a prefix in a bucket (s3://, gs://, az://, abfss://)
    #[arg(long, value_name = "OUT")]
    pub out: String,

    /// Lane of workers that takes the job
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub queue: QueueName,

    /// Images in one queue message and one Parquet part
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000), value_name = "N")]
    pub batch_size: u32,

    /// Take only keys that match (repeatable); the default takes names with an image extension
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,

    /// Leave out keys that match (repeatable)
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,

    /// Take at most this many images
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    pub limit: Option<u64>,

    /// Classes kept per image
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000), value_name = "K")]
    pub topk: u16,

    /// Pixels equal to Pillow's, or close to them and faster
    #[arg(long, value_enum, default_value_t = Decode::Exact)]
    pub decode: Decode,

    /// What an image that ends early becomes
    #[arg(long, value_enum, default_value_t = Truncated::Reject)]
    pub truncated: Truncated,

    /// Whether EXIF orientation turns the image (torchvision does not)
    #[arg(long, value_enum, default_value_t = Orient::None)]
    pub orient: Orient,

    /// Number format of the forward pass
    #[arg(long, value_enum, default_value_t = Precision::Fp32)]
    pub precision: Precision,

    /// Name of the job; the default is derived from what it does, so that the same command resumes it
    #[arg(long, value_name = "ID")]
    pub job_id: Option<JobId>,
}

impl JobArgs {
    /// The model's place.
    ///
    /// # Errors
    /// If the text names no place.
    pub fn model_location(&self, base_dir: &Path) -> Result<Location, LocationError> {
        Location::parse(&self.model, base_dir)
    }

    /// The output's place.
    ///
    /// # Errors
    /// If the text names no place.
    pub fn out_location(&self, base_dir: &Path) -> Result<Location, LocationError> {
        let out = Location::parse(&self.out, base_dir)?.without_trailing_slash();
        match out {
            Location::Http { .. } => Err(LocationError::ReadOnly(out.root())),
            out => Ok(out),
        }
    }

    /// The spec of this job, once the model's digest and final place are known. `base_dir` is the working
    /// directory: relative sources and their keys start from it.
    ///
    /// # Errors
    /// If a source or the output names no place.
    pub fn spec(&self, base_dir: &Path, model: ModelRef) -> Result<JobSpec, LocationError> {
        // The failed images of a job are its plan, less what its parts have an answer for.
        let sources = match &self.select.from_failures {
            Some(out) => vec![format!("{}/_trawl/plan/", out.trim_end_matches('/'))],
            None => self.sources.clone(),
        };
        for source in &sources {
            Location::parse(source, base_dir)?;
        }
        let relative = sources.iter().any(|s| !s.starts_with('/') && !s.contains("://"));
        let base_dir_text =
            base_dir.to_str().ok_or_else(|| LocationError::NotText(base_dir.display().to_string()))?;
        let mut spec = JobSpec {
            version: JOB_SPEC_VERSION,
            job: "unnamed".parse().expect("a valid name"),
            queue: self.queue.clone(),
            sources,
            // Absolute sources are the same work wherever the command was typed.
            base_dir: if relative { base_dir_text.to_owned() } else { "/".to_owned() },
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            select: self.select.selection(),
            carry: self.select.carry(),
            limit: self.limit,
            batch_size: self.batch_size,
            out: self.out_location(base_dir)?.to_string(),
            model,
            topk: self.topk,
            decode: self.decode,
            truncated: self.truncated,
            orient: self.orient,
            precision: self.precision,
            created_unix_ms: unix_ms(),
            trace: None,
        };
        spec.job = self.job_id.clone().unwrap_or_else(|| spec.derived_id());
        Ok(spec)
    }
}

/// Where URLs may lead.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct AddressArgs {
    /// Let http(s):// lead to private, loopback and link-local addresses too
    #[arg(
        long,
        env = "TRAWL_ALLOW_PRIVATE_ADDRESSES",
        value_parser = FalseyValueParser::new(),
        global = true
    )]
    pub allow_private_addresses: bool,
}

/// Where the services are.
#[derive(Clone, Args)]
pub struct ServiceArgs {
    /// RabbitMQ, for example amqp://user:password@host:5672/vhost
    #[arg(
        long,
        env = "TRAWL_AMQP_URL",
        hide_env_values = true,
        default_value = "amqp://guest:guest@127.0.0.1:5672",
        hide_default_value = true,
        value_name = "URL",
        global = true
    )]
    pub amqp_url: String,

    /// Redis, for example redis://:password@host:6379/0
    #[arg(
        long,
        env = "TRAWL_REDIS_URL",
        hide_env_values = true,
        default_value = "redis://127.0.0.1:6379",
        hide_default_value = true,
        value_name = "URL",
        global = true
    )]
    pub redis_url: String,

    /// File that holds the RabbitMQ URL, in place of the URL itself
    #[arg(long, env = "TRAWL_AMQP_URL_FILE", value_name = "FILE", global = true)]
    pub amqp_url_file: Option<PathBuf>,

    /// File that holds the Redis URL, in place of the URL itself
    #[arg(long, env = "TRAWL_REDIS_URL_FILE", value_name = "FILE", global = true)]
    pub redis_url_file: Option<PathBuf>,

    /// CA to trust for amqps:// and rediss://, in place of the system's, PEM
    #[arg(long, env = "TRAWL_TLS_CA", value_name = "FILE", global = true)]
    pub tls_ca: Option<PathBuf>,

    /// Client certificate for amqps:// and rediss://, PEM
    #[arg(long, env = "TRAWL_TLS_CERT", value_name = "FILE", global = true)]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the client certificate, PEM
    #[arg(long, env = "TRAWL_TLS_KEY", value_name = "FILE", global = true)]
    pub tls_key: Option<PathBuf>,

    /// Allow amqp:// and redis:// to other machines, passwords in the clear
    #[arg(long, env = "TRAWL_INSECURE", value_parser = FalseyValueParser::new(), global = true)]
    pub insecure: bool,
}

impl std::fmt::Debug for ServiceArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServiceArgs(redacted)")
    }
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}
