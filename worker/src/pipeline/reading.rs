//! Reading: which requests bring the images of a batch.
//!
//! Part of the fetch stage, before anything is asked of a store. An image that is a whole object is one request. Images
//! that lie one behind the other in an archive come together, in pieces small enough to share a worker's memory and
//! large enough to be worth a request. It must never ask for a byte twice, nor for much that no image needs.

use bytes::Bytes;
use std::ops::Range;
use trawl_common::{
    batch::{ImageRef, Place},
    error_code::ErrorCode,
};

/// The most that one request brings of an archive, unless one image has more: what is decoded while the next comes.
const PIECE_BYTES: u64 = 8 << 20;

/// What lies between two images and is read with them: headers, labels, captions.
const GAP_BYTES: u64 = 16 << 10;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Which of the wanted images it brings: places in the list of them.
    pub wanted: Range<usize>,
    /// What of their object.
    pub part: Part,
}

/// What of an object is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it: it is the image.
    Whole,
    /// These bytes.
    Bytes(Range<u64>),
    /// These rows of a row group of a table.
    Rows(u32, Range<u32>),
}

impl Reading {
    /// The requests for the `wanted` of `images`, in their order.
    pub fn plan(images: &[ImageRef], wanted: &[usize]) -> Vec<Self> {
        let mut readings: Vec<Self> = Vec::with_capacity(wanted.len());
        for (n, &index) in wanted.iter().enumerate() {
            let image = &images[index];
            let part = match image.within.map(|within| within.at) {
                Some(Place::Bytes(begin)) => Part::Bytes(begin..begin.saturating_add(image.size)),
                Some(Place::Row(group, row)) => Part::Rows(group, row..row.saturating_add(1)),
                None => Part::Whole,
            };
            let same = |other: &Self| images[wanted[other.wanted.start]].object() == image.object();
            let last = readings.last_mut().filter(|last| same(last));
            match last.filter(|last| last.part.may_take_in(&part)) {
                Some(last) => {
                    last.wanted.end = n + 1;
                    last.part.take_in(part);
                }
                None => readings.push(Self { wanted: n..n + 1, part }),
            }
        }
        readings
    }
}

impl Part {
    /// Whether `next` of the same object may come with it.
    fn may_take_in(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Bytes(mine), Self::Bytes(bytes)) => {
                let near = bytes.start >= mine.end && bytes.start - mine.end <= GAP_BYTES;
                near && bytes.end - mine.start <= PIECE_BYTES
            }
            // A row group is read as a whole, whatever is wanted of it.
            (Self::Rows(group, mine), Self::Rows(of, rows)) => group == of && rows.start >= mine.end,
            _ => false,
        }
    }

    /// Grows up to the end of `next`.
    fn take_in(&mut self, next: Self) {
        match (self, next) {
            (Self::Bytes(mine), Self::Bytes(bytes)) => mine.end = bytes.end,
            (Self::Rows(_, mine), Self::Rows(_, rows)) => mine.end = rows.end,
            _ => {}
        }
    }
}

/// What a request brought.
pub struct Brought {
    /// The bytes.
    pub bytes: Came,
    /// The tag of the object that they are of.
    pub etag: Option<String>,
}

/// The bytes of a request, of which each image gets its own without a copy.
pub enum Came {
    /// An object.
    Whole(Bytes),
    /// A piece of one, from this byte on.
    Piece(u64, Bytes),
    /// Cells of a row group, from this row on.
    Cells(u32, Vec<Option<Bytes>>),
}

impl Came {
    /// How many bytes they are.
    pub fn len(&self) -> u64 {
        match self {
            Self::Whole(bytes) | Self::Piece(_, bytes) => bytes.len() as u64,
            Self::Cells(_, cells) => cells.iter().flatten().map(|cell| cell.len() as u64).sum(),
        }
    }

    /// Those of `image`, which keep the others in memory; or what its row says instead.
    pub fn of(&self, image: &ImageRef) -> Result<Bytes, (ErrorCode, String)> {
        match (self, image.within.map(|within| within.at)) {
            (Self::Whole(bytes), _) => Ok(bytes.clone()),
            (Self::Piece(start, bytes), Some(Place::Bytes(at))) => {
                let whole = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                let (begin, size) = (whole(at.saturating_sub(*start)), whole(image.size));
                if begin.saturating_add(size) <= bytes.len() {
                    return Ok(bytes.slice(begin..begin + size));
                }
                let there = bytes.len().saturating_sub(begin);
                let text = format!("the object ends after {there} of the image's {size} bytes");
                Err((ErrorCode::Truncated, text))
            }
            (Self::Cells(start, cells), Some(Place::Row(_, row))) => {
                match cells.get(row.saturating_sub(*start) as usize) {
                    Some(Some(cell)) => Ok(cell.clone()),
                    Some(None) => Err((ErrorCode::Empty, "the table has no file in this row".to_owned())),
                    None => Err((ErrorCode::Truncated, "the table ends before this row".to_owned())),
                }
            }
            (Self::Piece(..) | Self::Cells(..), _) => {
                Err((ErrorCode::Unreadable, "its place in the object does not fit the object".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_common::batch::Within;

    fn member(object: &str, begin: u64, size: u64) -> ImageRef {
        let within = Some(Within { object: u32::try_from(object.len()).unwrap(), at: Place::Bytes(begin) });
        ImageRef { within, ..ImageRef::whole(format!("{object}#{begin}"), None, size) }
    }

    fn plan(images: &[ImageRef]) -> Vec<(Range<usize>, Option<Range<u64>>)> {
        let wanted: Vec<usize> = (0..images.len()).collect();
        let bytes = |part| match part {
            Part::Whole => None,
            Part::Bytes(bytes) => Some(bytes),
            Part::Rows(group, rows) => panic!("rows {rows:?} of group {group}"),
        };
        Reading::plan(images, &wanted).into_iter().map(|r| (r.wanted, bytes(r.part))).collect()
    }

    #[test]
    fn neighbours_of_an_archive_come_together() {
        let images = [
            member("a.tar", 512, 1000),
            member("a.tar", 2048, 5000),
            ImageRef::whole("b.jpg", None, 9),
            member("a.tar", 10_000, 5),
            member("b.tar", 10_512, 5),
            member("b.tar", 10_512 + GAP_BYTES + 6, 5),
            member("b.tar", 512, 5),
        ];
        let gap = 10_512 + GAP_BYTES + 6;
        assert_eq!(
            plan(&images),
            [
                (0..2, Some(512..7048)),
                (2..3, None),
                (3..4, Some(10_000..10_005)),
                (4..5, Some(10_512..10_517)),
                (5..6, Some(gap..gap + 5)),
                (6..7, Some(512..517)),
            ]
        );
    }

    #[test]
    fn the_rows_of_a_group_come_together() {
        let row = |group, row| {
            let within = Some(Within { object: 1, at: Place::Row(group, row) });
            ImageRef { within, ..ImageRef::whole("t#x", None, 0) }
        };
        let found = Reading::plan(&[row(0, 3), row(0, 4), row(0, 9), row(1, 0), row(1, 1)], &[0, 1, 2, 3, 4]);
        let parts: Vec<_> = found.into_iter().map(|reading| (reading.wanted, reading.part)).collect();
        assert_eq!(parts, [(0..3, Part::Rows(0, 3..10)), (3..5, Part::Rows(1, 0..2))]);
    }

    #[test]
    fn a_piece_is_bounded_unless_one_image_is_larger() {
        let half = PIECE_BYTES / 2;
        let images = [
            member("a", 0, half),
            member("a", half, half),
            member("a", 2 * half, 1),
            member("a", 2 * half + 1, PIECE_BYTES + 1),
        ];
        let found = plan(&images);
        assert_eq!(found.len(), 3);
        assert_eq!(found[0], (0..2, Some(0..PIECE_BYTES)));
        // Only some are wanted: what lies between is not read if it is much.
        assert_eq!(Reading::plan(&images, &[0, 2]).len(), 2);
    }
}
