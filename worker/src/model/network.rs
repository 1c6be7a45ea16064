//! A loaded module behind the model seam: whatever engine loaded it, its input and its output are handled here.
//!
//! Between the decoded images of a micro-batch and their rows. Checks that a module does what its description says
//! before it is used, and runs its forward passes. Must never run on a tokio thread.

use super::{
    Device, Model, ModelError, Outputs,
    input::Input,
    shim::{self, Module},
};
use std::time::Instant;
use tch::{Kind, Tensor};
use trawl_common::bundle::{BundleSpec, Head};

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
    row_width: usize,
}

impl Network {
    /// Runs `module` to see that rows in are rows out and that the labels fit, and once more so that the first real
    /// pass is not the slow one. Blocking.
    ///
    /// # Errors
    /// [`ModelError`] in words that name the fix.
    pub(super) fn ready(module: Module, input: Input, spec: &BundleSpec) -> Result<Self, ModelError> {
        let mut network = Self { module, input, row_width: 0 };
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
                let y = self.module.forward(x).map_err(|words| classify(&words, first_line(&words)))?;
                // A device has only been asked so far; the copy of its answer waits for it.
                collect(&y, batch)?;
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
            let outputs = pass(&self.module, &self.input, images)?;
            self.row_width = outputs.width;
        }
        if self.row_width == 0 {
            return Err(ModelError::Unusable("the model's output has no numbers".into()));
        }
        if spec.head == Head::Classification && !spec.labels.is_empty() && spec.labels.len() != self.row_width
        {
            return Err(ModelError::Unusable(format!(
                "the bundle has {} labels and the model gives {} classes: export it again with the labels it was \
                 trained with",
                spec.labels.len(),
                self.row_width
            )));
        }
        Ok(())
    }
}

/// One pass of `module`. On CUDA it is over when this returns: the output's copy waits for it.
pub(super) fn pass(module: &Module, input: &Input, images: &[&[u8]]) -> Result<Outputs, ModelError> {
    input.with_tensor(images, |x| {
        let y = module.forward(x).map_err(|words| classify(&words, first_line(&words)))?;
        collect(&y, images.len())
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

fn collect(y: &Tensor, images: usize) -> Result<Outputs, ModelError> {
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
    Ok(Outputs { width: count / images, values })
}

impl Model for Network {
    fn forward(&self, images: &[&[u8]]) -> Result<Outputs, ModelError> {
        if let tch::Device::Cuda(device) = self.input.device() {
            shim::own_stream(device).map_err(|words| classify(&words, first_line(&words)))?;
        }
        let outputs = pass(&self.module, &self.input, images)?;
        if outputs.width != self.row_width {
            return Err(ModelError::Forward(format!(
                "rows of {} numbers where there were {} before",
                outputs.width, self.row_width
            )));
        }
        Ok(outputs)
    }

    fn width(&self) -> usize {
        self.row_width
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
