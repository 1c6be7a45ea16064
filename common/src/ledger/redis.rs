//! The ledger in Redis: one bit a batch, counters moved by Lua, so that a batch counts once.
//!
//! The keys of a job, all in one hash slot: `trawl:{JOB}:meta` (hash), `trawl:{JOB}:done` (bitmap by batch
//! number), `trawl:{JOB}:errors` (hash by code), `trawl:{JOB}:rate` (hash by time), `trawl:{JOB}:claims` (sorted set
//! by age) and `trawl:{JOB}:claimers` (hash of workers), the last two as large as what is in work; besides them the index
//! `trawl:jobs` (sorted set by time of submission). Every command may be sent twice without harm, so a lost
//! connection is bridged by [`RetryPolicy::LEDGER`]. No command waits without a bound, and the password must
//! never reach an error.

use super::{
    BatchOutcome, Claim, Completion, JobRecord, JobState, Ledger, LedgerError, Progress,
    memory::{JobCounters, check_batch},
};
use crate::{
    batch::BatchNumber,
    job::JobId,
    retry::{RetryPolicy, retry},
    tls::{self, TlsFiles},
};
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ErrorKind, FromRedisValue, RedisError, RedisResult, Script,
    TlsCertificates,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    future::Future,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

/// For a connection and for each command; Redis answers in less than a millisecond or something is wrong.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts of one reconnect inside the client. Few: [`RetryPolicy::LEDGER`] is around it.
const RECONNECT_ATTEMPTS: usize = 1;

/// The longest pause before such an attempt.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// Jobs whose progress is asked for at a time.
const JOBS_IN_FLIGHT: usize = 16;

/// The index of all jobs.
const INDEX: &str = "trawl:jobs";

static OPEN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/open.lua")));
static PLANNED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/planned.lua")));
static COMPLETE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/complete.lua")));
static FINALIZED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/finalized.lua")));
static CLAIM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/claim.lua")));
static CLAIMS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/claims.lua")));
static CANCEL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/cancel.lua")));
static PROGRESS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/progress.lua")));

/// A connection to the ledger; clones share it.
#[derive(Clone)]
pub struct RedisLedger {
    client: Client,
    address: Arc<str>,
    connection: Arc<Mutex<Connection>>,
}

/// The connection in use, numbered so that of many who find it dead one replaces it.
struct Connection {
    generation: u64,
    link: ConnectionManager,
}

impl fmt::Debug for RedisLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisLedger({})", self.address)
    }
}

impl RedisLedger {
    /// Connects to `redis://`, `rediss://` (TLS) or `unix://` and asks for an answer, all within five seconds.
    ///
    /// # Errors
    /// `BadUrl`; `AccessRefused` for a wrong or missing password; `Unreachable` for everything that may
    /// get better.
    pub async fn connect(url: &str) -> Result<Self, LedgerError> {
        Self::connect_over(url, &TlsFiles::default()).await
    }

    /// The same with a private CA or a client certificate, which count for `rediss://` only.
    ///
    /// # Errors
    /// As [`RedisLedger::connect`].
    pub async fn connect_over(url: &str, files: &TlsFiles) -> Result<Self, LedgerError> {
        tls::install_crypto_provider();
        let plain = Client::open(url).map_err(|e| bad_url(&e))?;
        let client = match plain.get_connection_info().addr() {
            ConnectionAddr::TcpTls { .. } if !files.is_empty() => {
                Client::build_with_tls(url, certificates(files)).map_err(|e| bad_url(&e))?
            }
            _ => plain,
        };
        let address: Arc<str> = address(client.get_connection_info().addr()).into();
        let link = lazy_connection(&client).map_err(|e| failed(&address, &e))?;
        let connection = Arc::new(Mutex::new(Connection { generation: 0, link }));
        let ledger = Self { client, address, connection };
        let ping = |mut link: ConnectionManager| async move {
            redis::cmd("PING").query_async::<String>(&mut link).await
        };
        ledger.attempt(&ping).await?;
        Ok(ledger)
    }

    /// Runs `command` until it is answered, as far as [`RetryPolicy::LEDGER`] goes.
    async fn run<T, Command, Answer>(&self, command: Command) -> Result<T, LedgerError>
    where
        Command: Fn(ConnectionManager) -> Answer,
        Answer: Future<Output = RedisResult<T>>,
    {
        retry(RetryPolicy::LEDGER, LedgerError::is_transient, || self.attempt(&command)).await
    }

    async fn attempt<T, Command, Answer>(&self, command: &Command) -> Result<T, LedgerError>
    where
        Command: Fn(ConnectionManager) -> Answer,
        Answer: Future<Output = RedisResult<T>>,
    {
        let (generation, link) = {
            let connection = self.connection.lock().expect("no panic while the connection is held");
            (connection.generation, connection.link.clone())
        };
        match tokio::time::timeout(RESPONSE_TIMEOUT, command(link)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if error.is_timeout() {
                    self.replace(generation);
                }
                Err(failed(&self.address, &error))
            }
            Err(_) => {
                self.replace(generation);
                let reason = format!("no answer within {} s", RESPONSE_TIMEOUT.as_secs());
                Err(LedgerError::Unreachable { ledger: self.address.to_string(), reason })
            }
        }
    }

    /// Puts a new connection in the place of one that went silent. The client itself replaces only those that
    /// break, so after a network split it would wait for the kernel to give up, for many minutes.
    fn replace(&self, generation: u64) {
        let mut connection = self.connection.lock().expect("no panic while the connection is held");
        if connection.generation == generation {
            match lazy_connection(&self.client) {
                Ok(link) => *connection = Connection { generation: generation + 1, link },
                Err(error) => tracing::warn!(%error, ledger = %self.address, "cannot replace the connection"),
            }
        }
    }

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

    fn other(&self, reason: impl Into<String>) -> LedgerError {
        LedgerError::Other { ledger: self.address.to_string(), reason: reason.into() }
    }
}

fn lazy_connection(client: &Client) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(RESPONSE_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_number_of_retries(RECONNECT_ATTEMPTS)
        .set_max_delay(RECONNECT_PAUSE);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

/// Host and port, or the socket's path: all of a URL that may be shown.
fn address(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            format!("{host}:{port}")
        }
        ConnectionAddr::Unix(path) => format!("unix:{}", path.display()),
        _ => "an address of an unknown kind".into(),
    }
}

fn certificates(files: &TlsFiles) -> TlsCertificates {
    let identity = |(chain, key): (&[u8], &[u8])| ClientTlsConfig {
        client_cert: chain.to_vec(),
        client_key: key.to_vec(),
    };
    TlsCertificates { client_tls: files.identity().map(identity), root_cert: files.ca().map(<[u8]>::to_vec) }
}

/// Says what is wrong without repeating the URL, in which a password may stand anywhere.
fn bad_url(error: &RedisError) -> LedgerError {
    LedgerError::BadUrl(error.category().to_owned())
}

fn failed(address: &str, error: &RedisError) -> LedgerError {
    let (ledger, reason) = (address.to_owned(), tls::with_remedy(error.to_string()));
    let code = error.code().unwrap_or_default();
    let refused =
        error.kind() == ErrorKind::AuthenticationFailed || matches!(code, "WRONGPASS" | "NOAUTH" | "NOPERM");
    // States of a server that pass: starting, failing over, full, too many clients.
    let passing = [
        "LOADING",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "READONLY",
        "BUSY",
        "OOM",
        "MISCONF",
        "NOREPLICAS",
    ]
    .contains(&code)
        || reason.contains("max number of clients");
    if refused && !passing {
        LedgerError::AccessRefused { ledger, reason }
    } else if passing || error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
        LedgerError::Unreachable { ledger, reason }
    } else {
        LedgerError::Other { ledger, reason }
    }
}

/// The keys of one job; the braces keep them in one slot of a cluster.
struct Keys {
    meta: String,
    done: String,
    errors: String,
    rate: String,
    claims: String,
    claimers: String,
}

impl Keys {
    fn of(job: &JobId) -> Self {
        let key = |what: &str| format!("trawl:{{{job}}}:{what}");
        Self {
            meta: key("meta"),
            done: key("done"),
            errors: key("errors"),
            rate: key("rate"),
            claims: key("claims"),
            claimers: key("claimers"),
        }
    }
}

fn parse_state(text: &str) -> Option<JobState> {
    match text {
        "enqueuing" => Some(JobState::Enqueuing),
        "running" => Some(JobState::Running),
        "complete" => Some(JobState::Complete),
        "paused" => Some(JobState::Paused),
        "cancelled" => Some(JobState::Cancelled),
        _ => None,
    }
}

/// What `progress.lua` returns.
type Stored = (HashMap<String, String>, BTreeMap<String, u64>, BTreeMap<u64, u64>, u64);

/// The counters in their stored form; `None` if the job was never opened, else what is unreadable.
fn parse_counters(stored: Stored) -> Option<Result<(JobCounters, u64), String>> {
    let (mut meta, errors, buckets, now_ms) = stored;
    if !meta.contains_key("open") {
        return None;
    }
    let text = meta.remove("state").unwrap_or_default();
    let Some(state) = parse_state(&text) else { return Some(Err(format!("`{text}` is no state of a job"))) };
    let number = |field: &str| meta.get(field).and_then(|text| text.parse().ok()).unwrap_or(0_u64);
    let counters = JobCounters {
        state,
        created_unix_ms: number("created"),
        images_planned: number("images_planned"),
        batches_planned: number("batches_planned"),
        plan_complete: meta.contains_key("plan_complete"),
        batches_done: number("done"),
        images_ok: number("ok"),
        images_failed: number("failed"),
        // A code of a later version has no name here; the counters still hold its images.
        errors: errors.into_iter().filter_map(|(code, n)| Some((code.parse().ok()?, n))).collect(),
        first: meta.contains_key("first_ms").then(|| (number("first_ms"), number("first_images"))),
        last_ms: number("last_ms"),
        buckets,
        out: meta.get("out").cloned().unwrap_or_default(),
        queue: meta.get("queue").cloned().unwrap_or_default(),
    };
    Some(Ok((counters, now_ms)))
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
            add.arg(INDEX).arg("NX").arg(record.created_unix_ms).arg(record.job.as_str());
            query::<u64>(link, add)
        })
        .await?;
        Ok(())
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

    async fn complete(
        &self,
        job: &JobId,
        batch: BatchNumber,
        outcome: &BatchOutcome,
    ) -> Result<Option<Completion>, LedgerError> {
        check_batch(&self.address, batch)?;
        let keys = Keys::of(job);
        let (first, job_done) = self
            .run(|mut link| {
                let mut call = COMPLETE.key(&keys.meta);
                call.key(&keys.done).key(&keys.errors).key(&keys.rate).key(&keys.claims).key(&keys.claimers);
                call.arg(batch.0).arg(outcome.images_ok).arg(outcome.images_failed);
                for (code, n) in &outcome.errors {
                    call.arg(code.as_str()).arg(n);
                }
                async move { call.invoke_async::<(i64, bool)>(&mut link).await }
            })
            .await?;
        Ok((first >= 0).then_some(Completion { first: first == 1, job_done }))
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
            call.key(&keys.errors).key(&keys.claims).key(&keys.claimers);
            call.arg(batches).arg(totals.images_ok).arg(totals.images_failed);
            for (code, n) in &totals.errors {
                call.arg(code.as_str()).arg(n);
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

    async fn cancel(&self, job: &JobId) -> Result<bool, LedgerError> {
        let keys = Keys::of(job);
        self.run(|mut link| {
            let call = CANCEL.key(&keys.meta);
            async move { call.invoke_async(&mut link).await }
        })
        .await
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
        let text = state.unwrap_or_default();
        parse_state(&text).map(Some).ok_or_else(|| self.other(format!("`{text}` is no state of a job")))
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
    use super::*;

    #[tokio::test]
    async fn bad_urls_and_dead_ports_are_told_apart_and_no_password_is_shown() {
        for url in
            ["canary", "http://:canary@host", "redis://:canary@host:notaport", "redis://:canary@host/nodb"]
        {
            let error = RedisLedger::connect(url).await.unwrap_err();
            assert!(matches!(error, LedgerError::BadUrl(_)), "{url}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        }
        // Nothing listens on port 1.
        for url in [
            "redis://:canary@127.0.0.1:1",
            "rediss://u:canary@127.0.0.1:1/3",
            "unix:///nowhere/s?pass=canary",
        ] {
            let error = RedisLedger::connect(url).await.unwrap_err();
            assert!(error.is_transient(), "{url}: {error:?}");
            assert!(
                error.to_string().contains("127.0.0.1:1") || error.to_string().contains("unix:/nowhere/s"),
                "{error}"
            );
            assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_mute_server_is_given_up_in_time() {
        // The kernel takes the connection, nobody answers.
        let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let begin = tokio::time::Instant::now();
        let url = format!("redis://{}", mute.local_addr().unwrap());
        let error = RedisLedger::connect(&url).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        assert!(begin.elapsed() < RESPONSE_TIMEOUT * 2, "it took {:?}", begin.elapsed());
    }

    #[test]
    fn states_of_a_server_that_pass_are_transient() {
        let said = |code: &str, detail: &str| {
            failed("h:1", &redis::make_extension_error(code.to_owned(), Some(detail.to_owned())))
        };
        for code in ["MISCONF", "OOM", "BUSY"] {
            assert!(said(code, "later").is_transient(), "{code}");
        }
        for code in ["NOAUTH", "WRONGPASS"] {
            assert!(matches!(said(code, "who?"), LedgerError::AccessRefused { .. }), "{code}");
        }
        assert!(matches!(said("WRONGTYPE", "a list"), LedgerError::Other { .. }));
    }

    #[test]
    fn constants_of_the_scripts_are_those_of_the_ledger_in_memory() {
        let script = include_str!("scripts/complete.lua");
        assert!(
            script.contains(&format!("local BUCKET_SECONDS = {}\n", super::super::memory::BUCKET_MS / 1000))
        );
        assert!(script.contains(&format!("local BUCKETS_KEPT = {}\n", super::super::memory::BUCKETS_KEPT)));
    }
}
