//! Solo: a batch that may have killed its worker, alone in this process.
//!
//! Takes the place of the usual work when a delivery came back without a word. Its neighbours finish first and
//! new ones wait, so that nobody shares its fate. First the whole batch is tried again, journalled: most workers
//! die of something else. If that ends without a word too, its images go one by one, each journalled before it is
//! decoded, until the one that kills has its row and the rest are done. It must never start on an image whose
//! journal entry is not durable.

use super::{
    Pipeline,
    batch::{BatchRows, OpenBatch},
    journal::Journal,
    outcomes::Quarantine,
};
use crate::jobs::JobContext;
use std::sync::Arc;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use trawl_common::{
    batch::BatchDescriptor, disposition::Failure, error_code::ErrorCode, results::row::ResultRow,
    storage::Storage,
};

/// Keeps solo batches away from all others of this process. Held by a batch from before its work until it is
/// settled; a solo batch that waits lets no new ones pass.
#[derive(Debug, Clone, Default)]
pub struct Room(Arc<RwLock<()>>);

/// A batch's right to be in work.
pub enum Place {
    /// Beside others.
    Shared(OwnedRwLockReadGuard<()>),
    /// With nobody else.
    Alone(OwnedRwLockWriteGuard<()>),
}

impl Room {
    /// Waits for a place. Cancel safe.
    pub async fn enter(&self, alone: bool) -> Place {
        match alone {
            true => Place::Alone(self.0.clone().write_owned().await),
            false => Place::Shared(self.0.clone().read_owned().await),
        }
    }
}

/// What a solo batch works with.
struct Solo<'a> {
    pipeline: &'a Pipeline,
    store: Arc<dyn Storage>,
    job: &'a JobContext,
    batch: &'a Arc<OpenBatch>,
}

impl Pipeline {
    /// Computes the rows of a batch that is alone in this process. `last` as in [`super::fetch::Fetcher::feed`].
    ///
    /// # Errors
    /// [`Failure`]; the journal then says that nobody died.
    pub(super) async fn compute_alone(
        &self,
        descriptor: BatchDescriptor,
        job: &Arc<JobContext>,
        last: bool,
    ) -> Result<(Arc<OpenBatch>, Vec<ResultRow>), Failure> {
        let store = self.stores.open(job.layout.root()).await;
        let journal = Journal::read(&*store, &job.layout, &descriptor).await?;
        let mut journal = journal.unwrap_or_else(|| Journal::new(&descriptor));
        let (batch, mut rows) = OpenBatch::open(descriptor, job.clone());
        let _abandon = super::AbandonOnDrop(batch.clone());
        let solo = Solo { pipeline: self, store, job, batch: &batch };
        tracing::warn!(
            job.id = %batch.descriptor.job, batch.number = batch.descriptor.batch.0,
            one_by_one = journal.one_by_one(), blamed = journal.blamed().count(),
            "a batch came back without a word; it is worked on alone"
        );
        let one_by_one = journal.one_by_one();
        self.meters.quarantine(if one_by_one { Quarantine::OneByOne } else { Quarantine::Alone });
        let ended = match one_by_one {
            false => solo.whole(&mut journal, &mut rows, last).await,
            true => solo.one_by_one(&mut journal, &mut rows, last).await,
        };
        if !matches!(ended, Err(Failure::DeviceLost(_))) {
            // This process lives: nobody is to be blamed for what went wrong, now or at the put.
            let journal = Journal { current: None, worker: self.worker.clone(), ..journal };
            if let Err(error) = journal.write(&*solo.store, &job.layout, &batch.descriptor).await {
                tracing::warn!(%error, "the journal of a batch could not be put right");
            }
        }
        ended.map(|rows| (batch.clone(), rows))
    }
}

impl Solo<'_> {
    async fn note(&self, journal: &mut Journal) -> Result<(), Failure> {
        journal.worker.clone_from(&self.pipeline.worker);
        Ok(journal.write(&*self.store, &self.job.layout, &self.batch.descriptor).await?)
    }

    /// All images together.
    async fn whole(
        &self,
        journal: &mut Journal,
        rows: &mut BatchRows,
        last: bool,
    ) -> Result<Vec<ResultRow>, Failure> {
        journal.passes += 1;
        self.note(journal).await?;
        let all: Vec<usize> = (0..self.batch.descriptor.images.len()).collect();
        let ended = self.pipeline.feed_and_wait(self.batch, &all, rows, last).await;
        journal.passes -= 1;
        ended
    }

    /// One image after the other.
    async fn one_by_one(
        &self,
        journal: &mut Journal,
        rows: &mut BatchRows,
        last: bool,
    ) -> Result<Vec<ResultRow>, Failure> {
        for (image, deaths) in journal.blamed() {
            if image < self.batch.descriptor.images.len() {
                let message =
                    format!("the worker's process ended {deaths} times while it worked on this image");
                self.batch.fail_row(image, ErrorCode::CrashedWorker, message);
            }
        }
        let left = journal.left(self.batch.descriptor.images.len());
        let mut filled = self.batch.filled();
        let mut withheld = Vec::new();
        for &image in &left {
            journal.current = Some(image);
            self.note(journal).await?;
            let before = *filled.borrow();
            match self.pipeline.feed(self.batch, &[image], false).await {
                Ok(()) => {}
                // As in a whole batch: one rotten object does not cost the others.
                Err(Failure::Storage(error)) if last => {
                    withheld.push((image, error));
                    continue;
                }
                Err(failure) => return Err(failure),
            }
            tokio::select! {
                biased;
                rows = &mut *rows => return super::received(rows),
                changed = filled.wait_for(|now| *now > before) => drop(changed),
            }
        }
        if withheld.len() == left.len()
            && let Some((_, error)) = withheld.pop()
        {
            return Err(error.into());
        }
        for (image, error) in withheld {
            self.batch.fail_row(image, ErrorCode::Unreadable, error.to_string());
        }
        super::received(rows.await)
    }
}
