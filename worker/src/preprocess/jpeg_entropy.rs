//! The entropy decoding of JPEG that `shim/jpeg_entropy.c` puts in libjpeg-turbo's place.
//!
//! Nobody calls it but libjpeg-turbo, which the linker gave it to. It must never be told from libjpeg-turbo's own but by its
//! speed: the same pixels, warnings and errors, of whole images and of broken ones. There is one exception: one to seven bytes
//! too many before a marker, which only a broken image has, may be warned of by one and not by the other, as by libjpeg-turbo's
//! own two ways of reading: they may be in the bit buffer by then.

use std::ffi::c_int;

unsafe extern "C" {
    fn trawl_jpeg_entropy_switch(on: c_int);
}

/// Has the linker take the file, and so libjpeg-turbo's entry into it, before it comes to libjpeg-turbo's own.
#[used]
static TAKEN: unsafe extern "C" fn(c_int) = trawl_jpeg_entropy_switch;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preprocess::{
        Decoded, ImageError, Recipe,
        color::Rgb,
        hostile::Noise,
        jpeg,
        jpeg_samples::{Sample, noise, recipe},
    };
    use trawl_common::{
        bundle::{InputSpec, Interpolation, ResizeMode},
        job::{Decode, Orient, Truncated},
    };
    use turbojpeg_sys as tj;

    unsafe extern "C" {
        fn jinit_huff_decoder();
        fn trawl_jpeg_entropy_linked(jinit: unsafe extern "C" fn()) -> c_int;
    }

    #[test]
    fn libjpeg_was_linked_to_it() {
        // SAFETY: the pointer is only compared.
        assert_eq!(unsafe { trawl_jpeg_entropy_linked(jinit_huff_decoder) }, 1);
    }

    /// The whole image, at an eighth of its size or at all of it.
    fn whole(decode: Decode) -> Recipe {
        let recipe = recipe(Truncated::Accept, decode, Interpolation::Bilinear, 16);
        let input =
            InputSpec { crop: [16, 16], resize: None, resize_mode: ResizeMode::Squash, ..recipe.input };
        Recipe { input, orient: Orient::None, ..recipe }
    }

    type Made = (Result<Decoded, ImageError>, Vec<u8>);

    fn made(bytes: &[u8], decode: Decode, ours: bool) -> Made {
        let mut rgb = Rgb::default();
        // SAFETY: sets a flag of this thread.
        unsafe { trawl_jpeg_entropy_switch(c_int::from(ours)) };
        let decoded = jpeg::decode(bytes, &whole(decode), &mut rgb, &mut Vec::new());
        // SAFETY: as above.
        unsafe { trawl_jpeg_entropy_switch(1) };
        (decoded, rgb.bytes)
    }

    /// Whether both ways say the same of the image's end.
    fn assert_same(bytes: &[u8], what: &dyn std::fmt::Debug) -> bool {
        let mut same_end = true;
        for decode in [Decode::Exact, Decode::Fast] {
            let (mut ours, turbo) = (made(bytes, decode, true), made(bytes, decode, false));
            if let (Ok(ours), Ok(turbo)) = (&mut ours.0, &turbo.0) {
                same_end &= ours.truncated == turbo.truncated;
                ours.truncated = turbo.truncated;
            }
            assert_eq!(ours.0, turbo.0, "{what:?} {decode:?}");
            assert!(ours.1 == turbo.1, "other pixels: {what:?} {decode:?}");
        }
        same_end
    }

    fn samples() -> impl Iterator<Item = Sample> {
        let samplings = [
            tj::TJSAMP_TJSAMP_444,
            tj::TJSAMP_TJSAMP_422,
            tj::TJSAMP_TJSAMP_420,
            tj::TJSAMP_TJSAMP_GRAY,
            tj::TJSAMP_TJSAMP_440,
            tj::TJSAMP_TJSAMP_411,
        ];
        let tables = [(5, true), (30, false), (85, true), (85, false), (100, true), (100, false)];
        samplings.into_iter().flat_map(move |sampling| {
            tables.into_iter().flat_map(move |(quality, own_tables)| {
                [0, 1, 7].map(|restart| Sample {
                    size: (317, 203),
                    sampling,
                    quality,
                    own_tables,
                    restart,
                    ..Sample::default()
                })
            })
        })
    }

    fn assert_whole(sample: &Sample) {
        let bytes = noise(sample);
        assert!(assert_same(&bytes, sample), "{sample:?}");
        let (decoded, _) = made(&bytes, Decode::Exact, true);
        assert!(!decoded.expect("a whole image").truncated, "{sample:?}");
    }

    #[test]
    fn whole_images_have_the_same_pixels() {
        for sample in samples() {
            assert_whole(&sample);
        }
        for components in [3, 4] {
            assert_whole(&Sample { components, progressive: components == 3, ..Sample::default() });
        }
    }

    /// Full blocks, codes of every length, coefficients of every size: whatever random bits stand for.
    #[test]
    fn broken_images_break_the_same_way() {
        let mut random = Noise(0x1234_5678_9abc_def1);
        let mut below = |end: usize| (random.next() % end as u64) as usize;
        let (mut images, mut other_ends) = (0, 0);
        for sample in samples().filter(|sample| sample.quality != 30) {
            let whole = noise(&sample);
            let scan = whole.windows(2).position(|two| two == [0xff, 0xda]).unwrap() + 14;
            for round in 0..24 {
                let mut bytes = whole.clone();
                match round % 4 {
                    // A few bytes, anywhere from the tables on; or all from somewhere on; or the end is missing.
                    0 => (0..1 + below(4))
                        .for_each(|_| bytes[160 + below(whole.len() - 160)] = below(256) as u8),
                    1 => {
                        let from = scan + below(whole.len() - scan);
                        bytes[from..].iter_mut().for_each(|byte| *byte = below(256) as u8);
                    }
                    2 => bytes.truncate(scan + below(whole.len() - scan)),
                    // No markers, so that libjpeg-turbo has to make coefficients of it.
                    _ => bytes[scan..].iter_mut().for_each(|byte| *byte = below(255) as u8),
                }
                images += 1;
                other_ends += usize::from(!assert_same(&bytes, &(sample, round)));
            }
        }
        assert!(other_ends * 1000 <= images, "{other_ends} of {images} broken images end otherwise");
    }
}
