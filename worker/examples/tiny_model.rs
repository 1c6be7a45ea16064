//! Makes a tiny model with random weights as a bundle: for tests and for runs where the model must cost nothing.
//!
//! `cargo run --example tiny_model -- OUT.pt`. The same options give the same answers: weights come from the seed.
//! Its labels mean nothing.

use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};
use trawl_common::bundle::{
    BUNDLE_VERSION, BundleSpec, Centre, Head, HeadSpec, InputSpec, Interpolation, ResizeMode, VectorType,
};
use trawl_worker::model::write;

const CPU: (Kind, Device) = (Kind::Float, Device::Cpu);

/// (input channels, output channels, stride) of the three convolutions of 3 x 3.
const LAYERS: [(i64, i64, i64); 3] = [(3, 8, 4), (8, 16, 4), (16, 16, 2)];

/// Channels behind the last convolution: the length of an embedding.
const FEATURES: i64 = 16;

/// Side of the matrices of `--work`: one product is 0.13 billion multiply-adds, about ten milliseconds of one core.
const WORK_SIDE: i64 = 512;

/// The file's answers may differ by so much from the network's: sums in another order.
const TOLERANCE: f64 = 1e-4;

/// Sizes that the trace was not made with.
const CHECKED_BATCHES: [i64; 2] = [1, 3];

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Makes a tiny model bundle with random weights.
#[derive(Parser)]
struct Options {
    /// The bundle to write.
    out: PathBuf,
    /// What the model gives: class logits (of one or of several at once), a vector of 16 (the second in half precision
    /// and of length 1), or a map of 16 channels.
    #[arg(long, value_enum, default_value_t = Output::Classification)]
    head: Output,
    /// Number of classes.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    classes: i64,
    /// Height and width of the input, in pixels.
    #[arg(long, default_value_t = 224, value_parser = clap::value_parser!(u32).range(32..=2048))]
    side: u32,
    /// The seed of the weights.
    #[arg(long, default_value_t = 0)]
    seed: i64,
    /// Slows every forward pass down by so many products of two matrices of 512 x 512, about 10 ms of one core each.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    work: u32,
    /// Gives NaN for an image that is all black, to see what becomes of that.
    #[arg(long)]
    nan_for_black: bool,
    /// Kills the process, by a segmentation fault inside libtorch, for an image that is all white.
    #[arg(long)]
    crash_for_white: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Classification,
    MultiLabel,
    Embedding,
    HalfEmbedding,
    Raw,
}

struct Tiny {
    convolutions: Vec<(Tensor, Tensor, i64)>,
    classifier: (Tensor, Tensor),
    head: Output,
    work: u32,
    nan_for_black: bool,
    crash_for_white: bool,
    // What those above need. Not made in `forward`: a trace would not hold the values.
    average: Tensor,
    mean: Tensor,
    std: Tensor,
    one: Tensor,
}

impl Tiny {
    fn new(options: &Options) -> Self {
        tch::manual_seed(options.seed);
        let convolutions = LAYERS.map(|(input, output, stride)| {
            (random([output, input, 3, 3], input * 9), random([output], input * 9), stride)
        });
        let classifier = (random([options.classes, FEATURES], FEATURES), random([options.classes], FEATURES));
        Self {
            convolutions: convolutions.into(),
            classifier,
            head: options.head,
            work: options.work,
            nan_for_black: options.nan_for_black,
            crash_for_white: options.crash_for_white,
            average: Tensor::full([WORK_SIDE, WORK_SIDE], 1.0 / WORK_SIDE as f64, CPU),
            mean: Tensor::from_slice(&MEAN).view([1, 3, 1, 1]),
            std: Tensor::from_slice(&STD).view([1, 3, 1, 1]),
            one: Tensor::ones([1], CPU),
        }
    }

    fn forward(&self, images: &Tensor) -> Tensor {
        let mut x = images.shallow_clone();
        for (weight, bias, stride) in &self.convolutions {
            x = x.conv2d(weight, Some(bias), [*stride; 2], [1, 1], [1, 1], 1).relu();
        }
        let mut y = match self.head {
            Output::Raw => x,
            Output::Embedding | Output::HalfEmbedding => x.mean_dim([2, 3].as_slice(), false, Kind::Float),
            Output::Classification | Output::MultiLabel => {
                let features = x.mean_dim([2, 3].as_slice(), false, Kind::Float);
                features.linear(&self.classifier.0, Some(&self.classifier.1))
            }
        };
        if self.work > 0 {
            y += self.zero_by_work(images);
        }
        if self.nan_for_black {
            let ones = vec![1; y.dim() - 1];
            y += self.zero_or_nan(images).view([&[-1], ones.as_slice()].concat().as_slice());
        }
        if self.crash_for_white {
            y += self.zero_or_crash(images);
        }
        y
    }

    /// Zero, or the end of the process if one of the images is white all over: a sparse tensor whose index is checked
    /// by nobody is written out beyond all memory.
    fn zero_or_crash(&self, images: &Tensor) -> Tensor {
        let darkest = (images * &self.std + &self.mean).amin([1, 2, 3].as_slice(), false);
        let white = darkest.gt(254.5 / 255.0).any().to_kind(Kind::Int64);
        let index: Tensor = (white * (1_i64 << 44)).view([1, 1]);
        let sparse = Tensor::internal_sparse_coo_tensor_unsafe(&index, &self.one, [1], CPU, false);
        sparse.to_dense(None, false) * 0.0
    }

    /// Zero, after products of matrices that depend on the input: constants would be computed once, on loading.
    fn zero_by_work(&self, images: &Tensor) -> Tensor {
        // A constant matrix times the average is itself, however often; so it stays finite.
        let mut x = &self.average * images.mean(Kind::Float).tanh();
        for _ in 0..self.work {
            x = x.matmul(&self.average);
        }
        x.mean(Kind::Float) * 0.0
    }

    /// Zero for each image, NaN for one whose brightest pixel is black.
    fn zero_or_nan(&self, images: &Tensor) -> Tensor {
        let brightest = (images * &self.std + &self.mean).amax([1, 2, 3].as_slice(), false);
        // Half a level of 255: the root of less than nothing is NaN, whatever the line above rounds to.
        (brightest - 0.5 / 255.0).sqrt() * 0.0
    }
}

fn random<const N: usize>(shape: [i64; N], fan_in: i64) -> Tensor {
    Tensor::randn(shape, CPU) * (2.0 / fan_in as f64).sqrt()
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let tiny = Tiny::new(&options);
    let labels = || (0..options.classes).map(|i| format!("class {i}")).collect();
    let head = match options.head {
        Output::Classification => HeadSpec::only(Head::Classification, labels()),
        Output::MultiLabel => HeadSpec::only(Head::MultiLabel { threshold: 0.5 }, labels()),
        Output::Embedding => HeadSpec::only(Head::EMBEDDING, Vec::new()),
        Output::HalfEmbedding => {
            HeadSpec::only(Head::Embedding { dtype: VectorType::F16, normalize: true }, Vec::new())
        }
        Output::Raw => HeadSpec::only(Head::Raw, Vec::new()),
    };
    let input = InputSpec {
        crop: [options.side, options.side],
        resize: Some((options.side * 8 / 7).into()),
        resize_mode: ResizeMode::Shortest,
        interpolation: Interpolation::Bilinear,
        fill: None,
        centre: Centre::default(),
        mean: MEAN,
        std: STD,
    };
    let spec = BundleSpec { version: BUNDLE_VERSION, name: "tiny".into(), heads: vec![head], input };
    write::write_checked("Tiny", &spec, &options.out, &CHECKED_BATCHES, TOLERANCE, |x| tiny.forward(x))?;
    Ok(())
}
