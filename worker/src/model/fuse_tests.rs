//! Convolutions of oneDNN: what becomes part of them, what must not, and that networks of all kinds answer as before.

use super::{
    GraphPasses,
    passes_tests::{CPU, answers, bundle, close, golden, kernel, optimise, spec},
    shim::{Counts, Passes},
    torchscript,
};
use std::path::Path;
use tch::{Kind, Tensor};
use trawl_common::job::Precision;

type Layer = (&'static str, Box<dyn Fn(&Tensor) -> Tensor>);
/// From the layer before it and from one further back.
type Joint<'a> = Box<dyn Fn(&Tensor, &Tensor) -> Tensor + 'a>;

/// What all passes do to a network, after their check.
fn optimised(forward: impl Fn(&Tensor) -> Tensor) -> Counts {
    let (_folder, path) = bundle(forward);
    let counts = optimise(&path, Passes::ALL).unwrap();
    answers_as_before(&path, "");
    counts
}

/// For one, two and three images, where the check had others.
fn answers_as_before(path: &Path, what: &str) {
    let load = |passes| {
        let cpu = super::Device::Cpu;
        answers(&torchscript::load(path, &spec(), cpu, Precision::Fp32, passes, None).unwrap())
    };
    let (plain, fast) = (load(GraphPasses::Off), load(GraphPasses::On));
    assert!(close(&plain, &fast), "{what}: {plain:?} {fast:?}");
}

fn fused(convolutions: u32, in_place: u32) -> Counts {
    Counts { folded: 0, padded: 0, in_place, fused: convolutions }
}

fn conv(x: &Tensor, w: &Tensor) -> Tensor {
    let padding = w.size()[2] / 2;
    x.conv2d(w, None::<&Tensor>, [1, 1], [padding; 2], [1, 1], x.size()[1] / w.size()[1])
}

fn layer(name: &'static str, run: impl Fn(&Tensor) -> Tensor + 'static) -> Layer {
    (name, Box::new(run))
}

/// What oneDNN can do behind a convolution.
fn activations() -> Vec<Layer> {
    vec![
        layer("relu", Tensor::relu),
        layer("relu_", |x| x.shallow_clone().relu_()),
        layer("relu6", Tensor::relu6),
        layer("hardtanh", Tensor::hardtanh),
        layer("clamp", |x| x.clamp(-0.25, 0.5)),
        layer("sigmoid", Tensor::sigmoid),
        layer("tanh", Tensor::tanh),
        layer("silu", Tensor::silu),
        layer("hardswish", Tensor::hardswish),
        layer("hardsigmoid", Tensor::hardsigmoid),
        layer("leaky_relu", Tensor::leaky_relu),
        layer("gelu", |x| x.gelu("none")),
        layer("gelu by tanh", |x| x.gelu("tanh")),
    ]
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "oneDNN is used so on x86-64 only")]
fn activations_become_part_of_the_convolution() {
    let w = kernel(8, 3, 3);
    for (name, activation) in activations() {
        // Nothing is left that could overwrite its operand.
        assert_eq!(optimised(|x| activation(&conv(x, &w))), fused(1, 0), "{name}");
    }
    // These it has not, or they are not what they seem; each is left, over the convolution's result.
    let others = [
        layer("elu", Tensor::elu),
        layer("clamp, the wrong way round", |x| x.clamp(0.5, -0.25)),
        layer("clamp_min", |x| x.clamp_min(0.1)),
        layer("mish", Tensor::mish),
    ];
    for (name, other) in others {
        assert_eq!(optimised(|x| other(&conv(x, &w))), fused(1, 1), "{name}");
    }
    // Somebody else looks at the result without it.
    let again = |x: &Tensor| {
        let y = conv(x, &w);
        y.amax([2, 3].as_slice(), true) + y.relu()
    };
    assert_eq!(optimised(again).fused, 1);
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "oneDNN is used so on x86-64 only")]
fn sums_become_part_of_the_convolution() {
    let (w, other, inner, grouped) = (kernel(8, 3, 3), kernel(8, 3, 1), kernel(8, 8, 3), kernel(8, 1, 3));
    let stem = |x: &Tensor| conv(x, &w).relu();
    let branch = |x: &Tensor| conv(&conv(x, &inner).relu(), &inner);
    // The residual is nobody else's, so the sum is made in its place; either way round, and with a relu behind.
    for order in [true, false] {
        let residual = |x: &Tensor| {
            let x = stem(x);
            let y = branch(&x);
            if order { y + x } else { x + y }
        };
        assert_eq!(optimised(residual), fused(3, 1), "{order}");
        assert_eq!(optimised(|x| residual(x).relu()), fused(3, 1), "{order}");
        // Another activation behind it is left.
        assert_eq!(optimised(|x| residual(x).silu()), fused(3, 2), "{order}");
    }
    // Looked at again, or convolved itself: the sum has memory of its own.
    let again = |x: &Tensor| {
        let x = stem(x);
        (branch(&x) + &x) * x.amax([2, 3].as_slice(), true)
    };
    assert_eq!(optimised(again), fused(3, 1), "the product overwrites, the sum does not");
    let itself = |x: &Tensor| {
        let x = stem(x);
        conv(&x, &inner) + x
    };
    assert_eq!(optimised(itself), fused(2, 0));
    // The later of two makes it.
    assert_eq!(optimised(|x| conv(x, &other) + conv(&stem(x), &inner)), fused(3, 1));
    // What is added is the model's input, or what is convolved.
    let same = kernel(3, 3, 3);
    assert_eq!(optimised(|x| conv(x, &same) + x), fused(1, 0));
    // Other shapes, a factor, groups, the same twice: left as they are, over the convolution's result where that fits.
    let smaller = |x: &Tensor| conv(x, &other) + stem(x).amax([2, 3].as_slice(), true);
    assert_eq!(optimised(smaller), fused(2, 1));
    let larger = |x: &Tensor| {
        let x = stem(x);
        conv(&x.amax([2, 3].as_slice(), true), &inner) + x
    };
    assert_eq!(optimised(larger), fused(2, 0));
    assert_eq!(
        optimised(|x| conv(x, &other) + stem(x) * 2.0),
        fused(2, 2),
        "the product overwrites, and the sum the product"
    );
    let groups = |x: &Tensor| {
        let x = stem(x);
        conv(&x, &grouped) + x
    };
    assert_eq!(optimised(groups), fused(2, 1));
    let doubled = |x: &Tensor| {
        let y = conv(x, &w);
        &y + &y
    };
    assert_eq!(optimised(doubled), fused(1, 0));
}

#[test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "oneDNN is used so on x86-64 only")]
fn what_is_overwritten_meanwhile_is_read_before() {
    let (w, inner) = (kernel(8, 3, 3), kernel(8, 8, 3));
    // The convolution's input is overwritten before its result is summed with it.
    let counts = optimised(|x| {
        let x = conv(x, &w).relu();
        let y = conv(&x, &inner);
        let changed = x.shallow_clone().g_add_scalar_(1.0);
        y + changed
    });
    assert_eq!(counts.fused, 2);
}

/// See `make_modules.py`: oneDNN's operation would take it for something else.
#[test]
fn a_convolution_without_a_batch_costs_these_passes_only() {
    let path = golden("unbatched.pt");
    let counts = optimise(&path, Passes::ALL).unwrap();
    assert_eq!((counts.fused, counts.in_place > 0), (0, true));
    answers_as_before(&path, "unbatched");
}

/// Numerical Recipes' generator of 32 bits; the upper ones are the good ones.
struct Dice(u32);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 16) as usize % n
    }
}

/// Layers in any order: kernels, strides, groups and padding of all kinds, activations, sums with what was before.
#[test]
fn networks_thrown_together_answer_as_before() {
    const NETWORKS: u32 = 60;
    const LAYERS: usize = 9;
    let activations = activations();
    for seed in 0..NETWORKS {
        tch::manual_seed(seed.into());
        let mut dice = Dice(seed);
        let channels = [8, 16, 24][dice.below(3)];
        let stem = kernel(channels, 3, 3);
        // Made before the network runs, since tracing runs it once only.
        let mut layers: Vec<Joint> = Vec::new();
        for _ in 0..LAYERS {
            let (side, groups) = ([1, 3, 5][dice.below(3)], [1, 1, channels, channels / 4][dice.below(4)]);
            let w = kernel(channels, channels / groups, side);
            let b =
                [None, Some(Tensor::randn([channels], CPU) * 0.1)][dice.below(2)].as_ref().map(Tensor::copy);
            let activation = dice.below(activations.len());
            let activation = &activations[activation].1;
            layers.push(match dice.below(6) {
                0 | 1 => {
                    Box::new(move |x, _| x.conv2d(&w, b.as_ref(), [1, 1], [side / 2; 2], [1, 1], groups))
                }
                2 => Box::new(move |x, _| {
                    let shortcut = x.conv2d(&w, b.as_ref(), [1, 1], [side / 2; 2], [1, 1], groups);
                    activation(&shortcut)
                }),
                3 => Box::new(move |x, _| activation(x)),
                4 => Box::new(|x, before| x + before),
                _ => Box::new(|x, before| (before + x).relu()),
            });
        }
        let (_folder, path) = bundle(|x| {
            let mut x = conv(x, &stem);
            let mut before = x.shallow_clone();
            for (n, layer) in layers.iter().enumerate() {
                let next = layer(&x, &before);
                if n % 3 == 0 {
                    before = x;
                }
                x = next;
            }
            x.mean_dim([2, 3].as_slice(), false, Kind::Float)
        });
        answers_as_before(&path, &format!("network {seed}"));
    }
}
