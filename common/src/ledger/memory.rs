//! The ledger in memory: for the embedded `run`, which rebuilds it from the output, and for tests.
//!
//! Also home of the largest batch number, which both refuse alike. It must never answer otherwise than [`super::redis`] does.

use super::{
    BatchOutcome, Begun, Claim, Completion, Fed, JobRecord, JobState, Ledger, LedgerError, Progress,
    counters::JobCounters,
};
use crate::{batch::BatchNumber, job::JobId};
use async_trait::async_trait;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

/// The largest batch number: in Redis a number costs an eighth of a byte, so that this one costs 12 MB, and a
/// number from a forged message cannot cost the 512 MB that Redis would allow.
const MAX_BATCH_NUMBER: u64 = 100_000_000;

/// Refuses a number that no plan has.
pub(super) fn check_batch(ledger: &str, batch: BatchNumber) -> Result<(), LedgerError> {
    if batch.0 <= MAX_BATCH_NUMBER {
        return Ok(());
    }
    let reason = format!("batch number {} is larger than {MAX_BATCH_NUMBER}", batch.0);
    Err(LedgerError::Other { ledger: ledger.to_owned(), reason })
}

/// Jobs by name.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    jobs: Mutex<HashMap<JobId, Job>>,
    #[cfg(any(test, feature = "testing"))]
    counts_twice: std::sync::atomic::AtomicBool,
}

#[derive(Debug, Default)]
struct Job {
    /// Plans may be announced before the job is opened; until then it is unknown.
    open: bool,
    counters: JobCounters,
    fed: Option<Fed>,
    done: HashSet<u64>,
    /// By batch: since when and by whom.
    claims: BTreeMap<u64, (Instant, String)>,
}

impl MemoryLedger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// What FLUSHALL, or a failover to an empty copy, does.
    #[cfg(any(test, feature = "testing"))]
    pub fn wipe(&self) {
        self.jobs().clear();
    }

    /// What eviction may do: the bits of a job are gone and its counters are not.
    #[cfg(any(test, feature = "testing"))]
    pub fn evict_bits(&self, job: &JobId) {
        if let Some(job) = self.jobs().get_mut(job) {
            job.done.clear();
        }
    }

    /// Breaks it: from now on every completion counts, also of a batch that is done.
    #[cfg(any(test, feature = "testing"))]
    pub fn count_twice(&self) {
        self.counts_twice.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether a batch counts now; notes that it is done.
    fn counts(&self, job: &mut Job, batch: BatchNumber) -> bool {
        let first = job.done.insert(batch.0);
        #[cfg(any(test, feature = "testing"))]
        let first = first || self.counts_twice.load(std::sync::atomic::Ordering::Relaxed);
        first
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Job>> {
        self.jobs.lock().expect("no panic while the map is held")
    }

    /// Sets the state of a job that is known and `may` get it.
    fn hold(&self, job: &JobId, state: JobState, may: impl Fn(JobState) -> bool) -> bool {
        let mut jobs = self.jobs();
        let job = jobs.get_mut(job).filter(|job| job.open && may(job.counters.state));
        job.map(|job| job.counters.state = state).is_some()
    }

    fn plan(&self, job: &JobId, batches: u64, images: u64, at_its_end: bool) -> bool {
        let mut jobs = self.jobs();
        let counters = &mut jobs.entry(job.clone()).or_default().counters;
        counters.batches_planned = counters.batches_planned.max(batches);
        counters.images_planned = counters.images_planned.max(images);
        if at_its_end {
            counters.plan_complete = true;
            if counters.state == JobState::Enqueuing {
                counters.state = JobState::Running;
            }
        }
        counters.is_done()
    }
}

fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}

#[async_trait]
impl Ledger for MemoryLedger {
    async fn open(&self, record: &JobRecord) -> Result<(), LedgerError> {
        let mut jobs = self.jobs();
        let job = jobs.entry(record.job.clone()).or_default();
        if job.open && job.counters.created_unix_ms != record.created_unix_ms {
            *job = Job::default();
        }
        if !job.open {
            job.open = true;
            job.counters.out.clone_from(&record.out);
            job.counters.queue.clone_from(&record.queue);
            job.counters.created_unix_ms = record.created_unix_ms;
        }
        if job.counters.state.is_held() {
            let planned = job.counters.plan_complete;
            job.counters.state = if planned { JobState::Running } else { JobState::Enqueuing };
        }
        Ok(())
    }

    async fn planned(&self, job: &JobId, batches: u64, images: u64) -> Result<(), LedgerError> {
        self.plan(job, batches, images, false);
        Ok(())
    }

    async fn plan_complete(&self, job: &JobId, batches: u64, images: u64) -> Result<bool, LedgerError> {
        Ok(self.plan(job, batches, images, true))
    }

    async fn is_done(&self, job: &JobId, batch: BatchNumber) -> Result<bool, LedgerError> {
        check_batch("memory", batch)?;
        Ok(self.jobs().get(job).is_some_and(|job| job.done.contains(&batch.0)))
    }

    async fn begin(
        &self,
        job: &JobId,
        batch: BatchNumber,
        claimant: Option<&str>,
    ) -> Result<Option<Begun>, LedgerError> {
        check_batch("memory", batch)?;
        let mut jobs = self.jobs();
        let Some(job) = jobs.get_mut(job).filter(|job| job.open) else { return Ok(None) };
        let begun = Begun { state: job.counters.state, done: job.done.contains(&batch.0) };
        if let Some(worker) = claimant
            && !begun.done
            && !begun.state.is_held()
        {
            job.claims.insert(batch.0, (Instant::now(), worker.to_owned()));
        }
        Ok(Some(begun))
    }

    async fn complete(
        &self,
        job: &JobId,
        batch: BatchNumber,
        outcome: &BatchOutcome,
    ) -> Result<Option<Completion>, LedgerError> {
        check_batch("memory", batch)?;
        let mut jobs = self.jobs();
        let Some(known) = jobs.get_mut(job).filter(|job| job.open) else { return Ok(None) };
        let complete = known.counters.state == JobState::Complete;
        if !complete && known.counters.batches_done > 0 && known.done.is_empty() {
            // Counters without their bits would count batches twice.
            jobs.remove(job);
            return Ok(None);
        }
        let job = known;
        job.claims.remove(&batch.0);
        if complete {
            return Ok(Some(Completion { first: false, job_done: true, announced: true }));
        }
        let first = self.counts(job, batch);
        if first {
            job.counters.count(outcome, now_ms());
        }
        let announced = job.counters.batches_planned > 0;
        Ok(Some(Completion { first, job_done: job.counters.is_done(), announced }))
    }

    async fn finalized(
        &self,
        record: &JobRecord,
        batches: u64,
        totals: &BatchOutcome,
    ) -> Result<(), LedgerError> {
        self.open(record).await?;
        if let Some(job) = self.jobs().get_mut(&record.job) {
            let counters = &mut job.counters;
            counters.state = JobState::Complete;
            counters.plan_complete = true;
            (counters.batches_planned, counters.batches_done) = (batches, batches);
            counters.images_planned = totals.images_ok + totals.images_failed;
            (counters.images_ok, counters.images_failed) = (totals.images_ok, totals.images_failed);
            counters.errors.clone_from(&totals.errors);
            counters.stages.replace(&totals.stages);
            job.claims.clear();
        }
        Ok(())
    }

    async fn forget(&self, job: &JobId) -> Result<(), LedgerError> {
        self.jobs().remove(job);
        Ok(())
    }

    async fn claim(&self, job: &JobId, batch: BatchNumber, worker: &str) -> Result<(), LedgerError> {
        check_batch("memory", batch)?;
        if let Some(job) = self.jobs().get_mut(job).filter(|job| job.open) {
            job.claims.insert(batch.0, (Instant::now(), worker.to_owned()));
        }
        Ok(())
    }

    async fn release(&self, job: &JobId, batch: BatchNumber) -> Result<(), LedgerError> {
        if let Some(job) = self.jobs().get_mut(job) {
            job.claims.remove(&batch.0);
        }
        Ok(())
    }

    async fn claims(&self, job: &JobId, limit: usize) -> Result<Vec<Claim>, LedgerError> {
        let jobs = self.jobs();
        let Some(job) = jobs.get(job) else { return Ok(Vec::new()) };
        let claim = |(&batch, (since, worker)): (&u64, &(Instant, String))| Claim {
            batch: BatchNumber(batch),
            worker: worker.clone(),
            age_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let mut claims: Vec<_> = job.claims.iter().map(claim).collect();
        claims.sort_by_key(|claim| std::cmp::Reverse(claim.age_ms));
        claims.truncate(limit);
        Ok(claims)
    }

    async fn reclaim(
        &self,
        job: &JobId,
        batch: BatchNumber,
        worker: &str,
        older_than: Duration,
    ) -> Result<bool, LedgerError> {
        check_batch("memory", batch)?;
        let mut jobs = self.jobs();
        let Some(job) = jobs.get_mut(job).filter(|job| job.open && !job.done.contains(&batch.0)) else {
            return Ok(false);
        };
        match job.claims.get_mut(&batch.0) {
            Some(claim) if claim.0.elapsed() >= older_than => {
                *claim = (Instant::now(), worker.to_owned());
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    async fn set_fed(&self, job: &JobId, fed: Fed) -> Result<(), LedgerError> {
        self.jobs().entry(job.clone()).or_default().fed = Some(fed);
        Ok(())
    }

    async fn advance_fed(&self, job: &JobId, fed: Fed) -> Result<(), LedgerError> {
        let mut jobs = self.jobs();
        let noted = &mut jobs.entry(job.clone()).or_default().fed;
        if noted.is_none_or(|noted| noted.chain == fed.chain && noted.next < fed.next) {
            *noted = Some(fed);
        }
        Ok(())
    }

    async fn fed(&self, job: &JobId) -> Result<Option<Fed>, LedgerError> {
        Ok(self.jobs().get(job).and_then(|job| job.fed))
    }

    async fn cancel(&self, job: &JobId) -> Result<bool, LedgerError> {
        Ok(self.hold(job, JobState::Cancelled, |state| state != JobState::Complete))
    }

    async fn pause(&self, job: &JobId) -> Result<bool, LedgerError> {
        Ok(self.hold(job, JobState::Paused, |s| !matches!(s, JobState::Complete | JobState::Cancelled)))
    }

    async fn state(&self, job: &JobId) -> Result<Option<JobState>, LedgerError> {
        Ok(self.jobs().get(job).filter(|job| job.open).map(|job| job.counters.state))
    }

    async fn progress(&self, job: &JobId) -> Result<Option<Progress>, LedgerError> {
        let counters = self.jobs().get(job).filter(|job| job.open).map(|job| job.counters.clone());
        Ok(counters.map(|counters| counters.into_progress(job.clone(), now_ms())))
    }

    async fn jobs(&self, limit: usize) -> Result<Vec<Progress>, LedgerError> {
        let now_ms = now_ms();
        let mut all: Vec<Progress> = self
            .jobs()
            .iter()
            .filter(|(_, job)| job.open)
            .map(|(id, job)| job.counters.clone().into_progress(id.clone(), now_ms))
            .collect();
        all.sort_unstable_by(|a, b| (b.created_unix_ms, &b.job).cmp(&(a.created_unix_ms, &a.job)));
        all.truncate(limit);
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(flavor = "multi_thread")]
    async fn keeps_the_contract() {
        crate::contract::ledger::suite(Arc::new(MemoryLedger::new()), "memory").await;
    }
}
