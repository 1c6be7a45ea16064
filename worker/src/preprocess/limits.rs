//! How large an image may be, checked against its header before anything is allocated for its pixels.

use super::ImageError;
use trawl_common::error_code::ErrorCode;

/// Pillow's own bound: it raises `DecompressionBombError` above twice `Image.MAX_IMAGE_PIXELS` (89,478,485).
pub const DEFAULT_MAX_PIXELS: u64 = 2 * 89_478_485;

/// The longest side that JPEG can express; no other format has a use for more in a photo.
pub const DEFAULT_MAX_SIDE: u32 = 65_535;

/// Frames of an animation or pages of a TIFF. Only the first is decoded; clips that people share have hundreds.
pub const DEFAULT_MAX_FRAMES: u32 = 1_000;

/// How often the largest allowed image may be gone over by the scans of a JPEG. Encoders write about ten scans;
/// each costs a pass over all pixels for a few bytes of file.
const MAX_PASSES: u64 = 32;

/// Bounds on an image's size in pixels and frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Width times height may be at most this.
    pub max_pixels: u64,
    /// Neither side may be longer than this.
    pub max_side: u32,
    /// Frames or pages may be at most this many.
    pub max_frames: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: DEFAULT_MAX_PIXELS, max_side: DEFAULT_MAX_SIDE, max_frames: DEFAULT_MAX_FRAMES }
    }
}

impl Limits {
    /// Refuses a size beyond the limits, or without pixels.
    pub(super) fn check(&self, width: u32, height: u32) -> Result<(), ImageError> {
        let pixels = u64::from(width) * u64::from(height);
        if pixels == 0 {
            let message = format!("the header says {width}x{height} pixels");
            return Err(ImageError::new(ErrorCode::Corrupt, message).sized(width, height));
        }
        if width.max(height) > self.max_side {
            let message =
                format!("{width}x{height} pixels: a side is longer than the limit of {}", self.max_side);
            return Err(ImageError::new(ErrorCode::TooManyPixels, message).sized(width, height));
        }
        if pixels > self.max_pixels {
            let message = format!("{width}x{height} is {pixels} pixels, the limit is {}", self.max_pixels);
            return Err(ImageError::new(ErrorCode::TooManyPixels, message).sized(width, height));
        }
        Ok(())
    }

    /// Refuses a JPEG whose scans would go over its pixels too often.
    pub(super) fn check_scans(&self, width: u32, height: u32, scans: u32) -> Result<(), ImageError> {
        let passes = u64::from(width) * u64::from(height) * u64::from(scans);
        let most = self.max_pixels.saturating_mul(MAX_PASSES);
        if passes > most {
            let message = format!("{scans} scans of {width}x{height} pixels, {most} in all are the limit");
            return Err(ImageError::new(ErrorCode::TooManyPixels, message).sized(width, height));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_themselves_are_allowed() {
        let limits = Limits { max_pixels: 100, max_side: 50, ..Limits::default() };
        assert!(limits.check(2, 50).is_ok());
        assert_eq!(limits.check(1, 51).unwrap_err().code, ErrorCode::TooManyPixels);
        assert_eq!(limits.check(11, 10).unwrap_err().code, ErrorCode::TooManyPixels);
        assert_eq!(limits.check(0, 10).unwrap_err().code, ErrorCode::Corrupt);
        assert!(limits.check_scans(2, 50, 32).is_ok());
        assert_eq!(limits.check_scans(2, 50, 33).unwrap_err().code, ErrorCode::TooManyPixels);
        assert_eq!(Limits::default().check(u32::MAX, u32::MAX).unwrap_err().code, ErrorCode::TooManyPixels);
    }
}
