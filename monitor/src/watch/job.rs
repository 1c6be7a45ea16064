//! One job as the monitor knows it: its counters as they were last seen, how they moved, and who told them.
//!
//! Fed by the poller from the ledger, or from the output where the ledger has forgotten the job. The JSON is the
//! ledger's own record, so that what that learns to tell is shown without a change here, and what only a watcher knows.

use super::pace::{MAX_POINTS, Pace};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use trawl_common::ledger::{JobState, Progress};

/// A job that does not move for this long may have no worker, or batches among the dead letters: worth a look.
const STALLED_AFTER_MS: u64 = 15_000;

/// Points of a job's picture in a list of jobs: a sparkline.
const POINTS_IN_LIST: usize = 24;

/// Who counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The ledger.
    Redis,
    /// The output alone.
    Bucket,
}

/// A job that is watched.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its counters as they were last seen.
    pub progress: Progress,
    /// Who told them.
    pub source: Source,
    /// The model's name, once its spec was read.
    pub model: Option<String>,
    /// When it was finished, if its manifest was read.
    pub finished_unix_ms: Option<u64>,
    /// Whether its manifest was asked when it was finished.
    pub finish_asked: bool,
    /// When its output is to be read next, for what the ledger does not know; `None`: never again.
    pub look_again: Option<Instant>,
    pace: Pace,
    moved: Instant,
}

/// Whether there may be work left.
pub fn is_active(state: JobState) -> bool {
    match state {
        JobState::Enqueuing | JobState::Running | JobState::Paused => true,
        JobState::Complete | JobState::Cancelled => false,
    }
}

impl Job {
    /// A job that is seen for the first time.
    pub fn new(progress: Progress, source: Source, now_unix_ms: u64) -> Self {
        let mut job = Self {
            progress,
            source,
            model: None,
            finished_unix_ms: None,
            finish_asked: false,
            look_again: Some(Instant::now()),
            pace: Pace::default(),
            moved: Instant::now(),
        };
        job.sample(now_unix_ms);
        job
    }

    /// Takes newer counters over. Another time of submission is another job of the same name.
    pub fn update(&mut self, progress: Progress, source: Source, now_unix_ms: u64) {
        if progress.created_unix_ms != self.progress.created_unix_ms || progress.out != self.progress.out {
            *self = Self::new(progress, source, now_unix_ms);
            return;
        }
        let was = &self.progress;
        if (progress.batches_done, progress.state) != (was.batches_done, was.state) {
            self.moved = Instant::now();
        }
        if is_active(progress.state) && !is_active(was.state) {
            (self.finished_unix_ms, self.finish_asked) = (None, false);
        }
        self.progress = progress;
        self.source = source;
        self.sample(now_unix_ms);
    }

    fn sample(&mut self, now_unix_ms: u64) {
        if self.source == Source::Redis
            && matches!(self.progress.state, JobState::Enqueuing | JobState::Running)
        {
            let done = self.progress.images_ok + self.progress.images_failed;
            self.pace.sample(now_unix_ms, self.progress.images_per_second, done);
        }
    }

    /// Whether there may be work left.
    pub fn is_active(&self) -> bool {
        is_active(self.progress.state)
    }

    /// For how long nothing was finished although there is work left, once that is worth a look.
    pub fn stalled_ms(&self) -> Option<u64> {
        let p = &self.progress;
        let waits = self.source == Source::Redis
            && matches!(p.state, JobState::Running | JobState::Enqueuing)
            && p.batches_done < p.batches_planned;
        let stalled = u64::try_from(self.moved.elapsed().as_millis()).unwrap_or(u64::MAX);
        (waits && stalled >= STALLED_AFTER_MS).then_some(stalled)
    }

    /// As a line of the list.
    pub fn listed(&self) -> Value {
        Value::Object(self.json(POINTS_IN_LIST))
    }

    /// With everything but its detail.
    pub fn whole(&self) -> Map<String, Value> {
        self.json(MAX_POINTS)
    }

    fn json(&self, points: usize) -> Map<String, Value> {
        let p = &self.progress;
        let Ok(Value::Object(mut job)) = serde_json::to_value(p) else { return Map::new() };
        let left = p.images_planned.saturating_sub(p.images_ok + p.images_failed);
        let range = p.eta_seconds.and_then(|eta| self.pace.eta_range(left, eta));
        job.entry("stages").or_insert_with(|| json!({}));
        job.entry("binding").or_insert(Value::Null);
        job.insert("eta_low_seconds".into(), json!(range.map(|range| range.low_seconds)));
        job.insert("eta_high_seconds".into(), json!(range.map(|range| range.high_seconds)));
        job.insert("model".into(), json!(self.model));
        job.insert("source".into(), json!(self.source));
        job.insert("rates".into(), json!(self.pace.points(points)));
        job.insert("stalled_ms".into(), json!(self.stalled_ms()));
        job
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::time::Duration;

    pub(crate) fn progress(job: &str, created_unix_ms: u64, done: u64) -> Progress {
        Progress {
            stages: Default::default(),
            binding: None,
            job: job.parse().unwrap(),
            state: JobState::Running,
            out: format!("s3://b/{job}"),
            queue: "default".into(),
            created_unix_ms,
            images_planned: 1000,
            images_ok: done * 10,
            images_failed: 0,
            batches_planned: 100,
            batches_done: done,
            errors: Default::default(),
            images_per_second: 10.0,
            eta_seconds: Some(100.0),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_does_not_move_is_stalled_until_it_moves() {
        let mut job = Job::new(progress("j", 1, 1), Source::Redis, 0);
        assert_eq!(job.stalled_ms(), None);
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(job.stalled_ms(), Some(20_000));
        job.update(progress("j", 1, 2), Source::Redis, 20_000);
        assert_eq!(job.stalled_ms(), None);
        tokio::time::advance(Duration::from_secs(20)).await;
        job.update(Progress { state: JobState::Paused, ..progress("j", 1, 2) }, Source::Redis, 40_000);
        assert_eq!(job.stalled_ms(), None, "paused is not stalled");
    }

    #[tokio::test]
    async fn the_json_has_every_field_of_the_contract() {
        let job = Job::new(progress("j", 1, 1), Source::Redis, 0);
        let json = job.listed();
        for field in [
            "job",
            "state",
            "out",
            "queue",
            "created_unix_ms",
            "images_planned",
            "images_ok",
            "images_failed",
            "batches_planned",
            "batches_done",
            "errors",
            "images_per_second",
            "eta_seconds",
            "eta_low_seconds",
            "eta_high_seconds",
            "stages",
            "binding",
            "model",
            "source",
            "rates",
            "stalled_ms",
        ] {
            assert!(json.get(field).is_some(), "{field} is missing in {json}");
        }
        assert_eq!((&json["source"], &json["rates"]), (&json!("redis"), &json!([[0, 10.0]])));
    }

    #[tokio::test]
    async fn another_submission_of_the_same_name_begins_anew() {
        let mut job = Job::new(progress("j", 1, 50), Source::Redis, 0);
        job.model = Some("m".into());
        job.update(progress("j", 2, 0), Source::Redis, 1000);
        assert_eq!((job.model.as_deref(), job.progress.batches_done), (None, 0));
        assert_eq!(job.whole()["rates"], json!([[1000, 10.0]]));
    }
}
