//! The parts of trawl that see every batch, at sizes that no test has: planning, the queue, the ledger, the audit.
//!
//! `bench/scale` runs its program and makes tables of what that prints: one JSON line a subcommand. Images and model
//! are made up and cost nothing, so that what is measured is coordination. Planner, ledger, broker and audit are the
//! real ones; no torch is linked, as in `trawl`, so that memory is comparable. The fleet, which has the worker's
//! pipeline, is `worker/examples/fleet.rs`. It must never be pointed at services that somebody works with: jobs stay
//! behind in Redis and RabbitMQ.

pub mod job;
pub mod ledger;
pub mod servers;
pub mod submit;
mod synthetic;
pub mod verify;
mod watched;
