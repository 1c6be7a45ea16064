//! TIFF through the `image` crate: 8- and 16-bit gray, RGB and RGBA.
//!
//! Other modes, and JPEG inside TIFF, are refused rather than decoded to colours that differ from Pillow's.
//! Pillow always turns a TIFF by its orientation tag, asked or not, so that is done here too.

use super::{
    Decoded, ImageError, Recipe, bmp,
    color::{Rgb, clip_gray16, drop_alpha, gray_to_rgb},
    ended_early, orient,
};
use image::{ExtendedColorType, ImageDecoder, Limits, codecs::tiff::TiffDecoder};
use std::io::Cursor;
use trawl_common::error_code::ErrorCode;

/// What the crate may take for strips and tags beside the image itself.
const MAX_INTERMEDIATE_BYTES: u64 = 64 << 20;

/// Tags that decide whether the pixels would be Pillow's.
const TAG_COMPRESSION: u16 = 259;
const TAG_EXTRA_SAMPLES: u16 = 338;

const TAG_PREDICTOR: u16 = 317;

const COMPRESSION_NONE: u32 = 1;
const PREDICTOR_NONE: u32 = 1;
const COMPRESSION_OLD_JPEG: u32 = 6;
const COMPRESSION_JPEG: u32 = 7;
const EXTRA_PREMULTIPLIED_ALPHA: u32 = 1;

/// Tags whose values the crate reads, all of them into memory, whatever it needs of them.
const READ_TAGS: &[u16] =
    &[256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347, 530];

/// Values of one such tag; an image of the largest allowed size has far fewer strips or tiles. The crate takes
/// some 40 bytes for each.
const MAX_TAG_VALUES: u32 = 1 << 19;

pub(super) fn decode(
    bytes: &[u8],
    recipe: &Recipe,
    rgb: &mut Rgb,
    raw: &mut Vec<u8>,
) -> Result<Decoded, ImageError> {
    if let Some(tag) = READ_TAGS.iter().find(|&&tag| orient::tag_count(bytes, tag) > Some(MAX_TAG_VALUES)) {
        let message = format!("the TIFF's tag {tag} has more than {MAX_TAG_VALUES} values");
        return Err(ImageError::new(ErrorCode::Corrupt, message));
    }
    let mut decoder = TiffDecoder::new(Cursor::new(bytes)).map_err(|error| sort(&error))?;
    let (width, height) = decoder.dimensions();
    recipe.limits.check(width, height)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(decoder.total_bytes() + MAX_INTERMEDIATE_BYTES);
    decoder.set_limits(limits).map_err(|error| bmp::sort(&error).sized(width, height))?;
    let color = decoder.original_color_type();
    if let Some(what) = refused(bytes, color) {
        let message = format!("TIFF with {what} is not decoded: convert it to PNG");
        return Err(ImageError::new(ErrorCode::Unsupported, message).sized(width, height));
    }
    raw.clear();
    raw.resize(decoder.total_bytes() as usize, 0);
    let truncated = match decoder.read_image(raw) {
        Ok(()) => false,
        Err(error) if bmp::is_end(&error) => ended_early(recipe, width, height)?,
        Err(error) => return Err(sort(&error).sized(width, height)),
    };
    rgb.reset(width, height, true);
    let pixels = rgb.pixels_mut();
    // 16-bit samples arrive in the machine's byte order.
    let high = |pair: &[u8; 2]| (u16::from_ne_bytes(*pair) >> 8) as u8;
    match color {
        ExtendedColorType::L8 => gray_to_rgb(raw.iter().copied(), pixels),
        ExtendedColorType::L16 => {
            let samples = raw.as_chunks::<2>().0.iter().map(|pair| u16::from_ne_bytes(*pair));
            gray_to_rgb(samples.map(clip_gray16), pixels);
        }
        ExtendedColorType::Rgb8 => pixels.copy_from_slice(raw),
        ExtendedColorType::Rgba8 => drop_alpha::<4>(raw, pixels),
        ExtendedColorType::Rgb16 => {
            for (byte, pair) in pixels.iter_mut().zip(raw.as_chunks::<2>().0) {
                *byte = high(pair);
            }
        }
        _ => {
            for (to, from) in pixels.as_chunks_mut::<3>().0.iter_mut().zip(raw.chunks_exact(8)) {
                let pairs = from.as_chunks::<2>().0;
                *to = [high(&pairs[0]), high(&pairs[1]), high(&pairs[2])];
            }
        }
    }
    Ok(Decoded::whole(width, height, truncated, orient::from_exif(bytes)))
}

/// As for BMP; what the crate does not know is told with the way out.
fn sort(error: &image::ImageError) -> ImageError {
    let sorted = bmp::sort(error);
    if sorted.code == ErrorCode::Unsupported {
        return ImageError::new(sorted.code, format!("{}: convert it to PNG", sorted.message));
    }
    sorted
}

/// What about the file would not give Pillow's pixels, if anything.
fn refused(bytes: &[u8], color: ExtendedColorType) -> Option<String> {
    use ExtendedColorType::{L8, L16, Rgb8, Rgb16, Rgba8, Rgba16};
    if !matches!(color, L8 | L16 | Rgb8 | Rgb16 | Rgba8 | Rgba16) {
        return Some(format!("{color:?} pixels"));
    }
    if matches!(orient::tag_value(bytes, TAG_COMPRESSION), Some(COMPRESSION_OLD_JPEG | COMPRESSION_JPEG)) {
        return Some("JPEG compression".to_owned());
    }
    // Pillow leaves such a predictor out and the crate does not.
    let predicted = orient::tag_value(bytes, TAG_PREDICTOR).unwrap_or(PREDICTOR_NONE) != PREDICTOR_NONE;
    let compressed =
        orient::tag_value(bytes, TAG_COMPRESSION).unwrap_or(COMPRESSION_NONE) != COMPRESSION_NONE;
    if predicted && !compressed {
        return Some("a predictor and no compression".to_owned());
    }
    (orient::tag_value(bytes, TAG_EXTRA_SAMPLES) == Some(EXTRA_PREMULTIPLIED_ALPHA))
        .then(|| "premultiplied alpha".to_owned())
}
