//! Follows one job until it ends: what every view of a moving job has in common.
//!
//! Reads the ledger at a fixed pace and nothing else of the job. [`Follower`] decides when a job has ended and for
//! how long a ledger that is away is waited for; what is shown is a [`View`]'s. It never changes anything, and
//! leaving it leaves the job at work.

use crate::{connect::Context, errors::Stop, progress::View, target};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use trawl_common::{
    broker::Broker,
    config::exit,
    job::{JobId, QueueName},
    ledger::{JobState, Ledger, LedgerError, Progress},
};

/// Between two looks at the ledger: quick enough for a bar, nothing for Redis.
pub const POLL: Duration = Duration::from_millis(500);

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
    let mut follower = Follower::new(f.job.clone(), f.strict);
    let mut stall = Stall::new();
    loop {
        let asked = tokio::select! {
            biased;
            () = f.stop.cancelled() => return Err(interrupted(f.job)),
            asked = f.ledger.progress(f.job) => asked,
        };
        let moving = asked.as_ref().ok().cloned().flatten();
        if let Some(ended) = follower.take(asked, view)? {
            return Ok(ended);
        }
        if let Some(progress) = moving {
            stall.look(f.broker, &progress, view).await;
        }
        tokio::select! {
            biased;
            () = f.stop.cancelled() => return Err(interrupted(f.job)),
            () = sleep(POLL) => {}
        }
    }
}

/// Somebody stopped watching, the job has not ended.
pub fn interrupted(job: &JobId) -> Stop {
    Stop::signalled(exit::INTERRUPTED, format!("stopped watching; job {job} goes on"))
        .hint(format!("`trawl watch {job}` follows it again, `trawl cancel {job}` ends it"))
}

/// Judges the ledger's answers about one job.
pub struct Follower {
    job: JobId,
    strict: bool,
    known: bool,
    absence: Absence,
}

impl Follower {
    /// One that has seen nothing yet; `strict` makes failed images a failure.
    pub fn new(job: JobId, strict: bool) -> Self {
        Self { job, strict, known: false, absence: Absence::default() }
    }

    /// Takes an answer; gives the last standing and the exit code if the job has ended.
    ///
    /// # Errors
    /// Not found, a ledger that stays away for [`LEDGER_PATIENCE`] or refuses us, what the view gives.
    pub fn take(
        &mut self,
        asked: Result<Option<Progress>, LedgerError>,
        view: &mut dyn View,
    ) -> Result<Option<(Progress, u8)>, Stop> {
        let job = &self.job;
        match asked {
            Ok(Some(progress)) => {
                self.absence.over(view);
                self.known = true;
                if matches!(progress.state, JobState::Complete | JobState::Cancelled) {
                    view.end(&progress)?;
                    let failed = self.strict && progress.images_failed > 0;
                    return Ok(Some((progress, if failed { exit::FAILED_IMAGES } else { exit::OK })));
                }
                view.show(&progress)?;
            }
            Ok(None) if !self.known => return Err(target::unknown(job)),
            // A ledger that lost the job is filled again by the workers, from the output.
            Ok(None) => self.absence.note(view, &format!("the ledger no longer knows job {job}"), || {
                Stop::transient(format!("the ledger lost job {job} and did not get it back"))
            })?,
            Err(error @ LedgerError::Unreachable { .. }) => {
                self.absence.note(view, "the ledger does not answer", || Stop::from(error))?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(None)
    }
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
mod tests;
