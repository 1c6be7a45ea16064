//! The flags that say how the sources of a job are read and what of them is taken.
//!
//! Part of [`crate::config::JobArgs`], so that `trawl submit` and `trawl-worker run` mean the same by them.

use crate::{
    carried::{CarriedColumn, CarriedKind, MAX_CARRIED_COLUMNS, RESERVED_COLUMNS},
    error_code::ErrorCode,
    planning::capture::Capture,
    selection::{Selection, SourceKind},
};
use clap::{Args, ValueEnum};
use std::str::FromStr;

/// The flags about sources.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Sources")]
pub struct SourceArgs {
    /// What the sources are; the default goes by their names (.tar, .parquet, .csv, .txt, .jsonl, manifest.json)
    #[arg(long, value_enum, default_value_t = SourceKind::Auto, value_name = "TYPE")]
    pub source_type: SourceKind,

    /// Where the relative names of a list begin, for example s3://bucket
    #[arg(long, value_name = "URL")]
    pub root: Option<String>,

    /// Column of a Parquet source that holds the image files
    #[arg(long, value_name = "COLUMN")]
    pub image_column: Option<String>,

    /// Column of a list or Parquet source that names the images
    #[arg(long, value_name = "COLUMN")]
    pub key_column: Option<String>,

    /// Column to carry into the rows: of a list, a Parquet source, --capture, or a folder NAME=value (repeatable); type
    /// text, int, float or bool
    #[arg(long, value_name = "NAME[:TYPE]")]
    pub carry: Vec<CarriedColumn>,

    /// Parts of the paths that become columns, for example '{class}/{name}.jpg'
    #[arg(long, value_name = "PATTERN")]
    pub capture: Option<Capture>,

    /// Take no smaller objects, for example 10KB or 1MiB
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    pub min_size: Option<u64>,

    /// Take no larger objects
    #[arg(long, value_parser = bytes, value_name = "SIZE")]
    pub max_size: Option<u64>,

    /// Take only what was written at this time or later: 2026-11-22, 2026-11-22T08:00:00Z, or seconds since 1970
    #[arg(long, value_parser = seconds, value_name = "TIME")]
    pub modified_from: Option<u64>,

    /// Take only what was written before this time
    #[arg(long, value_parser = seconds, value_name = "TIME")]
    pub modified_before: Option<u64>,

    /// Take only what this earlier output does not have, or has with another etag (repeatable)
    #[arg(long, value_name = "OUT")]
    pub since: Vec<String>,

    /// Take the images that failed in this earlier output, in the place of sources
    #[arg(long, value_name = "OUT", conflicts_with = "sources")]
    pub from_failures: Option<String>,

    /// Of the failed images only those with this code (repeatable)
    #[arg(long, value_name = "CODE", requires = "from_failures")]
    pub code: Vec<ErrorCode>,
}

impl SourceArgs {
    /// How the sources are read.
    pub fn selection(&self) -> Selection {
        Selection {
            kind: if self.from_failures.is_some() { SourceKind::Failures } else { self.source_type },
            root: self.root.clone(),
            image_column: self.image_column.clone(),
            key_column: self.key_column.clone(),
            capture: self.capture.as_ref().map(ToString::to_string),
            min_bytes: self.min_size,
            max_bytes: self.max_size,
            modified_from: self.modified_from,
            modified_before: self.modified_before,
            since: self.since.clone(),
            codes: self.code.clone(),
        }
    }

    /// The columns that are carried: those that were asked for, and what the pattern names.
    pub fn carry(&self) -> Vec<CarriedColumn> {
        let mut carry = self.carry.clone();
        for name in self.capture.iter().flat_map(Capture::names) {
            if !carry.iter().any(|column| column.name == *name) {
                carry.push(CarriedColumn { name: name.clone(), kind: CarriedKind::Text });
            }
        }
        carry.truncate(MAX_CARRIED_COLUMNS);
        carry
    }
}

/// A text that names no column to carry.
#[derive(Debug, thiserror::Error)]
pub enum BadColumn {
    /// Not NAME or NAME:TYPE.
    #[error("`{0}` is no column to carry: it looks like NAME or NAME:int (text, int, float, bool)")]
    Form(String),
    /// A name that rows have already.
    #[error("`{0}` is a column of the rows already: rename it in the source")]
    Reserved(String),
}

impl FromStr for CarriedColumn {
    type Err = BadColumn;

    fn from_str(text: &str) -> Result<Self, BadColumn> {
        let bad = || BadColumn::Form(text.to_owned());
        let (name, kind) = match text.rsplit_once(':') {
            Some((name, kind)) => (name, CarriedKind::from_str(kind, true).map_err(|_| bad())?),
            None => (text, CarriedKind::Text),
        };
        if name.is_empty() {
            return Err(bad());
        }
        if RESERVED_COLUMNS.contains(&name) {
            return Err(BadColumn::Reserved(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), kind })
    }
}

/// `1234`, `10KB`, `1.5MiB`.
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "kib" => 1024.0,
        "m" | "mb" => 1e6,
        "mib" => 1024.0 * 1024.0,
        "g" | "gb" => 1e9,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("`{other}` is no unit of bytes: use KB, KiB, MB, MiB, GB or GiB")),
    };
    let number: f64 =
        number.parse().map_err(|_| format!("`{text}` is no size: it looks like 10KB or 1MiB"))?;
    Ok((number * factor) as u64)
}

/// A day, a time in RFC 3339, or seconds since 1970.
fn seconds(text: &str) -> Result<u64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let whole = if text.len() == 10 { format!("{text}T00:00:00Z") } else { text.to_owned() };
    chrono::DateTime::parse_from_rfc3339(&whole)
        .ok()
        .and_then(|time| u64::try_from(time.timestamp()).ok())
        .ok_or_else(|| format!("`{text}` is no time: it looks like 2026-11-22 or 2026-11-22T08:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_times_and_columns() {
        assert_eq!(bytes("10"), Ok(10));
        assert_eq!(bytes("1.5KiB"), Ok(1536));
        assert_eq!(bytes("2 MB"), Ok(2_000_000));
        assert!(bytes("2 parsecs").is_err() && bytes("MB").is_err());
        assert_eq!(seconds("86400"), Ok(86_400));
        assert_eq!(seconds("1970-01-02"), Ok(86_400));
        assert_eq!(seconds("1970-01-02T00:00:01Z"), Ok(86_401));
        assert!(seconds("yesterday").is_err());
        let column: CarriedColumn = "id:int".parse().unwrap();
        assert_eq!((column.name.as_str(), column.kind), ("id", CarriedKind::Int));
        assert!("id:uuid".parse::<CarriedColumn>().is_err() && ":int".parse::<CarriedColumn>().is_err());
        assert!(matches!("etag".parse::<CarriedColumn>(), Err(BadColumn::Reserved(_))));
    }
}
