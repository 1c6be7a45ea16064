//! Infer: one forward pass over a micro-batch, and a row for each of its images.
//!
//! After decode, before sink. If the pass raises, the images are tried one by one, so that only the one
//! that makes the model raise pays for it; if all of them do, the model is at fault and their batches fail. What
//! does not fit into memory is halved. It must never turn a device's failure into an image's.

use super::{
    handover::Decoded,
    meters::{Meters, Stage},
};
use crate::model::{LoadedModel, Model, ModelError, Outputs, output};
use std::time::Instant;
use trawl_common::{
    disposition::Failure,
    error_code::ErrorCode,
    results::row::{Outcome, ResultRow},
};

/// Batches of a micro-batch that a log line names: it rarely is of more than two.
const BATCHES_NAMED: usize = 8;

/// Whether the micro-batch fitted into the device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// As it was.
    Whole,
    /// Only in pieces of at most so many images.
    Pieces(usize),
}

/// Runs the pass on `replica` of the model and files the rows. Blocking.
pub fn forward(model: &LoadedModel, replica: usize, images: Vec<Decoded>, meters: &Meters) -> Fit {
    let images: Vec<Decoded> = images.into_iter().filter(|image| !image.batch.is_abandoned()).collect();
    if images.is_empty() {
        return Fit::Whole;
    }
    pass(model, replica, &images, meters)
}

/// One pass, or as many as the memory needs: halves, and halves of halves, within this attempt.
fn pass(model: &LoadedModel, replica: usize, images: &[Decoded], meters: &Meters) -> Fit {
    let began = Instant::now();
    let pixels: Vec<&[u8]> = images.iter().map(|image| &image.prepared.pixels[..]).collect();
    let outputs = model.replicas[replica].forward(&pixels);
    let took = began.elapsed();
    meters.stage(Stage::Forward, took, images.len() as u64);
    let share = took / u32::try_from(images.len()).unwrap_or(u32::MAX);
    for image in images {
        image.batch.spent(Stage::Forward, share);
    }
    match outputs {
        Ok(outputs) => {
            for (place, image) in images.iter().enumerate() {
                file(image, predict(model, image, &outputs, place));
            }
            Fit::Whole
        }
        Err(ModelError::OutOfMemory(reason)) if images.len() > 1 => {
            let (one, other) = images.split_at(images.len().div_ceil(2));
            said_of(images, |batches| {
                tracing::warn!(
                    reason,
                    image.count = images.len(),
                    batches,
                    "a micro-batch did not fit; halving it"
                );
            });
            let mut worked = one.len();
            for half in [one, other] {
                if let Fit::Pieces(smaller) = pass(model, replica, half, meters) {
                    worked = worked.min(smaller);
                }
            }
            Fit::Pieces(worked)
        }
        Err(error @ (ModelError::DeviceLost(_) | ModelError::OutOfMemory(_))) => {
            for image in images {
                image.batch.fail(failure(&error));
            }
            Fit::Whole
        }
        Err(error) => {
            one_by_one(model, &*model.replicas[replica], images, &error);
            Fit::Whole
        }
    }
}

/// Logs in the name of the micro-batch's first batch, with all of them by number: a micro-batch may be of several.
fn said_of(images: &[Decoded], log: impl FnOnce(&str)) {
    let mut batches: Vec<String> =
        images.iter().map(|image| image.batch.descriptor.batch.to_string()).collect();
    batches.dedup();
    batches.truncate(BATCHES_NAMED);
    let within = images.first().map(|image| image.batch.log.clone());
    within.unwrap_or_else(tracing::Span::none).in_scope(|| log(&batches.join(",")));
}

fn failure(error: &ModelError) -> Failure {
    match error {
        ModelError::DeviceLost(reason) => Failure::DeviceLost(reason.clone()),
        ModelError::OutOfMemory(_)
        | ModelError::Unusable(_)
        | ModelError::Forward(_)
        | ModelError::Device(_) => Failure::Model(error.to_string()),
    }
}

fn one_by_one(model: &LoadedModel, replica: &dyn Model, images: &[Decoded], error: &ModelError) {
    said_of(images, |batches| {
        let images = images.len();
        tracing::warn!(%error, image.count = images, batches, "a forward pass failed; trying its images one by one");
    });
    let answers: Vec<_> = images.iter().map(|image| replica.forward(&[&image.prepared.pixels])).collect();
    // One image that fails alone proves nothing about itself unless another one succeeds.
    let model_works = images.len() > 1 && answers.iter().any(Result::is_ok);
    for (image, answer) in images.iter().zip(answers) {
        match answer {
            Ok(outputs) => {
                file(image, predict(model, image, &outputs, 0));
            }
            Err(error @ (ModelError::DeviceLost(_) | ModelError::OutOfMemory(_))) => {
                image.batch.fail(failure(&error));
            }
            Err(error) if model_works || blank_passes(replica, image) => {
                file(image, failed(ErrorCode::ModelFailed, &error.to_string()));
            }
            Err(error) => image.batch.fail(failure(&error)),
        }
    }
}

/// Whether the model answers for a blank image: then it is the picture that it cannot bear.
fn blank_passes(replica: &dyn Model, image: &Decoded) -> bool {
    let blank = vec![0_u8; image.prepared.pixels.len()];
    replica.forward(&[&blank]).is_ok()
}

/// What the row at `place` of the pass that the image was in says of it.
fn predict(model: &LoadedModel, image: &Decoded, outputs: &Outputs, place: usize) -> Outcome {
    let topk = usize::from(image.batch.job.spec.topk);
    match output::predict(outputs, place, &model.spec, topk, &image.prepared.placement) {
        Ok(prediction) if image.prepared.truncated => Outcome::OkTruncated(prediction),
        Ok(prediction) => Outcome::Ok(prediction),
        Err(reason) => failed(ErrorCode::NonFinite, &reason),
    }
}

fn failed(code: ErrorCode, message: &str) -> Outcome {
    Outcome::Failed { code, message: message.to_owned() }
}

fn file(image: &Decoded, outcome: Outcome) {
    let planned = image.batch.image(image.index);
    let row = ResultRow {
        key: planned.key.clone(),
        etag: image.etag.clone(),
        size: image.size,
        width: Some(image.prepared.width),
        height: Some(image.prepared.height),
        outcome,
        carried: planned.carried.clone(),
    };
    image.batch.set_row(image.index, row);
}
