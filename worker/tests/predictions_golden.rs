//! The whole way from file to probabilities against PyTorch, torchvision and Pillow.
//!
//! `golden/make_predictions.py` made the model and the numbers. The pixels are held to bit equality by
//! `preprocess_golden.rs`; here the same images go through the very TorchScript file that Python ran, so
//! what may differ is the order of float sums in libtorch's kernels.

use serde::Deserialize;
use std::{collections::BTreeMap, path::Path};
use trawl_common::{
    bundle::BundleSpec,
    job::{Decode, Orient, Precision, Truncated},
    results::row::Prediction,
};
use trawl_worker::{
    model::{self, Device, GraphPasses, Model, network, output},
    preprocess::{Limits, Recipe, Scratch, prepare},
};

/// The largest difference of a probability.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Expected {
    probabilities: BTreeMap<String, Vec<f32>>,
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"))
}

#[test]
fn predictions_are_those_of_python() {
    network::prepare_process();
    let bundle = folder().join("model.pt");
    let spec = BundleSpec::read(&bundle).unwrap();
    let model = model::load(&bundle, &spec, Device::Cpu, Precision::Fp32, GraphPasses::On, None).unwrap();
    let recipe = Recipe {
        input: spec.input.clone(),
        decode: Decode::Exact,
        truncated: Truncated::Reject,
        orient: Orient::None,
        limits: Limits::default(),
    };
    let json = std::fs::read(folder().join("predictions.json")).unwrap();
    let expected: Expected = serde_json::from_slice(&json).unwrap();
    assert!(expected.probabilities.len() >= 90, "the fixture is all there");
    let mut scratch = Scratch::new();
    let mut pixels = Vec::new();
    for name in expected.probabilities.keys() {
        let bytes = std::fs::read(folder().join("images").join(name)).unwrap();
        pixels.push(prepare(&bytes, &recipe, &mut scratch).unwrap_or_else(|e| panic!("{name}: {e}")).pixels);
    }
    // In micro-batches of another size than the traced one, and ragged at the end.
    let mut largest = 0_f32;
    let rows: Vec<Vec<f32>> = pixels
        .chunks(7)
        .flat_map(|images| {
            let images: Vec<&[u8]> = images.iter().map(|slot| &**slot).collect();
            let outputs = model.forward(&images).unwrap();
            outputs.rows().map(<[f32]>::to_vec).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(rows.len(), expected.probabilities.len());
    for ((name, wanted), row) in expected.probabilities.iter().zip(&rows) {
        let Some(Prediction::Classes(classes)) = output::interpret(row, &spec, wanted.len()) else {
            panic!("{name}: classes");
        };
        let best = (0..wanted.len()).max_by(|a, b| wanted[*a].total_cmp(&wanted[*b])).unwrap();
        assert_eq!(classes[0].index as usize, best, "{name}");
        assert_eq!(classes[0].label.as_deref(), Some(spec.labels()[best].as_str()));
        for class in &classes {
            let difference = (class.probability - wanted[class.index as usize]).abs();
            largest = largest.max(difference);
            assert!(difference <= TOLERANCE, "{name}: class {} is off by {difference}", class.index);
        }
    }
    println!("largest difference of a probability: {largest:e}");
}
