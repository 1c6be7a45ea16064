//! A batch while its images are on their way through the stages.
//!
//! Made by intake, filled row by row by fetch, decode and infer in any order, handed to sink when its
//! last row is in. Every image gets exactly one row: a second one for the same image is a bug and panics
//! in tests.

use crate::jobs::JobContext;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{oneshot, watch};
use trawl_common::{
    batch::{BatchDescriptor, ImageRef},
    disposition::Failure,
    error_code::ErrorCode,
    results::row::{Outcome, ResultRow},
    stages::{Stage, StageTimes},
};

/// The rows of a batch that is being worked on.
pub struct OpenBatch {
    /// What was planned.
    pub descriptor: BatchDescriptor,
    /// The job it belongs to.
    pub job: Arc<JobContext>,
    /// For what the compute threads have to say about it: they are in no task.
    pub log: tracing::Span,
    rows: Mutex<Rows>,
    /// How many rows are in.
    filled: watch::Sender<usize>,
    abandoned: AtomicBool,
    /// Microseconds by stage.
    spent: [AtomicU64; Stage::ALL.len()],
}

/// A batch's rows in the order of its images, or why there are none.
pub type BatchRows = oneshot::Receiver<Result<Vec<ResultRow>, Failure>>;

struct Rows {
    rows: Vec<Option<ResultRow>>,
    missing: usize,
    /// Gone once the rows were sent; `Err` if a stage could not do its work on the batch at all.
    done: Option<oneshot::Sender<Result<Vec<ResultRow>, Failure>>>,
}

impl OpenBatch {
    /// Opens a batch; the receiver gets its rows, in the order of its images, or why there are none.
    pub fn open(descriptor: BatchDescriptor, job: Arc<JobContext>) -> (Arc<Self>, BatchRows) {
        let (done, receiver) = oneshot::channel();
        let missing = descriptor.images.len();
        let rows = Rows { rows: vec![None; missing], missing, done: Some(done) };
        let (rows, filled) = (Mutex::new(rows), watch::Sender::new(0));
        let (abandoned, spent) = (AtomicBool::new(false), Default::default());
        let log = tracing::Span::current();
        let batch = Self { descriptor, job, log, rows, filled, abandoned, spent };
        (Arc::new(batch), receiver)
    }

    /// The planned image `index`.
    pub fn image(&self, index: usize) -> &ImageRef {
        &self.descriptor.images[index]
    }

    /// Puts in the row of image `index`; with the last one the batch is handed on.
    pub fn set_row(&self, index: usize, row: ResultRow) {
        let mut rows = self.rows.lock().expect("no panic while rows are held");
        debug_assert!(rows.rows[index].is_none(), "image {index} has a row already");
        if rows.rows[index].replace(row).is_none() {
            rows.missing -= 1;
            self.filled.send_modify(|filled| *filled += 1);
        }
        if rows.missing == 0
            && let Some(done) = rows.done.take()
        {
            let rows = std::mem::take(&mut rows.rows).into_iter().flatten().collect();
            // The receiver is gone if the batch was given up meanwhile; then nobody wants the rows.
            let _unwanted = done.send(Ok(rows));
        }
    }

    /// Puts in an error row for an image of which nothing but the plan is known.
    pub fn fail_row(&self, index: usize, code: ErrorCode, message: String) {
        let image = self.image(index);
        let row = ResultRow {
            key: image.key.clone(),
            etag: image.etag.clone(),
            size: image.size,
            width: None,
            height: None,
            outcome: Outcome::Failed { code, message },
            carried: image.carried.clone(),
        };
        self.set_row(index, row);
    }

    /// Notes time that a stage spent on its images.
    pub fn spent(&self, stage: Stage, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.spent[stage as usize].fetch_add(us, Ordering::Relaxed);
    }

    /// Where its time went so far; stages that did nothing for it are not in it.
    pub fn stages(&self) -> StageTimes {
        let us =
            Stage::ALL.into_iter().zip(&self.spent).map(|(stage, us)| (stage, us.load(Ordering::Relaxed)));
        StageTimes { us: us.filter(|(_, us)| *us > 0).collect(), ..StageTimes::default() }
    }

    /// How many of its images have their row, for those who wait for the next.
    pub fn filled(&self) -> watch::Receiver<usize> {
        self.filled.subscribe()
    }

    /// Ends the batch without rows.
    pub fn fail(&self, failure: Failure) {
        self.abandon();
        if let Some(done) = self.rows.lock().expect("no panic while rows are held").done.take() {
            let _unwanted = done.send(Err(failure));
        }
    }

    /// Says that nobody waits for the rows any more, so that stages can skip its images.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// Whether its images can be skipped.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}
