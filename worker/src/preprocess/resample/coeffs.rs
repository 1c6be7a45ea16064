//! The filter weights of one axis of a resize, as Pillow computes them.
//!
//! Weights are made in `f64` with Pillow's formulas in Pillow's order of operations and rounded to 22-bit
//! fixed point, because bit equality of the pixels hangs on every one of them. Only the outputs that the
//! crop keeps are made. Nothing here may depend on the pixels: a table is shared by all images of one shape.

#[cfg(target_arch = "x86_64")]
use super::digits::{self, Chunks, Digits};
use super::shrunk::{Shrunk, Statistics};
#[cfg(target_arch = "x86_64")]
use std::cell::OnceCell;
use trawl_common::bundle::Interpolation;

/// Fixed-point bits of a weight: 32 less 8 for the pixel and 2 for overshoot of filters with negative lobes.
pub(super) const PRECISION_BITS: u32 = 32 - 8 - 2;

/// Taps in a group: what one 32-byte vector holds of RGB pixels, widened to 16 bits.
pub(super) const GROUP: usize = 4;

/// The low part of a split weight, in bits; see [`AxisTable::split`].
pub(super) const SPLIT_BITS: u32 = 14;

/// What a table is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AxisKey {
    /// Pixels along the axis before the resize, and before a decode that shrank it.
    pub input: Shrunk,
    /// Pixels along the axis after it.
    pub output: u32,
    /// The first output that is needed.
    pub first: u32,
    /// How many outputs are needed.
    pub count: u32,
    /// The filter; never `Nearest`.
    pub filter: Interpolation,
}

/// Where the taps of one output are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// The first input pixel.
    pub start: usize,
    /// How many input pixels.
    pub len: usize,
    /// Index of the first weight in [`AxisTable::weights`]; a multiple of [`GROUP`].
    pub offset: usize,
}

/// The weights of one axis.
#[derive(Debug)]
pub(super) struct AxisTable {
    /// What it was made for.
    pub key: AxisKey,
    /// One span for each needed output.
    pub spans: Vec<Span>,
    /// The input pixels that any output needs, as a half-open range.
    pub input_range: (usize, usize),
    /// Fixed-point weights; each span is padded with zeros to a multiple of [`GROUP`].
    pub weights: Vec<i32>,
    /// For each group of four weights `w`, four high parts and then four low parts with
    /// `w == (high << SPLIT_BITS) + low`: 16-bit multiply-adds on both give the very 32-bit sum. For AVX2
    /// alone.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub split: Vec<i16>,
    /// For AVX-512 alone, once that has asked for them; so are the next.
    #[cfg(target_arch = "x86_64")]
    digits: OnceCell<Option<Digits>>,
    #[cfg(target_arch = "x86_64")]
    chunks: OnceCell<Option<Chunks>>,
}

impl AxisTable {
    /// Makes the table for `key`.
    pub(super) fn new(key: AxisKey) -> Self {
        let mut table = Self {
            key,
            spans: Vec::with_capacity(key.count as usize),
            input_range: (0, 0),
            weights: Vec::new(),
            split: Vec::new(),
            #[cfg(target_arch = "x86_64")]
            digits: OnceCell::new(),
            #[cfg(target_arch = "x86_64")]
            chunks: OnceCell::new(),
        };
        let taps = Taps::of(&key);
        let mut weights = Vec::new();
        if key.input.by == 1 {
            for index in key.first..key.first + key.count {
                let start = taps.write(index, &mut weights);
                table.push(start, &weights);
            }
        } else {
            taps.over_means(&key, |start, weights| table.push(start, weights));
        }
        let start = table.spans.iter().map(|s| s.start).min().unwrap_or(0);
        let end = table.spans.iter().map(|s| s.start + s.len).max().unwrap_or(0);
        table.input_range = (start, end);
        if cfg!(any(target_arch = "x86_64", test)) {
            table.split = split(&table.weights);
        }
        table
    }

    fn push(&mut self, start: usize, weights: &[f64]) {
        let offset = self.weights.len();
        self.weights.extend(weights.iter().copied().map(fixed_point));
        self.weights.resize(self.weights.len().next_multiple_of(GROUP), 0);
        self.spans.push(Span { start, len: weights.len(), offset });
    }

    /// The weights' digits, if none has too many.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn digits(&self) -> Option<&Digits> {
        self.digits.get_or_init(|| digits::of(self)).as_ref()
    }

    /// The outputs as the horizontal pass makes them together, if their weights have digits and enough go together.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn chunks(&self) -> Option<&Chunks> {
        self.chunks.get_or_init(|| Chunks::of(self, self.digits()?)).as_ref()
    }

    /// Bytes held, for the cache's bound.
    pub(super) fn bytes(&self) -> usize {
        let own = self.spans.len() * size_of::<Span>()
            + self.weights.len() * (size_of::<i32>() + 2 * size_of::<i16>());
        #[cfg(target_arch = "x86_64")]
        let own = own
            + self.digits.get().and_then(Option::as_ref).map_or(0, |digits| size_of_val(&digits[..]))
            + self.chunks.get().and_then(Option::as_ref).map_or(0, Chunks::bytes);
        own
    }
}

/// The pixels that the outputs of `key` hang on, as a half-open range; sometimes one more.
pub(super) fn reach(key: &AxisKey) -> (u32, u32) {
    let taps = Taps::of(key);
    let (first, _) = taps.range(key.first);
    let (_, end) = taps.range(key.first + key.count - 1);
    (first, end)
}

/// Pillow's filter along an axis of pixels.
struct Taps {
    filter: fn(f64) -> f64,
    support: f64,
    inverse: f64,
    scale: f64,
    input: u32,
}

impl Taps {
    fn of(key: &AxisKey) -> Self {
        let (filter, radius): (fn(f64) -> f64, f64) = match key.filter {
            Interpolation::Box => (one, 0.5),
            Interpolation::Nearest | Interpolation::Bilinear => (bilinear, 1.0),
            Interpolation::Hamming => (hamming, 1.0),
            Interpolation::Bicubic => (bicubic, 2.0),
            Interpolation::Lanczos => (lanczos, 3.0),
        };
        let input = key.input.full;
        let scale = f64::from(input) / f64::from(key.output);
        let filter_scale = scale.max(1.0);
        Self { filter, support: radius * filter_scale, inverse: 1.0 / filter_scale, scale, input }
    }

    /// The pixels under the filter of output `index`, as a half-open range.
    fn range(&self, index: u32) -> (u32, u32) {
        let center = self.center(index);
        // `as` truncates towards zero as C does, and negative values stop at 0 as Pillow's clamp does.
        let start = (center - self.support + 0.5) as u32;
        (start, ((center + self.support + 0.5) as u32).min(self.input))
    }

    fn center(&self, index: u32) -> f64 {
        (f64::from(index) + 0.5) * self.scale
    }

    /// Writes the weights of output `index` to `to` and gives the first pixel that they are for.
    fn write(&self, index: u32, to: &mut Vec<f64>) -> usize {
        let (start, end) = self.range(index);
        let center = self.center(index);
        to.clear();
        to.extend((start..end).map(|x| (self.filter)((f64::from(x) - center + 0.5) * self.inverse)));
        // Not `sum()`: the order of additions is part of the result.
        let total = to.iter().fold(0.0, |sum, weight| sum + weight);
        if total != 0.0 {
            to.iter_mut().for_each(|weight| *weight /= total);
        }
        start as usize
    }

    /// Hands over, for each output of `key`, the first mean and the weights from it on.
    fn over_means(&self, key: &AxisKey, mut push: impl FnMut(usize, &[f64])) {
        let Shrunk { full, by, backwards } = key.input;
        let by = by as usize;
        let means = (full as usize).div_ceil(by);
        // The support's pixels touch one mean more than they fill, at either end.
        let mut statistics = Statistics::new(key.input.by, (2.0 * self.support) as usize / by + 3);
        let mut taps = Vec::new();
        for index in key.first..key.first + key.count {
            let start = self.write(if backwards { key.output - 1 - index } else { index }, &mut taps);
            let (first, end) = (start / by, (start + taps.len()).div_ceil(by));
            let mut weights = statistics.weights(first, end - first, start, &taps);
            if backwards {
                weights.reverse();
            }
            push(if backwards { means - end } else { first }, &weights);
        }
    }
}

fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION_BITS);
    (if weight < 0.0 { scaled - 0.5 } else { scaled + 0.5 }) as i32
}

fn split(weights: &[i32]) -> Vec<i16> {
    let mut parts = Vec::with_capacity(weights.len() * 2);
    for group in weights.chunks_exact(GROUP) {
        // Rounding to nearest keeps the low part within 14 signed bits and the high part within 10.
        let high = |w: i32| (w + (1 << (SPLIT_BITS - 1))) >> SPLIT_BITS;
        parts.extend(group.iter().map(|&w| high(w) as i16));
        parts.extend(group.iter().map(|&w| (w - (high(w) << SPLIT_BITS)) as i16));
    }
    parts
}

fn one(x: f64) -> f64 {
    if x > -0.5 && x <= 0.5 { 1.0 } else { 0.0 }
}

fn hamming(x: f64) -> f64 {
    let x = x.abs();
    if x == 0.0 {
        return 1.0;
    }
    if x >= 1.0 {
        return 0.0;
    }
    let x = x * std::f64::consts::PI;
    // Single precision in Pillow too.
    x.sin() / x * (f64::from(0.54_f32) + f64::from(0.46_f32) * x.cos())
}

fn bilinear(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 { 1.0 - x } else { 0.0 }
}

fn bicubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

fn lanczos(x: f64) -> f64 {
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_weights_are_the_weights() {
        for filter in [Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Lanczos] {
            for (input, output) in [(500, 256), (3, 900), (65_535, 7), (1, 1), (7, 7)] {
                let table = AxisTable::new(AxisKey {
                    input: Shrunk::not(input),
                    output,
                    first: 0,
                    count: output,
                    filter,
                });
                for (weights, parts) in table.weights.chunks(GROUP).zip(table.split.chunks(2 * GROUP)) {
                    for (i, &weight) in weights.iter().enumerate() {
                        let (high, low) = (i32::from(parts[i]), i32::from(parts[i + GROUP]));
                        assert_eq!((high << SPLIT_BITS) + low, weight);
                        assert!(high.abs() <= 1 << 10 && low.abs() <= 1 << 13);
                    }
                }
            }
        }
    }

    #[test]
    fn a_part_of_a_table_equals_the_same_part_of_the_whole() {
        let filter = Interpolation::Bicubic;
        let whole =
            AxisTable::new(AxisKey { input: Shrunk::not(375), output: 256, first: 0, count: 256, filter });
        let part =
            AxisTable::new(AxisKey { input: Shrunk::not(375), output: 256, first: 16, count: 224, filter });
        for (a, b) in whole.spans[16..240].iter().zip(&part.spans) {
            assert_eq!((a.start, a.len), (b.start, b.len));
            assert_eq!(whole.weights[a.offset..a.offset + a.len], part.weights[b.offset..b.offset + b.len]);
        }
    }
}
