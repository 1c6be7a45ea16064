//! Normalise: an image's bytes to the very floats of torchvision's `ToTensor` and `Normalize`, on the CPU.
//!
//! Between decode's pixels and the forward pass. A byte has 256 values, so a table for each channel is right by construction
//! and takes any constants. Arithmetic on whole vectors is quicker (1.6 times in a run of a small model) but rounds otherwise
//! in principle: it is used where it gives every entry of the tables to the last bit, which is tried beforehand, and where the
//! CPU has fused multiply-adds. Must never give a float that torchvision would not.

use std::array;
use trawl_common::bundle::InputSpec;

/// Bytes of one step: 8 pixels, three vectors of 8 floats.
const STEP: usize = 24;

/// How many values a byte has.
const VALUES: usize = 256;

/// What bytes become floats with.
pub(super) struct Normalise {
    table: Box<[[f32; VALUES]; 3]>,
    /// The constants of a step, if arithmetic gives the table.
    arithmetic: Option<Box<Constants>>,
}

/// Of the channel that each byte of a step is of.
struct Constants {
    mean: [f32; STEP],
    std: [f32; STEP],
    /// `1 / std`, rounded.
    inverse: [f32; STEP],
}

impl Normalise {
    /// By the mean and the standard deviation of `input`.
    pub(super) fn new(input: &InputSpec) -> Self {
        let table = table(input);
        let of_channel = |values: [f32; 3]| array::from_fn(|at| values[at % 3]);
        let (mean, std) = (of_channel(input.mean), of_channel(input.std));
        let constants = Constants { mean, std, inverse: std.map(f32::recip) };
        let gives = gives(&constants, &table);
        Self { table, arithmetic: gives.then(|| Box::new(constants)) }
    }

    /// Puts the floats of `image`, whose bytes are red, green, blue and so on, into `slot`, which has as many.
    pub(super) fn apply(&self, image: &[u8], slot: &mut [f32]) {
        debug_assert_eq!(image.len(), slot.len());
        let done = match &self.arithmetic {
            Some(constants) => in_steps(image, slot, constants),
            None => 0,
        };
        let [red, green, blue] = &*self.table;
        for (rgb, out) in image[done..].chunks_exact(3).zip(slot[done..].chunks_exact_mut(3)) {
            out[0] = red[usize::from(rgb[0])];
            out[1] = green[usize::from(rgb[1])];
            out[2] = blue[usize::from(rgb[2])];
        }
    }
}

/// `(value / 255 - mean) / std` for each value and channel, in the order and the precision of torchvision's `ToTensor` and
/// `Normalize`, so that the floats are the same to the last bit.
fn table(input: &InputSpec) -> Box<[[f32; VALUES]; 3]> {
    let mut table = Box::new([[0.0; VALUES]; 3]);
    for (channel, row) in table.iter_mut().enumerate() {
        for (value, entry) in (0_u8..=255).zip(row.iter_mut()) {
            *entry = (f32::from(value) / 255.0 - input.mean[channel]) / input.std[channel];
        }
    }
    table
}

/// Whether arithmetic with `constants` gives every entry of `table`.
fn gives(constants: &Constants, table: &[[f32; VALUES]; 3]) -> bool {
    let mut floats = [0.0; STEP];
    (0_u8..=255).all(|value| {
        step(&[value; STEP], &mut floats, constants);
        let wanted = table.iter().map(|channel| channel[usize::from(value)].to_bits());
        wanted.eq(floats[..3].iter().map(|float| float.to_bits()))
    })
}

/// The floats of the image's whole steps, where the CPU is quick at it. Gives the number of bytes that are done.
fn in_steps(image: &[u8], slot: &mut [f32], constants: &Constants) -> usize {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the CPU has both.
        return unsafe { with_avx2(image, slot, constants) };
    }
    // The others would call a function for each multiply-add.
    if cfg!(target_arch = "aarch64") { all_steps(image, slot, constants) } else { 0 }
}

/// # Safety
/// The CPU has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn with_avx2(image: &[u8], slot: &mut [f32], constants: &Constants) -> usize {
    all_steps(image, slot, constants)
}

/// Written so that the compiler makes vectors of it, of whatever the function has that it becomes part of.
#[inline(always)]
fn all_steps(image: &[u8], slot: &mut [f32], constants: &Constants) -> usize {
    let (steps, _) = image.as_chunks::<STEP>();
    for (bytes, floats) in steps.iter().zip(slot.as_chunks_mut::<STEP>().0) {
        step(bytes, floats, constants);
    }
    steps.len() * STEP
}

/// Two divisions, each a product with the inverse and one correction by what that leaves, which is nearly always the
/// division's own result (Markstein, "Computation of elementary functions on the IBM RISC System/6000", 1990).
#[inline(always)]
fn step(bytes: &[u8; STEP], floats: &mut [f32; STEP], constants: &Constants) {
    const WHITE: f32 = 255.0;
    for at in 0..STEP {
        let value = f32::from(bytes[at]);
        let share = quotient(value, WHITE, 1.0 / WHITE);
        floats[at] = quotient(share - constants.mean[at], constants.std[at], constants.inverse[at]);
    }
}

#[inline(always)]
fn quotient(dividend: f32, divisor: f32, inverse: f32) -> f32 {
    let first = dividend * inverse;
    let left = (-first).mul_add(divisor, dividend);
    left.mul_add(inverse, first)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use trawl_common::bundle::{Centre, Interpolation, ResizeMode};

    /// An input of 16 pixels a side.
    pub fn spec(mean: [f32; 3], std: [f32; 3]) -> InputSpec {
        InputSpec {
            crop: [16, 16],
            resize: Some(16.into()),
            resize_mode: ResizeMode::Shortest,
            interpolation: Interpolation::Bilinear,
            fill: None,
            centre: Centre::default(),
            mean,
            std,
        }
    }

    fn with(mean: [f32; 3], std: [f32; 3]) -> Normalise {
        Normalise::new(&spec(mean, std))
    }

    /// Every value in every channel and at every place of a step, with pixels left over.
    fn assert_as_torchvision(normalise: &Normalise, mean: [f32; 3], std: [f32; 3]) {
        let image: Vec<u8> = (0..3 * (256 * 8 + 5)).map(|at| ((at / 3 + at / 3 / 256) % 256) as u8).collect();
        let mut floats = vec![f32::NAN; image.len()];
        normalise.apply(&image, &mut floats);
        for (at, (&value, float)) in image.iter().zip(floats).enumerate() {
            let wanted = (f32::from(value) / 255.0 - mean[at % 3]) / std[at % 3];
            assert_eq!(float.to_bits(), wanted.to_bits(), "{value} at {at}: {float}, not {wanted}");
        }
    }

    #[test]
    fn the_usual_constants_are_done_by_arithmetic_and_exactly() {
        for (mean, std) in [
            ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ([0.5; 3], [0.5; 3]),
            ([0.0; 3], [1.0; 3]),
            ([127.0 / 255.0; 3], [128.0 / 255.0; 3]),
            ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]),
            ([0.0; 3], [1.0 / 255.0; 3]),
        ] {
            let normalise = with(mean, std);
            assert!(normalise.arithmetic.is_some(), "{mean:?} {std:?}");
            assert_as_torchvision(&normalise, mean, std);
        }
    }

    #[test]
    fn constants_that_arithmetic_fails_for_are_looked_up() {
        // The inverse of the smallest float is none.
        let (mean, std) = ([0.5, 0.4, 0.3], [0.25, f32::from_bits(1), 0.25]);
        let normalise = with(mean, std);
        assert!(normalise.arithmetic.is_none());
        assert_as_torchvision(&normalise, mean, std);
    }

    #[test]
    fn a_step_that_were_wrong_by_a_bit_would_be_noticed() {
        let (mean, std) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
        let Normalise { table, arithmetic } = with(mean, std);
        let mut constants = *arithmetic.expect("the usual constants");
        assert!(gives(&constants, &table));
        constants.mean[1] = f32::from_bits(constants.mean[1].to_bits() + 1);
        assert!(!gives(&constants, &table));
    }
}
