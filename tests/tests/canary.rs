//! No secret leaves: the passwords of the real servers are searched for in everything that trawl writes.
//!
//! The stack's own random passwords are the canaries, and others stand in wrong URLs. What is searched: every
//! output and log of the programs at their most talkative, the HTTP endpoints, the dead letters with their
//! headers, all of Redis, and every object of the output, unpacked.

use parquet::file::reader::{FileReader, SerializedFileReader};
use redis::{Commands, ConnectionLike};
use std::{fmt::Write as _, path::Path, process::Command, time::Duration};
use tempfile::TempDir;
use trawl_tests::{
    bucket::Bucket,
    programs::{Running, run, tiny_model, with_stack},
    stack::{Stack, shared},
    unique, wait,
};

/// Long enough for a debug build on two busy cores.
const PATIENCE: Duration = Duration::from_secs(120);

/// Stands in wrong settings: as user information, as a query and as a key. The second is as a URL has it.
const PLANTED: &[&str] =
    &["canary-3f9a", "canary%2D7b1c", "canary-7b1c", "canary-query-55d0", "canary-s3-91be"];

/// All that was written, and what must not be in it.
struct Search {
    secrets: Vec<String>,
    looked_at: usize,
}

impl Search {
    fn of(stack: &Stack) -> Self {
        let mut secrets: Vec<String> = PLANTED.iter().map(|&planted| planted.to_owned()).collect();
        for url in ["TRAWL_AMQP_URL", "TRAWL_REDIS_URL"] {
            let login = stack.get(url).split('@').next().expect("a login");
            secrets.push(login.rsplit(':').next().expect("a password").to_owned());
        }
        secrets.push(stack.get("AWS_SECRET_ACCESS_KEY").to_owned());
        assert!(secrets.iter().all(|secret| secret.len() >= 11), "too short to be looked for");
        Self { secrets, looked_at: 0 }
    }

    /// Where a secret begins.
    fn find(&self, bytes: &[u8]) -> Option<usize> {
        let place = |secret: &String| bytes.windows(secret.len()).position(|part| part == secret.as_bytes());
        self.secrets.iter().find_map(place)
    }

    fn look(&mut self, what: &str, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.looked_at += bytes.len();
        if let Some(at) = self.find(bytes) {
            let around = &bytes[at.saturating_sub(300)..bytes.len().min(at + 100)];
            panic!("a secret is in {what}: ...{}...", String::from_utf8_lossy(around));
        }
    }
}

/// A lane, a prefix and a folder of its own on the shared servers.
struct Scene {
    stack: &'static Stack,
    bucket: Bucket,
    name: String,
    dir: TempDir,
}

impl Scene {
    fn new() -> Self {
        let stack = shared();
        Self {
            stack,
            bucket: Bucket::of(stack),
            name: unique("canary"),
            dir: tempfile::tempdir().expect("a folder"),
        }
    }

    fn out(&self) -> String {
        format!("s3://trawl/{}/out", self.name)
    }

    /// A program with all of its logs, also those of the client libraries.
    fn program(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = with_stack(name, self.stack);
        command.current_dir(self.dir.path()).env("TRAWL_LOG", "trace").args(arguments);
        command
    }

    fn submit(&self) -> Command {
        let source = format!("s3://trawl/{}/in/", self.name);
        let out = self.out();
        let mut command = self.program(
            "trawl",
            &["submit", &source, "--out", &out, "--queue", &self.name, "--batch-size", "3"],
        );
        command.arg("--model").arg(tiny_model());
        command
    }

    fn worker(&self) -> Command {
        let mut command = self.program("trawl-worker", &["-vvv", "--queue", &self.name, "--threads", "1"]);
        command.args(["--http", "127.0.0.1:0", "--cache"]).arg(self.dir.path().join("cache"));
        command
    }

    /// Asks RabbitMQ's management.
    fn management(&self, method: &str, path: &str, body: &str) -> String {
        let program = "import sys,base64,urllib.request as r,urllib.parse as p\n\
            u=p.urlsplit(sys.argv[1])\n\
            q=r.Request(f'http://{u.hostname}:{u.port}/api/'+sys.argv[3],sys.argv[4].encode(),method=sys.argv[2])\n\
            q.add_header('Authorization','Basic '+base64.b64encode(f'{u.username}:{u.password}'.encode()).decode())\n\
            q.add_header('Content-Type','application/json')\n\
            print(r.build_opener(r.ProxyHandler({})).open(q).read().decode())";
        let url = self.stack.get("RABBITMQ_MANAGEMENT_URL");
        run(Command::new("python3").args(["-c", program, url, method, path, body])).expect(0).stdout
    }

    /// What the dead letters hold, with headers; they stay there.
    fn dead_letters(&self) -> String {
        let body = r#"{"count":1000,"ackmode":"ack_requeue_true","encoding":"auto"}"#;
        self.management("POST", "queues/%2f/trawl.dead/get", body)
    }
}

/// Every key and value, whatever its type.
fn everything_in_redis(url: &str) -> String {
    let client = redis::Client::open(url).expect("a URL");
    let mut connection = client.get_connection().expect("a connection");
    assert!(connection.is_open());
    let mut text = String::new();
    for key in connection.keys::<_, Vec<String>>("*").expect("the keys") {
        let kind: String = redis::cmd("TYPE").arg(&key).query(&mut connection).expect("its type");
        let value: redis::Value = match kind.as_str() {
            "hash" => connection.hgetall(&key),
            "zset" => connection.zrange_withscores(&key, 0, -1),
            "string" => connection.get(&key),
            other => panic!("`{key}` is a {other}: look into those too"),
        }
        .expect("a value");
        let _ = writeln!(text, "{key} {value:?}");
    }
    text
}

/// The rows of a Parquet file as text.
fn unpacked(bytes: bytes::Bytes) -> String {
    let file = SerializedFileReader::new(bytes).expect("Parquet");
    let rows = file.get_row_iter(None).expect("rows");
    let mut text = format!("{:?}", file.metadata().file_metadata().key_value_metadata());
    for row in rows {
        let _ = writeln!(text, "{}", row.expect("a row"));
    }
    text
}

/// The good days: a job with error rows, junk on the queue, every command.
fn a_job(scene: &Scene, search: &mut Search) {
    let prefix = format!("{}/in/", scene.name);
    scene.bucket.upload_images(&prefix, 7);
    let broken = ["broken.png", "page.jpg"].map(|name| (format!("{prefix}{name}"), b"<html>403".to_vec()));
    scene.bucket.upload(broken);
    let mut worker = Running::start(&mut scene.worker(), scene.dir.path());
    worker.wait_for_log("worker ready", PATIENCE);
    let junk = format!(
        r#"{{"properties":{{}},"routing_key":"trawl.{}","payload":"junk","payload_encoding":"string"}}"#,
        scene.name
    );
    scene.management("POST", "exchanges/%2f/amq.default/publish", &junk);
    let submitted = run(&mut scene.submit()).expect(0);
    let job = submitted.stdout.trim().to_owned();
    search.look("submit", submitted.stdout + &submitted.stderr);
    let out = scene.out();
    wait::until("the job's completion", PATIENCE, || {
        let ended = run(&mut scene.program("trawl", &["status", &job, "--output", "json"])).expect(0);
        let complete = ended.json()["state"] == "complete";
        search.look("status", ended.stdout + &ended.stderr);
        complete.then_some(())
    });
    wait::until("the junk in the dead letters", PATIENCE, || {
        scene.dead_letters().contains("junk").then_some(())
    });
    let store = format!("s3://trawl/{}", scene.name);
    for arguments in [
        &["status", &out][..],
        &["jobs"],
        &["results", &out],
        &["failures", &out],
        &["doctor", "--store", &store, "--queue", &scene.name],
        &["cancel", &job],
        &["doctor", "--help"],
    ] {
        let ended = run(&mut scene.program("trawl", arguments));
        assert!(!ended.stdout.is_empty() || !ended.stderr.is_empty(), "{arguments:?} says nothing");
        search.look(&format!("{arguments:?}"), ended.stdout + &ended.stderr);
    }
    for path in ["/metrics", "/livez", "/readyz", "/startupz"] {
        search.look(path, worker.http(path));
    }
    worker.signal(libc::SIGTERM);
    let _status = worker.wait(PATIENCE);
    search.look("the worker's log", worker.log());
}

/// The bad days: refused, unreachable, misspelt.
fn wrong_settings(scene: &Scene, search: &mut Search) {
    let amqp = scene.stack.get("TRAWL_AMQP_URL");
    let host = |url: &str| url.rsplit('@').next().expect("a host").to_owned();
    let (amqp_host, redis_host) = (host(amqp), host(scene.stack.get("TRAWL_REDIS_URL")));
    // The true password on a port where nobody listens.
    let nobody = |url: &str| format!("{}@127.0.0.1:1", url.split('@').next().expect("a login"));
    let wrong: Vec<(&str, String)> = vec![
        ("TRAWL_AMQP_URL", format!("amqp://trawl:canary-3f9a@{amqp_host}")),
        (
            "TRAWL_AMQP_URL",
            format!("amqp://canary-3f9a:canary%2D7b1c@{amqp_host}?heartbeat=canary-query-55d0"),
        ),
        ("TRAWL_AMQP_URL", format!("{amqp}?canary-query-55d0=1&auth_mechanism=canary-query-55d0")),
        ("TRAWL_AMQP_URL", format!("{amqp}-canary-query-55d0@x")),
        ("TRAWL_AMQP_URL", nobody(amqp)),
        ("TRAWL_AMQP_URL", "amqps://u:canary-3f9a@127.0.0.1:1".to_owned()),
        ("TRAWL_AMQP_URL", "amqp://u:canary-3f9a@broker.invalid".to_owned()),
        ("TRAWL_AMQP_URL", "amqp://u:canary-3f9a/7@broker.invalid".to_owned()),
        ("TRAWL_REDIS_URL", format!("redis://:canary-3f9a@{redis_host}")),
        ("TRAWL_REDIS_URL", format!("redis://canary-3f9a:canary%2D7b1c@{redis_host}?x=canary-query-55d0")),
        ("TRAWL_REDIS_URL", nobody(scene.stack.get("TRAWL_REDIS_URL"))),
        ("TRAWL_REDIS_URL", "rediss://:canary-3f9a@127.0.0.1:1".to_owned()),
        ("TRAWL_REDIS_URL", "redis://:canary-3f9a@redis.invalid".to_owned()),
        ("TRAWL_REDIS_URL", "redis://canary-3f9a/x@127.0.0.1".to_owned()),
        ("TRAWL_REDIS_URL", "redis://:canary-3f9a@127.0.0.1:port/canary-query-55d0".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "canary-s3-91be".to_owned()),
        ("AWS_ENDPOINT_URL", "http://u:canary-s3-91be@127.0.0.1:1/?x=canary-query-55d0".to_owned()),
    ];
    let store = format!("s3://trawl/{}", scene.name);
    for (variable, value) in wrong {
        let mut doctor = scene.program("trawl", &["doctor", "--store", &store]);
        let mut status = scene.program("trawl", &["status", "--insecure"]);
        for command in [&mut doctor, &mut scene.submit(), &mut status, &mut scene.worker()] {
            // S3 is not asked for by a worker without work, nor by `status`.
            let name = command.get_program().to_string_lossy().into_owned();
            let idle = variable.starts_with("AWS") && name.ends_with("trawl-worker");
            // A worker without Redis or RabbitMQ ends; one that is well would not.
            if idle || (variable.starts_with("AWS_ENDPOINT") && !name.ends_with("trawl")) {
                continue;
            }
            let ended = limited(command.env(variable, &value));
            search.look(&format!("{name} with {variable}"), ended);
        }
    }
}

/// The whole of what it says; one that does not end by itself is ended.
fn limited(command: &mut Command) -> Vec<u8> {
    let mut wrapped = Command::new("timeout");
    wrapped.args(["--signal=INT", "20"]).arg(command.get_program()).args(command.get_args()).env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            wrapped.env(name, value);
        }
    }
    wrapped.current_dir(command.get_current_dir().unwrap_or(Path::new("/")));
    let output = wrapped.stdin(std::process::Stdio::null()).output().expect("`timeout` is there");
    [output.stdout, output.stderr].concat()
}

#[test]
fn no_secret_is_in_anything_that_is_written() {
    let scene = Scene::new();
    let mut search = Search::of(scene.stack);
    // The search itself works.
    assert!(search.secrets.iter().all(|secret| search.find(format!("x{secret}y").as_bytes()) == Some(1)));
    assert!(search.find(format!("{:?}", scene.stack.env).as_bytes()).is_some());

    a_job(&scene, &mut search);
    wrong_settings(&scene, &mut search);

    let dead = scene.dead_letters();
    assert!(dead.contains("junk") && dead.contains("x-trawl-reason"), "{dead}");
    search.look("the dead letters", dead);
    let redis = everything_in_redis(scene.stack.get("TRAWL_REDIS_URL"));
    assert!(redis.contains("trawl:jobs"), "{redis}");
    search.look("Redis", redis);
    let objects = scene.bucket.keys(&format!("{}/out/", scene.name));
    assert!(objects.iter().any(|key| key.ends_with("_SUCCESS")), "{objects:?}");
    for key in &objects {
        let bytes = scene.bucket.get(key);
        search.look(key, &bytes);
        if key.ends_with(".parquet") {
            search.look(key, unpacked(bytes));
        }
    }
    assert!(search.looked_at > 100_000, "only {} bytes were looked at", search.looked_at);
    println!("looked at {} bytes for {} secrets", search.looked_at, search.secrets.len());
}
