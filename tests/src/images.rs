//! Images for tests: small PNGs that all differ, and broken files.

use image::{ImageFormat, Rgb, RgbImage};
use std::{io::Cursor, path::Path};

/// A PNG of `width` x `height` whose pixels depend on `seed`.
///
/// # Panics
/// Never: encoding into memory does not fail.
pub fn png(seed: u32, width: u32, height: u32) -> Vec<u8> {
    let pixel = |x: u32, y: u32| {
        let wave = x.wrapping_mul(seed % 7 + 1).wrapping_add(y.wrapping_mul(seed % 5 + 1));
        let channel =
            |shift: u32| u8::try_from((wave.wrapping_add(seed.wrapping_mul(shift))) % 256).unwrap_or(0);
        Rgb([channel(3), channel(11), channel(29)])
    };
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_fn(width, height, pixel)
        .write_to(&mut bytes, ImageFormat::Png)
        .expect("encoding into memory");
    bytes.into_inner()
}

/// A PNG of a sun over hills, for pages that people look at; `seed` says which.
///
/// # Panics
/// Never: encoding into memory does not fail.
pub fn landscape(seed: u32, width: u32, height: u32) -> Vec<u8> {
    let part = |n: u32| f64::from(seed.wrapping_mul(n).wrapping_add(n) % 97) / 97.0;
    let (w, h) = (f64::from(width), f64::from(height));
    let (sun_x, sun_y, sun) =
        (w * (0.2 + 0.6 * part(31)), h * (0.15 + 0.35 * part(17)), h * (0.06 + 0.08 * part(7)));
    let shade = |share: f64, n: u32| {
        let channel = |phase: f64| {
            let wave = (std::f64::consts::TAU * (part(n) + phase)).cos();
            (255.0 * (0.5 + 0.28 * wave) * (0.55 + 0.45 * share)).clamp(0.0, 255.0) as u8
        };
        Rgb([channel(0.0), channel(0.33), channel(0.67)])
    };
    let pixel = |x: u32, y: u32| {
        let (x, y) = (f64::from(x), f64::from(y));
        let hill =
            |n: u32, base: f64| h * (base + 0.1 * ((x / w * (2.0 + 3.0 * part(n)) + part(n)) * 3.0).sin());
        if y > hill(41, 0.8) {
            shade(0.1, 41)
        } else if y > hill(29, 0.62) {
            shade(0.45, 29)
        } else if (x - sun_x).hypot(y - sun_y) < sun {
            Rgb([255, 244, 214])
        } else {
            shade(0.5 + 0.5 * y / h, 13)
        }
    };
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_fn(width, height, pixel)
        .write_to(&mut bytes, ImageFormat::Png)
        .expect("encoding into memory");
    bytes.into_inner()
}

/// A PNG of one colour all over.
///
/// # Panics
/// Never: encoding into memory does not fail.
pub fn plain(colour: [u8; 3], width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    RgbImage::from_pixel(width, height, Rgb(colour))
        .write_to(&mut bytes, ImageFormat::Png)
        .expect("encoding into memory");
    bytes.into_inner()
}

/// Writes `count` images `img_00000.png`... into `dir`.
///
/// # Panics
/// If the folder cannot be written.
pub fn folder(dir: &Path, count: u32) {
    std::fs::create_dir_all(dir).expect("a folder");
    for i in 0..count {
        std::fs::write(dir.join(format!("img_{i:05}.png")), png(i, 40, 30)).expect("a file");
    }
}

/// A small PNG whose header claims a size; its checksum is right.
///
/// # Panics
/// Never: the header of a PNG has its fields where they are.
pub fn png_claiming(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = png(0, 8, 8);
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    // CRC-32 over the chunk's type and fields, as PNG has it.
    let crc = !bytes[12..29].iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
    });
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    bytes
}
