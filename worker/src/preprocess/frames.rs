//! Counts the frames of an animation and the pages of a TIFF, before anything is decoded.
//!
//! Only the first frame is ever decoded, but a file of ten thousand is a bomb or a film, and no photo: it is
//! refused by `--max-frames`. The count walks block heads and skips what they hold. It never inflates a byte,
//! takes no memory, ends at the limit, and goes forward with every step; only a TIFF's chain may lead
//! backwards, and a loop there is noticed. A file that makes no sense is left to its decoder.

use super::{ImageError, limits::Limits, sniff::Format};
use trawl_common::error_code::ErrorCode;

/// Bytes of the signature of a PNG.
const PNG_SIGNATURE: usize = 8;

/// Bytes of the RIFF header with the file type.
const RIFF_HEADER: usize = 12;

/// Bytes of a GIF's signature and screen descriptor.
const GIF_HEAD: usize = 13;

/// Refuses a file of more frames than the limits allow, and a TIFF whose directories form a loop.
pub(super) fn check(format: Format, bytes: &[u8], limits: &Limits) -> Result<(), ImageError> {
    let most = u64::from(limits.max_frames);
    let (frames, what) = match format {
        Format::Jpeg | Format::Bmp => return Ok(()),
        Format::Gif => (gif(bytes, most), "frames"),
        Format::WebP => (webp(bytes, most), "frames"),
        Format::Png => (png(bytes, most), "frames"),
        Format::Tiff => (tiff(bytes, most)?, "pages"),
    };
    if frames > most {
        let message = format!("more than {most} {what}, the limit (--max-frames)");
        return Err(ImageError::new(ErrorCode::TooManyFrames, message));
    }
    Ok(())
}

/// The bytes of a GIF's colour table, by the flags of the descriptor before it.
fn color_table(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// Image descriptors, up to one more than `most`.
fn gif(bytes: &[u8], most: u64) -> u64 {
    let mut frames = 0;
    let Some(&flags) = bytes.get(10) else { return 0 };
    let mut at = GIF_HEAD + color_table(flags);
    while let Some(&introducer) = bytes.get(at) {
        let data = match introducer {
            b',' => {
                frames += 1;
                // The descriptor, its colour table, and the code size.
                bytes.get(at + 9).map(|&flags| at + 10 + color_table(flags) + 1)
            }
            // The label of an extension.
            b'!' => Some(at + 2),
            b';' => break,
            // Junk between blocks is skipped, as decoders do.
            _ => {
                at += 1;
                continue;
            }
        };
        let Some(mut next) = data.filter(|_| frames <= most) else { break };
        // Sub-blocks begin with their length, and one of no bytes ends them.
        while let Some(&length) = bytes.get(next) {
            next += 1 + usize::from(length);
            if length == 0 {
                break;
            }
        }
        at = next;
    }
    frames
}

/// `ANMF` chunks, up to one more than `most`.
fn webp(bytes: &[u8], most: u64) -> u64 {
    let mut frames = 0;
    let mut rest = bytes.get(RIFF_HEADER..).unwrap_or_default();
    while let Some((head, body)) = rest.split_at_checked(8) {
        frames += u64::from(head.starts_with(b"ANMF"));
        if frames > most {
            break;
        }
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        // Chunks are padded to even lengths.
        rest = length.checked_next_multiple_of(2).and_then(|padded| body.get(padded..)).unwrap_or_default();
    }
    frames
}

/// What the animation's head says or its `fcTL` chunks, whichever is more.
fn png(bytes: &[u8], most: u64) -> u64 {
    let (mut said, mut frames) = (0, 0);
    let mut rest = bytes.get(PNG_SIGNATURE..).unwrap_or_default();
    while let Some((head, body)) = rest.split_at_checked(8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        match (&head[4..], body) {
            (b"acTL", &[a, b, c, d, ..]) => said = u64::from(u32::from_be_bytes([a, b, c, d])),
            (b"fcTL", _) => frames += 1,
            _ => {}
        }
        if said.max(frames) > most {
            break;
        }
        // The data and its checksum.
        rest = body.get(length.saturating_add(4)..).unwrap_or_default();
    }
    said.max(frames)
}

/// Directories, up to one more than `most`.
fn tiff(bytes: &[u8], most: u64) -> Result<u64, ImageError> {
    let big_endian = bytes.starts_with(b"MM");
    let number = |at: usize, length: usize| -> Option<usize> {
        let digits = bytes.get(at..at.checked_add(length)?)?;
        let push = |value: usize, digit: &u8| value << 8 | usize::from(*digit);
        Some(if big_endian { digits.iter().fold(0, push) } else { digits.iter().rev().fold(0, push) })
    };
    let next = |directory: usize| number(directory.checked_add(2 + 12 * number(directory, 2)?)?, 4);
    let mut frames = 0;
    // Brent's way to see a loop: compare with a place that moves up at powers of two.
    let (mut seen, mut until) = (0, 1);
    let mut directory = number(4, 4).unwrap_or(0);
    while directory != 0 && frames <= most {
        if directory == seen {
            return Err(ImageError::new(ErrorCode::Corrupt, "the TIFF's directories form a loop"));
        }
        frames += 1;
        if frames == until {
            (seen, until) = (directory, until * 2);
        }
        directory = next(directory).unwrap_or(0);
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(format: Format, bytes: &[u8], max_frames: u32) -> Option<ErrorCode> {
        check(format, bytes, &Limits { max_frames, ..Limits::default() }).err().map(|error| error.code)
    }

    fn fixture(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/images");
        std::fs::read(std::path::Path::new(folder).join(name)).expect("the golden images are in the tree")
    }

    #[test]
    fn the_frames_of_real_files_are_counted() {
        for (format, name, frames) in [
            (Format::Gif, "gif_animated.gif", gif as fn(&[u8], u64) -> u64),
            (Format::WebP, "webp_animated.webp", webp),
            (Format::Png, "png_apng.png", png),
        ]
        .map(|(format, name, count)| (format, name, count(&fixture(name), 1000)))
        {
            assert!((2..100).contains(&frames), "{name}: {frames}");
            let frames = frames as u32;
            assert_eq!(told(format, &fixture(name), frames), None, "{name}");
            assert_eq!(told(format, &fixture(name), frames - 1), Some(ErrorCode::TooManyFrames), "{name}");
        }
        for (format, name) in [
            (Format::Gif, "gif_plain.gif"),
            (Format::WebP, "webp_lossy.webp"),
            (Format::Png, "png_rgb8.png"),
            (Format::Tiff, "tiff_RGB.tif"),
        ] {
            assert_eq!(told(format, &fixture(name), 1), None, "{name}");
        }
    }

    #[test]
    fn loops_of_any_length_are_noticed_and_chains_are_counted() {
        // Directories without entries, six bytes each.
        let chain = |length: u32, last: u32| {
            let mut file = b"II\x2a\0\x08\0\0\0".to_vec();
            for index in 1..=length {
                let next = if index == length { last } else { 8 + index * 6 };
                file.extend([&[0, 0], next.to_le_bytes().as_slice()].concat());
            }
            file
        };
        for length in [1, 2, 3, 7, 100] {
            for back_to in [0, length / 2, length - 1] {
                let file = chain(length, 8 + back_to * 6);
                assert_eq!(told(Format::Tiff, &file, 1000), Some(ErrorCode::Corrupt), "{length} {back_to}");
            }
            assert_eq!(told(Format::Tiff, &chain(length, 0), length), None);
            let beyond = told(Format::Tiff, &chain(length + 1, 0), length);
            assert_eq!(beyond, Some(ErrorCode::TooManyFrames));
        }
    }
}
