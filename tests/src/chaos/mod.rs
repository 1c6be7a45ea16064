//! Chaos: a fleet of real workers on real servers, a seeded nemesis, and the verdict in Jepsen's four sets.
//!
//! Jobs follow one another until the time is up. Every program reaches RabbitMQ and Redis through fault proxies
//! and S3 through a front that fails one request in ten. When the time is up the faults end and the job at hand
//! must complete: what is late then is stuck. The verdict reads the bucket itself, past all proxies.

mod fleet;
mod nemesis;
mod verdict;

pub use verdict::Verdict;

use crate::{
    background::Dice,
    bucket::Bucket,
    http_faults::{HttpFaults, Misdeed, Rule},
    images,
    programs::{make_model, run as run_program, with_stack},
    proxy::Proxy,
    stack::Stack,
};
use fleet::Fleet;
use nemesis::Nemesis;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use verdict::Expected;

/// Images of each job.
const IMAGES: u32 = 300;

/// Every so many images one is broken.
const BROKEN_EVERY: u32 = 60;

/// Images of a batch: small, so that a job has many batches for the faults to hit.
const BATCH_SIZE: u32 = 6;

/// Deliveries in a worker's hands.
const PREFETCH: u32 = 2;

/// One request in ten fails: half of these by 503, half after it was done.
const S3_ERRORS: [(Misdeed, f64); 3] =
    [(Misdeed::SlowDown, 0.05), (Misdeed::LoseReply, 0.025), (Misdeed::FalseError, 0.025)];

/// Seconds between signs of life on AMQP connections, so that half-open ones and stopped workers are found out
/// within the run.
const HEARTBEAT: u64 = 5;

/// After the last fault the job at hand completes within this time.
const PATIENCE: Duration = Duration::from_secs(300);

/// Between two looks at fleet and job.
const TICK: Duration = Duration::from_millis(100);

/// Between two looks whether the job is complete; each is a process.
const LOOK: Duration = Duration::from_secs(2);

/// So often a `submit` is given again when the faults hit it.
const SUBMITS: usize = 50;

/// What to do.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For how long faults come.
    pub time: Duration,
    /// Of all chance.
    pub seed: u64,
    /// Workers of the fleet.
    pub workers: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { time: Duration::from_secs(120), seed: 1, workers: 4 }
    }
}

/// The servers and what stands before them.
struct Field {
    stack: Stack,
    bucket: Bucket,
    amqp: Proxy,
    redis: Proxy,
    s3: HttpFaults,
    dir: TempDir,
    model: PathBuf,
}

impl Field {
    fn new(seed: u64) -> Self {
        let stack = Stack::start("rabbitmq,redis,s3");
        let bucket = Bucket::of(&stack);
        let amqp = Proxy::before(stack.get("TRAWL_AMQP_URL"));
        let redis = Proxy::before(stack.get("TRAWL_REDIS_URL"));
        let s3 = HttpFaults::before(stack.get("AWS_ENDPOINT_URL"), seed);
        let dir = tempfile::tempdir().expect("a folder");
        // Some tens of milliseconds a pass: kills must find batches in work.
        let model = make_model(&["--work", "6"]);
        Self { stack, bucket, amqp, redis, s3, dir, model }
    }

    /// A program that reaches the servers through the faults.
    fn harried(&self, name: &str) -> std::process::Command {
        let mut command = with_stack(name, &self.stack);
        let amqp = self.amqp.url(self.stack.get("TRAWL_AMQP_URL"));
        let divider = if amqp.contains('?') { '&' } else { '?' };
        command
            .env("TRAWL_AMQP_URL", format!("{amqp}{divider}heartbeat={HEARTBEAT}"))
            .env("TRAWL_REDIS_URL", self.redis.url(self.stack.get("TRAWL_REDIS_URL")))
            .env("AWS_ENDPOINT_URL", self.s3.url(self.stack.get("AWS_ENDPOINT_URL")))
            .current_dir(self.dir.path());
        command
    }

    fn upload(&self) {
        let broken = |i: u32| i % BROKEN_EVERY == BROKEN_EVERY - 1;
        self.bucket.upload((0..IMAGES).map(|i| {
            let mut bytes = images::png(i, 40, 30);
            if broken(i) {
                bytes.truncate(bytes.len() / 2);
            }
            (format!("chaos/in/img_{i:05}.png"), bytes)
        }));
    }

    /// The rows of an undisturbed run of the same images, model and flags.
    fn undisturbed(&self) -> Expected {
        let mut command = with_stack("trawl-worker", &self.stack);
        command.current_dir(self.dir.path()).args([
            "run",
            "s3://trawl/chaos/in/",
            "--out",
            "s3://trawl/chaos/undisturbed",
        ]);
        command.args(["--batch-size", &BATCH_SIZE.to_string(), "--threads", "2", "--model"]).arg(&self.model);
        let _ended = run_program(&mut command).expect(0);
        Expected::of(&self.bucket.rows("chaos/undisturbed"))
    }

    /// Submits job `n`; again while the faults keep it from its end.
    fn submit(&self, n: usize) -> String {
        let out = format!("s3://trawl/{}", out(n));
        for _ in 0..SUBMITS {
            let mut command = self.harried("trawl");
            command.args(["submit", "s3://trawl/chaos/in/", "--queue", "chaos", "--out", &out]);
            command.args(["--batch-size", &BATCH_SIZE.to_string(), "--model"]).arg(&self.model);
            let ended = run_program(&mut command);
            if ended.code() == 0 {
                return ended.stdout.trim().to_owned();
            }
            eprintln!(
                "chaos: submit ended with {}: {}",
                ended.code(),
                ended.stderr.lines().last().unwrap_or("")
            );
        }
        panic!("job {n} could not be submitted in {SUBMITS} attempts");
    }

    fn is_complete(&self, n: usize) -> bool {
        self.bucket.has(&format!("{}/_SUCCESS", out(n)))
    }
}

/// The prefix of job `n`'s output.
fn out(n: usize) -> String {
    format!("chaos/out-{n:03}")
}

/// Runs until the time is up and the last job complete.
///
/// # Panics
/// If a server or program cannot be started at all, or a job does not complete after the last fault.
pub fn run(settings: &Settings) -> Verdict {
    let began = Instant::now();
    let field = Field::new(settings.seed);
    field.upload();
    let expected = field.undisturbed();
    field.s3.watch("/chaos/in/");
    field.s3.set(S3_ERRORS.map(|(misdeed, share)| Rule::new(misdeed).share(share)));
    let mut dice = Dice::new(settings.seed);
    let mut fleet = Fleet::start(&field, settings.workers, &mut dice);
    let mut nemesis = Nemesis::new(settings.time, &mut dice);
    let mut verdict = Verdict::new(settings.seed);
    eprintln!(
        "chaos: seed {}, {:.1} minutes of faults begin after {:.0?}",
        settings.seed,
        settings.time.as_secs_f64() / 60.0,
        began.elapsed()
    );
    let faults = Instant::now();
    let (mut jobs, mut ended) = (0, None);
    loop {
        let job = field.submit(jobs);
        let mut looked = Instant::now();
        loop {
            let now = faults.elapsed();
            if now < settings.time {
                nemesis.strike(now, &field, &mut fleet, &mut dice);
            } else if ended.is_none() {
                nemesis.rest(&field, &mut fleet);
                ended = Some(Instant::now());
            }
            fleet.tend(&field, &mut dice, now < settings.time);
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                if field.is_complete(jobs) {
                    break;
                }
                let late = ended.is_some_and(|ended: Instant| ended.elapsed() > PATIENCE);
                assert!(
                    !late,
                    "job {job} is not complete {PATIENCE:?} after the last fault; {}",
                    fleet.say()
                );
            }
            std::thread::sleep(TICK);
        }
        verdict.judge(&field, jobs, &expected);
        eprintln!("chaos: {:.0?}: job {jobs} complete; {}", faults.elapsed(), nemesis.say());
        jobs += 1;
        if ended.is_some() || faults.elapsed() >= settings.time {
            break;
        }
    }
    nemesis.rest(&field, &mut fleet);
    fleet.end(&mut verdict);
    verdict.conclude(&field, &nemesis, &fleet, jobs);
    verdict
}
