//! The model seam: pixels in, numbers per image out.
//!
//! Between the decode stage and the rows. The contract: as many rows out as images in, in their order.
//! Real: [`network`], which runs what [`torchscript`] or [`exported`] loaded. For tests: [`fake`], which hashes
//! pixels. What the numbers mean (softmax, top-k) is [`output`]'s business, not the model's.

pub mod cuda;
pub mod exported;
pub mod fake;
#[cfg(test)]
mod fuse_tests;
mod input;
pub mod network;
mod normalise;
pub mod output;
mod passes;
#[cfg(test)]
mod passes_tests;
mod shim;
pub mod torchscript;
pub mod verdicts;
pub mod write;

pub use shim::torch_version;

use std::{fmt, path::Path, str::FromStr, sync::Arc};
use trawl_common::{
    bundle::{BundleFormat, BundleSpec},
    job::Precision,
    results::engine::Engine,
};
use verdicts::Verdict;

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Device {
    /// On the threads that also decode.
    Cpu,
    /// On CUDA device `n`, by a thread of its own.
    Cuda(usize),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

/// Whether a model's graph is made faster when it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum GraphPasses {
    /// Where the outcome gives the same answers.
    #[default]
    On,
    /// It runs as it was exported.
    Off,
}

/// A text that is no device.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no device: use cpu, cuda or cuda:N")]
pub struct UnknownDevice(String);

impl FromStr for Device {
    type Err = UnknownDevice;

    fn from_str(text: &str) -> Result<Self, UnknownDevice> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", n)) => n.parse().map(Self::Cuda).map_err(|_| UnknownDevice(text.to_owned())),
            _ => Err(UnknownDevice(text.to_owned())),
        }
    }
}

/// Why a model does not answer.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The file does not load, or what loads does not do what its description says.
    #[error("{0}")]
    Unusable(String),
    /// The forward pass raised.
    #[error("the forward pass failed: {0}")]
    Forward(String),
    /// The micro-batch did not fit into the device's memory; a smaller one may.
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    /// The device's context is dead: nothing runs on it any more in this process.
    #[error("{0}")]
    DeviceLost(String),
    /// The device is not there.
    #[error("{0}")]
    Device(String),
}

/// The answer to one micro-batch: the tensors that the bundle's heads are made of, in the order of their slots.
#[derive(Debug, Clone, PartialEq)]
pub struct Outputs {
    /// Never empty; each has a row for each image.
    pub tensors: Vec<OutputTensor>,
}

/// One of a model's outputs.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputTensor {
    /// Row after row.
    pub values: Vec<f32>,
    /// Numbers in a row.
    pub width: usize,
    /// The shape of a row.
    pub shape: Arc<[u32]>,
}

impl Outputs {
    /// Of a model with one output, of `width` numbers an image.
    pub fn single(values: Vec<f32>, width: usize) -> Self {
        let shape = [u32::try_from(width).unwrap_or(u32::MAX)].into();
        Self { tensors: vec![OutputTensor { values, width, shape }] }
    }

    /// The rows of the first tensor, in the order of the images.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        let OutputTensor { values, width, .. } = &self.tensors[0];
        values.chunks_exact((*width).max(1))
    }
}

impl OutputTensor {
    /// The row of an image; empty if there is none.
    pub fn row(&self, image: usize) -> &[f32] {
        let from = image * self.width;
        self.values.get(from..from + self.width).unwrap_or_default()
    }
}

/// Something that answers for images.
pub trait Model: Send + Sync {
    /// One forward pass over images of `height * width * 3` bytes each (RGB, row by row, as the bundle's
    /// crop says). Blocking; called from several threads at once.
    ///
    /// # Errors
    /// [`ModelError::Forward`] if the pass raises or gives another number of rows than images;
    /// [`ModelError::OutOfMemory`] and [`ModelError::DeviceLost`] by what libtorch says.
    fn forward(&self, images: &[&[u8]]) -> Result<Outputs, ModelError>;

    /// Numbers in a row of the first output.
    fn width(&self) -> usize;

    /// The shape of a row of each output, as it was at the first passes; where the number of found things may vary, it
    /// may be another later.
    fn shapes(&self) -> Vec<Vec<u32>> {
        vec![vec![u32::try_from(self.width()).unwrap_or(u32::MAX)]]
    }
}

/// Loads the bundle at `path`, which `spec` was read from, by the engine for its format; a `verdict` spares the
/// comparison of its graph passes. Blocking.
///
/// # Errors
/// [`ModelError`] in words that name the fix.
pub fn load(
    path: &Path,
    spec: &BundleSpec,
    device: Device,
    precision: Precision,
    graph_passes: GraphPasses,
    verdict: Option<&Verdict>,
) -> Result<network::Network, ModelError> {
    match BundleFormat::of(path).map_err(|e| ModelError::Unusable(e.to_string()))? {
        BundleFormat::TorchScript => torchscript::load(path, spec, device, precision, graph_passes, verdict),
        BundleFormat::Exported => exported::load(path, spec, device, precision),
    }
}

/// A model that is ready: loaded, checked and warm.
pub struct LoadedModel {
    /// The model, once for the CPU or once per device; never empty.
    pub replicas: Vec<Box<dyn Model>>,
    /// What its bundle says.
    pub spec: BundleSpec,
    /// Hex sha256 of the bundle.
    pub sha256: String,
    /// What runs it, for the parts' footers.
    pub engine: Engine,
    /// Digest and precision: what speed depends on.
    pub variant: String,
}
