//! The verdict in Jepsen's four sets: lost, duplicated, unexpected, recovered.
//!
//! Reads the rows of every job from the bucket and compares them, key by key, with those of an undisturbed run of
//! the same images. A row that differs, or that nobody planned, is unexpected; recovered is what was worked on
//! more than once and ended as one row. It believes no counter of trawl's.

use super::{BATCH_SIZE, Field, IMAGES, PREFETCH, S3_ERRORS, fleet::Fleet, nemesis::Nemesis, out};
use crate::programs::{run, with_stack};
use std::{collections::BTreeMap, fmt};
use trawl_common::{
    broker::{Broker, Verdict as LetterVerdict, rabbit::RabbitBroker},
    results::row::{Outcome, Prediction, ResultRow},
};

/// Findings that are shown in full.
const SHOWN: usize = 20;

/// What of a row must be the same in every run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Essence {
    Class(Option<i32>),
    Error(&'static str),
}

fn essence(row: &ResultRow) -> Essence {
    match &row.outcome {
        Outcome::Ok(Prediction::Classes(classes)) | Outcome::OkTruncated(Prediction::Classes(classes)) => {
            Essence::Class(classes.first().map(|class| class.index))
        }
        Outcome::Ok(_) | Outcome::OkTruncated(_) => Essence::Class(None),
        Outcome::Failed { code, .. } => Essence::Error(code.as_str()),
    }
}

/// The rows that every job must have.
pub(super) struct Expected(BTreeMap<String, Essence>);

impl Expected {
    pub(super) fn of(rows: &[ResultRow]) -> Self {
        let expected: BTreeMap<_, _> = rows.iter().map(|row| (row.key.clone(), essence(row))).collect();
        assert_eq!(expected.len(), IMAGES as usize, "the undisturbed run has every image");
        Self(expected)
    }
}

/// What was found.
#[derive(Debug)]
pub struct Verdict {
    seed: u64,
    lost: u64,
    duplicated: u64,
    unexpected: u64,
    recovered: u64,
    bound: u64,
    rows: u64,
    jobs: usize,
    findings: Vec<String>,
    faults: String,
}

impl Verdict {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            lost: 0,
            duplicated: 0,
            unexpected: 0,
            recovered: 0,
            bound: 0,
            rows: 0,
            jobs: 0,
            findings: Vec::new(),
            faults: String::new(),
        }
    }

    /// Nothing lost, nothing twice, nothing strange.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.unexpected == 0 && self.findings.is_empty()
    }

    /// Compares a complete job with what it should be.
    pub(super) fn judge(&mut self, field: &Field, n: usize, expected: &Expected) {
        let rows = field.bucket.rows(&out(n));
        let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
        for row in &rows {
            *seen.entry(&row.key).or_default() += 1;
            let (found, wanted) = (essence(row), expected.0.get(&row.key));
            if wanted != Some(&found) {
                self.unexpected += 1;
                self.findings.push(format!("job {n}: `{}` is {found:?}, expected {wanted:?}", row.key));
            }
        }
        self.lost += expected.0.keys().filter(|key| !seen.contains_key(key.as_str())).count() as u64;
        self.duplicated += seen.values().map(|n| n - 1).sum::<u64>();
        self.rows += rows.len() as u64;
        self.counters(field, n, expected);
    }

    /// What trawl itself says of the job, from the bucket.
    fn counters(&mut self, field: &Field, n: usize, expected: &Expected) {
        let out = format!("s3://trawl/{}", out(n));
        let mut command = with_stack("trawl", &field.stack);
        let status = run(command.args(["status", &out, "--output", "json"])).expect(0).json();
        let failed =
            expected.0.values().filter(|essence| matches!(essence, Essence::Error(_))).count() as u64;
        let ok = u64::from(IMAGES) - failed;
        if (status["images_ok"].as_u64(), status["images_failed"].as_u64()) != (Some(ok), Some(failed)) {
            self.findings.push(format!("job {n}: the counters are not {ok} and {failed}: {status}"));
        }
        let mut command = with_stack("trawl", &field.stack);
        let verified = run(command.args(["verify", &out, "--deep", "--output", "json"]));
        if verified.code() != 0 {
            self.findings.push(format!("job {n}: trawl verify: {}{}", verified.stdout, verified.stderr));
        }
    }

    /// Counts that must be zero.
    pub(super) fn findings(&mut self, counts: &[(&str, u64)]) {
        for (what, n) in counts.iter().filter(|(_, n)| *n > 0) {
            self.findings.push(format!("{n} {what}"));
        }
    }

    /// When all is over.
    pub(super) fn conclude(&mut self, field: &Field, nemesis: &Nemesis, fleet: &Fleet, jobs: usize) {
        self.jobs = jobs;
        let read = field.s3.delivered();
        self.recovered = read.saturating_sub(u64::from(IMAGES) * jobs as u64);
        self.bound = u64::from(PREFETCH) * (nemesis.faults() + fleet.doomed_deaths) * u64::from(BATCH_SIZE);
        if self.recovered > self.bound {
            self.findings
                .push(format!("{} images were worked on again, more than {}", self.recovered, self.bound));
        }
        self.faults = format!(
            "{}; in all {} kills, stops and drains of workers, and {} that killed themselves at a failpoint; {} found a \
             service away at their start; of {} requests to S3 {} failed",
            nemesis.say(),
            nemesis.worker_faults(),
            fleet.doomed_deaths,
            fleet.stillborn,
            field.s3.requests(),
            S3_ERRORS.map(|(misdeed, _)| field.s3.struck(misdeed)).iter().sum::<u64>()
        );
        let letters = dead_letters(field.stack.get("TRAWL_AMQP_URL"));
        for letter in letters {
            self.findings.push(format!("a dead letter: {letter}"));
        }
    }
}

fn dead_letters(url: &str) -> Vec<String> {
    let asking = async {
        let broker = RabbitBroker::connect(url).await?;
        broker.judge_dead(SHOWN, &mut |_| LetterVerdict::Keep).await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let letters = runtime.block_on(asking).expect("RabbitMQ answers");
    letters.into_iter().map(|(letter, _)| format!("{} ({:?})", letter.reason, letter.worker)).collect()
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, {} jobs, {} rows", self.seed, self.jobs, self.rows)?;
        writeln!(f, "faults: {}", self.faults)?;
        writeln!(
            f,
            "lost {}, duplicated {}, unexpected {}, recovered {}",
            self.lost, self.duplicated, self.unexpected, self.recovered
        )?;
        writeln!(
            f,
            "images worked on twice: {}, at most prefetch x faults x batch size = {}",
            self.recovered, self.bound
        )?;
        for finding in self.findings.iter().take(SHOWN) {
            writeln!(f, "FOUND: {finding}")?;
        }
        write!(f, "{}", if self.is_clean() { "clean" } else { "NOT CLEAN" })
    }
}
