//! JPEGs that tests make for themselves: of any sampling, with edges and noise on all channels, so that one pixel's error
//! shows. And what they are decoded by.

use super::{DEFAULT_MAX_FRAMES, DEFAULT_MAX_PIXELS, DEFAULT_MAX_SIDE, Limits, Recipe};
use std::ffi::c_int;
use trawl_common::{
    bundle::{Centre, InputSpec, Interpolation, ResizeMode},
    job::{Decode, Orient, Truncated},
};
use turbojpeg_sys as tj;

/// What a JPEG is like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Pixels in a row, and rows.
    pub size: (usize, usize),
    /// How colours are sampled.
    pub sampling: tj::TJSAMP,
    /// In scans of rising precision.
    pub progressive: bool,
    /// 3 for RGB, 4 for CMYK.
    pub components: usize,
    /// 1 to 100.
    pub quality: u8,
    /// MCUs between two restart markers, or 0.
    pub restart: u16,
    /// Whether the Huffman tables are made for the image.
    pub own_tables: bool,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            size: (460, 90),
            sampling: tj::TJSAMP_TJSAMP_444,
            progressive: false,
            components: 3,
            quality: 85,
            restart: 0,
            own_tables: false,
        }
    }
}

/// Edges and noise on all channels.
pub(super) fn noise(sample: &Sample) -> Vec<u8> {
    let Sample { size: (width, height), components, .. } = *sample;
    let mut state = 77_u32;
    let pixels: Vec<u8> = (0..width * height * components)
        .map(|at| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let stripe = if (at / components / 5).is_multiple_of(2) { 60 } else { 160 };
            (stripe + (state >> 26)) as u8
        })
        .collect();
    let format = if components == 4 { tj::TJPF_TJPF_CMYK } else { tj::TJPF_TJPF_RGB };
    let settings = [
        (tj::TJPARAM_TJPARAM_SUBSAMP, sample.sampling as c_int),
        (tj::TJPARAM_TJPARAM_QUALITY, c_int::from(sample.quality)),
        (tj::TJPARAM_TJPARAM_PROGRESSIVE, c_int::from(sample.progressive)),
        (tj::TJPARAM_TJPARAM_RESTARTBLOCKS, c_int::from(sample.restart)),
        (tj::TJPARAM_TJPARAM_OPTIMIZE, c_int::from(sample.own_tables)),
    ];
    let (mut out, mut size): (*mut u8, tj::size_t) = (std::ptr::null_mut(), 0);
    // SAFETY: the pixels are as many as the size says; the output is libjpeg's own and given back once.
    unsafe {
        let handle = tj::tj3Init(tj::TJINIT_TJINIT_COMPRESS as c_int);
        for (parameter, value) in settings {
            assert_eq!(tj::tj3Set(handle, parameter as c_int, value), 0, "parameter {parameter}");
        }
        let (w, h) = (width as c_int, height as c_int);
        let done = tj::tj3Compress8(handle, pixels.as_ptr(), w, 0, h, format as c_int, &mut out, &mut size);
        assert_eq!(done, 0);
        let bytes = std::slice::from_raw_parts(out, size as usize).to_vec();
        tj::tj3Free(out.cast());
        tj::tj3Destroy(handle);
        bytes
    }
}

/// The middle 24 x 24 of the image whose shorter side became `resize`.
pub(super) fn recipe(
    truncated: Truncated,
    decode: Decode,
    interpolation: Interpolation,
    resize: u32,
) -> Recipe {
    let input = InputSpec {
        crop: [24, 24],
        resize: Some(resize.into()),
        resize_mode: ResizeMode::Shortest,
        interpolation,
        fill: None,
        centre: Centre::default(),
        mean: [0.0; 3],
        std: [1.0; 3],
    };
    let limits =
        Limits { max_pixels: DEFAULT_MAX_PIXELS, max_side: DEFAULT_MAX_SIDE, max_frames: DEFAULT_MAX_FRAMES };
    Recipe { input, decode, truncated, orient: Orient::Exif, limits }
}
