//! Cancels and pauses jobs, and takes paused ones up again: for `trawl` and the monitor alike.
//!
//! A held job's messages are dropped as workers come to them, so that nothing goes round in the queue; to take it up again
//! is to queue what has no part, as the same submission would. The ledger is told first, which is what workers ask; the
//! mark in the output is a best effort, for a ledger that is wiped: an output that cannot be reached from here must not
//! keep anybody from holding a job. Nothing is deleted but marks.

use super::{
    Enlisting, PlanError, Planned, Ready,
    cancellation::{self, Hold},
    submit::{PUBLISH_WINDOW, enlist, stored_spec},
};
use crate::{
    broker::Broker,
    config::unix_ms,
    disposition::describe,
    job::JobId,
    ledger::{JobState, Ledger, LedgerError, Progress},
    location::Location,
    results::OutputLayout,
    storage::Stores,
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// For the mark: the job is held already, and whoever waits wants to know that.
const MARK_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a job is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Nobody knows it.
    #[error("no job `{0}` is known; `trawl jobs` lists those that are")]
    Unknown(JobId),
    /// It is in a state in which this makes no sense.
    #[error("job {job} is {state}: there is nothing to {what}")]
    Nothing {
        /// The job.
        job: JobId,
        /// Its state, in a word.
        state: &'static str,
        /// What was asked for: cancel, pause, resume.
        what: &'static str,
    },
    /// The output has another job.
    #[error("`{out}` is not the output of job {job}: {reason}")]
    OtherOutput {
        /// The job.
        job: JobId,
        /// The place.
        out: String,
        /// What is there.
        reason: String,
    },
    /// It could not be queued again; asking again goes on.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl HoldError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Plan(error) => error.is_transient(),
            Self::Ledger(error) => error.is_transient(),
            Self::Unknown(_) | Self::Nothing { .. } | Self::OtherOutput { .. } => false,
        }
    }
}

/// Holds a job; held already, nothing changes. Gives the reason if its output could not be marked. Cancel safe.
///
/// # Errors
/// [`HoldError`] if it is not known or over, or what the ledger gives.
pub async fn hold(
    stores: &Arc<Stores>,
    ledger: &dyn Ledger,
    job: &JobId,
    hold: Hold,
) -> Result<Result<(), String>, HoldError> {
    let (held, what) = match hold {
        Hold::Cancelled => (ledger.cancel(job).await?, "cancel"),
        Hold::Paused => (ledger.pause(job).await?, "pause"),
    };
    if !held {
        let state = ledger.state(job).await?.ok_or_else(|| HoldError::Unknown(job.clone()))?;
        return Err(HoldError::Nothing { job: job.clone(), state: state.name(), what });
    }
    Ok(match ledger.progress(job).await? {
        Some(progress) => mark(stores, &progress, hold).await,
        None => Err("the ledger has forgotten the job meanwhile".to_owned()),
    })
}

/// Marks the output, if it can be reached and is this job's.
async fn mark(stores: &Arc<Stores>, progress: &Progress, hold: Hold) -> Result<(), String> {
    let place = Location::parse(&progress.out, Path::new("/")).map_err(|error| error.to_string())?;
    let marking = async {
        let (store, layout) = (stores.open(&place).await, OutputLayout::new(place.clone()));
        let spec = stored_spec(&*store, &layout).await.map_err(|error| describe(&error))?;
        let spec = spec.ok_or_else(|| format!("`{place}` is not the output of a job"))?;
        if spec.job != progress.job || spec.created_unix_ms != progress.created_unix_ms {
            return Err(format!("`{place}` has another job by now, {}", spec.job));
        }
        cancellation::mark(&*store, &layout, &spec, hold, unix_ms()).await.map_err(|error| describe(&error))
    };
    tokio::time::timeout(MARK_TIMEOUT, marking)
        .await
        .unwrap_or_else(|_| Err(format!("`{place}` did not answer within {} s", MARK_TIMEOUT.as_secs())))
}

/// Takes a paused job up again: lists on if it was not at the plan's end, and queues what has no part. Cut short
/// anywhere, the next call goes on.
///
/// # Errors
/// [`HoldError`] if it is not paused, or cannot be queued.
pub async fn resume(
    stores: &Arc<Stores>,
    broker: &dyn Broker,
    ledger: &dyn Ledger,
    job: &JobId,
    on_progress: &mut (dyn FnMut(&Planned) + Send),
    cancel: &CancellationToken,
) -> Result<Planned, HoldError> {
    let progress = ledger.progress(job).await?.ok_or_else(|| HoldError::Unknown(job.clone()))?;
    if progress.state != JobState::Paused {
        let state = progress.state.name();
        return Err(HoldError::Nothing { job: job.clone(), state, what: "resume" });
    }
    let out = || progress.out.clone();
    let other = |reason| HoldError::OtherOutput { job: job.clone(), out: out(), reason };
    let place = Location::parse(&progress.out, Path::new("/")).map_err(PlanError::from)?;
    let (store, layout) = (stores.open(&place).await, OutputLayout::new(place));
    let spec =
        stored_spec(&*store, &layout).await?.ok_or_else(|| other("it has no _trawl/job.json".into()))?;
    if spec.job != *job || spec.created_unix_ms != progress.created_unix_ms {
        return Err(other(format!("it has job {} by now", spec.job)));
    }
    // Before the ledger is opened, as a submission does it.
    cancellation::unmark(&*store, &layout).await.map_err(PlanError::from)?;
    let ctx =
        Enlisting { spec: &spec, stores, broker, ledger, window: PUBLISH_WINDOW, ready: Ready::DEFAULT };
    Ok(enlist(ctx, on_progress, cancel).await?)
}
