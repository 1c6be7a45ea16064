//! The rows of a part without what is large in them: for the gallery of the monitor, which looks at many.
//!
//! Tags, sizes and embeddings are not decoded. What is read came from a bucket that others can write to: nothing in it
//! may panic, and codes that this build does not know stay what they are.

use super::{
    footer::FooterError,
    part::PartError,
    schema::{Columns, HeadKind},
};
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
    /// The most probable classes, labels or found things with their probabilities, the best first, as many as were
    /// asked for, of the first head that has such; none where all give vectors.
    pub classes: Vec<(String, f32)>,
}

/// The columns that are read beside that of the classes.
const COLUMNS: [&str; 6] = ["key", "width", "height", "status", "error_code", "error_message"];

/// The rows of a part, at most `max_rows`, each with at most `max_classes` of its classes. Takes milliseconds of one
/// core: not for an async thread.
///
/// # Errors
/// [`PartError`] if the file is no part of ours.
pub fn read_brief(bytes: Bytes, max_rows: usize, max_classes: usize) -> Result<Vec<BriefRow>, PartError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let schema = builder.parquet_schema();
    let classes = Columns::of_schema(builder.schema()).and_then(|columns| classes_column(&columns));
    let wanted = |field: &parquet::schema::types::TypePtr| {
        COLUMNS.contains(&field.name()) || classes.as_ref().is_some_and(|(name, _)| name == field.name())
    };
    let roots: Vec<usize> = (schema.root_schema().get_fields().iter().enumerate())
        .filter_map(|(index, field)| wanted(field).then_some(index))
        .collect();
    let mask = ProjectionMask::roots(schema, roots);
    let mut rows = Vec::new();
    for batch in builder.with_projection(mask).with_limit(max_rows).build()? {
        let batch = batch?;
        let view = View::new(&batch, classes.as_ref())?;
        rows.extend((0..batch.num_rows()).map(|row| view.row(row, max_classes)));
    }
    Ok(rows)
}

/// The column with something to show, and what its entries call their probability.
fn classes_column(columns: &Columns) -> Option<(String, &'static str)> {
    columns.heads.iter().find_map(|head| {
        let (name, probability) = match head.kind {
            HeadKind::Classes => ("topk", "prob"),
            HeadKind::Labels => ("labels", "prob"),
            HeadKind::Boxes => ("boxes", "score"),
            HeadKind::Vector(..) | HeadKind::Tensor(_) => return None,
        };
        Some((format!("{}{name}", head.prefix()), probability))
    })
}

struct View<'a> {
    key: &'a StringArray,
    width: &'a Int32Array,
    height: &'a Int32Array,
    status: &'a StringArray,
    code: &'a StringArray,
    message: &'a StringArray,
    classes: Option<(&'a ListArray, &'static str)>,
}

impl<'a> View<'a> {
    fn new(batch: &'a RecordBatch, classes: Option<&(String, &'static str)>) -> Result<Self, PartError> {
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
            classes: classes.and_then(|(name, probability)| {
                Some((batch.column_by_name(name)?.as_list_opt()?, *probability))
            }),
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
        let (list, probability) = self.classes.filter(|(list, _)| list.is_valid(row))?;
        let list = list.value(row);
        let entries: &StructArray = list.as_struct_opt()?;
        let index: &Int32Array = entries.column_by_name("idx")?.as_primitive_opt::<Int32Type>()?;
        let label: &StringArray = entries.column_by_name("label")?.as_string_opt()?;
        let probability: &Float32Array =
            entries.column_by_name(probability)?.as_primitive_opt::<Float32Type>()?;
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
        bundle::VectorType,
        error_code::ErrorCode,
        results::{
            part::{PartFooter, encode_part},
            row::{ClassScore, FoundBox, Outcome, Prediction, ResultRow},
            schema::{Columns, HeadColumns, HeadKind},
        },
    };

    fn part(rows: &[ResultRow], columns: &Columns) -> Bytes {
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
        let brief = read_brief(part(&rows, &Columns::classes()), 100, 2).unwrap();
        assert_eq!(brief[0].classes, [("Größe".to_owned(), 0.5), ("class 9".to_owned(), 0.5)]);
        assert_eq!(
            (brief[0].ok, brief[0].width, brief[0].height, &brief[0].code),
            (true, Some(2), None, &None)
        );
        assert_eq!(
            (brief[1].ok, brief[1].code.as_deref(), brief[1].message.as_deref()),
            (false, Some("corrupt"), Some("broken"))
        );
        assert_eq!(read_brief(part(&rows, &Columns::classes()), 1, 2).unwrap().len(), 1);
        let vector = [row("v", Outcome::Ok(Prediction::Vector(vec![1.0, 2.0])))];
        let brief = read_brief(part(&vector, &Columns::vector(2)), 100, 2).unwrap();
        assert!(brief[0].ok && brief[0].classes.is_empty());
        let found = FoundBox { corners: [0.0; 4], index: 4, label: Some("car".into()), score: 0.5 };
        let boxes = [row("v", Outcome::Ok(Prediction::Boxes(vec![found])))];
        let brief = read_brief(part(&boxes, &Columns::only(HeadKind::Boxes)), 100, 2).unwrap();
        assert_eq!(brief[0].classes, [("car".to_owned(), 0.5)]);
        let labels = Prediction::Several(vec![
            ("look".into(), Prediction::Vector(vec![1.0])),
            ("tags".into(), Prediction::Labels(Vec::new())),
        ]);
        let head = |name: &str, kind| HeadColumns { name: Some(name.into()), kind };
        let heads = vec![head("look", HeadKind::Vector(1, VectorType::F32)), head("tags", HeadKind::Labels)];
        let columns = Columns { heads, carried: Vec::new() };
        let brief = read_brief(part(&[row("v", Outcome::Ok(labels))], &columns), 100, 2).unwrap();
        assert!(brief[0].ok && brief[0].classes.is_empty());
    }

    #[test]
    fn what_is_no_part_is_an_error() {
        let rows = [row("x", Outcome::Failed { code: ErrorCode::Empty, message: String::new() })];
        let whole = part(&rows, &Columns::classes());
        for cut in [0, 8, whole.len() / 2, whole.len() - 1] {
            assert!(read_brief(whole.slice(..cut), 9, 9).is_err(), "cut at {cut}");
        }
    }
}
