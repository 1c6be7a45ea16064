//! BMP through the `image` crate, and 16-bit colours by hand: the crate scales their 5 and 6 bits by tables of its own.

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
    if let Some(layout) = Packed::of(bytes) {
        let whole = layout.unpack(bytes, rgb);
        let truncated = if whole { false } else { ended_early(recipe, width, height)? };
        return Ok(Decoded::whole(width, height, truncated, Orientation::Upright));
    }
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

/// Where a BMP of 16 bits a pixel without compression has its colours.
struct Packed {
    /// The first byte of its pixels.
    offset: usize,
    /// Its rows begin at the top.
    from_top: bool,
    /// Bits of green: 5 or 6; red and blue have 5.
    green: u32,
}

impl Packed {
    /// None for any other BMP, and for masks that Pillow does not know either.
    fn of(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        // OS/2's header is shorter and has no such colours.
        let _long = number(14).filter(|header| *header >= 40)?;
        let bits = u16::from_le_bytes(bytes.get(28..30)?.try_into().ok()?);
        let mask = |index: usize| number(54 + 4 * index);
        let green = match (bits, number(30)?) {
            (16, 0) => 5,
            // The masks are the header's last fields, or follow a short one: the same place.
            (16, 3) => match [mask(0)?, mask(1)?, mask(2)?] {
                [0x7c00, 0x03e0, 0x001f] => 5,
                [0xf800, 0x07e0, 0x001f] => 6,
                _ => return None,
            },
            _ => return None,
        };
        let from_top = number(22)? >> 31 == 1;
        Some(Self { offset: usize::try_from(number(10)?).ok()?, from_top, green })
    }

    /// Scales by whole numbers, as Pillow does; whether all rows were there.
    fn unpack(&self, bytes: &[u8], rgb: &mut Rgb) -> bool {
        let (width, height) = (rgb.width as usize, rgb.height);
        // Rows are padded to four bytes.
        let stride = (width * 2).next_multiple_of(4);
        let scaled = |value: u32, bits: u32| (value * 255 / ((1 << bits) - 1)) as u8;
        let part = |value: u32, shift: u32, bits: u32| scaled(value >> shift & ((1 << bits) - 1), bits);
        for row in 0..height {
            let start = self.offset + stride * row as usize;
            let Some(from) = bytes.get(start..start + width * 2) else { return false };
            let to = rgb.row_mut(if self.from_top { row } else { height - 1 - row });
            for (pixel, pair) in to.as_chunks_mut::<3>().0.iter_mut().zip(from.as_chunks::<2>().0) {
                let value = u32::from(u16::from_le_bytes(*pair));
                *pixel = [part(value, 5 + self.green, 5), part(value, 5, self.green), part(value, 0, 5)];
            }
        }
        true
    }
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
