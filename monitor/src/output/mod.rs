//! Jobs by their outputs: specs, and the standing of those that Redis does not know.
//!
//! The bucket is the truth, and it outlives Redis: an output that the monitor saw while it lives, or that lies under
//! one of `--outputs`, is shown from its own files. Read in the background, a few at a time, and only as often as
//! something may have changed.

pub mod discover;
pub mod gallery;
pub mod index;
pub mod indexing;
pub mod thumbnail;

use crate::{
    Monitor,
    bounded::Bounded,
    detail::model_name,
    seams::{ASK_TIMEOUT, within},
    watch::job::{Job, Source, is_active},
};
use futures::{StreamExt, stream};
use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;
use trawl_common::{
    job::{JobId, JobSpec},
    ledger::{JobState, Progress},
    location::Location,
    results::OutputLayout,
    standing::{self, StandingError},
    storage::Stores,
};

/// Specs that are remembered; each is a kilobyte, more with many sources.
const MAX_SPECS: usize = 512;

/// Outputs read at once: each may ask for thousands of footers.
const OUTPUTS_AT_ONCE: usize = 2;

/// Outputs read in one round, so that the newest are not kept waiting by the rest.
const OUTPUTS_A_ROUND: usize = 16;

/// Between two rounds.
const ROUND_EVERY: Duration = Duration::from_secs(2);

/// An output that is not complete is read again after this time: each part's footer is a request.
const UNFINISHED_AGAIN: Duration = Duration::from_secs(60);

/// One that could not be read.
const FAILED_AGAIN: Duration = Duration::from_secs(120);

/// For one output; the parts of a job of a million images are some thousand footers.
const STANDING_TIMEOUT: Duration = Duration::from_secs(120);

/// A job and when it was submitted: what an output is one of.
pub type Submission = (JobId, u64);

/// The specs that were read, and the stores to read them from.
pub struct Outputs {
    stores: Arc<Stores>,
    specs: Mutex<Bounded<Submission, Arc<JobSpec>>>,
}

/// Why an output is of no use for a job.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Its place is none.
    #[error("the job's output names no place: {0}")]
    Place(String),
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] StandingError),
    /// It was removed and submitted again, or belongs to another job.
    #[error("`{0}` has another job by now")]
    Another(String),
}

/// The place of an output, as the ledger has it.
///
/// # Errors
/// If it is none.
pub fn place_of(out: &str) -> Result<Location, OutputError> {
    Location::parse(out, Path::new("/")).map_err(|error| OutputError::Place(error.to_string()))
}

impl Outputs {
    /// No specs yet.
    pub fn new(stores: Arc<Stores>) -> Self {
        Self { stores, specs: Mutex::new(Bounded::new(MAX_SPECS, usize::MAX)) }
    }

    /// The spec of a job, read once. Cancel safe.
    ///
    /// # Errors
    /// [`OutputError`].
    pub async fn spec(&self, progress: &Progress) -> Result<Arc<JobSpec>, OutputError> {
        let key = (progress.job.clone(), progress.created_unix_ms);
        if let Some(spec) = self.specs().get(&key) {
            return Ok(spec.clone());
        }
        let spec = standing::spec(&self.stores, &place_of(&progress.out)?).await?;
        if (&spec.job, spec.created_unix_ms) != (&key.0, key.1) {
            return Err(OutputError::Another(progress.out.clone()));
        }
        let spec = Arc::new(spec);
        self.remember(spec.clone());
        Ok(spec)
    }

    fn remember(&self, spec: Arc<JobSpec>) {
        self.specs().insert((spec.job.clone(), spec.created_unix_ms), spec, 1);
    }

    fn specs(&self) -> std::sync::MutexGuard<'_, Bounded<Submission, Arc<JobSpec>>> {
        self.specs.lock().expect("no panic while the specs are held")
    }
}

/// Reads outputs that are due until the monitor stops.
pub async fn run(monitor: Arc<Monitor>) {
    let rounds = async {
        loop {
            read_due(&monitor).await;
            tokio::time::sleep(ROUND_EVERY).await;
        }
    };
    tokio::select! {
        () = monitor.stop.cancelled() => {}
        () = rounds => {}
    }
}

/// Reads the outputs that are due, the newest first.
pub async fn read_due(monitor: &Monitor) {
    let due: Vec<(Progress, Source)> = {
        let state = monitor.known.state();
        let now = Instant::now();
        let mut due: Vec<_> = state
            .jobs
            .values()
            .filter(|job| job.look_again.is_some_and(|at| at <= now))
            .map(|job| (job.progress.clone(), job.source))
            .collect();
        due.sort_unstable_by_key(|(progress, source)| {
            (*source != Source::Bucket, std::cmp::Reverse(progress.created_unix_ms))
        });
        due.truncate(OUTPUTS_A_ROUND);
        due
    };
    let reading = due.into_iter().map(|(progress, source)| read(monitor, progress, source));
    stream::iter(reading).buffer_unordered(OUTPUTS_AT_ONCE).collect::<Vec<()>>().await;
}

/// Reads what the ledger cannot tell: of a job that it knows the model and the end, of one that it has forgotten all.
async fn read(monitor: &Monitor, progress: Progress, source: Source) {
    let id = progress.job.clone();
    let again = match source {
        Source::Redis => read_spec(monitor, &progress).await,
        Source::Bucket => read_standing(monitor, &progress).await,
    };
    let mut state = monitor.known.state();
    let Some(job) =
        state.jobs.get_mut(&id).filter(|job| job.progress.created_unix_ms == progress.created_unix_ms)
    else {
        return;
    };
    match again {
        // The ledger forgot it meanwhile: then it was made due by that.
        Ok(_) if job.source != source => {}
        Ok(again) => job.look_again = again.map(|after| Instant::now() + after),
        Err(reason) => {
            tracing::debug!(job.id = %id, reason, "an output could not be read");
            job.look_again = Some(Instant::now() + FAILED_AGAIN);
        }
    }
}

/// After which time there may be something new; `None`: never.
type Again = Option<Duration>;

async fn read_spec(monitor: &Monitor, progress: &Progress) -> Result<Again, String> {
    let spec = within(STANDING_TIMEOUT, monitor.outputs.spec(progress)).await?;
    if let Some(job) = monitor.known.state().jobs.get_mut(&progress.job) {
        job.model = Some(model_name(&spec));
    }
    Ok(None)
}

/// When a complete job was finished, as its manifest says; asked once.
pub async fn finished_unix_ms(monitor: &Monitor, job: &Job) -> Option<u64> {
    if job.progress.state != JobState::Complete || job.finish_asked {
        return job.finished_unix_ms;
    }
    let reading = async {
        let place = place_of(&job.progress.out).map_err(|error| error.to_string())?;
        let store = monitor.seams.stores.open(&place).await;
        within(ASK_TIMEOUT, standing::manifest(&*store, &OutputLayout::new(place))).await
    };
    let finished = reading.await.ok().flatten().map(|manifest| manifest.finished_unix_ms);
    if let Some(known) = monitor.known.state().jobs.get_mut(&job.progress.job) {
        known.finish_asked = true;
        known.finished_unix_ms = finished;
    }
    finished
}

async fn read_standing(monitor: &Monitor, progress: &Progress) -> Result<Again, String> {
    let place = place_of(&progress.out).map_err(|error| error.to_string())?;
    let standing = within(STANDING_TIMEOUT, standing::standing(&monitor.seams.stores, &place)).await?;
    Ok(tell(monitor, standing))
}

/// Takes over what an output says, unless the ledger knows the job.
fn tell(monitor: &Monitor, standing: standing::Standing) -> Again {
    let standing::Standing { spec, progress, finished_unix_ms } = standing;
    let (id, again) = (spec.job.clone(), is_active(progress.state).then_some(UNFINISHED_AGAIN));
    let model = model_name(&spec);
    monitor.outputs.remember(Arc::new(spec));
    let mut state = monitor.known.state();
    if state.jobs.get(&id).is_some_and(|job| job.source == Source::Redis) {
        return again;
    }
    state.tell(progress, Source::Bucket);
    if let Some(job) = state.jobs.get_mut(&id) {
        job.model = Some(model);
        (job.finished_unix_ms, job.finish_asked) = (finished_unix_ms, true);
        job.look_again = again.map(|after| Instant::now() + after);
    }
    again
}
