//! Cuts the stream of images into numbered batches and groups them into plan files.
//!
//! Pure: no store, no clock. The numbers depend on the order of the images alone, never on how the listing
//! came in pages; the grouping into files does not change them.

use super::enumerate::{Found, Page};
use crate::{
    batch::{BatchNumber, ImageRef, Place, Within},
    results::Cursor,
};
use std::collections::VecDeque;

/// Images of a plan file once the listing runs: some megabytes, read again as a whole by a resume.
pub const MAX_PLAN_FILE_IMAGES: usize = 65_536;

/// Images of the second plan file; each next one may have four times as many. The first one has what the
/// first page has, so that work starts at once.
const SECOND_PLAN_FILE_IMAGES: usize = 4096;

/// The batches of one plan file, and where the listing stands after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanSlice {
    /// The number of the first one.
    pub first_batch: BatchNumber,
    /// Their images.
    pub batches: Vec<Vec<ImageRef>>,
    /// After the last image of the last one.
    pub cursor: Cursor,
}

impl PlanSlice {
    /// Images in all.
    pub fn images(&self) -> u64 {
        self.batches.iter().map(|batch| batch.len() as u64).sum()
    }
}

/// Collects pages until a plan file is full.
#[derive(Debug)]
pub struct Cutter {
    batch_size: usize,
    next_batch: u64,
    /// Whole batches, each with where the listing stands after it: of the images no more is kept than the plan has.
    batches: VecDeque<(Vec<ImageRef>, Cursor)>,
    /// Images in them.
    images: usize,
    /// The batch that still grows.
    open: Vec<ImageRef>,
    /// Where the listing stands after its last image.
    end: Cursor,
}

/// So many times the batch size a row group may have and still be one batch: a row group is read as a whole, and by as
/// many workers as there are batches of it.
const GROUP_BATCHES: usize = 4;

impl Cutter {
    /// Goes on with batch `next_batch`. A `batch_size` of 0 is taken as 1.
    pub fn new(batch_size: u32, next_batch: u64) -> Self {
        let batch_size = batch_size.max(1) as usize;
        let (batches, open, end) = (VecDeque::new(), Vec::new(), Cursor::default());
        Self { batch_size, next_batch, batches, images: 0, open, end }
    }

    /// Takes a page of the listing.
    pub fn push(&mut self, page: Page) {
        for found in page.found {
            if self.begins_anew(&found) {
                self.close();
            }
            let most = self.most(&found);
            let Found { image, source, store_key, inside, group_rows: _, images, skipped, unlistable } =
                found;
            self.open.push(image);
            self.end = Cursor { source, after: Some(store_key), inside, images, skipped, unlistable };
            if self.open.len() >= most {
                self.close();
            }
        }
    }

    /// The most images of the batch that `found` goes into. A row group that is not much larger than a batch is one.
    fn most(&self, found: &Found) -> usize {
        let group = found.group_rows as usize;
        if group <= self.batch_size * GROUP_BATCHES { group.max(self.batch_size) } else { self.batch_size }
    }

    /// Whether `found` opens a row group that would not fit into the batch with all of it.
    fn begins_anew(&self, found: &Found) -> bool {
        let first = matches!(found.image.within, Some(Within { at: Place::Row(_, 0), .. }));
        first && !self.open.is_empty() && self.open.len() + found.group_rows as usize > self.batch_size
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.images += self.open.len();
            self.batches.push_back((std::mem::take(&mut self.open), self.end.clone()));
        }
    }

    /// The batches for plan file `index`, if there are enough images for it: whole batches only.
    pub fn take_full(&mut self, index: u32) -> Option<PlanSlice> {
        match index {
            0 => (self.images > 0).then(|| self.cut(MAX_PLAN_FILE_IMAGES, false)),
            _ => {
                let images = target_images(index).next_multiple_of(self.batch_size);
                (self.images >= images).then(|| self.cut(images, true))
            }
        }
    }

    /// What is left at the end of the listing, the last batch with fewer images; `end` is where the listing
    /// stands then. `None` if nothing is left. Call [`Cutter::take_full`] until it gives nothing before.
    pub fn take_rest(&mut self, end: &Cursor) -> Option<PlanSlice> {
        self.close();
        (self.images > 0).then(|| PlanSlice { cursor: end.clone(), ..self.cut(usize::MAX, false) })
    }

    /// Batches of at most `images` images (or, if `over`, of just as many or the next whole batch more), at least one.
    fn cut(&mut self, images: usize, over: bool) -> PlanSlice {
        let (mut batches, mut taken, mut cursor) = (Vec::new(), 0, None);
        let fits = |taken: usize, next: usize| match over {
            true => taken < images,
            false => taken == 0 || next <= images - taken,
        };
        while let Some((batch, end)) = self.batches.pop_front_if(|(batch, _)| fits(taken, batch.len())) {
            taken += batch.len();
            cursor = Some(end);
            batches.push(batch);
        }
        self.images -= taken;
        let first_batch = BatchNumber(self.next_batch);
        self.next_batch += batches.len() as u64;
        PlanSlice { first_batch, batches, cursor: cursor.expect("a slice has images") }
    }
}

/// Images of plan file `index`, from the second one on.
fn target_images(index: u32) -> usize {
    let growth = index.saturating_sub(1).min(8);
    (SECOND_PLAN_FILE_IMAGES << (2 * growth)).min(MAX_PLAN_FILE_IMAGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(range: std::ops::Range<usize>) -> Page {
        let found = range.clone().map(|n| Found {
            image: ImageRef::whole(format!("k{n:08}"), None, n as u64),
            source: 0,
            store_key: format!("{n:08}"),
            inside: None,
            group_rows: 0,
            images: n as u64 + 1,
            skipped: n as u64 / 10,
            unlistable: 0,
        });
        let cursor = Cursor { images: range.end as u64, ..Cursor::default() };
        Page { found: found.collect(), cursor, left_out: Default::default() }
    }

    fn cut_all(pages: Vec<Page>, batch_size: u32) -> Vec<PlanSlice> {
        let mut cutter = Cutter::new(batch_size, 0);
        let mut slices: Vec<PlanSlice> = Vec::new();
        for page in pages {
            cutter.push(page);
            while let Some(slice) = cutter.take_full(slices.len() as u32) {
                slices.push(slice);
            }
        }
        let end = Cursor { source: 1, ..Cursor::default() };
        slices.extend(cutter.take_rest(&end));
        slices
    }

    fn flat(slices: &[PlanSlice]) -> Vec<Vec<ImageRef>> {
        slices.iter().flat_map(|slice| slice.batches.clone()).collect()
    }

    #[test]
    fn batches_do_not_depend_on_pages() {
        let whole = cut_all(vec![page(0..10_007)], 256);
        let paged = cut_all((0..11).map(|p| page(p * 1000..((p + 1) * 1000).min(10_007))).collect(), 256);
        assert_eq!(flat(&whole), flat(&paged));
        assert_eq!(flat(&whole).len(), 40);
        assert_eq!(flat(&whole)[39].len(), 10_007 - 39 * 256);
        let mut next = 0;
        for slice in &paged {
            assert_eq!(slice.first_batch.0, next, "numbers have no gaps");
            next += slice.batches.len() as u64;
        }
    }

    #[test]
    fn the_first_file_comes_with_the_first_page_and_later_ones_grow() {
        let slices = cut_all((0..200).map(|p| page(p * 1000..(p + 1) * 1000)).collect(), 100);
        let images: Vec<_> = slices.iter().map(PlanSlice::images).collect();
        assert_eq!(images, [1000, 4100, 16_400, 65_600, 65_600, 47_300]);
    }

    #[test]
    fn the_cursor_stands_after_the_last_image_of_the_slice() {
        let slices = cut_all(vec![page(0..25)], 10);
        assert_eq!(slices[0].cursor.after.as_deref(), Some("00000019"));
        assert_eq!((slices[0].cursor.images, slices[0].cursor.skipped), (20, 1));
        assert_eq!(slices[1].cursor.source, 1, "nothing is left to list after the rest");
    }

    #[test]
    fn a_batch_larger_than_a_page_waits_for_more_pages() {
        let slices = cut_all((0..25).map(|p| page(p * 1000..(p + 1) * 1000)).collect(), 10_000);
        assert_eq!(slices.iter().map(PlanSlice::images).collect::<Vec<_>>(), [10_000, 10_000, 5000]);
    }
}
