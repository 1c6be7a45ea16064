//! Makes a loaded model faster and proves that it still answers the same.
//!
//! Between loading and the first batch. What the passes do is in `worker/shim`; here their outcome is compared with the
//! model as it came, on images that are the same on every machine. Whatever goes wrong, the model runs as it came: slower,
//! never otherwise.

use super::{
    OutputTensor, Outputs,
    input::Input,
    network::pass,
    shim::{self, Counts, Module, Passes, Wanted},
};
use std::ops::Range;
use tch::Kind;

/// The largest difference allowed, relative to the largest output. Folding and zero-extended kernels give sums in another
/// order: 1.4e-6 measured (EfficientNet-Lite0, random and real images), 3e-7 for a ResNet-50. So seventy times what is
/// seen, and still a probability moves by less than its fifth digit.
const TOLERANCE: f32 = 1e-4;

/// Images that are compared.
const IMAGES: usize = 5;

/// Which of them go together: what depends on the number of images shows at one of these. Each image once, for a start
/// waits for this.
const BATCHES: [Range<usize>; 2] = [0..1, 1..IMAGES];

/// Side of the squares of the structured images, in pixels.
const SQUARE: usize = 16;

/// A faster module than `plain`, and what was changed. Blocking: runs one of its passes.
///
/// # Errors
/// libtorch's words.
pub(super) fn optimise(plain: &Module, input: &Input, passes: Passes) -> Result<(Module, Counts), String> {
    let images = images(input.crop());
    let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let (fast, counts) =
        input.with_tensor(&images[..2], |x| plain.optimise(passes, x, None)).map_err(|e| e.to_string())??;
    settle(input.device());
    Ok((fast, counts))
}

/// Compares the answers of the two. Blocking: runs both.
///
/// # Errors
/// What differs, in words.
pub(super) fn same_answers(
    plain: &Module,
    fast: &Module,
    input: &Input,
    wanted: &Wanted,
) -> Result<(), String> {
    let images = images(input.crop());
    let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let _exact = ExactFloats::new();
    let _fast = AllCores::new();
    for batch in BATCHES {
        let count = batch.len();
        let before = pass(plain, input, wanted, &images[batch.clone()]).map_err(|e| e.to_string())?;
        let after = pass(fast, input, wanted, &images[batch]).map_err(|e| e.to_string())?;
        compare(&before, &after).map_err(|reason| format!("with {count} image(s), {reason}"))?;
    }
    Ok(())
}

/// As [`optimise`], in the precision `kind`.
///
/// # Errors
/// libtorch's words.
pub(super) fn convert(plain: &Module, input: &Input, kind: Kind) -> Result<Module, String> {
    let images = images(input.crop());
    let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).take(2).collect();
    let converted = input.with_tensor(&images, |x| plain.optimise(Passes::ALL, x, Some(kind)));
    let converted = converted.map_err(|e| e.to_string())??.0;
    settle(input.device());
    Ok(converted)
}

/// Waits until the device has read what it was given.
fn settle(device: tch::Device) {
    if let tch::Device::Cuda(n) = device {
        tch::Cuda::synchronize(n as i64);
    }
}

/// This thread's passes on all cores while it lives: a start waits for them, and hardly anything else runs then.
struct AllCores;

impl AllCores {
    fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        tch::set_num_threads(i32::try_from(cores).unwrap_or(1));
        Self
    }
}

impl Drop for AllCores {
    fn drop(&mut self) {
        super::network::prepare_thread();
    }
}

/// `TensorFloat-32` off while it lives: CUDA's convolutions would differ by a thousandth otherwise, between any two
/// kernels. Other models' passes in that time are slower and more exact.
struct ExactFloats {
    before: bool,
}

impl ExactFloats {
    fn new() -> Self {
        Self { before: shim::allow_tf32(false) }
    }
}

impl Drop for ExactFloats {
    fn drop(&mut self) {
        shim::allow_tf32(self.before);
    }
}

/// The same shape, the same best number of each row unless two are level, and every number within [`TOLERANCE`].
fn compare(before: &Outputs, after: &Outputs) -> Result<(), String> {
    let mut outputs = before.tensors.iter().zip(&after.tensors);
    outputs.try_for_each(|(before, after)| compare_one(before, after))
}

fn compare_one(before: &OutputTensor, after: &OutputTensor) -> Result<(), String> {
    if before.width != after.width || before.values.len() != after.values.len() {
        return Err(format!("rows have {} numbers and had {}", after.width, before.width));
    }
    if before.width == 0 {
        return Ok(());
    }
    let largest = before.values.iter().filter(|v| v.is_finite()).fold(0.0, |most: f32, v| most.max(v.abs()));
    let allowed = TOLERANCE * largest;
    let rows = before.values.chunks_exact(before.width).zip(after.values.chunks_exact(after.width));
    for (was, is) in rows {
        for (a, b) in was.iter().zip(is) {
            let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= allowed;
            if !same {
                return Err(format!("an output is {b} and was {a}; {allowed:e} is allowed"));
            }
        }
        let (best_was, best_is) = (best(was), best(is));
        if best_was != best_is && (was[best_was] - was[best_is]).abs() > allowed {
            return Err(format!("output {best_is} is the largest and was {best_was}"));
        }
    }
    Ok(())
}

fn best(row: &[f32]) -> usize {
    (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap_or(0)
}

/// Noise, a gradient, squares in two sizes and noise that is dark: never all one colour, and the same each time.
fn images([height, width]: [usize; 2]) -> Vec<Vec<u8>> {
    // Numerical Recipes' generator of 32 bits; the upper ones are the good ones.
    let mut state = 1_u32;
    let mut noise = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let mut images = Vec::with_capacity(IMAGES);
    for which in 0..IMAGES {
        let mut image = Vec::with_capacity(height * width * 3);
        for y in 0..height {
            for x in 0..width {
                for channel in 0..3 {
                    let squares = |side: usize| {
                        if (x / side + y / side + channel).is_multiple_of(2) { 230 } else { 20 }
                    };
                    image.push(match which {
                        0 => noise(),
                        1 => {
                            ((x * 255 / width) as u8)
                                ^ ((y * 255 / height) as u8).wrapping_shr(channel as u32)
                        }
                        2 => squares(SQUARE),
                        3 => squares(3),
                        _ => noise() / 4,
                    });
                }
            }
        }
        images.push(image);
    }
    images
}
