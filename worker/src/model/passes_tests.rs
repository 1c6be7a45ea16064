//! The graph passes on small networks: that they are applied where they may be, that the answers stay, and that a pass
//! which changes them is found out.
//!
//! Networks that tch can trace are made here; those that need Python's compiler (loops, state) are small files
//! beside the golden images, with the script that made them.

use super::{
    GraphPasses, Model, Outputs,
    input::Input,
    network::{Network, wanted},
    passes,
    shim::{Counts, Module, Passes},
    torchscript,
    verdicts::Verdicts,
    write,
};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use trawl_common::{
    bundle::{BundleSpec, Centre, Head, HeadSpec, InputSpec, Interpolation, ResizeMode},
    job::Precision,
};

const SIDE: u32 = 32;
pub(super) const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

pub(super) fn spec() -> BundleSpec {
    BundleSpec {
        version: 1,
        name: "small".into(),
        heads: vec![HeadSpec::only(Head::Raw, Vec::new())],
        input: InputSpec {
            crop: [SIDE, SIDE],
            resize: None,
            resize_mode: ResizeMode::Squash,
            interpolation: Interpolation::Bilinear,
            fill: None,
            centre: Centre::default(),
            mean: [0.5; 3],
            std: [0.25; 3],
        },
    }
}

fn input() -> Input {
    Input::new(&spec().input, Device::Cpu).unwrap()
}

/// Random weights of a convolution.
pub(super) fn kernel(output: i64, input: i64, side: i64) -> Tensor {
    Tensor::randn([output, input, side, side], CPU) * (2.0 / (input * side * side) as f64).sqrt()
}

/// A network as a bundle in a folder that goes with the test.
pub(super) fn bundle(forward: impl Fn(&Tensor) -> Tensor) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.pt");
    let module = write::trace("Small", [SIDE, SIDE], forward).unwrap();
    write::write_bundle(&module, &spec(), &path).unwrap();
    (folder, path)
}

/// What the passes do to the module at `path`, after their check.
pub(super) fn optimise(path: &Path, passes: Passes) -> Result<Counts, String> {
    let plain = Module::load(path, Device::Cpu)?;
    let (fast, counts) = passes::optimise(&plain, &input(), passes)?;
    passes::same_answers(&plain, &fast, &input(), &wanted(&spec()).unwrap()).map(|()| counts)
}

/// What they do without those of oneDNN, which leave less to the others; with them the answers stay too.
fn optimised(forward: impl Fn(&Tensor) -> Tensor) -> Counts {
    let (_folder, path) = bundle(forward);
    optimise(&path, Passes::ALL).unwrap();
    optimise(&path, Passes::WITHOUT_ONEDNN).unwrap()
}

fn counts(folded: u32, padded: u32, in_place: u32) -> Counts {
    Counts { folded, padded, in_place, fused: 0 }
}

pub(super) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/modules").join(name)
}

/// Answers for images that the check does not use.
pub(super) fn answers(model: &Network) -> Vec<Outputs> {
    let images: Vec<Vec<u8>> =
        (1..=3_u8).map(|n| (0..SIDE * SIDE * 3).map(|i| (i as u8).wrapping_mul(n * 37)).collect()).collect();
    let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    (1..=3).map(|n| model.forward(&images[..n]).unwrap()).collect()
}

pub(super) fn close(a: &[Outputs], b: &[Outputs]) -> bool {
    a.iter().zip(b).all(|(a, b)| {
        let (a, b) = (&a.tensors[0], &b.tensors[0]);
        a.width == b.width
            && a.values.iter().zip(&b.values).all(|(a, b)| (a - b).abs() <= 1e-4 * a.abs().max(1.0))
    })
}

#[test]
fn batch_norm_is_folded_and_activations_and_sums_are_in_place() {
    let (w1, w2) = (kernel(8, 3, 3), kernel(8, 8, 3));
    let norms: Vec<[Tensor; 4]> = (0..2)
        .map(|_| [0, 1, 2, 3].map(|i| Tensor::rand([8], CPU) + if i == 0 { -0.5 } else { 0.5 }))
        .collect();
    let norm = |x: &Tensor, [bias, weight, mean, variance]: &[Tensor; 4]| {
        x.batch_norm(Some(weight), Some(bias), Some(mean), Some(variance), false, 0.1, 1e-5, false)
    };
    let counts = optimised(|x| {
        let x = norm(&x.conv2d(&w1, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1), &norms[0]).relu();
        let y = norm(&x.conv2d(&w2, None::<&Tensor>, [1, 1], [1, 1], [1, 1], 1), &norms[1]);
        (y + &x).relu().mean_dim([2, 3].as_slice(), false, Kind::Float)
    });
    assert_eq!(counts, self::counts(2, 0, 3));
}

#[test]
fn padding_goes_into_the_convolutions() {
    let (w, depthwise, wide) = (kernel(8, 3, 3), kernel(8, 1, 3), kernel(8, 8, 3));
    let conv = |x: &Tensor, w: &Tensor, stride: i64, groups: i64| {
        x.conv2d(w, None::<&Tensor>, [stride; 2], [0, 0], [1, 1], groups)
    };
    // Symmetric; asymmetric below and above, of a stem and of a depthwise layer.
    for sides in [[1, 1, 1, 1], [2, 2, 1, 1], [0, 1, 0, 1], [1, 0, 1, 0], [1, 0, 1, 1], [0, 0, 1, 0]] {
        for stride in [1, 2] {
            let stem = |x: &Tensor| conv(&x.constant_pad_nd(sides), &w, stride, 1);
            assert_eq!(optimised(stem), counts(0, 1, 0), "{sides:?} stride {stride}");
            let inner = |x: &Tensor| conv(&stem(x).constant_pad_nd(sides), &depthwise, stride, 8);
            assert_eq!(optimised(inner), counts(0, 2, 0), "{sides:?} stride {stride}");
        }
    }
    // A larger kernel over many channels would cost more than the padding does; so would two more rows.
    let stem = |x: &Tensor| conv(x, &w, 1, 1);
    assert_eq!(optimised(|x| conv(&stem(x).constant_pad_nd([0, 1, 0, 1]), &wide, 2, 1)), counts(0, 0, 0));
    assert_eq!(optimised(|x| conv(&stem(x).constant_pad_nd([1, 1, 1, 1]), &wide, 2, 1)), counts(0, 1, 0));
    assert_eq!(optimised(|x| conv(&x.constant_pad_nd([0, 2, 0, 2]), &w, 1, 1)), counts(0, 0, 0));
    // Ones are no zeros; a padded image that something else looks at stays; cutting off is no padding.
    let one = |x: &Tensor| x.pad([1, 1, 1, 1], "constant", 1.0);
    assert_eq!(optimised(|x| conv(&one(x), &w, 1, 1)), counts(0, 0, 0));
    let twice = |x: &Tensor| {
        let padded = x.constant_pad_nd([1, 1, 1, 1]);
        conv(&padded, &w, 1, 1).flatten(1, -1).sum_dim_intlist([1].as_slice(), true, Kind::Float)
            + padded.flatten(1, -1)
    };
    assert_eq!(optimised(twice).padded, 0);
    // What was padded is overwritten before the convolution would read it.
    let overwritten = |x: &Tensor| {
        let mut half = x * 0.5;
        let padded = half.constant_pad_nd([1, 1, 1, 1]);
        let half = half.relu_();
        conv(&padded, &w, 1, 1).amax([2, 3].as_slice(), true) + half.amax([1, 2, 3].as_slice(), true)
    };
    assert_eq!(optimised(overwritten).padded, 0);
    assert_eq!(optimised(|x| conv(&x.constant_pad_nd([-1, 1, 1, 1]), &w, 1, 1)), counts(0, 0, 0));
}

#[test]
fn what_others_see_is_not_overwritten() {
    let w = kernel(8, 3, 3);
    let conv = |x: &Tensor| x.conv2d(&w, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1);
    // Looked at again behind the activation: relu must allocate; the sum may overwrite, as the last reader.
    let again = |x: &Tensor| {
        let y = conv(x);
        y.relu() + y
    };
    assert_eq!(optimised(again), counts(0, 0, 1));
    // A view of it is looked at behind.
    let view = |x: &Tensor| {
        let y = conv(x);
        let view = y.transpose(2, 3);
        y.silu() + view
    };
    assert_eq!(optimised(view), counts(0, 0, 1));
    // The model's input is the caller's memory, and so is a view of it.
    assert_eq!(optimised(Tensor::relu), counts(0, 0, 0));
    assert_eq!(optimised(|x| x.flatten(1, -1).sigmoid()), counts(0, 0, 0));
    // A constant would change from pass to pass.
    let constant = Tensor::randn([1, 8, 1, 1], CPU);
    assert_eq!(optimised(|x| &constant + conv(x).amax([2, 3].as_slice(), true)).in_place, 0);
    // Overwritten by the network itself: what it gives is the same memory, and nobody else's.
    assert_eq!(optimised(|x| conv(x).relu_().silu()), counts(0, 0, 1));
    // A smaller operand has no room for the sum.
    let smaller = |x: &Tensor| conv(x).mean_dim([2, 3].as_slice(), true, Kind::Float) + conv(x);
    assert_eq!(optimised(smaller), counts(0, 0, 0));
    // Another type.
    assert_eq!(
        optimised(|x| conv(x).relu() * Tensor::ones([1, 1, 1, 1], (Kind::Double, Device::Cpu))).in_place,
        1
    );
}

#[test]
fn a_pass_that_changes_the_answers_is_found_out() {
    let (w, b) = (kernel(8, 3, 3), Tensor::randn([8], CPU));
    let (_folder, path) = bundle(|x| x.conv2d(&w, Some(&b), [1, 1], [0, 0], [1, 1], 1).relu());
    assert_eq!(optimise(&path, Passes::WITHOUT_ONEDNN), Ok(counts(0, 0, 1)));
    let reason = optimise(&path, Passes::WRONG).unwrap_err();
    assert!(reason.contains("is allowed"), "{reason}");
    // Then the plain one is used, and answers.
    let load = |passes| {
        torchscript::load_with(&path, &spec(), super::Device::Cpu, Precision::Fp32, passes, None).unwrap()
    };
    let (off, on, wrong) = (load(None), load(Some(Passes::ALL)), load(Some(Passes::WRONG)));
    assert_eq!(answers(&wrong), answers(&off));
    assert!(close(&answers(&on), &answers(&off)));
}

#[test]
fn a_verdict_spares_the_comparison_and_is_of_one_bundle_on_one_device() {
    let (w, b) = (kernel(8, 3, 3), Tensor::randn([8], CPU));
    let (folder, path) = bundle(|x| x.conv2d(&w, Some(&b), [1, 1], [0, 0], [1, 1], 1).relu());
    let verdicts = Verdicts::of(folder.path());
    let load = |passes, sha256| {
        let verdict = verdicts.on(sha256, super::Device::Cpu);
        let (spec, fp32) = (spec(), Precision::Fp32);
        let network =
            torchscript::load_with(&path, &spec, super::Device::Cpu, fp32, Some(passes), Some(&verdict));
        (answers(&network.unwrap()), verdict.known())
    };
    let right = load(Passes::ALL, "a");
    assert_eq!(right.1, Some(true), "compared, and remembered");
    // Nothing looks any more: what would be found out is not.
    assert!(!close(&load(Passes::WRONG, "a").0, &right.0));
    assert_eq!(verdicts.on("a", super::Device::Cuda(0)).known(), None);
    // Another bundle is compared; what failed once is not tried again, and answers as it came.
    let wrong = load(Passes::WRONG, "b");
    assert_eq!(wrong.1, Some(false));
    assert!(close(&wrong.0, &right.0) && close(&load(Passes::WRONG, "b").0, &right.0));
}

/// Loops, branches, state, an input that is kept: see `make_modules.py`. Some of it is made faster, and none changed.
#[test]
fn modules_with_state_and_control_flow_answer_as_before() {
    for name in [
        "branches.pt",
        "loop.pt",
        "keeps_input.pt",
        "counts_calls.pt",
        "frozen.pt",
        "dropout.pt",
        "half_inside.pt",
    ] {
        let load = |passes| {
            torchscript::load(&golden(name), &spec(), super::Device::Cpu, Precision::Fp32, passes, None)
                .unwrap_or_else(|e| panic!("{name}: {e}"))
        };
        let (plain, fast) = (answers(&load(GraphPasses::Off)), answers(&load(GraphPasses::On)));
        assert!(close(&plain, &fast), "{name}: {plain:?} {fast:?}");
    }
    assert_eq!(optimise(&golden("frozen.pt"), Passes::WITHOUT_ONEDNN), Ok(counts(0, 0, 2)));
    assert_eq!(optimise(&golden("dropout.pt"), Passes::WITHOUT_ONEDNN), Ok(counts(3, 0, 1)));
    // A product in a loop runs more than once; what it works on is made once.
    assert_eq!(optimise(&golden("loop.pt"), Passes::WITHOUT_ONEDNN), Ok(counts(0, 0, 0)));
    assert_eq!(optimise(&golden("half_inside.pt"), Passes::WITHOUT_ONEDNN), Ok(counts(0, 0, 0)));
}

#[test]
fn half_precision_reaches_frozen_weights() {
    let w = kernel(8, 3, 3);
    let (_folder, path) = bundle(|x| x.conv2d(&w, None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1).relu());
    let plain = Module::load(&path, Device::Cpu).unwrap();
    let half = passes::convert(&plain, &input(), Kind::BFloat16).unwrap();
    let x = Tensor::randn([2, 3, SIDE.into(), SIDE.into()], CPU);
    let wanted = wanted(&spec()).unwrap();
    let run = |module: &Module, x: &Tensor| module.forward(x, &wanted).unwrap().remove(0);
    let (full, half) = (run(&plain, &x), run(&half, &x.to_kind(Kind::BFloat16)));
    assert_eq!(half.kind(), Kind::BFloat16);
    // Eight bits of mantissa.
    assert!((full - half.to_kind(Kind::Float)).abs().max().double_value(&[]) < 0.1);
}

#[test]
fn libtorchs_errors_come_back_in_words() {
    let missing = Module::load(Path::new("/nonexistent.pt"), Device::Cpu).err().unwrap();
    assert!(missing.contains("nonexistent"), "{missing}");
    let (_folder, path) = bundle(|x| x.conv2d(&kernel(8, 3, 3), None::<&Tensor>, [1, 1], [0, 0], [1, 1], 1));
    let module = Module::load(&path, Device::Cpu).unwrap();
    let words = module.forward(&Tensor::zeros([1, 4, 8, 8], CPU), &wanted(&spec()).unwrap()).err().unwrap();
    assert!(words.contains("channels"), "{words}");
}
