//! The ledger in memory: for the embedded `run`, which rebuilds it from the output, and for tests.
//!
//! Also home of what both ledgers compute alike from a job's counters: rate, time left, the largest batch
//! number. It must never answer otherwise than [`super::redis`] does.

use super::{BatchOutcome, Begun, Claim, Completion, JobRecord, JobState, Ledger, LedgerError, Progress};
use crate::{batch::BatchNumber, error_code::ErrorCode, job::JobId};
use async_trait::async_trait;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

/// Completed images are counted by buckets of this length. Also in `complete.lua`.
pub(super) const BUCKET_MS: u64 = 10_000;

/// Full buckets that make up the last minute, besides the one that is being filled.
const BUCKETS_A_MINUTE: u64 = 6;

/// Buckets that are kept: two minutes. Also in `complete.lua`.
pub(super) const BUCKETS_KEPT: u64 = 12;

/// No rate is taken over less time than this: the first batch would make it endless.
const MIN_RATE_MS: u64 = 1000;

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

/// A job's counters as they are stored.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct JobCounters {
    pub(super) state: JobState,
    pub(super) out: String,
    pub(super) queue: String,
    pub(super) created_unix_ms: u64,
    pub(super) images_planned: u64,
    pub(super) batches_planned: u64,
    pub(super) plan_complete: bool,
    pub(super) batches_done: u64,
    pub(super) images_ok: u64,
    pub(super) images_failed: u64,
    pub(super) errors: BTreeMap<ErrorCode, u64>,
    /// When the first batch was completed, and its images, which were worked on before that.
    pub(super) first: Option<(u64, u64)>,
    pub(super) last_ms: u64,
    /// Completed images by time in units of [`BUCKET_MS`].
    pub(super) buckets: BTreeMap<u64, u64>,
}

impl JobCounters {
    fn is_done(&self) -> bool {
        self.plan_complete && self.batches_done >= self.batches_planned
    }

    /// The counters with what follows from them at `now_ms`.
    pub(super) fn into_progress(self, job: JobId, now_ms: u64) -> Progress {
        let images_per_second = self.images_per_second(now_ms);
        let left = self.images_planned.saturating_sub(self.images_ok + self.images_failed);
        let goes_on = matches!(self.state, JobState::Running | JobState::Complete);
        let eta_seconds = (goes_on && self.plan_complete && images_per_second > 0.0)
            .then(|| left as f64 / images_per_second);
        Progress {
            job,
            state: self.state,
            out: self.out,
            queue: self.queue,
            created_unix_ms: self.created_unix_ms,
            images_planned: self.images_planned,
            images_ok: self.images_ok,
            images_failed: self.images_failed,
            batches_planned: self.batches_planned,
            batches_done: self.batches_done,
            errors: self.errors,
            images_per_second,
            eta_seconds,
        }
    }

    /// Over the last minute, or since the first completion if that is later. Of a complete job: the last
    /// minute of its work.
    fn images_per_second(&self, now_ms: u64) -> f64 {
        let Some((first_ms, first_images)) = self.first else { return 0.0 };
        let at_ms = if self.state == JobState::Complete { self.last_ms } else { now_ms };
        let first_bucket = (at_ms / BUCKET_MS).saturating_sub(BUCKETS_A_MINUTE);
        let images: u64 =
            self.buckets.range(first_bucket..=at_ms / BUCKET_MS).map(|(_, images)| images).sum();
        let (since_ms, images) = if first_ms < first_bucket * BUCKET_MS {
            (first_bucket * BUCKET_MS, images)
        } else if images > first_images {
            // The time in which the first batch was made is unknown, so its images do not count either.
            (first_ms, images - first_images)
        } else {
            (first_ms, images)
        };
        images as f64 * 1000.0 / at_ms.saturating_sub(since_ms).max(MIN_RATE_MS) as f64
    }

    fn count(&mut self, outcome: &BatchOutcome, now_ms: u64) {
        let images = outcome.images_ok + outcome.images_failed;
        self.batches_done += 1;
        self.images_ok += outcome.images_ok;
        self.images_failed += outcome.images_failed;
        for (&code, &n) in &outcome.errors {
            *self.errors.entry(code).or_default() += n;
        }
        self.first.get_or_insert((now_ms, images));
        self.last_ms = now_ms;
        let bucket = now_ms / BUCKET_MS;
        *self.buckets.entry(bucket).or_default() += images;
        self.buckets.retain(|&old, _| old + BUCKETS_KEPT > bucket);
    }
}

/// Jobs by name.
#[derive(Debug, Default)]
pub struct MemoryLedger {
    jobs: Mutex<HashMap<JobId, Job>>,
    #[cfg(any(test, feature = "testing"))]
    counts_twice: std::sync::atomic::AtomicBool,
}

#[derive(Debug)]
struct Job {
    /// Plans may be announced before the job is opened; until then it is unknown.
    open: bool,
    counters: JobCounters,
    done: HashSet<u64>,
    /// By batch: since when and by whom.
    claims: BTreeMap<u64, (Instant, String)>,
}

impl Default for Job {
    fn default() -> Self {
        let counters = JobCounters {
            state: JobState::Enqueuing,
            out: String::new(),
            queue: String::new(),
            created_unix_ms: 0,
            images_planned: 0,
            batches_planned: 0,
            plan_complete: false,
            batches_done: 0,
            images_ok: 0,
            images_failed: 0,
            errors: BTreeMap::new(),
            first: None,
            last_ms: 0,
            buckets: BTreeMap::new(),
        };
        Self { open: false, counters, done: HashSet::new(), claims: BTreeMap::new() }
    }
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
        if job.counters.state == JobState::Cancelled {
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
            && begun.state != JobState::Cancelled
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

    async fn cancel(&self, job: &JobId) -> Result<bool, LedgerError> {
        match self.jobs().get_mut(job) {
            Some(job) if job.open && job.counters.state != JobState::Complete => {
                job.counters.state = JobState::Cancelled;
                Ok(true)
            }
            _ => Ok(false),
        }
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

    /// Counters after batches of 100 images at the given times, in ms.
    fn after(times_ms: &[u64]) -> JobCounters {
        let mut counters = JobCounters { state: JobState::Running, ..Job::default().counters };
        for &ms in times_ms {
            counters.count(&BatchOutcome { images_ok: 100, ..BatchOutcome::default() }, ms);
        }
        counters
    }

    const T0: u64 = 1_700_000_000_000;

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        assert_eq!(after(&[]).images_per_second(T0), 0.0);
        // One batch alone: its images over a second, then over the time since.
        assert_eq!(after(&[T0]).images_per_second(T0), 100.0);
        assert_eq!(after(&[T0]).images_per_second(T0 + 4000), 25.0);
        // A batch every 2 s is 50 images a second from the second batch on.
        let steady: Vec<u64> = (0..500).map(|i| T0 + i * 2000).collect();
        for n in [2, 3, 10, 31, 100, 500] {
            let rate = after(&steady[..n]).images_per_second(steady[n - 1]);
            assert!((rate - 50.0).abs() < 2.0, "{rate} after {n} batches");
        }
        // When nothing comes any more it falls to nothing, unless the job is complete.
        let mut counters = after(&steady);
        assert_eq!(counters.images_per_second(steady[499] + 80_000), 0.0);
        counters.state = JobState::Complete;
        assert!((counters.images_per_second(steady[499] + 80_000) - 50.0).abs() < 2.0);
        assert!(counters.buckets.len() <= 12, "{}", counters.buckets.len());
    }

    #[test]
    fn time_left_needs_a_rate_and_a_whole_plan() {
        let job: JobId = "j".parse().unwrap();
        let mut counters = after(&[T0, T0 + 2000]);
        counters.images_planned = 1200;
        let eta = |counters: &JobCounters, at| counters.clone().into_progress(job.clone(), at).eta_seconds;
        assert_eq!(eta(&counters, T0 + 2000), None, "the plan is not at its end");
        counters.plan_complete = true;
        assert_eq!(eta(&counters, T0 + 2000), Some(20.0));
        assert_eq!(eta(&counters, T0 + 200_000), None, "nothing moves");
        counters.state = JobState::Cancelled;
        assert_eq!(eta(&counters, T0 + 2000), None);
    }
}
