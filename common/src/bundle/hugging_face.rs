//! Hugging Face's `config.json` and `preprocessor_config.json` as a description: what the image processor's PIL backend
//! does.
//!
//! For models that come without `trawl.json`, before a job is planned. The rules are those of
//! `worker/models/describe/hugging_face.py`, and the fixtures of both are the same files. What the files leave unsaid and
//! what trawl cannot do are errors that name the field: defaults have changed from release to release.

use super::{
    BUNDLE_VERSION, BundleSpec, Centre, Head, HeadSpec, InputSpec, Interpolation, Resize, ResizeMode,
    fields::{Fields, quoted},
    head::DEFAULT_LABEL_THRESHOLD,
};
use serde_json::Value;

/// Classes and their names.
pub(crate) const CONFIG: &str = "config.json";
/// How images are prepared.
pub(crate) const PROCESSOR: &str = "preprocessor_config.json";

/// ConvNext's processor squashes from this size on, and crops below it.
const CONVNEXT_SQUASHES_FROM: u32 = 384;
const CONVNEXT_CROP_PCT: f64 = 224.0 / 256.0;
/// Nearer to 1/255 than this, a rescale factor is it.
const RESCALE_TOLERANCE: f64 = 1e-9;

/// What a family of image processors does beyond its file.
struct Kind {
    name: &'static str,
    /// One number for `size` is both sides, and not the shorter one.
    square: bool,
    /// Crops unless the file says otherwise.
    crops: bool,
}

const KINDS: [Kind; 15] = [
    Kind { name: "Beit", square: true, crops: false },
    Kind { name: "Bit", square: false, crops: true },
    Kind { name: "CLIP", square: false, crops: true },
    Kind { name: "ConvNext", square: false, crops: false },
    Kind { name: "DeiT", square: true, crops: true },
    Kind { name: "EfficientNet", square: true, crops: false },
    Kind { name: "Levit", square: false, crops: true },
    Kind { name: "MobileNetV1", square: false, crops: true },
    Kind { name: "MobileNetV2", square: false, crops: true },
    Kind { name: "MobileViT", square: false, crops: true },
    Kind { name: "PoolFormer", square: false, crops: true },
    Kind { name: "Pvt", square: true, crops: false },
    Kind { name: "Segformer", square: true, crops: false },
    Kind { name: "Siglip", square: true, crops: false },
    Kind { name: "ViT", square: true, crops: false },
];

const SUFFIXES: [&str; 4] = ["ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor"];

/// Fields that do not change what a photo becomes, or are looked at below; the others must be absent or null.
const KNOWN: [&str; 27] = [
    "image_processor_type",
    "feature_extractor_type",
    "size",
    "crop_size",
    "resample",
    "image_mean",
    "image_std",
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "rescale_factor",
    "crop_pct",
    "rescale_offset",
    "include_top",
    "do_flip_channel_order",
    "do_pad",
    "data_format",
    "do_convert_rgb",
    "do_reduce_labels",
    "default_to_square",
    "return_tensors",
    "input_data_format",
    "device",
    "disable_grouping",
    "processor_class",
    "_valid_processor_keys",
];
const ALSO_KNOWN: [&str; 2] = ["_processor_class", "transformers_version"];

/// The description of a model by its two files; the error is a sentence.
pub(super) fn describe(
    config: Fields<'_>,
    processor: Option<Fields<'_>>,
    name: &str,
) -> Result<BundleSpec, String> {
    let processor = processor.ok_or_else(|| {
        format!("there is no {PROCESSOR} beside {CONFIG}: without it nobody knows how images are prepared")
    })?;
    let head = match config.text("problem_type")?.unwrap_or("single_label_classification") {
        "single_label_classification" => Head::Classification,
        "multi_label_classification" => Head::MultiLabel { threshold: DEFAULT_LABEL_THRESHOLD },
        other => {
            return Err(format!(
                "`problem_type` is {other:?}: single_label_classification and multi_label_classification are known"
            ));
        }
    };
    let architecture = config.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    if let Some(other) = architecture.filter(|name| !name.contains("ForImageClassification")) {
        return Err(format!(
            "`architectures` is [{other:?}], which is no image classifier: write `NAME.json`"
        ));
    }
    let (labels, input) = (labels(config)?, input(processor)?);
    let heads = vec![HeadSpec::only(head, labels)];
    Ok(BundleSpec { version: BUNDLE_VERSION, name: name.into(), heads, input })
}

/// `id2label` as a list.
fn labels(config: Fields<'_>) -> Result<Vec<String>, String> {
    let Some(names) = config.object("id2label")? else { return Ok(Vec::new()) };
    let count = names.0.len();
    if let Some(said) = config.number("num_labels")?.filter(|said| *said != count as f64) {
        return Err(format!("`num_labels` is {said} and `id2label` has {count} names"));
    }
    let label = |class: usize| match names.get(&class.to_string()) {
        Some(Value::String(label)) => Ok(label.clone()),
        Some(other) => Ok(other.to_string()),
        None => Err(format!("`id2label` has {count} names and none for class {class}")),
    };
    (0..count).map(label).collect()
}

fn input(given: Fields<'_>) -> Result<InputSpec, String> {
    let said = given.text("image_processor_type")?.or(given.text("feature_extractor_type")?);
    let said = said.ok_or_else(|| {
        format!("{PROCESSOR} has no `image_processor_type`: add it, such as \"ViTImageProcessor\"")
    })?;
    let family = SUFFIXES.iter().find_map(|suffix| said.strip_suffix(suffix));
    let kind = KINDS.iter().find(|kind| Some(kind.name) == family).ok_or_else(|| {
        let known: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        format!("`image_processor_type` is {said:?}, which trawl does not know; known: {}", known.join(", "))
    })?;
    if let Some(field) = given.names().find(|name| !KNOWN.contains(name) && !ALSO_KNOWN.contains(name)) {
        let value = given.get(field).map(quoted).unwrap_or_default();
        return Err(format!("`{field}` is {value} in {PROCESSOR}, which trawl does not know of {said}"));
    }
    for field in ["do_pad", "do_reduce_labels"] {
        if given.flag(field)? == Some(true) {
            return Err(format!("`{field}` is true, which trawl does not do"));
        }
    }
    let format = given.text("data_format")?.unwrap_or("channels_first");
    if format != "channels_first" {
        return Err(format!("`data_format` is {format:?}: channels_first is what models get"));
    }
    if given.flag("do_flip_channel_order")?.unwrap_or(kind.name == "MobileViT") {
        return Err(
            "`do_flip_channel_order` is true: trawl's models get RGB; flip the first layer's weights instead"
                .into(),
        );
    }
    let (mean, std) = normalise(given, kind)?;
    Ok(InputSpec { mean, std, ..geometry(given, kind)? })
}

/// What a `size` asks for.
#[derive(Clone, Copy)]
enum Size {
    Shortest(u32),
    Both([u32; 2]),
}

/// All but mean and std.
fn geometry(given: Fields<'_>, kind: &Kind) -> Result<InputSpec, String> {
    let crops = given.flag("do_center_crop")?.unwrap_or(kind.crops);
    let cropped = if crops {
        let value = needed("crop_size", given.get("crop_size"))?;
        match size(value, true, "crop_size")? {
            Size::Both(sides) => Some(sides),
            Size::Shortest(_) => {
                return Err(format!("`crop_size` is {}: height and width were expected", quoted(value)));
            }
        }
    } else {
        None
    };
    let of = |crop, resize, resize_mode, interpolation, centre| InputSpec {
        crop,
        resize,
        resize_mode,
        interpolation,
        fill: None,
        centre,
        mean: [0.0; 3],
        std: [1.0; 3],
    };
    if !needed("do_resize", given.flag("do_resize")?)? {
        let crop = cropped.ok_or(
            "`do_resize` is false and nothing is cropped: the input would have each image's own size",
        )?;
        return Ok(of(crop, None, ResizeMode::Shortest, Interpolation::Nearest, Centre::HuggingFace));
    }
    let interpolation = resample(needed("resample", given.get("resample"))?)?;
    let value = needed("size", given.get("size"))?;
    match target(given, kind, value, cropped)? {
        (Size::Shortest(side), Some(crop)) => {
            Ok(of(crop, Some(side.into()), ResizeMode::Shortest, interpolation, Centre::HuggingFace))
        }
        (Size::Shortest(_), None) => Err(format!(
            "`size` is {} and nothing is cropped: the input would follow each image's shape",
            quoted(value)
        )),
        (Size::Both(sides), None) => {
            Ok(of(sides, None, ResizeMode::Squash, interpolation, Centre::Torchvision))
        }
        (Size::Both(sides), Some(crop)) if sides == crop => {
            Ok(of(crop, None, ResizeMode::Squash, interpolation, Centre::Torchvision))
        }
        (Size::Both(sides), Some(crop)) => {
            let resize = if sides[0] == sides[1] { sides[0].into() } else { Resize::Sides(sides) };
            Ok(of(crop, Some(resize), ResizeMode::Squash, interpolation, Centre::HuggingFace))
        }
    }
}

/// What the resize reaches, and the crop behind it, by the rules of the family.
fn target(
    given: Fields<'_>,
    kind: &Kind,
    value: &Value,
    cropped: Option<[u32; 2]>,
) -> Result<(Size, Option<[u32; 2]>), String> {
    let wanted = size(value, kind.square, "size")?;
    let share = given.number("crop_pct")?;
    // Python's int() cuts, as `as` does.
    let over = |side: u32, share: f64| (f64::from(side) / share) as u32;
    Ok(match (kind.name, wanted) {
        ("ConvNext", Size::Shortest(side)) if cropped.is_none() && side < CONVNEXT_SQUASHES_FROM => {
            (Size::Shortest(over(side, share.unwrap_or(CONVNEXT_CROP_PCT))), Some([side, side]))
        }
        ("ConvNext", Size::Shortest(side)) if cropped.is_none() => (Size::Both([side, side]), None),
        ("ConvNext", _) => {
            return Err(format!(
                "`size` is {} with do_center_crop {}: ConvNext has a shortest_edge and crops by crop_pct",
                quoted(value),
                cropped.is_some()
            ));
        }
        ("Levit", Size::Shortest(side)) => {
            (Size::Shortest((256.0 / 224.0 * f64::from(side)) as u32), cropped)
        }
        ("PoolFormer", _) => match (share.filter(|share| *share != 0.0), wanted) {
            (None, _) => (wanted, cropped),
            // Only a target that is not square loses the shape.
            (Some(share), Size::Shortest(side)) => (Size::Shortest(over(side, share)), cropped),
            (Some(share), Size::Both([side, other])) if side == other => {
                (Size::Shortest(over(side, share)), cropped)
            }
            (Some(share), Size::Both(sides)) => (Size::Both(sides.map(|side| over(side, share))), cropped),
        },
        _ => (wanted, cropped),
    })
}

fn size(value: &Value, square: bool, field: &str) -> Result<Size, String> {
    let side = |value: &Value| value.as_u64().and_then(|side| u32::try_from(side).ok());
    let read = match value {
        Value::Number(_) => side(value).map(|n| if square { Size::Both([n, n]) } else { Size::Shortest(n) }),
        Value::Array(list) => match &list[..] {
            [height, width] => side(height).zip(side(width)).map(|(h, w)| Size::Both([h, w])),
            _ => None,
        },
        Value::Object(object) => {
            let object = Fields(object);
            let mut names: Vec<&str> = object.names().collect();
            names.sort_unstable();
            let of = |name| object.get(name).and_then(side);
            match names[..] {
                ["height", "width"] => of("height").zip(of("width")).map(|(h, w)| Size::Both([h, w])),
                ["shortest_edge"] => of("shortest_edge").map(Size::Shortest),
                _ => None,
            }
        }
        _ => None,
    };
    read.ok_or_else(|| {
        format!(
            "`{field}` is {}: a number, height and width, or shortest_edge alone are known",
            quoted(value)
        )
    })
}

/// `PIL.Image.Resampling`.
fn resample(value: &Value) -> Result<Interpolation, String> {
    Ok(match value.as_u64() {
        Some(0) => Interpolation::Nearest,
        Some(1) => Interpolation::Lanczos,
        Some(2) => Interpolation::Bilinear,
        Some(3) => Interpolation::Bicubic,
        Some(4) => Interpolation::Box,
        Some(5) => Interpolation::Hamming,
        _ => return Err(format!("`resample` is {}: Pillow has 0 to 5", quoted(value))),
    })
}

/// Mean and standard deviation of pixels of 0 to 1 that do what rescaling and normalising do one after the other.
fn normalise(given: Fields<'_>, kind: &Kind) -> Result<([f32; 3], [f32; 3]), String> {
    let rescales = given.flag("do_rescale")?.unwrap_or(true);
    let factor = given.number("rescale_factor")?.unwrap_or(1.0 / 255.0);
    let factor = if rescales { factor } else { 1.0 };
    if factor <= 0.0 {
        return Err(format!("`rescale_factor` is {factor}: a number above 0 was expected"));
    }
    let offset = if rescales && given.flag("rescale_offset")? == Some(true) { 1.0 } else { 0.0 };
    let deviation = || needed("image_std", given.three("image_std")?);
    let (mut mean, mut std) = ([0.0; 3], [1.0; 3]);
    if needed("do_normalize", given.flag("do_normalize")?)? {
        (mean, std) = (needed("image_mean", given.three("image_mean")?)?, deviation()?);
    }
    if kind.name == "EfficientNet" && given.flag("include_top")?.unwrap_or(true) {
        // It divides once more, by the file's deviation, whether it normalised before or not.
        let again = deviation()?;
        std = [std[0] * again[0], std[1] * again[1], std[2] * again[2]];
    }
    let scale = factor * 255.0;
    let scale = if (scale - 1.0).abs() < RESCALE_TOLERANCE { 1.0 } else { scale };
    Ok((mean.map(|v| ((v + offset) / scale) as f32), std.map(|v| (v / scale) as f32)))
}

fn needed<T>(field: &str, value: Option<T>) -> Result<T, String> {
    value.ok_or_else(|| {
        format!(
            "{PROCESSOR} has no `{field}`: add it, since what it is by default has changed from release to release"
        )
    })
}
