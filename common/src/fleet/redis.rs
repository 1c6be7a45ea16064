//! The fleet in Redis: one key a worker, which ends by itself, and an index of their names.
//!
//! `trawl:{fleet}:worker:NAME` is the report as JSON with a time to live, `trawl:{fleet}:index` a sorted set of names
//! by when they were heard; all in one slot of a cluster. A listing reads the index and never scans keys; what is too
//! old is taken from it then. Over the ledger's connection, and asked once: a Redis that is away is no matter here.

use super::{FORGOTTEN_AFTER, Fleet, Heard, MAX_REPORT_BYTES, WorkerReport};
use crate::ledger::{LedgerError, redis::RedisLedger};
use ::redis::Script;
use async_trait::async_trait;
use std::{sync::LazyLock, time::Duration};

/// Names by when they were heard.
const INDEX: &str = "trawl:{fleet}:index";

/// What a worker's key begins with.
const WORKER: &str = "trawl:{fleet}:worker:";

static REPORT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/report.lua")));
static HEARD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/heard.lua")));

/// The registry on the ledger's server.
#[derive(Debug, Clone)]
pub struct RedisFleet {
    ledger: RedisLedger,
    forgotten_after: Duration,
}

impl RedisFleet {
    /// The registry beside `ledger`, over its connection.
    pub fn beside(ledger: &RedisLedger) -> Self {
        Self { ledger: ledger.clone(), forgotten_after: FORGOTTEN_AFTER }
    }

    /// The same, forgetting workers sooner or later than by default.
    #[must_use]
    pub fn forgetting_after(self, forgotten_after: Duration) -> Self {
        Self { forgotten_after, ..self }
    }

    fn forgotten_after_ms(&self) -> u64 {
        u64::try_from(self.forgotten_after.as_millis()).unwrap_or(u64::MAX)
    }
}

fn key(worker: &str) -> String {
    format!("{WORKER}{worker}")
}

#[async_trait]
impl Fleet for RedisFleet {
    async fn report(&self, report: &WorkerReport) -> Result<(), LedgerError> {
        let json = serde_json::to_string(report).expect("a report is plain data");
        let key = key(&report.worker);
        let command = |mut link| {
            let mut call = REPORT.key(INDEX);
            call.key(&key).arg(&report.worker).arg(&json).arg(self.forgotten_after_ms());
            async move { call.invoke_async::<()>(&mut link).await }
        };
        self.ledger.once(&command).await
    }

    async fn leave(&self, worker: &str) -> Result<(), LedgerError> {
        let command = |mut link| {
            let mut both = ::redis::pipe();
            both.atomic().del(key(worker)).ignore().zrem(INDEX, worker).ignore();
            async move { both.query_async::<()>(&mut link).await }
        };
        self.ledger.once(&command).await
    }

    async fn workers(&self, limit: usize) -> Result<Vec<Heard>, LedgerError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let names = |mut link| {
            let mut call = HEARD.key(INDEX);
            call.arg(limit).arg(self.forgotten_after_ms());
            async move { call.invoke_async::<Vec<(String, u64)>>(&mut link).await }
        };
        let mut names = self.ledger.once(&names).await?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        names.sort_unstable();
        let reports = |mut link| {
            let mut get = ::redis::cmd("MGET");
            for (worker, _) in &names {
                get.arg(key(worker));
            }
            async move { get.query_async::<Vec<Option<Vec<u8>>>>(&mut link).await }
        };
        let reports = self.ledger.once(&reports).await?;
        let heard = names.iter().zip(reports).filter_map(|((worker, age_ms), json)| {
            // Ended meanwhile, or written by somebody else.
            let json = json.filter(|json| json.len() <= MAX_REPORT_BYTES)?;
            let report: WorkerReport = serde_json::from_slice(&json).ok()?;
            (report.worker == *worker).then_some(Heard { report, age_ms: *age_ms })
        });
        Ok(heard.collect())
    }
}
