//! The weights of an axis as AVX-512 wants them: three digits of 8 bits, and for the horizontal pass side by side.
//!
//! Made of a table when `avx512` first wants them. Holds nothing that is not in the table.

use super::coeffs::{AxisTable, GROUP, Span};
use std::arch::x86_64::{__m512i, _mm512_load_si512};

/// Bits of a digit.
pub(super) const DIGIT_BITS: u32 = 8;

/// Pixels of a chunk: three channels of four taps each, in 64 bytes.
const CHUNK: usize = 5;

/// With fewer in a chunk AVX2 is as quick.
const MANY: usize = 2;

/// How far the first tap of a chunk's last pixel may be behind that of its first: all of a group are within 64 bytes.
const FARTHEST: usize = (64 - GROUP * 3) / 3;

/// Bytes of a vector.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub(super) struct Line([u8; 64]);

impl Line {
    /// In a register.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn load(&self) -> __m512i {
        // SAFETY: 64 bytes, aligned.
        unsafe { _mm512_load_si512(self.0.as_ptr().cast()) }
    }
}

/// Neighbours that the horizontal pass makes together.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The first input pixel of any of them.
    pub start: usize,
    /// How many they are.
    pub count: usize,
    /// Groups of taps of the one that has most.
    pub groups: usize,
    /// Where in [`Chunks::lines`] they begin: which byte of 64 goes where, and three digits for each group.
    pub at: usize,
}

/// For each group of four weights its digits, the highest first: `w == (high << 16) + (middle << 8) + low`. A digit of each in
/// one number, that of the first in its lowest byte.
pub(super) type Digits = Vec<[i32; 3]>;

/// The digits of `table`'s weights; none if a weight has more than three.
pub(super) fn of(table: &AxisTable) -> Option<Digits> {
    table.weights.chunks_exact(GROUP).map(digits).collect()
}

/// What the horizontal pass makes all outputs of.
#[derive(Debug)]
pub(super) struct Chunks {
    /// All outputs, from the first on.
    pub chunks: Vec<Chunk>,
    /// Of the chunks.
    pub lines: Vec<Line>,
}

impl Chunks {
    /// Of `table`, whose weights have these digits; none where so much is left out that hardly two pixels go together, and the
    /// lines would take more memory than they are worth.
    pub(super) fn of(table: &AxisTable, digits: &Digits) -> Option<Self> {
        let mut made = Self { chunks: Vec::new(), lines: Vec::new() };
        let mut left = &table.spans[..];
        while let Some(span) = left.first() {
            let near = |other: &&Span| (span.start..=span.start + FARTHEST).contains(&other.start);
            let count = left.iter().take(CHUNK).take_while(near).count();
            let (chunk, others) = left.split_at(count);
            if count < MANY.min(left.len()) {
                return None;
            }
            made.push(chunk, digits);
            left = others;
        }
        Some(made)
    }

    fn push(&mut self, spans: &[Span], digits: &Digits) {
        let start = spans[0].start;
        let groups = spans.iter().map(|span| span.len.div_ceil(GROUP)).max().unwrap_or(0);
        self.chunks.push(Chunk { start, count: spans.len(), groups, at: self.lines.len() });
        self.lines.push(line(spans, |span, channel, tap| ((span.start - start + tap) * 3 + channel) as u8));
        for group in 0..groups {
            for digit in [0, 1, 2] {
                let of_span = |span: &Span| {
                    let there = group < span.len.div_ceil(GROUP);
                    if there { digits[span.offset / GROUP + group][digit].to_le_bytes() } else { [0; GROUP] }
                };
                let line = line(spans, |span, _, tap| of_span(span)[tap]);
                self.lines.push(line);
            }
        }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&self.chunks[..]) + size_of_val(&self.lines[..])
    }
}

/// Four taps of three channels for each span; zeros behind them.
fn line(spans: &[Span], byte: impl Fn(&Span, usize, usize) -> u8) -> Line {
    let mut line = Line([0; 64]);
    for (pixel, span) in line.0.chunks_exact_mut(GROUP * 3).zip(spans) {
        for (at, to) in pixel.iter_mut().enumerate() {
            *to = byte(span, at / GROUP, at % GROUP);
        }
    }
    line
}

/// The digits of a group, each rounded to nearest so that what is left fits into the lower ones.
fn digits(group: &[i32]) -> Option<[i32; 3]> {
    let mut digits = [[0; GROUP]; 3];
    for (tap, &weight) in group.iter().enumerate() {
        let mut left = i64::from(weight);
        for place in digits.iter_mut().rev() {
            let digit = left as i8;
            place[tap] = digit.cast_unsigned();
            left = (left - i64::from(digit)) >> DIGIT_BITS;
        }
        if left != 0 {
            return None;
        }
    }
    Some(digits.map(i32::from_le_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::resample::{Shrunk, coeffs::AxisKey};
    use trawl_common::bundle::Interpolation;

    fn weight(digits: [i32; 3], tap: usize) -> i32 {
        let [high, middle, low] = digits.map(|four| i32::from(four.to_le_bytes()[tap].cast_signed()));
        (high << 16) + (middle << 8) + low
    }

    #[test]
    fn digits_are_the_weights_and_too_many_are_none() {
        for group in
            [[0, 1, -1, 4_194_304], [-4_194_304, 127, 128, -128], [-129, 8_355_711, -8_355_711, 32_768]]
        {
            let digits = digits(&group).unwrap();
            assert_eq!([0, 1, 2, 3].map(|tap| weight(digits, tap)), group);
        }
        for large in [8_400_000, -8_500_000, i32::MAX, i32::MIN] {
            assert_eq!(digits(&[0, 0, large, 0]), None, "{large}");
        }
    }

    #[test]
    fn chunks_hold_every_tap_of_every_pixel_once() {
        for (input, output) in [(500, 341), (4000, 341), (30, 200), (65_535, 7), (1, 1), (9, 9)] {
            for filter in [Interpolation::Bilinear, Interpolation::Lanczos] {
                let key = AxisKey { input: Shrunk::not(input), output, first: 0, count: output, filter };
                let table = AxisTable::new(key);
                let Some(made) = table.chunks() else {
                    assert_eq!(input, 65_535, "{input} to {output}");
                    continue;
                };
                let mut spans = table.spans.iter();
                for chunk in &made.chunks {
                    let lines = &made.lines[chunk.at..];
                    for pixel in 0..chunk.count {
                        let span = spans.next().expect("as many pixels as spans");
                        for (tap, channel) in
                            (0..chunk.groups * GROUP).flat_map(|tap| [0, 1, 2].map(|channel| (tap, channel)))
                        {
                            let (group, at) = (tap / GROUP, (pixel * 3 + channel) * GROUP + tap % GROUP);
                            let lane = at / GROUP * GROUP;
                            let four = |digit: usize| {
                                let bytes = &lines[1 + group * 3 + digit].0[lane..lane + GROUP];
                                i32::from_le_bytes(bytes.try_into().unwrap())
                            };
                            let found = weight([four(0), four(1), four(2)], tap % GROUP);
                            let wanted = if tap < span.len { table.weights[span.offset + tap] } else { 0 };
                            assert_eq!(found, wanted, "{input} to {output}, {filter:?}, tap {tap}");
                            if tap < span.len {
                                let byte = chunk.start * 3 + group * GROUP * 3 + usize::from(lines[0].0[at]);
                                assert_eq!(byte, (span.start + tap) * 3 + channel);
                            }
                        }
                    }
                }
                assert!(spans.next().is_none());
            }
        }
    }
}
