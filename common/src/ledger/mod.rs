//! The ledger seam: progress, and the bit that says a batch is done.
//!
//! A cache of the bucket, never the truth: losing it costs a display. A batch completes once, counters
//! move once per completion and never backwards. Real: [`redis`] (Lua, one bit a batch). In memory:
//! [`memory`]. Both pass `contract::ledger`. It must never hold a key per image.

mod counters;
pub mod memory;
pub mod redis;

use crate::{
    batch::BatchNumber,
    error_code::ErrorCode,
    job::{JobId, JobSpec},
    stages::{Stage, StageTimes},
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

/// What can go wrong at the ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Redis cannot be reached or does not answer.
    #[error(
        "the ledger at {ledger} is not reachable: {reason}; is Redis running, and is TRAWL_REDIS_URL right?"
    )]
    Unreachable {
        /// Host and port, never the credentials.
        ledger: String,
        /// What happened.
        reason: String,
    },
    /// Redis refuses our credentials.
    #[error("the ledger at {ledger} refuses access: {reason}; check user and password in TRAWL_REDIS_URL")]
    AccessRefused {
        /// Host and port.
        ledger: String,
        /// Redis' words.
        reason: String,
    },
    /// Redis answered something that cannot be.
    #[error("the ledger at {ledger} failed: {reason}")]
    Other {
        /// Host and port.
        ledger: String,
        /// What happened.
        reason: String,
    },
    /// It has forgotten the job: wiped, evicted or failed over.
    #[error("the ledger does not know job `{job}` any more; `trawl repair` rebuilds it from the output")]
    Forgotten {
        /// The job.
        job: JobId,
    },
    /// The URL is not one.
    #[error("the Redis URL is not usable: {0}; it looks like redis://:password@host:6379/0")]
    BadUrl(String),
}

impl LedgerError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Forgotten { .. } => true,
            Self::AccessRefused { .. } | Self::Other { .. } | Self::BadUrl(_) => false,
        }
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// The producer is still listing.
    Enqueuing,
    /// All is planned; workers are at it.
    Running,
    /// `_SUCCESS` is written.
    Complete,
    /// Held back by the user.
    Paused,
    /// Given up by the user.
    Cancelled,
}

/// What is recorded when a job is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    /// The job.
    pub job: JobId,
    /// Its output.
    pub out: String,
    /// Its lane.
    pub queue: String,
    /// Submission time, milliseconds since 1970.
    pub created_unix_ms: u64,
}

impl JobState {
    /// The state's name, as JSON has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Enqueuing => "enqueuing",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the job's batches are left alone: given up, or held back for now.
    pub fn is_held(self) -> bool {
        matches!(self, Self::Cancelled | Self::Paused)
    }
}

impl JobRecord {
    /// What is recorded of `spec`.
    pub fn of(spec: &JobSpec) -> Self {
        Self {
            job: spec.job.clone(),
            out: spec.out.clone(),
            queue: spec.queue.to_string(),
            created_unix_ms: spec.created_unix_ms,
        }
    }
}

/// What one finished batch adds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BatchOutcome {
    /// Rows with a prediction.
    pub images_ok: u64,
    /// Rows without.
    pub images_failed: u64,
    /// The failed ones by code; sums to `images_failed`.
    pub errors: BTreeMap<ErrorCode, u64>,
    /// Where its time went, as far as that is known. For display: nothing is decided by it.
    pub stages: StageTimes,
}

impl BatchOutcome {
    /// Adds another one's counts.
    pub fn add(&mut self, other: &Self) {
        self.images_ok += other.images_ok;
        self.images_failed += other.images_failed;
        for (&code, &n) in &other.errors {
            *self.errors.entry(code).or_default() += n;
        }
        self.stages.add(&other.stages);
    }
}

/// A batch that somebody is working on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The batch.
    pub batch: BatchNumber,
    /// Who has it.
    pub worker: String,
    /// For how long, in milliseconds.
    pub age_ms: u64,
}

/// The answer to a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// True for the one call that moved the counters.
    pub first: bool,
    /// True if the plan is complete and every batch of it is done; also on a repeated call, so that a crash
    /// before the finalize message costs nothing.
    pub job_done: bool,
    /// True once a plan was announced. Every job has that before its first message, so that a job without is one
    /// whose ledger somebody began to rebuild and did not come to the end of.
    pub announced: bool,
}

/// What is known of a batch before it is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Where its job stands.
    pub state: JobState,
    /// Whether its completion is recorded; false is "not known to be", never "is not".
    pub done: bool,
}

/// How far a job's batches are queued, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fed {
    /// The chain of feed messages that goes on with it; see [`crate::batch::FeedRequest::chain`].
    pub chain: u64,
    /// The first batch that is not queued.
    pub next: BatchNumber,
}

impl Fed {
    /// Whether a message of `chain` that goes on with batch `from` is the one that is due, by what was noted last. Who
    /// queues a message notes it afterwards, so that a crash in between loses neither; until then the message is ahead
    /// of the note, and may be in somebody's hands already. One that is behind it came twice.
    pub fn is_followed_by(self, chain: u64, from: BatchNumber) -> bool {
        self.chain == chain && self.next <= from
    }
}

/// A job's counters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The job.
    pub job: JobId,
    /// Where it stands.
    pub state: JobState,
    /// Its output.
    pub out: String,
    /// Its lane.
    pub queue: String,
    /// Milliseconds since 1970.
    pub created_unix_ms: u64,
    /// Images listed so far, all of them once `state` is past `enqueuing`.
    pub images_planned: u64,
    /// Rows with a prediction.
    pub images_ok: u64,
    /// Rows without.
    pub images_failed: u64,
    /// Batches cut so far.
    pub batches_planned: u64,
    /// Batches whose part is written.
    pub batches_done: u64,
    /// Failed images by code.
    pub errors: BTreeMap<ErrorCode, u64>,
    /// Over the last minute of work, or since the job began if that is shorter; 0 when nothing moved.
    pub images_per_second: f64,
    /// `None` when there is no rate or the listing is not at its end.
    pub eta_seconds: Option<f64>,
    /// Milliseconds of each stage for one image, summed over threads; stages of which nothing is known are not in it.
    #[serde(default)]
    pub stages: BTreeMap<Stage, f64>,
    /// The stage that most batches' workers waited for.
    #[serde(default)]
    pub binding: Option<Stage>,
}

/// Progress of all jobs.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// Records a job; opening it again changes nothing but takes a cancelled or paused job back to work. Another time of
    /// creation is another job of the same name, whose output was removed: it starts from nothing.
    async fn open(&self, record: &JobRecord) -> Result<(), LedgerError>;

    /// Says how much is planned in all so far. Numbers only grow; a smaller one is ignored.
    async fn planned(&self, job: &JobId, batches: u64, images: u64) -> Result<(), LedgerError>;

    /// Says that the plan is at its end; true if all of its batches are done already.
    async fn plan_complete(&self, job: &JobId, batches: u64, images: u64) -> Result<bool, LedgerError>;

    /// Whether the batch's completion is recorded; false is "not known to be", never "is not".
    async fn is_done(&self, job: &JobId, batch: BatchNumber) -> Result<bool, LedgerError>;

    /// All that is asked before a batch, in one question: `None` if the job is not known. A `claimant` claims the
    /// batch by it, as by [`Ledger::claim`], unless it is recorded as done or its job is held; a claim that
    /// cannot be written does not fail the question.
    async fn begin(
        &self,
        job: &JobId,
        batch: BatchNumber,
        claimant: Option<&str>,
    ) -> Result<Option<Begun>, LedgerError>;

    /// Records a finished batch, once whatever the number of calls, and ends the claim on it. `None` if the job is
    /// not known, or what is known of it has holes: the ledger was wiped or has evicted keys, and wants to be
    /// rebuilt from the output. A job that is complete counts nothing more.
    async fn complete(
        &self,
        job: &JobId,
        batch: BatchNumber,
        outcome: &BatchOutcome,
    ) -> Result<Option<Completion>, LedgerError>;

    /// Records that `_SUCCESS` is written, with the counters of its manifest: whatever was counted before is
    /// replaced by them. `totals` are those of all `batches` batches.
    async fn finalized(
        &self,
        record: &JobRecord,
        batches: u64,
        totals: &BatchOutcome,
    ) -> Result<(), LedgerError>;

    /// Forgets a job, so that it can be rebuilt from its output.
    async fn forget(&self, job: &JobId) -> Result<(), LedgerError>;

    /// Says that `worker` has begun to work on a batch. For display and for [`Ledger::reclaim`] only: nothing is
    /// locked by it. Does nothing for a job that is not known.
    async fn claim(&self, job: &JobId, batch: BatchNumber, worker: &str) -> Result<(), LedgerError>;

    /// Ends a claim without a completion.
    async fn release(&self, job: &JobId, batch: BatchNumber) -> Result<(), LedgerError>;

    /// The batches that are being worked on, the oldest claims first.
    async fn claims(&self, job: &JobId, limit: usize) -> Result<Vec<Claim>, LedgerError>;

    /// Takes over a claim if it is still there, at least `older_than` old and its batch not done: its age begins
    /// anew. Of all who race, one gets true.
    async fn reclaim(
        &self,
        job: &JobId,
        batch: BatchNumber,
        worker: &str,
        older_than: Duration,
    ) -> Result<bool, LedgerError>;

    /// Notes how far a job's batches are queued, whatever was noted before: a chain takes over. For sparing work only: two
    /// chains of feed messages, or one message that comes twice, are told apart by it.
    async fn set_fed(&self, job: &JobId, fed: Fed) -> Result<(), LedgerError>;

    /// Moves the note on; nothing happens if another chain has taken over, or if it is as far already: whoever comes
    /// late must not take it back.
    async fn advance_fed(&self, job: &JobId, fed: Fed) -> Result<(), LedgerError>;

    /// What was noted last; `None` if nothing was, or it is forgotten.
    async fn fed(&self, job: &JobId) -> Result<Option<Fed>, LedgerError>;

    /// Gives a job up; false if it is unknown or already complete.
    async fn cancel(&self, job: &JobId) -> Result<bool, LedgerError>;

    /// Holds a job back; false if it is unknown, complete or given up. Opening it again takes it back to work.
    async fn pause(&self, job: &JobId) -> Result<bool, LedgerError>;

    /// The state, if the job is known.
    async fn state(&self, job: &JobId) -> Result<Option<JobState>, LedgerError>;

    /// All counters, if the job is known.
    async fn progress(&self, job: &JobId) -> Result<Option<Progress>, LedgerError>;

    /// Every known job, the newest first.
    async fn jobs(&self, limit: usize) -> Result<Vec<Progress>, LedgerError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_is_quicker_than_its_note_is_followed_and_one_that_comes_twice_is_not() {
        let noted = Fed { chain: 7, next: BatchNumber(100) };
        let follows = |chain, from| noted.is_followed_by(chain, BatchNumber(from));
        assert!(follows(7, 100), "the one that was noted");
        assert!(follows(7, 356), "the one after it, whose note is still on its way");
        assert!(!follows(7, 99), "one that was worked on before");
        assert!(!follows(8, 100) && !follows(8, 356), "another chain has taken over");
    }
}
