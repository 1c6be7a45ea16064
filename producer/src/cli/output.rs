//! The flags of the commands that make other files of an output.

use clap::{Args, ValueEnum};
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
