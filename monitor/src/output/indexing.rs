//! Reads a job's parts into an index: the first rows of the plan, and the failed ones of the rest.
//!
//! In the background, part by part, a few fetched ahead and decoded on blocking threads; what is done is published as it
//! goes on. Which of the further parts have failures is known from the manifest, or from their footers. A part that is
//! not readable is passed over. The parts of a huge job are gone through piece by piece, and never all held.

use super::index::{Index, MAX_CLASSES, MAX_FAILURES, Row};
use futures::{Stream, StreamExt, TryStreamExt, future::ready, stream, stream::BoxStream};
use std::sync::Arc;
use trawl_common::{
    batch::BatchNumber,
    bits::Bits,
    disposition::describe,
    job::JobSpec,
    location::Location,
    offload::offload,
    results::{
        OutputLayout,
        manifest::ManifestPart,
        manifest_pieces::ManifestParts,
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

/// Parts of an output that are listed, where there is no manifest.
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
    /// If the output cannot be listed, or a piece of its manifest cannot be had.
    pub async fn run(&self, before: &Index, publish: impl Fn(Index)) -> Result<(), StandingError> {
        let layout = OutputLayout::new(self.out.clone());
        let mut new = self.new_parts(&layout, before).await?;
        let mut shelf = Shelf::of(before, self.max_rows);
        let mut left = Vec::new();
        while !shelf.is_full() {
            let mut some: Vec<Part> = new.by_ref().take(PUBLISH_EVERY).try_collect().await?;
            let read = self.fill(&layout, &some, &mut shelf).await;
            left = some.split_off(read);
            if some.len() < PUBLISH_EVERY {
                break;
            }
            if !shelf.is_full() {
                publish(shelf.index().await);
            }
        }
        publish(shelf.index().await);
        let rest = stream::iter(left.into_iter().map(Ok)).chain(new);
        if self.failures_of(&layout, rest, &mut shelf).await? {
            publish(shelf.index().await);
        }
        Ok(())
    }

    /// The parts that `before` does not know, in the order of the plan.
    async fn new_parts<'p>(
        &'p self,
        layout: &'p OutputLayout,
        before: &'p Index,
    ) -> Result<BoxStream<'p, Result<Part, StandingError>>, StandingError> {
        let parts = match standing::manifest(self.store, layout).await? {
            Some(manifest) => listed(ManifestParts::new(self.store, layout, manifest)).boxed(),
            None => {
                let part = |key: String| layout.batch_of_part(&key).map(|b| Part { batch: b.0, fails: None });
                let keys =
                    standing::part_keys(self.store, layout).take(MAX_PARTS).map_err(StandingError::from);
                keys.try_filter_map(move |key| ready(Ok(part(key)))).boxed()
            }
        };
        Ok(parts.try_filter(|part| ready(!before.parts.has(part.batch))).boxed())
    }

    /// Reads the rows of parts while there is room; how many parts were read.
    async fn fill(&self, layout: &OutputLayout, parts: &[Part], shelf: &mut Shelf) -> usize {
        // Owned: a stream over a borrowing iterator is not `Send` for every lifetime.
        let batches: Vec<u64> = parts.iter().map(|part| part.batch).collect();
        let mut reading =
            stream::iter(batches).map(|batch| self.rows_of(layout, batch)).buffered(PARTS_AHEAD);
        let mut read = 0;
        while !shelf.is_full()
            && let Some(rows) = reading.next().await
        {
            shelf.put(parts[read].batch, rows);
            read += 1;
        }
        read
    }

    /// The failed rows of parts whose other rows are not kept; whether any part was looked at.
    async fn failures_of(
        &self,
        layout: &OutputLayout,
        parts: impl Stream<Item = Result<Part, StandingError>>,
        shelf: &mut Shelf,
    ) -> Result<bool, StandingError> {
        let mut parts = std::pin::pin!(parts);
        let (mut footers, mut looked) = (0, false);
        while shelf.failures.len() < MAX_FAILURES
            && let Some(part) = parts.try_next().await?
        {
            looked = true;
            let fails = match part.fails {
                Some(fails) => fails,
                None if footers >= MAX_FOOTERS => break,
                None => {
                    footers += 1;
                    let footer = read_footer(self.store, &layout.part(BatchNumber(part.batch))).await;
                    footer.is_ok_and(|footer| footer.failures > 0)
                }
            };
            let rows = if fails { self.rows_of(layout, part.batch).await } else { Vec::new() };
            shelf.put_failures(part.batch, rows);
        }
        Ok(looked)
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

/// The parts that a manifest lists; those of one piece are held.
fn listed(parts: ManifestParts<'_>) -> impl Stream<Item = Result<Part, StandingError>> {
    let pieces = stream::try_unfold((parts, 0), async |(mut parts, index)| {
        if index == parts.pieces() {
            return Ok(None);
        }
        let part = |part: &ManifestPart| Ok(Part { batch: part.batch.0, fails: Some(part.failures > 0) });
        let piece: Vec<Result<Part, StandingError>> = parts.piece(index).await?.iter().map(part).collect();
        Ok::<_, StandingError>(Some((stream::iter(piece), (parts, index + 1))))
    });
    pieces.try_flatten()
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
    parts: Bits,
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
        self.parts.set(batch);
    }

    fn put_failures(&mut self, batch: u64, rows: Vec<BriefRow>) {
        let failed: Vec<_> = placed(batch, rows).filter(|row| !row.brief.ok).collect();
        self.keep_failed(failed);
        self.parts.set(batch);
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
    async fn the_parts_of_a_manifest_in_pieces_are_those_of_one_without() {
        let output = testing::Output::new("pieces", 40, 3).await;
        output.finish().await;
        let read = async |max_rows| {
            let last = std::sync::Mutex::new((Index::default(), 0));
            let reading = Reading { store: &*output.store, out: &output.place, spec: &output.spec, max_rows };
            let publish = |index| {
                let mut last = last.lock().unwrap();
                *last = (index, last.1 + 1);
            };
            reading.run(&Index::default(), publish).await.unwrap();
            let (index, published) = last.into_inner().unwrap();
            let failed: Vec<_> = index.page_of_failures(None, None, 99).rows;
            (index.rows().to_vec(), failed, index.parts.len(), published)
        };
        for max_rows in [0, 6, 7, 60, 200] {
            let whole = read(max_rows).await;
            assert_eq!((whole.0.len(), whole.1.len(), whole.2), (max_rows.min(120), 40, 40));
            output.finish_in_pieces(7).await;
            assert_eq!(read(max_rows).await, whole, "{max_rows}");
            output.finish().await;
        }
        output.finish_in_pieces(7).await;
        output.store.delete(&OutputLayout::new(output.place.clone()).manifest_piece(2)).await.unwrap();
        let reading = Reading { store: &*output.store, out: &output.place, spec: &output.spec, max_rows: 9 };
        let error = reading.run(&Index::default(), |_| {}).await.unwrap_err();
        assert!(error.to_string().contains("00000002.json"), "{error}");
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
