//! The columns of a model's heads: answers to arrays and back.
//!
//! Called by [`super::part`] when a part is encoded and by [`super::part_rows`] when one is read. What is read came
//! from a bucket that others can write to, so that nothing in it may panic.

use super::{
    part::PartError,
    row::{ClassScore, FoundBox, Prediction, ResultRow},
    schema::{
        Columns, HeadKind, box_element, box_fields, class_element, class_fields, shape_element,
        vector_element,
    },
};
use crate::bundle::VectorType;
use arrow::{
    array::{
        ArrayRef, FixedSizeListArray, Float16Builder, Float32Array, Float32Builder, Int32Array, Int32Builder,
        ListArray, StringArray, StringBuilder, StructArray,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{ArrowPrimitiveType, FieldRef, Fields, Float16Type},
};
use std::sync::Arc;

/// Half precision, which only arrow names.
type Half = <Float16Type as ArrowPrimitiveType>::Native;

/// The bytes of a number in half precision, as NumPy's `<f2` has them.
pub fn half_bytes(value: f32) -> [u8; 2] {
    Half::from_f32(value).to_le_bytes()
}

fn wrong_shape(row: &ResultRow, reason: impl Into<String>) -> PartError {
    PartError::WrongShape { key: row.key.clone(), reason: reason.into() }
}

/// The arrays of head `place` of `columns`.
///
/// # Errors
/// [`PartError::WrongShape`] if an answer is of another kind or size than the columns.
pub(super) fn encode(
    rows: &[ResultRow],
    columns: &Columns,
    place: usize,
) -> Result<Vec<ArrayRef>, PartError> {
    let answers = answers(rows, columns, place)?;
    match &columns.heads[place].kind {
        HeadKind::Classes => classes(rows, &answers),
        HeadKind::Labels => labels(rows, &answers),
        HeadKind::Boxes => boxes(rows, &answers),
        HeadKind::Vector(width, of) => Ok(vec![vectors(rows, &answers, *width, *of)?]),
        HeadKind::Tensor(shape) => tensors(rows, &answers, shape),
    }
}

/// What head `place` answers for each row; `None` for failed ones.
fn answers<'a>(
    rows: &'a [ResultRow],
    columns: &Columns,
    place: usize,
) -> Result<Vec<Option<&'a Prediction>>, PartError> {
    let name = columns.heads[place].name.as_deref();
    let heads = columns.heads.len();
    let answer = |row: &'a ResultRow| match (row.outcome.prediction(), name) {
        (None, _) => Ok(None),
        (Some(Prediction::Several(all)), Some(name)) if all.len() == heads && &*all[place].0 == name => {
            Ok(Some(&all[place].1))
        }
        (Some(Prediction::Several(_)), _) | (Some(_), Some(_)) => {
            Err(wrong_shape(row, "its heads are not those of the part"))
        }
        (Some(only), None) => Ok(Some(only)),
    };
    rows.iter().map(answer).collect()
}

fn not_what(answer: &Prediction, wanted: &str) -> String {
    let found = match answer {
        Prediction::Classes(_) => "classes",
        Prediction::Labels(_) => "labels",
        Prediction::Boxes(_) => "boxes",
        Prediction::Vector(_) => "a vector",
        Prediction::Tensor(..) => "a tensor",
        Prediction::Several(_) => "the answers of several heads",
    };
    format!("it is {found}, not {wanted}")
}

fn classes(rows: &[ResultRow], answers: &[Option<&Prediction>]) -> Result<Vec<ArrayRef>, PartError> {
    let mut lists: Vec<Option<&[ClassScore]>> = Vec::with_capacity(rows.len());
    for (row, answer) in rows.iter().zip(answers) {
        lists.push(match answer {
            None => None,
            Some(Prediction::Classes(classes)) if !classes.is_empty() => Some(classes),
            Some(Prediction::Classes(_)) => return Err(wrong_shape(row, "it has no class")),
            Some(other) => return Err(wrong_shape(row, not_what(other, "classes"))),
        });
    }
    let best: Vec<Option<&ClassScore>> = lists.iter().map(|list| list.and_then(<[_]>::first)).collect();
    Ok(vec![
        Arc::new(Int32Array::from_iter(best.iter().map(|class| class.map(|c| c.index)))),
        Arc::new(StringArray::from_iter(best.iter().map(|class| class.and_then(|c| c.label.as_deref())))),
        Arc::new(Float32Array::from_iter(best.iter().map(|class| class.map(|c| c.probability)))),
        class_lists(&lists)?,
    ])
}

fn labels(rows: &[ResultRow], answers: &[Option<&Prediction>]) -> Result<Vec<ArrayRef>, PartError> {
    let list = |(row, answer): (&ResultRow, &Option<&'_ Prediction>)| match answer {
        None => Ok(None),
        Some(Prediction::Labels(_)) => Ok(Some(())),
        Some(other) => Err(wrong_shape(row, not_what(other, "labels"))),
    };
    rows.iter().zip(answers).try_for_each(|pair| list(pair).map(drop))?;
    let lists: Vec<Option<&[ClassScore]>> = answers
        .iter()
        .map(|answer| match answer {
            Some(Prediction::Labels(labels)) => Some(&labels[..]),
            _ => None,
        })
        .collect();
    Ok(vec![class_lists(&lists)?])
}

fn class_lists(rows: &[Option<&[ClassScore]>]) -> Result<ArrayRef, PartError> {
    let (mut index, mut label, mut probability) =
        (Int32Builder::new(), StringBuilder::new(), Float32Builder::new());
    for class in rows.iter().copied().flatten().flatten() {
        index.append_value(class.index);
        label.append_option(class.label.as_deref());
        probability.append_value(class.probability);
    }
    let entries: Vec<ArrayRef> =
        vec![Arc::new(index.finish()), Arc::new(label.finish()), Arc::new(probability.finish())];
    let lengths = rows.iter().map(|row| row.map(<[_]>::len)).collect::<Vec<_>>();
    struct_lists(class_element(), class_fields(), entries, &lengths)
}

/// A list of structs a row, of these lengths; `None` is null.
fn struct_lists(
    element: FieldRef,
    fields: Fields,
    entries: Vec<ArrayRef>,
    lengths: &[Option<usize>],
) -> Result<ArrayRef, PartError> {
    let present: NullBuffer = lengths.iter().map(Option::is_some).collect::<Vec<_>>().into();
    let lengths = OffsetBuffer::from_lengths(lengths.iter().map(|length| length.unwrap_or(0)));
    let entries = Arc::new(StructArray::try_new(fields, entries, None)?);
    Ok(Arc::new(ListArray::try_new(element, lengths, entries, Some(present))?))
}

fn boxes(rows: &[ResultRow], answers: &[Option<&Prediction>]) -> Result<Vec<ArrayRef>, PartError> {
    let mut corners: [Float32Builder; 4] = Default::default();
    let (mut index, mut label, mut score) =
        (Int32Builder::new(), StringBuilder::new(), Float32Builder::new());
    let mut lengths = Vec::with_capacity(rows.len());
    for (row, answer) in rows.iter().zip(answers) {
        let found: &[FoundBox] = match answer {
            None => {
                lengths.push(None);
                continue;
            }
            Some(Prediction::Boxes(found)) => found,
            Some(other) => return Err(wrong_shape(row, not_what(other, "boxes"))),
        };
        lengths.push(Some(found.len()));
        for one in found {
            for (builder, corner) in corners.iter_mut().zip(one.corners) {
                builder.append_value(corner);
            }
            index.append_value(one.index);
            label.append_option(one.label.as_deref());
            score.append_value(one.score);
        }
    }
    let mut entries: Vec<ArrayRef> =
        corners.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef).collect();
    entries.push(Arc::new(index.finish()));
    entries.push(Arc::new(label.finish()));
    entries.push(Arc::new(score.finish()));
    Ok(vec![struct_lists(box_element(), box_fields(), entries, &lengths)?])
}

fn vectors(
    rows: &[ResultRow],
    answers: &[Option<&Prediction>],
    width: u32,
    of: VectorType,
) -> Result<ArrayRef, PartError> {
    let numbers = width as usize;
    let mut lists: Vec<Option<&[f32]>> = Vec::with_capacity(rows.len());
    for (row, answer) in rows.iter().zip(answers) {
        lists.push(match answer {
            None => None,
            Some(Prediction::Vector(vector) | Prediction::Tensor(vector, _)) if vector.len() == numbers => {
                Some(vector)
            }
            Some(Prediction::Vector(vector) | Prediction::Tensor(vector, _)) => {
                return Err(wrong_shape(row, format!("it has {} values, not {width}", vector.len())));
            }
            Some(other) => return Err(wrong_shape(row, not_what(other, "a vector"))),
        });
    }
    // Of a failed image as well: `HeadKind::Vector` says why.
    let values: ArrayRef = match of {
        VectorType::F32 => {
            let mut values = Float32Builder::with_capacity(rows.len() * numbers);
            for list in &lists {
                match list {
                    Some(list) => values.append_slice(list),
                    None => values.append_value_n(f32::NAN, numbers),
                }
            }
            Arc::new(values.finish())
        }
        VectorType::F16 => {
            let mut values = Float16Builder::with_capacity(rows.len() * numbers);
            for list in &lists {
                match list {
                    Some(list) => list.iter().for_each(|v| values.append_value(Half::from_f32(*v))),
                    None => values.append_value_n(Half::NAN, numbers),
                }
            }
            Arc::new(values.finish())
        }
    };
    let width = i32::try_from(width).unwrap_or(i32::MAX);
    let element = vector_element(of);
    let vectors = FixedSizeListArray::try_new_with_length(element, width, values, None, rows.len())?;
    Ok(Arc::new(vectors))
}

fn tensors(
    rows: &[ResultRow],
    answers: &[Option<&Prediction>],
    shape: &Arc<[u32]>,
) -> Result<Vec<ArrayRef>, PartError> {
    for (row, answer) in rows.iter().zip(answers) {
        if let Some(Prediction::Tensor(_, found)) = answer
            && found != shape
        {
            return Err(wrong_shape(row, format!("its shape is {found:?}, not {shape:?}")));
        }
    }
    let width = shape.iter().fold(1_u32, |product, side| product.saturating_mul(*side));
    let values = vectors(rows, answers, width, VectorType::F32)?;
    let mut sides = Int32Builder::new();
    for _ in answers.iter().flatten() {
        shape.iter().for_each(|side| sides.append_value(i32::try_from(*side).unwrap_or(i32::MAX)));
    }
    let present: NullBuffer = answers.iter().map(Option::is_some).collect::<Vec<_>>().into();
    let lengths = answers.iter().map(|answer| if answer.is_some() { shape.len() } else { 0 });
    let shapes = ListArray::try_new(
        shape_element(),
        OffsetBuffer::from_lengths(lengths),
        Arc::new(sides.finish()),
        Some(present),
    )?;
    Ok(vec![values, Arc::new(shapes)])
}
