//! `trawl watch`: follows a job until it ends.
//!
//! Reads the ledger at a fixed pace and nothing else of the job; it never changes anything, and leaving it
//! leaves the job at work. A ledger that is away for a while is waited for, within a bound.

use crate::{
    connect::{self, Context},
    errors::Stop,
    progress::{self, JsonLines, View},
    report::{Report, Source},
    target::{self, Target},
};
use std::{
    io::{self, Write},
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use trawl_common::{
    broker::Broker,
    config::{OutputFormat, exit},
    job::{JobId, QueueName},
    ledger::{JobState, Ledger, LedgerError, Progress},
};

/// Between two looks at the ledger: quick enough for a bar, nothing for Redis.
const POLL: Duration = Duration::from_millis(500);

/// A ledger that stays away longer ends the watch; Redis restarts within seconds.
pub const LEDGER_PATIENCE: Duration = Duration::from_secs(60);

/// A job that does not move for this long may have no worker, or batches among the dead letters: worth a look.
const STALL: Duration = Duration::from_secs(15);

/// What is followed, and how.
pub struct Following<'a> {
    /// The ledger.
    pub ledger: &'a dyn Ledger,
    /// Asked why a job does not move, if there is one.
    pub broker: Option<&'a dyn Broker>,
    /// The job.
    pub job: &'a JobId,
    /// Whether failed images are a failure.
    pub strict: bool,
    /// Ends the watch.
    pub stop: &'a CancellationToken,
}

/// Runs the command.
///
/// # Errors
/// Not found, a ledger that stays away, a job that was cancelled, a signal.
pub async fn run(cx: &Context, name: &str, strict: bool, out: &mut dyn Write) -> Result<u8, Stop> {
    let ledger = connect::ledger(&cx.services).await?;
    let job = match target::parse(name, &cx.base_dir)? {
        Target::Job(job) => job,
        Target::Out(location) => target::spec(&cx.stores, &location).await?.job,
    };
    // A watch without the broker is a watch all the same; it only cannot say why nothing moves.
    let broker = connect::broker(&cx.services).await.ok();
    let following = Following {
        ledger: &ledger,
        broker: broker.as_ref().map(|b| b as &dyn Broker),
        job: &job,
        strict,
        stop: &cx.shutdown.draining,
    };
    let ended = match cx.output {
        OutputFormat::Json => follow(&following, &mut JsonLines::new(out, io::stderr())).await,
        OutputFormat::Text => {
            let mut view = progress::for_people();
            let ended = follow(&following, view.as_mut()).await;
            if let Ok((progress, _)) = &ended {
                Report { progress: progress.clone(), counted_from: Source::Ledger }.text(out)?;
            }
            ended
        }
    };
    let (progress, code) = ended.map_err(|stop| with_signal(cx, stop))?;
    verdict(&progress, code)
}

/// The exit code of the signal that came, which the loop does not know.
pub fn with_signal(cx: &Context, stop: Stop) -> Stop {
    match cx.shutdown.exit_code().and_then(|code| u8::try_from(code).ok()) {
        Some(code) if stop.code == exit::INTERRUPTED => Stop { code, ..stop },
        _ => stop,
    }
}

/// The exit code, or what there is to say about a job that was given up.
///
/// # Errors
/// If the job was cancelled.
pub fn verdict(progress: &Progress, code: u8) -> Result<u8, Stop> {
    match progress.state {
        JobState::Cancelled => Err(Stop::failed(format!("job {} is cancelled", progress.job))
            .hint("give its `trawl submit` command again to take it up where it stopped")),
        _ => Ok(code),
    }
}

/// Follows the job to its end; gives its last standing and the exit code.
///
/// # Errors
/// Not found, a ledger that stays away for [`LEDGER_PATIENCE`] or refuses us, a signal (as SIGINT).
pub async fn follow(f: &Following<'_>, view: &mut dyn View) -> Result<(Progress, u8), Stop> {
    let mut last: Option<Progress> = None;
    let mut absence = Absence::default();
    let mut stall = Stall::new();
    loop {
        let asked = tokio::select! {
            biased;
            () = f.stop.cancelled() => return Err(interrupted(f.job)),
            asked = f.ledger.progress(f.job) => asked,
        };
        match asked {
            Ok(Some(progress)) => {
                absence.over(view);
                if matches!(progress.state, JobState::Complete | JobState::Cancelled) {
                    view.end(&progress)?;
                    let failed = f.strict && progress.images_failed > 0;
                    return Ok((progress, if failed { exit::FAILED_IMAGES } else { exit::OK }));
                }
                view.show(&progress)?;
                stall.look(f.broker, &progress, view).await;
                last = Some(progress);
            }
            Ok(None) if last.is_none() => return Err(target::unknown(f.job)),
            // A ledger that lost the job is filled again by the workers, from the output.
            Ok(None) => absence.note(view, &format!("the ledger no longer knows job {}", f.job), || {
                Stop::transient(format!("the ledger lost job {} and did not get it back", f.job))
            })?,
            Err(error @ LedgerError::Unreachable { .. }) => {
                absence.note(view, "the ledger does not answer", || Stop::from(error))?;
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            biased;
            () = f.stop.cancelled() => return Err(interrupted(f.job)),
            () = sleep(POLL) => {}
        }
    }
}

fn interrupted(job: &JobId) -> Stop {
    Stop::signalled(exit::INTERRUPTED, format!("stopped watching; job {job} goes on"))
        .hint(format!("`trawl watch {job}` follows it again, `trawl cancel {job}` ends it"))
}

/// Since when the ledger has not known the job.
#[derive(Default)]
struct Absence(Option<Instant>);

impl Absence {
    fn note(&mut self, view: &mut dyn View, what: &str, stop: impl FnOnce() -> Stop) -> Result<(), Stop> {
        match self.0 {
            None => {
                view.note(&format!("{what}; waiting for it, the job goes on meanwhile"));
                self.0 = Some(Instant::now());
                Ok(())
            }
            Some(since) if since.elapsed() < LEDGER_PATIENCE => Ok(()),
            Some(_) => Err(stop()),
        }
    }

    fn over(&mut self, view: &mut dyn View) {
        if self.0.take().is_some() {
            view.note("the ledger is back");
        }
    }
}

/// Notices that nothing moves and says why, once per standstill.
struct Stall {
    done: Option<u64>,
    since: Instant,
    told: bool,
}

impl Stall {
    fn new() -> Self {
        Self { done: None, since: Instant::now(), told: false }
    }

    async fn look(&mut self, broker: Option<&dyn Broker>, progress: &Progress, view: &mut dyn View) {
        if self.done != Some(progress.batches_done) {
            *self = Self { done: Some(progress.batches_done), since: Instant::now(), told: false };
            return;
        }
        let Some(broker) = broker else { return };
        if self.told || self.since.elapsed() < STALL {
            return;
        }
        self.told = true;
        let Ok(queue) = progress.queue.parse::<QueueName>() else { return };
        // A broker that does not answer is no news for a watch.
        if let Ok(Some(depth)) = broker.depth(&queue).await
            && depth.consumers == 0
        {
            view.note(&format!(
                "nothing moves: no worker takes from queue `{queue}`; start one with `trawl-worker --queue {queue}`"
            ));
        }
        if let Ok(dead) = broker.dead_depth().await
            && dead > 0
        {
            view.note(&format!(
                "nothing moves: the dead letters hold {dead}, some may be this job's batches: `trawl dead list --job {}`",
                progress.job
            ));
        }
    }
}

#[cfg(test)]
mod tests {
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
            unreachable!("a watch changes nothing")
        }
        async fn pause(&self, _: &JobId) -> Result<bool, LedgerError> {
            unreachable!("a watch changes nothing")
        }
        async fn set_fed(&self, _: &JobId, _: Fed) -> Result<(), LedgerError> {
            unreachable!("a watch changes nothing")
        }
        async fn fed(&self, _: &JobId) -> Result<Option<Fed>, LedgerError> {
            unreachable!("a watch asks for counters only")
        }
        async fn planned(&self, _: &JobId, _: u64, _: u64) -> Result<(), LedgerError> {
            unreachable!("a watch changes nothing")
        }
        async fn plan_complete(&self, _: &JobId, _: u64, _: u64) -> Result<bool, LedgerError> {
            unreachable!("a watch changes nothing")
        }
        async fn is_done(&self, _: &JobId, _: BatchNumber) -> Result<bool, LedgerError> {
            unreachable!("a watch asks for counters only")
        }
        async fn begin(
            &self,
            _: &JobId,
            _: BatchNumber,
            _: Option<&str>,
        ) -> Result<Option<Begun>, LedgerError> {
            unreachable!("a watch works on no batch")
        }
        async fn complete(
            &self,
            _: &JobId,
            _: BatchNumber,
            _: &BatchOutcome,
        ) -> Result<Option<Completion>, LedgerError> {
            unreachable!("a watch changes nothing")
        }
        async fn finalized(&self, _: &JobRecord, _: u64, _: &BatchOutcome) -> Result<(), LedgerError> {
            unreachable!("a watch changes nothing")
        }
        async fn forget(&self, _: &JobId) -> Result<(), LedgerError> {
            unreachable!("a watch changes nothing")
        }
        async fn claim(&self, _: &JobId, _: BatchNumber, _: &str) -> Result<(), LedgerError> {
            unreachable!("a watch changes nothing")
        }
        async fn release(&self, _: &JobId, _: BatchNumber) -> Result<(), LedgerError> {
            unreachable!("a watch changes nothing")
        }
        async fn claims(&self, _: &JobId, _: usize) -> Result<Vec<Claim>, LedgerError> {
            unreachable!("a watch asks for counters only")
        }
        async fn reclaim(
            &self,
            _: &JobId,
            _: BatchNumber,
            _: &str,
            _: Duration,
        ) -> Result<bool, LedgerError> {
            unreachable!("a watch changes nothing")
        }
        async fn cancel(&self, _: &JobId) -> Result<bool, LedgerError> {
            unreachable!("a watch changes nothing")
        }
        async fn state(&self, _: &JobId) -> Result<Option<JobState>, LedgerError> {
            unreachable!("a watch asks for counters only")
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
                Answer::Away => {
                    Err(LedgerError::Unreachable { ledger: "h:1".into(), reason: "refused".into() })
                }
            }
        }
        async fn jobs(&self, _: usize) -> Result<Vec<Progress>, LedgerError> {
            unreachable!("a watch asks for one job")
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
        let (ledger, job, stop) = (
            Scripted::new([Known(JobState::Running, 1)]),
            "job-1".parse().unwrap(),
            CancellationToken::new(),
        );
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
        let (ledger, job, stop) = (
            Scripted::new([Known(JobState::Running, 1)]),
            "job-1".parse().unwrap(),
            CancellationToken::new(),
        );
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
}
