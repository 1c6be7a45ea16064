//! What RabbitMQ, Redis and the kernel say about themselves.
//!
//! Beside the measured work, on connections of its own. It must never write to Redis but what `ledger` asks it to.

use anyhow::{Context, Result};
use redis::aio::MultiplexedConnection;
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};
use trawl_common::{
    broker::{Broker, rabbit::RabbitBroker},
    job::{JobId, QueueName},
    ledger::redis::RedisLedger,
};

/// A queue's depth as RabbitMQ tells it is a moment old.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

/// Where the servers are.
#[derive(Debug, clap::Args)]
pub struct Services {
    /// RabbitMQ
    #[arg(long, env = "TRAWL_AMQP_URL", hide_env_values = true)]
    amqp_url: String,
    /// Redis
    #[arg(long, env = "TRAWL_REDIS_URL", hide_env_values = true)]
    redis_url: String,
}

impl Services {
    /// A connection to RabbitMQ that has this name there.
    ///
    /// # Errors
    /// If there is none.
    pub async fn broker(&self, name: &str) -> Result<RabbitBroker> {
        Ok(RabbitBroker::connect(&self.amqp_url).await?.named(name))
    }

    /// A connection to Redis.
    ///
    /// # Errors
    /// If there is none.
    pub async fn ledger(&self) -> Result<RedisLedger> {
        Ok(RedisLedger::connect(&self.redis_url).await?)
    }

    pub(crate) async fn redis(&self) -> Result<Redis> {
        let link = redis::Client::open(self.redis_url.as_str())?.get_multiplexed_async_connection().await?;
        Ok(Redis { link })
    }
}

/// A plain connection to Redis.
pub(crate) struct Redis {
    link: MultiplexedConnection,
}

impl Redis {
    pub(crate) async fn ask<T: redis::FromRedisValue>(&mut self, command: &redis::Cmd) -> Result<T> {
        Ok(command.query_async(&mut self.link).await?)
    }

    async fn info(&mut self, section: &str) -> Result<BTreeMap<String, String>> {
        let text: String = self.ask(redis::cmd("INFO").arg(section)).await?;
        let fields = text.lines().filter_map(|line| line.trim().split_once(':'));
        Ok(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Bytes of all that Redis holds.
    pub(crate) async fn used_memory(&mut self) -> Result<u64> {
        let info = self.info("memory").await?;
        Ok(info.get("used_memory").context("INFO memory has no used_memory")?.parse()?)
    }

    /// Processor seconds of the server so far.
    pub(crate) async fn cpu_seconds(&mut self) -> Result<f64> {
        let info = self.info("cpu").await?;
        let field = |name: &str| info.get(name).and_then(|value| value.parse::<f64>().ok()).unwrap_or(0.0);
        Ok(field("used_cpu_user") + field("used_cpu_sys"))
    }

    /// Microseconds and calls of scripts so far.
    pub(crate) async fn scripts(&mut self) -> Result<(u64, u64)> {
        let info = self.info("commandstats").await?;
        let line = info.get("cmdstat_evalsha").map_or("", String::as_str);
        let field = |name: &str| {
            let value = line.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            value.and_then(|value| value.parse().ok()).unwrap_or(0)
        };
        Ok((field("usec"), field("calls")))
    }

    /// Bytes of each key of a job.
    pub(crate) async fn job_keys(&mut self, job: &JobId) -> Result<BTreeMap<String, u64>> {
        let mut bytes = BTreeMap::new();
        for what in ["meta", "done", "errors", "rate", "claims", "claimers"] {
            let key = format!("trawl:{{{job}}}:{what}");
            let used: Option<u64> =
                self.ask(redis::cmd("MEMORY").arg("USAGE").arg(&key).arg("SAMPLES").arg(0)).await?;
            bytes.insert(what.to_owned(), used.unwrap_or(0));
        }
        Ok(bytes)
    }
}

/// Messages that wait in a queue, as soon as RabbitMQ says `expected`, or what it says in the end.
pub(crate) async fn messages_ready(broker: &dyn Broker, queue: &QueueName, expected: u64) -> Result<u64> {
    let until = tokio::time::Instant::now() + SETTLES_WITHIN;
    loop {
        let ready = broker.depth(queue).await?.map_or(0, |depth| depth.ready);
        if ready == expected || tokio::time::Instant::now() > until {
            return Ok(ready);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The most memory that this process had at once, in bytes.
///
/// # Errors
/// If this is not Linux.
pub fn peak_rss() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("no VmHWM in /proc/self/status")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kib * 1024)
}

/// Processor seconds of a process so far, all of its threads.
fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("there is no process {pid}"))?;
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has a form of its own")?;
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Ok(ticks as f64 / a_second.max(1) as f64)
}

/// Processor time of some processes, by name, from a moment on.
#[derive(Debug)]
pub struct Clock {
    pids: Vec<(String, u32, f64)>,
}

/// What [`Clock::report`] gives for one process.
#[derive(Debug, Serialize)]
pub struct Spent {
    cpu_seconds: f64,
    cpu_ms_per_batch: f64,
}

impl Clock {
    /// Begins now. `servers` are `name=pid`; this process is `self`.
    ///
    /// # Errors
    /// If one is not of that form, or has ended.
    pub fn start(servers: &[String]) -> Result<Self> {
        let mut pids = vec![("self".to_owned(), std::process::id())];
        for server in servers {
            let (name, pid) =
                server.split_once('=').with_context(|| format!("`{server}` is not NAME=PID"))?;
            pids.push((name.to_owned(), pid.parse()?));
        }
        let with_time = |(name, pid)| cpu_seconds(pid).map(|seconds| (name, pid, seconds));
        Ok(Self { pids: pids.into_iter().map(with_time).collect::<Result<_>>()? })
    }

    /// Since then, also for each of `batches`.
    ///
    /// # Errors
    /// If one of them has ended.
    pub fn report(&self, batches: u64) -> Result<BTreeMap<&str, Spent>> {
        let mut report = BTreeMap::new();
        for (name, pid, before) in &self.pids {
            let seconds = cpu_seconds(*pid)? - before;
            let cpu_ms_per_batch = rounded(seconds * 1000.0 / batches.max(1) as f64);
            report.insert(name.as_str(), Spent { cpu_seconds: rounded(seconds), cpu_ms_per_batch });
        }
        Ok(report)
    }
}

/// To a thousandth, for people who read the line.
pub fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
