//! Bundles of `torch.export` (`.pt2`): loaded into nativert, libtorch's interpreter for them, and given to [`Network`].
//!
//! The format that PyTorch goes on with; TorchScript is deprecated there. On the CPU and in single precision only:
//! nativert's public interface takes no device, and the graph passes do not know its graphs. Must never run a file that is
//! compiled code (an AOTInductor package); nativert does not.

use super::{
    Device, ModelError,
    input::Input,
    network::{Network, first_line},
    shim::Module,
};
use std::path::Path;
use trawl_common::{bundle::BundleSpec, job::Precision};

/// Loads the bundle at `path` and runs it as [`super::torchscript::load`] does. Blocking.
///
/// # Errors
/// [`ModelError`] in words that name the fix.
pub fn load(
    path: &Path,
    spec: &BundleSpec,
    device: Device,
    precision: Precision,
) -> Result<Network, ModelError> {
    if device != Device::Cpu {
        return Err(ModelError::Device(format!(
            "a torch.export bundle runs on the CPU only, not on {device}: use --device cpu, or export the model as \
             TorchScript (`python worker/models/export.py ... --format pt`)"
        )));
    }
    if precision != Precision::Fp32 {
        return Err(ModelError::Device(
            "a torch.export bundle runs in single precision only: use --precision fp32".into(),
        ));
    }
    let module = Module::load_exported(path).map_err(|words| {
        ModelError::Unusable(format!(
            "`{}` does not load as a torch.export file: {}; make it with torch 2.11, on the CPU \
             (`python worker/models/export.py ... --format pt2`)",
            path.display(),
            first_line(&words)
        ))
    })?;
    Network::ready(module, Input::new(&spec.input, tch::Device::Cpu)?, spec)
}
