//! Both passes of the resampler with NEON, equal to `portable` bit for bit.
//!
//! A 32-bit multiply-add costs no more here than the 16-bit widening one, so weights are taken whole, without the split
//! that AVX2 needs. Sums are modulo 2^32, as the portable ones are.

use super::{
    OVERREAD,
    coeffs::{AxisTable, GROUP, PRECISION_BITS, Span},
    portable::{self, HALF},
};
use std::arch::aarch64::*;

/// Rows that a step of the horizontal pass takes together.
pub(super) const ROWS: usize = 4;

/// Bytes of an output row that one vertical step makes.
const BLOCK: usize = 16;

/// Four rows of the horizontal pass. Row `r` of the input begins at `r * in_stride`, of the output at
/// `r * out_stride`; the output has 3 bytes for each span. The rows begin at input column `first`.
///
/// # Safety
/// The CPU has NEON. Every tap's pixel of every row lies in `src`, with [`OVERREAD`] more bytes after it.
#[target_feature(enable = "neon")]
pub(super) unsafe fn horizontal_rows(
    src: &[u8],
    in_stride: usize,
    first: usize,
    table: &AxisTable,
    out: &mut [u8],
    out_stride: usize,
) {
    for (index, span) in table.spans.iter().enumerate() {
        // Reads 16 bytes at the group's first pixel: the last group begins at most 3 pixels before the end.
        debug_assert!((ROWS - 1) * in_stride + (span.start - first + span.len) * 3 + OVERREAD <= src.len());
        // SAFETY: the caller vouches for NEON and for the bytes, see above.
        let pixels = unsafe { pixel_of_rows(&src[(span.start - first) * 3..], in_stride, table, span) };
        for (row, pixel) in pixels.iter().enumerate() {
            let at = row * out_stride + index * 3;
            out[at..at + 3].copy_from_slice(&pixel[..3]);
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn pixel_of_rows(src: &[u8], in_stride: usize, table: &AxisTable, span: &Span) -> [[u8; 4]; ROWS] {
    /// Where the 16 bytes of tap `t`'s three 32-bit lanes come from; past the end of the table is 0.
    const fn widen(tap: u8) -> [u8; 16] {
        let mut from = [0xff; 16];
        let mut channel = 0;
        while channel < 3 {
            from[channel * 4] = tap * 3 + channel as u8;
            channel += 1;
        }
        from
    }
    const WIDEN: [[u8; 16]; GROUP] = [widen(0), widen(1), widen(2), widen(3)];
    // SAFETY: each has 16 bytes.
    let widen: [uint8x16_t; GROUP] = std::array::from_fn(|tap| unsafe { vld1q_u8(WIDEN[tap].as_ptr()) });
    let lanes = |bytes, tap: usize| vreinterpretq_s32_u8(vqtbl1q_u8(bytes, widen[tap]));

    let mut sums = [vdupq_n_s32(HALF); ROWS];
    let weights = &table.weights[span.offset..span.offset + span.len.next_multiple_of(GROUP)];
    for (group, weights) in weights.chunks_exact(GROUP).enumerate() {
        // SAFETY: `weights` has 4 values.
        let weights = unsafe { vld1q_s32(weights.as_ptr()) };
        for (row, sum) in sums.iter_mut().enumerate() {
            let at = src.as_ptr().wrapping_add(row * in_stride + group * GROUP * 3);
            // SAFETY: within `src` and its slack, by this function's contract.
            let bytes = unsafe { vld1q_u8(at) };
            *sum = vmlaq_laneq_s32::<0>(*sum, lanes(bytes, 0), weights);
            *sum = vmlaq_laneq_s32::<1>(*sum, lanes(bytes, 1), weights);
            *sum = vmlaq_laneq_s32::<2>(*sum, lanes(bytes, 2), weights);
            *sum = vmlaq_laneq_s32::<3>(*sum, lanes(bytes, 3), weights);
        }
    }
    sums.map(|sum| {
        // Saturating narrowing is the clamp to 0..=255.
        let words = vqmovun_s32(vshrq_n_s32::<{ PRECISION_BITS as i32 }>(sum));
        let bytes = vqmovn_u16(vcombine_u16(words, words));
        vget_lane_u32::<0>(vreinterpret_u32_u8(bytes)).to_le_bytes()
    })
}

/// One output row of the vertical pass: `out[i]` from `rows[k * stride + i]` for the span's taps `k`.
///
/// # Safety
/// The CPU has NEON, and `rows` holds `out.len()` bytes from each tap's row.
#[target_feature(enable = "neon")]
pub(super) unsafe fn vertical_row(
    rows: &[u8],
    stride: usize,
    table: &AxisTable,
    span: &Span,
    out: &mut [u8],
) {
    debug_assert!(span.len == 0 || (span.len - 1) * stride + out.len() <= rows.len());
    let whole = out.len() / BLOCK * BLOCK;
    let weights = &table.weights[span.offset..span.offset + span.len];
    for column in (0..whole).step_by(BLOCK) {
        // SAFETY: `column + BLOCK <= out.len()`, and the caller vouches for the rows.
        unsafe { vertical_block(rows, stride, weights, column, &mut out[column..column + BLOCK]) };
    }
    portable::vertical_row(rows, stride, weights, whole, &mut out[whole..]);
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn vertical_block(rows: &[u8], stride: usize, weights: &[i32], column: usize, out: &mut [u8]) {
    let mut sums = [vdupq_n_s32(HALF); 4];
    for (tap, &weight) in weights.iter().enumerate() {
        // SAFETY: `tap` is a row of the span, and 16 bytes from `column` are in it.
        let bytes = unsafe { vld1q_u8(rows.as_ptr().add(tap * stride + column)) };
        let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
        let quarters = [
            vmovl_u16(vget_low_u16(low)),
            vmovl_high_u16(low),
            vmovl_u16(vget_low_u16(high)),
            vmovl_high_u16(high),
        ];
        for (sum, quarter) in sums.iter_mut().zip(quarters) {
            *sum = vmlaq_n_s32(*sum, vreinterpretq_s32_u32(quarter), weight);
        }
    }
    let words = sums.map(|sum| vqmovun_s32(vshrq_n_s32::<{ PRECISION_BITS as i32 }>(sum)));
    let bytes = vcombine_u8(
        vqmovn_u16(vcombine_u16(words[0], words[1])),
        vqmovn_u16(vcombine_u16(words[2], words[3])),
    );
    // SAFETY: `out` has 16 bytes.
    unsafe { vst1q_u8(out.as_mut_ptr(), bytes) };
}
