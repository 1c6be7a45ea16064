//! A loaded module behind the model seam: whatever engine loaded it, its input and its output are handled here.
//!
//! Between the decoded images of a micro-batch and their rows. Checks that a module does what its description says
//! before it is used, and runs its forward passes. Must never run on a tokio thread.

use super::{
    Device, Model, ModelError, OutputTensor, Outputs,
    input::Input,
    shim::{self, Module, Wanted},
};
use std::{sync::Arc, time::Instant};
use tch::{Kind, Tensor};
use trawl_common::bundle::{BundleSpec, Head, HeadSpec};

/// Once per process, before the first pass: the pool is the parallelism, libtorch gets one thread.
pub fn prepare_process() {
    tch::set_num_interop_threads(1);
    tch::set_num_threads(1);
}

/// Once in every thread that runs passes: OpenMP counts threads per calling thread.
pub fn prepare_thread() {
    tch::set_num_threads(1);
}

/// How many CUDA devices there are; 0 before [`super::cuda::load`].
pub fn cuda_devices() -> usize {
    usize::try_from(tch::Cuda::device_count()).unwrap_or(0)
}

/// A loaded module with its input recipe.
pub struct Network {
    module: Module,
    input: Input,
    wanted: Wanted,
    /// Of a row of each output, as the first passes had it.
    shapes: Vec<Arc<[u32]>>,
    /// Which outputs may have other shapes later: those of found things.
    varying: Vec<bool>,
}

/// Where the outputs of a bundle are looked for.
///
/// # Errors
/// [`ModelError::Unusable`] if a key cannot be one.
pub(super) fn wanted(spec: &BundleSpec) -> Result<Wanted, ModelError> {
    let slots: Vec<_> = spec.heads.iter().flat_map(HeadSpec::slots).collect();
    Wanted::new(&slots).map_err(ModelError::Unusable)
}

impl Network {
    /// Runs `module` to see that rows in are rows out and that the labels fit, and once more so that the first real
    /// pass is not the slow one. Blocking.
    ///
    /// # Errors
    /// [`ModelError`] in words that name the fix.
    pub(super) fn ready(module: Module, input: Input, spec: &BundleSpec) -> Result<Self, ModelError> {
        let varying = spec.heads.iter().flat_map(|head| {
            let varies = matches!(head.head, Head::Detection { .. });
            std::iter::repeat_n(varies, head.head.tensors())
        });
        let (wanted, varying) = (wanted(spec)?, varying.collect());
        let mut network = Self { module, input, wanted, shapes: Vec::new(), varying };
        network.probe(spec)?;
        Ok(network)
    }

    /// Passes over one input of `batch` grey images that is prepared once, until `end`, and the number of images:
    /// the model's own speed. Blocking; for several threads at once.
    ///
    /// # Errors
    /// As [`Model::forward`].
    pub fn bare_passes(&self, batch: usize, end: Instant) -> Result<u64, ModelError> {
        let [height, width] = self.input.crop();
        let grey = vec![127_u8; height * width * 3];
        self.input.with_tensor(&vec![&grey[..]; batch], |x| {
            let mut images = 0;
            while Instant::now() < end {
                let forward = self.module.forward(x, &self.wanted);
                let outputs = forward.map_err(|words| classify(&words, first_line(&words)))?;
                // A device has only been asked so far; the copy of its answer waits for it.
                collect(&outputs, batch)?;
                images += batch as u64;
            }
            Ok(images)
        })?
    }

    /// Passes of one and of two blank images: the shape must follow the number of images. Two, since libtorch
    /// prepares a graph in its first pass and, on CUDA, specialises it in the second.
    fn probe(&mut self, spec: &BundleSpec) -> Result<(), ModelError> {
        let [height, width] = self.input.crop();
        let blank = vec![0_u8; height * width * 3];
        for images in [&[&blank[..]][..], &[&blank[..], &blank[..]][..]] {
            let outputs = pass(&self.module, &self.input, &self.wanted, images)?;
            self.shapes = outputs.tensors.iter().map(|tensor| tensor.shape.clone()).collect();
        }
        let mut shapes = self.shapes.iter();
        for head in &spec.heads {
            let own: Vec<&[u32]> = shapes.by_ref().take(head.head.tensors()).map(|shape| &**shape).collect();
            check_head(head, &own).map_err(ModelError::Unusable)?;
        }
        Ok(())
    }
}

/// Whether the tensors of a head have the shapes that it needs; the error is a sentence.
fn check_head(head: &HeadSpec, shapes: &[&[u32]]) -> Result<(), String> {
    let named = head.name.as_ref().map(|name| format!(" of the head `{name}`")).unwrap_or_default();
    if let Head::Detection { .. } = head.head {
        return match shapes {
            [[found, 4], [scores], [classes]] if found == scores && found == classes => Ok(()),
            _ => Err(format!(
                "a detection{named} needs boxes of [N, K, 4], scores of [N, K] and classes of [N, K]; for one image the \
                 model gives {shapes:?}"
            )),
        };
    }
    let numbers: u64 = shapes.iter().flat_map(|shape| shape.iter()).map(|side| u64::from(*side)).product();
    if numbers == 0 {
        return Err(format!("the model's output{named} has no numbers"));
    }
    if head.head.has_labels() && !head.labels.is_empty() && head.labels.len() as u64 != numbers {
        return Err(format!(
            "the bundle{named} has {} labels and the model gives {numbers} classes: export it again with the labels it \
             was trained with",
            head.labels.len(),
        ));
    }
    Ok(())
}

/// One pass of `module`. On CUDA it is over when this returns: the output's copy waits for it.
pub(super) fn pass(
    module: &Module,
    input: &Input,
    wanted: &Wanted,
    images: &[&[u8]],
) -> Result<Outputs, ModelError> {
    input.with_tensor(images, |x| {
        let outputs = module.forward(x, wanted).map_err(|words| classify(&words, first_line(&words)))?;
        collect(&outputs, images.len())
    })?
}

/// Bytes of `device`'s memory that this process holds, in use or kept for use; `None` for the CPU, and before the first.
fn device_memory(device: Device) -> Option<u64> {
    match device {
        Device::Cpu => None,
        Device::Cuda(n) => shim::device_memory(n),
    }
}

/// The same of all `devices` that have it, and not on a tokio thread: the allocator may be waiting for its device.
pub async fn device_memories(devices: &[Device]) -> Vec<(Device, u64)> {
    let on_gpu: Vec<Device> = devices.iter().copied().filter(|device| *device != Device::Cpu).collect();
    if on_gpu.is_empty() {
        return Vec::new();
    }
    let ask =
        move || on_gpu.into_iter().filter_map(|device| Some((device, device_memory(device)?))).collect();
    tokio::task::spawn_blocking(ask).await.unwrap_or_default()
}

fn collect(outputs: &[Tensor], images: usize) -> Result<Outputs, ModelError> {
    let tensors = outputs.iter().map(|y| collect_one(y, images)).collect::<Result<_, _>>()?;
    Ok(Outputs { tensors })
}

fn collect_one(y: &Tensor, images: usize) -> Result<OutputTensor, ModelError> {
    let shape = y.size();
    if shape.len() < 2 || shape[0] != images as i64 {
        return Err(ModelError::Unusable(format!(
            "the model gives an output of shape {shape:?} for {images} image(s); the first number must be the \
             number of images, whatever it is (a size baked in by tracing?), and there must be a second"
        )));
    }
    let y = y
        .f_to_device_(tch::Device::Cpu, Kind::Float, false, false)
        .and_then(|y| y.f_contiguous())
        .map_err(|e| forward(&e))?;
    let mut values = vec![0_f32; y.numel()];
    let count = values.len();
    y.f_copy_data(&mut values, count).map_err(|e| forward(&e))?;
    let shape = shape[1..].iter().map(|side| u32::try_from(*side).unwrap_or(u32::MAX)).collect();
    Ok(OutputTensor { width: count / images, values, shape })
}

impl Model for Network {
    fn forward(&self, images: &[&[u8]]) -> Result<Outputs, ModelError> {
        if let tch::Device::Cuda(device) = self.input.device() {
            shim::own_stream(device).map_err(|words| classify(&words, first_line(&words)))?;
        }
        let outputs = pass(&self.module, &self.input, &self.wanted, images)?;
        let expected = self.shapes.iter().zip(&self.varying);
        for (tensor, (shape, varies)) in outputs.tensors.iter().zip(expected) {
            if !varies && tensor.shape != *shape {
                return Err(ModelError::Forward(format!(
                    "rows of {:?} numbers where there were {shape:?} before",
                    tensor.shape
                )));
            }
        }
        Ok(outputs)
    }

    fn width(&self) -> usize {
        self.shapes.first().map_or(0, |shape| shape.iter().map(|side| *side as usize).product())
    }

    fn shapes(&self) -> Vec<Vec<u32>> {
        self.shapes.iter().map(|shape| shape.to_vec()).collect()
    }
}

pub(super) fn forward(error: &tch::TchError) -> ModelError {
    let words = error.to_string();
    classify(&words, first_line(&words))
}

/// By libtorch's words, which are all that it gives. After any CUDA error but a failed allocation every later
/// call on that context fails too (CUDA's "sticky" errors).
fn classify(words: &str, shown: String) -> ModelError {
    if words.contains("out of memory") || words.contains("can't allocate memory") {
        ModelError::OutOfMemory(shown)
    } else if words.contains("CUDA error") || words.contains("CUBLAS_STATUS_EXECUTION_FAILED") {
        ModelError::DeviceLost(shown)
    } else {
        ModelError::Forward(shown)
    }
}

/// libtorch's errors carry a C++ stack of a hundred lines; the first says what happened, and for an error
/// inside TorchScript the last does.
pub(super) fn first_line(text: &str) -> String {
    const MAX_CHARS: usize = 400;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    let words = if first.starts_with("The following operation failed") {
        text.lines().map(str::trim).find(|line| line.contains("Error: ")).unwrap_or(&first).to_owned()
    } else {
        first
    };
    words.chars().take(MAX_CHARS).collect()
}
