//! Reads a job's parts into an index: the first rows of the plan, and the failed ones of the rest.
//!
//! In the background, part by part, a few fetched ahead and decoded on blocking threads; what is done is published as it
//! goes on. Which of the further parts have failures is known from the manifest, or from their footers. A part that is
//! not readable is passed over.

use super::index::{Index, MAX_CLASSES, MAX_FAILURES, Row};
use futures::{StreamExt, TryStreamExt, stream};
use std::{collections::HashSet, sync::Arc};
use trawl_common::{
    batch::BatchNumber,
    disposition::describe,
    job::JobSpec,
    location::Location,
    offload::offload,
    results::{
        OutputLayout,
        manifest::ManifestPart,
        part::read_footer,
        part_brief::{BriefRow, read_brief},
    },
    standing::{self, StandingError},
    storage::Storage,
};

/// A larger part is passed over. Parts of classes have a kilobyte for some rows; embeddings are not shown.
const MAX_PART_BYTES: u64 = 64 << 20;

/// Parts fetched ahead of the one that is decoded.
const PARTS_AHEAD: usize = 3;

/// Footers asked in search of failures beyond the indexed rows, where there is no manifest.
const MAX_FOOTERS: usize = 2000;

/// Parts after which what is done is published: the first page is there soon, and each index is sorted anew.
const PUBLISH_EVERY: usize = 16;

/// Parts of an output that are listed.
const MAX_PARTS: usize = 1_000_000;

/// Rows that are read of one part; `--batch-size` goes to 10,000.
const MAX_ROWS_A_PART: usize = 10_000;

/// What is to be read.
pub struct Reading<'a> {
    /// Where the output lies.
    pub store: &'a dyn Storage,
    /// Its place.
    pub out: &'a Location,
    /// Its job.
    pub spec: &'a JobSpec,
    /// At most so many rows.
    pub max_rows: usize,
}

impl Reading<'_> {
    /// Reads on from `before`; `publish` gets longer and longer indices. Cancel safe.
    ///
    /// # Errors
    /// If the output cannot be listed.
    pub async fn run(&self, before: &Index, publish: impl Fn(Index)) -> Result<(), StandingError> {
        let layout = OutputLayout::new(self.out.clone());
        let new = self.new_parts(&layout, before).await?;
        let mut shelf = Shelf::of(before, self.max_rows);
        let batches: Vec<u64> = new.iter().map(|part| part.batch).collect();
        let layout = &layout;
        let mut reading =
            stream::iter(batches).map(|batch| self.rows_of(layout, batch)).buffered(PARTS_AHEAD);
        let mut read = 0;
        while !shelf.is_full()
            && let Some(rows) = reading.next().await
        {
            shelf.put(new[read].batch, rows);
            read += 1;
            if read.is_multiple_of(PUBLISH_EVERY) {
                publish(shelf.index().await);
            }
        }
        drop(reading);
        publish(shelf.index().await);
        let known = shelf.failures.len();
        self.failures_of(layout, &new[read..], &mut shelf).await;
        if shelf.failures.len() > known || !new[read..].is_empty() {
            publish(shelf.index().await);
        }
        Ok(())
    }

    /// The parts that `before` does not know, in the order of the plan.
    async fn new_parts(&self, layout: &OutputLayout, before: &Index) -> Result<Vec<Part>, StandingError> {
        let parts: Vec<Part> = match standing::manifest(self.store, layout).await? {
            Some(manifest) => {
                let part = |part: &ManifestPart| Part { batch: part.batch.0, fails: Some(part.failures > 0) };
                manifest.parts.iter().map(part).collect()
            }
            None => {
                let part = |key: String| layout.batch_of_part(&key).map(|b| Part { batch: b.0, fails: None });
                let keys = standing::part_keys(self.store, layout).take(MAX_PARTS);
                keys.try_filter_map(|key| std::future::ready(Ok(part(key)))).try_collect().await?
            }
        };
        Ok(parts.into_iter().filter(|part| !before.parts.contains(&part.batch)).collect())
    }

    /// The failed rows of parts whose other rows are not kept.
    async fn failures_of(&self, layout: &OutputLayout, parts: &[Part], shelf: &mut Shelf) {
        let mut footers = 0;
        for part in parts {
            if shelf.failures.len() >= MAX_FAILURES {
                return;
            }
            let fails = match part.fails {
                Some(fails) => fails,
                None if footers >= MAX_FOOTERS => return,
                None => {
                    footers += 1;
                    let footer = read_footer(self.store, &layout.part(BatchNumber(part.batch))).await;
                    footer.is_ok_and(|footer| footer.failures > 0)
                }
            };
            let rows = if fails { self.rows_of(layout, part.batch).await } else { Vec::new() };
            shelf.put_failures(part.batch, rows);
        }
    }

    /// The rows of a part; none if it is not to be had.
    async fn rows_of(&self, layout: &OutputLayout, batch: u64) -> Vec<BriefRow> {
        match part_rows(self.store, layout, batch).await {
            Ok(rows) => rows,
            Err(reason) => {
                tracing::debug!(job.id = %self.spec.job, batch.number = batch, reason, "a part was passed over");
                Vec::new()
            }
        }
    }
}

/// The rows of one part, in words if it is not to be had. Cancel safe.
///
/// # Errors
/// Why not.
pub async fn part_rows(
    store: &dyn Storage,
    layout: &OutputLayout,
    batch: u64,
) -> Result<Vec<BriefRow>, String> {
    let key = layout.part(BatchNumber(batch));
    let object = store.get(&key, MAX_PART_BYTES).await.map_err(|error| describe(&error))?;
    let read = offload(move || read_brief(object.bytes, MAX_ROWS_A_PART, MAX_CLASSES)).await;
    read.map_err(|error| describe(&error))
}

/// A part of the output.
struct Part {
    batch: u64,
    /// Whether any of its rows failed, where the manifest says.
    fails: Option<bool>,
}

/// What becomes an index.
struct Shelf {
    rows: Vec<Arc<Row>>,
    failures: Vec<Arc<Row>>,
    parts: HashSet<u64>,
    max_rows: usize,
}

impl Shelf {
    fn of(index: &Index, max_rows: usize) -> Self {
        Self {
            rows: index.rows().to_vec(),
            failures: index.failures().to_vec(),
            parts: index.parts.clone(),
            max_rows,
        }
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= self.max_rows
    }

    /// Takes as many rows as there is room for, and the failed ones of the others.
    fn put(&mut self, batch: u64, rows: Vec<BriefRow>) {
        let mut rows = placed(batch, rows);
        let room = self.max_rows - self.rows.len().min(self.max_rows);
        self.rows.extend(rows.by_ref().take(room));
        let failed: Vec<_> = rows.filter(|row| !row.brief.ok).collect();
        self.keep_failed(failed);
        self.parts.insert(batch);
    }

    fn put_failures(&mut self, batch: u64, rows: Vec<BriefRow>) {
        let failed: Vec<_> = placed(batch, rows).filter(|row| !row.brief.ok).collect();
        self.keep_failed(failed);
        self.parts.insert(batch);
    }

    fn keep_failed(&mut self, failed: Vec<Arc<Row>>) {
        let room = MAX_FAILURES.saturating_sub(self.failures.len());
        self.failures.extend(failed.into_iter().take(room));
    }

    async fn index(&self) -> Index {
        let (rows, failures, parts) = (self.rows.clone(), self.failures.clone(), self.parts.clone());
        offload(move || Index::new(rows, failures, parts)).await
    }
}

fn placed(batch: u64, rows: Vec<BriefRow>) -> impl Iterator<Item = Arc<Row>> {
    (0_u32..).zip(rows).map(move |(row, brief)| Arc::new(Row { batch, row, brief }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::index::{Filter, Order};
    use crate::testing;

    #[tokio::test]
    async fn rows_are_bounded_and_failures_are_found_beyond_them() {
        let output = testing::Output::new("index", 5, 4).await;
        let reading =
            |max_rows| Reading { store: &*output.store, out: &output.place, spec: &output.spec, max_rows };
        let last = std::sync::Mutex::new(Index::default());
        let publish = |index| *last.lock().unwrap() = index;
        reading(6).run(&Index::default(), publish).await.unwrap();
        {
            let index = last.lock().unwrap();
            assert_eq!(index.len(), 6, "no more than asked for");
            // Each batch of the fixture has one failed row.
            assert_eq!(index.page_of_failures(None, None, 99).rows.len(), 5);
            assert_eq!(index.parts.len(), 5);
        }
        let before = std::mem::take(&mut *last.lock().unwrap());
        output.add_part(5).await;
        reading(6).run(&before, publish).await.unwrap();
        assert_eq!(last.lock().unwrap().page_of_failures(None, None, 99).rows.len(), 6, "it grows");
        output.finish().await;
        reading(100).run(&Index::default(), publish).await.unwrap();
        let index = last.lock().unwrap();
        assert_eq!(index.len(), 24);
        assert_eq!(index.page(Order::Plan, &Filter::default(), None, 99).rows[5].brief.key, output.key(1, 1));
    }

    #[tokio::test]
    async fn a_part_that_is_not_readable_is_passed_over() {
        let output = testing::Output::new("broken", 3, 4).await;
        let layout = OutputLayout::new(output.place.clone());
        output.store.put(&layout.part(BatchNumber(1)), "no Parquet".into()).await.unwrap();
        let last = std::sync::Mutex::new(Index::default());
        let reading =
            Reading { store: &*output.store, out: &output.place, spec: &output.spec, max_rows: 100 };
        reading.run(&Index::default(), |index| *last.lock().unwrap() = index).await.unwrap();
        assert_eq!(last.lock().unwrap().len(), 8);
    }
}
