//! The ledger in Redis: one bit a batch, counters moved by Lua, so that a batch counts once.
//!
//! The keys of a job, all in one hash slot: `trawl:{JOB}:meta` (hash), `trawl:{JOB}:done` (bitmap by batch
//! number), `trawl:{JOB}:errors` (hash by code), `trawl:{JOB}:rate` (hash by time), `trawl:{JOB}:claims` (sorted set
//! by age) and `trawl:{JOB}:claimers` (hash of workers), the last two as large as what is in work; besides them the
//! index `trawl:jobs` (sorted set by time of submission). A job that is complete or given up is forgotten
//! [`ENDED_KEPT_MS`] later, one at work never. Every command may be sent twice without harm, so a lost
//! connection is bridged by [`RetryPolicy::LEDGER`](crate::retry::RetryPolicy::LEDGER). No command waits without a bound, and the password must
//! never reach an error.

mod connection;
mod keys;

use super::{
    BatchOutcome, Begun, Claim, Completion, Fed, JobRecord, JobState, Ledger, LedgerError, Progress,
    memory::check_batch,
};
use crate::{batch::BatchNumber, job::JobId};
use async_trait::async_trait;
use connection::Connection;
pub use connection::EvictionPolicy;
use futures::{StreamExt, TryStreamExt, stream};
use keys::{Keys, Stored, outcome_arguments, parse_counters, parse_state};
use redis::{Client, FromRedisValue, RedisResult, Script, aio::ConnectionManager};
use std::{
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

/// Jobs whose progress is asked for at a time.
const JOBS_IN_FLIGHT: usize = 16;

/// A job that has ended is kept for so long, in milliseconds: for `trawl jobs` and for messages that come late. Its output says the same
/// for ever, and a job that is forgotten is known again when somebody asks for it by its place or submits it.
pub const ENDED_KEPT_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// Names of the index that are looked at for each job that is opened: more than one, so that it shrinks.
const PRUNED_AT_ONCE: usize = 32;

/// In a job's meta hash: how far its batches are queued.
const FED: &str = "fed";

/// The index of all jobs.
const INDEX: &str = "trawl:jobs";

static OPEN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/open.lua")));
static PLANNED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/planned.lua")));
static BEGIN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/begin.lua")));
static COMPLETE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/complete.lua")));
static FINALIZED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/finalized.lua")));
static CLAIM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/claim.lua")));
static CLAIMS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/claims.lua")));
static HOLD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/hold.lua")));
static ADVANCE_FED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/fed.lua")));
static PROGRESS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/progress.lua")));

/// A connection to the ledger; clones share it.
#[derive(Clone)]
pub struct RedisLedger {
    client: Client,
    address: Arc<str>,
    connection: Arc<Mutex<Connection>>,
}

impl RedisLedger {
    async fn plan(
        &self,
        job: &JobId,
        batches: u64,
        images: u64,
        at_its_end: bool,
    ) -> Result<bool, LedgerError> {
        let keys = Keys::of(job);
        self.run(|mut link| {
            let mut call = PLANNED.key(&keys.meta);
            call.arg(batches).arg(images).arg(u8::from(at_its_end));
            async move { call.invoke_async(&mut link).await }
        })
        .await
    }

    /// Takes the oldest names out of the index whose jobs are forgotten: as a job is opened, so that the index grows with
    /// the jobs that are kept and not with all there ever were. Only what was submitted longer ago than an ended job is
    /// kept is looked at; who opens such a one in the same moment may have to do so again for it to be listed.
    async fn prune_index(&self, now_ms: u64) -> Result<(), LedgerError> {
        let kept_since = now_ms.saturating_sub(ENDED_KEPT_MS);
        let oldest: Vec<String> = self
            .run(|link| {
                let mut range = redis::cmd("ZRANGEBYSCORE");
                range.arg(INDEX).arg("-inf").arg(kept_since).arg("LIMIT").arg(0).arg(PRUNED_AT_ONCE);
                query(link, range)
            })
            .await?;
        for name in oldest {
            let job: Option<JobId> = name.parse().ok();
            if let Some(job) = job
                && self.state(&job).await?.is_some()
            {
                continue;
            }
            self.run(|link| {
                let mut remove = redis::cmd("ZREM");
                remove.arg(INDEX).arg(&name);
                query::<u64>(link, remove)
            })
            .await?;
        }
        Ok(())
    }

    fn state_of(&self, text: &str) -> Result<JobState, LedgerError> {
        parse_state(text).ok_or_else(|| self.other(format!("`{text}` is no state of a job")))
    }

    async fn hold(&self, job: &JobId, state: &str) -> Result<bool, LedgerError> {
        let keys = Keys::of(job);
        self.run(|mut link| {
            let mut call = HOLD.key(&keys.meta);
            call.key(&keys.done).key(&keys.errors).key(&keys.rate).key(&keys.claims).key(&keys.claimers);
            call.arg(state).arg(ENDED_KEPT_MS);
            async move { call.invoke_async(&mut link).await }
        })
        .await
    }

    /// Claims a batch, or takes a claim over that is `older_than_ms` old; -1 minds no earlier claim.
    async fn stake(
        &self,
        job: &JobId,
        batch: BatchNumber,
        worker: &str,
        older_than_ms: i64,
    ) -> Result<bool, LedgerError> {
        check_batch(&self.address, batch)?;
        let keys = Keys::of(job);
        self.run(|mut link| {
            let mut call = CLAIM.key(&keys.meta);
            call.key(&keys.done).key(&keys.claims).key(&keys.claimers);
            call.arg(batch.0).arg(worker).arg(older_than_ms);
            async move { call.invoke_async(&mut link).await }
        })
        .await
    }
}

/// A command with answer type, built anew for each attempt.
async fn query<T: FromRedisValue>(mut link: ConnectionManager, command: redis::Cmd) -> RedisResult<T> {
    command.query_async(&mut link).await
}

#[async_trait]
impl Ledger for RedisLedger {
    async fn open(&self, record: &JobRecord) -> Result<(), LedgerError> {
        let keys = Keys::of(&record.job);
        self.run(|mut link| {
            let mut call = OPEN.key(&keys.meta);
            call.key(&keys.done).key(&keys.errors).key(&keys.rate).key(&keys.claims).key(&keys.claimers);
            call.arg(&record.out).arg(&record.queue).arg(record.created_unix_ms);
            async move { call.invoke_async::<u8>(&mut link).await }
        })
        .await?;
        // In another slot than the job, so not in the script. A crash between the two costs a line in
        // `jobs` until the job is opened again.
        self.run(|link| {
            let mut add = redis::cmd("ZADD");
            add.arg(INDEX).arg(record.created_unix_ms).arg(record.job.as_str());
            query::<u64>(link, add)
        })
        .await?;
        self.prune_index(record.created_unix_ms).await
    }

    async fn planned(&self, job: &JobId, batches: u64, images: u64) -> Result<(), LedgerError> {
        self.plan(job, batches, images, false).await.map(drop)
    }

    async fn plan_complete(&self, job: &JobId, batches: u64, images: u64) -> Result<bool, LedgerError> {
        self.plan(job, batches, images, true).await
    }

    async fn is_done(&self, job: &JobId, batch: BatchNumber) -> Result<bool, LedgerError> {
        check_batch(&self.address, batch)?;
        let keys = Keys::of(job);
        self.run(|link| {
            let mut get = redis::cmd("GETBIT");
            get.arg(&keys.done).arg(batch.0);
            query(link, get)
        })
        .await
    }

    async fn begin(
        &self,
        job: &JobId,
        batch: BatchNumber,
        claimant: Option<&str>,
    ) -> Result<Option<Begun>, LedgerError> {
        check_batch(&self.address, batch)?;
        let keys = Keys::of(job);
        let known: Option<(String, bool)> = self
            .run(|mut link| {
                let mut call = BEGIN.key(&keys.meta);
                call.key(&keys.done).key(&keys.claims).key(&keys.claimers);
                call.arg(batch.0).arg(claimant.unwrap_or_default());
                async move { call.invoke_async(&mut link).await }
            })
            .await?;
        known.map(|(state, done)| Ok(Begun { state: self.state_of(&state)?, done })).transpose()
    }

    async fn complete(
        &self,
        job: &JobId,
        batch: BatchNumber,
        outcome: &BatchOutcome,
    ) -> Result<Option<Completion>, LedgerError> {
        check_batch(&self.address, batch)?;
        let keys = Keys::of(job);
        let (first, job_done, announced) = self
            .run(|mut link| {
                let mut call = COMPLETE.key(&keys.meta);
                call.key(&keys.done).key(&keys.errors).key(&keys.rate).key(&keys.claims).key(&keys.claimers);
                call.arg(batch.0).arg(outcome.images_ok).arg(outcome.images_failed);
                for argument in outcome_arguments(outcome) {
                    call.arg(argument);
                }
                async move { call.invoke_async::<(i64, bool, bool)>(&mut link).await }
            })
            .await?;
        Ok((first >= 0).then_some(Completion { first: first == 1, job_done, announced }))
    }

    async fn finalized(
        &self,
        record: &JobRecord,
        batches: u64,
        totals: &BatchOutcome,
    ) -> Result<(), LedgerError> {
        self.open(record).await?;
        let keys = Keys::of(&record.job);
        self.run(|mut link| {
            let mut call = FINALIZED.key(&keys.meta);
            call.key(&keys.errors).key(&keys.claims).key(&keys.claimers).key(&keys.done).key(&keys.rate);
            call.arg(ENDED_KEPT_MS).arg(batches).arg(totals.images_ok).arg(totals.images_failed);
            for argument in outcome_arguments(totals) {
                call.arg(argument);
            }
            async move { call.invoke_async::<u8>(&mut link).await }
        })
        .await
        .map(drop)
    }

    async fn forget(&self, job: &JobId) -> Result<(), LedgerError> {
        let Keys { meta, done, errors, rate, claims, claimers } = Keys::of(job);
        self.run(|link| {
            let mut del = redis::cmd("DEL");
            del.arg(&[&meta, &done, &errors, &rate, &claims, &claimers]);
            query::<u64>(link, del)
        })
        .await
        .map(drop)
    }

    async fn claim(&self, job: &JobId, batch: BatchNumber, worker: &str) -> Result<(), LedgerError> {
        self.stake(job, batch, worker, -1).await.map(drop)
    }

    async fn release(&self, job: &JobId, batch: BatchNumber) -> Result<(), LedgerError> {
        let keys = Keys::of(job);
        self.run(|mut link| {
            let mut both = redis::pipe();
            both.atomic().zrem(&keys.claims, batch.0).ignore().hdel(&keys.claimers, batch.0).ignore();
            async move { both.query_async::<()>(&mut link).await }
        })
        .await
    }

    async fn claims(&self, job: &JobId, limit: usize) -> Result<Vec<Claim>, LedgerError> {
        let keys = Keys::of(job);
        if limit == 0 {
            return Ok(Vec::new());
        }
        let found: Vec<(u64, u64, String)> = self
            .run(|mut link| {
                let mut call = CLAIMS.key(&keys.claims);
                call.key(&keys.claimers).arg(limit);
                async move { call.invoke_async(&mut link).await }
            })
            .await?;
        let claim = |(batch, age_ms, worker)| Claim { batch: BatchNumber(batch), worker, age_ms };
        Ok(found.into_iter().map(claim).collect())
    }

    async fn reclaim(
        &self,
        job: &JobId,
        batch: BatchNumber,
        worker: &str,
        older_than: Duration,
    ) -> Result<bool, LedgerError> {
        let older_than_ms = i64::try_from(older_than.as_millis()).unwrap_or(i64::MAX);
        self.stake(job, batch, worker, older_than_ms).await
    }

    async fn set_fed(&self, job: &JobId, fed: Fed) -> Result<(), LedgerError> {
        let keys = Keys::of(job);
        self.run(|link| {
            let mut set = redis::cmd("HSET");
            set.arg(&keys.meta).arg(FED).arg(format!("{:016x}:{}", fed.chain, fed.next.0));
            query::<u64>(link, set)
        })
        .await
        .map(drop)
    }

    async fn advance_fed(&self, job: &JobId, fed: Fed) -> Result<(), LedgerError> {
        let keys = Keys::of(job);
        self.run(|mut link| {
            let mut call = ADVANCE_FED.key(&keys.meta);
            call.arg(format!("{:016x}", fed.chain)).arg(fed.next.0);
            async move { call.invoke_async::<u8>(&mut link).await }
        })
        .await
        .map(drop)
    }

    async fn fed(&self, job: &JobId) -> Result<Option<Fed>, LedgerError> {
        let keys = Keys::of(job);
        let text: Option<String> = self
            .run(|link| {
                let mut get = redis::cmd("HGET");
                get.arg(&keys.meta).arg(FED);
                query(link, get)
            })
            .await?;
        // What is not readable is as good as forgotten.
        let parsed = text.as_deref().and_then(|text| {
            let (chain, next) = text.split_once(':')?;
            let chain = u64::from_str_radix(chain, 16).ok()?;
            Some(Fed { chain, next: BatchNumber(next.parse().ok()?) })
        });
        Ok(parsed)
    }

    async fn cancel(&self, job: &JobId) -> Result<bool, LedgerError> {
        self.hold(job, "cancelled").await
    }

    async fn pause(&self, job: &JobId) -> Result<bool, LedgerError> {
        self.hold(job, "paused").await
    }

    async fn state(&self, job: &JobId) -> Result<Option<JobState>, LedgerError> {
        let keys = Keys::of(job);
        let (open, state): (Option<String>, Option<String>) = self
            .run(|link| {
                let mut get = redis::cmd("HMGET");
                get.arg(&keys.meta).arg("open").arg("state");
                query(link, get)
            })
            .await?;
        if open.is_none() {
            return Ok(None);
        }
        self.state_of(&state.unwrap_or_default()).map(Some)
    }

    async fn progress(&self, job: &JobId) -> Result<Option<Progress>, LedgerError> {
        let keys = Keys::of(job);
        let stored: Stored = self
            .run(|mut link| {
                let mut call = PROGRESS.key(&keys.meta);
                call.key(&keys.errors).key(&keys.rate);
                async move { call.invoke_async(&mut link).await }
            })
            .await?;
        match parse_counters(stored) {
            None => Ok(None),
            Some(Ok((counters, now_ms))) => Ok(Some(counters.into_progress(job.clone(), now_ms))),
            Some(Err(reason)) => Err(self.other(reason)),
        }
    }

    async fn jobs(&self, limit: usize) -> Result<Vec<Progress>, LedgerError> {
        let Some(last) = limit.checked_sub(1) else { return Ok(Vec::new()) };
        let names: Vec<String> = self
            .run(|link| {
                let mut range = redis::cmd("ZREVRANGE");
                range.arg(INDEX).arg(0).arg(i64::try_from(last).unwrap_or(i64::MAX));
                query(link, range)
            })
            .await?;
        // A name that is none was not written by us.
        let jobs: Vec<JobId> = names.iter().filter_map(|name| name.parse().ok()).collect();
        stream::iter(jobs)
            .map(|job| async move { self.progress(&job).await })
            .buffered(JOBS_IN_FLIGHT)
            .try_filter_map(|progress| std::future::ready(Ok(progress)))
            .try_collect()
            .await
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn constants_of_the_scripts_are_those_of_the_ledger_in_memory() {
        let script = include_str!("../scripts/complete.lua");
        assert!(
            script
                .contains(&format!("local BUCKET_SECONDS = {}\n", crate::ledger::counters::BUCKET_MS / 1000))
        );
        assert!(
            script.contains(&format!("local BUCKETS_KEPT = {}\n", crate::ledger::counters::BUCKETS_KEPT))
        );
    }
}
