//! The keys and error codes of a part's rows, without their predictions.
//!
//! For `trawl verify --deep`, which compares them with the plan: an embedding is not decoded to learn whose it is.

use super::{
    footer::{FooterEntries, FooterError},
    part::{PartError, PartFooter},
};
use arrow::array::{Array, AsArray, StringArray};
use bytes::Bytes;
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

/// What a row is about, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedRow {
    /// As in [`super::row::ResultRow::key`].
    pub key: String,
    /// The error code of a row with `status = error`; empty if it has none.
    pub failed_with: Option<String>,
}

/// The footer of a part and its rows in order. Takes milliseconds of one core: not for an async thread.
///
/// # Errors
/// [`PartError`] if the file is no part of ours.
pub fn read_keys(bytes: Bytes) -> Result<(PartFooter, Vec<KeyedRow>), PartError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let footer = PartFooter::of(&FooterEntries::of(builder.metadata()))?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), ["key", "status", "error_code"]);
    let mut rows = Vec::new();
    for batch in builder.with_projection(mask).build()? {
        let batch = batch?;
        let text = |name| -> Result<&StringArray, PartError> {
            let column = batch.column_by_name(name).and_then(|column| column.as_string_opt());
            Ok(column.ok_or_else(|| FooterError::Parquet(format!("it has no text column `{name}`")))?)
        };
        let (keys, status, codes) = (text("key")?, text("status")?, text("error_code")?);
        rows.extend((0..batch.num_rows()).map(|row| {
            KeyedRow {
                key: keys.value(row).to_owned(),
                failed_with: (status.value(row) != "ok")
                    .then(|| if codes.is_valid(row) { codes.value(row).to_owned() } else { String::new() }),
            }
        }));
    }
    Ok((footer, rows))
}
