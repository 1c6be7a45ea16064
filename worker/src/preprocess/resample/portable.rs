//! Both passes of the resampler in plain Rust: the definition that the vector code is held to.

use super::coeffs::{AxisTable, PRECISION_BITS, Span};

/// Half of a unit in fixed point: sums start here, so that the shift rounds.
pub(super) const HALF: i32 = 1 << (PRECISION_BITS - 1);

pub(super) fn clip8(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// One row: `out` (3 bytes for each span) from `row` (RGB), which begins at input column `first`.
pub(super) fn horizontal_row(row: &[u8], first: usize, table: &AxisTable, out: &mut [u8]) {
    for (span, pixel) in table.spans.iter().zip(out.chunks_exact_mut(3)) {
        horizontal_pixel(&row[(span.start - first) * 3..], table, span, pixel);
    }
}

/// One pixel, from those that begin at the span's first.
fn horizontal_pixel(pixels: &[u8], table: &AxisTable, span: &Span, pixel: &mut [u8]) {
    let weights = &table.weights[span.offset..span.offset + span.len];
    let mut sums = [HALF; 3];
    for (source, &weight) in pixels[..span.len * 3].chunks_exact(3).zip(weights) {
        for (sum, &value) in sums.iter_mut().zip(source) {
            *sum += i32::from(value) * weight;
        }
    }
    for (byte, sum) in pixel.iter_mut().zip(sums) {
        *byte = clip8(sum);
    }
}

/// Bytes `from..` of one output row: `out[i]` is the weighted sum of `rows[k * stride + from + i]`.
///
/// `rows` begins at the span's first row.
pub(super) fn vertical_row(rows: &[u8], stride: usize, weights: &[i32], from: usize, out: &mut [u8]) {
    // A block of sums stays in registers or L1 whatever the row's length, so no buffer is needed.
    const BLOCK: usize = 64;
    for (index, block) in out.chunks_mut(BLOCK).enumerate() {
        let column = from + index * BLOCK;
        let mut sums = [HALF; BLOCK];
        for (k, &weight) in weights.iter().enumerate() {
            let start = k * stride + column;
            for (sum, &value) in sums.iter_mut().zip(&rows[start..start + block.len()]) {
                *sum += i32::from(value) * weight;
            }
        }
        for (byte, &sum) in block.iter_mut().zip(&sums) {
            *byte = clip8(sum);
        }
    }
}
