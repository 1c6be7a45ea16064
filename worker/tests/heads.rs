//! Heads of every kind on real modules: tensors to answers, and boxes back to the pixels of the file.
//!
//! `golden/make_modules.py` made the bundles. One finds the red rectangle in a picture, so that what it says can be
//! compared with what was drawn, through resize, letterbox and turn; one has five heads over a dict of outputs.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
};
use trawl_common::{
    bundle::{BundleSpec, Head, HeadSpec, OutputRef},
    job::{Decode, Orient, Precision, Truncated},
    results::row::{FoundBox, Prediction},
};
use trawl_worker::{
    model::{self, Device, GraphPasses, Model, ModelError, network, output},
    preprocess::{Limits, Prepared, Recipe, Scratch, prepare},
};

const SIDE: u32 = 32;

fn bundle(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/modules").join(name)
}

fn load(path: &Path, spec: &BundleSpec) -> Result<network::Network, ModelError> {
    network::prepare_thread();
    model::load(path, spec, Device::Cpu, Precision::Fp32, GraphPasses::On, None)
}

/// A PNG in grey with a red rectangle at these pixels.
fn picture(width: u32, height: u32, [x0, y0, x1, y1]: [u32; 4]) -> Vec<u8> {
    let image = image::RgbImage::from_fn(width, height, |x, y| {
        let red = (x0..x1).contains(&x) && (y0..y1).contains(&y);
        image::Rgb(if red { [250, 10, 10] } else { [60, 70, 80] })
    });
    let mut png = Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

fn pixels(png: &[u8], spec: &BundleSpec, orient: Orient) -> Prepared {
    let recipe = Recipe {
        input: spec.input.clone(),
        decode: Decode::Exact,
        truncated: Truncated::Reject,
        orient,
        limits: Limits::default(),
    };
    prepare(png, &recipe, &mut Scratch::new()).unwrap()
}

fn answer(model: &dyn Model, spec: &BundleSpec, image: &Prepared) -> Prediction {
    let outputs = model.forward(&[&image.pixels]).unwrap();
    output::predict(&outputs, 0, spec, 5, &image.placement).unwrap()
}

#[test]
fn boxes_are_where_they_were_drawn() {
    let path = bundle("detector.pt");
    let spec = BundleSpec::read(&path).unwrap();
    let model = load(&path, &spec).unwrap();
    for (width, height, drawn) in [
        (SIDE, SIDE, [3, 4, 20, 9]),
        (320, 160, [100, 40, 200, 120]),
        (160, 320, [0, 0, 80, 160]),
        (1000, 50, [500, 10, 1000, 50]),
    ] {
        let image = pixels(&picture(width, height, drawn), &spec, Orient::None);
        let Prediction::Boxes(found) = answer(&model, &spec, &image) else { panic!("boxes") };
        // One pixel of the input is so many of the picture's.
        let off = width.max(height) as f32 / SIDE as f32;
        for (found, drawn) in found[0].corners.iter().zip(drawn) {
            assert!((found - drawn as f32).abs() <= off, "{width} x {height}: {found} for {drawn}");
        }
        assert_eq!((found[0].index, found[0].label.as_deref(), found[0].score), (1, Some("red thing"), 0.75));
        // The bad guess is above this bundle's threshold; what fills the list up is no box.
        assert!(found[1..].iter().all(|guess| guess.index == 2 && guess.score == 0.25), "{found:?}");
    }
    let grey = pixels(&picture(64, 64, [0; 4]), &spec, Orient::None);
    let Prediction::Boxes(found) = answer(&model, &spec, &grey) else { panic!("boxes") };
    assert!(found.iter().all(|guess| guess.index == 2), "nothing is there: {found:?}");
}

#[test]
fn a_threshold_and_a_number_of_boxes_are_the_bundles() {
    let path = bundle("detector.pt");
    let mut spec = BundleSpec::read(&path).unwrap();
    let model = load(&path, &spec).unwrap();
    let image = pixels(&picture(64, 64, [8, 8, 40, 40]), &spec, Orient::None);
    let mut found = |threshold: f32, max_boxes: u32| {
        spec.heads[0].head = Head::Detection { threshold, max_boxes };
        match answer(&model, &spec, &image) {
            Prediction::Boxes(found) => found.iter().map(|FoundBox { index, .. }| *index).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(found(0.0, 9), [1, 2]);
    assert_eq!(found(0.0, 1), [1]);
    assert_eq!(found(0.5, 9), [1]);
    assert!(found(0.9, 9).is_empty());
}

#[test]
fn five_heads_over_one_dict_agree_in_both_formats() {
    for name in ["several.pt", "several.pt2"] {
        let path = bundle(name);
        let spec = BundleSpec::read(&path).unwrap();
        let model = load(&path, &spec).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(model.shapes(), [&[4][..], &[4], &[3], &[3, 4], &[3], &[3], &[3, 2, 3]], "{name}");
        let image = pixels(&picture(64, 32, [10, 8, 30, 24]), &spec, Orient::None);
        let Prediction::Several(heads) = answer(&model, &spec, &image) else { panic!("several heads") };
        let names: Vec<&str> = heads.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["species", "tags", "look", "things", "map"], "{name}");
        let Prediction::Classes(classes) = &heads[0].1 else { panic!("{:?}", heads[0]) };
        assert_eq!(classes.len(), 4);
        let Prediction::Labels(labels) = &heads[1].1 else { panic!("{:?}", heads[1]) };
        assert!(labels.is_sorted_by(|a, b| a.probability >= b.probability));
        assert!(labels.iter().all(|label| label.probability >= 0.4 && label.label.is_some()));
        // One head's softmax and the other's sigmoid are of the same numbers: who leads there leads here.
        assert!(labels.first().is_none_or(|label| label.index == classes[0].index));
        let Prediction::Vector(look) = &heads[2].1 else { panic!("{:?}", heads[2]) };
        let length: f32 = look.iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-5, "{look:?}");
        let Prediction::Boxes(things) = &heads[3].1 else { panic!("{:?}", heads[3]) };
        assert_eq!(things.len(), 1, "{things:?}");
        let Prediction::Tensor(values, shape) = &heads[4].1 else { panic!("{:?}", heads[4]) };
        assert_eq!((values.len(), &shape[..]), (18, &[3, 2, 3][..]));
    }
}

#[test]
fn an_output_that_is_not_there_or_not_named_is_said_with_what_there_is() {
    let (dict, tuple) = (bundle("several.pt"), bundle("detector.pt"));
    let words = |path: &Path, head: HeadSpec| {
        let spec = BundleSpec { heads: vec![head], ..BundleSpec::read(path).unwrap() };
        load(path, &spec).err().expect("it is refused").to_string()
    };
    let raw =
        |output: OutputRef| HeadSpec { output: Some(vec![output]), ..HeadSpec::only(Head::Raw, Vec::new()) };
    let unnamed = words(&dict, HeadSpec::only(Head::Raw, Vec::new()));
    assert!(unnamed.contains("`output`") && unnamed.contains("features: [1, 3]"), "{unnamed}");
    let missing = words(&dict, raw(OutputRef::Key("featurs".into())));
    assert!(missing.contains("`featurs`") && missing.contains("features"), "{missing}");
    let beyond = words(&tuple, raw(OutputRef::Index(3)));
    assert!(beyond.contains("place 3") && beyond.contains("2: [1, 3]"), "{beyond}");
    let no_boxes = words(
        &tuple,
        HeadSpec {
            output: Some([1, 0, 2].map(OutputRef::Index).into()),
            ..HeadSpec::only(Head::Detection { threshold: 0.5, max_boxes: 1 }, Vec::new())
        },
    );
    assert!(no_boxes.contains("[N, K, 4]"), "{no_boxes}");
    let labels = words(
        &dict,
        HeadSpec {
            output: Some(vec![OutputRef::Key("logits".into())]),
            ..HeadSpec::only(Head::MultiLabel { threshold: 0.5 }, vec!["one".into()])
        },
    );
    assert!(labels.contains("1 labels") && labels.contains("4 classes"), "{labels}");
}
