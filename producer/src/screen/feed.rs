//! Asks the ledger and the broker what the screen shows.
//!
//! Only reads. An answer that does not come is the screen's to say; here nothing waits for longer than it must,
//! and the broker, which is a bonus, never holds up the ledger.

use super::state::Scope;
use std::{collections::BTreeMap, time::Duration};
use trawl_common::{
    broker::{Broker, QueueDepth},
    job::{JobId, QueueName},
    ledger::{Claim, Ledger, LedgerError, Progress},
};

/// Jobs in the list: each costs the ledger a read at every look, and nobody scrolls further.
pub const MOST_JOBS: usize = 100;

/// Batches in hand that are listed.
const MOST_CLAIMS: usize = 500;

/// For an answer of the broker.
const BROKER_PATIENCE: Duration = Duration::from_secs(3);

/// A job with what is known beyond its counters.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The counters.
    pub progress: Progress,
    /// Milliseconds an image by stage, if somebody measured them.
    pub stages: Option<BTreeMap<String, f64>>,
    /// The stage that the others wait for, if that is known.
    pub binding: Option<String>,
}

impl Standing {
    /// What the counters alone say.
    pub fn of(progress: Progress) -> Self {
        Self { progress, stages: None, binding: None }
    }
}

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
    pub shown: Option<Standing>,
    /// Its batches in hand, the oldest first.
    pub claims: Vec<Claim>,
    /// The fleet, if it is registered.
    pub crew: Option<Vec<CrewMember>>,
}

/// What the broker said about a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// Its name.
    pub queue: String,
    /// What it holds; `None` if there is no such queue or no answer.
    pub depth: Option<QueueDepth>,
    /// Dead letters, of all lanes; `None` without an answer.
    pub dead: Option<u64>,
}

/// Who is asked.
#[derive(Clone, Copy)]
pub struct Feed<'a> {
    /// The ledger.
    pub ledger: &'a dyn Ledger,
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
        Ok(LedgerAnswer { jobs, shown: shown.map(Standing::of), claims, crew: None })
    }

    /// Asks the broker about a lane.
    pub async fn lane(&self, queue: String) -> Lane {
        let (Some(broker), Ok(name)) = (self.broker, queue.parse::<QueueName>()) else {
            return Lane { queue, depth: None, dead: None };
        };
        let asked = async { tokio::join!(broker.depth(&name), broker.dead_depth()) };
        match tokio::time::timeout(BROKER_PATIENCE, asked).await {
            Ok((depth, dead)) => Lane { queue, depth: depth.ok().flatten(), dead: dead.ok() },
            Err(_) => Lane { queue, depth: None, dead: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_common::{
        batch::BatchNumber,
        broker::memory::MemoryBroker,
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
        let feed = Feed { ledger: &ledger, broker: Some(&broker) };
        let all = feed.ledger(Scope::All, None).await.unwrap();
        assert_eq!((all.jobs.len(), all.claims[0].worker.as_str()), (2, "job-2"));
        let other = feed.ledger(Scope::All, Some("job-1".parse().unwrap())).await.unwrap();
        assert_eq!(other.claims[0].worker, "job-1");
        let none = feed.ledger(Scope::One("job-9".parse().unwrap()), None).await.unwrap();
        assert!(none.shown.is_none() && none.claims.is_empty());
        let lane = feed.lane("default".into()).await;
        assert_eq!((lane.depth, lane.dead), (Some(QueueDepth::default()), Some(0)));
        let alone = Feed { broker: None, ..feed };
        assert_eq!(alone.lane("default".into()).await.dead, None);
    }
}
