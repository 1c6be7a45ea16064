//! A prediction for people: what `check-model` and `replay` print of it.
//!
//! Behind the model, in front of a terminal. It must never be what anything is compared by.

use serde_json::{Value, json};
use trawl_common::results::row::Prediction;

/// A prediction with at most `most` entries of each of its parts.
pub fn shown(prediction: &Prediction, most: usize) -> Value {
    match prediction {
        Prediction::Classes(classes) | Prediction::Labels(classes) => classes
            .iter()
            .take(most)
            .map(|class| json!({"idx": class.index, "label": class.label, "prob": class.probability}))
            .collect(),
        Prediction::Boxes(found) => found
            .iter()
            .take(most)
            .map(|one| json!({"idx": one.index, "label": one.label, "prob": one.score, "box": one.corners}))
            .collect(),
        Prediction::Vector(values) => {
            json!({"length": values.len(), "first": &values[..most.min(values.len())]})
        }
        Prediction::Tensor(values, shape) => {
            json!({"shape": &shape[..], "first": &values[..most.min(values.len())]})
        }
        Prediction::Several(heads) => {
            heads.iter().map(|(name, answer)| (name.to_string(), shown(answer, most))).collect()
        }
    }
}
