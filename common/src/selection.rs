//! How the sources of a job are read, and which of what they reach is taken.
//!
//! Part of the job's spec: the producer that resumes a job reads them the same way. Only the planning knows what the
//! fields do; a worker never looks at them.

use crate::error_code::ErrorCode;
use serde::{Deserialize, Serialize};

/// What the objects of a source are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// By the name: `.tar` is an archive, `.parquet` a table of images, `.txt`, `.csv`, `.jsonl` and `-` are lists,
    /// `manifest.json` is an S3 Inventory; everything else holds images.
    #[default]
    Auto,
    /// Images, one an object.
    Images,
    /// Tar archives of images, as WebDataset and img2dataset write them.
    Tar,
    /// Parquet files with a column of image files.
    Parquet,
    /// Lists of keys or URLs: lines, CSV, JSON lines or Parquet.
    List,
    /// S3 Inventory reports.
    Inventory,
    /// The plan of another job, of which the failed images are taken.
    #[value(skip)]
    Failures,
}

/// How sources are read and what is taken.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// What the sources are.
    #[serde(rename = "type")]
    pub kind: SourceKind,
    /// Where the relative names of a list begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// The column of a table that holds the image files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_column: Option<String>,
    /// The column of a table or list that names the images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_column: Option<String>,
    /// A pattern of paths whose `{names}` become columns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capture: Option<String>,
    /// Smallest object taken, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_bytes: Option<u64>,
    /// Largest object taken, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// Only what was written at or after this second since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified_from: Option<u64>,
    /// Only what was written before this second since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified_before: Option<u64>,
    /// Earlier outputs: only what they do not have, or have with another tag.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub since: Vec<String>,
    /// Of failed images only those with one of these codes; empty: all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<ErrorCode>,
}

impl Selection {
    /// Whether sources are read as they always were.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
