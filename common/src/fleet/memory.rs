//! The fleet in memory, for tests.
//!
//! It must never answer otherwise than [`super::redis`] does.

use super::{FORGOTTEN_AFTER, Fleet, Heard, WorkerReport};
use crate::ledger::LedgerError;
use async_trait::async_trait;
use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;

/// A registry that ends with the process.
#[derive(Debug)]
pub struct MemoryFleet {
    workers: Mutex<HashMap<String, (Instant, WorkerReport)>>,
    forgotten_after: Duration,
}

impl Default for MemoryFleet {
    fn default() -> Self {
        Self::forgetting_after(FORGOTTEN_AFTER)
    }
}

impl MemoryFleet {
    /// One that forgets workers sooner or later than by default.
    pub fn forgetting_after(forgotten_after: Duration) -> Self {
        Self { workers: Mutex::default(), forgotten_after }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, (Instant, WorkerReport)>> {
        self.workers.lock().expect("no panic while the map is held")
    }
}

#[async_trait]
impl Fleet for MemoryFleet {
    async fn report(&self, report: &WorkerReport) -> Result<(), LedgerError> {
        self.held().insert(report.worker.clone(), (Instant::now(), report.clone()));
        Ok(())
    }

    async fn leave(&self, worker: &str) -> Result<(), LedgerError> {
        self.held().remove(worker);
        Ok(())
    }

    async fn workers(&self, limit: usize) -> Result<Vec<Heard>, LedgerError> {
        let mut workers = self.held();
        workers.retain(|_, (heard, _)| heard.elapsed() < self.forgotten_after);
        let mut heard: Vec<Heard> = workers
            .values()
            .map(|(at, report)| Heard {
                report: report.clone(),
                age_ms: u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX),
            })
            .collect();
        heard.sort_unstable_by(|a, b| {
            (a.age_ms, Reverse(&a.report.worker)).cmp(&(b.age_ms, Reverse(&b.report.worker)))
        });
        heard.truncate(limit);
        heard.sort_unstable_by(|a, b| a.report.worker.cmp(&b.report.worker));
        Ok(heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::SILENT_AFTER;
    use std::sync::Arc;

    #[tokio::test(flavor = "multi_thread")]
    async fn keeps_the_contract() {
        let soon = Duration::from_millis(500);
        crate::contract::fleet::suite(Arc::new(MemoryFleet::forgetting_after(soon)), "memory", soon).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_is_silent_and_then_forgotten() {
        let fleet = MemoryFleet::default();
        let report = WorkerReport { worker: "w".into(), ..WorkerReport::default() };
        fleet.report(&report).await.unwrap();
        assert!(!fleet.workers(9).await.unwrap()[0].is_silent());
        tokio::time::advance(SILENT_AFTER).await;
        assert!(fleet.workers(9).await.unwrap()[0].is_silent());
        tokio::time::advance(FORGOTTEN_AFTER).await;
        assert!(fleet.workers(9).await.unwrap().is_empty());
    }
}
