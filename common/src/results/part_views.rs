//! The columns of a model's heads, read back row by row.
//!
//! The inverse of [`super::part_answers`], used by [`super::part_rows`]. The columns were checked against the schema, so
//! their types are what they should be; a failed cast is still an error and no panic, for the file came from a bucket
//! that others can write to.

use super::{
    footer::FooterError,
    part::PartError,
    row::{ClassScore, FoundBox, Prediction},
    schema::{HeadColumns, HeadKind},
};
use arrow::{
    array::{
        Array, AsArray, FixedSizeListArray, Float32Array, Int32Array, ListArray, RecordBatch, StringArray,
    },
    datatypes::{Float16Type, Float32Type, Int32Type},
};
use std::sync::Arc;

/// The columns of one head in one batch of rows.
pub(super) struct HeadView<'a> {
    pub name: Option<Arc<str>>,
    answers: Answers<'a>,
}

enum Answers<'a> {
    Classes(&'a ListArray),
    Labels(&'a ListArray),
    Boxes(&'a ListArray),
    Vectors(&'a FixedSizeListArray),
    Tensors(&'a FixedSizeListArray, Arc<[u32]>),
}

impl<'a> HeadView<'a> {
    /// Looks at the columns of `head`.
    ///
    /// # Errors
    /// [`PartError`] if one is not there or has another type.
    pub(super) fn new(batch: &'a RecordBatch, head: &HeadColumns) -> Result<Self, PartError> {
        let prefix = head.prefix();
        let wrong = || FooterError::Parquet("a column has another type than a part's".into());
        let column = |name: &str| batch.column_by_name(&format!("{prefix}{name}"));
        let list = |name| -> Result<&'a ListArray, PartError> {
            Ok(column(name).and_then(|column| column.as_list_opt()).ok_or_else(wrong)?)
        };
        let vectors = || -> Result<&'a FixedSizeListArray, PartError> {
            let column = column("embedding").and_then(|column| column.as_fixed_size_list_opt());
            Ok(column.ok_or_else(wrong)?)
        };
        let answers = match &head.kind {
            HeadKind::Classes => Answers::Classes(list("topk")?),
            HeadKind::Labels => Answers::Labels(list("labels")?),
            HeadKind::Boxes => Answers::Boxes(list("boxes")?),
            HeadKind::Vector(..) => Answers::Vectors(vectors()?),
            HeadKind::Tensor(shape) => Answers::Tensors(vectors()?, shape.clone()),
        };
        Ok(Self { name: head.name.clone(), answers })
    }

    /// The answer in row `row`, or why there is none, in words.
    pub(super) fn answer(&self, row: usize) -> Result<Prediction, String> {
        let there: &dyn Array = match &self.answers {
            Answers::Classes(list) | Answers::Labels(list) | Answers::Boxes(list) => *list,
            Answers::Vectors(list) | Answers::Tensors(list, _) => *list,
        };
        if !there.is_valid(row) {
            return Err("status `ok` without a prediction".to_owned());
        }
        let answer = match &self.answers {
            Answers::Classes(list) => classes(list, row).map(Prediction::Classes),
            Answers::Labels(list) => classes(list, row).map(Prediction::Labels),
            Answers::Boxes(list) => boxes(list, row).map(Prediction::Boxes),
            Answers::Vectors(list) => numbers(list, row).map(Prediction::Vector),
            Answers::Tensors(list, shape) => {
                numbers(list, row).map(|values| Prediction::Tensor(values, shape.clone()))
            }
        };
        answer.ok_or_else(|| "the prediction is not readable".to_owned())
    }
}

fn classes(list: &ListArray, row: usize) -> Option<Vec<ClassScore>> {
    let entries = list.value(row);
    let entries = entries.as_struct_opt()?;
    let index: &Int32Array = entries.column_by_name("idx")?.as_primitive_opt::<Int32Type>()?;
    let label: &StringArray = entries.column_by_name("label")?.as_string_opt()?;
    let probability: &Float32Array = entries.column_by_name("prob")?.as_primitive_opt::<Float32Type>()?;
    let class = |i| ClassScore {
        index: index.value(i),
        label: label.is_valid(i).then(|| label.value(i).to_owned()),
        probability: probability.value(i),
    };
    Some((0..entries.len()).map(class).collect())
}

fn boxes(list: &ListArray, row: usize) -> Option<Vec<FoundBox>> {
    let entries = list.value(row);
    let entries = entries.as_struct_opt()?;
    let number = |name| entries.column_by_name(name)?.as_primitive_opt::<Float32Type>();
    let corners: [&Float32Array; 4] = [number("x0")?, number("y0")?, number("x1")?, number("y1")?];
    let score: &Float32Array = number("score")?;
    let index: &Int32Array = entries.column_by_name("idx")?.as_primitive_opt::<Int32Type>()?;
    let label: &StringArray = entries.column_by_name("label")?.as_string_opt()?;
    let one = |i| FoundBox {
        corners: corners.map(|corner| corner.value(i)),
        index: index.value(i),
        label: label.is_valid(i).then(|| label.value(i).to_owned()),
        score: score.value(i),
    };
    Some((0..entries.len()).map(one).collect())
}

/// The vector, unless it is that of a failed image ([`HeadKind::Vector`]).
fn numbers(list: &FixedSizeListArray, row: usize) -> Option<Vec<f32>> {
    let values = list.value(row);
    let numbers: Vec<f32> = if let Some(values) = values.as_primitive_opt::<Float32Type>() {
        values.values().to_vec()
    } else {
        let halves = values.as_primitive_opt::<Float16Type>()?;
        halves.values().iter().map(|half| half.to_f32()).collect()
    };
    (!numbers.iter().any(|number| number.is_nan())).then_some(numbers)
}
