//! Makes the demo model: EfficientNet-Lite0 as a bundle, from weights alone, without Python torch.
//!
//! `cargo run --example lite0_model -- FOLDER OUT.pt`, where FOLDER is what `worker/models/lite0/fetch_weights.py`
//! filled. The file is compared with the network before it gets its name, so a wrong one is never left.

mod network;

use anyhow::Context;
use clap::Parser;
use std::path::{Path, PathBuf};
use tch::Tensor;
use trawl_common::bundle::{
    BUNDLE_VERSION, BundleSpec, Centre, Head, HeadSpec, InputSpec, Interpolation, ResizeMode,
};
use trawl_worker::model::write;

/// The file's logits may differ by so much from the network's: rounding, with sums in another order.
const TOLERANCE: f64 = 1e-4;

/// Sizes that the trace was not made with.
const CHECKED_BATCHES: [i64; 2] = [1, 3];

/// Makes the demo model, EfficientNet-Lite0, as a bundle.
#[derive(Parser)]
struct Options {
    /// What `worker/models/lite0/fetch_weights.py` filled.
    folder: PathBuf,
    /// The bundle to write.
    out: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let Options { folder, out } = Options::parse();
    let weights = folder.join("weights.safetensors");
    let weights =
        Tensor::read_safetensors(&weights).with_context(|| format!("cannot read {}", weights.display()))?;
    let network = network::EfficientNetLite0::new(weights)?;
    let spec = describe(&folder.join("labels.json"))?;
    write::write_checked("EfficientNetLite0", &spec, &out, &CHECKED_BATCHES, TOLERANCE, |x| {
        network.forward(x)
    })?;
    Ok(())
}

/// What the network was trained with: shorter side to 256, bicubic, the centre of 224, and pixels `(p - 127) / 128`.
fn describe(labels: &Path) -> anyhow::Result<BundleSpec> {
    let text = std::fs::read(labels).with_context(|| format!("cannot read {}", labels.display()))?;
    let names = serde_json::from_slice(&text);
    let names = names.with_context(|| format!("{} is no list of names", labels.display()))?;
    Ok(BundleSpec {
        version: BUNDLE_VERSION,
        name: "efficientnet-lite0".into(),
        heads: vec![HeadSpec::only(Head::Classification, names)],
        input: InputSpec {
            crop: [network::SIDE, network::SIDE],
            resize: Some(256.into()),
            resize_mode: ResizeMode::Shortest,
            interpolation: Interpolation::Bicubic,
            fill: None,
            centre: Centre::default(),
            mean: [127.0 / 255.0; 3],
            std: [128.0 / 255.0; 3],
        },
    })
}
