//! Traces a network into a model bundle: one TorchScript file that carries its own `trawl.json`.
//!
//! For the examples that make models without Python; `models/export.py` is the same for Python's. A batch never
//! comes here. What is written must be readable by [`BundleSpec::read`], by libtorch and by `torch.jit.load`, and it
//! must never be half there under its final name.

use std::path::{Path, PathBuf};
use tch::{CModule, Device, Kind, TchError, Tensor};
use trawl_common::bundle::{BundleError, BundleSpec, add_description};

/// Images in the input that a network is traced with. Not 1: a batch of one hides what depends on the batch's size.
const TRACE_BATCH: i64 = 2;

/// A bundle that was not written, or is not what was traced.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// libtorch refused to trace, save, load or run.
    #[error("libtorch: {0}")]
    Torch(#[from] TchError),
    /// The description would be refused by every reader, or the saved file is not the archive that it should be.
    #[error(transparent)]
    Description(#[from] BundleError),
    /// The folder or the file system.
    #[error("the model `{path}` cannot be written: {source}; choose a folder that exists and has room")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file computes something else than the network that it was traced from.
    #[error(
        "the traced model differs from its network by {difference:e} at batch {batch}, {tolerance:e} is allowed: something in \
         its forward pass was fixed by the tracing"
    )]
    Differs {
        /// Images in the batch.
        batch: i64,
        /// The largest absolute difference of two outputs; infinite when their shapes differ.
        difference: f64,
        /// What was allowed.
        tolerance: f64,
    },
}

/// Traces `forward`, which takes `float32 [N, 3, height, width]`, in evaluation mode.
///
/// Integers that Rust computes from the input's shape become constants of the trace, and tensors that `forward` makes
/// out of a slice become uninitialised memory: make those before. [`check_bundle`] finds both. The weights must not
/// require gradients.
///
/// # Errors
/// [`WriteError::Torch`].
pub fn trace(
    name: &str,
    [height, width]: [u32; 2],
    forward: impl Fn(&Tensor) -> Tensor,
) -> Result<CModule, WriteError> {
    let _no_grad = tch::no_grad_guard();
    let input = Tensor::zeros([TRACE_BATCH, 3, height.into(), width.into()], (Kind::Float, Device::Cpu));
    let mut closure = |inputs: &[Tensor]| vec![forward(&inputs[0])];
    let mut module = CModule::create_by_tracing(name, "forward", &[input], &mut closure)?;
    module.set_eval();
    Ok(module)
}

/// Writes `module` with `spec` inside to `path`, replacing what is there, in one rename.
///
/// The same module and description give the same bytes under the same file name.
///
/// # Errors
/// [`WriteError`]; what was at `path` is untouched then and nothing is left beside it. Blocking.
pub fn write_bundle(module: &CModule, spec: &BundleSpec, path: &Path) -> Result<(), WriteError> {
    write_then(module, spec, path, |_| Ok(()))
}

/// Traces `forward`, writes it with `spec` inside to `path` and compares the file with `forward` first, for each size of
/// `batches`. See [`trace`], [`write_bundle`] and [`check_bundle`].
///
/// # Errors
/// [`WriteError`]; a file that differs never gets the name `path`. Blocking.
pub fn write_checked(
    name: &str,
    spec: &BundleSpec,
    path: &Path,
    batches: &[i64],
    tolerance: f64,
    forward: impl Fn(&Tensor) -> Tensor,
) -> Result<(), WriteError> {
    let module = trace(name, spec.input.crop, &forward)?;
    write_then(&module, spec, path, |made| check_bundle(made, spec.input.crop, batches, tolerance, &forward))
}

fn write_then(
    module: &CModule,
    spec: &BundleSpec,
    path: &Path,
    check: impl FnOnce(&Path) -> Result<(), WriteError>,
) -> Result<(), WriteError> {
    let io = |source| WriteError::Io { path: path.into(), source };
    let name = path.file_name().ok_or_else(|| io(std::io::ErrorKind::InvalidFilename.into()))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A folder of its own, since the archive's inner root is the name that it is saved under.
    let work = tempfile::TempDir::with_prefix_in(".bundle-", folder).map_err(io)?;
    let made = work.path().join(name);
    module.save(&made)?;
    add_description(&made, spec)?;
    check(&made)?;
    std::fs::rename(&made, path).map_err(io)
}

/// Loads the bundle at `path` and compares it with `forward` on random input, for each size of `batches`.
///
/// # Errors
/// [`WriteError::Differs`] beyond `tolerance`, and [`WriteError::Torch`]. Blocking, and as slow as the network.
pub fn check_bundle(
    path: &Path,
    [height, width]: [u32; 2],
    batches: &[i64],
    tolerance: f64,
    forward: impl Fn(&Tensor) -> Tensor,
) -> Result<(), WriteError> {
    let _no_grad = tch::no_grad_guard();
    let mut module = CModule::load(path)?;
    module.set_eval();
    for &batch in batches {
        let input = Tensor::randn([batch, 3, height.into(), width.into()], (Kind::Float, Device::Cpu));
        let (loaded, eager) = (module.forward_ts(&[&input])?, forward(&input));
        let difference = if loaded.size() == eager.size() {
            (loaded - eager).abs().max().double_value(&[])
        } else {
            f64::INFINITY
        };
        // Not `>`: a difference that is no number is one too.
        if !matches!(
            difference.partial_cmp(&tolerance),
            Some(std::cmp::Ordering::Less | std::cmp::Ordering::Equal)
        ) {
            return Err(WriteError::Differs { batch, difference, tolerance });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_common::bundle::{Centre, Head, HeadSpec, InputSpec, Interpolation, ResizeMode};

    fn spec() -> BundleSpec {
        BundleSpec {
            version: 1,
            name: "sum".into(),
            heads: vec![HeadSpec::only(Head::Raw, vec!["né".into()])],
            input: InputSpec {
                crop: [4, 5],
                resize: None,
                resize_mode: ResizeMode::Squash,
                interpolation: Interpolation::Bilinear,
                fill: None,
                centre: Centre::default(),
                mean: [0.485, 0.456, 0.406],
                std: [0.229, 0.224, 0.225],
            },
        }
    }

    fn sums(x: &Tensor) -> Tensor {
        x.sum_dim_intlist([1, 2, 3].as_slice(), false, Kind::Float)
    }

    #[test]
    fn what_is_written_reads_back_and_computes_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sum.pt");
        let module = trace("Sum", [4, 5], sums).unwrap();
        write_bundle(&module, &spec(), &path).unwrap();
        assert_eq!(BundleSpec::read(&path).unwrap(), spec());
        check_bundle(&path, [4, 5], &[1, 3, 7], 1e-5, sums).unwrap();
        let first = std::fs::read(&path).unwrap();
        write_bundle(&module, &spec(), &path).unwrap();
        assert!(first == std::fs::read(&path).unwrap(), "the second writing gave other bytes");
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            1,
            "something was left beside the model"
        );
    }

    /// The archive's first entry is as long as its name; see [`open_archive`].
    #[test]
    fn a_bundle_may_have_a_name_of_any_length() {
        let folder = tempfile::tempdir().unwrap();
        let module = trace("Sum", [4, 5], sums).unwrap();
        for length in 1..=40 {
            let path = folder.path().join(format!("{}.pt", "m".repeat(length)));
            write_bundle(&module, &spec(), &path).unwrap_or_else(|e| panic!("{length}: {e}"));
            assert_eq!(BundleSpec::read(&path).unwrap(), spec(), "{length}");
        }
    }

    #[test]
    fn a_batch_size_fixed_by_the_tracing_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fixed.pt");
        // A shape that Rust reads is a constant of the trace.
        let fixed = |x: &Tensor| x.reshape([x.size()[0], -1]);
        let error = write_checked("Fixed", &spec(), &path, &[2, 4], 1e-5, fixed).unwrap_err();
        assert!(matches!(error, WriteError::Differs { batch: 4, .. }), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "a wrong file was left");
    }

    #[test]
    fn a_network_that_computes_something_else_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.pt");
        write_bundle(&trace("Other", [4, 5], sums).unwrap(), &spec(), &path).unwrap();
        let nan = check_bundle(&path, [4, 5], &[1], 1e-5, |x| sums(x) * f64::NAN).unwrap_err();
        assert!(matches!(nan, WriteError::Differs { .. }), "{nan}");
        let more = check_bundle(&path, [4, 5], &[1], 1e-5, |x| sums(x) + 1.0).unwrap_err();
        assert!(matches!(more, WriteError::Differs { .. }), "{more}");
    }

    #[test]
    fn an_unusable_description_or_folder_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let module = trace("Sum", [4, 5], sums).unwrap();
        let mut bad = spec();
        bad.input.std[1] = 0.0;
        let error = write_bundle(&module, &bad, &folder.path().join("a.pt")).unwrap_err();
        assert!(matches!(error, WriteError::Description(BundleError::BadSpec { .. })), "{error}");
        let error = write_bundle(&module, &spec(), &folder.path().join("no/a.pt")).unwrap_err();
        assert!(matches!(error, WriteError::Io { .. }), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
