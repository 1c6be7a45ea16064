//! The plan files of one output, as a log that only grows at its end.
//!
//! The producer reads what is there, then appends. Appending is create-only: if another producer of the same
//! job was quicker, its file stands, and this one reads it and goes on after it. Nothing is ever replaced.

use super::{PlanError, cut::PlanSlice};
use crate::{
    batch::{BatchNumber, ImageRef},
    offload::offload,
    results::{
        Cursor, OutputLayout, PlanDone, PlanFileFooter,
        footer::FetchFooterError,
        plan_file::{encode_plan_file, read_plan_file},
    },
    storage::{PutOutcome, Storage},
};
use futures::{StreamExt, stream};
use std::sync::Arc;

/// The largest plan file read: [`super::cut::MAX_PLAN_FILE_IMAGES`] and a batch, with the longest keys.
const MAX_PLAN_FILE_BYTES: u64 = 256 << 20;

/// The largest end mark read; it has four numbers.
pub(super) const MAX_DONE_BYTES: u64 = 64 << 10;

/// Footers of plan files read at a time at most.
const FOOTERS_AT_ONCE: usize = 32;

/// What became of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The slice is in the plan.
    Written,
    /// Another producer wrote this file with other batches: [`PlanLog::catch_up`], then list on.
    Overtaken,
}

/// The end of the log as far as it was read or written.
#[derive(Debug)]
pub struct PlanLog {
    store: Arc<dyn Storage>,
    layout: OutputLayout,
    /// The index of the next file.
    pub next_file: u32,
    /// The number of the next batch.
    pub next_batch: u64,
    /// Where the listing goes on.
    pub cursor: Cursor,
}

impl PlanLog {
    /// The log of an output, at its beginning: nothing is read yet.
    pub fn new(store: Arc<dyn Storage>, layout: OutputLayout) -> Self {
        Self { store, layout, next_file: 0, next_batch: 0, cursor: Cursor::default() }
    }

    /// Reads the footers of the files that are there, up to the first that is not. More at a time the more there are:
    /// a new plan costs one request that finds nothing, a plan of a thousand files some dozens of round trips.
    ///
    /// # Errors
    /// [`PlanError::BrokenPlan`] if they do not follow one another.
    pub async fn catch_up(&mut self) -> Result<(), PlanError> {
        let mut at_once = 1;
        loop {
            let store = self.store.clone();
            let fetch = |key: String| {
                let store = store.clone();
                async move { PlanFileFooter::fetch(&*store, &key).await }
            };
            let keys: Vec<String> =
                (self.next_file..).take(at_once).map(|index| self.layout.plan_file(index)).collect();
            let mut footers = stream::iter(keys).map(fetch).buffered(FOOTERS_AT_ONCE);
            while let Some(footer) = footers.next().await {
                match footer {
                    Ok(footer) => self.follow(footer)?,
                    Err(FetchFooterError::Storage(error)) if error.is_not_found() => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
            at_once = (2 * at_once).min(FOOTERS_AT_ONCE);
        }
    }

    /// Goes on behind the next file, if it is the one that comes next.
    fn follow(&mut self, footer: PlanFileFooter) -> Result<(), PlanError> {
        let end = self.cursor.images + footer.images;
        if footer.first_batch.0 != self.next_batch || footer.cursor.images != end {
            let (file, first, images) = (self.next_file, footer.first_batch.0, footer.cursor.images);
            return Err(self.broken(format!(
                "file {file} begins with batch {first} and ends at image {images}, it should begin with batch {} \
                 and end at image {end}",
                self.next_batch,
            )));
        }
        self.advance(footer.batches, footer.cursor);
        Ok(())
    }

    /// Writes the next file.
    ///
    /// # Errors
    /// [`PlanError`]; nothing is written then, or all of it.
    pub async fn append(&mut self, slice: PlanSlice) -> Result<Appended, PlanError> {
        let key = self.layout.plan_file(self.next_file);
        let (batches, cursor) = (slice.batches.len() as u64, slice.cursor.clone());
        let encode = move || encode_plan_file(slice.first_batch, &slice.batches, &slice.cursor);
        let bytes =
            offload(encode).await.map_err(|reason| PlanError::PlanFile { key: key.clone(), reason })?;
        if self.store.put_if_absent(&key, bytes.clone()).await? == PutOutcome::AlreadyExists {
            // Equal plans have equal bytes: it may be our own put, whose reply was lost.
            let there = self.store.get(&key, MAX_PLAN_FILE_BYTES).await?;
            if there.bytes != bytes {
                return Ok(Appended::Overtaken);
            }
        }
        crate::failpoint::hit(crate::failpoint::PLAN_DURABLE).await;
        self.advance(batches, cursor);
        Ok(Appended::Written)
    }

    /// The plan's end, if it is marked.
    ///
    /// # Errors
    /// [`PlanError::BrokenPlan`] if the mark does not agree with the files that were read.
    pub async fn done(&self) -> Result<Option<PlanDone>, PlanError> {
        let key = self.layout.plan_done();
        let object = match self.store.get(&key, MAX_DONE_BYTES).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let done = PlanDone::parse(&object.bytes).map_err(|reason| PlanError::PlanFile { key, reason })?;
        if (done.batches, done.images) != (self.next_batch, self.cursor.images) {
            return Err(self.broken(format!(
                "its end mark counts {} batches and {} images, the files have {} and {}",
                done.batches, done.images, self.next_batch, self.cursor.images
            )));
        }
        Ok(Some(done))
    }

    /// Marks the plan's end. `end` is where the listing stood then.
    ///
    /// # Errors
    /// [`PlanError::BrokenPlan`] if another producer marked another end.
    pub async fn finish(&self, end: &Cursor) -> Result<PlanDone, PlanError> {
        let done = PlanDone {
            batches: self.next_batch,
            images: self.cursor.images,
            skipped: end.skipped,
            unlistable: end.unlistable,
        };
        match self.store.put_if_absent(&self.layout.plan_done(), done.to_json()).await? {
            PutOutcome::Created => Ok(done),
            PutOutcome::AlreadyExists => Ok(self.done().await?.unwrap_or(done)),
        }
    }

    fn advance(&mut self, batches: u64, cursor: Cursor) {
        self.next_file += 1;
        self.next_batch += batches;
        self.cursor = cursor;
    }

    fn broken(&self, reason: String) -> PlanError {
        PlanError::BrokenPlan { prefix: self.layout.plan_prefix(), reason }
    }
}

/// The batches of plan file `index`.
///
/// # Errors
/// [`PlanError`] if it is not there or not readable.
pub async fn read_batches(
    store: &dyn Storage,
    layout: &OutputLayout,
    index: u32,
) -> Result<Vec<(BatchNumber, Vec<ImageRef>)>, PlanError> {
    let key = layout.plan_file(index);
    let object = store.get(&key, MAX_PLAN_FILE_BYTES).await?;
    let read = offload(move || read_plan_file(object.bytes)).await;
    read.map_err(|reason| PlanError::PlanFile { key, reason })
}

/// The images of one batch, from the plan file that has it; `None` if none has. Reads the footers of a few files
/// (they are in order, so it is a binary search) and one file.
///
/// # Errors
/// [`PlanError`] if the plan cannot be read.
pub async fn read_batch(
    store: &dyn Storage,
    layout: &OutputLayout,
    batch: BatchNumber,
) -> Result<Option<Vec<ImageRef>>, PlanError> {
    let (prefix, mut files) = (layout.plan_prefix(), 0_u32);
    let mut pages = store.list(&prefix, None);
    while let Some(page) = pages.next().await {
        // Counted and not compared: in what order their names sort is of no interest.
        let named = page?.objects.iter().filter(|o| layout.index_of_plan_file(&o.key).is_some()).count();
        files = files.saturating_add(u32::try_from(named).unwrap_or(u32::MAX));
    }
    let (mut low, mut high) = (0, files);
    while low < high {
        let middle = low + (high - low) / 2;
        let footer = PlanFileFooter::fetch(store, &layout.plan_file(middle)).await?;
        if footer.first_batch.0 > batch.0 {
            high = middle;
        } else if footer.first_batch.0 + footer.batches <= batch.0 {
            low = middle + 1;
        } else {
            let batches = read_batches(store, layout, middle).await?;
            return Ok(batches.into_iter().find(|(number, _)| *number == batch).map(|(_, images)| images));
        }
    }
    Ok(None)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{
        faults::{World, line::Line, storage::FaultyStorage},
        location::Location,
        storage::memory::MemoryStorage,
    };
    use std::{path::Path, time::Duration};

    /// A plan of `files` files of one batch of one image.
    async fn written(files: u64) -> (Arc<dyn Storage>, OutputLayout) {
        let store: Arc<dyn Storage> = Arc::new(MemoryStorage::new("s3://b"));
        let layout = OutputLayout::new(Location::parse("s3://b/out", Path::new("/")).unwrap());
        for index in 0..files {
            write(&store, &layout, index).await;
        }
        (store, layout)
    }

    /// Such a plan's file of that number, whatever the others are.
    pub(in crate::planning) async fn write(store: &Arc<dyn Storage>, layout: &OutputLayout, index: u64) {
        let cursor = Cursor { images: index + 1, ..Cursor::default() };
        let batches = vec![vec![ImageRef::whole(format!("s3://b/{index}"), None, 1)]];
        let slice = PlanSlice { first_batch: BatchNumber(index), batches, cursor };
        let mut log = PlanLog::new(store.clone(), layout.clone());
        (log.next_file, log.next_batch) = (u32::try_from(index).unwrap(), index);
        assert_eq!(log.append(slice).await.unwrap(), Appended::Written);
    }

    #[tokio::test]
    async fn plans_of_more_files_than_five_digits_count_are_read_by_number() {
        const FIRST: u64 = 99_998;
        const FILES: u64 = 100_003;
        let store: Arc<dyn Storage> = Arc::new(MemoryStorage::new("s3://b"));
        let layout = OutputLayout::new(Location::parse("s3://b/out", Path::new("/")).unwrap());
        for index in FIRST..FILES {
            write(&store, &layout, index).await;
        }
        let mut log = PlanLog::new(store.clone(), layout.clone());
        (log.next_file, log.next_batch, log.cursor.images) = (99_998, FIRST, FIRST);
        log.catch_up().await.unwrap();
        assert_eq!((u64::from(log.next_file), log.next_batch, log.cursor.images), (FILES, FILES, FILES));
        // The search for a batch counts the files and reads some of them by their numbers.
        for index in 0..FIRST {
            store.put(&layout.plan_file(u32::try_from(index).unwrap()), bytes::Bytes::new()).await.unwrap();
        }
        for batch in FIRST..FILES {
            let (mut low, mut high) = (0, FILES);
            while low + (high - low) / 2 != batch {
                let middle = low + (high - low) / 2;
                if middle < FIRST {
                    store.delete(&layout.plan_file(u32::try_from(middle).unwrap())).await.unwrap();
                    write(&store, &layout, middle).await;
                }
                if middle > batch { high = middle } else { low = middle + 1 }
            }
            let images = read_batch(&*store, &layout, BatchNumber(batch)).await.unwrap().unwrap();
            assert_eq!(images[0].key, format!("s3://b/{batch}"));
        }
        assert!(read_batch(&*store, &layout, BatchNumber(FILES)).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn catching_up_reads_all_files_up_to_the_first_hole() {
        for files in [0, 1, 2, 3, 7, 64, 100] {
            let (store, layout) = written(files).await;
            let mut log = PlanLog::new(store.clone(), layout.clone());
            log.catch_up().await.unwrap();
            assert_eq!((u64::from(log.next_file), log.next_batch, log.cursor.images), (files, files, files));
            store.delete(&layout.plan_file(5)).await.unwrap();
            let mut log = PlanLog::new(store, layout);
            log.catch_up().await.unwrap();
            assert_eq!(u64::from(log.next_file), files.min(5));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_plan_is_not_read_one_footer_after_another() {
        const FILES: u32 = 500;
        let (store, layout) = written(u64::from(FILES)).await;
        // A request takes two milliseconds of this clock.
        let line = Line::new("p".to_owned(), World::new(1));
        let mut log = PlanLog::new(Arc::new(FaultyStorage::new(store, line)), layout);
        let began = tokio::time::Instant::now();
        log.catch_up().await.unwrap();
        assert_eq!(log.next_file, FILES);
        let took = began.elapsed();
        assert!(took < Duration::from_millis(2) * FILES / 4, "{took:?}");
    }
}
