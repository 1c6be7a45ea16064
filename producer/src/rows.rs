//! A result row as it is printed, and the way of the rows from the parts to the printer.
//!
//! The JSON names are exactly the Parquet columns, so that a script may change from one to the other.
//! Parts are read one after the other while a few are fetched ahead; no more than those are in memory.

use crate::{bucket, errors::Stop};
use futures::{Stream, StreamExt, TryStreamExt};
use serde::Serialize;
use trawl_common::{
    disposition::describe,
    error_code::ErrorCode,
    results::{
        OutputLayout,
        part_rows::read_rows,
        row::{Outcome, Prediction, ResultRow},
    },
    storage::Storage,
};

/// Parts fetched ahead of the one that is printed.
const PARTS_AHEAD: usize = 3;

/// A larger part is refused: ten thousand rows of an embedding of 16,384 floats stay below it.
const MAX_PART_BYTES: u64 = 1 << 30;

/// One row, named as in Parquet; columns that the model's head does not have are null.
#[derive(Debug, Serialize)]
pub struct PrintedRow<'a> {
    key: &'a str,
    etag: Option<&'a str>,
    size: u64,
    width: Option<u32>,
    height: Option<u32>,
    status: &'static str,
    error_code: Option<ErrorCode>,
    error_message: Option<&'a str>,
    predicted_class_idx: Option<i32>,
    predicted_label: Option<&'a str>,
    confidence: Option<f32>,
    topk: Option<Vec<PrintedClass<'a>>>,
    embedding: Option<&'a [f32]>,
}

#[derive(Debug, Serialize)]
struct PrintedClass<'a> {
    idx: i32,
    label: Option<&'a str>,
    prob: f32,
}

impl<'a> From<&'a ResultRow> for PrintedRow<'a> {
    fn from(row: &'a ResultRow) -> Self {
        let (status, error_code, error_message, prediction) = match &row.outcome {
            Outcome::Ok(prediction) => ("ok", None, None, Some(prediction)),
            Outcome::OkTruncated(prediction) => ("ok", Some(ErrorCode::Truncated), None, Some(prediction)),
            Outcome::Failed { code, message } => ("error", Some(*code), Some(message.as_str()), None),
        };
        let (classes, embedding) = match prediction {
            Some(Prediction::Classes(classes)) => (Some(classes), None),
            Some(Prediction::Vector(vector)) => (None, Some(vector.as_slice())),
            None => (None, None),
        };
        let best = classes.and_then(|classes| classes.first());
        Self {
            key: &row.key,
            etag: row.etag.as_deref(),
            size: row.size,
            width: row.width,
            height: row.height,
            status,
            error_code,
            error_message,
            predicted_class_idx: best.map(|class| class.index),
            predicted_label: best.and_then(|class| class.label.as_deref()),
            confidence: best.map(|class| class.probability),
            topk: classes.map(|classes| {
                let printed = |class: &'a trawl_common::results::row::ClassScore| PrintedClass {
                    idx: class.index,
                    label: class.label.as_deref(),
                    prob: class.probability,
                };
                classes.iter().map(printed).collect()
            }),
            embedding,
        }
    }
}

impl PrintedRow<'_> {
    /// The cells of `trawl results`: key, status, label, confidence.
    pub fn result_cells(&self) -> Vec<String> {
        let label = match (self.predicted_label, self.predicted_class_idx, self.embedding, self.error_code) {
            (Some(label), ..) => label.to_owned(),
            (None, Some(idx), ..) => format!("class {idx}"),
            (None, None, Some(vector), _) => format!("vector of {}", vector.len()),
            (None, None, None, code) => code.map(|code| code.to_string()).unwrap_or_default(),
        };
        let confidence = self.confidence.map(|c| format!("{c:.4}")).unwrap_or_default();
        vec![self.key.to_owned(), self.status.to_owned(), label, confidence]
    }

    /// The cells of `trawl failures`: key, code, message.
    pub fn failure_cells(&self) -> Vec<String> {
        let code = self.error_code.map(|code| code.to_string()).unwrap_or_default();
        vec![self.key.to_owned(), code, self.error_message.unwrap_or_default().to_owned()]
    }
}

/// The rows of every part, part by part in the order of the batches.
pub fn of_parts<'a>(
    store: &'a dyn Storage,
    layout: &'a OutputLayout,
) -> impl Stream<Item = Result<Vec<ResultRow>, Stop>> + 'a {
    bucket::part_keys(store, layout)
        .map(move |key| async move { of_part(store, &key?).await })
        .buffered(PARTS_AHEAD)
}

/// The rows of one part.
///
/// # Errors
/// What the store gives, or failed if the part is not readable.
pub async fn of_part(store: &dyn Storage, key: &str) -> Result<Vec<ResultRow>, Stop> {
    let bytes = store.get(key, MAX_PART_BYTES).await?.bytes;
    let read = tokio::task::spawn_blocking(move || read_rows(bytes)).await;
    let rows = read.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    rows.map_err(|error| Stop::failed(format!("part `{key}` is not readable: {}", describe(&error))))
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
    use trawl_common::results::row::ClassScore;

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

    fn json(row: &ResultRow) -> serde_json::Value {
        serde_json::from_str(&serde_json::to_string(&PrintedRow::from(row)).unwrap()).unwrap()
    }

    #[test]
    fn the_names_are_the_columns() {
        use trawl_common::results::Columns;
        let value = json(&ok_row("k"));
        let printed: Vec<&String> = value.as_object().unwrap().keys().collect();
        for columns in [Columns::Classes, Columns::Vector(2)] {
            for field in columns.schema().fields() {
                assert!(printed.contains(&field.name()), "{} is missing", field.name());
            }
        }
        assert_eq!(value["topk"][0]["idx"], 7);
        assert_eq!(value["topk"][1], serde_json::json!({"idx": 3, "label": null, "prob": 0.05}));
        // A float32 is printed as short as it is, not as the float64 next to it.
        assert!(
            serde_json::to_string(&PrintedRow::from(&ok_row("k"))).unwrap().contains("\"confidence\":0.9,")
        );
    }

    #[test]
    fn each_outcome_has_its_cells() {
        assert_eq!(PrintedRow::from(&ok_row("k")).result_cells(), ["k", "ok", "cock", "0.9000"]);
        let failed = failed_row("k", ErrorCode::Corrupt);
        assert_eq!(PrintedRow::from(&failed).result_cells(), ["k", "error", "corrupt", ""]);
        assert_eq!(PrintedRow::from(&failed).failure_cells(), ["k", "corrupt", "corrupt indeed"]);
        let vector = ResultRow { outcome: Outcome::Ok(Prediction::Vector(vec![1.0, 2.0])), ..ok_row("k") };
        assert_eq!(PrintedRow::from(&vector).result_cells(), ["k", "ok", "vector of 2", ""]);
        assert_eq!(json(&vector)["embedding"], serde_json::json!([1.0, 2.0]));
        let ResultRow { outcome: Outcome::Ok(prediction), .. } = ok_row("k") else { panic!("an ok row") };
        let cut = ResultRow { outcome: Outcome::OkTruncated(prediction), ..ok_row("k") };
        assert_eq!(json(&cut)["status"], "ok");
        assert_eq!(json(&cut)["error_code"], "truncated");
    }
}
