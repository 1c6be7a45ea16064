//! The columns of a part, which is the format that users read.
//!
//! Every part of a job has the same schema, whatever happened to its images, so that `OUT/*.parquet` reads
//! as one table in DuckDB, pyarrow, pandas and Spark. Sizes are signed for them: Spark knows no unsigned
//! integers. Columns are added at the end of a version, never renamed or retyped.

use crate::bundle::Head;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use std::sync::Arc;

/// The name of a list's inner field; Parquet's own word, which other readers expect.
pub(super) const LIST_ELEMENT: &str = "element";

/// Which prediction columns a part has; one choice for all parts of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Columns {
    /// `predicted_class_idx`, `predicted_label`, `confidence` and `topk`.
    Classes,
    /// `embedding`, with this many values a row; from the model, so that a batch of nothing but errors has
    /// the same column.
    Vector(u32),
}

impl Columns {
    /// The columns for a model's head; `width` is the length of its output vector, unused for classes.
    pub fn of_head(head: Head, width: u32) -> Self {
        match head {
            Head::Classification => Self::Classes,
            Head::Embedding | Head::Raw => Self::Vector(width),
        }
    }

    /// The schema of a part with these columns.
    pub fn schema(self) -> SchemaRef {
        let mut fields = vec![
            Field::new("key", DataType::Utf8, false),
            Field::new("etag", DataType::Utf8, true),
            Field::new("size", DataType::Int64, false),
            Field::new("width", DataType::Int32, true),
            Field::new("height", DataType::Int32, true),
            Field::new("status", DataType::Utf8, false),
            Field::new("error_code", DataType::Utf8, true),
            Field::new("error_message", DataType::Utf8, true),
        ];
        match self {
            Self::Classes => fields.extend([
                Field::new("predicted_class_idx", DataType::Int32, true),
                Field::new("predicted_label", DataType::Utf8, true),
                Field::new("confidence", DataType::Float32, true),
                Field::new("topk", DataType::List(topk_element()), true),
            ]),
            Self::Vector(width) => fields.push(Field::new(
                "embedding",
                DataType::FixedSizeList(vector_element(), i32::try_from(width).unwrap_or(i32::MAX)),
                true,
            )),
        }
        Arc::new(Schema::new(fields))
    }

    /// The columns that a schema read from a file has, if it is a part's.
    pub fn of_schema(schema: &Schema) -> Option<Self> {
        let columns = match schema.field_with_name("embedding") {
            Ok(field) => match field.data_type() {
                DataType::FixedSizeList(_, width) => Self::Vector(u32::try_from(*width).ok()?),
                _ => return None,
            },
            Err(_) => Self::Classes,
        };
        let expected = columns.schema();
        let same = |wanted: &Arc<Field>| {
            schema.field_with_name(wanted.name()).is_ok_and(|found| found.data_type() == wanted.data_type())
        };
        expected.fields().iter().all(same).then_some(columns)
    }
}

/// The fields of one entry of `topk`.
pub(super) fn topk_fields() -> Fields {
    Fields::from(vec![
        Field::new("idx", DataType::Int32, false),
        Field::new("label", DataType::Utf8, true),
        Field::new("prob", DataType::Float32, false),
    ])
}

/// The inner field of `topk`.
pub(super) fn topk_element() -> Arc<Field> {
    Arc::new(Field::new(LIST_ELEMENT, DataType::Struct(topk_fields()), false))
}

/// The inner field of `embedding`.
pub(super) fn vector_element() -> Arc<Field> {
    Arc::new(Field::new(LIST_ELEMENT, DataType::Float32, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_frozen() {
        let names = |columns: Columns| {
            columns.schema().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>().join(" ")
        };
        let common = "key etag size width height status error_code error_message";
        assert_eq!(
            names(Columns::Classes),
            format!("{common} predicted_class_idx predicted_label confidence topk")
        );
        assert_eq!(names(Columns::Vector(3)), format!("{common} embedding"));
    }

    #[test]
    fn a_schema_says_which_columns_it_has() {
        for columns in [Columns::Classes, Columns::Vector(1280)] {
            assert_eq!(Columns::of_schema(&columns.schema()), Some(columns));
        }
        let foreign = Schema::new(vec![Field::new("key", DataType::Utf8, false)]);
        assert_eq!(Columns::of_schema(&foreign), None);
    }
}
