//! A job's counters as both ledgers store them, and what follows from them: rate, time left, what binds.
//!
//! Read by `status`, `watch` and the monitor. It must never know where the counters come from.

use super::{BatchOutcome, JobState, Progress};
use crate::{error_code::ErrorCode, job::JobId, stages::StageTimes};
use std::collections::BTreeMap;

/// Completed images are counted by buckets of this length. Also in `complete.lua`.
pub(super) const BUCKET_MS: u64 = 10_000;

/// Full buckets that make up the last minute, besides the one that is being filled.
const BUCKETS_A_MINUTE: u64 = 6;

/// Buckets that are kept: two minutes. Also in `complete.lua`.
pub(super) const BUCKETS_KEPT: u64 = 12;

/// No rate is taken over less time than this: the first batch would make it endless.
const MIN_RATE_MS: u64 = 1000;

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
    pub(super) stages: StageTimes,
    /// When the first batch was completed, and its images, which were worked on before that.
    pub(super) first: Option<(u64, u64)>,
    pub(super) last_ms: u64,
    /// Completed images by time in units of [`BUCKET_MS`].
    pub(super) buckets: BTreeMap<u64, u64>,
}

impl Default for JobCounters {
    fn default() -> Self {
        Self {
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
            stages: StageTimes::default(),
            first: None,
            last_ms: 0,
            buckets: BTreeMap::new(),
        }
    }
}

impl JobCounters {
    pub(super) fn is_done(&self) -> bool {
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
            stages: self.stages.ms_an_image(self.images_ok + self.images_failed),
            binding: self.stages.binding(),
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

    pub(super) fn count(&mut self, outcome: &BatchOutcome, now_ms: u64) {
        let images = outcome.images_ok + outcome.images_failed;
        self.batches_done += 1;
        self.images_ok += outcome.images_ok;
        self.images_failed += outcome.images_failed;
        for (&code, &n) in &outcome.errors {
            *self.errors.entry(code).or_default() += n;
        }
        self.stages.add(&outcome.stages);
        self.first.get_or_insert((now_ms, images));
        self.last_ms = now_ms;
        let bucket = now_ms / BUCKET_MS;
        *self.buckets.entry(bucket).or_default() += images;
        self.buckets.retain(|&old, _| old + BUCKETS_KEPT > bucket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counters after batches of 100 images at the given times, in ms.
    fn after(times_ms: &[u64]) -> JobCounters {
        let mut counters = JobCounters { state: JobState::Running, ..JobCounters::default() };
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
