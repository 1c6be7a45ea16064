//! Reading: which requests bring the images of a batch.
//!
//! Part of the fetch stage, before anything is asked of a store. An image that is a whole object is one request. Images
//! that lie one behind the other in an archive come together, in pieces small enough to share a worker's memory and
//! large enough to be worth a request. It must never ask for a byte twice, nor for much that no image needs.

use std::ops::Range;
use trawl_common::batch::{ImageRef, Place};

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
}

impl Reading {
    /// The requests for the `wanted` of `images`, in their order.
    pub fn plan(images: &[ImageRef], wanted: &[usize]) -> Vec<Self> {
        let mut readings: Vec<Self> = Vec::with_capacity(wanted.len());
        for (n, &index) in wanted.iter().enumerate() {
            let image = &images[index];
            let part = match image.within.map(|within| within.at) {
                Some(Place::Bytes(begin)) => Part::Bytes(begin..begin.saturating_add(image.size)),
                Some(Place::Row(..)) | None => Part::Whole,
            };
            let same = |other: &Self| images[wanted[other.wanted.start]].object() == image.object();
            match (readings.last_mut(), &part) {
                (Some(last), Part::Bytes(bytes)) if last.goes_on_with(bytes) && same(last) => {
                    last.wanted.end = n + 1;
                    if let Part::Bytes(all) = &mut last.part {
                        all.end = bytes.end;
                    }
                }
                _ => readings.push(Self { wanted: n..n + 1, part }),
            }
        }
        readings
    }

    /// Whether `bytes` of the same object may come with it.
    fn goes_on_with(&self, bytes: &Range<u64>) -> bool {
        let Part::Bytes(mine) = &self.part else { return false };
        let near = bytes.start >= mine.end && bytes.start - mine.end <= GAP_BYTES;
        near && bytes.end - mine.start <= PIECE_BYTES
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
