//! Pillow's `Image.resize(NEAREST)`: no filter, the pixel under each output's centre.

use super::{Axis, Source, Target, Window};

/// Writes the pixels of `window` of the image resized to `size`.
pub(super) fn resize(source: Source<'_>, size: (u32, u32), window: Window, target: &mut Target<'_>) {
    let columns = positions(source.across, size.0, window.x, window.width);
    let rows = positions(source.down, size.1, window.y, window.height);
    let stride = source.across.there as usize * 3;
    for (index, row) in rows.into_iter().enumerate() {
        let from = &source.rgb[row * stride..][..stride];
        let to = &mut target.rgb[index * target.stride..][..columns.len() * 3];
        for (pixel, &column) in to.chunks_exact_mut(3).zip(&columns) {
            pixel.copy_from_slice(&from[column * 3..column * 3 + 3]);
        }
    }
}

/// The pixel that is there for each of `count` outputs from `first`. Pillow adds the step over and over, so the
/// sum starts at output 0 even when that one is not needed: its rounding is part of the result.
fn positions(axis: Axis, output: u32, first: u32, count: u32) -> Vec<usize> {
    let input = axis.whole.full;
    let step = f64::from(input) / f64::from(output);
    let mut at = step * 0.5;
    let mut positions = Vec::with_capacity(count as usize);
    for index in 0..first + count {
        if index >= first {
            // Rounding may carry the last sum to the edge; Pillow leaves such a pixel black, which no
            // size within the limits reaches.
            positions.push((at as usize).min(input as usize - 1) - axis.first as usize);
        }
        at += step;
    }
    positions
}
