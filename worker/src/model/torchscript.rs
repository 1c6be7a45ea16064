//! TorchScript bundles: loaded, made faster, and given to [`Network`] to run.
//!
//! Once per model and device, when its first batch comes. Must leave a module that cannot be made faster as it came.

use super::{
    Device, GraphPasses, ModelError,
    input::Input,
    network::{Network, first_line},
    passes,
    shim::{self, Module, Passes, Wanted},
    verdicts::Verdict,
};
use std::{path::Path, time::Instant};
use tch::Kind;
use trawl_common::{bundle::BundleSpec, job::Precision};

/// Loads the bundle at `path` onto `device`, makes its graph faster if `graph_passes` says so and the answers stay
/// the same, runs it to see that rows in are rows out and that the labels fit, and once more so that the first
/// real pass is not the slow one. A `verdict` of an earlier comparison takes the place of another. Blocking.
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
) -> Result<Network, ModelError> {
    let passes = (graph_passes == GraphPasses::On).then_some(Passes::ALL);
    load_with(path, spec, device, precision, passes, verdict)
}

/// [`load`] with a choice of passes.
pub(super) fn load_with(
    path: &Path,
    spec: &BundleSpec,
    device: Device,
    precision: Precision,
    passes: Option<Passes>,
    verdict: Option<&Verdict>,
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
    let input = Input::new(&spec.input, device)?;
    let module = match passes {
        Some(passes) => faster(plain, &input, &super::network::wanted(spec)?, passes, kind, verdict)?,
        None => converted(plain, device, kind)?,
    };
    Network::ready(module, input.with_kind(kind), spec)
}

/// The module after its passes, or as it came if they fail or change its answers; in the precision `kind`.
fn faster(
    plain: Module,
    input: &Input,
    wanted: &Wanted,
    passes: Passes,
    kind: Kind,
    verdict: Option<&Verdict>,
) -> Result<Module, ModelError> {
    let known = verdict.and_then(Verdict::known);
    if known == Some(false) {
        tracing::info!(
            "the graph passes changed this model's answers when it was tried; it runs as it was exported"
        );
        return converted(plain, input.device(), kind);
    }
    match compared(&plain, input, wanted, passes, known.is_some()) {
        Ok(None) if kind == Kind::Float => Ok(plain),
        Ok(module) => {
            if let Some(verdict) = verdict.filter(|_| known.is_none()) {
                verdict.keep(true);
            }
            if let Some(module) = module.filter(|_| kind == Kind::Float) {
                return Ok(module);
            }
            // Compared in single precision, since half differs from it by more than any pass does; converted in a copy
            // of its own, since a frozen module's constants are converted by that alone.
            passes::convert(&plain, input, kind).map_err(|words| ModelError::Unusable(first_line(&words)))
        }
        Err(reason) => {
            if let Some(verdict) = verdict {
                verdict.keep(false);
            }
            tracing::warn!(
                reason = first_line(&reason),
                "the graph passes cannot be used with this model; it runs as it was exported, which is slower \
                 (--graph-passes off leaves this message out)"
            );
            converted(plain, input.device(), kind)
        }
    }
}

/// The module after its passes, compared with the one that came unless that was `done_before`; `None` if they found
/// nothing to change.
fn compared(
    plain: &Module,
    input: &Input,
    wanted: &Wanted,
    passes: Passes,
    done_before: bool,
) -> Result<Option<Module>, String> {
    let began = Instant::now();
    let (module, counts) = passes::optimise(plain, input, passes)?;
    if counts.is_nothing() {
        return Ok(None);
    }
    if !done_before {
        passes::same_answers(plain, &module, input, wanted)?;
    }
    tracing::info!(
        folded = counts.folded,
        padding = counts.padded,
        fused = counts.fused,
        in_place = counts.in_place,
        duration_ms = began.elapsed().as_millis() as u64,
        "graph passes applied: the answers are the same{}",
        if done_before { ", as was seen before" } else { "" }
    );
    Ok(Some(module))
}

fn converted(mut module: Module, device: tch::Device, kind: Kind) -> Result<Module, ModelError> {
    if kind != Kind::Float {
        module.convert(device, kind).map_err(|words| ModelError::Unusable(first_line(&words)))?;
    }
    Ok(module)
}
