//! The first frame of a GIF, as Pillow shows it.
//!
//! Pillow fills the canvas with the transparent colour, or colour 0, before it draws the frame, lets the
//! canvas grow to hold a frame that reaches beyond it, and shows transparent pixels in their palette colour.

use super::{
    Decoded, ImageError, Recipe,
    color::{Palette, Rgb},
    ended_early,
    orient::Orientation,
};
use ::gif::{ColorOutput, DecodeOptions, DecodingError, MemoryLimit};
use std::{io::ErrorKind, num::NonZeroU64};
use trawl_common::error_code::ErrorCode;

/// What the crate may take; the frame's pixels are in our buffer, and the rest is its code tables.
const MAX_DECODER_BYTES: NonZeroU64 = NonZeroU64::new(16 << 20).unwrap();

pub(super) fn decode(
    bytes: &[u8],
    recipe: &Recipe,
    rgb: &mut Rgb,
    raw: &mut Vec<u8>,
) -> Result<Decoded, ImageError> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.set_memory_limit(MemoryLimit::Bytes(MAX_DECODER_BYTES));
    options.allow_unknown_blocks(true);
    let mut decoder = options.read_info(bytes).map_err(|error| sort(&error))?;
    let screen = (u32::from(decoder.width()), u32::from(decoder.height()));
    let frame = decoder
        .next_frame_info()
        .map_err(|error| sort(&error).sized(screen.0, screen.1))?
        .ok_or_else(|| {
            ImageError::new(ErrorCode::Truncated, "the GIF ends before its first frame")
                .sized(screen.0, screen.1)
        })?;
    let (left, top) = (usize::from(frame.left), u32::from(frame.top));
    let (frame_width, frame_height) = (u32::from(frame.width), u32::from(frame.height));
    let transparent = frame.transparent;
    let (width, height) = (screen.0.max(left as u32 + frame_width), screen.1.max(top + frame_height));
    recipe.limits.check(width, height)?;

    // Without any palette Pillow takes the indices for gray levels.
    let palette = decoder.palette().map_or_else(
        |_| Palette::new(&(0..=255).flat_map(|level| [level; 3]).collect::<Vec<_>>()),
        Palette::new,
    );
    let background = transparent.unwrap_or(0);
    raw.clear();
    raw.resize(frame_width as usize * frame_height as usize, background);
    let truncated = match decoder.read_into_buffer(raw) {
        Ok(()) => false,
        Err(error) if is_end(&error) => ended_early(recipe, width, height)?,
        Err(error) => return Err(sort(&error).sized(width, height)),
    };
    rgb.reset(width, height, false);
    let fill = palette.color(background);
    for pixel in rgb.pixels_mut().as_chunks_mut::<3>().0 {
        *pixel = fill;
    }
    for (y, row) in (top..).zip(raw.chunks_exact(frame_width.max(1) as usize)) {
        palette.apply(row.iter().copied(), &mut rgb.row_mut(y)[left * 3..]);
    }
    Ok(Decoded::whole(width, height, truncated, Orientation::Upright))
}

fn is_end(error: &DecodingError) -> bool {
    matches!(error, DecodingError::Io(io) if io.kind() == ErrorKind::UnexpectedEof)
}

fn sort(error: &DecodingError) -> ImageError {
    let code = if is_end(error) { ErrorCode::Truncated } else { ErrorCode::Corrupt };
    ImageError::new(code, format!("gif: {error}"))
}
