//! PNG through the `png` crate, with Pillow's conversions and Pillow's tolerance.
//!
//! Pillow verifies the checksums of all chunks before the pixels and of the pixels themselves, but not of the
//! chunks that they are in, so the chunks are walked here and the crate's checks of chunks are off. Rows come as they are stored and are converted here, since
//! the crate's own expansion scales where Pillow clips. Of an animation the default image counts.

use super::{
    Decoded, ImageError, Recipe, asked_orientation,
    color::{Palette, Rgb, clip_gray16, drop_alpha, gray_to_rgb, unpack},
    ended_early,
};
use ::png::{
    Adam7Info, BitDepth, ColorType, DecodeOptions, Decoder, DecodingError, InterlaceInfo, Limits, Reader,
};
use std::io::{Cursor, ErrorKind};
use trawl_common::error_code::ErrorCode;

/// Bytes of the signature before the first chunk.
const SIGNATURE: usize = 8;

/// What the crate may take beside our buffers: two rows of 65,535 RGBA pixels of 16 bits have 1 MiB. Text
/// and colour profiles are not read.
const MAX_DECODER_BYTES: usize = 16 << 20;

pub(super) fn decode(
    bytes: &[u8],
    recipe: &Recipe,
    rgb: &mut Rgb,
    raw: &mut Vec<u8>,
) -> Result<Decoded, ImageError> {
    let chunks = Chunks::read(bytes)?;
    let (width, height) = chunks.size;
    recipe.limits.check(width, height)?;
    let orientation = asked_orientation(recipe, chunks.exif);
    let truncated =
        pixels(bytes, recipe, chunks.size, rgb, raw).map_err(|error| error.sized(width, height))?;
    Ok(Decoded::whole(width, height, truncated, orientation))
}

fn pixels(
    bytes: &[u8],
    recipe: &Recipe,
    (width, height): (u32, u32),
    rgb: &mut Rgb,
    raw: &mut Vec<u8>,
) -> Result<bool, ImageError> {
    let mut options = DecodeOptions::default();
    options.set_ignore_crc(true);
    options.set_ignore_adler32(false);
    options.set_ignore_text_chunk(true);
    options.set_ignore_iccp_chunk(true);
    let mut decoder = Decoder::new_with_options(Cursor::new(bytes), options);
    decoder.set_limits(Limits { bytes: MAX_DECODER_BYTES });
    let mut reader = decoder.read_info().map_err(|error| sort(&error))?;
    if (reader.info().width, reader.info().height) != (width, height) {
        return Err(ImageError::new(ErrorCode::Corrupt, "the PNG has more than one header"));
    }
    let convert = Convert::new(reader.info())?;
    // Rows that are missing stay black.
    rgb.reset(width, height, true);
    let outcome = if reader.info().interlaced {
        interlaced(&mut reader, &convert, rgb, raw)
    } else {
        raw.resize(convert.row_bytes(width), 0);
        (0..height).try_for_each(|y| {
            reader.read_row(raw)?;
            convert.row(raw, rgb.row_mut(y));
            Ok(())
        })
    };
    // Asking for one row more verifies the checksum; that it is missing does no harm.
    let outcome = outcome.and_then(|()| match reader.read_row(raw) {
        Err(error) if !is_end(&error) => Err(error),
        _ => Ok(()),
    });
    match outcome {
        Ok(()) => Ok(false),
        Err(error) if is_end(&error) => ended_early(recipe, width, height),
        Err(error) => Err(sort(&error)),
    }
}

/// Puts the passes together in `raw`, then converts: also what there is of them, if the data ends.
fn interlaced(
    reader: &mut Reader<Cursor<&[u8]>>,
    convert: &Convert,
    rgb: &mut Rgb,
    raw: &mut Vec<u8>,
) -> Result<(), DecodingError> {
    let stride = convert.row_bytes(rgb.width);
    raw.clear();
    raw.resize(stride * (rgb.height as usize + 1), 0);
    let (image, row) = raw.split_at_mut(stride * rgb.height as usize);
    let bits = convert.bits_per_pixel();
    let mut passes = || {
        for last in adam7_lines(rgb.width, rgb.height) {
            if let Some(InterlaceInfo::Adam7(info)) = reader.read_row(row)? {
                debug_assert_eq!(format!("{info:?}"), format!("{last:?}"));
                ::png::expand_interlaced_row(image, stride, row, &info, bits);
            }
        }
        Ok(())
    };
    let outcome = passes();
    for (y, row) in image.chunks_exact(stride).enumerate() {
        convert.row(row, rgb.row_mut(y as u32));
    }
    outcome
}

/// The lines of all passes, so that reading stops with the last and does not ask for what follows it.
fn adam7_lines(width: u32, height: u32) -> impl Iterator<Item = Adam7Info> {
    // First row and step of each pass, and likewise across: a pass without columns has no lines.
    const PASSES: [(u32, u32, u32, u32); 7] =
        [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)];
    PASSES.into_iter().zip(1..).flat_map(move |((first, step, column, _), pass)| {
        let lines = if column < width { height.saturating_sub(first).div_ceil(step) } else { 0 };
        (0..lines).map(move |line| Adam7Info::new(pass, line, width))
    })
}

/// How a stored row becomes RGB.
struct Convert {
    color: ColorType,
    bits: u8,
    palette: Option<Palette>,
}

impl Convert {
    fn new(info: &::png::Info<'_>) -> Result<Self, ImageError> {
        let palette = match (info.color_type, &info.palette) {
            (ColorType::Indexed, Some(triples)) => Some(Palette::new(triples)),
            (ColorType::Indexed, None) => {
                return Err(ImageError::new(ErrorCode::Corrupt, "the PNG has no palette"));
            }
            _ => None,
        };
        let bits = match info.bit_depth {
            BitDepth::One => 1,
            BitDepth::Two => 2,
            BitDepth::Four => 4,
            BitDepth::Eight => 8,
            BitDepth::Sixteen => 16,
        };
        Ok(Self { color: info.color_type, bits, palette })
    }

    fn bits_per_pixel(&self) -> u8 {
        self.bits * self.color.samples() as u8
    }

    fn row_bytes(&self, width: u32) -> usize {
        (width as usize * usize::from(self.bits_per_pixel())).div_ceil(8)
    }

    fn row(&self, row: &[u8], rgb: &mut [u8]) {
        let high = |pixel: &[u8]| pixel[0];
        match (self.color, self.bits) {
            (ColorType::Indexed, bits) => {
                if let Some(palette) = &self.palette {
                    palette.apply(unpack(row, bits), rgb);
                }
            }
            (ColorType::Grayscale, 16) => {
                let samples = row.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair));
                gray_to_rgb(samples.map(clip_gray16), rgb);
            }
            (ColorType::Grayscale, bits) => {
                // 1, 2, 4 and 8 bits to 0..=255: times 255, 85, 17 and 1.
                let factor = (255 / ((1_u16 << bits) - 1)) as u8;
                gray_to_rgb(unpack(row, bits).map(|sample| sample * factor), rgb);
            }
            (ColorType::GrayscaleAlpha, 16) => gray_to_rgb(row.chunks_exact(4).map(high), rgb),
            (ColorType::GrayscaleAlpha, _) => gray_to_rgb(row.chunks_exact(2).map(high), rgb),
            (ColorType::Rgb, 16) => {
                for (byte, sample) in rgb.iter_mut().zip(row.chunks_exact(2)) {
                    *byte = sample[0];
                }
            }
            (ColorType::Rgb, _) => rgb.copy_from_slice(row),
            (ColorType::Rgba, 16) => {
                for (to, from) in rgb.as_chunks_mut::<3>().0.iter_mut().zip(row.as_chunks::<8>().0) {
                    *to = [from[0], from[2], from[4]];
                }
            }
            (ColorType::Rgba, _) => drop_alpha::<4>(row, rgb),
        }
    }
}

/// What the chunks say before a pixel is read.
struct Chunks<'a> {
    size: (u32, u32),
    exif: Option<&'a [u8]>,
}

impl<'a> Chunks<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let cut = || ImageError::new(ErrorCode::Truncated, "the PNG ends before its pixels");
        let mut rest = &bytes[SIGNATURE..];
        let mut size = None;
        let mut exif = None;
        let mut before_pixels = true;
        while let Some((head, body)) = rest.split_at_checked(8) {
            let (length, name) =
                (u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize, &head[4..]);
            before_pixels &= name != b"IDAT" && name != b"IEND";
            let whole = body
                .split_at_checked(length)
                .and_then(|(data, after)| Some((data, after.split_at_checked(4)?)));
            let Some((data, (checksum, after))) = whole else { break };
            if before_pixels {
                if crc32(&[name, data])
                    != u32::from_be_bytes([checksum[0], checksum[1], checksum[2], checksum[3]])
                {
                    let name = name.escape_ascii();
                    let message = format!("the PNG is broken: the checksum of its chunk `{name}` is wrong");
                    return Err(ImageError::new(ErrorCode::Corrupt, message));
                }
                if size.is_none() {
                    let ([w3, w2, w1, w0, h3, h2, h1, h0, ..], b"IHDR") = (data, name) else {
                        return Err(ImageError::new(
                            ErrorCode::Corrupt,
                            "the PNG does not begin with a header",
                        ));
                    };
                    size = Some((
                        u32::from_be_bytes([*w3, *w2, *w1, *w0]),
                        u32::from_be_bytes([*h3, *h2, *h1, *h0]),
                    ));
                }
            }
            if name == b"eXIf" && exif.is_none() {
                exif = Some(data);
            }
            rest = after;
        }
        match size {
            // Cut before the first pixel chunk: no row could be read.
            Some((width, height)) if before_pixels => Err(cut().sized(width, height)),
            Some(size) => Ok(Self { size, exif }),
            None => Err(cut()),
        }
    }
}

/// The checksum of PNG chunks.
fn crc32(parts: &[&[u8]]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut index = 0;
        while index < 256 {
            let mut value = index as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[index] = value;
            index += 1;
        }
        table
    };
    let bytes = parts.iter().copied().flatten();
    !bytes.fold(u32::MAX, |crc, &byte| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8))
}

fn is_end(error: &DecodingError) -> bool {
    matches!(error, DecodingError::IoError(io) if io.kind() == ErrorKind::UnexpectedEof)
}

fn sort(error: &DecodingError) -> ImageError {
    let code = if is_end(error) { ErrorCode::Truncated } else { ErrorCode::Corrupt };
    ImageError::new(code, format!("png: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_pngs() {
        assert_eq!(crc32(&[b"IE", b"ND"]), 0xae42_6082);
    }

    #[test]
    fn passes_have_as_many_lines_as_the_specification_says() {
        assert_eq!(adam7_lines(8, 8).count(), 1 + 1 + 1 + 2 + 2 + 4 + 4);
        assert_eq!(adam7_lines(1, 1).count(), 1);
        assert_eq!(adam7_lines(1, 2).count(), 2);
    }
}
