//! The rows of a part, read back for `trawl results` and `trawl failures`.
//!
//! The inverse of [`super::part::encode_part`]; what is read here came from a bucket that others can write
//! to, so that nothing in it may panic.

use super::{
    footer::FooterError,
    part::PartError,
    row::{ClassScore, Outcome, Prediction, ResultRow},
    schema::Columns,
};
use crate::error_code::ErrorCode;
use arrow::{
    array::{
        Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int32Array, Int64Array, ListArray,
        RecordBatch, StringArray,
    },
    datatypes::{Float32Type, Int32Type, Int64Type},
};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// Every row of a part, in its order. Takes milliseconds of one core: not for an async thread.
///
/// # Errors
/// [`PartError`] if the file is no part of ours or of a later version.
pub fn read_rows(bytes: Bytes) -> Result<Vec<ResultRow>, PartError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let columns = Columns::of_schema(builder.schema())
        .ok_or_else(|| FooterError::Parquet("its columns are not those of a part".into()))?;
    let mut rows = Vec::new();
    for batch in builder.build()? {
        let batch = batch?;
        let view = RowView::new(&batch, columns)?;
        rows.reserve(batch.num_rows());
        for row in 0..batch.num_rows() {
            let read = view.row(row).map_err(|reason| PartError::Row { row: rows.len(), reason })?;
            rows.push(read);
        }
    }
    Ok(rows)
}

enum PredictionView<'a> {
    Classes(&'a ListArray),
    Vector(&'a FixedSizeListArray),
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
    prediction: PredictionView<'a>,
}

impl<'a> RowView<'a> {
    /// `columns` was checked against the schema, so the types are what they should be; a failed cast is still
    /// an error and no panic.
    fn new(batch: &'a RecordBatch, columns: Columns) -> Result<Self, PartError> {
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
            prediction: match columns {
                Columns::Classes => PredictionView::Classes(column("topk")?.as_list_opt().ok_or_else(wrong)?),
                Columns::Vector(_) => {
                    PredictionView::Vector(column("embedding")?.as_fixed_size_list_opt().ok_or_else(wrong)?)
                }
            },
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
            carried: Vec::new(),
        })
    }

    fn prediction(&self, row: usize) -> Result<Prediction, String> {
        let odd = || "the prediction is not readable".to_owned();
        match self.prediction {
            PredictionView::Classes(list) if list.is_valid(row) => {
                let entries = list.value(row);
                let entries = entries.as_struct_opt().ok_or_else(odd)?;
                let field = |name| entries.column_by_name(name).ok_or_else(odd);
                let index: &Int32Array = field("idx")?.as_primitive_opt::<Int32Type>().ok_or_else(odd)?;
                let label: &StringArray = field("label")?.as_string_opt().ok_or_else(odd)?;
                let probability: &Float32Array =
                    field("prob")?.as_primitive_opt::<Float32Type>().ok_or_else(odd)?;
                let class = |i| ClassScore {
                    index: index.value(i),
                    label: label.is_valid(i).then(|| label.value(i).to_owned()),
                    probability: probability.value(i),
                };
                Ok(Prediction::Classes((0..entries.len()).map(class).collect()))
            }
            PredictionView::Vector(list) if list.is_valid(row) => {
                let values = list.value(row);
                let values: &Float32Array = values.as_primitive_opt::<Float32Type>().ok_or_else(odd)?;
                Ok(Prediction::Vector(values.values().to_vec()))
            }
            PredictionView::Classes(_) | PredictionView::Vector(_) => {
                Err("status `ok` without a prediction".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        footer::FooterError,
        part::{PartError, PartFooter, encode_part},
        row::{ClassScore, Outcome, Prediction, ResultRow},
        schema::Columns,
    };
    use super::read_rows;
    use crate::{batch::BatchNumber, error_code::ErrorCode};
    use bytes::Bytes;

    fn footer(rows: &[ResultRow]) -> PartFooter {
        let empty = PartFooter {
            job: "j-1".parse().unwrap(),
            created_unix_ms: std::num::NonZeroU64::new(7),
            batch: BatchNumber(42),
            rows: 0,
            failures: 0,
            errors: Default::default(),
            stages: Default::default(),
            engine: Default::default(),
            model_sha256: "ab".repeat(32),
            preprocess_sha256: "cd".repeat(32),
            version: "0.1.0".into(),
            attempt_id: "attempt-ü".into(),
            worker: "host/1".into(),
        };
        empty.counted(rows)
    }

    fn row(key: &str, outcome: Outcome) -> ResultRow {
        ResultRow {
            key: key.into(),
            etag: Some("e".into()),
            size: 7,
            width: Some(2),
            height: Some(3),
            outcome,
            carried: Vec::new(),
        }
    }

    fn failed(key: &str, code: ErrorCode, message: &str) -> ResultRow {
        let outcome = Outcome::Failed { code, message: message.into() };
        ResultRow { etag: None, width: None, height: None, ..row(key, outcome) }
    }

    fn classes(n: i32) -> Prediction {
        let class = |i: i32| ClassScore {
            index: i,
            label: (i % 2 == 0).then(|| format!("Größe {i}")),
            probability: 1.0 / (i as f32 + 2.0),
        };
        Prediction::Classes((0..n).map(class).collect())
    }

    fn class_rows() -> Vec<ResultRow> {
        vec![
            row("s3://b/ä/日本 .jpg", Outcome::Ok(classes(5))),
            failed("s3://b/x", ErrorCode::NotAnImage, ""),
            ResultRow { size: 0, ..failed("s3://b/", ErrorCode::Empty, "the object has no bytes\nat all") },
            row("photos/t.jpg", Outcome::OkTruncated(classes(2))),
            row("photos/one.jpg", Outcome::Ok(classes(1))),
        ]
    }

    #[test]
    fn classes_round_trip() {
        let rows = class_rows();
        let part = encode_part(&rows, Columns::Classes, &footer(&rows)).unwrap();
        assert_eq!(read_rows(part).unwrap(), rows);
    }

    #[test]
    fn vectors_round_trip_with_nulls_between() {
        let vector = |x: f32| Outcome::Ok(Prediction::Vector(vec![x, -x, f32::MIN_POSITIVE]));
        let rows = vec![
            failed("a", ErrorCode::Corrupt, "x"),
            row("b", vector(1.5)),
            failed("c", ErrorCode::Corrupt, "x"),
            row("d", vector(-0.25)),
        ];
        let part = encode_part(&rows, Columns::Vector(3), &footer(&rows)).unwrap();
        assert_eq!(read_rows(part).unwrap(), rows);
    }

    #[test]
    fn parts_of_nothing_but_errors_have_the_same_columns() {
        let rows = vec![failed("a", ErrorCode::Forbidden, "no"), failed("b", ErrorCode::NotFound, "gone")];
        for columns in [Columns::Classes, Columns::Vector(1280)] {
            let part = encode_part(&rows, columns, &footer(&rows)).unwrap();
            let builder =
                parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(part.clone()).unwrap();
            assert_eq!(Columns::of_schema(builder.schema()), Some(columns));
            assert_eq!(read_rows(part).unwrap(), rows);
        }
    }

    #[test]
    fn the_footer_is_read_from_the_tail_alone() {
        let rows = class_rows();
        let part = encode_part(&rows, Columns::Classes, &footer(&rows)).unwrap();
        let size = part.len() as u64;
        let FooterError::NeedMore(needed) =
            PartFooter::read(&part.slice(part.len() - 8..), size).unwrap_err()
        else {
            panic!("eight bytes are no footer")
        };
        assert!(needed < part.len());
        let read = PartFooter::read(&part.slice(part.len() - needed..), size).unwrap();
        assert_eq!(read, footer(&rows));
        let outcome = read.outcome();
        assert_eq!((outcome.images_ok, outcome.images_failed), (3, 2));
        assert_eq!(outcome.errors[&ErrorCode::Empty], 1);
        assert!(needed < 64 << 10, "one request must do for a footer, it has {needed} bytes");
    }

    #[test]
    fn what_is_no_part_is_refused_and_never_a_panic() {
        let rows = class_rows();
        let part = encode_part(&rows, Columns::Classes, &footer(&rows)).unwrap();
        for cut in [0, 3, 8, part.len() / 2, part.len() - 1] {
            let broken = part.slice(..cut);
            assert!(PartFooter::read(&broken, cut as u64).is_err(), "cut at {cut}");
            assert!(read_rows(broken).is_err(), "cut at {cut}");
        }
        let mut huge = part.to_vec();
        let at = huge.len() - 8;
        huge[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        let error = PartFooter::read(&Bytes::from(huge), 1 << 40).unwrap_err();
        assert!(matches!(error, FooterError::Parquet(_)), "{error}");
    }

    #[test]
    fn rows_that_do_not_fit_are_named() {
        let rows = vec![row("k", Outcome::Ok(Prediction::Vector(vec![1.0])))];
        for columns in [Columns::Classes, Columns::Vector(2)] {
            let error = encode_part(&rows, columns, &footer(&rows)).unwrap_err();
            assert!(matches!(&error, PartError::WrongShape { key, .. } if key == "k"), "{error}");
        }
        let error = encode_part(&rows, Columns::Vector(1), &footer(&[])).unwrap_err();
        assert!(matches!(error, PartError::Counts { rows: 1, said: 0, .. }), "{error}");
    }
}
