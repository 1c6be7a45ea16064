//! The ledger against a real Redis: the contract, and what only a server can do to us.
//!
//! On a private server; the tests that kill, freeze or lock a server start one of their own.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio_util::sync::CancellationToken;
use trawl_common::{
    batch::BatchNumber,
    broker::memory::MemoryBroker,
    contract,
    error_code::ErrorCode,
    fleet::{Fleet, WorkerReport, redis::RedisFleet},
    job::{JobId, JobSpec},
    ledger::{BatchOutcome, JobRecord, Ledger, LedgerError, redis::RedisLedger},
    location::Location,
    planning::{Enlisting, Ready, enlist, open_output, rebuild::rebuild},
    results::{
        Columns, OutputLayout, PartFooter, encode_part,
        row::{ClassScore, Outcome, Prediction, ResultRow},
    },
    storage::{Storage, Stores},
    tls::TlsFiles,
};
use trawl_tests::stack::shared_value;

fn env(name: &str) -> String {
    shared_value("redis", name)
}

/// A name that no other run has used.
fn own_name(what: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    format!("{what}-{}-{}", std::process::id(), now.as_millis())
}

/// A Redis that ends with the test.
struct OwnRedis {
    folder: tempfile::TempDir,
    port: u16,
    options: Vec<String>,
    server: Option<Child>,
}

impl OwnRedis {
    async fn start(options: &[&str]) -> Self {
        // The port is free again when the listener is dropped; nobody else asks for it meanwhile.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let options = options.iter().map(|&option| option.to_owned()).collect();
        let mut redis = Self { folder, port, options, server: None };
        redis.boot().await;
        redis
    }

    async fn boot(&mut self) {
        let server = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--dir"])
            .arg(self.folder.path())
            .args(["--port", &self.port.to_string()])
            .args(&self.options)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        self.server = Some(server);
        let deadline = Instant::now() + Duration::from_secs(20);
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(Instant::now() < deadline, "redis-server does not come up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.server.as_ref().expect("it runs").id()).unwrap();
        // SAFETY: `kill` takes numbers only, and the process is our child, not yet waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn open(ledger: &RedisLedger, job: &JobId) {
    let record =
        JobRecord { job: job.clone(), out: "/out".into(), queue: "default".into(), created_unix_ms: 1 };
    ledger.open(&record).await.expect("open");
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let ledger = RedisLedger::connect(&env("TRAWL_REDIS_URL")).await.expect("a connection");
    contract::ledger::suite(Arc::new(ledger), &own_name("contract")).await;
}

#[tokio::test]
async fn passwords_are_asked_for_and_never_repeated() {
    let redis = OwnRedis::start(&["--requirepass", "right"]).await;
    let host = format!("127.0.0.1:{}", redis.port);
    for credentials in ["", ":canary@", "user:canary@"] {
        let error =
            RedisLedger::connect(&format!("redis://{credentials}{host}")).await.expect_err("no access");
        assert!(matches!(error, LedgerError::AccessRefused { .. }), "{credentials}: {error:?}");
        assert!(error.to_string().contains(&host), "{error}");
        assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
    }
    RedisLedger::connect(&format!("redis://:right@{host}")).await.expect("the right password opens");
}

#[tokio::test]
async fn a_lost_connection_is_bridged_and_scripts_are_loaded_again() {
    let mut redis = OwnRedis::start(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let ledger = RedisLedger::connect(&redis.url()).await.expect("a connection");
    let job: JobId = "bridge".parse().unwrap();
    open(&ledger, &job).await;
    let one = BatchOutcome { images_ok: 1, ..BatchOutcome::default() };
    assert!(ledger.complete(&job, BatchNumber(0), &one).await.expect("complete").expect("known").first);
    // The new server has the data and none of the scripts.
    redis.kill();
    redis.boot().await;
    assert!(!ledger.complete(&job, BatchNumber(0), &one).await.expect("complete").expect("known").first);
    assert!(ledger.complete(&job, BatchNumber(1), &one).await.expect("complete").expect("known").first);
    assert_eq!(ledger.progress(&job).await.expect("progress").expect("known").images_ok, 2);
}

#[tokio::test]
async fn an_outage_is_transient_soon_and_over_when_it_is_over() {
    let mut redis = OwnRedis::start(&[]).await;
    let ledger = RedisLedger::connect(&redis.url()).await.expect("a connection");
    let job: JobId = "outage".parse().unwrap();
    redis.kill();
    let begin = Instant::now();
    let error = ledger.state(&job).await.expect_err("nobody is there");
    assert!(error.is_transient(), "{error:?}");
    assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
    redis.boot().await;
    assert_eq!(ledger.state(&job).await.expect("it is back, and empty"), None);
}

#[tokio::test]
async fn a_frozen_server_costs_one_time_out_and_its_connection() {
    let redis = OwnRedis::start(&[]).await;
    let ledger = RedisLedger::connect(&redis.url()).await.expect("a connection");
    let job: JobId = "frozen".parse().unwrap();
    open(&ledger, &job).await;
    redis.signal(libc::SIGSTOP);
    let begin = Instant::now();
    let error = ledger.state(&job).await.expect_err("it cannot answer");
    assert!(error.is_transient(), "{error:?}");
    assert!(begin.elapsed() < Duration::from_secs(12), "it took {:?}", begin.elapsed());
    redis.signal(libc::SIGCONT);
    assert!(ledger.state(&job).await.expect("it answers again").is_some());
}

/// The socket of a server that speaks TLS with a certificate nobody trusts: the handshake must be tried with
/// rustls and fail by its verdict, not for want of a crypto provider.
#[tokio::test]
async fn tls_has_a_provider() {
    let folder = tempfile::tempdir().unwrap();
    let (key, cert): (PathBuf, PathBuf) = (folder.path().join("k.pem"), folder.path().join("c.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .stderr(Stdio::null())
        .status()
        .expect("openssl is installed");
    assert!(made.success());
    let tls_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (key, cert) = (key.to_str().unwrap(), cert.to_str().unwrap());
    let port = tls_port.to_string();
    let options =
        ["--tls-port", &port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-auth-clients", "no"];
    let _redis = OwnRedis::start(&options).await;
    let url = format!("rediss://127.0.0.1:{tls_port}");
    let error = RedisLedger::connect(&url).await.expect_err("nobody trusts the certificate");
    assert!(error.to_string().contains("certificate"), "{error}");
}

/// A job of five batches in memory, each with a row that failed.
struct Job {
    stores: Arc<Stores>,
    store: Arc<dyn Storage>,
    layout: OutputLayout,
    spec: JobSpec,
}

const BATCHES: u64 = 5;
const BATCH_IMAGES: u64 = 4;

impl Job {
    async fn planned(name: &str) -> Self {
        let json = serde_json::json!({
            "version": 1, "job": name, "queue": "default", "sources": ["s3://in/"], "base_dir": "/", "include": [],
            "exclude": [], "limit": null, "batch_size": BATCH_IMAGES, "out": "s3://out/labels",
            "model": {"location": "s3://models/m.pt", "sha256": "ab".repeat(32)}, "topk": 1, "decode": "exact",
            "truncated": "reject", "orient": "none", "precision": "fp32", "created_unix_ms": 1,
        });
        let spec = JobSpec::parse(json.to_string().as_bytes()).unwrap();
        let stores = Stores::in_memory();
        let at = |place: &str| Location::parse(place, Path::new("/")).unwrap();
        let input = stores.open(&at("s3://in")).await;
        for n in 0..BATCHES * BATCH_IMAGES {
            input.put(&format!("{n:04}.jpg"), "x".into()).await.unwrap();
        }
        let store = stores.open(&at("s3://out")).await;
        let layout = OutputLayout::new(at(&spec.out));
        Self { stores, store, layout, spec }
    }

    /// Plans it and tells the ledger.
    async fn enlist(&self, ledger: &RedisLedger) {
        let (_, spec) = open_output(&self.spec, &self.stores).await.unwrap();
        let broker = MemoryBroker::new();
        let ctx = Enlisting {
            spec: &spec,
            stores: &self.stores,
            broker: &broker,
            ledger,
            window: 8,
            ready: Ready::All,
        };
        enlist(ctx, &mut |_| {}, &CancellationToken::new()).await.unwrap();
    }

    /// Writes the part of a batch, as a worker does before it counts it.
    async fn put_part(&self, batch: u64) -> BatchOutcome {
        let row = |n: u64| ResultRow {
            key: format!("s3://in/{:04}.jpg", batch * BATCH_IMAGES + n),
            etag: None,
            size: 1,
            width: None,
            height: None,
            outcome: match n {
                0 => Outcome::Failed { code: ErrorCode::Corrupt, message: "x".into() },
                _ => {
                    let class = ClassScore { index: 1, label: None, probability: 0.5 };
                    Outcome::Ok(Prediction::Classes(vec![class]))
                }
            },
            carried: Vec::new(),
        };
        let rows: Vec<_> = (0..BATCH_IMAGES).map(row).collect();
        let footer = PartFooter::new(&self.spec, BatchNumber(batch), "a", "w").counted(&rows);
        let part = encode_part(&rows, &Columns::classes(), &footer).unwrap();
        self.store.put(&self.layout.part(BatchNumber(batch)), part).await.unwrap();
        footer.outcome()
    }

    async fn rebuild(&self, ledger: &RedisLedger) {
        rebuild(&self.spec, &self.layout, &self.store, ledger).await.expect("a rebuild");
    }

    /// The counters are those of `done` batches, to the last row.
    async fn assert_counts(&self, ledger: &RedisLedger, done: u64, what: &str) {
        let found = ledger.progress(&self.spec.job).await.unwrap().expect("known");
        let counts = (found.batches_done, found.images_ok, found.images_failed, found.batches_planned);
        assert_eq!(counts, (done, done * (BATCH_IMAGES - 1), done, BATCHES), "{what}");
        assert_eq!(found.errors, [(ErrorCode::Corrupt, done)].into(), "{what}");
    }
}

impl OwnRedis {
    /// A command through another client.
    fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(arguments).output();
        let output = output.expect("redis-cli is installed");
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

/// Whatever is lost of a job in its middle: the next completion says so, and a rebuild counts it to the row.
#[tokio::test]
async fn what_was_wiped_or_evicted_is_rebuilt_exactly() {
    let redis = OwnRedis::start(&[]).await;
    let ledger = RedisLedger::connect(&redis.url()).await.expect("a connection");
    for (n, losses) in [
        &["FLUSHALL"][..],
        &["DEL", "done"],
        &["DEL", "errors"],
        &["DEL", "meta"],
        &["DEL", "meta", "errors"],
        &["DEL", "done", "errors", "rate"],
    ]
    .into_iter()
    .enumerate()
    {
        let job = Job::planned(&format!("lost-{n}")).await;
        job.enlist(&ledger).await;
        let id = &job.spec.job;
        for batch in 0..3 {
            let outcome = job.put_part(batch).await;
            ledger.complete(id, BatchNumber(batch), &outcome).await.unwrap().expect("known");
        }
        // A script that Redis has forgotten as well must not count for a lost job.
        redis.cli(&["SCRIPT", "FLUSH"]);
        job.assert_counts(&ledger, 3, "before").await;
        let keys = losses.iter().map(|&word| match word {
            "FLUSHALL" | "DEL" => word.to_owned(),
            key => format!("trawl:{{{id}}}:{key}"),
        });
        let words: Vec<String> = keys.collect();
        redis.cli(&words.iter().map(String::as_str).collect::<Vec<_>>());

        let what = format!("{losses:?}");
        let outcome = job.put_part(3).await;
        let answer = ledger.complete(id, BatchNumber(3), &outcome).await.unwrap();
        assert_eq!(answer, None, "{what}: a completion that counts on nothing");
        job.rebuild(&ledger).await;
        job.assert_counts(&ledger, 4, &what).await;
        // Again is harmless, and so is the completion that asked for it.
        job.rebuild(&ledger).await;
        let again = ledger.complete(id, BatchNumber(3), &outcome).await.unwrap().expect("known");
        assert!(!again.first && !again.job_done, "{what}");
        job.assert_counts(&ledger, 4, &what).await;
        let outcome = job.put_part(4).await;
        let last = ledger.complete(id, BatchNumber(4), &outcome).await.unwrap().expect("known");
        assert!(last.first && last.job_done, "{what}");
        job.assert_counts(&ledger, 5, &what).await;
    }
}

/// Fills the server with other people's data until it refuses or evicts.
fn fill(redis: &OwnRedis, megabytes: u32) {
    let program = format!(
        "for i = 1, {megabytes} * 16 do redis.call('SET', 'other:' .. i, string.rep('x', 65536)) end return 1"
    );
    // What is refused is refused: the server is full then, which is what was wanted.
    redis.cli(&["EVAL", &program, "0"]);
}

#[tokio::test]
async fn a_server_that_evicts_is_named_and_what_it_took_is_rebuilt() {
    let redis = OwnRedis::start(&["--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru"]).await;
    let ledger = RedisLedger::connect(&redis.url()).await.expect("a connection");
    let policy = ledger.eviction_policy().await.unwrap();
    assert!(policy.evicts_ours() && policy.remedy().contains("noeviction"), "{policy:?}");
    let job = Job::planned("evicted").await;
    job.enlist(&ledger).await;
    let outcome = job.put_part(0).await;
    ledger.complete(&job.spec.job, BatchNumber(0), &outcome).await.unwrap().expect("known");
    for _ in 0..50 {
        fill(&redis, 8);
        if redis.cli(&["KEYS", "trawl:*"]).is_empty() {
            break;
        }
    }
    assert_eq!(redis.cli(&["KEYS", "trawl:*"]), "", "nothing was evicted: this proves nothing");
    redis.cli(&["FLUSHALL"]);
    let outcome = job.put_part(1).await;
    assert_eq!(ledger.complete(&job.spec.job, BatchNumber(1), &outcome).await.unwrap(), None);
    job.rebuild(&ledger).await;
    job.assert_counts(&ledger, 2, "evicted").await;
}

#[tokio::test]
async fn a_full_server_is_transient_and_takes_no_half_of_a_completion() {
    let redis = OwnRedis::start(&["--maxmemory", "4mb", "--maxmemory-policy", "noeviction"]).await;
    let ledger = RedisLedger::connect(&redis.url()).await.expect("a connection");
    assert!(!ledger.eviction_policy().await.unwrap().evicts_ours());
    let job = Job::planned("full").await;
    job.enlist(&ledger).await;
    let outcome = job.put_part(0).await;
    ledger.complete(&job.spec.job, BatchNumber(0), &outcome).await.unwrap().expect("known");
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let outcome = job.put_part(1).await;
    let error = ledger.complete(&job.spec.job, BatchNumber(1), &outcome).await.expect_err("no room");
    assert!(error.is_transient() && error.to_string().contains("OOM"), "{error:?}");
    job.assert_counts(&ledger, 1, "full").await;
    assert!(!ledger.is_done(&job.spec.job, BatchNumber(1)).await.unwrap(), "half of it was taken");
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert!(ledger.complete(&job.spec.job, BatchNumber(1), &outcome).await.unwrap().expect("known").first);
    job.assert_counts(&ledger, 2, "room again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fleet_keeps_its_contract_and_leaves_no_keys() {
    let redis = OwnRedis::start(&[]).await;
    let ledger = RedisLedger::connect(&redis.url()).await.expect("a connection");
    let soon = Duration::from_millis(1500);
    let fleet = RedisFleet::beside(&ledger).forgetting_after(soon);
    contract::fleet::suite(Arc::new(fleet.clone()), &own_name("fleet"), soon).await;
    // A worker that was killed is in no list and in no key once it is forgotten.
    let killed = WorkerReport { worker: "killed".into(), ..WorkerReport::default() };
    fleet.report(&killed).await.expect("a report");
    let client = redis::Client::open(redis.url()).expect("a URL");
    let mut link = client.get_multiplexed_async_connection().await.expect("a connection");
    let keys = async |link: &mut redis::aio::MultiplexedConnection| -> u64 {
        redis::cmd("DBSIZE").query_async(link).await.expect("an answer")
    };
    assert!(
        keys(&mut link).await >= 2,
        "the worker and the index, and perhaps one that is over and not yet removed"
    );
    let deadline = Instant::now() + Duration::from_secs(20);
    while keys(&mut link).await > 0 {
        assert!(fleet.workers(9).await.expect("a listing").len() <= 1);
        assert!(Instant::now() < deadline, "its keys stay");
        tokio::time::sleep(soon / 10).await;
    }
    // What somebody else wrote there is passed over.
    let _: () = redis::cmd("ZADD")
        .arg("trawl:{fleet}:index")
        .arg(9e15)
        .arg("alien")
        .query_async(&mut link)
        .await
        .unwrap();
    for value in ["no JSON", "{\"worker\": \"another\"}"] {
        let _: () = redis::cmd("SET")
            .arg("trawl:{fleet}:worker:alien")
            .arg(value)
            .query_async(&mut link)
            .await
            .unwrap();
        assert!(fleet.workers(9).await.expect("a listing").is_empty());
    }
}

#[tokio::test]
async fn a_lazy_connection_asks_nothing_and_finds_the_server_later() {
    let mut redis = OwnRedis::start(&[]).await;
    redis.kill();
    let ledger = RedisLedger::lazily(&redis.url(), &TlsFiles::default()).expect("a URL is enough");
    let fleet = RedisFleet::beside(&ledger);
    assert!(fleet.workers(9).await.expect_err("nobody is there").is_transient());
    redis.boot().await;
    assert!(fleet.workers(9).await.expect("somebody is there").is_empty());
    assert!(matches!(RedisLedger::lazily("nonsense", &TlsFiles::default()), Err(LedgerError::BadUrl(_))));
}

/// Milliseconds that each key of a job is still kept, -1 for good; none if it is not there.
async fn kept(redis: &OwnRedis, job: &JobId) -> Vec<i64> {
    let client = redis::Client::open(redis.url()).expect("a URL");
    let mut link = client.get_multiplexed_async_connection().await.expect("a connection");
    let mut kept = Vec::new();
    for what in ["meta", "done", "errors", "rate", "claims", "claimers"] {
        let key = format!("trawl:{{{job}}}:{what}");
        let left: i64 = redis::cmd("PTTL").arg(key).query_async(&mut link).await.expect("an answer");
        if left != -2 {
            kept.push(left);
        }
    }
    kept
}

#[tokio::test]
async fn a_job_that_has_ended_is_forgotten_in_the_end_and_one_at_work_is_not() {
    let redis = OwnRedis::start(&[]).await;
    let ledger = RedisLedger::connect(&redis.url()).await.expect("a connection");
    let outcome = BatchOutcome {
        images_ok: 1,
        images_failed: 1,
        errors: [(ErrorCode::Empty, 1)].into(),
        ..Default::default()
    };
    let (finished, given_up): (JobId, JobId) = ("finished".parse().unwrap(), "given-up".parse().unwrap());
    for job in [&finished, &given_up] {
        open(&ledger, job).await;
        ledger.claim(job, BatchNumber(1), "w").await.expect("claim");
        ledger.complete(job, BatchNumber(0), &outcome).await.expect("complete");
        assert_eq!(kept(&redis, job).await, [-1; 6], "at work");
    }
    let ends = |left: &i64| *left > 29 * 24 * 3600 * 1000 && *left <= 30 * 24 * 3600 * 1000;
    let record = |job: &JobId, created_unix_ms| JobRecord {
        job: job.clone(),
        out: "/out".into(),
        queue: "default".into(),
        created_unix_ms,
    };
    ledger.finalized(&record(&finished, 1), 2, &outcome).await.expect("finalized");
    let left = kept(&redis, &finished).await;
    assert!(left.len() == 4 && left.iter().all(ends), "{left:?}");

    assert!(ledger.cancel(&given_up).await.expect("cancel"));
    // What was in hand then, with the last of the claims, ends too.
    ledger.complete(&given_up, BatchNumber(1), &outcome).await.expect("complete");
    let left = kept(&redis, &given_up).await;
    assert!(left.len() == 4 && left.iter().all(ends), "{left:?}");
    open(&ledger, &given_up).await;
    assert_eq!(kept(&redis, &given_up).await, [-1; 4], "taken back to work");

    // The index goes with them, as others are opened.
    ledger.forget(&finished).await.expect("forget");
    ledger.open(&record(&"later".parse().unwrap(), 31 * 24 * 3600 * 1000)).await.expect("open");
    let client = redis::Client::open(redis.url()).expect("a URL");
    let mut link = client.get_multiplexed_async_connection().await.expect("a connection");
    let names: Vec<String> =
        redis::cmd("ZRANGE").arg("trawl:jobs").arg(0).arg(-1).query_async(&mut link).await.unwrap();
    assert_eq!(names, ["given-up", "later"]);
}
