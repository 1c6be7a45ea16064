//! Columns that come with an image and go into its row untouched: ids of a table, parts of a path, labels.
//!
//! Named by the job, read by the producer with the image, carried by the batch, written by the worker's sink. Values
//! travel as text, so that a plan and a message need no types; the part gives each column its own. What does not read
//! as its column's type is null: a carried value never fails an image.

use serde::{Deserialize, Serialize};

/// The longest carried value: rows are for joining on, not for carrying documents.
pub const MAX_CARRIED_BYTES: usize = 4096;

/// The most carried columns of a job.
pub const MAX_CARRIED_COLUMNS: usize = 64;

/// Names that a row's own columns have.
pub const RESERVED_COLUMNS: &[&str] = &[
    "key",
    "etag",
    "size",
    "width",
    "height",
    "status",
    "error_code",
    "error_message",
    "predicted_class_idx",
    "predicted_label",
    "confidence",
    "topk",
    "embedding",
    "labels",
    "boxes",
    "raw",
    "shape",
];

/// The type of a carried column in the parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CarriedKind {
    /// UTF-8.
    #[default]
    Text,
    /// 64-bit signed.
    Int,
    /// 64-bit.
    Float,
    /// `true` or `false`.
    Bool,
}

/// One carried column.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarriedColumn {
    /// Its name in the parts, and in the source if that has columns.
    pub name: String,
    /// Its type in the parts.
    #[serde(default, rename = "type")]
    pub kind: CarriedKind,
}

/// The carried values of one image, in the order of [`CarriedColumn`]s; shorter than those where nothing is known.
pub type Carried = Vec<Option<String>>;
