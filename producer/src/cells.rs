//! The values of a result row, column by column, as JSON and CSV have them.
//!
//! Between a row that was read from a part and whatever prints it. The names and their order are those of the Parquet
//! columns, so that a script may change from one to the other. A 32-bit float is printed as short as it is.

use serde::{
    Serialize, Serializer,
    ser::{SerializeSeq, SerializeStruct},
};
use trawl_common::{
    carried::CarriedKind,
    error_code::ErrorCode,
    results::{
        Columns,
        row::{ClassScore, FoundBox, Outcome, Prediction, ResultRow},
        schema::HeadKind,
    },
};

/// One value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// Nothing.
    Null,
    /// Text.
    Text(&'a str),
    /// A whole number.
    Int(i64),
    /// A number as models give them.
    Float(f32),
    /// A carried number.
    Double(f64),
    /// True or false.
    Bool(bool),
    /// `topk` or `labels`.
    Classes(&'a [ClassScore]),
    /// `boxes`.
    Boxes(&'a [FoundBox]),
    /// `embedding`.
    Numbers(&'a [f32]),
    /// `shape`.
    Sides(&'a [u32]),
}

impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => to.serialize_none(),
            Self::Text(text) => to.serialize_str(text),
            Self::Int(number) => to.serialize_i64(*number),
            Self::Float(number) => to.serialize_f32(*number),
            Self::Double(number) => to.serialize_f64(*number),
            Self::Bool(value) => to.serialize_bool(*value),
            Self::Classes(classes) => list(to, classes, PrintedClass),
            Self::Boxes(boxes) => list(to, boxes, PrintedBox),
            Self::Numbers(numbers) => numbers.serialize(to),
            Self::Sides(sides) => sides.serialize(to),
        }
    }
}

fn list<'a, S: Serializer, T, P: Serialize>(
    to: S,
    entries: &'a [T],
    printed: impl Fn(&'a T) -> P,
) -> Result<S::Ok, S::Error> {
    let mut list = to.serialize_seq(Some(entries.len()))?;
    for entry in entries {
        list.serialize_element(&printed(entry))?;
    }
    list.end()
}

struct PrintedClass<'a>(&'a ClassScore);

impl Serialize for PrintedClass<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut class = to.serialize_struct("class", 3)?;
        class.serialize_field("idx", &self.0.index)?;
        class.serialize_field("label", &self.0.label)?;
        class.serialize_field("prob", &self.0.probability)?;
        class.end()
    }
}

struct PrintedBox<'a>(&'a FoundBox);

impl Serialize for PrintedBox<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut found = to.serialize_struct("box", 7)?;
        for (name, corner) in ["x0", "y0", "x1", "y1"].into_iter().zip(&self.0.corners) {
            found.serialize_field(name, corner)?;
        }
        found.serialize_field("idx", &self.0.index)?;
        found.serialize_field("label", &self.0.label)?;
        found.serialize_field("score", &self.0.score)?;
        found.end()
    }
}

/// The word for an outcome, the code and the message.
fn ending(outcome: &Outcome) -> (&'static str, Option<ErrorCode>, Option<&str>) {
    match outcome {
        Outcome::Ok(_) => ("ok", None, None),
        Outcome::OkTruncated(_) => ("ok", Some(ErrorCode::Truncated), None),
        Outcome::Failed { code, message } => ("error", Some(*code), Some(message)),
    }
}

/// The values of a row, in the order of the schema of `columns`.
pub fn cells<'a>(row: &'a ResultRow, columns: &Columns) -> Vec<Cell<'a>> {
    let text = |text: Option<&'a str>| text.map_or(Cell::Null, Cell::Text);
    let pixels = |pixels: Option<u32>| pixels.map_or(Cell::Null, |n| Cell::Int(n.into()));
    let (status, code, message) = ending(&row.outcome);
    let mut cells = vec![
        Cell::Text(&row.key),
        text(row.etag.as_deref()),
        Cell::Int(i64::try_from(row.size).unwrap_or(i64::MAX)),
        pixels(row.width),
        pixels(row.height),
        Cell::Text(status),
        text(code.map(ErrorCode::as_str)),
        text(message),
    ];
    for (place, head) in columns.heads.iter().enumerate() {
        let answer = match row.outcome.prediction() {
            Some(Prediction::Several(heads)) => heads.get(place).map(|(_, answer)| answer),
            only => only,
        };
        answer_cells(&head.kind, answer, &mut cells);
    }
    for (place, column) in columns.carried.iter().enumerate() {
        let value = row.carried.get(place).and_then(Option::as_deref);
        let cell = value.and_then(|value| {
            Some(match column.kind {
                CarriedKind::Text => Cell::Text(value),
                CarriedKind::Int => Cell::Int(value.parse().ok()?),
                CarriedKind::Float => Cell::Double(value.parse().ok()?),
                CarriedKind::Bool => Cell::Bool(value.parse().ok()?),
            })
        });
        cells.push(cell.unwrap_or(Cell::Null));
    }
    cells
}

fn answer_cells<'a>(kind: &HeadKind, answer: Option<&'a Prediction>, cells: &mut Vec<Cell<'a>>) {
    match (kind, answer) {
        (HeadKind::Classes, Some(Prediction::Classes(classes))) => {
            let best = classes.first();
            cells.extend([
                best.map_or(Cell::Null, |class| Cell::Int(class.index.into())),
                best.and_then(|class| class.label.as_deref()).map_or(Cell::Null, Cell::Text),
                best.map_or(Cell::Null, |class| Cell::Float(class.probability)),
                Cell::Classes(classes),
            ]);
        }
        (HeadKind::Labels, Some(Prediction::Labels(labels))) => cells.push(Cell::Classes(labels)),
        (HeadKind::Boxes, Some(Prediction::Boxes(boxes))) => cells.push(Cell::Boxes(boxes)),
        (HeadKind::Vector(..), Some(Prediction::Vector(values))) => cells.push(Cell::Numbers(values)),
        (HeadKind::Tensor(_), Some(Prediction::Tensor(values, shape))) => {
            cells.extend([Cell::Numbers(values), Cell::Sides(shape)]);
        }
        (HeadKind::Classes, _) => cells.extend([Cell::Null; 4]),
        (HeadKind::Tensor(_), _) => cells.extend([Cell::Null; 2]),
        (HeadKind::Labels | HeadKind::Boxes | HeadKind::Vector(..), _) => cells.push(Cell::Null),
    }
}

/// What a model answered in a few words, for a table: its first head's answer, or the code of a failure.
pub fn in_words(outcome: &Outcome) -> String {
    let name =
        |label: Option<&String>, index: i32| label.cloned().unwrap_or_else(|| format!("class {index}"));
    let first = match outcome.prediction() {
        Some(Prediction::Several(heads)) => heads.first().map(|(_, answer)| answer),
        only => only,
    };
    match first {
        Some(Prediction::Classes(classes)) => {
            classes.first().map(|class| name(class.label.as_ref(), class.index)).unwrap_or_default()
        }
        Some(Prediction::Labels(labels)) => {
            let names = labels.iter().map(|label| name(label.label.as_ref(), label.index));
            names.collect::<Vec<_>>().join(", ")
        }
        Some(Prediction::Boxes(boxes)) => {
            let names = boxes.iter().map(|found| name(found.label.as_ref(), found.index));
            names.collect::<Vec<_>>().join(", ")
        }
        Some(Prediction::Vector(values)) => format!("vector of {}", values.len()),
        Some(Prediction::Tensor(_, shape)) => {
            let sides: Vec<String> = shape.iter().map(ToString::to_string).collect();
            format!("tensor of {}", sides.join(" x "))
        }
        Some(Prediction::Several(_)) => String::new(),
        None => ending(outcome).1.map(|code| code.to_string()).unwrap_or_default(),
    }
}

/// How sure the model is of its best answer, if it says so.
pub fn confidence(outcome: &Outcome) -> Option<f32> {
    let first = match outcome.prediction()? {
        Prediction::Several(heads) => &heads.first()?.1,
        only => only,
    };
    match first {
        Prediction::Classes(classes) | Prediction::Labels(classes) => Some(classes.first()?.probability),
        Prediction::Boxes(boxes) => Some(boxes.first()?.score),
        Prediction::Vector(_) | Prediction::Tensor(..) | Prediction::Several(_) => None,
    }
}
