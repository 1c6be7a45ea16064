//! Thumbnails: one image of a job, small enough for a page.
//!
//! Bytes and pixels are bounded from what the store and the image's header say, before anything is read or decoded;
//! decoding is done on blocking threads, a few at a time, and the waiting line is bounded too. Which image is shown is
//! said by batch and row: only keys that stand in the job's own parts are ever read.

use super::{indexing::part_rows, place_of};
use crate::{Monitor, bounded::Bounded};
use bytes::Bytes;
use image::{
    DynamicImage, ExtendedColorType, ImageDecoder, ImageEncoder, ImageReader, Limits,
    codecs::jpeg::JpegEncoder, imageops::FilterType, metadata::Orientation,
};
use std::{
    io::Cursor,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex},
};
use tokio::sync::Semaphore;
use trawl_common::{
    job::{JobId, JobSpec, Orient},
    ledger::Progress,
    location::Location,
    results::OutputLayout,
    storage::StorageError,
};

/// A larger file has no thumbnail; photos of 100 megapixels have some 50 MB.
const MAX_IMAGE_BYTES: u64 = 64 << 20;

/// An image of more pixels has no thumbnail, nor one whose pixels take more memory than [`MAX_DECODED_BYTES`].
const MAX_PIXELS: u64 = 64_000_000;

/// What one decoder may take. With [`DECODES_AT_ONCE`] of them this is the most that thumbnails cost.
const MAX_DECODED_BYTES: u64 = 256 << 20;

/// Images decoded at once: the monitor may share its machine with a worker.
const DECODES_AT_ONCE: usize = 2;

/// Images fetched and waiting at once; a page of a gallery shows sixty.
const MAX_WAITING: usize = 128;

/// Bytes of thumbnails that are kept, some ten kilobytes each.
const MAX_CACHE_BYTES: usize = 32 << 20;

/// Thumbnails that are kept.
const MAX_CACHED: usize = 8192;

/// The longer side, in pixels: no smaller and no larger is made.
pub const SIZES: std::ops::RangeInclusive<u32> = 32..=1024;

/// Where nobody says how large.
pub const DEFAULT_SIZE: u32 = 256;

/// The quality of a JPEG: artefacts cannot be seen at this size.
const QUALITY: u8 = 82;

/// Why there is no thumbnail.
#[derive(Debug, thiserror::Error)]
pub enum NoThumbnail {
    /// There is no such row, or its image is gone.
    #[error("{0}")]
    Gone(String),
    /// The image cannot be shown.
    #[error("{0}")]
    Unreadable(String),
    /// Too many are being made.
    #[error("too many thumbnails are being made: try again in a moment")]
    Busy,
}

/// Which thumbnail.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Wanted {
    job: JobId,
    created_unix_ms: u64,
    batch: u64,
    row: u32,
    size: u32,
}

/// The thumbnails of one monitor.
pub struct Thumbnails {
    cache: Mutex<Bounded<Wanted, Bytes>>,
    waiting: Semaphore,
    decoding: Arc<Semaphore>,
}

impl Default for Thumbnails {
    fn default() -> Self {
        Self {
            cache: Mutex::new(Bounded::new(MAX_CACHED, MAX_CACHE_BYTES)),
            waiting: Semaphore::new(MAX_WAITING),
            decoding: Arc::new(Semaphore::new(DECODES_AT_ONCE)),
        }
    }
}

/// The JPEG of an image of a job, its longer side at most `size` pixels. Cancel safe; a decoder that has begun runs on.
///
/// # Errors
/// [`NoThumbnail`].
pub async fn thumbnail(
    monitor: &Monitor,
    progress: &Progress,
    batch: u64,
    row: u32,
    size: u32,
) -> Result<Bytes, NoThumbnail> {
    let (job, created_unix_ms) = (progress.job.clone(), progress.created_unix_ms);
    let wanted = Wanted { job, created_unix_ms, batch, row, size: size.clamp(*SIZES.start(), *SIZES.end()) };
    let thumbnails = &monitor.thumbnails;
    if let Some(jpeg) = thumbnails.cache.lock().expect("no panic while the cache is held").get(&wanted) {
        return Ok(jpeg.clone());
    }
    let _place = thumbnails.waiting.try_acquire().map_err(|_| NoThumbnail::Busy)?;
    let spec =
        monitor.outputs.spec(progress).await.map_err(|error| NoThumbnail::Unreadable(error.to_string()))?;
    let key = key_of(monitor, progress, batch, row).await?;
    let bytes = image_bytes(monitor, &spec, &key).await?;
    let permit = thumbnails.decoding.clone().acquire_owned().await.map_err(|_| NoThumbnail::Busy)?;
    let turned = spec.orient == Orient::Exif;
    let size = wanted.size;
    let made = tokio::task::spawn_blocking(move || {
        // Held until the decoder is at its end, whatever became of the request.
        let _permit = permit;
        catch_unwind(AssertUnwindSafe(|| shrink(&bytes, size, turned)))
    });
    let made = made.await.map_err(|error| NoThumbnail::Unreadable(error.to_string()))?;
    let made = made.unwrap_or_else(|_| Err("the decoder panicked".to_owned()));
    let jpeg = Bytes::from(made.map_err(NoThumbnail::Unreadable)?);
    let mut cache = thumbnails.cache.lock().expect("no panic while the cache is held");
    cache.insert(wanted, jpeg.clone(), jpeg.len());
    Ok(jpeg)
}

/// The key that the job's part has in that row.
async fn key_of(monitor: &Monitor, progress: &Progress, batch: u64, row: u32) -> Result<String, NoThumbnail> {
    if let Some(key) = monitor.galleries.image_key(progress, batch, row) {
        return Ok(key);
    }
    let out = place_of(&progress.out).map_err(|error| NoThumbnail::Gone(error.to_string()))?;
    let store = monitor.seams.stores.open(&out).await;
    let rows = part_rows(&*store, &OutputLayout::new(out), batch).await.map_err(NoThumbnail::Gone)?;
    let found = usize::try_from(row).ok().and_then(|row| rows.into_iter().nth(row));
    found.map(|row| row.key).ok_or_else(|| NoThumbnail::Gone(format!("batch {batch} has no row {row}")))
}

async fn image_bytes(monitor: &Monitor, spec: &JobSpec, key: &str) -> Result<Bytes, NoThumbnail> {
    let place = Location::parse(key, Path::new(&spec.base_dir));
    let place = place.map_err(|error| NoThumbnail::Unreadable(error.to_string()))?;
    let store = monitor.seams.stores.open(&place).await;
    match store.get(place.key(), MAX_IMAGE_BYTES).await {
        Ok(object) => Ok(object.bytes),
        Err(error @ (StorageError::NotFound { .. } | StorageError::NoSuchStore { .. })) => {
            Err(NoThumbnail::Gone(error.to_string()))
        }
        Err(error) => Err(NoThumbnail::Unreadable(error.to_string())),
    }
}

/// Decodes an image and makes it a small JPEG; in words if it cannot be done. Blocking.
fn shrink(bytes: &[u8], size: u32, turned: bool) -> Result<Vec<u8>, String> {
    let odd = |error: &dyn std::fmt::Display| format!("the image is not readable: {error}");
    // By its first bytes: names lie.
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|e| odd(&e))?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| odd(&e))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MAX_PIXELS || decoder.total_bytes() > MAX_DECODED_BYTES {
        return Err(format!("the image has {width} x {height} pixels, more than are shown"));
    }
    let orientation = match turned {
        true => decoder.orientation().unwrap_or(Orientation::NoTransforms),
        false => Orientation::NoTransforms,
    };
    let image = DynamicImage::from_decoder(decoder).map_err(|e| odd(&e))?;
    let mut small = match width.max(height) > size {
        true => image.resize(size, size, FilterType::Triangle),
        false => image,
    };
    small.apply_orientation(orientation);
    let small = on_white(&small);
    let mut jpeg = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut jpeg, QUALITY);
    encoder
        .write_image(small.as_raw(), small.width(), small.height(), ExtendedColorType::Rgb8)
        .map_err(|e| odd(&e))?;
    Ok(jpeg)
}

/// The pixels without their transparency, which JPEG has not.
fn on_white(image: &DynamicImage) -> image::RgbImage {
    if !image.color().has_alpha() {
        return image.to_rgb8();
    }
    let rgba = image.to_rgba8();
    image::RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, a] = rgba.get_pixel(x, y).0;
        let over = |channel: u8| {
            let mixed = u32::from(channel) * u32::from(a) + 255 * (255 - u32::from(a));
            u8::try_from((mixed + 127) / 255).unwrap_or(255)
        };
        image::Rgb([over(r), over(g), over(b)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{ImageFormat, RgbaImage};

    fn encoded(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let image = RgbaImage::from_fn(width, height, |x, _| {
            image::Rgba([200, 10, 10, if x < width / 2 { 0 } else { 255 }])
        });
        match format {
            ImageFormat::Jpeg => DynamicImage::from(image).to_rgb8().write_to(&mut bytes, format).unwrap(),
            _ => image.write_to(&mut bytes, format).unwrap(),
        }
        bytes.into_inner()
    }

    fn decoded(jpeg: &[u8]) -> image::RgbImage {
        image::load_from_memory_with_format(jpeg, ImageFormat::Jpeg).unwrap().to_rgb8()
    }

    #[test]
    fn every_format_becomes_a_small_jpeg() {
        for format in
            [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP]
        {
            let small = decoded(&shrink(&encoded(600, 300, format), 256, false).unwrap());
            assert_eq!(small.dimensions(), (256, 128), "{format:?}");
        }
        assert_eq!(
            decoded(&shrink(&encoded(20, 10, ImageFormat::Png), 256, false).unwrap()).dimensions(),
            (20, 10)
        );
        let png = decoded(&shrink(&encoded(64, 64, ImageFormat::Png), 64, false).unwrap());
        assert!(png.get_pixel(4, 4).0.iter().all(|channel| *channel > 245), "what is transparent is white");
    }

    #[test]
    fn what_claims_to_be_huge_is_refused_before_it_is_decoded() {
        let mut png = encoded(8, 8, ImageFormat::Png);
        png[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
        png[20..24].copy_from_slice(&60_000_u32.to_be_bytes());
        // CRC-32 over the chunk's type and fields, as PNG has it.
        let crc = !png[12..29].iter().fold(u32::MAX, |crc, byte| {
            (0..8)
                .fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
        });
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        let reason = shrink(&png, 256, false).unwrap_err();
        assert!(reason.contains("60000 x 60000"), "{reason}");
        let whole = encoded(64, 64, ImageFormat::Jpeg);
        for junk in [&b""[..], b"no image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", &whole[..20]] {
            assert!(shrink(junk, 256, false).is_err());
        }
    }
}
