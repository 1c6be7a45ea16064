//! A loaded module behind the model seam: whatever engine loaded it, its input and its output are handled here.
//!
//! Between the decoded images of a micro-batch and their rows. Checks that a module does what its description says
//! before it is used, and runs its forward passes. The pixels are normalised by a table of 256 entries a channel, which gives the very floats of torchvision's
//! `ToTensor` and `Normalize`, straight into channels-last memory, the layout in which convolutions are
//! quickest (1.3 to 1.6 times, measured). Must never run on a tokio thread.

use super::{Model, ModelError, Outputs, shim::Module};
use std::{cell::RefCell, time::Instant};
use tch::{Kind, Tensor};
use trawl_common::bundle::{BundleSpec, Head, InputSpec};

thread_local! {
    /// The normalised input of this thread's passes, kept so that its pages are touched once.
    static INPUT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

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
        let [height, width] = self.input.crop;
        let grey = vec![127_u8; height * width * 3];
        self.input.with_tensor(&vec![&grey[..]; batch], |x| {
            let mut images = 0;
            while Instant::now() < end {
                let _output = self.module.forward(x).map_err(|words| classify(&words, first_line(&words)))?;
                images += batch as u64;
            }
            Ok(images)
        })?
    }

    /// Passes of one and of two blank images: the shape must follow the number of images. Two, since libtorch
    /// prepares a graph in its first pass and, on CUDA, specialises it in the second.
    fn probe(&mut self, spec: &BundleSpec) -> Result<(), ModelError> {
        let [height, width] = self.input.crop;
        let blank = vec![0_u8; height * width * 3];
        for images in [&[&blank[..]][..], &[&blank[..], &blank[..]][..]] {
            let outputs = self.input.pass(&self.module, images)?;
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

/// How pixels become a module's input, and its output rows.
pub(super) struct Input {
    device: tch::Device,
    kind: Kind,
    table: Box<[[f32; 256]; 3]>,
    /// Height and width, in pixels.
    crop: [usize; 2],
}

impl Input {
    /// In single precision, on `device`.
    pub(super) fn new(spec: &InputSpec, device: tch::Device) -> Self {
        Self { device, kind: Kind::Float, table: table(spec), crop: spec.crop.map(|side| side as usize) }
    }

    /// In another precision, on its device.
    pub(super) fn with_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// Where it is made.
    pub(super) fn device(&self) -> tch::Device {
        self.device
    }

    /// Height and width, in pixels.
    pub(super) fn crop(&self) -> [usize; 2] {
        self.crop
    }

    /// One pass of `module`.
    pub(super) fn pass(&self, module: &Module, images: &[&[u8]]) -> Result<Outputs, ModelError> {
        self.with_tensor(images, |x| {
            let y = module.forward(x).map_err(|words| classify(&words, first_line(&words)))?;
            collect(&y, images.len())
        })?
    }

    /// Lends the normalised images as one tensor; `run` must not keep it.
    ///
    /// # Errors
    /// If the device has no room for it.
    pub(super) fn with_tensor<T>(
        &self,
        images: &[&[u8]],
        run: impl FnOnce(&Tensor) -> T,
    ) -> Result<T, ModelError> {
        let _no_grad = tch::no_grad_guard();
        INPUT.with_borrow_mut(|input| {
            let [height, width] = self.crop;
            let pixels = height * width;
            input.resize(images.len() * pixels * 3, 0.0);
            for (image, slot) in images.iter().zip(input.chunks_exact_mut(pixels * 3)) {
                self.normalise(image, slot);
            }
            let (n, h, w) = (images.len() as i64, height as i64, width as i64);
            // SAFETY: `input` has n*h*w*3 floats and outlives the tensor, which is dropped (with what the
            // pass made of it; outputs are copied out) before this closure returns.
            let view = unsafe {
                Tensor::from_blob(
                    input.as_ptr().cast(),
                    &[n, 3, h, w],
                    &[h * w * 3, 1, w * 3, 3],
                    Kind::Float,
                    tch::Device::Cpu,
                )
            };
            let x = if self.device == tch::Device::Cpu {
                view
            } else {
                view.f_to_device_(self.device, self.kind, false, false).map_err(|e| forward(&e))?
            };
            Ok(run(&x))
        })
    }

    fn normalise(&self, image: &[u8], slot: &mut [f32]) {
        debug_assert_eq!(image.len(), slot.len());
        let [red, green, blue] = &*self.table;
        for (rgb, out) in image.chunks_exact(3).zip(slot.chunks_exact_mut(3)) {
            out[0] = red[usize::from(rgb[0])];
            out[1] = green[usize::from(rgb[1])];
            out[2] = blue[usize::from(rgb[2])];
        }
    }
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
        let outputs = self.input.pass(&self.module, images)?;
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

/// `(value / 255 - mean) / std` for each of 256 values and three channels, in the order and the precision
/// of torchvision's `ToTensor` and `Normalize`, so that the floats are the same to the last bit.
fn table(input: &InputSpec) -> Box<[[f32; 256]; 3]> {
    let mut table = Box::new([[0.0; 256]; 3]);
    for (channel, row) in table.iter_mut().enumerate() {
        for (value, entry) in (0_u8..=255).zip(row.iter_mut()) {
            *entry = (f32::from(value) / 255.0 - input.mean[channel]) / input.std[channel];
        }
    }
    table
}

fn forward(error: &tch::TchError) -> ModelError {
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
