//! One row of a result: what is known of one image.
//!
//! Made by the worker, one per planned image whatever happened to it, written by [`super::part`].

use crate::{carried::Carried, error_code::ErrorCode};
use std::sync::Arc;

/// What the model answers for an image.
#[derive(Debug, Clone, PartialEq)]
pub enum Prediction {
    /// The most probable classes, the best first; never empty.
    Classes(Vec<ClassScore>),
    /// The labels that were given, the most probable first; may be empty.
    Labels(Vec<ClassScore>),
    /// What was found where, the best score first; may be empty.
    Boxes(Vec<FoundBox>),
    /// An embedding.
    Vector(Vec<f32>),
    /// A raw output, flattened, and its shape.
    Tensor(Vec<f32>, Arc<[u32]>),
    /// Of a model whose heads have names, one answer each, in their order.
    Several(Vec<(Arc<str>, Prediction)>),
}

/// One thing that was found in an image.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundBox {
    /// Left, top, right and bottom, in pixels of the image as it is stored: whole numbers lie between pixels, and 0, 0 is
    /// its corner.
    pub corners: [f32; 4],
    /// Index of the class.
    pub index: i32,
    /// Its name, if the bundle has one.
    pub label: Option<String>,
    /// How sure the model is, 0 to 1.
    pub score: f32,
}

/// One class of a prediction.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassScore {
    /// Index of the class in the model's output.
    pub index: i32,
    /// Its name, if the bundle has one.
    pub label: Option<String>,
    /// 0 to 1: a softmax over the classes, or the sigmoid of its own.
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

    /// The prediction, if there is one.
    pub fn prediction(&self) -> Option<&Prediction> {
        match self {
            Self::Ok(prediction) | Self::OkTruncated(prediction) => Some(prediction),
            Self::Failed { .. } => None,
        }
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
