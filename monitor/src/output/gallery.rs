//! The galleries: an index a job, for the few jobs that somebody looks at.
//!
//! Asked by the pages. An index is built in the background when it is first asked for, and goes on growing while the
//! job does and somebody asks; at most so many jobs are kept, the latest used. A page waits for that, for a moment only.

use super::{Submission, index::Index, indexing::Reading, place_of};
use crate::{Monitor, bounded::Bounded, watch::job::is_active};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};
use trawl_common::{disposition::describe, ledger::Progress};

/// Jobs whose rows are kept; with the default of 50,000 rows ten megabytes each.
const MAX_GALLERIES: usize = 4;

/// Indices built at once: each fetches and decodes parts.
const BUILDS_AT_ONCE: usize = 2;

/// An index of a job that goes on is made longer after this time, if it is asked for: a listing of its parts.
const GROW_EVERY: Duration = Duration::from_secs(10);

/// A page waits so long for an index that is being built, and then shows what is there: rows that come later would
/// have stood among those that were shown.
const BUILD_PATIENCE: Duration = Duration::from_millis(1500);

/// The galleries of one monitor.
pub struct Galleries {
    open: Mutex<Bounded<Submission, Arc<Gallery>>>,
    builds: Semaphore,
    max_rows: usize,
}

/// One job's rows.
struct Gallery {
    index: watch::Sender<Arc<Index>>,
    building: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When it may be built again; `None`: at once.
    again: Option<Instant>,
    /// Whether the job was at its end when it was built last, and all was read.
    finished: bool,
    failure: Option<String>,
}

/// What is known of a job's rows at the moment.
pub struct Rows {
    /// The rows.
    pub index: Arc<Index>,
    /// Why there are none, if there was a reason.
    pub failure: Option<String>,
}

impl Galleries {
    /// None yet; at most `max_rows` rows each.
    pub fn new(max_rows: usize) -> Self {
        Self {
            open: Mutex::new(Bounded::new(MAX_GALLERIES, usize::MAX)),
            builds: Semaphore::new(BUILDS_AT_ONCE),
            max_rows,
        }
    }

    fn gallery(&self, progress: &Progress) -> Arc<Gallery> {
        let key = key(progress);
        let mut open = self.open.lock().expect("no panic while the galleries are held");
        if let Some(gallery) = open.get(&key) {
            return gallery.clone();
        }
        let gallery = Arc::new(Gallery {
            index: watch::Sender::new(Arc::default()),
            building: AtomicBool::new(false),
            state: Mutex::default(),
        });
        open.insert(key, gallery.clone(), 1);
        gallery
    }

    /// The most frequent labels of a job whose gallery is open; none otherwise.
    pub fn labels(&self, progress: &Progress, limit: usize) -> Vec<(String, u64)> {
        let mut open = self.open.lock().expect("no panic while the galleries are held");
        open.get(&key(progress))
            .map(|gallery| gallery.index.borrow().labels(limit).to_vec())
            .unwrap_or_default()
    }

    /// The key of a row, if its job's gallery is open and has it.
    pub fn image_key(&self, progress: &Progress, batch: u64, row: u32) -> Option<String> {
        let mut open = self.open.lock().expect("no panic while the galleries are held");
        let index = open.get(&key(progress))?.index.borrow().clone();
        index.key(batch, row).map(str::to_owned)
    }
}

fn key(progress: &Progress) -> Submission {
    (progress.job.clone(), progress.created_unix_ms)
}

/// The rows of a job as far as they are known; has them read in the background if they may have become more, and waits a
/// moment for that. Cancel safe: the reading goes on.
pub async fn rows(monitor: &Arc<Monitor>, progress: &Progress) -> Rows {
    let gallery = monitor.galleries.gallery(progress);
    let mut index = gallery.index.subscribe();
    build_if_due(monitor, &gallery, progress);
    let built = async {
        index.mark_unchanged();
        while gallery.building.load(Ordering::Acquire) {
            if index.changed().await.is_err() {
                return;
            }
        }
    };
    let _waited_long_enough = timeout(BUILD_PATIENCE, built).await;
    let failure = gallery.state.lock().expect("no panic while the state is held").failure.clone();
    let index = gallery.index.borrow().clone();
    Rows { index, failure }
}

fn build_if_due(monitor: &Arc<Monitor>, gallery: &Arc<Gallery>, progress: &Progress) {
    {
        let state = gallery.state.lock().expect("no panic while the state is held");
        if state.finished || state.again.is_some_and(|again| Instant::now() < again) {
            return;
        }
    }
    if gallery.building.swap(true, Ordering::AcqRel) {
        return;
    }
    let (monitor, gallery, progress) = (monitor.clone(), gallery.clone(), progress.clone());
    tokio::spawn(async move {
        let _over = Over(&gallery);
        let stop = monitor.stop.clone();
        let built = tokio::select! {
            () = stop.cancelled() => Ok(()),
            built = build(&monitor, &gallery, &progress) => built,
        };
        let mut state = gallery.state.lock().expect("no panic while the state is held");
        state.finished = built.is_ok() && !is_active(progress.state);
        state.again = Some(Instant::now() + GROW_EVERY);
        state.failure = built.err();
    });
}

/// The end of a build, however it came.
struct Over<'a>(&'a Gallery);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.building.store(false, Ordering::Release);
        // For who waits for rows that will not come.
        self.0.index.send_modify(|_| {});
    }
}

async fn build(monitor: &Monitor, gallery: &Gallery, progress: &Progress) -> Result<(), String> {
    let _permit = monitor.galleries.builds.acquire().await.map_err(|error| error.to_string())?;
    let spec = monitor.outputs.spec(progress).await.map_err(|error| describe(&error))?;
    let out = place_of(&progress.out).map_err(|error| error.to_string())?;
    let store = monitor.seams.stores.open(&out).await;
    let before = gallery.index.borrow().clone();
    let reading = Reading { store: &*store, out: &out, spec: &spec, max_rows: monitor.galleries.max_rows };
    let publish = |index: Index| {
        gallery.index.send_replace(Arc::new(index));
    };
    reading.run(&before, publish).await.map_err(|error| describe(&error))
}
