//! BMP through the `image` crate.

use super::{
    Decoded, ImageError, Recipe,
    color::{Rgb, drop_alpha},
    ended_early,
    orient::Orientation,
};
use image::{ColorType, ImageDecoder, codecs::bmp::BmpDecoder, error::ImageError as CrateError};
use std::io::{Cursor, ErrorKind};
use trawl_common::error_code::ErrorCode;

pub(super) fn decode(
    bytes: &[u8],
    recipe: &Recipe,
    rgb: &mut Rgb,
    raw: &mut Vec<u8>,
) -> Result<Decoded, ImageError> {
    let decoder = BmpDecoder::new(Cursor::new(bytes)).map_err(|error| sort(&error))?;
    let (width, height) = decoder.dimensions();
    recipe.limits.check(width, height)?;
    rgb.reset(width, height, true);
    let outcome = match decoder.color_type() {
        ColorType::Rgb8 => decoder.read_image(rgb.pixels_mut()),
        ColorType::Rgba8 => {
            raw.clear();
            raw.resize(width as usize * height as usize * 4, 0);
            let outcome = decoder.read_image(raw);
            drop_alpha::<4>(raw, rgb.pixels_mut());
            outcome
        }
        other => {
            let message = format!("BMP with {other:?} pixels is not decoded: convert it to PNG");
            return Err(ImageError::new(ErrorCode::Unsupported, message).sized(width, height));
        }
    };
    let truncated = match outcome {
        Ok(()) => false,
        Err(error) if is_end(&error) => ended_early(recipe, width, height)?,
        Err(error) => return Err(sort(&error).sized(width, height)),
    };
    Ok(Decoded::whole(width, height, truncated, Orientation::Upright))
}

/// Whether the crate met the end of the data.
pub(super) fn is_end(error: &CrateError) -> bool {
    matches!(error, CrateError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof)
}

/// The crate's error as ours.
pub(super) fn sort(error: &CrateError) -> ImageError {
    let code = match error {
        _ if is_end(error) => ErrorCode::Truncated,
        CrateError::Unsupported(_) => ErrorCode::Unsupported,
        CrateError::Limits(_) => ErrorCode::TooManyPixels,
        _ => ErrorCode::Corrupt,
    };
    ImageError::new(code, error.to_string().replace('\n', " "))
}
