//! The closed set of reasons why one image has no prediction.
//!
//! A code becomes the `error_code` column of a row, a metric label and a key of `status`, so it is part
//! of the output format: codes are added, never renamed. It must never carry text from outside.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

macro_rules! error_codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// Why an image became an error row.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum ErrorCode { $($(#[$doc])* #[serde(rename = $text)] $variant,)* }

        impl ErrorCode {
            /// Every code, in the order of the documentation.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The code as it is written into rows, metrics and JSON.
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $text,)* }
            }
        }

        impl FromStr for ErrorCode {
            type Err = UnknownErrorCode;

            fn from_str(text: &str) -> Result<Self, UnknownErrorCode> {
                match text { $($text => Ok(ErrorCode::$variant),)* _ => Err(UnknownErrorCode(text.to_owned())) }
            }
        }
    };
}

error_codes! {
    /// The object was listed and is gone.
    NotFound = "not_found",
    /// The store refuses this object to us.
    Forbidden = "forbidden",
    /// The object changed between listing and reading (its etag differs).
    Changed = "changed",
    /// The object has no bytes.
    Empty = "empty",
    /// More bytes than `--max-image-bytes`.
    TooManyBytes = "too_many_bytes",
    /// More pixels, or a longer side, than `--max-pixels` allows.
    TooManyPixels = "too_many_pixels",
    /// An animation of more frames, or a TIFF of more pages, than `--max-frames`.
    TooManyFrames = "too_many_frames",
    /// The bytes are of no image format that trawl reads.
    NotAnImage = "not_an_image",
    /// A format, or a variant of one, that trawl knows and does not decode.
    Unsupported = "unsupported",
    /// The image ends before its last pixel.
    Truncated = "truncated",
    /// The image is broken in some other way.
    Corrupt = "corrupt",
    /// The decoder panicked.
    DecoderPanic = "decoder_panic",
    /// The forward pass raised on this image alone.
    ModelFailed = "model_failed",
    /// The model answered with a value that is not a number.
    NonFinite = "non_finite",
    /// The worker process died on this image.
    CrashedWorker = "crashed_worker",
    /// Reading the object failed after all retries.
    Unreadable = "unreadable",
}

/// A text that is no [`ErrorCode`].
#[derive(Debug, thiserror::Error)]
#[error("unknown error code `{0}`")]
pub struct UnknownErrorCode(String);

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_json_agree_and_round_trip() {
        for &code in ErrorCode::ALL {
            assert_eq!(code.as_str().parse::<ErrorCode>().unwrap(), code);
            assert_eq!(serde_json::to_string(&code).unwrap(), format!("\"{code}\""));
        }
        assert!("oops".parse::<ErrorCode>().is_err());
    }
}
