//! The rows of a part without what is large in them: for the gallery of the monitor, which looks at many.
//!
//! Tags, sizes and embeddings are not decoded. What is read came from a bucket that others can write to: nothing in it
//! may panic, and codes that this build does not know stay what they are.

use super::{footer::FooterError, part::PartError};
use arrow::{
    array::{Array, AsArray, Float32Array, Int32Array, ListArray, RecordBatch, StringArray, StructArray},
    datatypes::{Float32Type, Int32Type},
};
use bytes::Bytes;
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

/// A row as the gallery shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct BriefRow {
    /// As in [`super::row::ResultRow::key`].
    pub key: String,
    /// Pixels across as stored.
    pub width: Option<u32>,
    /// Pixels down as stored.
    pub height: Option<u32>,
    /// Whether it has a prediction.
    pub ok: bool,
    /// The error code, if there is one; a truncated image that was predicted on has one too.
    pub code: Option<String>,
    /// Why there is none, in words.
    pub message: Option<String>,
    /// The most probable classes with their probabilities, the best first, as many as were asked for; none without a
    /// classification.
    pub classes: Vec<(String, f32)>,
}

/// The columns that are read; a part of embeddings has all but the last.
const COLUMNS: [&str; 7] = ["key", "width", "height", "status", "error_code", "error_message", "topk"];

/// The rows of a part, at most `max_rows`, each with at most `max_classes` of its classes. Takes milliseconds of one
/// core: not for an async thread.
///
/// # Errors
/// [`PartError`] if the file is no part of ours.
pub fn read_brief(bytes: Bytes, max_rows: usize, max_classes: usize) -> Result<Vec<BriefRow>, PartError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let schema = builder.parquet_schema();
    let wanted = |field: &parquet::schema::types::TypePtr| COLUMNS.contains(&field.name());
    let roots: Vec<usize> = (schema.root_schema().get_fields().iter().enumerate())
        .filter_map(|(index, field)| wanted(field).then_some(index))
        .collect();
    let mask = ProjectionMask::roots(schema, roots);
    let mut rows = Vec::new();
    for batch in builder.with_projection(mask).with_limit(max_rows).build()? {
        let batch = batch?;
        let view = View::new(&batch)?;
        rows.extend((0..batch.num_rows()).map(|row| view.row(row, max_classes)));
    }
    Ok(rows)
}

struct View<'a> {
    key: &'a StringArray,
    width: &'a Int32Array,
    height: &'a Int32Array,
    status: &'a StringArray,
    code: &'a StringArray,
    message: &'a StringArray,
    topk: Option<&'a ListArray>,
}

impl<'a> View<'a> {
    fn new(batch: &'a RecordBatch) -> Result<Self, PartError> {
        let missing = |name: &str| FooterError::Parquet(format!("it has no column `{name}` as a part has"));
        let text = |name| -> Result<&'a StringArray, PartError> {
            let column = batch.column_by_name(name).and_then(|column| column.as_string_opt());
            Ok(column.ok_or_else(|| missing(name))?)
        };
        let int = |name| -> Result<&'a Int32Array, PartError> {
            let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int32Type>());
            Ok(column.ok_or_else(|| missing(name))?)
        };
        Ok(Self {
            key: text("key")?,
            width: int("width")?,
            height: int("height")?,
            status: text("status")?,
            code: text("error_code")?,
            message: text("error_message")?,
            topk: batch.column_by_name("topk").and_then(|column| column.as_list_opt()),
        })
    }

    fn row(&self, row: usize, max_classes: usize) -> BriefRow {
        let text = |column: &StringArray| column.is_valid(row).then(|| column.value(row).to_owned());
        let pixels = |column: &Int32Array| {
            column.is_valid(row).then(|| column.value(row)).and_then(|pixels| u32::try_from(pixels).ok())
        };
        BriefRow {
            key: self.key.value(row).to_owned(),
            width: pixels(self.width),
            height: pixels(self.height),
            ok: self.status.value(row) == "ok",
            code: text(self.code),
            message: text(self.message).filter(|message| !message.is_empty()),
            classes: self.classes(row, max_classes).unwrap_or_default(),
        }
    }

    fn classes(&self, row: usize, max_classes: usize) -> Option<Vec<(String, f32)>> {
        let list = self.topk.filter(|list| list.is_valid(row))?.value(row);
        let entries: &StructArray = list.as_struct_opt()?;
        let index: &Int32Array = entries.column_by_name("idx")?.as_primitive_opt::<Int32Type>()?;
        let label: &StringArray = entries.column_by_name("label")?.as_string_opt()?;
        let probability: &Float32Array = entries.column_by_name("prob")?.as_primitive_opt::<Float32Type>()?;
        let class = |entry: usize| {
            let name = match label.is_valid(entry) {
                true => label.value(entry).to_owned(),
                false => format!("class {}", index.value(entry)),
            };
            (name, probability.value(entry))
        };
        Some((0..entries.len().min(max_classes)).map(class).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batch::BatchNumber,
        error_code::ErrorCode,
        results::{
            part::{PartFooter, encode_part},
            row::{ClassScore, Outcome, Prediction, ResultRow},
            schema::Columns,
        },
    };

    fn part(rows: &[ResultRow], columns: Columns) -> Bytes {
        let footer = PartFooter {
            job: "j-1".parse().unwrap(),
            created_unix_ms: std::num::NonZeroU64::new(7),
            batch: BatchNumber(0),
            rows: 0,
            failures: 0,
            errors: Default::default(),
            model_sha256: "ab".repeat(32),
            preprocess_sha256: "cd".repeat(32),
            version: "0.1.0".into(),
            attempt_id: "a".into(),
            worker: "w".into(),
            stages: Default::default(),
            engine: Default::default(),
        };
        encode_part(rows, columns, &footer.counted(rows)).unwrap()
    }

    fn row(key: &str, outcome: Outcome) -> ResultRow {
        let carried = Vec::new();
        ResultRow { key: key.into(), etag: None, size: 7, width: Some(2), height: None, outcome, carried }
    }

    #[test]
    fn rows_are_read_without_what_is_large() {
        let class =
            |index, label: Option<&str>| ClassScore { index, label: label.map(Into::into), probability: 0.5 };
        let classes = vec![class(3, Some("Größe")), class(9, None), class(1, Some("c"))];
        let failed = Outcome::Failed { code: ErrorCode::Corrupt, message: "broken".into() };
        let rows = [row("s3://b/ä", Outcome::Ok(Prediction::Classes(classes))), row("x", failed)];
        let brief = read_brief(part(&rows, Columns::Classes), 100, 2).unwrap();
        assert_eq!(brief[0].classes, [("Größe".to_owned(), 0.5), ("class 9".to_owned(), 0.5)]);
        assert_eq!(
            (brief[0].ok, brief[0].width, brief[0].height, &brief[0].code),
            (true, Some(2), None, &None)
        );
        assert_eq!(
            (brief[1].ok, brief[1].code.as_deref(), brief[1].message.as_deref()),
            (false, Some("corrupt"), Some("broken"))
        );
        assert_eq!(read_brief(part(&rows, Columns::Classes), 1, 2).unwrap().len(), 1);
        let vector = [row("v", Outcome::Ok(Prediction::Vector(vec![1.0, 2.0])))];
        let brief = read_brief(part(&vector, Columns::Vector(2)), 100, 2).unwrap();
        assert!(brief[0].ok && brief[0].classes.is_empty());
    }

    #[test]
    fn what_is_no_part_is_an_error() {
        let rows = [row("x", Outcome::Failed { code: ErrorCode::Empty, message: String::new() })];
        let whole = part(&rows, Columns::Classes);
        for cut in [0, 8, whole.len() / 2, whole.len() - 1] {
            assert!(read_brief(whole.slice(..cut), 9, 9).is_err(), "cut at {cut}");
        }
    }
}
