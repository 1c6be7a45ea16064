//! Pillow's resize of 8-bit RGB, bit for bit, for just the rows and columns that the crop keeps.
//!
//! `Image.resize` weights with 22-bit fixed-point coefficients, first along rows to `u8`, then along
//! columns (since Pillow 13 in the other order where the height shrinks much more, see `columns_first`), and
//! leaves out a pass that changes nothing. Each output pixel depends only on its own span of
//! inputs, so computing the crop alone gives the very pixels that resizing everything and cropping would.
//! Must never depend on what was resized before: tables are cached by their complete key.

mod code;
mod coeffs;
mod nearest;
mod portable;
mod shrunk;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod digits;
#[cfg(target_arch = "aarch64")]
mod neon;

use code::{Code, horizontal_pass, vertical_pass};
use coeffs::{AxisKey, AxisTable};
pub(super) use shrunk::Shrunk;
use std::rc::Rc;
use trawl_common::bundle::Interpolation;

/// Bytes that must follow the last pixel of an image: vector code reads up to 64 bytes where it needs 3.
pub(super) const OVERREAD: usize = 64;

/// Tables kept for one thread: a corpus has a handful of shapes, two tables each.
const MAX_TABLES: usize = 64;

/// Bytes of tables kept for one thread; a table for a very large image has megabytes.
const MAX_TABLE_BYTES: usize = 16 << 20;

/// One axis of an image of which a decoder may have left a part only, and that smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Axis {
    /// The whole axis, and how it was shrunk.
    pub whole: Shrunk,
    /// The first pixel that is there, counted after the shrinking.
    pub first: u32,
    /// How many are there.
    pub there: u32,
}

impl Axis {
    /// An axis of which everything is there.
    #[cfg(test)]
    fn all(full: u32) -> Self {
        Self { whole: Shrunk::not(full), first: 0, there: full }
    }
}

/// An RGB image, 3 bytes a pixel, rows without gaps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    /// The pixels, then at least [`OVERREAD`] bytes that are never looked at.
    pub rgb: &'a [u8],
    /// Pixels in a row.
    pub across: Axis,
    /// Rows.
    pub down: Axis,
}

/// The pixels of an axis that `count` outputs from `first` hang on when `full` become `output`, as a half-open range;
/// sometimes one more.
pub(super) fn reach(full: u32, output: u32, first: u32, count: u32, filter: Interpolation) -> (u32, u32) {
    coeffs::reach(&AxisKey { input: Shrunk::not(full), output, first, count, filter })
}

/// The part of the resized image that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// Its left edge in the resized image.
    pub x: u32,
    /// Its top edge in the resized image.
    pub y: u32,
    /// Its width.
    pub width: u32,
    /// Its height.
    pub height: u32,
}

/// Where the window's pixels go: row `r` begins at `r * stride`.
#[derive(Debug)]
pub(super) struct Target<'a> {
    /// The first byte is the window's top left corner.
    pub rgb: &'a mut [u8],
    /// Bytes from one row to the next.
    pub stride: usize,
}

/// Weight tables and the buffer between the passes, kept from image to image.
#[derive(Debug, Default)]
pub(super) struct Resampler {
    /// Most recently used last.
    tables: Vec<Rc<AxisTable>>,
    between: Vec<u8>,
    /// What makes the pixels; tests hold each to the same ones.
    code: Code,
}

impl Resampler {
    /// Resizes `source` to `size` (width, height) and writes the pixels of `window` to `target`.
    ///
    /// The sizes are of whole images, before any shrinking. What is there of the source must hold all pixels that the
    /// window hangs on, and be shrunk only for a filter that looks at more than one pixel.
    ///
    /// # Panics
    /// If the window reaches beyond `size`, or a buffer is too short: bugs of the caller.
    pub(super) fn resize(
        &mut self,
        source: Source<'_>,
        size: (u32, u32),
        filter: Interpolation,
        window: Window,
        mut target: Target<'_>,
    ) {
        let stride = source.across.there as usize * 3;
        assert!(
            window.x + window.width <= size.0 && window.y + window.height <= size.1,
            "window {window:?} of {size:?}"
        );
        assert!(
            source.rgb.len() >= stride * source.down.there as usize + OVERREAD,
            "the source has no slack"
        );
        let (left, top) = (source.across.first as usize, source.down.first as usize);
        let whole = (source.across.whole.full, source.down.whole.full);
        let shrunk = source.across.whole.by != 1;
        if whole == size && !shrunk {
            let start = (window.y as usize - top) * stride + (window.x as usize - left) * 3;
            copy_rows(&source.rgb[start..], stride, window, &mut target);
            return;
        }
        if filter == Interpolation::Nearest {
            nearest::resize(source, size, window, &mut target);
            return;
        }
        let horizontal = (whole.0 != size.0 || shrunk).then(|| {
            self.table(AxisKey {
                input: source.across.whole,
                output: size.0,
                first: window.x,
                count: window.width,
                filter,
            })
        });
        let vertical = (whole.1 != size.1 || shrunk).then(|| {
            self.table(AxisKey {
                input: source.down.whole,
                output: size.1,
                first: window.y,
                count: window.height,
                filter,
            })
        });
        let code = self.code;
        // The vector codes read what these say without looking.
        for (table, axis) in [(&horizontal, source.across), (&vertical, source.down)] {
            let Some(table) = table else { continue };
            let (first, end) = table.input_range;
            let there = axis.first as usize..=(axis.first + axis.there) as usize;
            assert!(there.contains(&first) && there.contains(&end), "{first} to {end} of {axis:?}");
        }
        match (horizontal, vertical) {
            (Some(table), None) => {
                let rows = &source.rgb[(window.y as usize - top) * stride..];
                horizontal_pass(rows, stride, left, window.height as usize, &table, &mut target, code);
            }
            (None, Some(table)) => {
                let columns = &source.rgb[(window.x as usize - left) * 3..];
                vertical_pass(columns, stride, top, window.width as usize * 3, &table, &mut target, code);
            }
            (Some(across), Some(down)) => {
                // Every byte that counts is written before it is read: a reused buffer's content does not matter.
                let mut between = std::mem::take(&mut self.between);
                if columns_first(whole, size) {
                    let (first, end) = across.input_range;
                    let row_bytes = (end - first) * 3;
                    between.resize(row_bytes * window.height as usize + OVERREAD, 0);
                    let mut middle = Target { rgb: &mut between, stride: row_bytes };
                    let columns = &source.rgb[(first - left) * 3..];
                    vertical_pass(columns, stride, top, row_bytes, &down, &mut middle, code);
                    horizontal_pass(
                        &between,
                        row_bytes,
                        first,
                        window.height as usize,
                        &across,
                        &mut target,
                        code,
                    );
                } else {
                    let (first, end) = down.input_range;
                    let row_bytes = window.width as usize * 3;
                    between.resize(row_bytes * (end - first), 0);
                    let mut middle = Target { rgb: &mut between, stride: row_bytes };
                    horizontal_pass(
                        &source.rgb[(first - top) * stride..],
                        stride,
                        left,
                        end - first,
                        &across,
                        &mut middle,
                        code,
                    );
                    vertical_pass(&between, row_bytes, first, row_bytes, &down, &mut target, code);
                }
                self.between = between;
            }
            (None, None) => unreachable!("equal sizes are copied"),
        }
    }

    /// Frees the buffer between the passes if it grew beyond `most` bytes.
    pub(super) fn give_back_giants(&mut self, most: usize) {
        if self.between.capacity() > most {
            self.between = Vec::new();
        }
    }

    fn table(&mut self, key: AxisKey) -> Rc<AxisTable> {
        if let Some(at) = self.tables.iter().rposition(|table| table.key == key) {
            let table = self.tables.remove(at);
            self.tables.push(Rc::clone(&table));
            return table;
        }
        let table = Rc::new(AxisTable::new(key));
        self.tables.push(Rc::clone(&table));
        while self.tables.len() > 1
            && (self.tables.len() > MAX_TABLES
                || self.tables.iter().map(|table| table.bytes()).sum::<usize>() > MAX_TABLE_BYTES)
        {
            self.tables.remove(0);
        }
        table
    }
}

fn copy_rows(src: &[u8], stride: usize, window: Window, target: &mut Target<'_>) {
    let bytes = window.width as usize * 3;
    for row in 0..window.height as usize {
        target.rgb[row * target.stride..][..bytes].copy_from_slice(&src[row * stride..][..bytes]);
    }
}

/// Whether Pillow 13 takes the columns before the rows: when the height shrinks by more than twice the pixels
/// that the width shrinks by. The order shows in the rounding between the passes.
fn columns_first(from: (u32, u32), to: (u32, u32)) -> bool {
    let lost = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let height = lost(from.1, to.1);
    height > 0 && height > 2 * lost(from.0, to.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILTERS: [Interpolation; 3] =
        [Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Lanczos];

    /// xorshift64*: the same bytes on every machine.
    struct Noise(u64);

    impl Noise {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }

        fn below(&mut self, end: u32) -> u32 {
            (self.next() >> 33) as u32 % end
        }

        /// Extremes are likely: they make the filters overshoot.
        fn pixels(&mut self, width: u32, height: u32) -> Vec<u8> {
            let count = (width * height * 3) as usize + OVERREAD;
            (0..count)
                .map(|_| match self.below(4) {
                    0 => 0,
                    1 => 255,
                    _ => self.below(256) as u8,
                })
                .collect()
        }
    }

    fn run(
        resampler: &mut Resampler,
        source: Source<'_>,
        size: (u32, u32),
        filter: Interpolation,
        window: Window,
    ) -> Vec<u8> {
        let stride = window.width as usize * 3;
        let mut out = vec![7; stride * window.height as usize];
        resampler.resize(source, size, filter, window, Target { rgb: &mut out, stride });
        out
    }

    #[test]
    fn every_code_makes_the_same_pixels() {
        let mut noise = Noise(9);
        for round in 0..600 {
            // Some wide enough for whole vectors and some that a decoder has shrunk and something has turned.
            let most = if round % 2 == 0 { 90 } else { 400 };
            let (width, height) = (1 + noise.below(most), 1 + noise.below(60));
            let by = [1, 1, 2, 4, 8][noise.below(5) as usize];
            let axis = |there: u32, noise: &mut Noise| {
                let full = there * by - noise.below(by);
                let whole = Shrunk { full, by, backwards: by > 1 && noise.below(2) == 0 };
                Axis { whole, first: 0, there }
            };
            let (across, down) = (axis(width, &mut noise), axis(height, &mut noise));
            let rgb = noise.pixels(width, height);
            let source = Source { rgb: &rgb, across, down };
            let size = (1 + noise.below(most), 1 + noise.below(90));
            let (x, y) = (noise.below(size.0), noise.below(size.1));
            let window =
                Window { x, y, width: 1 + noise.below(size.0 - x), height: 1 + noise.below(size.1 - y) };
            let filter = FILTERS[round % 3];
            let mut made = Code::all().into_iter().map(|code| {
                let mut resampler = Resampler { code, ..Resampler::default() };
                (code, run(&mut resampler, source, size, filter, window))
            });
            let (_, expected) = made.next().expect("the portable one");
            for (code, pixels) in made {
                assert!(
                    pixels == expected,
                    "{code:?}: {across:?} x {down:?} to {size:?}, {filter:?}, {window:?}"
                );
            }
        }
    }

    #[test]
    fn a_window_equals_the_same_part_of_the_whole() {
        let mut noise = Noise(4);
        let rgb = noise.pixels(61, 47);
        let source = Source { rgb: &rgb, across: Axis::all(61), down: Axis::all(47) };
        for filter in FILTERS.into_iter().chain([Interpolation::Nearest]) {
            for size in [(40, 30), (61, 30), (40, 47), (61, 47), (200, 90), (1, 1)] {
                let mut resampler = Resampler::default();
                let all = Window { x: 0, y: 0, width: size.0, height: size.1 };
                let whole = run(&mut resampler, source, size, filter, all);
                let window = Window {
                    x: size.0 / 3,
                    y: size.1 / 4,
                    width: size.0.div_ceil(2),
                    height: size.1.div_ceil(2),
                };
                let part = run(&mut resampler, source, size, filter, window);
                for row in 0..window.height {
                    let start = (((window.y + row) * size.0 + window.x) * 3) as usize;
                    let bytes = window.width as usize * 3;
                    assert_eq!(
                        whole[start..start + bytes],
                        part[row as usize * bytes..][..bytes],
                        "{filter:?} {size:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_part_that_a_window_reaches_gives_what_the_whole_gives() {
        let mut noise = Noise(5);
        for round in 0..200 {
            let (width, height) = (1 + noise.below(90), 1 + noise.below(90));
            let rgb = noise.pixels(width, height);
            let size = (1 + noise.below(140), 1 + noise.below(140));
            let (x, y) = (noise.below(size.0), noise.below(size.1));
            let window =
                Window { x, y, width: 1 + noise.below(size.0 - x), height: 1 + noise.below(size.1 - y) };
            let filter = if round % 4 == 3 { Interpolation::Nearest } else { FILTERS[round % 3] };
            let whole = Source { rgb: &rgb, across: Axis::all(width), down: Axis::all(height) };
            let expected = run(&mut Resampler::default(), whole, size, filter, window);

            let (left, right) = reach(width, size.0, window.x, window.width, filter);
            let (top, bottom) = reach(height, size.1, window.y, window.height, filter);
            let mut part = Vec::new();
            for row in top..bottom {
                let at = (row * width) as usize * 3;
                part.extend_from_slice(&rgb[at + left as usize * 3..at + right as usize * 3]);
            }
            part.extend([99; OVERREAD]);
            let part = Source {
                rgb: &part,
                across: Axis { first: left, there: right - left, ..Axis::all(width) },
                down: Axis { first: top, there: bottom - top, ..Axis::all(height) },
            };
            let got = run(&mut Resampler::default(), part, size, filter, window);
            assert!(got == expected, "{width}x{height} to {size:?}, {filter:?}, {window:?}");
        }
    }

    #[test]
    fn the_order_of_the_passes_is_pillow_13s() {
        // Seen of Pillow 13.0.0: the same size as input and output, and both sides of the bound.
        assert!(columns_first((21, 76), (12, 36)));
        assert!(columns_first((40, 36), (31, 17)));
        assert!(!columns_first((43, 37), (31, 17)));
        assert!(!columns_first((37, 29), (31, 17)));
        assert!(columns_first((24, 20), (31, 17)), "a width that grows");
        assert!(!columns_first((66, 7), (90, 9)), "a height that grows");
        assert!(!columns_first((500, 375), (341, 256)));
        assert!(!columns_first((12, 14), (10, 10)), "exactly twice");
    }

    #[test]
    fn the_cache_of_tables_is_bounded() {
        let mut resampler = Resampler::default();
        for output in 1..200 {
            resampler.table(AxisKey {
                input: Shrunk::not(500),
                output,
                first: 0,
                count: output,
                filter: Interpolation::Bicubic,
            });
        }
        assert_eq!(resampler.tables.len(), MAX_TABLES);
        for input in 60_000..60_100 {
            resampler.table(AxisKey {
                input: Shrunk::not(input),
                output: 8192,
                first: 0,
                count: 8192,
                filter: Interpolation::Lanczos,
            });
        }
        assert!(resampler.tables.iter().map(|t| t.bytes()).sum::<usize>() <= MAX_TABLE_BYTES);
    }
}
