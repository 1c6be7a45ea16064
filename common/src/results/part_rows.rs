//! The rows of a part, read back for `trawl results` and `trawl failures`.
//!
//! The inverse of [`super::part::encode_part`]; what is read here came from a bucket that others can write
//! to, so that nothing in it may panic.

use super::{
    footer::FooterError,
    part::PartError,
    part_carried,
    part_views::HeadView,
    row::{Outcome, Prediction, ResultRow},
    schema::Columns,
};
use crate::error_code::ErrorCode;
use arrow::{
    array::{Array, ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch, StringArray},
    datatypes::{Int32Type, Int64Type},
};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

/// Every row of a part, in its order. Takes milliseconds of one core: not for an async thread.
///
/// # Errors
/// [`PartError`] if the file is no part of ours or of a later version.
pub fn read_rows(bytes: Bytes) -> Result<Vec<ResultRow>, PartError> {
    read_part(bytes).map(|(_, rows)| rows)
}

/// The columns of a part, and every row. As [`read_rows`].
///
/// # Errors
/// As [`read_rows`].
pub fn read_part(bytes: Bytes) -> Result<(Columns, Vec<ResultRow>), PartError> {
    let mut reader = PartReader::open(bytes)?;
    let mut rows = Vec::new();
    while let Some(more) = reader.next().transpose()? {
        rows.extend(more);
    }
    Ok((reader.columns, rows))
}

/// The rows of a part, some at a time: of a merged part no more than those are in memory. Each step takes milliseconds
/// of one core.
pub struct PartReader {
    columns: Columns,
    batches: ParquetRecordBatchReader,
    rows_read: usize,
}

impl PartReader {
    /// Opens the part in `bytes`.
    ///
    /// # Errors
    /// [`PartError`] if the file is no part of ours or of a later version.
    pub fn open(bytes: Bytes) -> Result<Self, PartError> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
        let columns = Columns::of_schema(builder.schema())
            .ok_or_else(|| FooterError::Parquet("its columns are not those of a part".into()))?;
        Ok(Self { columns, batches: builder.build()?, rows_read: 0 })
    }

    /// Its columns.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    fn read(&mut self, batch: &RecordBatch) -> Result<Vec<ResultRow>, PartError> {
        let view = RowView::new(batch, &self.columns)?;
        let mut rows = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let place = self.rows_read + row;
            rows.push(view.row(row).map_err(|reason| PartError::Row { row: place, reason })?);
        }
        self.rows_read += rows.len();
        Ok(rows)
    }
}

impl Iterator for PartReader {
    type Item = Result<Vec<ResultRow>, PartError>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.batches.next()?;
        Some(batch.map_err(PartError::from).and_then(|batch| self.read(&batch)))
    }
}

struct RowView<'a> {
    key: &'a StringArray,
    etag: &'a StringArray,
    size: &'a Int64Array,
    width: &'a Int32Array,
    height: &'a Int32Array,
    status: &'a StringArray,
    error_code: &'a StringArray,
    error_message: &'a StringArray,
    heads: Vec<HeadView<'a>>,
    batch: &'a RecordBatch,
    columns: &'a Columns,
}

impl<'a> RowView<'a> {
    /// `columns` was checked against the schema, so the types are what they should be; a failed cast is still
    /// an error and no panic.
    fn new(batch: &'a RecordBatch, columns: &'a Columns) -> Result<Self, PartError> {
        let column = |name: &str| -> Result<&'a ArrayRef, PartError> {
            let index = batch.schema().index_of(name)?;
            Ok(batch.column(index))
        };
        let wrong = || FooterError::Parquet("a column has another type than a part's".into());
        let text = |name| -> Result<&'a StringArray, PartError> {
            Ok(column(name)?.as_string_opt().ok_or_else(wrong)?)
        };
        let int = |name| -> Result<&'a Int32Array, PartError> {
            Ok(column(name)?.as_primitive_opt::<Int32Type>().ok_or_else(wrong)?)
        };
        Ok(Self {
            key: text("key")?,
            etag: text("etag")?,
            size: column("size")?.as_primitive_opt::<Int64Type>().ok_or_else(wrong)?,
            width: int("width")?,
            height: int("height")?,
            status: text("status")?,
            error_code: text("error_code")?,
            error_message: text("error_message")?,
            heads: columns.heads.iter().map(|head| HeadView::new(batch, head)).collect::<Result<_, _>>()?,
            batch,
            columns,
        })
    }

    fn row(&self, row: usize) -> Result<ResultRow, String> {
        let text = |column: &StringArray| column.is_valid(row).then(|| column.value(row).to_owned());
        let pixels =
            |column: &Int32Array| column.is_valid(row).then(|| u32::try_from(column.value(row)).unwrap_or(0));
        let code = text(self.error_code)
            .map(|code| code.parse::<ErrorCode>())
            .transpose()
            .map_err(|e| format!("{e}; update trawl"))?;
        let outcome = match (self.status.value(row), code) {
            ("ok", None) => Outcome::Ok(self.prediction(row)?),
            ("ok", Some(ErrorCode::Truncated)) => Outcome::OkTruncated(self.prediction(row)?),
            ("error", Some(code)) => {
                Outcome::Failed { code, message: text(self.error_message).unwrap_or_default() }
            }
            (status, code) => return Err(format!("status `{status}` with error code {code:?}")),
        };
        Ok(ResultRow {
            key: self.key.value(row).to_owned(),
            etag: text(self.etag),
            size: u64::try_from(self.size.value(row)).unwrap_or(0),
            width: pixels(self.width),
            height: pixels(self.height),
            outcome,
            carried: part_carried::row(self.batch, &self.columns.carried, row),
        })
    }

    fn prediction(&self, row: usize) -> Result<Prediction, String> {
        match &self.heads[..] {
            [only] if only.name.is_none() => only.answer(row),
            heads => {
                let answer = |head: &HeadView<'_>| {
                    let name = head.name.clone().ok_or("one of several heads has no name")?;
                    Ok::<_, String>((name, head.answer(row)?))
                };
                heads.iter().map(answer).collect::<Result<_, _>>().map(Prediction::Several)
            }
        }
    }
}

#[cfg(test)]
#[path = "part_rows_tests.rs"]
mod tests;
