//! The command line: names, flags and their help. No decision is made here.
//!
//! Scripts depend on names, flags and exit codes. Values that cannot be right are refused while parsing,
//! before anything connects; what comes from the environment is never shown, it may be a password.

mod output;
mod submit;

pub use output::{CompactArgs, ExportArgs, ExportFormat, StatusFilter};
pub use submit::SubmitArgs;

use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
    value_parser,
};
use clap_complete::Shell;
use trawl_common::{
    command_line,
    config::{AddressArgs, OutputFormat, ServiceArgs},
    dead::Selection,
    error_code::ErrorCode,
    job::{JobId, QueueName},
    telemetry::LogFormat,
};

/// `trawl jobs` shows this many unless told otherwise: a screen full.
const DEFAULT_JOBS: u32 = 20;

/// More jobs than this are no list for a terminal, and each costs the ledger a read.
const MAX_JOBS: i64 = 10_000;

const EXAMPLES: &str = "\
Examples:
  trawl submit s3://bucket/photos --model resnet50.pt --out s3://bucket/labels --watch
  trawl status s3://bucket/labels
  trawl results s3://bucket/labels --limit 10
  trawl watch
  trawl run ./photos --model resnet50.pt --out ./labels      one machine, no servers";

const ENVIRONMENT: &str = "\
Services are named by TRAWL_AMQP_URL and TRAWL_REDIS_URL, buckets by the variables of their clouds: AWS_*, GOOGLE_*,
AZURE_* (docs/stores.md).
OTEL_EXPORTER_OTLP_ENDPOINT switches OpenTelemetry traces on, OTEL_SDK_DISABLED=true off.
Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 failed images (--strict), 4 not found,
5 a service is away: try again, 130 and 143 signals.";

/// Run a PyTorch vision model over every image in a bucket
#[derive(Debug, Parser)]
#[command(name = "trawl", version, about, before_help = EXAMPLES, after_help = ENVIRONMENT)]
#[command(arg_required_else_help = true)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub global: GlobalArgs,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The command line as it is parsed and shown.
pub fn command() -> clap::Command {
    command_line::laid_out(<Cli as clap::CommandFactory>::command())
}

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// How to print: for people, or JSON (one document, or a line each for streams)
    #[arg(long, global = true, value_enum, default_value_t = OutputFormat::Text, value_name = "FORMAT")]
    pub output: OutputFormat,

    /// How log lines look; they go to stderr
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Pretty, value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// Log more: -v what is done, -vv how (TRAWL_LOG takes a filter)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// No colour (NO_COLOR, CLICOLOR_FORCE and TERM=dumb are obeyed too)
    #[arg(long, global = true)]
    pub no_color: bool,

    /// Where the services are.
    #[command(flatten)]
    pub services: ServiceArgs,

    /// Where URLs may lead.
    #[command(flatten)]
    pub addresses: AddressArgs,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enqueue a job and print its id
    ///
    /// Lists the sources, writes the plan into OUT and enqueues batches for the workers. Giving the same
    /// command again resumes where it stopped; nothing is done twice.
    #[command(before_help = "\
Examples:
  trawl submit s3://bucket/photos --model resnet50.pt --out s3://bucket/labels
  trawl submit ./photos --model s3://models/vit.pt --out ./labels --include '*.jpg' --limit 1000 --watch
  trawl submit s3://bucket/photos --model resnet50.pt --out s3://bucket/labels --dry-run --sample 64")]
    Submit(Box<SubmitArgs>),

    /// Run a job on this machine, without servers (hands over to trawl-worker run)
    #[command(
        after_help = "All arguments go to `trawl-worker run`; `trawl run --help` shows its flags.",
        before_help = "\
Examples:
  trawl run ./photos --model resnet50.pt --out ./labels"
    )]
    Run {
        /// Arguments of `trawl-worker run`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<std::ffi::OsString>,
    },

    /// Compute one row again and show it beside the stored one (hands over to trawl-worker replay)
    #[command(
        after_help = "All arguments go to `trawl-worker replay`; `trawl replay --help` shows its flags.",
        before_help = "\
Examples:
  trawl replay ./labels photos/cat.jpg
  trawl replay s3://bucket/labels s3://bucket/photos/cat.jpg --model retrained.pt"
    )]
    Replay {
        /// Arguments of `trawl-worker replay`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<std::ffi::OsString>,
    },

    /// Show how a job stands
    ///
    /// By job id from the ledger; by place from the output itself, which needs neither Redis nor RabbitMQ.
    /// Without an argument: all jobs, as `trawl jobs`.
    #[command(before_help = "\
Examples:
  trawl status job-0123456789ab
  trawl status s3://bucket/labels
  trawl status ./labels --output json | jq .images_failed")]
    Status {
        /// A job id, or the output of a job: a folder or an s3:// prefix
        #[arg(value_name = "JOB|OUT")]
        target: Option<String>,
    },

    /// List the jobs, the newest first
    #[command(before_help = "\
Examples:
  trawl jobs
  trawl jobs --limit 1 --output json")]
    Jobs(JobsArgs),

    /// Follow a job until it ends, or all jobs
    ///
    /// On a terminal a screen with progress, rate, workers and batches in hand; `?` shows its keys. Elsewhere a
    /// line now and then. Without a job: all of them, until you leave. Leaving changes nothing: the jobs go on.
    /// Exit code 0 if the job is complete, 130 if you left before.
    #[command(before_help = "\
Examples:
  trawl watch                                     all jobs
  trawl watch job-0123456789ab
  trawl watch s3://bucket/labels --strict && echo all images have a prediction
  trawl watch job-0123456789ab --output json | jq .images_per_second")]
    Watch {
        /// A job id, or the output of a job
        #[arg(value_name = "JOB|OUT")]
        target: Option<String>,

        /// Exit with 3 if images failed
        #[arg(long, requires = "target")]
        strict: bool,
    },

    /// Print the rows of an output
    #[command(before_help = "\
Examples:
  trawl results s3://bucket/labels --limit 10
  trawl results ./labels --output json | jq -r 'select(.confidence > 0.9) | .key'
  The parts are Parquet: duckdb -c \"select * from 'labels/*.parquet'\"")]
    Results {
        /// The output of a job, or a job id
        #[arg(value_name = "OUT")]
        target: String,

        /// Print at most this many rows
        #[arg(long, value_parser = value_parser!(u64).range(1..), value_name = "N")]
        limit: Option<u64>,
    },

    /// Print the images that have no prediction, and why
    #[command(before_help = "\
Examples:
  trawl failures s3://bucket/labels
  trawl failures ./labels --code truncated --output json | jq -r .key")]
    Failures {
        /// The output of a job, or a job id
        #[arg(value_name = "OUT")]
        target: String,

        /// Print only failures with this code
        #[arg(long, value_parser = error_code(), value_name = "CODE")]
        code: Option<ErrorCode>,

        /// Print at most this many rows
        #[arg(long, value_parser = value_parser!(u64).range(1..), value_name = "N")]
        limit: Option<u64>,
    },

    /// Write the rows of an output as CSV, JSON lines or a NumPy matrix
    ///
    /// Streams: no more than a few parts are in memory. Names and values are those of the Parquet columns; a list is
    /// JSON within CSV. `npy` writes a matrix of the embeddings, and beside it NAME.keys.csv with the key of each line.
    /// A job that still runs gives what is there.
    #[command(before_help = "\
Examples:
  trawl export s3://bucket/labels --to csv --columns key,predicted_label,confidence > labels.csv
  trawl export ./labels --to jsonl --status error
  trawl export s3://bucket/vectors --to npy --file vectors.npy")]
    Export(output::ExportArgs),

    /// Copy a finished output into another with larger files
    ///
    /// NEWOUT is an output as any other: every command and every reader of OUT/*.parquet takes it, each row is in it once,
    /// and OUT stays as it is until you remove it. Readers see NEWOUT's rows as they are added; it has _SUCCESS when all
    /// of them are there. Given again after it was stopped anywhere, it goes on. Holds a file at a time in memory.
    #[command(before_help = "\
Examples:
  trawl compact s3://bucket/labels --to s3://bucket/labels-compact
  trawl compact ./labels --to ./labels-compact --target-size 64MiB
  trawl compact ./labels --to ./labels-compact --dry-run")]
    Compact(output::CompactArgs),

    /// Check an output against its plan
    ///
    /// Reads the bucket alone: it needs neither Redis nor RabbitMQ, and writes nothing. Exit code 0 only if every
    /// planned image has its row once and nothing else is there.
    #[command(before_help = "\
Examples:
  trawl verify s3://bucket/labels
  trawl verify ./labels --deep
  trawl verify s3://bucket/labels --output json | jq .counts")]
    Verify {
        /// The output of a job, or a job id
        #[arg(value_name = "OUT")]
        target: String,

        /// Read every part and compare its keys with the plan's, not only footers
        #[arg(long)]
        deep: bool,
    },

    /// Bring an output, the ledger and the queue back in step
    ///
    /// Rebuilds the ledger from the output, finishes an interrupted plan, enqueues every batch without a part and has
    /// the job finished. Bad parts are listed, and removed only with --discard. Given again after it was stopped
    /// anywhere, it goes on. A cancelled job stays cancelled.
    #[command(before_help = "\
Examples:
  trawl repair s3://bucket/labels --dry-run
  trawl repair s3://bucket/labels                 after a wiped Redis or a deleted queue
  trawl repair s3://bucket/labels --discard       after `trawl verify` named bad parts")]
    Repair {
        /// The output of a job, or a job id
        #[arg(value_name = "OUT")]
        target: String,

        /// Remove bad, foreign and duplicate parts and enqueue their batches
        #[arg(long)]
        discard: bool,

        /// Look for bad parts as `trawl verify --deep` does
        #[arg(long)]
        deep: bool,

        /// Say what would be done; change nothing
        #[arg(long)]
        dry_run: bool,
    },

    /// Show, send back or drop the messages that were given up
    ///
    /// Sending back a letter of a cancelled or complete job is harmless: a worker sees that before it computes.
    #[command(before_help = "\
Examples:
  trawl dead list
  trawl dead list --job job-0123456789ab --output json | jq -r .reason
  trawl dead retry --reason 'CUDA' --limit 10
  trawl dead drop --queue gpu --yes")]
    Dead {
        /// What to do with them
        #[command(subcommand)]
        action: DeadCommand,
    },

    /// Give a job up; what is written stays
    #[command(before_help = "\
Examples:
  trawl cancel job-0123456789ab")]
    Cancel {
        /// The job id
        job: JobId,
    },

    /// Hold a job back; what workers have in hand is finished
    #[command(before_help = "\
Examples:
  trawl pause job-0123456789ab
  trawl resume job-0123456789ab")]
    Pause {
        /// The job id
        job: JobId,
    },

    /// Take a paused job up again
    #[command(before_help = "\
Examples:
  trawl resume job-0123456789ab")]
    Resume {
        /// The job id
        job: JobId,
    },

    /// Check the services, a store and a model
    #[command(before_help = "\
Examples:
  trawl doctor
  trawl doctor --store s3://bucket/labels --model resnet50.pt
  trawl doctor --store az://photos/labels --only store     no servers needed")]
    Doctor(DoctorArgs),

    /// Print a completion script for a shell
    #[command(before_help = "\
Examples:
  trawl completions bash > ~/.local/share/bash-completion/completions/trawl
  trawl completions zsh > ~/.zfunc/_trawl")]
    Completions {
        /// The shell
        shell: Shell,
    },

    /// Write the manual pages into a folder
    #[command(
        hide = true,
        before_help = "\
Examples:
  trawl man ~/.local/share/man/man1"
    )]
    Man {
        /// The folder; it is made if it is not there
        #[arg(value_name = "DIR")]
        dir: std::path::PathBuf,
    },
}

/// What `trawl dead` does.
#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// Show them, the oldest first
    #[command(before_help = "\
Examples:
  trawl dead list
  trawl dead list --job job-0123456789ab --output json | jq -r .reason")]
    List(Selection),
    /// Send them back to their lanes as new work
    #[command(before_help = "\
Examples:
  trawl dead retry --job job-0123456789ab
  trawl dead retry --reason 'CUDA' --limit 10")]
    Retry(Selection),
    /// Remove them for good
    #[command(before_help = "\
Examples:
  trawl dead drop --queue gpu --yes
  trawl dead drop --job job-0123456789ab        asks first")]
    Drop {
        /// Which.
        #[command(flatten)]
        selection: Selection,

        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Flags of `trawl jobs`.
#[derive(Debug, Args)]
pub struct JobsArgs {
    /// Show at most this many
    #[arg(long, default_value_t = DEFAULT_JOBS, value_parser = value_parser!(u32).range(1..=MAX_JOBS), value_name = "N")]
    pub limit: u32,
}

/// Flags of `trawl doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Check this folder or prefix of a bucket: put, get, ranges, list, create-only puts, delete
    #[arg(long, value_name = "PLACE")]
    pub store: Option<String>,

    /// Check nothing but this (repeatable)
    #[arg(long, value_enum, value_delimiter = ',', value_name = "TOPIC")]
    pub only: Vec<DoctorTopic>,

    /// Check this model bundle
    #[arg(long, value_name = "BUNDLE")]
    pub model: Option<String>,

    /// The queue to look at
    #[arg(long, default_value = "default", value_name = "NAME")]
    pub queue: QueueName,
}

/// What `trawl doctor` can look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DoctorTopic {
    /// RabbitMQ and Redis.
    Services,
    /// The place of --store.
    Store,
    /// The bundle of --model.
    Model,
    /// The worker on this machine.
    Worker,
}

impl DoctorArgs {
    /// Whether to look at `topic`.
    pub fn looks_at(&self, topic: DoctorTopic) -> bool {
        self.only.is_empty() || self.only.contains(&topic)
    }
}

impl Default for JobsArgs {
    fn default() -> Self {
        Self { limit: DEFAULT_JOBS }
    }
}

/// Parses an error code and names all of them in the help.
fn error_code() -> impl TypedValueParser<Value = ErrorCode> {
    PossibleValuesParser::new(ErrorCode::ALL.iter().map(|code| code.as_str()))
        .try_map(|text| text.parse::<ErrorCode>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, error::ErrorKind};

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_holds() {
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
    fn global_flags_stand_anywhere() {
        for line in ["trawl --output json -vv jobs", "trawl jobs --output json -vv"] {
            let cli = parse(line).unwrap();
            assert_eq!((cli.global.output, cli.global.verbose), (OutputFormat::Json, 2));
        }
    }

    #[test]
    fn values_that_cannot_be_right_are_refused() {
        let job = "s --model m --out o";
        for line in [
            &format!("trawl submit {job} --limit 0"),
            &format!("trawl submit {job} --batch-size 0"),
            &format!("trawl submit {job} --batch-size 10001"),
            &format!("trawl submit {job} --topk 0"),
            &format!("trawl submit {job} --dry-run --sample 0"),
            &format!("trawl submit {job} --dry-run --sample 1025"),
            &format!("trawl submit {job} --job-id a/b"),
            "trawl results o --limit 0",
            "trawl jobs --limit 0",
            "trawl failures o --code no_such_code",
            "trawl cancel a/b",
        ] {
            let kind = parse(line).unwrap_err().kind();
            assert!(matches!(kind, ErrorKind::ValueValidation | ErrorKind::InvalidValue), "{line}: {kind:?}");
        }
        for flags in ["--strict", "--sample 8"] {
            let kind = parse(&format!("trawl submit {job} {flags}")).unwrap_err().kind();
            assert_eq!(kind, ErrorKind::MissingRequiredArgument, "{flags}");
        }
        assert_eq!(
            parse(&format!("trawl submit {job} --dry-run --watch")).unwrap_err().kind(),
            ErrorKind::ArgumentConflict
        );
    }

    #[test]
    fn no_secret_is_in_the_help() {
        let help = Cli::command().render_long_help().to_string();
        assert!(!help.contains("guest:guest"), "{help}");
    }
}
