//! The markers of a JPEG up to its first scan: size and kind for the limits, and the EXIF block.
//!
//! Walks as Pillow does when it opens a file (junk between segments is skipped, an unknown marker is an
//! error), so that both refuse the same files before libjpeg sees them.

use super::ImageError;
use trawl_common::error_code::ErrorCode;

/// What a JPEG's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header<'a> {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Colour components: 1, 3 or 4.
    pub components: u8,
    /// Lossless coding: cannot be decoded at a smaller scale.
    pub lossless: bool,
    /// More scans than one may follow: progressive, or a first scan without all components.
    pub many_scans: bool,
    /// The first EXIF block, after its `Exif\0\0` mark.
    pub exif: Option<&'a [u8]>,
}

/// Reads the markers of `bytes`, which begin with the start-of-image marker.
///
/// # Errors
/// `Truncated` if the file ends before a scan, `Unsupported` for 12 bits, two components and hierarchical
/// coding, `Corrupt` for what is no JPEG structure.
pub(super) fn read(bytes: &[u8]) -> Result<Header<'_>, ImageError> {
    let mut at = 2;
    let mut frame: Option<Header<'_>> = None;
    let mut exif = None;
    loop {
        // Pillow skips whatever is not 0xff, and 0xff as padding.
        let Some(skipped) = bytes[at..].iter().position(|&byte| byte == 0xff) else { return Err(cut(frame)) };
        at += skipped + 1;
        let Some(&marker) = bytes.get(at) else { return Err(cut(frame)) };
        match marker {
            0xff => continue,
            0x00 | 0xc8 | 0xd0..=0xd9 | 0xf0..=0xfd => {
                at += 1;
                continue;
            }
            0xc0..=0xcf | 0xda..=0xef | 0xfe => {}
            _ => {
                let message = format!("the JPEG has the unknown marker ff {marker:02x} before its pixels");
                return Err(ImageError::new(ErrorCode::Corrupt, message));
            }
        }
        let Some(&[high, low]) = bytes.get(at + 1..at + 3) else { return Err(cut(frame)) };
        let length = usize::from(u16::from_be_bytes([high, low])).max(2);
        let Some(segment) = bytes.get(at + 3..at + 1 + length) else { return Err(cut(frame)) };
        match marker {
            0xc4 | 0xcc => {}
            0xc0..=0xcf | 0xde => frame = Some(frame_header(marker, segment)?),
            0xe1 if exif.is_none() => exif = segment.strip_prefix(b"Exif\0\0"),
            0xda => {
                let message = "the JPEG has a scan and no frame header";
                let header = frame.ok_or_else(|| ImageError::new(ErrorCode::Corrupt, message))?;
                let partial = segment.first().is_some_and(|&count| count < header.components);
                return Ok(Header { exif, many_scans: header.many_scans || partial, ..header });
            }
            _ => {}
        }
        at += 1 + length;
    }
}

/// The scans of the file, up to one more than `most`; nothing is decoded.
pub(super) fn scans(bytes: &[u8], most: u32) -> u32 {
    let (mut at, mut scans) = (2, 0);
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff)) {
        at += found;
        let segment = match bytes.get(at + 1) {
            None | Some(0xd9) => break,
            Some(0xff) => 1,
            // Stuffed bytes, restarts and other markers without a length.
            Some(0x00 | 0x01 | 0xd0..=0xd8) => 2,
            Some(marker) => {
                scans += u32::from(*marker == 0xda);
                let Some(&[high, low]) = bytes.get(at + 2..at + 4) else { break };
                2 + usize::from(u16::from_be_bytes([high, low])).max(2)
            }
        };
        if scans > most {
            break;
        }
        at += segment;
    }
    scans
}

/// Where the last segment begins (at its 0xff), if the file ends within it; between scans too.
pub(super) fn cut_segment(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)?;
        match bytes.get(at + 1) {
            None => return Some(at),
            Some(0xff) => at += 1,
            // Stuffed bytes, restarts and other markers without a length.
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 2,
            Some(0xd9) => return None,
            Some(_) => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => {
                    let end = at + 2 + usize::from(u16::from_be_bytes([high, low])).max(2);
                    if end > bytes.len() {
                        return Some(at);
                    }
                    at = end;
                }
                _ => return Some(at),
            },
        }
    }
}

fn frame_header(marker: u8, segment: &[u8]) -> Result<Header<'static>, ImageError> {
    let &[bits, h1, h0, w1, w0, components, ..] = segment else {
        return Err(ImageError::new(ErrorCode::Corrupt, "the JPEG's frame header is too short"));
    };
    let (width, height) = (u32::from(u16::from_be_bytes([w1, w0])), u32::from(u16::from_be_bytes([h1, h0])));
    let refuse = |what: String| {
        let message =
            format!("JPEG with {what} is not decoded: convert it to 8-bit baseline or progressive JPEG");
        Err(ImageError::new(ErrorCode::Unsupported, message).sized(width, height))
    };
    if bits != 8 {
        return refuse(format!("{bits} bits a sample"));
    }
    if !matches!(components, 1 | 3 | 4) {
        return refuse(format!("{components} colour components"));
    }
    if matches!(marker, 0xc5..=0xc7 | 0xcd..=0xcf | 0xde) {
        return refuse("hierarchical coding".to_owned());
    }
    let lossless = matches!(marker, 0xc3 | 0xcb);
    if lossless && components == 1 {
        // libjpeg turns one lossless channel into no three.
        return refuse("lossless coding of gray".to_owned());
    }
    let many_scans = matches!(marker, 0xc2 | 0xca);
    Ok(Header { width, height, components, lossless, many_scans, exif: None })
}

fn cut(frame: Option<Header<'_>>) -> ImageError {
    let error = ImageError::new(ErrorCode::Truncated, "the JPEG ends within its header");
    match frame {
        Some(header) => error.sized(header.width, header.height),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &[u8] = b"\xff\xd8\xff\xe1\0\x0aExif\0\0II\xff\xff\xc0\0\x0b\x08\0\x03\0\x05\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0\x3f\0";

    #[test]
    fn size_and_exif_are_found() {
        let header = read(SMALL).unwrap();
        assert_eq!((header.width, header.height, header.components, header.lossless), (5, 3, 1, false));
        assert_eq!(header.exif, Some(b"II".as_slice()));
    }

    #[test]
    fn a_header_cut_anywhere_is_truncated() {
        for end in 3..SMALL.len() {
            assert_eq!(read(&SMALL[..end]).unwrap_err().code, ErrorCode::Truncated, "cut at {end}");
        }
    }

    #[test]
    fn scans_are_counted_up_to_the_limit() {
        assert_eq!(scans(SMALL, 500), 1);
        let scan = [b"\xff\xda\0\x08\x01\x01\0\0\x3f\0".as_slice(), b"\x12\xff\0\x34"].concat();
        let file = [SMALL, &scan.repeat(9)].concat();
        assert_eq!((scans(&file, 500), scans(&file, 3)), (10, 4));
        for end in 0..file.len() {
            assert!(scans(&file[..end], 500) <= 10);
        }
        assert_eq!(
            scans(&[SMALL, b"\xff\xd9", &scan].concat(), 500),
            1,
            "what follows the end does not count"
        );
    }

    #[test]
    fn a_cut_segment_is_found_between_scans() {
        let mut file = SMALL.to_vec();
        file.extend(b"\x12\xff\0\x34");
        let end = file.len();
        file.extend(b"\xff\xc4\0\x20ab");
        assert_eq!(cut_segment(&file), Some(end));
        assert_eq!(cut_segment(&file[..end]), None);
        assert_eq!(cut_segment(&[&file[..end], b"\xff\xd9\xff\xc4\0"].concat()), None);
    }

    #[test]
    fn other_kinds_are_named() {
        let twelve = SMALL.iter().map(|&b| if b == 0x08 { 12 } else { b }).collect::<Vec<_>>();
        let error = read(&twelve).unwrap_err();
        assert_eq!((error.code, error.width), (ErrorCode::Unsupported, Some(5)));
        assert!(error.message.contains("12 bits"), "{}", error.message);
        // Of the frame's header: the marker behind 0xff, and the components behind bits, height and width.
        let frame = SMALL.windows(2).position(|pair| pair == b"\xff\xc0").unwrap();
        for (at, byte, word) in [
            (frame + 9, 2, "2 colour components"),
            (frame + 1, 0xc5, "hierarchical"),
            (frame + 1, 0xcf, "hierarchical"),
            (frame + 1, 0xc3, "lossless coding of gray"),
        ] {
            let mut file = SMALL.to_vec();
            file[at] = byte;
            let error = read(&file).unwrap_err();
            assert_eq!((error.code, error.width), (ErrorCode::Unsupported, Some(5)), "{word}");
            assert!(error.message.contains(word), "{}", error.message);
        }
        assert_eq!(read(b"\xff\xd8\xff\x02\0\0").unwrap_err().code, ErrorCode::Corrupt);
    }
}
