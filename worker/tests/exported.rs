//! One network in both formats, TorchScript and `torch.export`: the same rows, whatever the engine.
//!
//! `golden/make_modules.py` made the pair. Also what a user meets: a bundle is known by what is in it and not by its
//! name, and what cannot be done with the one format says so.

use std::path::{Path, PathBuf};
use trawl_common::{
    bundle::{BundleError, BundleFormat, BundleSpec},
    job::Precision,
};
use trawl_worker::model::{self, Device, GraphPasses, Model, ModelError, Outputs, network};

/// The largest difference of a logit; the engines run the same kernels, but batch norm is folded in one of them.
const TOLERANCE: f32 = 1e-5;

const PIXELS: usize = 12 * 12;

fn bundle(suffix: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/modules").join(format!("parity.{suffix}"))
}

fn load(path: &Path) -> Result<network::Network, ModelError> {
    let spec = BundleSpec::read(path).unwrap();
    model::load(path, &spec, Device::Cpu, Precision::Fp32, GraphPasses::On, None)
}

fn images() -> Vec<Vec<u8>> {
    (1..=7_u8).map(|n| (0..PIXELS * 3).map(|i| (i as u8).wrapping_mul(n * 29)).collect()).collect()
}

fn assert_same(a: &Outputs, b: &Outputs) {
    assert_eq!(a.tensors.len(), b.tensors.len());
    let (a, b) = (&a.tensors[0], &b.tensors[0]);
    assert_eq!(a.shape, b.shape);
    for (a, b) in a.values.iter().zip(&b.values) {
        assert!((a - b).abs() <= TOLERANCE, "{a} and {b}");
    }
}

#[test]
fn both_formats_give_the_same_rows() {
    network::prepare_process();
    let (script, exported) = (load(&bundle("pt")).unwrap(), load(&bundle("pt2")).unwrap());
    assert_eq!(BundleSpec::read(&bundle("pt")).unwrap(), BundleSpec::read(&bundle("pt2")).unwrap());
    assert_eq!((script.width(), exported.width()), (5, 5));
    let images = images();
    let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    for batch in 1..=images.len() {
        let (a, b) = (script.forward(&images[..batch]).unwrap(), exported.forward(&images[..batch]).unwrap());
        assert_eq!(a.rows().len(), batch);
        assert_same(&a, &b);
    }
}

#[test]
fn threads_share_an_exported_model() {
    // More than the eight frames that nativert keeps at most.
    const THREADS: usize = 12;
    let exported = load(&bundle("pt2")).unwrap();
    let images = images();
    let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let alone: Vec<Outputs> = images.iter().map(|image| exported.forward(&[image]).unwrap()).collect();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (exported, images, alone) = (&exported, &images, &alone);
            scope.spawn(move || {
                for round in 0..50 {
                    let which = (thread + round) % images.len();
                    assert_same(&exported.forward(&[images[which]]).unwrap(), &alone[which]);
                }
            });
        }
    });
}

#[test]
fn the_format_is_known_by_the_content() {
    assert_eq!(BundleFormat::of(&bundle("pt")).unwrap(), BundleFormat::TorchScript);
    assert_eq!(BundleFormat::of(&bundle("pt2")).unwrap(), BundleFormat::Exported);
    // As in the cache, where every bundle is DIGEST.pt.
    let folder = tempfile::tempdir().unwrap();
    let renamed = folder.path().join("0123abcd.pt");
    std::fs::copy(bundle("pt2"), &renamed).unwrap();
    assert_eq!(load(&renamed).unwrap().width(), 5);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/make_modules.py");
    assert!(matches!(BundleFormat::of(&script), Err(BundleError::NotTorchScript { .. })));
}

#[test]
fn what_an_exported_model_cannot_do_is_said() {
    let spec = BundleSpec::read(&bundle("pt2")).unwrap();
    let try_on = |device, precision| {
        model::load(&bundle("pt2"), &spec, device, precision, GraphPasses::On, None)
            .err()
            .map(|e| e.to_string())
    };
    let cuda = try_on(Device::Cuda(0), Precision::Fp32).unwrap();
    assert!(cuda.contains("--device cpu") && cuda.contains("--format pt"), "{cuda}");
    let half = try_on(Device::Cpu, Precision::Fp16).unwrap();
    assert!(half.contains("--precision fp32"), "{half}");
    // Its graph spoilt and its directory whole: words, and no crash.
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.pt2");
    let mut bytes = std::fs::read(bundle("pt2")).unwrap();
    let graph = br#"{"graph_module": "#;
    let at =
        bytes.windows(graph.len()).position(|window| window == graph).expect("the graph is stored as it is");
    bytes[at..at + graph.len()].fill(b'?');
    std::fs::write(&broken, bytes).unwrap();
    let words = load(&broken).err().unwrap().to_string();
    assert!(words.contains("torch.export") && words.contains("export.py"), "{words}");
}
