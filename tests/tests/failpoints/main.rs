//! Small jobs on real servers with one fault each: what is killed, cut or slowed down, and where exactly.
//!
//! `crash` kills processes between two steps, `network` harms the connections to RabbitMQ and Redis, `store`
//! those to the bucket. Every test ends with the same question: is the output exact?

mod crash;
mod network;
mod store;

use trawl_tests::programs::Running;

/// How often a stage ran on a worker: once for each image at decode, for each micro-batch at forward.
fn ran(worker: &Running, stage: &str) -> u32 {
    worker.metric(&format!("trawl_stage_duration_seconds_count{{stage=\"{stage}\"}}")) as u32
}

/// Batches of a worker by outcome.
fn batches(worker: &Running, outcome: &str) -> u32 {
    worker.metric(&format!("trawl_batches_total{{outcome=\"{outcome}\"}}")) as u32
}

/// Images that a worker was the first to commit.
fn images(worker: &Running) -> u32 {
    worker.metric("trawl_images_total{outcome=\"ok\"}") as u32
}

/// Parts that were there before the worker's own, by who wrote them.
fn conflicts(worker: &Running, winner: &str) -> u32 {
    worker.metric(&format!("trawl_commit_conflicts_total{{outcome=\"{winner}\"}}")) as u32
}
