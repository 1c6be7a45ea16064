//! Holds the worker's pixels to Pillow's, bit for bit.
//!
//! `golden/make_golden.py` made the images and, with Pillow 13.0.0, the digests of what a model should see of
//! them: every format and kind, for each filter and resize mode, down and up, odd sizes, single pixels, images
//! smaller than the crop. Where we differ from Pillow on purpose is in the documentation of
//! `trawl_worker::preprocess`; no image here needs an exception.

use serde::Deserialize;
use std::{collections::BTreeMap, path::PathBuf};
use trawl_common::{
    bundle::{Centre, InputSpec, Interpolation, Resize, ResizeMode},
    job::{Decode, Orient, Truncated, hex_sha256},
};
use trawl_worker::preprocess::{Limits, Prepared, Recipe, Scratch, prepare};

/// Hex digits of a digest that `expected.json` keeps.
const DIGEST_DIGITS: usize = 8;

#[derive(Deserialize)]
struct Expected {
    pillow: String,
    recipes: Vec<Shape>,
    images: BTreeMap<String, Image>,
}

#[derive(Deserialize)]
struct Shape {
    crop: [u32; 2],
    resize: Option<Resize>,
    resize_mode: ResizeMode,
    #[serde(default)]
    fill: Option<[u8; 3]>,
    #[serde(default)]
    centre: Centre,
}

#[derive(Deserialize)]
struct Image {
    size: [u32; 2],
    decoded: String,
    /// `none/bicubic` and the like: a digest for each recipe.
    pixels: BTreeMap<String, Vec<String>>,
}

fn expected() -> Expected {
    let json = std::fs::read(folder().join("expected.json")).expect("expected.json is beside the test");
    serde_json::from_slice(&json).expect("expected.json is what make_golden.py writes")
}

/// Where the fixtures are: beside the test, or those that `tests/python/format_corpus.py` drew into a folder.
fn folder() -> PathBuf {
    let drawn = std::env::var_os("TRAWL_GOLDEN").map(PathBuf::from);
    drawn.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden").into())
}

fn recipe(shape: &Shape, interpolation: Interpolation, orient: Orient) -> Recipe {
    Recipe {
        input: InputSpec {
            crop: shape.crop,
            resize: shape.resize,
            resize_mode: shape.resize_mode,
            interpolation,
            fill: shape.fill,
            centre: shape.centre,
            mean: [0.0; 3],
            std: [1.0; 3],
        },
        decode: Decode::Exact,
        truncated: Truncated::Reject,
        orient,
        limits: Limits::default(),
    }
}

fn digest(prepared: &Prepared) -> String {
    hex_sha256(&prepared.pixels)[..DIGEST_DIGITS].to_owned()
}

fn from_name<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_value(name.into()).expect("a name of the enum")
}

#[test]
fn every_image_and_recipe_gives_pillows_pixels() {
    let expected = expected();
    // One scratch for all: reuse must not show.
    let mut scratch = Scratch::new();
    let mut wrong = Vec::new();
    let mut compared = 0;
    for (name, image) in &expected.images {
        let bytes = std::fs::read(folder().join("images").join(name)).expect("the image is beside the test");
        for (key, digests) in &image.pixels {
            let (orient, interpolation) = key.split_once('/').expect("orient/filter");
            for (shape, digest_of_pillow) in expected.recipes.iter().zip(digests) {
                let recipe = recipe(shape, from_name(interpolation), from_name(orient));
                compared += 1;
                match prepare(&bytes, &recipe, &mut scratch) {
                    Ok(prepared) if digest(&prepared) == *digest_of_pillow => {
                        assert_eq!([prepared.width, prepared.height], image.size, "{name}");
                        assert!(!prepared.truncated, "{name}");
                    }
                    Ok(_) => wrong.push(format!("{name} {key} {:?} {:?}", shape.resize_mode, shape.crop)),
                    Err(error) => wrong.push(format!("{name}: {error}")),
                }
            }
        }
    }
    assert!(compared > 2000 || std::env::var_os("TRAWL_GOLDEN").is_some(), "only {compared} comparisons");
    assert!(
        wrong.is_empty(),
        "{} of {compared} differ from Pillow {}:\n{}",
        wrong.len(),
        expected.pillow,
        wrong.join("\n")
    );
}

#[test]
fn every_decode_gives_pillows_pixels() {
    let expected = expected();
    let mut scratch = Scratch::new();
    let mut wrong = Vec::new();
    for (name, image) in &expected.images {
        let bytes = std::fs::read(folder().join("images").join(name)).expect("the image is beside the test");
        // Without a resize and with the image's own size as the crop, the decoded pixels come out.
        let turned = name.contains("orientation");
        let [width, height] = image.size;
        let crop = if turned { [width, height] } else { [height, width] };
        let resize_mode = ResizeMode::Shortest;
        let shape = Shape { crop, resize: None, resize_mode, fill: None, centre: Centre::default() };
        match prepare(&bytes, &recipe(&shape, Interpolation::Bilinear, Orient::None), &mut scratch) {
            Ok(prepared) if digest(&prepared) == image.decoded => {}
            Ok(_) => wrong.push(name.clone()),
            Err(error) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "decoded pixels differ from Pillow {}:\n{}", expected.pillow, wrong.join("\n"));
}
