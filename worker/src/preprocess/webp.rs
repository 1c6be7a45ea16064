//! WebP through libwebp, the library that Pillow uses.
//!
//! A still image is decoded straight to RGB, which gives the colours of Pillow's RGBA with the alpha dropped.
//! Of an animation the first frame is drawn onto a black canvas, as Pillow's animation decoder does.

use super::{Decoded, ImageError, Recipe, asked_orientation, color::Rgb, ended_early};
use libwebp_sys as webp;
use std::ffi::c_int;
use trawl_common::{error_code::ErrorCode, job::Truncated};

/// Bytes of the RIFF header with the file type.
const RIFF_HEADER: usize = 12;

pub(super) fn decode(
    bytes: &[u8],
    recipe: &Recipe,
    rgb: &mut Rgb,
    raw: &mut Vec<u8>,
) -> Result<Decoded, ImageError> {
    let features = features(bytes)?;
    let (width, height) = (features.width as u32, features.height as u32);
    recipe.limits.check(width, height)?;
    let orientation = asked_orientation(recipe, chunk(bytes, *b"EXIF"));
    let decoded = Decoded::whole(width, height, false, orientation);
    let whole = is_whole(bytes);
    if !whole && recipe.truncated == Truncated::Reject {
        ended_early(recipe, width, height)?;
    }
    rgb.reset(width, height, true);
    if features.has_animation != 0 {
        if !whole {
            let message = "an animated WebP that ends early has no first frame to go by";
            return Err(ImageError::new(ErrorCode::Truncated, message).sized(width, height));
        }
        first_frame(bytes, rgb, raw).map_err(|error| error.sized(width, height))?;
        return Ok(decoded);
    }
    let stride = width as usize * 3;
    match decode_into(bytes, rgb.pixels_mut(), stride) {
        Ok(()) => Ok(Decoded { truncated: !whole, ..decoded }),
        Err(Stopped::NoData) => Ok(Decoded { truncated: ended_early(recipe, width, height)?, ..decoded }),
        Err(Stopped::Broken(what)) => Err(broken(what).sized(width, height)),
    }
}

fn features(bytes: &[u8]) -> Result<webp::WebPBitstreamFeatures, ImageError> {
    let mut features = std::mem::MaybeUninit::zeroed();
    // SAFETY: the buffer is readable for its length; the struct is plain numbers, filled on success.
    let status = unsafe { webp::WebPGetFeatures(bytes.as_ptr(), bytes.len(), features.as_mut_ptr()) };
    match status {
        // SAFETY: all-zero bytes are a valid value of it, whatever was filled in.
        webp::VP8StatusCode::VP8_STATUS_OK => Ok(unsafe { features.assume_init() }),
        webp::VP8StatusCode::VP8_STATUS_NOT_ENOUGH_DATA => {
            Err(ImageError::new(ErrorCode::Truncated, "the WebP ends within its header"))
        }
        status => Err(broken(&format!("{status:?}"))),
    }
}

/// Why libwebp stopped.
enum Stopped {
    /// The data ended; what could be decoded is in the buffer.
    NoData,
    /// libwebp's word for it.
    Broken(&'static str),
}

/// Decodes a still image, or one frame, to RGB rows of `stride` bytes.
fn decode_into(bytes: &[u8], out: &mut [u8], stride: usize) -> Result<(), Stopped> {
    // The incremental decoder, since it leaves what it has when the data ends.
    // SAFETY: `out` outlives the decoder, which is deleted below; libwebp checks its length.
    let decoder = unsafe {
        webp::WebPINewRGB(webp::WEBP_CSP_MODE::MODE_RGB, out.as_mut_ptr(), out.len(), stride as c_int)
    };
    if decoder.is_null() {
        return Err(Stopped::Broken("out of memory"));
    }
    // SAFETY: the decoder is live, and `bytes` stays in place until it is deleted.
    let status = unsafe { webp::WebPIUpdate(decoder, bytes.as_ptr(), bytes.len()) };
    // SAFETY: the decoder is live and not used again.
    unsafe { webp::WebPIDelete(decoder) };
    match status {
        webp::VP8StatusCode::VP8_STATUS_OK => Ok(()),
        webp::VP8StatusCode::VP8_STATUS_SUSPENDED | webp::VP8StatusCode::VP8_STATUS_NOT_ENOUGH_DATA => {
            Err(Stopped::NoData)
        }
        webp::VP8StatusCode::VP8_STATUS_OUT_OF_MEMORY => Err(Stopped::Broken("out of memory")),
        webp::VP8StatusCode::VP8_STATUS_UNSUPPORTED_FEATURE => Err(Stopped::Broken("unsupported feature")),
        webp::VP8StatusCode::VP8_STATUS_BITSTREAM_ERROR => Err(Stopped::Broken("bitstream error")),
        webp::VP8StatusCode::VP8_STATUS_INVALID_PARAM => Err(Stopped::Broken("invalid frame size")),
        webp::VP8StatusCode::VP8_STATUS_USER_ABORT => Err(Stopped::Broken("aborted")),
    }
}

/// Draws the first frame of an animation onto the canvas.
fn first_frame(bytes: &[u8], rgb: &mut Rgb, raw: &mut Vec<u8>) -> Result<(), ImageError> {
    let frame = chunk(bytes, *b"ANMF").ok_or_else(|| broken("an animation without frames"))?;
    // 24-bit numbers: x / 2, y / 2, width - 1, height - 1, duration; then a byte of flags and the frame's chunks.
    let number = |at: usize| frame.get(at..at + 3).map(|b| u32::from_le_bytes([b[0], b[1], b[2], 0]));
    let (Some(x), Some(y), Some(width), Some(height), Some(data)) =
        (number(0), number(3), number(6), number(9), frame.get(16..))
    else {
        return Err(broken("a frame without header"));
    };
    let (x, y, width, height) = (x * 2, y * 2, width + 1, height + 1);
    if x + width > rgb.width || y + height > rgb.height {
        return Err(broken("a frame beyond the canvas"));
    }
    // libwebp decodes files, so the frame's chunks get a file's header back.
    let mut file = Vec::with_capacity(data.len() + 30);
    file.extend_from_slice(b"RIFF\0\0\0\0WEBP");
    if data.starts_with(b"ALPH") {
        // With an alpha chunk the extended header is needed, to say so.
        file.extend_from_slice(b"VP8X\x0a\0\0\0\x10\0\0\0");
        file.extend_from_slice(&(width - 1).to_le_bytes()[..3]);
        file.extend_from_slice(&(height - 1).to_le_bytes()[..3]);
    }
    file.extend_from_slice(data);
    let riff_size = (file.len() - 8) as u32;
    file[4..8].copy_from_slice(&riff_size.to_le_bytes());
    let inner = features(&file)?;
    if (inner.width as u32, inner.height as u32) != (width, height) {
        return Err(broken("a frame whose sizes contradict each other"));
    }
    let stride = width as usize * 3;
    raw.clear();
    raw.resize(stride * height as usize, 0);
    decode_into(&file, raw, stride).map_err(|stopped| match stopped {
        Stopped::NoData => ImageError::new(ErrorCode::Truncated, "the first frame of the WebP ends early"),
        Stopped::Broken(what) => broken(what),
    })?;
    for (row, from) in raw.chunks_exact(stride).enumerate() {
        rgb.row_mut(y + row as u32)[x as usize * 3..][..stride].copy_from_slice(from);
    }
    Ok(())
}

/// Whether all bytes that the RIFF header announces are there.
fn is_whole(bytes: &[u8]) -> bool {
    let announced = bytes.get(4..8).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    bytes.len() >= announced.saturating_add(8)
}

/// The first chunk of that name.
fn chunk(bytes: &[u8], name: [u8; 4]) -> Option<&[u8]> {
    let mut rest = bytes.get(RIFF_HEADER..)?;
    loop {
        let (head, body) = rest.split_at_checked(8)?;
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if head[..4] == name {
            return body.get(..length);
        }
        // Chunks are padded to even lengths.
        rest = body.get(length.checked_next_multiple_of(2)?..)?;
    }
}

fn broken(what: &str) -> ImageError {
    ImageError::new(ErrorCode::Corrupt, format!("libwebp: {what}"))
}
