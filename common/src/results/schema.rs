//! The columns of a part, which is the format that users read.
//!
//! Every part of a job has the same schema, whatever happened to its images, so that `OUT/*.parquet` reads
//! as one table in DuckDB, pyarrow, pandas and Spark. Sizes are signed for them: Spark knows no unsigned
//! integers. Columns are added at the end of a version, never renamed or retyped: first those that every part has, then
//! those of each head, then what the job carries.

use crate::{
    bundle::{Head, HeadSpec, VectorType},
    carried::{CarriedColumn, CarriedKind},
};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use std::{collections::HashSet, sync::Arc};

/// The name of a list's inner field; Parquet's own word, which other readers expect.
pub(super) const LIST_ELEMENT: &str = "element";

/// The entry of a `shape` column's description that says which shape it is: `16,7,7`.
const SHAPE_ENTRY: &str = "trawl.shape";

/// Columns that every part has.
const COMMON: usize = 8;

/// Which columns a part has beside those that every part has; one choice for all parts of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// Of each of the model's heads.
    pub heads: Vec<HeadColumns>,
    /// What the rows bring along from the source.
    pub carried: Vec<CarriedColumn>,
}

/// The columns of one head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadColumns {
    /// What their names begin with, before a `_`; `None` for the only head of a model.
    pub name: Option<Arc<str>>,
    /// Which they are.
    pub kind: HeadKind,
}

/// What a head's answers are stored as. Sizes come from the model, so that a batch of nothing but errors has the same
/// columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadKind {
    /// `predicted_class_idx`, `predicted_label`, `confidence` and `topk`.
    Classes,
    /// `labels`.
    Labels,
    /// `boxes`.
    Boxes,
    /// `embedding`, with so many values a row. All of a failed image's are NaN and none is null: Arrow's C++ library, and
    /// so pyarrow, pandas, datasets and LanceDB, reads no null in a list of fixed size. No answer has a NaN.
    Vector(u32, VectorType),
    /// `embedding`, flattened, and `shape`, which is the same in every row.
    Tensor(Arc<[u32]>),
}

impl Columns {
    /// Those of a model with one head that gives classes.
    pub fn classes() -> Self {
        Self::only(HeadKind::Classes)
    }

    /// Those of a model with one head that gives vectors of `width` single-precision numbers.
    pub fn vector(width: u32) -> Self {
        Self::only(HeadKind::Vector(width, VectorType::F32))
    }

    /// Those of a model with one head.
    pub fn only(kind: HeadKind) -> Self {
        Self { heads: vec![HeadColumns { name: None, kind }], carried: Vec::new() }
    }

    /// Those of a job: the heads of its model, the shape of a row of each of the model's tensors in the order of the
    /// heads' slots, and what it carries.
    ///
    /// # Errors
    /// In words, if two of them had one name.
    pub fn of_job(heads: &[HeadSpec], shapes: &[Vec<u32>], carry: &[CarriedColumn]) -> Result<Self, String> {
        let mut shapes = shapes.iter();
        let mut columns = Vec::with_capacity(heads.len());
        for spec in heads {
            let shape = shapes.next().map(Vec::as_slice).unwrap_or_default();
            shapes.by_ref().take(spec.head.tensors() - 1).for_each(drop);
            let kind = match spec.head {
                Head::Classification => HeadKind::Classes,
                Head::MultiLabel { .. } => HeadKind::Labels,
                Head::Detection { .. } => HeadKind::Boxes,
                Head::Embedding { dtype, .. } => HeadKind::Vector(numbers(shape), dtype),
                Head::Raw => HeadKind::Tensor(shape.into()),
            };
            columns.push(HeadColumns { name: spec.name.as_deref().map(Into::into), kind });
        }
        let columns = Self { heads: columns, carried: carry.to_vec() };
        columns.check_names().map(|()| columns)
    }

    /// Refuses what [`Self::of_job`] would refuse, before there is a model.
    ///
    /// # Errors
    /// In words, if two columns had one name.
    pub fn check(heads: &[HeadSpec], carry: &[CarriedColumn]) -> Result<(), String> {
        Self::of_job(heads, &[], carry).map(drop)
    }

    fn check_names(&self) -> Result<(), String> {
        let mut names = HashSet::new();
        match self.schema().fields().iter().find(|field| !names.insert(field.name().clone())) {
            Some(field) => Err(format!(
                "two columns would be named `{}`: a carried column needs another name than the columns of the results",
                field.name()
            )),
            None => Ok(()),
        }
    }

    /// The schema of a part with these columns.
    pub fn schema(&self) -> SchemaRef {
        let mut fields = common();
        fields.extend(self.heads.iter().flat_map(HeadColumns::fields));
        fields.extend(
            self.carried
                .iter()
                .map(|column| Arc::new(Field::new(&column.name, carried_type(column.kind), true))),
        );
        Arc::new(Schema::new(fields))
    }

    /// The columns that a schema read from a file has, if it is a part's.
    pub fn of_schema(schema: &Schema) -> Option<Self> {
        let fields = schema.fields();
        let same = |wanted: &FieldRef, found: &FieldRef| {
            wanted.name() == found.name() && wanted.data_type() == found.data_type()
        };
        let (first, mut rest) = fields.split_at_checked(COMMON)?;
        if !common().iter().zip(first).all(|(wanted, found)| same(wanted, found)) {
            return None;
        }
        let mut heads = Vec::new();
        while let Some(head) = HeadColumns::at(rest) {
            rest = &rest[head.fields().len()..];
            heads.push(head);
        }
        let carried = rest.iter().map(|field| {
            let kind = carried_kind(field.data_type())?;
            Some(CarriedColumn { name: field.name().clone(), kind })
        });
        let carried = carried.collect::<Option<Vec<_>>>()?;
        (!heads.is_empty()).then_some(Self { heads, carried })
    }
}

impl HeadColumns {
    /// What their names begin with: nothing, or `NAME_`.
    pub fn prefix(&self) -> String {
        self.name.as_ref().map(|name| format!("{name}_")).unwrap_or_default()
    }

    /// The columns, in their order.
    pub fn fields(&self) -> Vec<FieldRef> {
        let prefix = self.prefix();
        let field = |name: &str, of: DataType| Field::new(format!("{prefix}{name}"), of, true);
        let vector = |width: u32, of: VectorType| {
            let width = i32::try_from(width).unwrap_or(i32::MAX);
            field("embedding", DataType::FixedSizeList(vector_element(of), width))
        };
        let fields = match &self.kind {
            HeadKind::Classes => vec![
                field("predicted_class_idx", DataType::Int32),
                field("predicted_label", DataType::Utf8),
                field("confidence", DataType::Float32),
                field("topk", DataType::List(class_element())),
            ],
            HeadKind::Labels => vec![field("labels", DataType::List(class_element()))],
            HeadKind::Boxes => vec![field("boxes", DataType::List(box_element()))],
            HeadKind::Vector(width, of) => vec![vector(*width, *of)],
            HeadKind::Tensor(shape) => {
                let text: Vec<String> = shape.iter().map(ToString::to_string).collect();
                let entry = [(SHAPE_ENTRY.to_owned(), text.join(","))];
                vec![
                    vector(numbers(shape), VectorType::F32),
                    field("shape", DataType::List(shape_element())).with_metadata(entry),
                ]
            }
        };
        fields.into_iter().map(Arc::new).collect()
    }

    /// The head whose columns `fields` begin with. No carried column can be taken for one: each head has one whose type
    /// no carried column has, and its first is one of them or 32 bits wide.
    fn at(fields: &[FieldRef]) -> Option<Self> {
        let first = fields.first()?;
        let named = |suffix: &str| {
            let prefix = first.name().strip_suffix(suffix)?;
            match prefix {
                "" => Some(None),
                prefix => Some(Some(prefix.strip_suffix('_')?.into())),
            }
        };
        let head = match first.data_type() {
            DataType::Int32 => Self { name: named("predicted_class_idx")?, kind: HeadKind::Classes },
            DataType::List(of) if *of == class_element() => {
                Self { name: named("labels")?, kind: HeadKind::Labels }
            }
            DataType::List(_) => Self { name: named("boxes")?, kind: HeadKind::Boxes },
            DataType::FixedSizeList(of, width) => {
                let name: Option<Arc<str>> = named("embedding")?;
                let width = u32::try_from(*width).ok()?;
                let dtype = match of.data_type() {
                    DataType::Float16 => VectorType::F16,
                    _ => VectorType::F32,
                };
                let tensor = fields.get(1).and_then(|field| {
                    let kind = HeadKind::Tensor(shape_of(field)?.into());
                    Some(Self { name: name.clone(), kind })
                });
                let tensor = tensor.filter(|tensor| tensor.fields()[..] == fields[..2]);
                tensor.unwrap_or(Self { name, kind: HeadKind::Vector(width, dtype) })
            }
            _ => return None,
        };
        let wanted = head.fields();
        let found = fields.get(..wanted.len())?;
        let same = |(wanted, found): (&FieldRef, &FieldRef)| {
            wanted.name() == found.name() && wanted.data_type() == found.data_type()
        };
        wanted.iter().zip(found).all(same).then_some(head)
    }
}

/// Numbers in a row of this shape.
fn numbers(shape: &[u32]) -> u32 {
    shape.iter().fold(1_u32, |product, side| product.saturating_mul(*side))
}

fn shape_of(field: &Field) -> Option<Vec<u32>> {
    let text = field.metadata().get(SHAPE_ENTRY)?;
    text.split(',').map(|side| side.parse().ok()).collect()
}

fn common() -> Vec<FieldRef> {
    let field = |name, of, nullable| Arc::new(Field::new(name, of, nullable));
    vec![
        field("key", DataType::Utf8, false),
        field("etag", DataType::Utf8, true),
        field("size", DataType::Int64, false),
        field("width", DataType::Int32, true),
        field("height", DataType::Int32, true),
        field("status", DataType::Utf8, false),
        field("error_code", DataType::Utf8, true),
        field("error_message", DataType::Utf8, true),
    ]
}

fn carried_type(kind: CarriedKind) -> DataType {
    match kind {
        CarriedKind::Text => DataType::Utf8,
        CarriedKind::Int => DataType::Int64,
        CarriedKind::Float => DataType::Float64,
        CarriedKind::Bool => DataType::Boolean,
    }
}

fn carried_kind(of: &DataType) -> Option<CarriedKind> {
    let kinds = [CarriedKind::Text, CarriedKind::Int, CarriedKind::Float, CarriedKind::Bool];
    kinds.into_iter().find(|kind| carried_type(*kind) == *of)
}

/// The fields of one entry of `topk` and `labels`.
pub(super) fn class_fields() -> Fields {
    Fields::from(vec![
        Field::new("idx", DataType::Int32, false),
        Field::new("label", DataType::Utf8, true),
        Field::new("prob", DataType::Float32, false),
    ])
}

/// The inner field of `topk` and `labels`.
pub(super) fn class_element() -> FieldRef {
    Arc::new(Field::new(LIST_ELEMENT, DataType::Struct(class_fields()), false))
}

/// The fields of one entry of `boxes`.
pub(super) fn box_fields() -> Fields {
    let number = |name| Field::new(name, DataType::Float32, false);
    Fields::from(vec![
        number("x0"),
        number("y0"),
        number("x1"),
        number("y1"),
        Field::new("idx", DataType::Int32, false),
        Field::new("label", DataType::Utf8, true),
        number("score"),
    ])
}

/// The inner field of `boxes`.
pub(super) fn box_element() -> FieldRef {
    Arc::new(Field::new(LIST_ELEMENT, DataType::Struct(box_fields()), false))
}

/// The inner field of `embedding`. None of its numbers is null, but LanceDB makes the NaNs of a failed image so.
pub(super) fn vector_element(of: VectorType) -> FieldRef {
    let of = match of {
        VectorType::F32 => DataType::Float32,
        VectorType::F16 => DataType::Float16,
    };
    Arc::new(Field::new(LIST_ELEMENT, of, true))
}

/// The inner field of `shape`.
pub(super) fn shape_element() -> FieldRef {
    Arc::new(Field::new(LIST_ELEMENT, DataType::Int32, false))
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
