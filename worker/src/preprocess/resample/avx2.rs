//! Both passes of the resampler with AVX2, equal to `portable` bit for bit.
//!
//! A weight has 23 bits and a sign, too many for the 16-bit multiply-add that is the fastest on every
//! CPU, and a 32-bit multiply costs twice as much. So each weight is split into a high and a low part
//! (`AxisTable::split`), both are summed with `vpmaddwd`, two taps at a time, and joined at the end.
//! The arithmetic is modulo 2^32 throughout, as the portable sums are.

use super::{
    OVERREAD,
    coeffs::{AxisTable, GROUP, PRECISION_BITS, SPLIT_BITS, Span},
    portable::{self, HALF},
};
use std::arch::x86_64::*;

/// Rows that one horizontal step takes together, so that weights are loaded once for all of them.
pub(super) const ROWS: usize = 4;

/// Bytes of an output row that one vertical step makes.
const BLOCK: usize = 32;

/// Four rows of the horizontal pass. Row `r` of the input begins at `r * in_stride`, of the output at
/// `r * out_stride`; the output has 3 bytes for each span. The rows begin at input column `first`.
///
/// # Safety
/// The CPU has AVX2. Every tap's pixel of every row lies in `src`, with [`OVERREAD`] more bytes after it.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn horizontal_rows(
    src: &[u8],
    in_stride: usize,
    first: usize,
    table: &AxisTable,
    out: &mut [u8],
    out_stride: usize,
) {
    let groups = |span: &Span| span.len.div_ceil(GROUP);
    let (spans, last) = (&table.spans, table.spans.len().saturating_sub(1));
    let mut index = 0;
    while index < spans.len() {
        let span = &spans[index];
        // Reads 16 bytes at the group's first pixel: the last group begins at most 3 pixels before the end.
        let within = |span: &Span| {
            (ROWS - 1) * in_stride + (span.start - first + span.len) * 3 + OVERREAD <= src.len()
        };
        debug_assert!(within(span));
        let from = &src[(span.start - first) * 3..];
        let pair = spans.get(index + 1).filter(|next| groups(next) == groups(span));
        if let Some(next) = pair {
            debug_assert!(within(next));
            // SAFETY: the caller vouches for AVX2 and for the bytes of both, see above.
            let pixels = unsafe {
                two_pixels_of_rows([from, &src[(next.start - first) * 3..]], in_stride, table, [span, next])
            };
            // The fourth byte is of no pixel: it is written first, the pixel that lies there next.
            for row in 0..ROWS {
                let out = &mut out[row * out_stride + index * 3..];
                out[..4].copy_from_slice(&pixels[row]);
                if index + 1 < last {
                    out[3..7].copy_from_slice(&pixels[ROWS + row]);
                } else {
                    out[3..6].copy_from_slice(&pixels[ROWS + row][..3]);
                }
            }
            index += 2;
        } else {
            // Alone at the end, or before one with more or fewer groups: beside itself.
            // SAFETY: as above.
            let pixels = unsafe { two_pixels_of_rows([from; 2], in_stride, table, [span; 2]) };
            for (row, pixel) in pixels[..ROWS].iter().enumerate() {
                let at = row * out_stride + index * 3;
                out[at..at + 3].copy_from_slice(&pixel[..3]);
            }
            index += 1;
        }
    }
}

/// Two pixels side by side, of as many groups of taps each: the rows of the first, and then those of the second. One lies in the
/// lower half of each vector and one in the upper, so that nothing is summed across.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn two_pixels_of_rows(
    src: [&[u8]; 2],
    in_stride: usize,
    table: &AxisTable,
    spans: [&Span; 2],
) -> [[u8; 4]; 2 * ROWS] {
    // Four pixels rgbrgbrgbrgb.... -> 16-bit pairs r0r1 g0g1 b0b1 --, and r2r3 g2g3 b2b3 --.
    let widen_01 =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
    let widen_23 = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
    ));
    // high0..3 low0..3 -> a pair of neighbours four times.
    let pick = |pair: i32| _mm256_add_epi8(_mm256_set1_epi32(0x0302_0100), _mm256_set1_epi8(4 * pair as i8));
    let halves = |lower: *const u8, upper: *const u8| {
        // SAFETY: both have 16 bytes, by the callers of this closure.
        let (lower, upper) = unsafe { (_mm_loadu_si128(lower.cast()), _mm_loadu_si128(upper.cast())) };
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(lower), upper)
    };

    let mut high = [_mm256_setzero_si256(); ROWS];
    let mut low = [_mm256_setzero_si256(); ROWS];
    for group in 0..spans[0].len.div_ceil(GROUP) {
        let [one, other] =
            spans.map(|span| table.split[(span.offset + group * GROUP) * 2..][..2 * GROUP].as_ptr().cast());
        let both = halves(one, other);
        let [high_01, high_23, low_01, low_23] =
            [0, 1, 2, 3].map(|pair| _mm256_shuffle_epi8(both, pick(pair)));
        for row in 0..ROWS {
            let at = row * in_stride + group * GROUP * 3;
            // Within `src` and its slack, by this function's contract.
            let bytes = halves(src[0].as_ptr().wrapping_add(at), src[1].as_ptr().wrapping_add(at));
            let (taps_01, taps_23) =
                (_mm256_shuffle_epi8(bytes, widen_01), _mm256_shuffle_epi8(bytes, widen_23));
            let sum = |a, b, c, d| _mm256_add_epi32(_mm256_madd_epi16(a, b), _mm256_madd_epi16(c, d));
            high[row] = _mm256_add_epi32(high[row], sum(taps_01, high_01, taps_23, high_23));
            low[row] = _mm256_add_epi32(low[row], sum(taps_01, low_01, taps_23, low_23));
        }
    }
    let sums: [__m256i; ROWS] = std::array::from_fn(|row| {
        let joined = _mm256_add_epi32(_mm256_slli_epi32::<{ SPLIT_BITS as i32 }>(high[row]), low[row]);
        _mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(_mm256_add_epi32(joined, _mm256_set1_epi32(HALF)))
    });
    // Saturating packs are the clamp to 0..=255; they leave the halves where they are.
    let words = (_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]));
    let mut pixels = [[0; 4]; 2 * ROWS];
    // SAFETY: eight times four bytes.
    unsafe { _mm256_storeu_si256(pixels.as_mut_ptr().cast(), _mm256_packus_epi16(words.0, words.1)) };
    pixels
}

/// One output row of the vertical pass: `out[i]` from `rows[k * stride + i]` for the span's taps `k`.
///
/// # Safety
/// The CPU has AVX2, and `rows` holds `out.len()` bytes from each tap's row.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn vertical_row(
    rows: &[u8],
    stride: usize,
    table: &AxisTable,
    span: &Span,
    out: &mut [u8],
) {
    debug_assert!(span.len == 0 || (span.len - 1) * stride + out.len() <= rows.len());
    let whole = out.len() / BLOCK * BLOCK;
    for column in (0..whole).step_by(BLOCK) {
        // SAFETY: `column + BLOCK <= out.len()`, and the caller vouches for the rows.
        unsafe { vertical_block(rows, stride, table, span, column, &mut out[column..column + BLOCK]) };
    }
    let weights = &table.weights[span.offset..span.offset + span.len];
    portable::vertical_row(rows, stride, weights, whole, &mut out[whole..]);
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn vertical_block(
    rows: &[u8],
    stride: usize,
    table: &AxisTable,
    span: &Span,
    column: usize,
    out: &mut [u8],
) {
    let zero = _mm256_setzero_si256();
    let mut high = [zero; 4];
    let mut low = [zero; 4];
    let mut tap = 0;
    while tap < span.len {
        let group = (span.offset + tap) / GROUP * 2 * GROUP;
        let at = tap % GROUP;
        let pair =
            |parts: &[i16]| _mm256_set1_epi32(i32::from(parts[0]) & 0xffff | i32::from(parts[1]) << 16);
        let weights_high = pair(&table.split[group + at..group + at + 2]);
        let weights_low = pair(&table.split[group + GROUP + at..group + GROUP + at + 2]);
        // SAFETY: `tap` is a row of the span, and 32 bytes from `column` are in it.
        let a = unsafe { _mm256_loadu_si256(rows.as_ptr().add(tap * stride + column).cast()) };
        // The odd last tap has no partner: its padding weight is 0, so any bytes do.
        let b = if tap + 1 < span.len {
            // SAFETY: as above, for the next row.
            unsafe { _mm256_loadu_si256(rows.as_ptr().add((tap + 1) * stride + column).cast()) }
        } else {
            zero
        };
        let (even, odd) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
        let pairs = [
            _mm256_unpacklo_epi8(even, zero),
            _mm256_unpackhi_epi8(even, zero),
            _mm256_unpacklo_epi8(odd, zero),
            _mm256_unpackhi_epi8(odd, zero),
        ];
        for i in 0..4 {
            high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(pairs[i], weights_high));
            low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(pairs[i], weights_low));
        }
        tap += 2;
    }
    let sums: [__m256i; 4] = std::array::from_fn(|i| {
        let joined = _mm256_add_epi32(_mm256_slli_epi32::<{ SPLIT_BITS as i32 }>(high[i]), low[i]);
        _mm256_srai_epi32::<{ PRECISION_BITS as i32 }>(_mm256_add_epi32(joined, _mm256_set1_epi32(HALF)))
    });
    // The packs undo the unpacks lane by lane, so the bytes come out in order.
    let words = (_mm256_packs_epi32(sums[0], sums[1]), _mm256_packs_epi32(sums[2], sums[3]));
    // SAFETY: `out` has 32 bytes.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), _mm256_packus_epi16(words.0, words.1)) };
}
