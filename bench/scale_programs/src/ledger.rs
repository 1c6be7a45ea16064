//! `ledger`: what a job costs in Redis by batches done, and how fast a lost ledger is filled again.
//!
//! The bits of the batches that are done before are set in one stroke and the counters beside them, in the keys that
//! the ledger itself has; the completions that are measured are the ledger's own. The refill reads a bucket in memory,
//! so that Redis and the reading of footers are measured, and no network to a store.

use crate::{
    job,
    servers::{Redis, Services, peak_rss, rounded},
    verify,
};
use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use std::{path::Path, time::Instant};
use trawl_common::{
    batch::BatchNumber,
    job::JobSpec,
    ledger::{BatchOutcome, JobRecord, Ledger, redis::RedisLedger},
    location::Location,
    planning::rebuild::rebuild,
    results::{OutputLayout, PlanDone},
    storage::Stores,
};

/// Bytes of set bits that are written at a time.
const STROKE: u64 = 1 << 20;

/// Completions under way at once in the second half of each measurement: a fleet's worth.
const AT_ONCE: usize = 64;

/// What is asked for.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Batches done before the completions that are measured, as M or M,M,...
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000, 1_000_000, 4_000_000])]
    batches: Vec<u64>,
    /// Rounds over all of them; the medians are given
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Completions measured at each of them in a round, one after another and as many at once
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    completions: u64,
    /// Parts of the output that a lost ledger is filled from; 0 for none
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    rebuild: u64,
    #[command(flatten)]
    services: Services,
}

/// Measures each number of batches, in turn and again, then the refill.
///
/// # Errors
/// What Redis says, or counters that are not right.
pub async fn run(options: &Options) -> Result<Value> {
    let (ledger, mut redis) = (options.services.ledger().await?, options.services.redis().await?);
    let mut steps = Vec::new();
    for &done in &options.batches {
        steps.push(Step::begin(options, done, &ledger, &mut redis).await?);
    }
    // In turn: what the machine does besides meanwhile falls on all of them.
    for _ in 0..options.rounds {
        for step in &mut steps {
            step.measure(options.completions, &ledger, &mut redis).await?;
        }
    }
    let mut reports = Vec::new();
    for step in steps {
        reports.push(step.end(&ledger, &mut redis).await?);
    }
    let rebuilt = match options.rebuild {
        0 => Value::Null,
        parts => measure_rebuild(parts, &ledger).await?,
    };
    Ok(json!({
        "command": "ledger", "rounds": options.rounds, "steps": reports, "rebuild": rebuilt,
        "peak_rss_bytes": peak_rss()?,
    }))
}

/// A job with so many batches done before anything is measured.
struct Step {
    spec: JobSpec,
    done: u64,
    next: u64,
    alone: Vec<Rate>,
    together: Vec<Rate>,
}

impl Step {
    async fn begin(options: &Options, done: u64, ledger: &RedisLedger, redis: &mut Redis) -> Result<Self> {
        let spec = job::spec("/nowhere", 256)?;
        ledger.open(&JobRecord::of(&spec)).await?;
        let planned = done + 2 * options.completions * u64::from(options.rounds);
        ledger.plan_complete(&spec.job, planned, planned * 256).await?;
        set_done(&spec, done, redis).await?;
        Ok(Self { spec, done, next: done, alone: Vec::new(), together: Vec::new() })
    }

    async fn measure(&mut self, completions: u64, ledger: &RedisLedger, redis: &mut Redis) -> Result<()> {
        let middle = self.next + completions;
        let end = middle + completions;
        self.alone.push(complete(self.next..middle, 1, &self.spec, ledger, redis).await?);
        self.together.push(complete(middle..end, AT_ONCE, &self.spec, ledger, redis).await?);
        self.next = end;
        Ok(())
    }

    /// The medians, what Redis holds, and the counters held to what was done.
    async fn end(self, ledger: &RedisLedger, redis: &mut Redis) -> Result<Value> {
        let counted = ledger.progress(&self.spec.job).await?.map_or(0, |progress| progress.batches_done);
        ensure!(counted == self.next, "{counted} of {} batches are counted", self.next);
        let bytes = redis.job_keys(&self.spec.job).await?;
        ledger.forget(&self.spec.job).await?;
        Ok(json!({
            "batches_done": self.done,
            "redis_job_bytes": bytes.values().sum::<u64>(),
            "redis_key_bytes": bytes,
            "one_by_one": Rate::median(&self.alone),
            "at_once": Rate::median(&self.together),
        }))
    }
}

/// What one completion took.
#[derive(Clone, Copy)]
struct Rate {
    us: f64,
    script_us: f64,
    server_cpu_us: f64,
}

impl Rate {
    fn median(of: &[Self]) -> Value {
        let median = |value: fn(&Self) -> f64| {
            let mut values: Vec<f64> = of.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        let us = median(|rate| rate.us);
        json!({
            "per_second": (1e6 / us).round(),
            "us_each": rounded(us),
            "server_script_us_each": rounded(median(|rate| rate.script_us)),
            "server_cpu_us_each": rounded(median(|rate| rate.server_cpu_us)),
        })
    }
}

/// As if the first `done` batches were complete.
async fn set_done(spec: &JobSpec, done: u64, redis: &mut Redis) -> Result<()> {
    let key = |what: &str| format!("trawl:{{{}}}:{what}", spec.job);
    for begin in (0..done / 8).step_by(usize::try_from(STROKE)?) {
        let bytes = vec![0xff_u8; usize::try_from(STROKE.min(done / 8 - begin))?];
        let mut command = redis::cmd("SETRANGE");
        redis.ask::<u64>(command.arg(key("done")).arg(begin).arg(bytes)).await?;
    }
    for bit in done / 8 * 8..done {
        redis.ask::<u64>(redis::cmd("SETBIT").arg(key("done")).arg(bit).arg(1)).await?;
    }
    let mut command = redis::cmd("HSET");
    redis.ask::<u64>(command.arg(key("meta")).arg("done").arg(done).arg("ok").arg(done * 256)).await?;
    Ok(())
}

async fn complete(
    batches: std::ops::Range<u64>,
    at_once: usize,
    spec: &JobSpec,
    ledger: &RedisLedger,
    redis: &mut Redis,
) -> Result<Rate> {
    let number = (batches.end - batches.start) as f64;
    let outcome = BatchOutcome { images_ok: 256, ..BatchOutcome::default() };
    let (before, cpu_before) = (redis.scripts().await?, redis.cpu_seconds().await?);
    let began = Instant::now();
    let each = batches.map(|batch| ledger.complete(&spec.job, BatchNumber(batch), &outcome));
    let mut completed = stream::iter(each).buffer_unordered(at_once);
    while let Some(completion) = completed.try_next().await? {
        ensure!(
            completion.is_some_and(|completion| completion.first),
            "a batch was done before: {completion:?}"
        );
    }
    let seconds = began.elapsed().as_secs_f64();
    let (after, cpu) = (redis.scripts().await?, redis.cpu_seconds().await? - cpu_before);
    let calls = after.1.saturating_sub(before.1).max(1);
    Ok(Rate {
        us: seconds * 1e6 / number,
        script_us: after.0.saturating_sub(before.0) as f64 / calls as f64,
        server_cpu_us: cpu * 1e6 / number,
    })
}

/// How fast a ledger that forgot a job with so many parts knows it again.
async fn measure_rebuild(parts: u64, ledger: &RedisLedger) -> Result<Value> {
    let spec = job::spec("s3://scale-lost/run", 1)?;
    let (stores, place) = (Stores::in_memory(), Location::parse(&spec.out, Path::new("/"))?);
    let (store, layout) = (stores.open(&place).await, OutputLayout::new(place));
    store.put(&layout.job(), spec.to_json().into()).await?;
    let mut files = Vec::new();
    verify::write_plan(&spec, parts, |index, bytes| {
        files.push((index, bytes));
        Ok(())
    })?;
    for (index, bytes) in files {
        store.put(&layout.plan_file(index), bytes).await?;
    }
    let done = PlanDone { batches: parts, images: parts, skipped: 0, unlistable: 0 };
    store.put(&layout.plan_done(), done.to_json()).await?;
    for batch in (0..parts).map(BatchNumber) {
        store.put(&layout.part(batch), verify::part(&spec, batch)?).await?;
    }
    let began = Instant::now();
    let rebuilt = rebuild(&spec, &layout, &store, ledger).await?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(rebuilt.job_done && rebuilt.parts == parts, "the ledger is not what the output is: {rebuilt:?}");
    ledger.forget(&spec.job).await?;
    Ok(json!({
        "parts": parts,
        "seconds": rounded(seconds),
        "batches_per_second": (parts as f64 / seconds).round(),
    }))
}
