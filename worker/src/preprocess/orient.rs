//! The EXIF orientation: which turn brings an image upright, and the turning.
//!
//! Equal to Pillow's `ImageOps.exif_transpose`. Only the one tag is read; an EXIF block that makes no sense
//! leaves the image as it is, since a broken block is no reason to lose a picture.

use super::color::Rgb;

/// The orientation tag's number.
const TAG_ORIENTATION: u16 = 0x0112;

/// What has to be done to see the image upright; the names are of the EXIF values 1 to 8 in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Orientation {
    Upright,
    MirrorHorizontally,
    Rotate180,
    MirrorVertically,
    Transpose,
    Rotate90Clockwise,
    Transverse,
    Rotate90CounterClockwise,
}

impl Orientation {
    fn from_value(value: u32) -> Self {
        match value {
            2 => Self::MirrorHorizontally,
            3 => Self::Rotate180,
            4 => Self::MirrorVertically,
            5 => Self::Transpose,
            6 => Self::Rotate90Clockwise,
            7 => Self::Transverse,
            8 => Self::Rotate90CounterClockwise,
            _ => Self::Upright,
        }
    }

    /// The size after the turn.
    pub(super) fn applied_to(self, width: u32, height: u32) -> (u32, u32) {
        match self {
            Self::Upright | Self::MirrorHorizontally | Self::Rotate180 | Self::MirrorVertically => {
                (width, height)
            }
            Self::Transpose | Self::Rotate90Clockwise | Self::Transverse | Self::Rotate90CounterClockwise => {
                (height, width)
            }
        }
    }
}

/// Where the axes of the upright image come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origins {
    /// Rows became columns.
    pub transposed: bool,
    /// The upright image's columns run against the stored axis that they come from.
    pub mirrored_x: bool,
    /// And its rows.
    pub mirrored_y: bool,
}

impl Orientation {
    /// See [`Origins`].
    pub(super) fn origins(self) -> Origins {
        let (transposed, mirrored_x, mirrored_y) = match self {
            Self::Upright => (false, false, false),
            Self::MirrorHorizontally => (false, true, false),
            Self::Rotate180 => (false, true, true),
            Self::MirrorVertically => (false, false, true),
            Self::Transpose => (true, false, false),
            Self::Rotate90Clockwise => (true, true, false),
            Self::Transverse => (true, true, true),
            Self::Rotate90CounterClockwise => (true, false, true),
        };
        Origins { transposed, mirrored_x, mirrored_y }
    }
}

/// The orientation in an EXIF block (with or without its `Exif\0\0` mark) or a TIFF file.
pub(super) fn from_exif(exif: &[u8]) -> Orientation {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    tag_value(tiff, TAG_ORIENTATION).map_or(Orientation::Upright, Orientation::from_value)
}

/// The first number of a tag in the first directory of a TIFF structure.
pub(super) fn tag_value(tiff: &[u8], tag: u16) -> Option<u32> {
    let tiff = Tiff::of(tiff)?;
    let entry = tiff.entries(tag).next()?;
    // BYTE, SHORT and LONG all occur in the wild.
    match tiff.u16_at(entry + 2)? {
        1 => tiff.bytes.get(entry + 8).map(|&value| u32::from(value)),
        3 => tiff.u16_at(entry + 8).map(u32::from),
        4 => tiff.u32_at(entry + 8),
        _ => None,
    }
}

/// How many values a tag in the first directory claims; the most, if it is there more than once.
pub(super) fn tag_count(tiff: &[u8], tag: u16) -> Option<u32> {
    let tiff = Tiff::of(tiff)?;
    tiff.entries(tag).filter_map(|entry| tiff.u32_at(entry + 4)).max()
}

/// A TIFF structure, which may be broken in every way.
struct Tiff<'a> {
    bytes: &'a [u8],
    big_endian: bool,
}

impl<'a> Tiff<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        match bytes.get(..4)? {
            [b'I', b'I', 42, 0] => Some(Self { bytes, big_endian: false }),
            [b'M', b'M', 0, 42] => Some(Self { bytes, big_endian: true }),
            _ => None,
        }
    }

    fn u16_at(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn u32_at(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// Where the entries of a tag in the first directory begin.
    fn entries(&self, tag: u16) -> impl Iterator<Item = usize> {
        let directory = self.u32_at(4).map_or(usize::MAX, |at| at as usize);
        let entries = self.u16_at(directory).map_or(0, usize::from);
        (0..entries)
            .map_while(move |index| directory.checked_add(2 + index * 12))
            .filter(move |&at| self.u16_at(at) == Some(tag))
    }
}

/// Writes `from`, turned by `orientation`, to `to`.
pub(super) fn turn(from: &Rgb, orientation: Orientation, to: &mut Rgb) {
    let (width, height) = orientation.applied_to(from.width, from.height);
    to.reset(width, height, false);
    let (across, down) = (from.width as usize, from.height as usize);
    let source = from.bytes.as_chunks::<3>().0;
    // For each output pixel its source is `start + x * step_x + y * step_y`.
    let (w, last) = (across as isize, (across * down) as isize - 1);
    let (start, step_x, step_y) = match orientation {
        Orientation::Upright => (0, 1, w),
        Orientation::MirrorHorizontally => (w - 1, -1, w),
        Orientation::Rotate180 => (last, -1, -w),
        Orientation::MirrorVertically => (last + 1 - w, 1, -w),
        Orientation::Transpose => (0, w, 1),
        Orientation::Rotate90Clockwise => (last + 1 - w, -w, 1),
        Orientation::Transverse => (last, -w, -1),
        Orientation::Rotate90CounterClockwise => (w - 1, w, -1),
    };
    for (y, row) in to.pixels_mut().chunks_exact_mut(width as usize * 3).enumerate() {
        let mut at = start + y as isize * step_y;
        for pixel in row.as_chunks_mut::<3>().0 {
            *pixel = source[at as usize];
            at += step_x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exif(value: u8, big_endian: bool) -> Vec<u8> {
        let mut block = b"Exif\0\0".to_vec();
        if big_endian {
            block.extend(b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0");
            block.extend([value, 0, 0, 0, 0, 0, 0]);
        } else {
            block.extend(b"II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0");
            block.extend([value, 0, 0, 0, 0, 0, 0, 0]);
        }
        block
    }

    #[test]
    fn the_tag_is_read_in_both_byte_orders() {
        for big_endian in [false, true] {
            assert_eq!(from_exif(&exif(6, big_endian)), Orientation::Rotate90Clockwise);
            assert_eq!(from_exif(&exif(9, big_endian)), Orientation::Upright);
            let whole = exif(6, big_endian);
            for end in 0..whole.len() {
                let _ = from_exif(&whole[..end]);
            }
        }
        assert_eq!(from_exif(b"II\x2a\0\xff\xff\xff\xff"), Orientation::Upright);
    }

    #[test]
    fn every_turn_is_pillows() {
        // 2 wide, 3 high:  1 2 / 3 4 / 5 6
        let mut from = Rgb::default();
        from.reset(2, 3, true);
        for (i, pixel) in from.pixels_mut().chunks_exact_mut(3).enumerate() {
            pixel.fill(i as u8 + 1);
        }
        let expected: [(u32, [u8; 6]); 8] = [
            (1, [1, 2, 3, 4, 5, 6]),
            (2, [2, 1, 4, 3, 6, 5]),
            (3, [6, 5, 4, 3, 2, 1]),
            (4, [5, 6, 3, 4, 1, 2]),
            (5, [1, 3, 5, 2, 4, 6]),
            (6, [5, 3, 1, 6, 4, 2]),
            (7, [6, 4, 2, 5, 3, 1]),
            (8, [2, 4, 6, 1, 3, 5]),
        ];
        let mut to = Rgb::default();
        for (value, pixels) in expected {
            turn(&from, Orientation::from_value(value), &mut to);
            assert_eq!(
                to.pixels_mut().iter().step_by(3).copied().collect::<Vec<_>>(),
                pixels,
                "orientation {value}"
            );
        }
    }
}
