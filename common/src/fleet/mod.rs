//! The fleet seam: which workers there are and what each is at, as they say so themselves.
//!
//! Beside the life of a batch, for display alone: nothing is ever decided by it, and losing it costs a table that
//! fills again within seconds. Workers report every [`HEARTBEAT_EVERY`]; whoever shows them asks for the list.
//! Real: [`redis`] (a key a worker, which ends by itself). In memory: [`memory`]. Both pass `contract::fleet`. It must
//! never be in the way of a pipeline.

pub mod memory;
pub mod redis;

use crate::{batch::BatchNumber, job::JobId, ledger::LedgerError};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// Between two reports of a worker: quick enough for a page that somebody looks at, and a thousand workers cost Redis
/// two hundred small writes a second.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);

/// A worker that was not heard for so long is shown as silent: two reports were lost, and the third is late.
pub const SILENT_AFTER: Duration = Duration::from_secs(15);

/// A worker that was not heard for so long is not shown any more.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Batches in hand that a report names, the oldest first. A worker has its prefetch of them in each lane.
pub const MAX_IN_FLIGHT: usize = 64;

/// A report of more bytes was not written by a worker of ours; the largest of ours has some ten kilobytes.
pub const MAX_REPORT_BYTES: usize = 64 << 10;

/// What a worker says of itself. A field that is missing was not known to the version that wrote it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerReport {
    /// Its name: host, process and a random part.
    pub worker: String,
    /// Its host's name.
    pub host: String,
    /// Its process.
    pub pid: u32,
    /// The trawl that it is.
    pub version: String,
    /// What it computes on: `cpu`, `cuda:0,cuda:1`.
    pub device: String,
    /// The models that are loaded, the latest used first.
    pub model: Option<String>,
    /// The lanes that it serves.
    pub queues: Vec<String>,
    /// When it began, milliseconds since 1970 by its own clock.
    pub started_unix_ms: u64,
    /// Images through the model in the last interval, a second.
    pub images_per_second: f64,
    /// The share of each stage's lanes that was busy in the last interval, 0 to 1, by the stage's name.
    pub busy: BTreeMap<String, f64>,
    /// The stage that held the others up in the last interval, if there was work.
    pub binding: Option<String>,
    /// Its resident memory.
    pub memory_bytes: u64,
    /// What it holds of its devices' memory, where that is known.
    pub device_memory_bytes: Option<u64>,
    /// Batches in its hands, the oldest first; at most [`MAX_IN_FLIGHT`].
    pub in_flight: Vec<BatchInHand>,
    /// Rows that it was the first to commit, since it began.
    pub images_total: u64,
    /// Whether it takes nothing new any more.
    pub draining: bool,
}

/// A batch that a worker is at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchInHand {
    /// Its job.
    pub job: JobId,
    /// Its number.
    pub batch: BatchNumber,
    /// For how long, in milliseconds.
    pub age_ms: u64,
}

/// A report, and when it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// What was said.
    pub report: WorkerReport,
    /// How long ago, in milliseconds by the registry's own clock.
    pub age_ms: u64,
}

impl Heard {
    /// Whether more than one report of it is overdue.
    pub fn is_silent(&self) -> bool {
        u128::from(self.age_ms) >= SILENT_AFTER.as_millis()
    }
}

/// The registry of workers. Its errors are those of the ledger, which lies on the same server.
#[async_trait]
pub trait Fleet: Send + Sync {
    /// Takes a worker's report in the place of its last one. Asked once: the next report is seconds away. Cancel safe.
    async fn report(&self, report: &WorkerReport) -> Result<(), LedgerError>;

    /// Forgets a worker that ends. One that is not known is no error. Cancel safe.
    async fn leave(&self, worker: &str) -> Result<(), LedgerError>;

    /// At most `limit` workers, those heard last if there are more, in the order of their names. Asked once. Cancel
    /// safe.
    async fn workers(&self, limit: usize) -> Result<Vec<Heard>, LedgerError>;
}
