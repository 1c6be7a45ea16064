//! What a file is, by its first bytes: names and content types lie, and a bucket is full of both.

use super::ImageError;
use trawl_common::error_code::ErrorCode;

/// A format that is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    Gif,
    Bmp,
    Tiff,
    WebP,
}

/// Formats that are known and not decoded: name, offset of the magic bytes, the bytes.
const UNSUPPORTED: &[(&str, usize, &[u8])] = &[
    ("AVIF", 4, b"ftypavif"),
    ("AVIF", 4, b"ftypavis"),
    ("HEIC", 4, b"ftyphei"),
    ("HEIC", 4, b"ftyphev"),
    ("HEIF", 4, b"ftypmif1"),
    ("HEIF", 4, b"ftypmsf1"),
    ("JPEG 2000", 0, b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("JPEG 2000", 0, b"\xff\x4f\xff\x51"),
    ("JPEG XL", 0, b"\0\0\0\x0cJXL \r\n\x87\n"),
    ("JPEG XL", 0, b"\xff\x0a"),
    ("BigTIFF", 0, b"II\x2b\0\x08\0"),
    ("BigTIFF", 0, b"MM\0\x2b\0\x08"),
    ("PSD", 0, b"8BPS"),
    ("ICO", 0, b"\0\0\x01\0"),
    ("OpenEXR", 0, b"\x76\x2f\x31\x01"),
    ("QOI", 0, b"qoif"),
    ("DDS", 0, b"DDS "),
    ("Netpbm", 0, b"P5\n"),
    ("Netpbm", 0, b"P6\n"),
    ("Radiance HDR", 0, b"#?RADIANCE"),
    ("SVG", 0, b"<svg"),
    ("DICOM", 128, b"DICM"),
];

/// What else turns up under an image's name: what it looks like, offset, the bytes in lower case.
const LOOK_ALIKES: &[(&str, usize, &[u8])] = &[
    ("an HTML page", 0, b"<!doctype html"),
    ("an HTML page", 0, b"<html"),
    ("an XML document", 0, b"<?xml"),
    ("a JSON document", 0, b"{\""),
    ("a PDF document", 0, b"%pdf-"),
    ("a zip archive", 0, b"pk\x03\x04"),
    ("gzip data", 0, b"\x1f\x8b"),
    ("a Parquet file", 0, b"par1"),
    ("a Git LFS pointer", 0, b"version https://git-lfs"),
    ("an MP4 video", 4, b"ftyp"),
    ("an ELF binary", 0, b"\x7felf"),
];

/// Bytes that are looked at to tell text from binary.
const TEXT_SAMPLE: usize = 512;

/// The format of `bytes`.
///
/// # Errors
/// `Empty`, `Unsupported` with the format's name, or `NotAnImage` with what the bytes look like.
pub(super) fn sniff(bytes: &[u8]) -> Result<Format, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::new(ErrorCode::Empty, "the object has no bytes"));
    }
    let format = match bytes {
        // The third byte is the next marker's; Pillow asks for it too.
        [0xff, 0xd8, 0xff, ..] => Format::Jpeg,
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Format::Png,
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Format::Gif,
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Format::WebP,
        [b'I', b'I', 42, 0, ..] | [b'M', b'M', 0, 42, ..] => Format::Tiff,
        [b'B', b'M', ..] => Format::Bmp,
        _ => return Err(unknown(bytes)),
    };
    Ok(format)
}

fn unknown(bytes: &[u8]) -> ImageError {
    let has = |offset: usize, magic: &[u8]| bytes.get(offset..offset + magic.len()) == Some(magic);
    if let Some((name, ..)) = UNSUPPORTED.iter().find(|(_, offset, magic)| has(*offset, magic)) {
        return ImageError::new(
            ErrorCode::Unsupported,
            format!("{name} is not decoded: convert it to JPEG, PNG, WebP, GIF, BMP or TIFF"),
        );
    }
    // Pages and documents often begin with a byte order mark or blank lines.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let looks = |(_, offset, magic): &&(&str, usize, &[u8])| {
        text.get(*offset..offset + magic.len()).is_some_and(|start| start.eq_ignore_ascii_case(magic))
    };
    let message = if let Some((name, ..)) = LOOK_ALIKES.iter().find(looks) {
        format!("the bytes are no image, they look like {name}")
    } else if is_text(bytes) {
        "the bytes are no image, they look like text".to_owned()
    } else {
        let start: Vec<String> = bytes.iter().take(4).map(|b| format!("{b:02x}")).collect();
        format!("the bytes are of no known image format: they begin with {}", start.join(" "))
    };
    ImageError::new(ErrorCode::NotAnImage, message)
}

fn is_text(bytes: &[u8]) -> bool {
    let sample = &bytes[..bytes.len().min(TEXT_SAMPLE)];
    let printable = |b: &u8| matches!(b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e);
    match std::str::from_utf8(sample) {
        Ok(text) => text.chars().all(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r')),
        // A character cut by the end of the sample is still text.
        Err(e) => e.error_len().is_none() && sample[..e.valid_up_to()].iter().all(printable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_content() {
        assert_eq!(sniff(b"\xff\xd8\xff\xe0").unwrap(), Format::Jpeg);
        assert_eq!(sniff(b"\x89PNG\r\n\x1a\n....").unwrap(), Format::Png);
        assert_eq!(sniff(b"GIF89a").unwrap(), Format::Gif);
        assert_eq!(sniff(b"RIFF\0\0\0\0WEBPVP8 ").unwrap(), Format::WebP);
        assert_eq!(sniff(b"MM\0\x2a").unwrap(), Format::Tiff);
    }

    #[test]
    fn the_message_says_what_it_looks_like() {
        let error = |bytes: &[u8]| sniff(bytes).unwrap_err();
        assert_eq!(error(b"").code, ErrorCode::Empty);
        let html = error(b"\xef\xbb\xbf\n <HTML><body>403");
        assert_eq!((html.code, html.message.contains("HTML")), (ErrorCode::NotAnImage, true));
        assert!(error("nur ein Gru\u{df}".as_bytes()).message.contains("text"));
        assert!(error(b"\x00\x9c\x01\x02\x03").message.contains("00 9c 01 02"));
        let avif = error(b"\0\0\0\x20ftypavif\0\0");
        assert_eq!((avif.code, avif.message.contains("AVIF")), (ErrorCode::Unsupported, true));
        for length in 0..12 {
            let _ = sniff(&b"RIFF\0\0\0\0WEBP"[..length]);
        }
    }

    #[test]
    fn formats_that_are_not_decoded_are_refused_by_name() {
        let avif = b"\0\0\0\x20ftypavif\0\0\0\0";
        let heic = b"\0\0\0\x18ftypheic\0\0\0\0";
        let heif = b"\0\0\0\x18ftypmif1\0\0\0\0";
        let dicom = [&[0; 128][..], b"DICM\x02\0"].concat();
        for (bytes, name) in [
            (&avif[..], "AVIF"),
            (heic, "HEIC"),
            (heif, "HEIF"),
            (b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ", "JPEG 2000"),
            (b"\xff\x4f\xff\x51\0\x2f", "JPEG 2000"),
            (b"\xff\x0a\xfa\x7f", "JPEG XL"),
            (b"\0\0\0\x0cJXL \r\n\x87\n\0\0\0\x14ftypjxl ", "JPEG XL"),
            (b"II\x2b\0\x08\0\0\0", "BigTIFF"),
            (b"8BPS\0\x01", "PSD"),
            (b"\0\0\x01\0\x01\0\x10\x10", "ICO"),
            (b"\x76\x2f\x31\x01\x02\0", "OpenEXR"),
            (b"qoif\0\0\0\x05", "QOI"),
            (b"DDS \x7c\0\0\0", "DDS"),
            (b"P6\n5 3\n255\n", "Netpbm"),
            (b"P5\n5 3\n255\n", "Netpbm"),
            (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "Radiance HDR"),
            (b"<svg xmlns=\"http://www.w3.org/2000/svg\">", "SVG"),
            (&dicom, "DICOM"),
        ] {
            let error = sniff(bytes).unwrap_err();
            assert_eq!(error.code, ErrorCode::Unsupported, "{name}");
            assert!(error.message.starts_with(&format!("{name} is not decoded")), "{}", error.message);
        }
    }
}
