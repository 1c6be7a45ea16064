//! The ledger against a real Redis: the contract, and what only a server can do to us.
//!
//! On a private server; the tests that kill, freeze or lock a server start one of their own.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use trawl_common::{
    batch::BatchNumber,
    contract,
    job::JobId,
    ledger::{BatchOutcome, JobRecord, Ledger, LedgerError, redis::RedisLedger},
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
