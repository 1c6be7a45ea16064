//! A result row as it is printed, and the way of the rows from the parts to the printer.
//!
//! The JSON names are exactly the Parquet columns, so that a script may change from one to the other.
//! Parts are read one after the other while a few are fetched ahead; no more than those are in memory.

use crate::{
    bucket,
    cells::{self, Cell},
    errors::Stop,
};
use futures::{Stream, StreamExt, TryStreamExt};
use serde::{Serialize, Serializer, ser::SerializeMap};
use trawl_common::{
    disposition::describe,
    error_code::ErrorCode,
    results::{
        Columns, OutputLayout,
        part_rows::read_part,
        row::{Outcome, ResultRow},
    },
    storage::Storage,
};

/// Parts fetched ahead of the one that is printed.
const PARTS_AHEAD: usize = 3;

/// A larger part is refused: ten thousand rows of an embedding of 16,384 floats stay below it.
pub const MAX_PART_BYTES: u64 = 1 << 30;

/// Columns of a model with one head that were there before there were others: always printed for such a model, null
/// where its head has none, because scripts ask for them.
const ALWAYS: [&str; 5] = ["predicted_class_idx", "predicted_label", "confidence", "topk", "embedding"];

/// The rows of a part with its columns.
#[derive(Debug)]
pub struct PartRows {
    columns: Columns,
    names: Vec<String>,
    /// The rows.
    pub rows: Vec<ResultRow>,
}

impl PartRows {
    /// Rows that have these columns.
    pub fn new(columns: Columns, rows: Vec<ResultRow>) -> Self {
        let names = columns.schema().fields().iter().map(|field| field.name().clone()).collect();
        Self { columns, names, rows }
    }

    /// The rows as they are printed.
    pub fn printed(&self) -> impl Iterator<Item = PrintedRow<'_>> {
        self.rows.iter().map(|row| PrintedRow { row, part: self })
    }
}

/// One row, named as in Parquet.
#[derive(Debug)]
pub struct PrintedRow<'a> {
    row: &'a ResultRow,
    part: &'a PartRows,
}

impl Serialize for PrintedRow<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        for (name, cell) in self.part.names.iter().zip(cells::cells(self.row, &self.part.columns)) {
            map.serialize_entry(name, &cell)?;
        }
        let only = matches!(&self.part.columns.heads[..], [head] if head.name.is_none());
        for name in ALWAYS.iter().filter(|name| only && !self.part.names.iter().any(|n| n == **name)) {
            map.serialize_entry(name, &Cell::Null)?;
        }
        map.end()
    }
}

impl PrintedRow<'_> {
    /// The cells of `trawl results`: key, status, label, confidence.
    pub fn result_cells(&self) -> Vec<String> {
        let outcome = &self.row.outcome;
        let status = if outcome.is_failed() { "error" } else { "ok" };
        let confidence = cells::confidence(outcome).map(|c| format!("{c:.4}")).unwrap_or_default();
        vec![self.row.key.clone(), status.to_owned(), cells::in_words(outcome), confidence]
    }

    /// The cells of `trawl failures`: key, code, message.
    pub fn failure_cells(&self) -> Vec<String> {
        let (code, message) = match &self.row.outcome {
            Outcome::Failed { code, message } => (code.to_string(), message.clone()),
            Outcome::OkTruncated(_) => (ErrorCode::Truncated.to_string(), String::new()),
            Outcome::Ok(_) => Default::default(),
        };
        vec![self.row.key.clone(), code, message]
    }
}

/// The rows of every part, part by part in the order of the batches.
pub fn of_parts<'a>(
    store: &'a dyn Storage,
    layout: &'a OutputLayout,
) -> impl Stream<Item = Result<PartRows, Stop>> + 'a {
    bucket::part_keys(store, layout)
        .map(move |key| async move { of_part(store, &key?).await })
        .buffered(PARTS_AHEAD)
}

/// The rows of one part.
///
/// # Errors
/// What the store gives, or failed if the part is not readable.
pub async fn of_part(store: &dyn Storage, key: &str) -> Result<PartRows, Stop> {
    let bytes = store.get(key, MAX_PART_BYTES).await?.bytes;
    let read = tokio::task::spawn_blocking(move || read_part(bytes)).await;
    let read = read.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    let (columns, rows) =
        read.map_err(|error| Stop::failed(format!("part `{key}` is not readable: {}", describe(&error))))?;
    Ok(PartRows::new(columns, rows))
}

/// The footers of every part with their keys, in the order of the batches.
pub fn footers<'a>(
    store: &'a dyn Storage,
    layout: &'a OutputLayout,
) -> impl Stream<Item = Result<(String, trawl_common::results::PartFooter), Stop>> + 'a {
    bucket::part_keys(store, layout)
        .map_ok(move |key| async move {
            let footer = trawl_common::results::part::read_footer(store, &key).await?;
            Ok::<_, Stop>((key, footer))
        })
        .try_buffered(bucket::FOOTERS_AT_ONCE)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use trawl_common::{
        carried::{CarriedColumn, CarriedKind},
        results::{
            row::{ClassScore, FoundBox, Prediction},
            schema::{HeadColumns, HeadKind},
        },
    };

    pub(crate) fn ok_row(key: &str) -> ResultRow {
        let class = |index, label: Option<&str>, probability| ClassScore {
            index,
            label: label.map(str::to_owned),
            probability,
        };
        let classes = vec![class(7, Some("cock"), 0.9), class(3, None, 0.05)];
        ResultRow {
            key: key.into(),
            etag: Some("e".into()),
            size: 10,
            width: Some(4),
            height: Some(2),
            outcome: Outcome::Ok(Prediction::Classes(classes)),
            carried: Vec::new(),
        }
    }

    pub(crate) fn failed_row(key: &str, code: ErrorCode) -> ResultRow {
        let outcome = Outcome::Failed { code, message: format!("{code} indeed") };
        let carried = Vec::new();
        ResultRow { key: key.into(), etag: None, size: 0, width: None, height: None, outcome, carried }
    }

    fn part(columns: Columns, row: ResultRow) -> PartRows {
        PartRows::new(columns, vec![row])
    }

    fn text(part: &PartRows) -> String {
        serde_json::to_string(&part.printed().next().unwrap()).unwrap()
    }

    fn json(part: &PartRows) -> serde_json::Value {
        serde_json::from_str(&text(part)).unwrap()
    }

    fn result_cells(columns: Columns, row: ResultRow) -> Vec<String> {
        part(columns, row).printed().next().unwrap().result_cells()
    }

    #[test]
    fn the_names_are_the_columns() {
        let ok = part(Columns::classes(), ok_row("k"));
        let value = json(&ok);
        let printed: Vec<&String> = value.as_object().unwrap().keys().collect();
        for columns in [Columns::classes(), Columns::vector(2)] {
            for field in columns.schema().fields() {
                assert!(printed.contains(&field.name()), "{} is missing", field.name());
            }
        }
        assert_eq!(value["topk"][0]["idx"], 7);
        assert_eq!(value["embedding"], serde_json::Value::Null);
        assert_eq!(value["topk"][1], serde_json::json!({"idx": 3, "label": null, "prob": 0.05}));
        // A float32 is printed as short as it is, not as the float64 next to it.
        assert!(text(&ok).contains("\"confidence\":0.9,"));
    }

    #[test]
    fn each_outcome_has_its_cells() {
        let classes = Columns::classes;
        assert_eq!(result_cells(classes(), ok_row("k")), ["k", "ok", "cock", "0.9000"]);
        let failed = || failed_row("k", ErrorCode::Corrupt);
        assert_eq!(result_cells(classes(), failed()), ["k", "error", "corrupt", ""]);
        let cells = part(classes(), failed()).printed().next().unwrap().failure_cells();
        assert_eq!(cells, ["k", "corrupt", "corrupt indeed"]);
        let of = |outcome: Prediction| ResultRow { outcome: Outcome::Ok(outcome), ..ok_row("k") };
        let vector = of(Prediction::Vector(vec![1.0, 2.0]));
        assert_eq!(
            json(&part(Columns::vector(2), vector.clone()))["embedding"],
            serde_json::json!([1.0, 2.0])
        );
        assert_eq!(result_cells(Columns::vector(2), vector), ["k", "ok", "vector of 2", ""]);
        let ResultRow { outcome: Outcome::Ok(prediction), .. } = ok_row("k") else { panic!("an ok row") };
        let cut = part(classes(), ResultRow { outcome: Outcome::OkTruncated(prediction), ..ok_row("k") });
        assert_eq!(json(&cut)["status"], "ok");
        assert_eq!(json(&cut)["error_code"], "truncated");
    }

    #[test]
    fn other_heads_and_carried_values_have_their_columns() {
        let of = |outcome: Prediction| ResultRow { outcome: Outcome::Ok(outcome), ..ok_row("k") };
        let label = ClassScore { index: 4, label: None, probability: 0.75 };
        let found =
            FoundBox { corners: [0.5, 1.0, 2.0, 3.0], index: 1, label: Some("car".into()), score: 0.5 };
        let answers = Prediction::Several(vec![
            ("tags".into(), Prediction::Labels(vec![label.clone(), label])),
            ("things".into(), Prediction::Boxes(vec![found])),
            ("map".into(), Prediction::Tensor(vec![1.0, 2.0], [2, 1].into())),
        ]);
        let head = |name: &str, kind| HeadColumns { name: Some(name.into()), kind };
        let heads = vec![
            head("tags", HeadKind::Labels),
            head("things", HeadKind::Boxes),
            head("map", HeadKind::Tensor([2, 1].into())),
        ];
        let carried = ["id", "w"].into_iter().zip([CarriedKind::Int, CarriedKind::Float]);
        let carried = carried.map(|(name, kind)| CarriedColumn { name: name.into(), kind });
        let columns = Columns { heads, carried: carried.collect() };
        let row = ResultRow { carried: vec![Some("7".into()), None], ..of(answers) };
        let value = json(&part(columns.clone(), row.clone()));
        assert_eq!(value["tags_labels"][1], serde_json::json!({"idx": 4, "label": null, "prob": 0.75}));
        let car = serde_json::json!({"x0": 0.5, "y0": 1.0, "x1": 2.0, "y1": 3.0, "idx": 1, "label": "car", "score": 0.5});
        assert_eq!(value["things_boxes"], serde_json::json!([car]));
        assert_eq!(value["map_shape"], serde_json::json!([2, 1]));
        assert_eq!((&value["id"], &value["w"]), (&serde_json::json!(7), &serde_json::Value::Null));
        assert!(value.get("topk").is_none(), "{value}");
        assert_eq!(result_cells(columns, row), ["k", "ok", "class 4, class 4", "0.7500"]);
    }
}
