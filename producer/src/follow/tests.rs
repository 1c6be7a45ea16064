//! A job that is followed to its end, through a ledger that answers from a script.

use super::*;
use crate::{progress::Lines, report::tests::progress};
use async_trait::async_trait;
use std::{collections::VecDeque, sync::Mutex};
use trawl_common::{
    batch::BatchNumber,
    broker::memory::MemoryBroker,
    ledger::{BatchOutcome, Begun, Claim, Completion, Fed, JobRecord},
};

enum Answer {
    Known(JobState, u64),
    Unknown,
    Away,
}

/// A ledger that answers from a script and repeats its last line.
struct Scripted(Mutex<VecDeque<Answer>>);

impl Scripted {
    fn new(script: impl IntoIterator<Item = Answer>) -> Self {
        Self(Mutex::new(script.into_iter().collect()))
    }
}

#[async_trait]
impl Ledger for Scripted {
    async fn open(&self, _: &JobRecord) -> Result<(), LedgerError> {
        unreachable!("following a job changes nothing")
    }
    async fn pause(&self, _: &JobId) -> Result<bool, LedgerError> {
        unreachable!("following a job changes nothing")
    }
    async fn set_fed(&self, _: &JobId, _: Fed) -> Result<(), LedgerError> {
        unreachable!("following a job changes nothing")
    }
    async fn advance_fed(&self, _: &JobId, _: Fed) -> Result<(), LedgerError> {
        unreachable!("following a job changes nothing")
    }
    async fn fed(&self, _: &JobId) -> Result<Option<Fed>, LedgerError> {
        unreachable!("following a job asks for counters only")
    }
    async fn planned(&self, _: &JobId, _: u64, _: u64) -> Result<(), LedgerError> {
        unreachable!("following a job changes nothing")
    }
    async fn plan_complete(&self, _: &JobId, _: u64, _: u64) -> Result<bool, LedgerError> {
        unreachable!("following a job changes nothing")
    }
    async fn is_done(&self, _: &JobId, _: BatchNumber) -> Result<bool, LedgerError> {
        unreachable!("following a job asks for counters only")
    }
    async fn begin(&self, _: &JobId, _: BatchNumber, _: Option<&str>) -> Result<Option<Begun>, LedgerError> {
        unreachable!("following a job works on no batch")
    }
    async fn complete(
        &self,
        _: &JobId,
        _: BatchNumber,
        _: &BatchOutcome,
    ) -> Result<Option<Completion>, LedgerError> {
        unreachable!("following a job changes nothing")
    }
    async fn finalized(&self, _: &JobRecord, _: u64, _: &BatchOutcome) -> Result<(), LedgerError> {
        unreachable!("following a job changes nothing")
    }
    async fn forget(&self, _: &JobId) -> Result<(), LedgerError> {
        unreachable!("following a job changes nothing")
    }
    async fn claim(&self, _: &JobId, _: BatchNumber, _: &str) -> Result<(), LedgerError> {
        unreachable!("following a job changes nothing")
    }
    async fn release(&self, _: &JobId, _: BatchNumber) -> Result<(), LedgerError> {
        unreachable!("following a job changes nothing")
    }
    async fn claims(&self, _: &JobId, _: usize) -> Result<Vec<Claim>, LedgerError> {
        unreachable!("following a job asks for counters only")
    }
    async fn reclaim(&self, _: &JobId, _: BatchNumber, _: &str, _: Duration) -> Result<bool, LedgerError> {
        unreachable!("following a job changes nothing")
    }
    async fn cancel(&self, _: &JobId) -> Result<bool, LedgerError> {
        unreachable!("following a job changes nothing")
    }
    async fn state(&self, _: &JobId) -> Result<Option<JobState>, LedgerError> {
        unreachable!("following a job asks for counters only")
    }
    async fn progress(&self, _: &JobId) -> Result<Option<Progress>, LedgerError> {
        let mut script = self.0.lock().unwrap();
        let answer = if script.len() > 1 {
            script.pop_front().unwrap()
        } else {
            script.pop_front().map_or(Answer::Unknown, |last| {
                let copy = match &last {
                    Answer::Known(state, done) => Answer::Known(*state, *done),
                    Answer::Unknown => Answer::Unknown,
                    Answer::Away => Answer::Away,
                };
                script.push_front(copy);
                last
            })
        };
        match answer {
            Answer::Known(state, batches_done) => Ok(Some(Progress { batches_done, ..progress(state) })),
            Answer::Unknown => Ok(None),
            Answer::Away => Err(LedgerError::Unreachable { ledger: "h:1".into(), reason: "refused".into() }),
        }
    }
    async fn jobs(&self, _: usize) -> Result<Vec<Progress>, LedgerError> {
        unreachable!("following a job asks for one job")
    }
}

async fn followed(script: Vec<Answer>, strict: bool) -> (Result<(Progress, u8), Stop>, String) {
    let (ledger, job, stop) = (Scripted::new(script), "job-1".parse().unwrap(), CancellationToken::new());
    let broker = MemoryBroker::default();
    let mut out = Vec::new();
    let f = Following { ledger: &ledger, broker: Some(&broker), job: &job, strict, stop: &stop };
    let ended = follow(&f, &mut Lines::new(&mut out)).await;
    (ended, String::from_utf8(out).unwrap())
}

use Answer::{Away, Known, Unknown};

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_job() {
    let script = || vec![Known(JobState::Running, 1), Known(JobState::Complete, 4)];
    let (ended, text) = followed(script(), false).await;
    assert_eq!(ended.unwrap().1, exit::OK);
    assert!(text.contains("running") && text.contains("complete"), "{text}");
    assert_eq!(followed(script(), true).await.0.unwrap().1, exit::FAILED_IMAGES);
    let (ended, _) = followed(vec![Known(JobState::Cancelled, 1)], false).await;
    let (progress, code) = ended.unwrap();
    assert_eq!(verdict(&progress, code).unwrap_err().code, exit::FAILED);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_job_is_not_found_at_once() {
    assert_eq!(followed(vec![Unknown], false).await.0.unwrap_err().code, exit::NOT_FOUND);
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_comes_back_is_waited_for() {
    let script = vec![Known(JobState::Running, 1), Away, Away, Unknown, Known(JobState::Complete, 4)];
    let (ended, text) = followed(script, false).await;
    assert_eq!(ended.unwrap().1, exit::OK);
    assert_eq!(text.matches("waiting for it").count(), 1, "{text}");
    assert!(text.contains("is back"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_stays_away_ends_the_watch_within_its_bound() {
    let began = Instant::now();
    let (ended, _) = followed(vec![Known(JobState::Running, 1), Away], false).await;
    assert_eq!(ended.unwrap_err().code, exit::TRANSIENT);
    assert!(began.elapsed() < LEDGER_PATIENCE + 4 * POLL, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_signal_ends_the_watch_and_not_the_job() {
    let (ledger, job, stop) =
        (Scripted::new([Known(JobState::Running, 1)]), "job-1".parse().unwrap(), CancellationToken::new());
    let f = Following { ledger: &ledger, broker: None, job: &job, strict: false, stop: &stop };
    let mut view = Lines::new(Vec::new());
    let (ended, ()) = tokio::join!(follow(&f, &mut view), async {
        sleep(POLL * 5).await;
        stop.cancel();
    });
    let stopped = ended.unwrap_err();
    assert_eq!(stopped.code, exit::INTERRUPTED);
    assert!(stopped.message.contains("goes on"));
}

#[tokio::test(start_paused = true)]
async fn a_standstill_is_explained_once() {
    let (ledger, job, stop) =
        (Scripted::new([Known(JobState::Running, 1)]), "job-1".parse().unwrap(), CancellationToken::new());
    let broker = MemoryBroker::default();
    broker.ensure_queue(&"default".parse().unwrap()).await.unwrap();
    let mut out = Vec::new();
    let f = Following { ledger: &ledger, broker: Some(&broker), job: &job, strict: false, stop: &stop };
    let mut view = Lines::new(&mut out);
    let (_, ()) = tokio::join!(follow(&f, &mut view), async {
        sleep(STALL * 4).await;
        stop.cancel();
    });
    drop(view);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.matches("no worker takes from queue `default`").count(), 1, "{text}");
}
