//! The columns of a plan file that only some plans have: where in an object an image lies, and what it carries.
//!
//! Part of [`super`]'s format. A plan of whole objects has none of them, so that its bytes are what they always were. A
//! list of carried values would repeat the names of the columns for nothing: each has a column of its own.

use crate::{
    batch::{ImageRef, Place, Within},
    carried::{Carried, MAX_CARRIED_COLUMNS},
};
use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Int64Type},
};
use std::sync::Arc;

/// How many bytes of the key name the object.
pub(super) const OBJECT: &str = "object_bytes";
/// The first byte of the image in it, or its row in the row group.
pub(super) const AT: &str = "at";
/// The row group, for rows of tables.
pub(super) const ROW_GROUP: &str = "row_group";

fn carried_name(n: usize) -> String {
    format!("carried_{n}")
}

/// The columns that these images need.
pub(super) fn encode(batches: &[Vec<ImageRef>]) -> Vec<(Arc<Field>, ArrayRef)> {
    let images = || batches.iter().flatten();
    let within = || images().map(|image| image.within);
    let mut columns: Vec<(Arc<Field>, ArrayRef)> = Vec::new();
    if within().any(|within| within.is_some()) {
        let mut number = |name: &str, values: Int64Array| {
            columns.push((Arc::new(Field::new(name, DataType::Int64, true)), Arc::new(values)));
        };
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let at = |within: Within| match within.at {
            Place::Bytes(offset) => signed(offset),
            Place::Row(_, row) => i64::from(row),
        };
        let group = |within: Within| match within.at {
            Place::Bytes(_) => None,
            Place::Row(group, _) => Some(i64::from(group)),
        };
        number(OBJECT, within().map(|within| within.map(|w| i64::from(w.object))).collect());
        number(AT, within().map(|within| within.map(at)).collect());
        number(ROW_GROUP, within().map(|within| within.and_then(group)).collect());
    }
    let carried = images().map(|image| image.carried.len()).max().unwrap_or(0).min(MAX_CARRIED_COLUMNS);
    for n in 0..carried {
        let values: StringArray =
            images().map(|image| image.carried.get(n).and_then(Option::as_deref)).collect();
        columns.push((Arc::new(Field::new(carried_name(n), DataType::Utf8, true)), Arc::new(values)));
    }
    columns
}

/// The columns of some rows. A column of another type than ours counts as one that is not there: the images are
/// then whole objects that no store has, and fail as such.
pub(super) struct View<'a> {
    object: Option<&'a Int64Array>,
    at: Option<&'a Int64Array>,
    group: Option<&'a Int64Array>,
    carried: Vec<&'a StringArray>,
}

impl<'a> View<'a> {
    /// Looks at `rows`.
    pub fn of(rows: &'a RecordBatch) -> Self {
        let number = |name| rows.column_by_name(name)?.as_primitive_opt::<Int64Type>();
        let text = |n| rows.column_by_name(&carried_name(n))?.as_string_opt();
        Self {
            object: number(OBJECT),
            at: number(AT),
            group: number(ROW_GROUP),
            carried: (0..MAX_CARRIED_COLUMNS).map_while(text).collect(),
        }
    }

    /// Where the image of `row` lies.
    pub fn within(&self, row: usize) -> Option<Within> {
        let number = |column: Option<&Int64Array>| {
            column
                .filter(|values| values.is_valid(row))
                .and_then(|values| u64::try_from(values.value(row)).ok())
        };
        let object = u32::try_from(number(self.object)?).ok()?;
        let at = number(self.at)?;
        let at = match number(self.group) {
            Some(group) => Place::Row(u32::try_from(group).ok()?, u32::try_from(at).ok()?),
            None => Place::Bytes(at),
        };
        Some(Within { object, at })
    }

    /// What the image of `row` carries.
    pub fn carried(&self, row: usize) -> Carried {
        let value = |values: &&StringArray| values.is_valid(row).then(|| values.value(row).to_owned());
        self.carried.iter().map(value).collect()
    }
}
