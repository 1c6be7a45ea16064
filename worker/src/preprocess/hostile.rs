//! Tests with input that means harm: lying headers, every cut, noise, flipped bytes.
//!
//! Whatever comes in, `prepare` answers with pixels or an error; it never panics, and it takes no memory for
//! pixels before the header has passed the limits.

use super::*;
use std::path::Path;
use trawl_common::bundle::{Centre, Interpolation, ResizeMode};

/// Far below what any of the lying headers asks for, far above what the small fixtures need.
const LIMITS: Limits = Limits { max_pixels: 1_000_000, max_side: 20_000, max_frames: 100 };

fn recipe(truncated: Truncated) -> Recipe {
    let input = InputSpec {
        crop: [24, 24],
        resize: Some(28.into()),
        resize_mode: ResizeMode::Shortest,
        interpolation: Interpolation::Bicubic,
        fill: None,
        centre: Centre::default(),
        mean: [0.0; 3],
        std: [1.0; 3],
    };
    Recipe { input, decode: Decode::Exact, truncated, orient: Orient::Exif, limits: LIMITS }
}

fn fixtures() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/images"));
    let files = std::fs::read_dir(folder).expect("the golden images are in the tree");
    let mut all: Vec<_> = files
        .map(|file| {
            let path = file.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())
        })
        .collect();
    all.sort();
    all
}

fn fixture(name: &str) -> Vec<u8> {
    let found = fixtures().into_iter().find(|(file, _)| file == name);
    found.unwrap_or_else(|| panic!("no golden image {name}")).1
}

/// Prepares, and checks what holds for every outcome.
fn outcome(bytes: &[u8], recipe: &Recipe, scratch: &mut Scratch) -> Result<Prepared, ImageError> {
    let result = prepare(bytes, recipe, scratch);
    match &result {
        Ok(prepared) => {
            assert_eq!(prepared.pixels.len(), 24 * 24 * 3);
            assert!(!prepared.truncated || recipe.truncated == Truncated::Accept);
        }
        Err(error) => {
            assert_ne!(error.code, ErrorCode::DecoderPanic, "{}", error.message);
            assert!(!error.message.is_empty() && !error.message.contains('\n'), "{:?}", error.message);
        }
    }
    let most = LIMITS.max_pixels as usize * 8 + 64;
    assert!(
        scratch.decoded.bytes.capacity() <= most && scratch.raw.capacity() <= most,
        "memory for a refused image"
    );
    result
}

/// xorshift64*: the same attack on every machine.
pub(super) struct Noise(pub u64);

impl Noise {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}

#[test]
fn giants_are_refused_by_their_header() {
    let mut scratch = Scratch::new();
    let patched = |name: &str, at: usize, bytes: &[u8]| {
        let mut file = fixture(name);
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    // IHDR with 100,000 x 100,000 and its right checksum.
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\x01\x86\xa0\0\x01\x86\xa0\x08\x02\0\0\0".to_vec();
    png.extend(0x2730_9c9f_u32.to_be_bytes());
    png.extend(b"\0\0\0\0IDAT");
    let jpeg = fixture("jpeg_444_64x48.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let tiff = fixture("tiff_RGB.tif");
    let width_tag = tiff.windows(4).position(|tag| tag == [0, 1, 4, 0] || tag == [0, 1, 3, 0]).unwrap();
    let cases = [
        ("png", png),
        ("jpeg", patched("jpeg_444_64x48.jpg", frame + 5, &[0xff; 4])),
        ("gif screen", patched("gif_plain.gif", 6, &[0xff; 4])),
        ("bmp", patched("bmp_RGB.bmp", 18, &[0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01, 0x00])),
        ("tiff", patched("tiff_RGB.tif", width_tag + 8, &[0xff, 0xff])),
        ("webp canvas", patched("webp_animated.webp", 24, &[0xff, 0xff, 0x7f, 0xff, 0xff, 0x01])),
        ("webp", patched("webp_lossy.webp", 26, &[0xff, 0x3f, 0xff, 0x3f])),
    ];
    for (name, bytes) in cases {
        let error = outcome(&bytes, &recipe(Truncated::Accept), &mut scratch).expect_err(name);
        let refused =
            matches!(error.code, ErrorCode::TooManyPixels | ErrorCode::Corrupt | ErrorCode::Truncated);
        assert!(refused, "{name}: {error:?}");
        assert!(scratch.decoded.bytes.is_empty() && scratch.raw.is_empty(), "{name} took memory: {error:?}");
    }
}

#[test]
fn every_cut_of_every_kind_is_an_answer() {
    let mut scratch = Scratch::new();
    for (name, bytes) in fixtures() {
        // Every byte of the small ones, and a spread of the larger.
        let step = (bytes.len() / 400).max(1);
        for end in (0..bytes.len()).step_by(step) {
            let accepted = outcome(&bytes[..end], &recipe(Truncated::Accept), &mut scratch);
            let rejected = outcome(&bytes[..end], &recipe(Truncated::Reject), &mut scratch);
            assert!(accepted.is_ok() || rejected.is_err(), "{name} cut at {end}");
        }
    }
}

#[test]
fn a_cut_jpeg_is_truncated_at_every_byte() {
    let mut scratch = Scratch::new();
    for name in ["jpeg_420_37x53.jpg", "jpeg_progressive.jpg", "jpeg_restart.jpg", "jpeg_cmyk.jpg"] {
        let bytes = fixture(name);
        let whole = outcome(&bytes, &recipe(Truncated::Reject), &mut scratch).unwrap();
        for end in 3..bytes.len() {
            let error = outcome(&bytes[..end], &recipe(Truncated::Reject), &mut scratch).unwrap_err();
            assert_eq!(error.code, ErrorCode::Truncated, "{name} cut at {end}: {}", error.message);
        }
        let nearly = outcome(&bytes[..bytes.len() - 2], &recipe(Truncated::Accept), &mut scratch).unwrap();
        assert!(nearly.truncated);
        assert_eq!(nearly.pixels, whole.pixels, "only the end marker was missing");
    }
}

#[test]
fn truncation_is_seen_behind_other_warnings() {
    let mut scratch = Scratch::new();
    let mut bytes = fixture("jpeg_low_quality.jpg");
    // Zeros to the end: libjpeg first complains of the codes, and never finds an end marker.
    let from = bytes.len() * 2 / 3;
    bytes[from..].fill(0);
    let error = outcome(&bytes, &recipe(Truncated::Reject), &mut scratch).unwrap_err();
    assert_eq!(error.code, ErrorCode::Truncated, "{}", error.message);
    assert!(outcome(&bytes, &recipe(Truncated::Accept), &mut scratch).unwrap().truncated);
    // With the end marker in place the same damage is only a warning.
    bytes.extend([0xff, 0xd9]);
    assert!(!outcome(&bytes, &recipe(Truncated::Reject), &mut scratch).unwrap().truncated);
}

#[test]
fn noise_is_an_answer() {
    let mut scratch = Scratch::new();
    let mut noise = Noise(77);
    let starts: [&[u8]; 8] = [
        b"",
        b"\xff\xd8\xff\xe0\0\x10JFIF\0",
        b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR",
        b"GIF89a",
        b"BM",
        b"II*\0\x08\0\0\0",
        b"RIFF\xff\0\0\0WEBPVP8 ",
        b"RIFF\xff\0\0\0WEBPVP8L",
    ];
    for round in 0..4000 {
        let mut bytes = starts[round % starts.len()].to_vec();
        let length = noise.next() % 300;
        bytes.extend((0..length).map(|_| noise.next() as u8));
        let _ = outcome(&bytes, &recipe(Truncated::Accept), &mut scratch);
    }
}

#[test]
fn flipped_bytes_are_an_answer_and_leave_no_trace() {
    let mut scratch = Scratch::new();
    let mut noise = Noise(5);
    for (name, bytes) in fixtures() {
        let whole = prepare(&bytes, &recipe(Truncated::Reject), &mut Scratch::new()).unwrap();
        for _ in 0..40 {
            let mut broken = bytes.clone();
            for _ in 0..1 + noise.next() % 6 {
                let at = noise.next() as usize % broken.len();
                broken[at] = noise.next() as u8;
            }
            let fresh = prepare(&broken, &recipe(Truncated::Accept), &mut Scratch::new());
            // What was decoded before must not show, not even in a broken image.
            assert!(outcome(&broken, &recipe(Truncated::Accept), &mut scratch) == fresh, "{name}");
        }
        assert!(outcome(&bytes, &recipe(Truncated::Reject), &mut scratch) == Ok(whole), "{name}");
    }
}

#[test]
fn a_fast_decode_is_close() {
    let mut scratch = Scratch::new();
    for (name, bytes) in fixtures() {
        let exact = recipe(Truncated::Reject);
        let fast = Recipe { decode: Decode::Fast, ..exact.clone() };
        let (a, b) =
            (outcome(&bytes, &exact, &mut scratch).unwrap(), outcome(&bytes, &fast, &mut scratch).unwrap());
        let difference: u64 =
            a.pixels.iter().zip(b.pixels.iter()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
        let mean = difference as f64 / a.pixels.len() as f64;
        assert!(mean < 8.0, "{name}: {mean} levels on average");
        assert_eq!((a.width, a.height), (b.width, b.height));
    }
}
