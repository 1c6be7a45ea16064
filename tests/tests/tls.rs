//! TLS to RabbitMQ and Redis with a private CA and client certificates, and no plain connection by accident.
//!
//! Real servers that ask for client certificates, and the real binaries on them. The CA is made with the
//! `openssl` command for each run.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};
use trawl_common::{
    broker::{BrokerError, rabbit::RabbitBroker, topology::RetryPolicy},
    ledger::{LedgerError, redis::RedisLedger},
    tls::TlsFiles,
};
use trawl_tests::{
    programs::{Ended, Running, program, run},
    stack::Stack,
};

/// A server and a CA beside it that nobody knows.
struct Rig {
    dir: tempfile::TempDir,
    stack: Stack,
}

fn rig() -> &'static Rig {
    static RIG: OnceLock<Rig> = OnceLock::new();
    RIG.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a folder");
        for ca in ["ca", "other"] {
            authority(dir.path(), ca);
            for name in ["server", "client"] {
                let name = if ca == "ca" { name.to_owned() } else { format!("{ca}-{name}") };
                certificate(dir.path(), ca, &name);
            }
        }
        let stack = Stack::start_tls("rabbitmq,redis", dir.path());
        Rig { dir, stack }
    })
}

impl Rig {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn files(&self, ca: Option<&str>, client: Option<&str>) -> TlsFiles {
        let file = |name: Option<&str>, end: &str| name.map(|name| self.path(&format!("{name}.{end}")));
        let (ca, cert, key) = (file(ca, "pem"), file(client, "pem"), file(client, "key"));
        TlsFiles::read(ca.as_deref(), cert.as_deref(), key.as_deref()).await.expect("good files")
    }

    fn amqps(&self) -> &str {
        self.stack.get("STACK_AMQPS_URL")
    }

    fn rediss(&self) -> &str {
        self.stack.get("STACK_REDISS_URL")
    }

    /// `trawl doctor` on the TLS ports.
    fn doctor(&self, flags: &[&str]) -> Ended {
        let flags = flags.iter().map(|flag| flag.replace("DIR", self.dir.path().to_str().expect("a folder")));
        run(program("trawl")
            .env("TRAWL_AMQP_URL", self.amqps())
            .env("TRAWL_REDIS_URL", self.rediss())
            .arg("doctor")
            .args(flags))
    }
}

fn openssl(dir: &Path, arguments: &[&str]) {
    let made = Command::new("openssl").current_dir(dir).args(arguments).stderr(Stdio::null()).status();
    assert!(made.expect("openssl is installed: see `make setup`").success(), "openssl {arguments:?}");
}

fn authority(dir: &Path, name: &str) {
    let (key, cert, subject) =
        (format!("{name}.key"), format!("{name}.pem"), format!("/CN=trawl test {name}"));
    openssl(
        dir,
        &[
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", &subject, "-keyout",
            &key, "-out", &cert,
        ],
    );
}

/// A certificate for this machine, as server and as client.
fn certificate(dir: &Path, ca: &str, name: &str) {
    let (key, request, cert) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"));
    let (ca_key, ca_cert) = (format!("{ca}.key"), format!("{ca}.pem"));
    std::fs::write(
        dir.join("extensions"),
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
    )
    .expect("a file");
    openssl(
        dir,
        &[
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=localhost",
            "-keyout",
            &key,
            "-out",
            &request,
        ],
    );
    openssl(
        dir,
        &[
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            &ca_cert,
            "-CAkey",
            &ca_key,
            "-CAcreateserial",
            "-days",
            "1",
            "-extfile",
            "extensions",
            "-out",
            &cert,
        ],
    );
}

async fn broker(rig: &Rig, files: TlsFiles) -> Result<RabbitBroker, BrokerError> {
    RabbitBroker::connect_over(rig.amqps(), RetryPolicy::default(), files).await
}

async fn ledger(rig: &Rig, files: TlsFiles) -> Result<RedisLedger, LedgerError> {
    RedisLedger::connect_over(rig.rediss(), &files).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_ca_and_a_client_certificate_connect() {
    let rig = rig();
    let files = rig.files(Some("ca"), Some("client")).await;
    broker(rig, files.clone()).await.expect("RabbitMQ over TLS");
    ledger(rig, files).await.expect("Redis over TLS");
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_we_do_not_trust_is_refused_and_the_remedy_named() {
    let rig = rig();
    for (ca, client, remedy) in [
        // The system trusts nobody's private CA; nor does a CA vouch for another's.
        (None, Some("client"), "--tls-ca"),
        (Some("other"), Some("client"), "--tls-ca"),
        (Some("ca"), None, "--tls-cert"),
        (Some("ca"), Some("other-client"), "--tls-cert"),
    ] {
        let files = rig.files(ca, client).await;
        let refused = broker(rig, files.clone()).await.err().expect("no trust");
        // A server that refuses a client's certificate says so and resets the connection at once (TLS 1.3): the reset
        // may overtake the words.
        let overtaken = remedy == "--tls-cert" && refused.to_string().contains("reset by peer");
        assert!(overtaken || refused.to_string().contains(remedy), "{ca:?} {client:?}: {refused}");
        let refused = ledger(rig, files).await.expect_err("no trust");
        assert!(refused.to_string().contains(remedy), "{ca:?} {client:?}: {refused}");
        for secret in [rig.amqps(), rig.rediss()].map(password) {
            assert!(!format!("{refused} {refused:?}").contains(secret), "{refused:?}");
        }
    }
}

fn password(url: &str) -> &str {
    let login = url.split('@').next().unwrap_or_default();
    login.rsplit(':').next().expect("a password")
}

#[test]
fn the_programs_take_the_files() {
    let rig = rig();
    let flags = ["--tls-ca", "DIR/ca.pem", "--tls-cert", "DIR/client.pem", "--tls-key", "DIR/client.key"];
    let ended = rig.doctor(&flags).expect(0);
    // The broker's line and the ledger's.
    assert!(
        ["connected in", "answered in"].iter().all(|words| ended.stdout.contains(words)),
        "{}",
        ended.stdout
    );
    let ended = rig.doctor(&["--tls-ca", "DIR/other.pem"]);
    assert_ne!(ended.code(), 0);
    assert!(ended.stdout.contains("UnknownIssuer"), "{}", ended.stdout);
    for (flags, words) in [
        (&["--tls-ca", "DIR/nothing.pem"][..], "nothing.pem"),
        (&["--tls-ca", "DIR/ca.key"], "no certificate"),
        (&["--tls-cert", "DIR/client.pem"], "go together"),
        (&["--tls-cert", "DIR/client.pem", "--tls-key", "DIR/server.key"], "does not fit"),
    ] {
        let ended = rig.doctor(flags);
        assert!(ended.stdout.contains(words), "{flags:?}: {}", ended.stdout);
    }
    // The worker by its environment, and the URLs from files.
    let url = |name: &str, url: &str| {
        std::fs::write(rig.path(name), format!("{url}\n")).expect("a file");
        rig.path(name)
    };
    let mut worker = program("trawl-worker");
    worker
        .env("TRAWL_AMQP_URL_FILE", url("amqp.url", rig.amqps()))
        .env("TRAWL_REDIS_URL_FILE", url("redis.url", rig.rediss()))
        .env("TRAWL_TLS_CA", rig.path("ca.pem"))
        .env("TRAWL_TLS_CERT", rig.path("client.pem"))
        .env("TRAWL_TLS_KEY", rig.path("client.key"));
    let mut worker = Running::start(&mut worker, rig.dir.path());
    worker.wait_for_log("worker ready", Duration::from_secs(60));
    worker.signal(libc::SIGTERM);
    assert!(worker.wait(Duration::from_secs(30)).success());
}

#[test]
fn a_plain_connection_to_another_machine_needs_a_word() {
    // Names that exist nowhere: whoever tried to resolve them says so.
    let (amqp, redis) = ("amqp://u:canary@broker.invalid:5672", "redis://:canary@redis.invalid:6379");
    let with = |name: &str, insecure: Option<&str>, arguments: &[&str]| {
        let mut command = program(name);
        command.env("TRAWL_AMQP_URL", amqp).env("TRAWL_REDIS_URL", redis).args(arguments);
        if let Some(value) = insecure {
            command.env("TRAWL_INSECURE", value);
        }
        let ended = run(&mut command);
        assert!(!ended.stderr.contains("canary") && !ended.stdout.contains("canary"), "{ended:?}");
        ended
    };
    for (name, arguments, host) in
        [("trawl", &["status"][..], "redis.invalid"), ("trawl-worker", &["serve"], "broker.invalid")]
    {
        for insecure in [None, Some("0"), Some("false")] {
            let ended = with(name, insecure, arguments).expect(2);
            let told = ended.stderr.contains(host) && ended.stderr.contains("--insecure");
            assert!(told, "{name}: {}", ended.stderr);
        }
        for insecure in [Some("1"), Some("true")] {
            let ended = with(name, insecure, arguments).expect(5);
            assert!(!ended.stderr.contains("--insecure"), "{name}: {}", ended.stderr);
        }
        let _ended = with(name, None, &[arguments, &["--insecure"]].concat()).expect(5);
    }
    let ended = with("trawl", None, &["doctor"]);
    assert!(ended.stdout.contains("broker.invalid") && ended.stdout.contains("redis.invalid"), "{ended:?}");
}
