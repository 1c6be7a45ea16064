//! The dead letters as they were last looked at.
//!
//! A look takes the letters from the broker and gives them back, which the broker counts and other lookers notice: so
//! it is done when their number has changed, and else once in a while, never for a page. It must never change one.

use serde::Serialize;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;
use trawl_common::{
    batch::Message,
    broker::{Broker, BrokerError, DeadLetter, Verdict},
    dead::{MAX_LOOKED_AT, letter_id},
    job::{JobId, QueueName},
};

/// Letters whose number stays are looked at again after this time: one may have gone and another come.
const LOOK_AGAIN: Duration = Duration::from_secs(120);

/// One letter, as a page needs it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Letter {
    /// Names it in requests.
    pub id: String,
    /// Its batch, if it is a batch's.
    pub batch: Option<u64>,
    /// Why it was given up.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Who gave it up; `None` if the broker did.
    pub worker: Option<String>,
    /// The last error, where it is another text than the reason.
    pub last_error: Option<String>,
    /// When.
    pub died_unix_ms: Option<u64>,
    #[serde(skip)]
    job: Option<JobId>,
    #[serde(skip)]
    lane: Option<QueueName>,
}

/// The letters of the last look.
#[derive(Default)]
pub struct DeadLetters {
    looked: Mutex<Option<Look>>,
}

#[derive(Clone)]
struct Look {
    at: Instant,
    depth: u64,
    letters: Arc<Vec<Letter>>,
}

impl Letter {
    fn of(letter: &DeadLetter) -> Self {
        let message = Message::parse(&letter.body).ok();
        Self {
            id: letter_id(letter),
            batch: message.as_ref().and_then(|message| match message {
                Message::Batch(batch) => Some(batch.batch.0),
                Message::Feed(_) | Message::Finalize(_) => None,
            }),
            reason: letter.reason.clone(),
            attempts: letter.attempt,
            worker: letter.worker.clone(),
            last_error: None,
            died_unix_ms: letter.died_unix_ms,
            job: message.map(|message| message.job().clone()),
            lane: letter.queue.clone(),
        }
    }
}

impl DeadLetters {
    /// Looks at the letters if there is a reason to, `depth` being their number now.
    ///
    /// # Errors
    /// What the broker gives; the last look then stays.
    pub async fn refresh(&self, broker: &dyn Broker, depth: u64) -> Result<(), BrokerError> {
        let fresh = self.last().is_some_and(|look| look.depth == depth && look.at.elapsed() < LOOK_AGAIN);
        if fresh {
            return Ok(());
        }
        let letters = if depth == 0 {
            Vec::new()
        } else {
            let mut letters = Vec::new();
            let mut keep = |letter: &DeadLetter| {
                letters.push(Letter::of(letter));
                Verdict::Keep
            };
            broker.judge_dead(MAX_LOOKED_AT, &mut keep).await?;
            letters
        };
        self.set(Some(Look { at: Instant::now(), depth, letters: Arc::new(letters) }));
        Ok(())
    }

    /// Makes the next refresh look.
    pub fn forget(&self) {
        if let Some(look) = self.looked.lock().expect("no panic while the look is held").as_mut() {
            look.depth = u64::MAX;
        }
    }

    /// The letters of a job, at most `limit`.
    pub fn of_job(&self, job: &JobId, limit: usize) -> Vec<Letter> {
        let Some(look) = self.last() else { return Vec::new() };
        look.letters.iter().filter(|letter| letter.job.as_ref() == Some(job)).take(limit).cloned().collect()
    }

    /// How many are of a lane; `None` before the first look.
    pub fn of_lane(&self, lane: &str) -> Option<u64> {
        let ours = |letter: &&Letter| letter.lane.as_ref().is_some_and(|own| own.as_str() == lane);
        self.last().map(|look| look.letters.iter().filter(ours).count() as u64)
    }

    fn last(&self) -> Option<Look> {
        self.looked.lock().expect("no panic while the look is held").clone()
    }

    fn set(&self, look: Option<Look>) {
        *self.looked.lock().expect("no panic while the look is held") = look;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use trawl_common::{
        batch::{BatchDescriptor, BatchNumber, ImageRef},
        broker::{Disposition, Publication, memory::MemoryBroker},
    };

    pub(crate) async fn bury(broker: &MemoryBroker, job: &str, batch: u64) {
        let lane: QueueName = "default".parse().unwrap();
        let descriptor = BatchDescriptor {
            job: job.parse().unwrap(),
            batch: BatchNumber(batch),
            out: "s3://b/o".into(),
            created_unix_ms: 1,
            model_sha256: "ab".into(),
            images: vec![ImageRef::whole("s3://b/a.jpg", None, 1)],
        };
        broker.ensure_queue(&lane).await.unwrap();
        let mut consumer = broker.consume(&lane, 1).await.unwrap();
        broker.publish(&lane, Publication::new(Message::Batch(descriptor).to_json())).await.unwrap();
        let delivery = consumer.next().await.unwrap();
        delivery.settle(Disposition::DeadLetter { reason: "the <b>model</b> failed".into() }).await.unwrap();
        consumer.cancel().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn letters_are_looked_at_when_their_number_changes() {
        let (broker, dead) = (MemoryBroker::new(), DeadLetters::default());
        let job: JobId = "job-1".parse().unwrap();
        assert_eq!(dead.of_lane("default"), None);
        dead.refresh(&broker, 0).await.unwrap();
        bury(&broker, "job-1", 3).await;
        bury(&broker, "job-2", 4).await;
        dead.refresh(&broker, 0).await.unwrap();
        assert!(dead.of_job(&job, 9).is_empty(), "nobody said that there is something new");
        dead.refresh(&broker, 2).await.unwrap();
        let letters = dead.of_job(&job, 9);
        assert_eq!((letters.len(), letters[0].batch, dead.of_lane("default")), (1, Some(3), Some(2)));
        assert_eq!(letters[0].reason, "the <b>model</b> failed");
        bury(&broker, "job-1", 5).await;
        tokio::time::advance(LOOK_AGAIN).await;
        dead.refresh(&broker, 2).await.unwrap();
        assert_eq!(dead.of_job(&job, 9).len(), 2, "after a while it looks all the same");
        assert_eq!(dead.of_job(&job, 1).len(), 1);
        assert_eq!(broker.dead_depth().await.unwrap(), 3);
    }
}
