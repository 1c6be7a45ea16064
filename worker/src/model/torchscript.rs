//! TorchScript bundles: loaded, made faster, and given to [`Network`] to run.
//!
//! Once per model and device, when its first batch comes. Must leave a module that cannot be made faster as it came.

use super::{
    Device, GraphPasses, ModelError,
    network::{Input, Network, first_line},
    passes,
    shim::{self, Module, Passes},
};
use std::{path::Path, time::Instant};
use tch::Kind;
use trawl_common::{bundle::BundleSpec, job::Precision};

/// Loads the bundle at `path` onto `device`, makes its graph faster if `graph_passes` says so and the answers stay
/// the same, runs it to see that rows in are rows out and that the labels fit, and once more so that the first
/// real pass is not the slow one. Blocking.
///
/// # Errors
/// [`ModelError`] in words that name the fix.
pub fn load(
    path: &Path,
    spec: &BundleSpec,
    device: Device,
    precision: Precision,
    graph_passes: GraphPasses,
) -> Result<Network, ModelError> {
    let passes = (graph_passes == GraphPasses::On).then_some(Passes::ALL);
    load_with(path, spec, device, precision, passes)
}

/// [`load`] with a choice of passes.
pub(super) fn load_with(
    path: &Path,
    spec: &BundleSpec,
    device: Device,
    precision: Precision,
    passes: Option<Passes>,
) -> Result<Network, ModelError> {
    let kind = match (precision, device) {
        (Precision::Fp32, _) => Kind::Float,
        (Precision::Fp16, Device::Cuda(_)) => Kind::Half,
        (Precision::Bf16, Device::Cuda(_)) => Kind::BFloat16,
        (Precision::Fp16 | Precision::Bf16, Device::Cpu) => {
            return Err(ModelError::Device(
                "half precision needs a cuda device: use --precision fp32 on cpu".into(),
            ));
        }
    };
    // A CPU gains nothing from graphs that are specialised to shapes, and with each new size of a micro-batch one
    // may be compiled in the middle of a run; CUDA fuses its small operations there.
    shim::set_specialising(device != Device::Cpu);
    let device = match device {
        Device::Cpu => tch::Device::Cpu,
        Device::Cuda(n) => tch::Device::Cuda(n),
    };
    let plain = Module::load(path, device).map_err(|words| {
        ModelError::Unusable(format!(
            "`{}` does not load as TorchScript: {}",
            path.display(),
            first_line(&words)
        ))
    })?;
    let input = Input::new(&spec.input, device);
    let module = match passes {
        Some(passes) => faster(plain, &input, passes, kind)?,
        None => converted(plain, device, kind)?,
    };
    Network::ready(module, input.with_kind(kind), spec)
}

/// The module after its passes, or as it came if they fail or change its answers; in the precision `kind`.
fn faster(plain: Module, input: &Input, passes: Passes, kind: Kind) -> Result<Module, ModelError> {
    let began = Instant::now();
    let outcome = passes::optimise(&plain, input, passes).and_then(|(module, counts)| {
        tracing::info!(
            folded = counts.folded,
            padding = counts.padded,
            in_place = counts.in_place,
            duration_ms = began.elapsed().as_millis() as u64,
            "graph passes applied: the answers are the same"
        );
        if kind == Kind::Float {
            return Ok(module);
        }
        // Compared in single precision, since a frozen module's constants are converted by this copy alone.
        drop(module);
        passes::convert(&plain, input, kind)
    });
    match outcome {
        Ok(module) => Ok(module),
        Err(reason) => {
            tracing::warn!(
                reason = first_line(&reason),
                "the graph passes cannot be used with this model; it runs as it was exported, which is slower \
                 (--graph-passes off leaves this message out)"
            );
            converted(plain, input.device(), kind)
        }
    }
}

fn converted(mut module: Module, device: tch::Device, kind: Kind) -> Result<Module, ModelError> {
    if kind != Kind::Float {
        module.convert(device, kind).map_err(|words| ModelError::Unusable(first_line(&words)))?;
    }
    Ok(module)
}
