//! timm's `config.json` as a description: what `timm.data.create_transform` makes of its `pretrained_cfg`.
//!
//! For models that come without `trawl.json`, before a job is planned. The rules are those of
//! `worker/models/describe/timm_models.py`, and the fixtures of both are the same files; what trawl cannot do is an error
//! that names the field, never something close to it.

use super::{
    BUNDLE_VERSION, BundleSpec, Centre, Head, HeadSpec, InputSpec, Interpolation, Resize, ResizeMode,
    fields::{Fields, quoted},
};
use serde_json::Value;

/// `timm.data.constants`.
const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
const STD: [f64; 3] = [0.229, 0.224, 0.225];
const CROP_PCT: f64 = 0.875;
const SIDE: u32 = 224;

/// The description in a `config.json` that has a `pretrained_cfg`; the error is a sentence.
pub(super) fn describe(config: Fields<'_>, name: &str) -> Result<BundleSpec, String> {
    let inner = config.object("pretrained_cfg")?.ok_or("there is no `pretrained_cfg`")?;
    let either = |field: &str| config.get(field).or_else(|| inner.get(field));
    let classes = either("num_classes").and_then(Value::as_u64);
    let names = match either("label_names") {
        None => Vec::new(),
        Some(Value::Array(names)) => names.iter().map(text).collect::<Result<Vec<_>, _>>()?,
        Some(other) => {
            return Err(format!(
                "`label_names` is {}: a list in the order of the classes was expected",
                quoted(other)
            ));
        }
    };
    if let Some(classes) = classes.filter(|n| !names.is_empty() && *n != names.len() as u64) {
        return Err(format!("`num_classes` is {classes} and `label_names` has {} names", names.len()));
    }
    let longer = either("label_descriptions");
    let described = |name: String| {
        let known = longer.and_then(|longer| longer.get(&name)).and_then(Value::as_str);
        known.map_or(name.clone(), ToOwned::to_owned)
    };
    let head = if classes == Some(0) { Head::EMBEDDING } else { Head::Classification };
    let labels = names.into_iter().map(described).collect();
    let heads = vec![HeadSpec::only(head, labels)];
    Ok(BundleSpec { version: BUNDLE_VERSION, name: name.into(), heads, input: input(inner)? })
}

fn text(value: &Value) -> Result<String, String> {
    value
        .as_str()
        .map(ToOwned::to_owned)
        .ok_or_else(|| format!("`label_names` has {}: a name was expected", quoted(value)))
}

/// The `input` of a `pretrained_cfg`.
fn input(config: Fields<'_>) -> Result<InputSpec, String> {
    let size = match config.get("input_size") {
        None => vec![3, SIDE, SIDE],
        Some(given) => config.sides(given, "input_size")?,
    };
    let [3, height, width] = size[..] else {
        return Err(format!(
            "`pretrained_cfg.input_size` is {size:?}: trawl's images have three channels, height and width"
        ));
    };
    let interpolation = match config.get("interpolation") {
        None => Interpolation::Bicubic,
        Some(given) => serde_json::from_value(given.clone()).map_err(|_| {
            format!(
                "`pretrained_cfg.interpolation` is {}, which says how it was trained and not how it is used: give the \
                 filter to use, as timm itself would want",
                quoted(given)
            )
        })?,
    };
    let share = config.number("crop_pct")?.filter(|share| *share != 0.0).unwrap_or(CROP_PCT);
    let scaled = |side: u32| (f64::from(side) / share).floor() as u32;
    let resize = match [scaled(height), scaled(width)] {
        [height, width] if height == width => Resize::Side(height),
        sides => Resize::Sides(sides),
    };
    let mean = config.three("mean")?.unwrap_or(MEAN);
    let std = config.three("std")?.unwrap_or(STD);
    let (resize_mode, fill) = match config.text("crop_mode")?.unwrap_or("center") {
        "center" => (ResizeMode::Shortest, None),
        "squash" => (ResizeMode::Squash, None),
        "border" => (ResizeMode::Letterbox, Some(mean.map(|v| (255.0 * v).round_ties_even() as u8))),
        other => {
            return Err(format!(
                "`pretrained_cfg.crop_mode` is {other:?}: center, squash and border are known"
            ));
        }
    };
    Ok(InputSpec {
        crop: [height, width],
        resize: Some(resize),
        resize_mode,
        interpolation,
        fill,
        centre: Centre::default(),
        mean: mean.map(|v| v as f32),
        std: std.map(|v| v as f32),
    })
}
