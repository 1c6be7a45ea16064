//! `trawl-monitor`: jobs, results, workers and queues, for people and for Prometheus.
//!
//! Beside everything else: nothing waits for it and nothing breaks without it. [`watch`] asks Redis and RabbitMQ in the
//! background, [`output`] reads the bucket, [`web`] answers from what the two know. It changes something only when
//! somebody with the token says so, in [`web::writes`] alone. Every list, cache, queue and wait in here has a limit.

pub mod bounded;
pub mod cli;
pub mod detail;
pub mod management;
pub mod output;
pub mod seams;
pub mod serve;
#[cfg(test)]
mod testing;
pub mod watch;
pub mod web;

use output::{Outputs, gallery::Galleries, thumbnail::Thumbnails};
use seams::Seams;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::sync::CancellationToken;
use trawl_common::location::Location;
use watch::{Known, poll::VIEWED_FOR, topics::Topics};
use web::{guard::Guard, session::Sessions};

/// Everything of one monitor.
pub struct Monitor {
    /// What it looks at.
    pub seams: Seams,
    /// What it knows.
    pub known: Known,
    /// What it tells the open pages.
    pub topics: Topics,
    /// Specs.
    pub outputs: Outputs,
    /// Rows.
    pub galleries: Galleries,
    /// Images.
    pub thumbnails: Thumbnails,
    /// Who may change something.
    pub sessions: Sessions,
    /// Who may ask.
    pub guard: Guard,
    /// Places of open event streams.
    pub streams: Arc<Semaphore>,
    /// Places whose children are outputs.
    pub below: Vec<Location>,
    /// Ends everything.
    pub stop: CancellationToken,
    began: Instant,
    viewed_ms: AtomicU64,
    looked_ms: AtomicU64,
}

/// What a monitor is made with.
pub struct Settings {
    /// Rows of a job that its gallery looks at.
    pub gallery_rows: usize,
    /// Open event streams at once.
    pub max_streams: usize,
    /// Places whose children are outputs.
    pub below: Vec<Location>,
    /// Who may ask.
    pub guard: Guard,
    /// The token for changes; without one there are none.
    pub token: Option<String>,
}

impl Monitor {
    /// A monitor that knows nothing yet; nothing is asked.
    pub fn new(seams: Seams, settings: Settings, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            outputs: Outputs::new(seams.stores.clone()),
            galleries: Galleries::new(settings.gallery_rows),
            thumbnails: Thumbnails::default(),
            known: Known::default(),
            topics: Topics::default(),
            sessions: Sessions::new(settings.token.as_deref()),
            guard: settings.guard,
            streams: Arc::new(Semaphore::new(settings.max_streams)),
            below: settings.below,
            stop,
            seams,
            began: Instant::now(),
            viewed_ms: AtomicU64::new(0),
            looked_ms: AtomicU64::new(0),
        })
    }

    /// Notes that somebody looks at a page.
    pub fn view(&self) {
        self.viewed_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// Whether somebody looks at a page.
    pub fn is_viewed(&self) -> bool {
        let since =
            Duration::from_millis(self.now_ms().saturating_sub(self.viewed_ms.load(Ordering::Relaxed)));
        self.topics.has_listeners() || since < VIEWED_FOR
    }

    /// Notes that the poller has been round.
    pub fn looked(&self) {
        self.looked_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    /// For how long the poller has not been round.
    pub fn unlooked_for(&self) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(self.looked_ms.load(Ordering::Relaxed)))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
