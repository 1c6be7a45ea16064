//! The flags of the commands that make other files of an output.

use clap::{Args, ValueEnum, value_parser};
use std::path::PathBuf;

/// Flags of `trawl export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The output of a job, or a job id
    #[arg(value_name = "OUT")]
    pub target: String,

    /// What to write
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub to: ExportFormat,

    /// Where to write; `-` is stdout. It has its name only when it is whole
    #[arg(long, default_value = "-", value_name = "FILE")]
    pub file: PathBuf,

    /// Only these columns, in this order [default: all; for npy: the only embedding, and the key]
    #[arg(long, value_delimiter = ',', value_name = "NAME,..")]
    pub columns: Vec<String>,

    /// Only rows with this status [default: all; for npy: ok]
    #[arg(long, value_enum, value_name = "STATUS")]
    pub status: Option<StatusFilter>,
}

/// What `trawl export` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Comma-separated values with a header (RFC 4180)
    Csv,
    /// A JSON object a line
    Jsonl,
    /// A NumPy matrix of the embeddings
    Npy,
}

/// Which rows `trawl export` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StatusFilter {
    /// Those with a prediction
    Ok,
    /// Those without
    Error,
    /// All of them
    All,
}

impl StatusFilter {
    /// Whether a row that failed, or did not, is among them.
    pub fn takes(self, failed: bool) -> bool {
        match self {
            Self::Ok => !failed,
            Self::Error => failed,
            Self::All => true,
        }
    }
}

/// A file of `trawl compact` holds this much unless told otherwise: few enough to list, small enough for a worker's memory.
const DEFAULT_TARGET: &str = "256MiB";

/// A larger file is not put at once by every store, and is held in memory.
const MAX_TARGET_BYTES: u64 = 4 << 30;

/// Flags of `trawl compact`.
#[derive(Debug, Args)]
pub struct CompactArgs {
    /// The output of a finished job, or its id
    #[arg(value_name = "OUT")]
    pub target: String,

    /// Where the new output goes: an empty place
    #[arg(long, value_name = "NEWOUT")]
    pub to: String,

    /// Bytes of a new file, about: a number, or one with KiB, MiB or GiB
    #[arg(long, default_value = DEFAULT_TARGET, value_parser = bytes, value_name = "SIZE")]
    pub target_size: u64,

    /// Rows of a row group in the new files
    #[arg(long, default_value_t = 131_072, value_parser = value_parser!(u32).range(1..=1_048_576), value_name = "N")]
    pub row_group_rows: u32,

    /// Say what would be written; write nothing
    #[arg(long)]
    pub dry_run: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[at..] {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        other => return Err(format!("`{other}` is no unit: use KiB, MiB or GiB")),
    };
    let bytes = text[..at].parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    bytes.filter(|n| (1..=MAX_TARGET_BYTES).contains(n)).ok_or_else(|| "use 1 to 4GiB".to_owned())
}
