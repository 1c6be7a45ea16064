//! Both passes of the resampler with AVX-512, equal to `portable` bit for bit.
//!
//! A weight has 23 bits and a sign: three digits of eight (`digits`). One instruction multiplies four pixels by a digit each and
//! sums them to 32 bits (VNNI), and one gathers the taps of five pixels from 64 bytes of a row (VBMI), all channels side by side,
//! so that they come out as they are stored. The digits' sums are joined as the weights are, highest first. The arithmetic
//! is modulo 2^32 throughout, as the portable sums are.

use super::{
    coeffs::{GROUP, PRECISION_BITS, Span},
    digits::{Chunks, DIGIT_BITS, Digits},
    portable::HALF,
};
use std::arch::x86_64::*;

/// Rows that a step of the horizontal pass takes together.
pub(super) const ROWS: usize = 8;

/// Bytes of an output row that one vertical step makes.
pub(super) const BLOCK: usize = 64;

/// Whether the CPU has what the functions here are compiled for.
pub(super) fn is_there() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vnni")
}

/// [`ROWS`] rows of the horizontal pass. Row `r` of the input begins at `r * in_stride`, of the output at
/// `r * out_stride`; the output has 3 bytes for each span. The rows begin at input column `first`.
///
/// # Safety
/// [`is_there`]. Every tap's pixel of every row lies in `src`, with [`super::OVERREAD`] more bytes after it.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
pub(super) unsafe fn horizontal_rows(
    src: &[u8],
    in_stride: usize,
    first: usize,
    table: &Chunks,
    out: &mut [u8],
    out_stride: usize,
) {
    let mut made = 0;
    for chunk in &table.chunks {
        let from = &src[(chunk.start - first) * 3..];
        debug_assert!((ROWS - 1) * in_stride + chunk.groups.saturating_sub(1) * GROUP * 3 + 64 <= from.len());
        let bytes = chunk.count * 3;
        let out = &mut out[made..(ROWS - 1) * out_stride + made + bytes];
        made += bytes;
        let lines = &table.lines[chunk.at..chunk.at + 1 + 3 * chunk.groups];
        let gather = lines[0].load();
        let mut sums = [[_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_set1_epi32(HALF)]; ROWS];
        for (group, weights) in lines[1..].chunks_exact(3).enumerate() {
            let weights = [weights[0].load(), weights[1].load(), weights[2].load()];
            for (row, sums) in sums.iter_mut().enumerate() {
                let at = row * in_stride + group * GROUP * 3;
                // SAFETY: 64 bytes from a tap of the row are in `src` and its slack, by this function's contract.
                let bytes = unsafe { _mm512_loadu_si512(from.as_ptr().add(at).cast()) };
                let taps = _mm512_permutexvar_epi8(gather, bytes);
                for (sum, digit) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_dpbusd_epi32(*sum, taps, digit);
                }
            }
        }
        let mask = (1_u16 << bytes) - 1;
        for (four, sums) in sums.chunks_exact(4).enumerate() {
            // Of each row 16 bytes, four in each quarter: brought together.
            let packed = pack([sums[0], sums[1], sums[2], sums[3]]);
            let rows = _mm512_permutexvar_epi32(
                _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
                packed,
            );
            let rows = [
                _mm512_castsi512_si128(rows),
                _mm512_extracti32x4_epi32::<1>(rows),
                _mm512_extracti32x4_epi32::<2>(rows),
                _mm512_extracti32x4_epi32::<3>(rows),
            ];
            for (row, pixels) in rows.into_iter().enumerate() {
                // SAFETY: the mask leaves out what is not in `out`.
                unsafe {
                    let at = out.as_mut_ptr().add((four * 4 + row) * out_stride);
                    _mm_mask_storeu_epi8(at.cast(), mask, pixels);
                }
            }
        }
    }
}

/// Four times sixteen sums of the three digits as bytes, clamped: four of each in every quarter.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn pack(sums: [[__m512i; 3]; 4]) -> __m512i {
    let [a, b, c, d] = sums.map(|[high, middle, low]| {
        let upper = _mm512_add_epi32(_mm512_slli_epi32::<DIGIT_BITS>(high), middle);
        let all = _mm512_add_epi32(_mm512_slli_epi32::<DIGIT_BITS>(upper), low);
        _mm512_srai_epi32::<PRECISION_BITS>(all)
    });
    // Saturating packs are the clamp to 0..=255.
    _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d))
}

/// One output row of the vertical pass, of at least [`BLOCK`] bytes: `out[i]` from `rows[k * stride + i]` for the span's taps `k`.
///
/// # Safety
/// [`is_there`], and `rows` holds `out.len()` bytes from each tap's row.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
pub(super) unsafe fn vertical_row(rows: &[u8], stride: usize, digits: &Digits, span: &Span, out: &mut [u8]) {
    debug_assert!(span.len == 0 || (span.len - 1) * stride + out.len() <= rows.len());
    let last = out.len() - BLOCK;
    for column in (0..out.len()).step_by(BLOCK) {
        // The last one makes some bytes of the one before again, so that none is left over.
        let column = column.min(last);
        // SAFETY: `column + BLOCK <= out.len()`, and the caller vouches for the rows.
        unsafe { vertical_block(rows, stride, digits, span, column, &mut out[column..column + BLOCK]) };
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vnni")]
unsafe fn vertical_block(
    rows: &[u8],
    stride: usize,
    digits: &Digits,
    span: &Span,
    column: usize,
    out: &mut [u8],
) {
    let mut sums = [[_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_set1_epi32(HALF)]; 4];
    let groups = &digits[span.offset / GROUP..][..span.len.div_ceil(GROUP)];
    for (group, weights) in groups.iter().enumerate() {
        let row = |tap: usize| {
            // Behind the last tap its own row again: the weight there is 0, so any bytes do.
            let at = (group * GROUP + tap).min(span.len - 1) * stride + column;
            // SAFETY: it is a row of the span, and 64 bytes from `column` are in it.
            unsafe { _mm512_loadu_si512(rows.as_ptr().add(at).cast()) }
        };
        let (a, b, c, d) = (row(0), row(1), row(2), row(3));
        let first = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
        let second = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
        // abcd of a column in each; the packs undo it quarter by quarter.
        let taps = [
            _mm512_unpacklo_epi16(first.0, second.0),
            _mm512_unpackhi_epi16(first.0, second.0),
            _mm512_unpacklo_epi16(first.1, second.1),
            _mm512_unpackhi_epi16(first.1, second.1),
        ];
        let weights = weights.map(|four| _mm512_set1_epi32(four));
        for (sums, taps) in sums.iter_mut().zip(taps) {
            for (sum, digit) in sums.iter_mut().zip(weights) {
                *sum = _mm512_dpbusd_epi32(*sum, taps, digit);
            }
        }
    }
    // SAFETY: `out` has 64 bytes.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), pack(sums)) };
}
