//! Small files that mean harm: headers, tags and animations that ask for far more than they hold.
//!
//! Generated, so that no scanner finds a bomb in the repository. Shared by the tests of the decoder and of the
//! whole (`worker/tests/bombs.rs` takes in this very file, which therefore names nothing but the standard
//! library). None is larger than [`LARGEST`]; each says what must become of it.

/// Bytes of the largest.
pub const LARGEST: usize = 10 << 20;

/// What compressed chunks inflate to.
const INFLATED: usize = 256 << 20;

/// Frames or pages of the files that have too many.
const FRAMES: u32 = 10_000;

/// A hostile file.
pub struct Bomb {
    /// Its name, which may lie about the format.
    pub name: &'static str,
    /// The file.
    pub bytes: Vec<u8>,
    /// The error codes that may come of it; none if it must be read as the small image that it is.
    pub codes: &'static [&'static str],
}

/// All of them.
pub fn all() -> Vec<Bomb> {
    const PIXELS: &[&str] = &["too_many_pixels"];
    const MANY: &[&str] = &["too_many_frames"];
    const BROKEN: &[&str] = &["corrupt", "truncated"];
    const NO_IMAGE: &[&str] = &["not_an_image"];
    let text = |name: &[u8], bomb: &[u8]| chunk(name, &[b"k\0\0", bomb].concat());
    let inflating = zlib_of_zeros(INFLATED);
    let bombs: Vec<(&'static str, Vec<u8>, &'static [&'static str])> = vec![
        ("png_giant.png", png(100_000, 100_000, &[], &[0; 20]), PIXELS),
        ("png_ztxt.png", png(1, 1, &text(b"zTXt", &inflating), &zlib_of_zeros(4)), &[]),
        (
            "png_itxt.png",
            png(1, 1, &chunk(b"iTXt", &[b"k\0\x01\0\0\0", &inflating[..]].concat()), &zlib_of_zeros(4)),
            &[],
        ),
        ("png_iccp.png", png(1, 1, &text(b"iCCP", &inflating), &zlib_of_zeros(4)), &[]),
        ("png_idat.png", png(1, 1, &[], &inflating), &["", "corrupt"]),
        ("png_chunk_lies.png", [&png(1, 1, &[], &[])[..33], b"\xff\xff\xff\xffiTXtx"].concat(), BROKEN),
        (
            "png_animation.png",
            png(1, 1, &chunk(b"acTL", &[&u32::MAX.to_be_bytes()[..], &[0; 4]].concat()), &zlib_of_zeros(4)),
            MANY,
        ),
        ("png_frames.png", png(1, 1, &chunk(b"fcTL", &[0; 26]).repeat(FRAMES as usize), &[]), MANY),
        ("gif_frames.gif", gif(1, 1, FRAMES), MANY),
        ("gif_canvas.gif", gif(u16::MAX, u16::MAX, 1), PIXELS),
        ("webp_frames.webp", webp(&[vp8x(2, 1, 1), riff(b"ANMF", &[0; 16]).repeat(FRAMES as usize)]), MANY),
        ("webp_canvas.webp", webp(&[vp8x(0, 1 << 24, 1 << 24), vp8l(1, 1)]), &["too_many_pixels", "corrupt"]),
        ("webp_canvas_small.webp", webp(&[vp8x(0, 1, 1), vp8l(16_384, 16_384)]), BROKEN),
        ("webp_giant.webp", webp(&[vp8l(16_384, 16_384)]), PIXELS),
        ("webp_frame_giant.webp", webp(&[vp8x(2, 8, 8), animated(16_384, 16_384)]), BROKEN),
        ("webp_length_lies.webp", lying_length(webp(&[vp8l(8, 8)]), 4, u32::MAX), BROKEN),
        ("webp_length_none.webp", lying_length(webp(&[vp8l(8, 8)]), 4, 0), BROKEN),
        ("webp_chunk_lies.webp", lying_length(webp(&[vp8l(8, 8)]), 16, u32::MAX - 1), BROKEN),
        ("tiff_pages.tif", tiff_chain(FRAMES, None), MANY),
        ("tiff_loop.tif", tiff_chain(3, Some(1)), BROKEN),
        ("tiff_itself.tif", tiff_chain(1, Some(0)), BROKEN),
        ("tiff_strips_claimed.tif", tiff_strips(u32::MAX, 0), BROKEN),
        ("tiff_strips.tif", tiff_strips(2_000_000, 2_000_000), BROKEN),
        ("tiff_tags.tif", tiff_tags(), BROKEN),
        ("jpeg_giant.jpg", jpeg(0xc0, u16::MAX, u16::MAX, 1), PIXELS),
        ("jpeg_scans.jpg", jpeg(0xc2, 64, 64, 2_000), BROKEN),
        ("jpeg_large_scans.jpg", jpeg(0xc2, 13_000, 13_000, 400), PIXELS),
        ("bmp_giant.bmp", bmp(40, i32::MAX, i32::MAX, 24, 0), &["too_many_pixels", "corrupt", "unsupported"]),
        ("bmp_most_negative.bmp", bmp(40, 1, i32::MIN, 24, 0), BROKEN),
        ("bmp_negative_width.bmp", bmp(40, -1, 1, 24, 0), BROKEN),
        ("bmp_colors.bmp", bmp(40, 1, 1, 8, u32::MAX), BROKEN),
        ("bmp_header.bmp", bmp(u32::MAX, 1, 1, 24, 0), &["corrupt", "truncated", "unsupported"]),
        ("bmp_bits.bmp", bmp(40, 1, 1, u16::MAX, 0), &["corrupt", "truncated", "unsupported"]),
        ("svg_inside.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec(), &["unsupported"]),
        ("html_inside.jpg", b"<!DOCTYPE html><html><script>alert(1)</script>".to_vec(), NO_IMAGE),
        ("xml_inside.gif", b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]><a/>".to_vec(), NO_IMAGE),
        ("tiff_inside.png", tiff_chain(1, None), &["unsupported"]),
        ("gif_inside.png", gif(1, 1, 1), &[]),
    ];
    bombs.into_iter().map(|(name, bytes, codes)| Bomb { name, bytes, codes }).collect()
}

/// A chunk of a PNG, with its checksum.
fn chunk(name: &[u8], body: &[u8]) -> Vec<u8> {
    let named = [name, body].concat();
    let crc = !named.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
    });
    let length = u32::try_from(body.len()).expect("a small chunk");
    [&length.to_be_bytes()[..], &named, &crc.to_be_bytes()].concat()
}

/// An RGB PNG.
fn png(width: u32, height: u32, extra: &[u8], pixels: &[u8]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), b"\x08\x02\0\0\0"].concat();
    let parts = [
        b"\x89PNG\r\n\x1a\n",
        &chunk(b"IHDR", &header)[..],
        extra,
        &chunk(b"IDAT", pixels),
        &chunk(b"IEND", b""),
    ];
    parts.concat()
}

/// A zlib stream that inflates to `length` zeros: 13 bits for 258 of them.
fn zlib_of_zeros(length: usize) -> Vec<u8> {
    let (mut bytes, mut bits, mut filled) = (vec![0x78, 0x9c], 0_u64, 0);
    let mut push = |value: u64, count: u32, bytes: &mut Vec<u8>| {
        bits |= value << filled;
        filled += count;
        while filled >= 8 {
            bytes.push((bits & 0xff) as u8);
            bits >>= 8;
            filled -= 8;
        }
    };
    // A last block with the fixed codes, which are written from their highest bit.
    push(0b011, 3, &mut bytes);
    let literal_zero = u64::from(0x30_u8.reverse_bits());
    push(literal_zero, 8, &mut bytes);
    let mut left = length - 1;
    while left >= 258 {
        // Length 258 is code 285 (1100_0101), distance 1 is code 0.
        push(u64::from(0xc5_u8.reverse_bits()), 8, &mut bytes);
        push(0, 5, &mut bytes);
        left -= 258;
    }
    for _ in 0..left {
        push(literal_zero, 8, &mut bytes);
    }
    // The end of the block, and zeros to fill the byte.
    push(0, 7 + 7, &mut bytes);
    // The checksum of zeros: the low half stays 1, the high half counts them.
    let high = u32::try_from(length % 65_521).expect("a remainder");
    bytes.extend((high << 16 | 1).to_be_bytes());
    bytes
}

/// A GIF of frames of one pixel.
fn gif(width: u16, height: u16, frames: u32) -> Vec<u8> {
    let mut file = [b"GIF89a", &width.to_le_bytes()[..], &height.to_le_bytes()].concat();
    file.extend(b"\x80\0\0\0\0\0\xff\xff\xff");
    for _ in 0..frames {
        file.extend(b",\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0");
    }
    file.push(b';');
    file
}

fn riff(name: &[u8], body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a small chunk");
    let padding = vec![0; body.len() % 2];
    [name, &length.to_le_bytes()[..], body, &padding].concat()
}

fn webp(chunks: &[Vec<u8>]) -> Vec<u8> {
    riff(b"RIFF", &[b"WEBP", &chunks.concat()[..]].concat())
}

/// The extended header; flag 2 is for an animation.
fn vp8x(flags: u8, width: u32, height: u32) -> Vec<u8> {
    let side = |side: u32| (side - 1).to_le_bytes()[..3].to_vec();
    riff(b"VP8X", &[vec![flags, 0, 0, 0], side(width), side(height)].concat())
}

/// A lossless image of zeros, which is none.
fn vp8l(width: u32, height: u32) -> Vec<u8> {
    let sizes = (width - 1) | (height - 1) << 14;
    riff(b"VP8L", &[&[0x2f], &sizes.to_le_bytes()[..], &[0; 11]].concat())
}

/// A frame that says to be of the canvas's size and holds another.
fn animated(width: u32, height: u32) -> Vec<u8> {
    riff(b"ANMF", &[&[0, 0, 0, 0, 0, 0, 7, 0, 0, 7, 0, 0, 0, 0, 0, 0], &vp8l(width, height)[..]].concat())
}

fn lying_length(mut file: Vec<u8>, at: usize, length: u32) -> Vec<u8> {
    file[at..at + 4].copy_from_slice(&length.to_le_bytes());
    file
}

/// One entry of a directory: LONG values.
fn entry(tag: u16, count: u32, value: u32) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &4_u16.to_le_bytes(), &count.to_le_bytes(), &value.to_le_bytes()].concat()
}

/// A chain of pages without pixels; `back_to` is the page that the last one leads to.
fn tiff_chain(pages: u32, back_to: Option<u32>) -> Vec<u8> {
    let page = [entry(256, 1, 1), entry(257, 1, 1)].concat();
    let size = u32::try_from(2 + page.len() + 4).expect("a small page");
    let mut file = b"II\x2a\0\x08\0\0\0".to_vec();
    for index in 1..=pages {
        let next = if index < pages { Some(index) } else { back_to };
        let next = next.map_or(0, |page| 8 + page * size);
        file.extend([b"\x02\0", &page[..], &next.to_le_bytes()].concat());
    }
    file
}

/// A gray image of one pixel that claims `claimed` strips and has the offsets and lengths of `held`.
fn tiff_strips(claimed: u32, held: u32) -> Vec<u8> {
    let entries = 8;
    let values = 8 + 2 + entries * 12 + 4;
    let body = [
        entry(256, 1, 1),
        entry(257, 1, 1),
        entry(258, 1, 8),
        entry(259, 1, 1),
        entry(262, 1, 1),
        entry(273, claimed, values),
        entry(278, 1, 1),
        entry(279, claimed, values),
    ];
    let mut file = b"II\x2a\0\x08\0\0\0\x08\0".to_vec();
    file.extend(body.concat());
    file.extend([0; 4]);
    file.extend(std::iter::repeat_n(1_u32.to_le_bytes(), held as usize).flatten());
    file
}

/// A directory of as many entries as there can be, all of one tag with as many values as there can be.
fn tiff_tags() -> Vec<u8> {
    let mut file = b"II\x2a\0\x08\0\0\0\xff\xff".to_vec();
    file.extend(entry(256, 1, 1));
    file.extend(entry(339, u32::MAX, 8).repeat(65_534));
    file.extend([0; 4]);
    file
}

/// A gray JPEG of scans without data; `frame` is the marker that tells baseline from progressive.
fn jpeg(frame: u8, width: u16, height: u16, scans: usize) -> Vec<u8> {
    let mut file = b"\xff\xd8\xff\xdb\0\x43\0".to_vec();
    file.extend([1; 64]);
    file.extend([0xff, frame, 0, 11, 8]);
    file.extend([height.to_be_bytes(), width.to_be_bytes()].concat());
    file.extend(b"\x01\x01\x11\0");
    // One code of one bit, for the value 0.
    for class in [0, 0x10] {
        file.extend([0xff, 0xc4, 0, 20, class, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
    let last = if frame == 0xc2 { 0 } else { 63 };
    for _ in 0..scans {
        file.extend([0xff, 0xda, 0, 8, 1, 1, 0, 0, last, 0, 0]);
    }
    file.extend([0xff, 0xd9]);
    file
}

fn bmp(header: u32, width: i32, height: i32, bits: u16, colors: u32) -> Vec<u8> {
    let mut file = b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0".to_vec();
    file.extend(header.to_le_bytes());
    file.extend([width.to_le_bytes(), height.to_le_bytes()].concat());
    file.extend([1_u16.to_le_bytes(), bits.to_le_bytes()].concat());
    // No compression, and no resolution.
    file.extend([0; 16]);
    file.extend([colors.to_le_bytes(), [0; 4]].concat());
    file
}
