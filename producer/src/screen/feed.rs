//! Asks the ledger, the registry of workers and the broker what the screen shows.
//!
//! Only reads. An answer that does not come is the screen's to say; here nothing waits for longer than it must,
//! and the broker, which is a bonus, never holds up the ledger.

use super::state::Scope;
use std::{collections::BTreeMap, time::Duration};
use trawl_common::{
    broker::{Broker, QueueDepth},
    fleet::{Fleet, Heard},
    job::{JobId, QueueName},
    ledger::{Claim, Ledger, LedgerError, Progress},
};

/// Jobs in the list: each costs the ledger a read at every look, and nobody scrolls further.
pub const MOST_JOBS: usize = 100;

/// Batches in hand that are listed.
const MOST_CLAIMS: usize = 500;

/// Workers that are listed.
const MOST_WORKERS: usize = 1000;

/// For an answer of the broker.
const BROKER_PATIENCE: Duration = Duration::from_secs(3);

/// A worker, as far as it is known.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CrewMember {
    /// Its name.
    pub name: String,
    /// What it computes on.
    pub device: Option<String>,
    /// Images a second.
    pub rate: Option<f64>,
    /// Its busiest stage, and that stage's share of its time.
    pub busiest: Option<(String, f64)>,
    /// Batches in hand.
    pub in_hand: usize,
    /// Since its last sign of life, in milliseconds.
    pub heard_ms: Option<u64>,
    /// Since it began the oldest batch in its hands, in milliseconds.
    pub oldest_ms: Option<u64>,
    /// What is special about it: draining, silent.
    pub remark: Option<String>,
}

impl CrewMember {
    /// A worker as it says itself.
    pub fn of(heard: &Heard) -> Self {
        let report = &heard.report;
        let busiest = report.busy.iter().max_by(|a, b| a.1.total_cmp(b.1));
        let remark = match (heard.is_silent(), report.draining) {
            (true, _) => Some("silent"),
            (false, true) => Some("draining"),
            (false, false) => None,
        };
        Self {
            name: report.worker.clone(),
            device: Some(report.device.clone()),
            rate: Some(report.images_per_second),
            busiest: busiest.filter(|(_, share)| **share > 0.0).map(|(stage, share)| (stage.clone(), *share)),
            in_hand: report.in_flight.len(),
            heard_ms: Some(heard.age_ms),
            oldest_ms: report.in_flight.iter().map(|batch| batch.age_ms).max(),
            remark: remark.map(str::to_owned),
        }
    }

    /// The workers that have one of these batches, by name.
    pub fn from_claims(claims: &[Claim]) -> Vec<Self> {
        let mut workers = BTreeMap::<&str, Self>::new();
        for claim in claims {
            let worker = workers.entry(&claim.worker).or_default();
            worker.in_hand += 1;
            worker.oldest_ms = worker.oldest_ms.max(Some(claim.age_ms));
        }
        workers.into_iter().map(|(name, worker)| Self { name: name.to_owned(), ..worker }).collect()
    }
}

/// What the ledger said.
#[derive(Debug, Default)]
pub struct LedgerAnswer {
    /// The jobs, the newest first, if all are watched.
    pub jobs: Vec<Progress>,
    /// The job that was asked about, if it is known.
    pub shown: Option<Progress>,
    /// Its batches in hand, the oldest first.
    pub claims: Vec<Claim>,
}

/// What is asked beside the ledger, and less often. All of it is a bonus.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Surroundings {
    /// The lane that was asked about.
    pub queue: String,
    /// What it holds; `None` if there is no such queue or no answer.
    pub depth: Option<QueueDepth>,
    /// Dead letters, of all lanes; `None` without an answer.
    pub dead: Option<u64>,
    /// The workers, by name; `None` without an answer.
    pub crew: Option<Vec<CrewMember>>,
}

/// Who is asked.
#[derive(Clone, Copy)]
pub struct Feed<'a> {
    /// The ledger.
    pub ledger: &'a dyn Ledger,
    /// The registry of workers.
    pub fleet: &'a dyn Fleet,
    /// The broker, if it could be reached.
    pub broker: Option<&'a dyn Broker>,
}

impl Feed<'_> {
    /// Asks the ledger about the jobs of `scope`, and about `selected` in full.
    ///
    /// # Errors
    /// What the ledger gives for the counters. Claims are a bonus.
    pub async fn ledger(&self, scope: Scope, selected: Option<JobId>) -> Result<LedgerAnswer, LedgerError> {
        let (jobs, shown) = match scope {
            Scope::One(job) => (Vec::new(), self.ledger.progress(&job).await?),
            Scope::All => {
                let jobs = self.ledger.jobs(MOST_JOBS).await?;
                let found = jobs.iter().find(|known| Some(&known.job) == selected.as_ref());
                let shown = found.or(jobs.first()).cloned();
                (jobs, shown)
            }
        };
        let claims = match &shown {
            Some(progress) => self.ledger.claims(&progress.job, MOST_CLAIMS).await.unwrap_or_default(),
            None => Vec::new(),
        };
        Ok(LedgerAnswer { jobs, shown, claims })
    }

    /// Asks about a lane and the workers: those of the lane if one job is watched, else all.
    pub async fn surroundings(&self, scope: Scope, queue: String) -> Surroundings {
        let ((depth, dead), crew) = tokio::join!(self.lane(&queue), self.fleet.workers(MOST_WORKERS));
        let takes_part = |heard: &Heard| scope == Scope::All || heard.report.queues.contains(&queue);
        let crew =
            crew.ok().map(|crew| crew.iter().filter(|heard| takes_part(heard)).map(CrewMember::of).collect());
        Surroundings { queue, depth, dead, crew }
    }

    async fn lane(&self, queue: &str) -> (Option<QueueDepth>, Option<u64>) {
        let (Some(broker), Ok(name)) = (self.broker, queue.parse::<QueueName>()) else { return (None, None) };
        let asked = async { tokio::join!(broker.depth(&name), broker.dead_depth()) };
        match tokio::time::timeout(BROKER_PATIENCE, asked).await {
            Ok((depth, dead)) => (depth.ok().flatten(), dead.ok()),
            Err(_) => (None, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_common::{
        batch::BatchNumber,
        broker::memory::MemoryBroker,
        fleet::{WorkerReport, memory::MemoryFleet},
        ledger::{JobRecord, memory::MemoryLedger},
    };

    #[test]
    fn workers_are_known_by_what_they_have_in_hand() {
        let claim =
            |batch, worker: &str, age_ms| Claim { batch: BatchNumber(batch), worker: worker.into(), age_ms };
        let crew = CrewMember::from_claims(&[claim(1, "b", 9000), claim(2, "a", 500), claim(3, "b", 100)]);
        let shown: Vec<_> = crew.iter().map(|w| (w.name.as_str(), w.in_hand, w.oldest_ms)).collect();
        assert_eq!(shown, [("a", 1, Some(500)), ("b", 2, Some(9000))]);
    }

    #[tokio::test]
    async fn both_are_asked_and_the_broker_is_a_bonus() {
        let (ledger, broker) = (MemoryLedger::default(), MemoryBroker::default());
        for (job, created_unix_ms) in [("job-1", 1), ("job-2", 2)] {
            let record = JobRecord {
                job: job.parse().unwrap(),
                out: "s3://b/o".into(),
                queue: "default".into(),
                created_unix_ms,
            };
            ledger.open(&record).await.unwrap();
            ledger.planned(&record.job, 3, 30).await.unwrap();
            ledger.claim(&record.job, BatchNumber(1), job).await.unwrap();
        }
        broker.ensure_queue(&"default".parse().unwrap()).await.unwrap();
        let fleet = MemoryFleet::default();
        for (worker, queue) in [("w1", "default"), ("w2", "gpu")] {
            let report =
                WorkerReport { worker: worker.into(), queues: vec![queue.into()], ..WorkerReport::default() };
            fleet.report(&report).await.unwrap();
        }
        let feed = Feed { ledger: &ledger, fleet: &fleet, broker: Some(&broker) };
        let all = feed.ledger(Scope::All, None).await.unwrap();
        assert_eq!((all.jobs.len(), all.claims[0].worker.as_str()), (2, "job-2"));
        let other = feed.ledger(Scope::All, Some("job-1".parse().unwrap())).await.unwrap();
        assert_eq!(other.claims[0].worker, "job-1");
        let none = feed.ledger(Scope::One("job-9".parse().unwrap()), None).await.unwrap();
        assert!(none.shown.is_none() && none.claims.is_empty());
        let around = feed.surroundings(Scope::One("job-1".parse().unwrap()), "default".into()).await;
        assert_eq!((around.depth, around.dead), (Some(QueueDepth::default()), Some(0)));
        let names =
            |crew: Option<Vec<CrewMember>>| crew.unwrap().into_iter().map(|w| w.name).collect::<Vec<_>>();
        assert_eq!(names(around.crew), ["w1"], "those of the job's lane");
        let alone = Feed { broker: None, ..feed };
        let around = alone.surroundings(Scope::All, "default".into()).await;
        assert_eq!((around.depth, around.dead, names(around.crew).len()), (None, None, 2));
    }

    #[test]
    fn a_worker_is_shown_as_it_says_itself() {
        let report = WorkerReport {
            worker: "w".into(),
            busy: [("decode".to_owned(), 0.5), ("forward".to_owned(), 0.9)].into(),
            draining: true,
            ..WorkerReport::default()
        };
        let mut heard = Heard { report, age_ms: 100 };
        let shown = CrewMember::of(&heard);
        assert_eq!(
            (shown.busiest, shown.remark),
            (Some(("forward".to_owned(), 0.9)), Some("draining".into()))
        );
        heard.age_ms = 60_000;
        heard.report.busy = [("decode".to_owned(), 0.0)].into();
        let shown = CrewMember::of(&heard);
        assert_eq!((shown.busiest, shown.remark), (None, Some("silent".into())));
    }
}
