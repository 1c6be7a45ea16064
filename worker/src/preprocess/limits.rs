//! How large an image may be, checked against its header before anything is allocated for its pixels.

use super::ImageError;
use trawl_common::error_code::ErrorCode;

/// Pillow's own bound: it raises `DecompressionBombError` above twice `Image.MAX_IMAGE_PIXELS` (89,478,485).
pub const DEFAULT_MAX_PIXELS: u64 = 2 * 89_478_485;

/// The longest side that JPEG can express; no other format has a use for more in a photo.
pub const DEFAULT_MAX_SIDE: u32 = 65_535;

/// Bounds on an image's size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Width times height may be at most this.
    pub max_pixels: u64,
    /// Neither side may be longer than this.
    pub max_side: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: DEFAULT_MAX_PIXELS, max_side: DEFAULT_MAX_SIDE }
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_themselves_are_allowed() {
        let limits = Limits { max_pixels: 100, max_side: 50 };
        assert!(limits.check(2, 50).is_ok());
        assert_eq!(limits.check(1, 51).unwrap_err().code, ErrorCode::TooManyPixels);
        assert_eq!(limits.check(11, 10).unwrap_err().code, ErrorCode::TooManyPixels);
        assert_eq!(limits.check(0, 10).unwrap_err().code, ErrorCode::Corrupt);
        assert_eq!(Limits::default().check(u32::MAX, u32::MAX).unwrap_err().code, ErrorCode::TooManyPixels);
    }
}
