//! One row of a result: what is known of one image.
//!
//! Made by the worker, one per planned image whatever happened to it, written by [`super::part`].

use crate::{carried::Carried, error_code::ErrorCode};

/// What the model answers for an image.
#[derive(Debug, Clone, PartialEq)]
pub enum Prediction {
    /// The most probable classes, the best first; never empty.
    Classes(Vec<ClassScore>),
    /// A vector: an embedding, or a raw output flattened.
    Vector(Vec<f32>),
}

/// One class of a prediction.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassScore {
    /// Index of the class in the model's output.
    pub index: i32,
    /// Its name, if the bundle has one.
    pub label: Option<String>,
    /// Softmax probability, 0 to 1.
    pub probability: f32,
}

/// Prediction or failure.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// `status = ok`.
    Ok(Prediction),
    /// `status = ok`, made from an image that ends early (`--truncated accept`): the code is in the row too.
    OkTruncated(Prediction),
    /// `status = error`.
    Failed {
        /// Why.
        code: ErrorCode,
        /// In words, without secrets.
        message: String,
    },
}

impl Outcome {
    /// Whether it counts as failed.
    pub fn is_failed(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq)]
pub struct ResultRow {
    /// As in [`crate::batch::ImageRef::key`].
    pub key: String,
    /// The tag of the bytes that were read, or the planned one if none were.
    pub etag: Option<String>,
    /// Bytes of the object.
    pub size: u64,
    /// Pixels across as stored, if the header could be read.
    pub width: Option<u32>,
    /// Pixels down as stored.
    pub height: Option<u32>,
    /// What came of it.
    pub outcome: Outcome,
    /// As in [`crate::batch::ImageRef::carried`].
    pub carried: Carried,
}
