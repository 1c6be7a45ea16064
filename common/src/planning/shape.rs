//! A plan's numbers from the footers of its files: how many batches, and how many images each has.
//!
//! Asked at the end of a batch's life, by whoever compares parts with the plan: finalize, verify, repair, and the
//! rebuild of a ledger. No row is read, so that a plan of a hundred million images costs some hundred requests,
//! and equal batches in a row are kept as one run, so that a million batches cost a few bytes. It must never take
//! a plan with a hole for a shorter one.

use super::{PlanError, plan_log::MAX_DONE_BYTES};
use crate::{
    batch::BatchNumber,
    results::{OutputLayout, PlanDone, PlanFileFooter},
    storage::{Storage, StorageError},
};
use futures::{StreamExt, TryStreamExt, stream};

/// Footers of plan files read at a time.
const FOOTERS_AT_ONCE: usize = 32;

/// Batches in a row that have as many images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: u64,
    batches: u64,
    images: u64,
}

/// What is planned, by number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlanShape {
    runs: Vec<Run>,
    files: u32,
    batches: u64,
    images: u64,
    done: bool,
}

impl PlanShape {
    /// Reads the footers of all plan files of an output. Cancel safe.
    ///
    /// # Errors
    /// [`PlanError::BrokenPlan`] if the files do not follow one another without holes, or do not sum to the end
    /// mark; [`PlanError::Footer`] and [`PlanError::PlanFile`] for files that cannot be read.
    pub async fn read(store: &dyn Storage, layout: &OutputLayout) -> Result<Self, PlanError> {
        // The mark first: files that are written after it was looked for are no contradiction.
        let done = end_mark(store, layout).await?;
        let mut shape = Self::default();
        shape.read_on(store, layout).await?;
        let prefix = layout.plan_prefix();
        if let Some(done) = done {
            if (shape.batches, shape.images) != (done.batches, done.images) {
                let reason = format!(
                    "its end mark counts {} batches and {} images, the files have {} and {}",
                    done.batches, done.images, shape.batches, shape.images
                );
                return Err(PlanError::BrokenPlan { prefix, reason });
            }
            shape.done = true;
        }
        Ok(shape)
    }

    /// Adds the files that are there, in the order of their numbers: a listing has 100000 before 99999.
    async fn read_on(&mut self, store: &dyn Storage, layout: &OutputLayout) -> Result<(), PlanError> {
        let mut names = Vec::new();
        let prefix = layout.plan_prefix();
        let mut pages = store.list(&prefix, None);
        while let Some(page) = pages.try_next().await? {
            let keys = page.objects.into_iter().map(|object| object.key);
            let files = keys.filter(|key| key.ends_with(".parquet"));
            // What is called otherwise comes last, and is no file of this plan.
            names.extend(files.map(|key| (layout.index_of_plan_file(&key).map_or(u64::MAX, u64::from), key)));
        }
        names.sort_unstable();
        let fetch = |(_, key): (u64, String)| async move {
            let footer = PlanFileFooter::fetch(store, &key).await;
            footer.map(|footer| (key, footer))
        };
        let mut footers = stream::iter(names).map(fetch).buffered(FOOTERS_AT_ONCE);
        while let Some((key, footer)) = footers.try_next().await? {
            self.push(&key, layout, &footer)?;
        }
        Ok(())
    }

    fn push(&mut self, key: &str, layout: &OutputLayout, footer: &PlanFileFooter) -> Result<(), PlanError> {
        let expected = layout.plan_file(self.files);
        let sums = self.images.checked_add(footer.images);
        let fits = key == expected
            && footer.first_batch.0 == self.batches
            && sums.is_some_and(|sum| footer.cursor.images == sum);
        if !fits {
            let reason = format!(
                "`{key}` begins with batch {} and ends at image {}; `{expected}` should come here, begin with batch {} \
                 and end at image {}",
                footer.first_batch.0,
                footer.cursor.images,
                self.batches,
                self.images.saturating_add(footer.images),
            );
            return Err(PlanError::BrokenPlan { prefix: layout.plan_prefix(), reason });
        }
        for &(images, batches) in footer.runs() {
            match self.runs.last_mut() {
                Some(run) if run.images == images => run.batches += batches,
                _ => self.runs.push(Run { first: self.batches, batches, images }),
            }
            self.batches += batches;
        }
        self.files += 1;
        self.images += footer.images;
        Ok(())
    }

    /// Plan files.
    pub fn files(&self) -> u32 {
        self.files
    }

    /// Batches in all files.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Images in all files.
    pub fn images(&self) -> u64 {
        self.images
    }

    /// Whether the plan is at its end: nothing will be added.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The number of images of a batch; `None` beyond the plan.
    pub fn images_of(&self, batch: BatchNumber) -> Option<u64> {
        let after = self.runs.partition_point(|run| run.first <= batch.0);
        let run = self.runs[..after].last()?;
        (batch.0 - run.first < run.batches).then_some(run.images)
    }
}

async fn end_mark(store: &dyn Storage, layout: &OutputLayout) -> Result<Option<PlanDone>, PlanError> {
    let key = layout.plan_done();
    match store.get(&key, MAX_DONE_BYTES).await {
        Ok(object) => {
            PlanDone::parse(&object.bytes).map(Some).map_err(|reason| PlanError::PlanFile { key, reason })
        }
        Err(StorageError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planning::{
        plan_log::tests::write,
        tests::{FOREVER, OneJob, Outbox, bucket, output, plan, spec, submit},
    };
    use crate::storage::Stores;

    #[tokio::test]
    async fn files_beyond_five_digits_are_in_order_and_a_hole_among_them_is_an_error() {
        const FIRST: u32 = 99_998;
        let (stores, job) = (Stores::in_memory(), spec(&["s3://b/p"]));
        let (store, layout) = output(&stores, &job).await;
        for index in [100_001, 99_999, 100_000, 99_998] {
            write(&store, &layout, index).await;
        }
        let before = || PlanShape {
            files: FIRST,
            batches: u64::from(FIRST),
            images: u64::from(FIRST),
            ..PlanShape::default()
        };
        let mut shape = before();
        shape.read_on(&*store, &layout).await.unwrap();
        assert_eq!((shape.files(), shape.batches(), shape.images()), (100_002, 100_002, 100_002));
        // The job's standing by its output takes the last file by its number as well.
        store.put(&layout.job(), job.to_json().into()).await.unwrap();
        let standing = crate::standing::standing(&stores, layout.root()).await.unwrap();
        assert_eq!(standing.progress.batches_planned, 100_002);
        for (index, begins) in [(99_999, 100_000), (100_000, 100_001)] {
            store.delete(&layout.plan_file(index)).await.unwrap();
            let error = before().read_on(&*store, &layout).await.unwrap_err().to_string();
            assert!(error.contains(&format!("begins with batch {begins} ")), "{error}");
            write(&store, &layout, u64::from(index)).await;
        }
        store.put("out/_trawl/plan/099999.parquet", bytes::Bytes::new()).await.unwrap();
        assert!(before().read_on(&*store, &layout).await.is_err(), "another spelling is no file of the plan");
    }

    #[tokio::test]
    async fn the_shape_is_that_of_the_rows_and_a_hole_is_an_error() {
        let (stores, job) = (bucket(5305).await, spec(&["s3://b/p"]));
        submit(&stores, &job, &Outbox::new(FOREVER), &OneJob::new(FOREVER)).await.unwrap();
        let (store, layout) = output(&stores, &job).await;
        let shape = PlanShape::read(&*store, &layout).await.unwrap();
        assert_eq!((shape.batches(), shape.images(), shape.is_done()), (531, 5305, true));
        assert!(shape.files() > 1 && shape.runs.len() == 2, "{shape:?}");
        for (number, images) in plan(&stores, &job).await {
            assert_eq!(shape.images_of(number), Some(images.len() as u64), "{number}");
        }
        assert_eq!(shape.images_of(BatchNumber(531)), None);
        assert_eq!(shape.images_of(BatchNumber(u64::MAX)), None);

        store.delete(&layout.plan_file(0)).await.unwrap();
        let error = PlanShape::read(&*store, &layout).await.unwrap_err();
        assert!(matches!(error, PlanError::BrokenPlan { .. }), "{error}");
        for index in 1..shape.files() {
            store.delete(&layout.plan_file(index)).await.unwrap();
        }
        let error = PlanShape::read(&*store, &layout).await.unwrap_err();
        assert!(error.to_string().contains("counts 531 batches"), "{error}");
        store.delete(&layout.plan_done()).await.unwrap();
        assert_eq!(PlanShape::read(&*store, &layout).await.unwrap(), PlanShape::default());
    }
}
