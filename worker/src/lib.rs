//! The worker: takes batches from the queue, runs the model over their images, writes one Parquet part a
//! batch.
//!
//! `main -> serve | run -> pipeline -> stages -> common`; stages never import each other. Only
//! `model::torchscript` (and `model::write`, which makes bundles) name tch.

pub mod allocator;
pub mod assemble;
pub mod bench;
pub mod ceilings;
pub mod check_model;
pub mod cli;
pub mod heartbeat;
pub mod http;
pub mod jobs;
pub mod model;
pub mod pipeline;
pub mod preprocess;
pub mod progress;
pub mod remembered;
pub mod replay;
pub mod report;
pub mod run;
pub mod serve;
mod shown;
