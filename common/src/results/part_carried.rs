//! The carried columns of a part: text to typed arrays and back.
//!
//! Called by [`super::part`] and [`super::part_rows`]. What does not read as its column's type is null: a value from
//! somebody's table must never fail an image, nor a part.

use super::row::ResultRow;
use crate::carried::{Carried, CarriedColumn, CarriedKind};
use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray},
    datatypes::{Float64Type, Int64Type},
};
use std::sync::Arc;

/// The arrays of the carried columns. A row that carries fewer values has nulls in the rest.
pub(super) fn encode(rows: &[ResultRow], columns: &[CarriedColumn]) -> Vec<ArrayRef> {
    let array = |(place, column): (usize, &CarriedColumn)| -> ArrayRef {
        let texts = rows.iter().map(|row| row.carried.get(place).and_then(Option::as_deref));
        match column.kind {
            CarriedKind::Text => Arc::new(StringArray::from_iter(texts)),
            CarriedKind::Int => Arc::new(Int64Array::from_iter(texts.map(|text| text?.trim().parse().ok()))),
            CarriedKind::Float => {
                Arc::new(Float64Array::from_iter(texts.map(|text| text?.trim().parse().ok())))
            }
            CarriedKind::Bool => Arc::new(BooleanArray::from_iter(texts.map(|text| boolean(text?)))),
        }
    };
    columns.iter().enumerate().map(array).collect()
}

/// `true` and `false` as Rust, JSON, Python and databases spell them.
fn boolean(text: &str) -> Option<bool> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("true") {
        Some(true)
    } else if text.eq_ignore_ascii_case("false") {
        Some(false)
    } else {
        None
    }
}

/// The carried values of row `row`, as text again.
pub(super) fn row(batch: &RecordBatch, columns: &[CarriedColumn], row: usize) -> Carried {
    let value = |column: &CarriedColumn| {
        let array = batch.column_by_name(&column.name).filter(|array| array.is_valid(row))?;
        Some(match column.kind {
            CarriedKind::Text => array.as_string_opt::<i32>()?.value(row).to_owned(),
            CarriedKind::Int => array.as_primitive_opt::<Int64Type>()?.value(row).to_string(),
            CarriedKind::Float => array.as_primitive_opt::<Float64Type>()?.value(row).to_string(),
            CarriedKind::Bool => array.as_boolean_opt()?.value(row).to_string(),
        })
    };
    columns.iter().map(value).collect()
}
