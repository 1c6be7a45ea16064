//! Which pixels of a JPEG are made: at what size, and which columns.
//!
//! Decided from the header and the recipe before any pixel is decoded. Columns far from the crop are left out, by
//! `--decode exact` too: what is made equals the same part of the whole bit for bit, since [`COLUMNS`] more are made on either
//! side, and tests hold every sampling to that. A view never hides that a file is broken: libjpeg reads all of its data whatever
//! is made of it.

use super::{Recipe, geometry::Plan, jpeg_markers::Header, orient::Orientation, resample::reach};
use trawl_common::{
    bundle::Interpolation,
    job::{Decode, Truncated},
};

/// A scaled decode stays at least this many times the resized size, 7/5. Photos of 12 megapixels go by an eighth, at 1.46 times
/// of 256: half the time of `exact`, and a mean error of 0.44 levels. A factor of 2 has them go by a quarter: 0.20 levels, but two
/// thirds of the time. `docs/performance.md` has the table.
const FAST_MARGIN: (u32, u32) = (7, 5);

/// Columns are left out in steps of this, the widest of libjpeg's units (4:1:1), and one step is kept on either side
/// of what the resize looks at: libjpeg's upsampling of colours at the edge of what it decodes sees no neighbour.
const COLUMNS: u32 = 32;

/// Which of an image's pixels are made, and at what size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    /// 1, 2, 4 or 8 pixels of each axis become one.
    pub denominator: u32,
    /// The first stored column, counted after the shrinking, and how many.
    pub columns: (u32, u32),
}

impl View {
    /// For an image with this header, whose pixels the recipe's resize and crop are to come from.
    pub(super) fn new(header: &Header<'_>, orientation: Orientation, recipe: &Recipe) -> Self {
        if header.lossless {
            return Self { denominator: 1, columns: (0, header.width) };
        }
        let (width, height) = orientation.applied_to(header.width, header.height);
        let plan = Plan::new(width, height, &recipe.input);
        let filter = recipe.input.interpolation;
        // `Nearest` takes single pixels, which no mean is.
        let denominator = if filter == Interpolation::Nearest || recipe.decode == Decode::Exact {
            1
        } else {
            scale_denominator((width, height), plan.resized)
        };
        let there = header.width.div_ceil(denominator);
        let whole = Self { denominator, columns: (0, there) };
        // libjpeg smooths the blocks of a progressive image that ends early by their neighbours; nobody else's missing
        // pixels are looked at.
        if recipe.truncated == Truncated::Accept {
            return whole;
        }
        let origins = orientation.origins();
        let window = plan.window;
        let (output, first, count, mirrored) = if origins.transposed {
            (plan.resized.1, window.y, window.height, origins.mirrored_y)
        } else {
            (plan.resized.0, window.x, window.width, origins.mirrored_x)
        };
        let (start, end) = reach(header.width, output, first, count, filter);
        let (start, end) = if mirrored { (header.width - end, header.width - start) } else { (start, end) };
        let start = start.saturating_sub(COLUMNS) / COLUMNS * COLUMNS / denominator;
        let end = (end + COLUMNS).div_ceil(denominator).min(there);
        if (end - start) * 8 > there * 7 {
            whole
        } else {
            Self { denominator, columns: (start, end - start) }
        }
    }
}

/// The largest of 1, 2, 4 and 8 that leaves the resized size and [`FAST_MARGIN`]. Other ratios exist, but libjpeg has
/// vector code for these.
fn scale_denominator(from: (u32, u32), to: (u32, u32)) -> u32 {
    let (over, under) = FAST_MARGIN;
    let leaves = |from: u32, to: u32, d: u32| {
        u64::from(from.div_ceil(d)) * u64::from(under) >= u64::from(to) * u64::from(over)
    };
    let fits = |d: &u32| leaves(from.0, to.0, *d) && leaves(from.1, to.1, *d);
    [8, 4, 2].into_iter().find(fits).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use crate::preprocess::{
        Scratch,
        jpeg_samples::{Sample, noise, recipe},
        prepare,
    };
    use trawl_common::{
        bundle::Interpolation,
        job::{Decode, Truncated},
    };
    use turbojpeg_sys as tj;

    fn jpeg(sampling: tj::TJSAMP, progressive: bool, components: usize) -> Vec<u8> {
        noise(&Sample { sampling, progressive, components, ..Sample::default() })
    }

    /// With `--truncated accept` all columns are made; the pixels must be the same.
    #[test]
    fn columns_that_are_left_out_change_nothing() {
        let samplings = [
            tj::TJSAMP_TJSAMP_444,
            tj::TJSAMP_TJSAMP_422,
            tj::TJSAMP_TJSAMP_420,
            tj::TJSAMP_TJSAMP_GRAY,
            tj::TJSAMP_TJSAMP_440,
            tj::TJSAMP_TJSAMP_411,
            tj::TJSAMP_TJSAMP_441,
        ];
        let mut scratch = Scratch::new();
        let filters =
            [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic, Interpolation::Lanczos];
        for sampling in samplings {
            for (progressive, components) in [(false, 3), (true, 3), (false, 4)] {
                if components == 4 && sampling == tj::TJSAMP_TJSAMP_GRAY {
                    continue;
                }
                let upright = jpeg(sampling, progressive, components);
                for turn in 1..=8 {
                    let bytes = turned(&upright, turn);
                    for (filter, resize) in filters.into_iter().flat_map(|f| [(f, 28), (f, 90), (f, 40)]) {
                        for decode in [Decode::Fast, Decode::Exact] {
                            let mut pixels = |truncated| {
                                let recipe = recipe(truncated, decode, filter, resize);
                                prepare(&bytes, &recipe, &mut scratch).unwrap().pixels
                            };
                            assert!(
                                pixels(Truncated::Reject) == pixels(Truncated::Accept),
                                "{sampling} progressive {progressive} turn {turn} {filter:?} {resize} {decode:?}"
                            );
                        }
                    }
                }
            }
        }
    }

    /// With an EXIF block that says so.
    fn turned(jpeg: &[u8], turn: u8) -> Vec<u8> {
        let mut exif = b"\xff\xe1\0\x22Exif\0\0II\x2a\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
        exif.extend([turn, 0, 0, 0, 0, 0, 0, 0]);
        [&jpeg[..2], &exif, &jpeg[2..]].concat()
    }

    /// Turning the image or its weights is the same to within the rounding of what is between the passes.
    #[test]
    fn a_shrunk_image_is_turned_with_its_weights() {
        let mut scratch = Scratch::new();
        let bytes = jpeg(tj::TJSAMP_TJSAMP_444, false, 3);
        let mut pixels = |bytes: &[u8], decode| {
            prepare(bytes, &recipe(Truncated::Reject, decode, Interpolation::Bicubic, 28), &mut scratch)
                .unwrap()
                .pixels
        };
        for turn in 1..=8 {
            let bytes = turned(&bytes, turn);
            let (exact, fast) = (pixels(&bytes, Decode::Exact), pixels(&bytes, Decode::Fast));
            let off: u32 = exact.iter().zip(fast.iter()).map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
            let mean = f64::from(off) / exact.len() as f64;
            assert!(mean < 2.5, "turn {turn}: {mean} levels on average");
        }
    }
}
