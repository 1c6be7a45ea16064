//! Image bytes to the model's pixels: the very `u8` RGB values that Pillow and torchvision give.
//!
//! This is the decode stage's whole work on one image: find the format by content, check the header against
//! the limits, decode, turn if asked, resize and crop. It runs on a CPU thread that owns a [`Scratch`];
//! it never touches the network, never names a file and never lets a decoder's panic out. Normalising is
//! not done here: `u8` pixels travel to the device.
//!
//! # Equal to Pillow 13
//! With [`Decode::Exact`], `Image.open(f).convert("RGB")`, then torchvision's `Resize` and `CenterCrop` on
//! PIL images, give the same bytes for JPEG (baseline, progressive, gray, CMYK and YCCK), PNG of every kind,
//! WebP, the first frame of GIFs, BMP, and 8- and 16-bit gray, RGB and RGBA TIFF. So alpha is dropped and not
//! blended, 16-bit gray is clipped at 255 (not scaled), and 16-bit colour keeps its high byte.
//! `worker/tests/preprocess_golden.rs` holds us to that. Pillow 12 and older resize tall images (and others whose
//! height shrinks by more than twice the pixels of their width) in another order of passes, and so differ from
//! Pillow 13, and from us, by a level here and there.
//!
//! # Where we differ, and why
//! * A JPEG whose data is complete but for its end marker is `truncated`. Pillow refuses it too, but for a
//!   few in a hundred whose last bits happen to suffice.
//! * A JPEG of more than 500 scans is refused, and a large one of fewer (its pixels times its scans may be 32
//!   times `--max-pixels`): it is a bomb for CPU time, which Pillow accepts.
//! * An animation or a TIFF of more than `--max-frames` frames or pages, a TIFF whose directories form a loop,
//!   and one of whose tags has half a million values are refused; Pillow reads their first image.
//! * `P` PNGs without a palette, PNGs whose chunks are out of order, and TIFFs in palette, CMYK, YCbCr,
//!   float or 1-bit modes are refused; Pillow reads most of them.
//! * What is not looked at cannot be refused: the alpha of a still WebP, the later frames of an animation, a
//!   GIF's last bytes once all its pixels are there. Pillow refuses files that are broken there.
//! * A BMP cut within the padding of its last row and a TIFF without its last checksum are `truncated`, a
//!   deflated TIFF with a wrong checksum is `corrupt`; Pillow accepts them.
//! * With `--orient exif` the EXIF block decides. Pillow also looks into XMP where EXIF says nothing.
//! * `--truncated accept` fills what is missing as the decoder leaves it: grey for JPEG, black otherwise.
//!
//! [`Decode::Exact`]: trawl_common::job::Decode::Exact

mod bmp;
mod color;
mod frames;
mod geometry;
mod gif;
mod jpeg;
mod jpeg_entropy;
mod jpeg_markers;
mod jpeg_view;
mod limits;
mod orient;
mod placement;
mod png;
mod resample;
mod slots;
mod sniff;
mod tiff;
mod webp;

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod jpeg_samples;

pub use limits::{DEFAULT_MAX_FRAMES, DEFAULT_MAX_PIXELS, DEFAULT_MAX_SIDE, Limits};

pub use placement::Placement;
pub use slots::Slot;

use color::Rgb;
use geometry::Plan;
use orient::Orientation;
use resample::{Axis, Resampler, Shrunk, Source, Target};
use slots::Slots;
use sniff::Format;
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};
use trawl_common::{
    bundle::InputSpec,
    error_code::ErrorCode,
    job::{Decode, Orient, Truncated},
};

/// A buffer of more bytes is given back after its image: 20 megapixels stay, one giant does not pin
/// hundreds of megabytes to every thread for good.
const MAX_KEPT_BYTES: usize = 64 << 20;

/// How the images of a job become pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// The model's input: size, resize, filter.
    pub input: InputSpec,
    /// Pillow's pixels, or close ones sooner.
    pub decode: Decode,
    /// What becomes of an image that ends early.
    pub truncated: Truncated,
    /// Whether the EXIF orientation turns it.
    pub orient: Orient,
    /// How large an image may be.
    pub limits: Limits,
}

/// One image, ready for the model.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// `crop[0] * crop[1] * 3` bytes: rows from the top, pixels from the left, RGB.
    pub pixels: Slot,
    /// Pixels in a row, as stored in the file: before any turn or resize.
    pub width: u32,
    /// Rows, as stored in the file.
    pub height: u32,
    /// The image ended early and the recipe accepts that.
    pub truncated: bool,
    /// Where the image lies in the pixels.
    pub placement: Placement,
}

/// Why an image has no pixels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ImageError {
    /// The code for the row.
    pub code: ErrorCode,
    /// What is wrong, for people; lower case, without the image's name.
    pub message: String,
    /// Pixels in a row, if the header said so.
    pub width: Option<u32>,
    /// Rows, if the header said so.
    pub height: Option<u32>,
}

impl ImageError {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), width: None, height: None }
    }

    fn sized(mut self, width: u32, height: u32) -> Self {
        self.width.get_or_insert(width);
        self.height.get_or_insert(height);
        self
    }
}

/// Buffers and weight tables that are reused from image to image: one for each thread.
///
/// What is in it never changes a result. There is no JPEG decoder handle among it: libjpeg keeps quantisation
/// and Huffman tables in its handle, so that a broken image would decode by its predecessor's tables.
#[derive(Debug, Default)]
pub struct Scratch {
    decoded: Rgb,
    turned: Rgb,
    raw: Vec<u8>,
    resampler: Resampler,
    slots: Arc<Slots>,
}

impl Scratch {
    /// Empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    fn give_back_giants(&mut self) {
        for buffer in [&mut self.decoded.bytes, &mut self.turned.bytes, &mut self.raw] {
            if buffer.capacity() > MAX_KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        self.resampler.give_back_giants(MAX_KEPT_BYTES);
    }
}

/// What a decoder says beside the pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Decoded {
    /// How many pixels of each axis became one: 1, or 2, 4 or 8 for a shrinking decode.
    shrunk_by: u32,
    /// The first stored column that is there, counted after the shrinking.
    first_column: u32,
    /// Pixels in a row, as stored.
    width: u32,
    /// Rows, as stored.
    height: u32,
    /// The data ended before the last pixel, and that was accepted.
    truncated: bool,
    /// The turn that brings it upright, to be applied; `Upright` unless asked for.
    orientation: Orientation,
}

impl Decoded {
    /// Of a decoder that makes all pixels.
    fn whole(width: u32, height: u32, truncated: bool, orientation: Orientation) -> Self {
        Self { shrunk_by: 1, first_column: 0, width, height, truncated, orientation }
    }
}

/// Makes the model's pixels from an image file's bytes.
///
/// Blocking and CPU-bound: milliseconds for a photo. The recipe's sides must be within what `BundleSpec`
/// allows (1 to 8192), as every recipe from a bundle is.
///
/// # Errors
/// [`ImageError`] with `Empty`, `NotAnImage`, `Unsupported`, `TooManyPixels` or `TooManyFrames` (before
/// memory is taken for pixels), `Truncated`, `Corrupt` or `DecoderPanic`. Never panics itself.
pub fn prepare(bytes: &[u8], recipe: &Recipe, scratch: &mut Scratch) -> Result<Prepared, ImageError> {
    // A panic leaves at worst half-written buffers behind, and no result depends on their content.
    let outcome = catch_unwind(AssertUnwindSafe(|| prepare_unguarded(bytes, recipe, scratch)));
    scratch.give_back_giants();
    outcome.unwrap_or_else(|panic| {
        let message = format!("the decoder panicked: {}", panic_text(&*panic));
        Err(ImageError::new(ErrorCode::DecoderPanic, message))
    })
}

fn prepare_unguarded(bytes: &[u8], recipe: &Recipe, scratch: &mut Scratch) -> Result<Prepared, ImageError> {
    let decoded = decode(bytes, recipe, scratch)?;
    if decoded.orientation != Orientation::Upright {
        orient::turn(&scratch.decoded, decoded.orientation, &mut scratch.turned);
        std::mem::swap(&mut scratch.decoded, &mut scratch.turned);
    }
    let (pixels, placement) = resize_and_crop(&decoded, recipe, scratch);
    let Decoded { width, height, truncated, .. } = decoded;
    Ok(Prepared { pixels, width, height, truncated, placement })
}

/// Makes the model's pixels once more from what the last image left in `scratch`, without decoding it: for benches of
/// the resize alone. That image must have been decoded whole and not turned.
///
/// # Panics
/// If nothing was decoded before.
pub fn resize_again(recipe: &Recipe, scratch: &mut Scratch) -> Slot {
    let (width, height) = (scratch.decoded.width, scratch.decoded.height);
    assert!(width > 0 && height > 0, "nothing was decoded before");
    resize_and_crop(&Decoded::whole(width, height, false, Orientation::Upright), recipe, scratch).0
}

fn decode(bytes: &[u8], recipe: &Recipe, scratch: &mut Scratch) -> Result<Decoded, ImageError> {
    let Scratch { decoded, raw, .. } = scratch;
    let format = sniff::sniff(bytes)?;
    frames::check(format, bytes, &recipe.limits)?;
    match format {
        Format::Jpeg => jpeg::decode(bytes, recipe, decoded, raw),
        Format::Png => png::decode(bytes, recipe, decoded, raw),
        Format::WebP => webp::decode(bytes, recipe, decoded, raw),
        Format::Gif => gif::decode(bytes, recipe, decoded, raw),
        Format::Bmp => bmp::decode(bytes, recipe, decoded, raw),
        Format::Tiff => tiff::decode(bytes, recipe, decoded, raw),
    }
}

/// The scratch holds what was decoded, upright.
fn resize_and_crop(decoded: &Decoded, recipe: &Recipe, scratch: &mut Scratch) -> (Slot, Placement) {
    let [crop_height, crop_width] = recipe.input.crop;
    let (width, height) = decoded.orientation.applied_to(decoded.width, decoded.height);
    let plan = Plan::new(width, height, &recipe.input);
    let stride = crop_width as usize * 3;
    let mut pixels = scratch.slots.take(stride * crop_height as usize);
    if (plan.window.width, plan.window.height) != (crop_width, crop_height) {
        pixels.as_chunks_mut().0.fill(plan.fill);
    }
    let start = plan.at.1 as usize * stride + plan.at.0 as usize * 3;
    let there = &scratch.decoded;
    let (across, down) = axes(decoded, (there.width, there.height));
    scratch.resampler.resize(
        Source { rgb: &there.bytes, across, down },
        plan.resized,
        recipe.input.interpolation,
        plan.window,
        Target { rgb: &mut pixels[start..], stride },
    );
    (pixels, Placement::new((width, height), &plan, decoded.orientation.origins()))
}

/// What is there of the upright image's columns and rows, `there` of each.
fn axes(decoded: &Decoded, there: (u32, u32)) -> (Axis, Axis) {
    let by = decoded.shrunk_by;
    let origins = decoded.orientation.origins();
    let axis = |backwards: bool, is_stored_column: bool, there: u32| {
        let (full, before) =
            if is_stored_column { (decoded.width, decoded.first_column) } else { (decoded.height, 0) };
        let first = if backwards { full.div_ceil(by) - before - there } else { before };
        Axis { whole: Shrunk { full, by, backwards }, first, there }
    };
    (
        axis(origins.mirrored_x, !origins.transposed, there.0),
        axis(origins.mirrored_y, origins.transposed, there.1),
    )
}

/// The turn to apply for an EXIF block, if the recipe asks for it.
fn asked_orientation(recipe: &Recipe, exif: Option<&[u8]>) -> Orientation {
    match (recipe.orient, exif) {
        (Orient::Exif, Some(exif)) => orient::from_exif(exif),
        (Orient::Exif, None) | (Orient::None, _) => Orientation::Upright,
    }
}

/// The result for an image that ended early: an error, or word that it is accepted.
fn ended_early(recipe: &Recipe, width: u32, height: u32) -> Result<bool, ImageError> {
    match recipe.truncated {
        Truncated::Accept => Ok(true),
        Truncated::Reject => {
            Err(ImageError::new(ErrorCode::Truncated, "the image ends before its last pixel")
                .sized(width, height))
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
