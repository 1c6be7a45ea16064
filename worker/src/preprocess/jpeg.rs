//! JPEG through libjpeg-turbo's TurboJPEG interface, with Pillow's settings and Pillow's tolerance.
//!
//! Pillow ignores libjpeg's warnings and refuses an image only when libjpeg gives up or the data ends
//! before the end marker. TurboJPEG reports just the first warning, so a warning of another kind may hide
//! that the data ended; then a second, scaled-down decode finds out.

use super::{
    Decoded, ImageError, Recipe, asked_orientation,
    color::{Rgb, adobe_cmyk_to_rgb},
    ended_early,
    jpeg_markers::{self, Header},
    jpeg_view::View,
};
use std::ffi::{CStr, c_int};
use trawl_common::error_code::ErrorCode;
use turbojpeg_sys as tj;

/// A progressive JPEG with more scans is refused: each costs a pass over the whole image and a few bytes of
/// file. Cameras and encoders write about ten.
const MAX_SCANS: c_int = 500;

/// libjpeg's word that it ran out of data.
const ENDED: &str = "Premature end of JPEG file";

/// How libjpeg's other warnings begin; whatever else it says is an error. The error code does not tell,
/// since an error after a warning is reported as a warning.
const WARNINGS: &[&str] = &[
    "Corrupt JPEG data: ",
    "Inconsistent progression sequence for component",
    "Unknown Adobe color transform code",
    "Warning: unknown JFIF revision number",
    "Invalid SOS parameters for sequential JPEG",
    "Application transferred too many scanlines",
];

/// Put behind the data for the second look: start-of-frame markers, enough to be met even from within the
/// longest segment. A second frame header is an error that libjpeg raises nowhere else.
const SENTINEL_MARKER: [u8; 2] = [0xff, 0xc0];
const SENTINEL_REPEATS: usize = 40_000;
const SENTINEL_ERROR: &str = "Invalid JPEG file structure: two SOF markers";

/// What a decode ended with.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Complete,
    /// The data ended early; the missing pixels are filled in.
    Early,
    /// Something else was odd; libjpeg went on.
    Warned,
}

pub(super) fn decode(
    bytes: &[u8],
    recipe: &Recipe,
    rgb: &mut Rgb,
    raw: &mut Vec<u8>,
) -> Result<Decoded, ImageError> {
    let header = jpeg_markers::read(bytes)?;
    let Header { width, height, .. } = header;
    recipe.limits.check(width, height)?;
    if header.many_scans {
        let scans = jpeg_markers::scans(bytes, MAX_SCANS as u32);
        if scans > MAX_SCANS as u32 {
            let message = format!("the JPEG has more than {MAX_SCANS} scans");
            return Err(ImageError::new(ErrorCode::Corrupt, message).sized(width, height));
        }
        recipe.limits.check_scans(width, height, scans)?;
    }
    let orientation = asked_orientation(recipe, header.exif);
    let view = View::new(&header, orientation, recipe);
    let (end, first_column) = decode_view(bytes, &header, view, rgb, raw).or_else(|error| {
        // TurboJPEG puts an end marker behind the data, and within a table that makes nonsense. Without
        // the cut table it is the early end that it is.
        let start = jpeg_markers::cut_segment(bytes).ok_or(error)?;
        decode_view(&bytes[..start], &header, view, rgb, raw)
    })?;
    let early = match end {
        End::Complete => false,
        End::Early => true,
        End::Warned => ends_early(bytes, &header)?,
    };
    let truncated = early && ended_early(recipe, width, height)?;
    Ok(Decoded { shrunk_by: view.denominator, first_column, width, height, truncated, orientation })
}

/// Decodes what is in view, or all columns where libjpeg does not know the colours' sampling; gives the first column.
fn decode_view(
    bytes: &[u8],
    header: &Header<'_>,
    view: View,
    rgb: &mut Rgb,
    raw: &mut Vec<u8>,
) -> Result<(End, u32), ImageError> {
    let mut handle = Handle::new()?;
    handle.read_header(bytes, header)?;
    handle.set_scale(view.denominator)?;
    let all = (0, header.width.div_ceil(view.denominator));
    let columns = if view.columns != all && handle.set_columns(view.columns) { view.columns } else { all };
    rgb.reset(columns.1, header.height.div_ceil(view.denominator), false);
    let end = if header.components == 4 {
        raw.resize(rgb.width as usize * rgb.height as usize * 4, 0);
        let end = handle.decode(bytes, raw, rgb.width * 4, tj::TJPF_TJPF_CMYK, header)?;
        adobe_cmyk_to_rgb(raw, rgb.pixels_mut());
        end
    } else {
        let pitch = rgb.width * 3;
        handle.decode(bytes, rgb.pixels_mut(), pitch, tj::TJPF_TJPF_RGB, header)?
    };
    Ok((end, columns.0))
}

/// Whether the data ends before the end marker, for an image that decoded with other warnings.
fn ends_early(bytes: &[u8], header: &Header<'_>) -> Result<bool, ImageError> {
    let mut marked = Vec::with_capacity(bytes.len() + 2 * SENTINEL_REPEATS);
    marked.extend_from_slice(bytes);
    marked.extend(std::iter::repeat_n(SENTINEL_MARKER, SENTINEL_REPEATS).flatten());
    let mut handle = Handle::new()?;
    handle.read_header(&marked, header)?;
    let denominator = if header.lossless { 1 } else { 8 };
    handle.set_scale(denominator)?;
    let (width, height) = (header.width.div_ceil(denominator), header.height.div_ceil(denominator));
    let (samples, format) =
        if header.components == 4 { (4, tj::TJPF_TJPF_CMYK) } else { (1, tj::TJPF_TJPF_GRAY) };
    let mut pixels = vec![0; width as usize * height as usize * samples as usize];
    match handle.decode(&marked, &mut pixels, width * samples, format, header) {
        Ok(End::Early) => Ok(true),
        Ok(End::Complete | End::Warned) => Ok(false),
        Err(error) => Ok(error.message.contains(SENTINEL_ERROR)),
    }
}

/// A TurboJPEG decompressor for one image.
struct Handle(tj::tjhandle);

impl Handle {
    fn new() -> Result<Self, ImageError> {
        // SAFETY: no arguments to get wrong; null is checked for.
        let handle = unsafe { tj::tj3Init(tj::TJINIT_TJINIT_DECOMPRESS as c_int) };
        if handle.is_null() {
            return Err(ImageError::new(
                ErrorCode::Corrupt,
                "libjpeg-turbo could not be initialised: out of memory",
            ));
        }
        let mut handle = Self(handle);
        handle.set(tj::TJPARAM_TJPARAM_SCANLIMIT, MAX_SCANS);
        Ok(handle)
    }

    fn set(&mut self, parameter: tj::TJPARAM, value: c_int) {
        // SAFETY: the handle is live. A refused parameter leaves the default, which is valid.
        let refused = unsafe { tj::tj3Set(self.0, parameter as c_int, value) };
        debug_assert_eq!(refused, 0, "parameter {parameter}");
    }

    fn get(&self, parameter: tj::TJPARAM) -> c_int {
        // SAFETY: the handle is live.
        unsafe { tj::tj3Get(self.0, parameter as c_int) }
    }

    /// Lets libjpeg read the header and makes sure that it sees the image that the limits were checked for.
    fn read_header(&mut self, bytes: &[u8], header: &Header<'_>) -> Result<(), ImageError> {
        // SAFETY: the handle is live and the buffer readable for its length.
        let result = unsafe { tj::tj3DecompressHeader(self.0, bytes.as_ptr(), bytes.len() as tj::size_t) };
        if result != 0 {
            self.end(header)?;
        }
        let size = (self.get(tj::TJPARAM_TJPARAM_JPEGWIDTH), self.get(tj::TJPARAM_TJPARAM_JPEGHEIGHT));
        if size != (header.width as c_int, header.height as c_int) {
            let message = format!(
                "the JPEG has contradicting sizes: {}x{} and {}x{}",
                header.width, header.height, size.0, size.1
            );
            return Err(ImageError::new(ErrorCode::Corrupt, message).sized(header.width, header.height));
        }
        Ok(())
    }

    fn set_scale(&mut self, denominator: u32) -> Result<(), ImageError> {
        let factor = tj::tjscalingfactor { num: 1, denom: denominator as c_int };
        // SAFETY: the handle is live.
        if denominator != 1 && unsafe { tj::tj3SetScalingFactor(self.0, factor) } != 0 {
            return Err(ImageError::new(
                ErrorCode::Unsupported,
                format!("JPEG scale 1/{denominator}: {}", self.message()),
            ));
        }
        Ok(())
    }

    /// Has only some columns decoded, first and count at the scale that was set; false where that cannot be.
    fn set_columns(&mut self, (first, count): (u32, u32)) -> bool {
        let region = tj::tjregion { x: first as c_int, y: 0, w: count as c_int, h: 0 };
        // SAFETY: the handle is live.
        unsafe { tj::tj3SetCroppingRegion(self.0, region) == 0 }
    }

    /// Decodes into `pixels`, whose rows are `pitch` bytes and as many as the scaled height.
    fn decode(
        &mut self,
        bytes: &[u8],
        pixels: &mut [u8],
        pitch: u32,
        format: tj::TJPF,
        header: &Header<'_>,
    ) -> Result<End, ImageError> {
        // SAFETY: the handle is live, the input readable for its length, and `pixels` has room for the size
        // that `read_header` confirmed for these very bytes, at the scale that was set.
        let result = unsafe {
            tj::tj3Decompress8(
                self.0,
                bytes.as_ptr(),
                bytes.len() as tj::size_t,
                pixels.as_mut_ptr(),
                pitch as c_int,
                format,
            )
        };
        if result == 0 { Ok(End::Complete) } else { self.end(header) }
    }

    /// Sorts the last call's message into warnings and errors.
    fn end(&self, header: &Header<'_>) -> Result<End, ImageError> {
        let message = self.message();
        if message == ENDED {
            return Ok(End::Early);
        }
        if WARNINGS.iter().any(|warning| message.starts_with(warning)) {
            return Ok(End::Warned);
        }
        let code = if message.starts_with("Unsupported") || message.contains("not supported") {
            ErrorCode::Unsupported
        } else {
            ErrorCode::Corrupt
        };
        Err(ImageError::new(code, format!("libjpeg: {message}")).sized(header.width, header.height))
    }

    fn message(&self) -> String {
        // SAFETY: the handle is live; the string is libjpeg's own, ends with 0, and is copied at once.
        let text = unsafe { CStr::from_ptr(tj::tj3GetErrorStr(self.0)) };
        text.to_string_lossy().into_owned()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is live and not used again.
        unsafe { tj::tj3Destroy(self.0) };
    }
}
