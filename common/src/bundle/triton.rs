//! Triton's model repository: `NAME/config.pbtxt`, a file of labels, and `NAME/3/model.pt`.
//!
//! Read before a job is planned, when `--model` is a folder. The configuration says what the server needs to know: shapes and
//! names, nothing of how images are prepared; that comes from a description beside it. What it does say must hold for what
//! trawl does with the model, or it is an error that names the field.

use super::{
    BundleSpec,
    text_proto::{Message, parse},
};

/// The configuration's name within the model's folder.
pub(crate) const CONFIG: &str = "config.pbtxt";
/// A version's file, unless the configuration says otherwise.
pub(crate) const MODEL: &str = "model.pt";

/// Fields that change how a server runs a model, and not what it answers.
const IRRELEVANT: [&str; 13] = [
    "name",
    "platform",
    "backend",
    "runtime",
    "max_batch_size",
    "instance_group",
    "dynamic_batching",
    "optimization",
    "parameters",
    "model_warmup",
    "response_cache",
    "cc_model_filenames",
    "metric_tags",
];
const READ: [&str; 4] = ["input", "output", "version_policy", "default_model_filename"];

/// What a `config.pbtxt` says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Config {
    /// The model's name, if it is given.
    pub(crate) name: Option<String>,
    /// A version's file.
    pub(crate) file: String,
    /// The file of labels, below the model's folder.
    pub(crate) labels: Option<String>,
    /// Height and width of the input, where they are fixed.
    sides: [Option<u32>; 2],
    /// Classes, where they are fixed.
    classes: Option<u64>,
    /// The only versions to choose from.
    versions: Option<Vec<u64>>,
}

impl Config {
    /// Of a folder without one.
    pub(crate) fn none() -> Self {
        Self { file: MODEL.into(), ..Self::default() }
    }

    /// Reads a `config.pbtxt`; the error is a sentence's end.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let config = parse(text)?;
        if let Some(field) = config.names().find(|name| !IRRELEVANT.contains(name) && !READ.contains(name)) {
            return Err(format!("it has `{field}`, which trawl does not know or cannot do"));
        }
        let runs = config.scalar("backend").or(config.scalar("platform"));
        if let Some(other) = runs.filter(|runs| !matches!(*runs, "" | "pytorch" | "pytorch_libtorch")) {
            return Err(format!("it is for {other:?}: pytorch and pytorch_libtorch are known"));
        }
        let batched = config.scalar("max_batch_size").unwrap_or("0") != "0";
        let (input, output) = (only(&config, "input")?, only(&config, "output")?);
        let dims = input.map(|input| dims(input, "input", batched)).transpose()?.unwrap_or_default();
        if let Some(format) = input.and_then(|input| input.scalar("format")).filter(|f| *f == "FORMAT_NHWC") {
            return Err(format!("its input has `format: {format}`: trawl's models get FORMAT_NCHW"));
        }
        let sides = match dims[..] {
            [] => [None; 2],
            [Some(3) | None, height, width] => [height, width],
            _ => {
                return Err(format!(
                    "its input has `dims` {}: 3, height and width were expected",
                    shown(&dims)
                ));
            }
        };
        let dims =
            output.map(|output| self::dims(output, "output", batched)).transpose()?.unwrap_or_default();
        let classes = if let [classes] = dims[..] { classes.map(u64::from) } else { None };
        let labels =
            output.and_then(|output| output.scalar("label_filename")).filter(|name| !name.is_empty());
        if let Some(outside) =
            labels.filter(|name| name.starts_with('/') || name.split('/').any(|part| part == ".."))
        {
            return Err(format!(
                "its `label_filename` is {outside:?}, which is not below the model's folder"
            ));
        }
        let file = config.scalar("default_model_filename").filter(|name| !name.is_empty()).unwrap_or(MODEL);
        Ok(Self {
            name: config.scalar("name").filter(|name| !name.is_empty()).map(ToOwned::to_owned),
            file: file.to_owned(),
            labels: labels.map(ToOwned::to_owned),
            sides,
            classes,
            versions: versions(&config)?,
        })
    }

    /// The version to use: the highest there is, of those that the configuration allows.
    pub(crate) fn version(&self, there: &[u64]) -> Option<u64> {
        let allowed = |version: &u64| self.versions.as_ref().is_none_or(|only| only.contains(version));
        there.iter().copied().filter(allowed).max()
    }

    /// Whether a description fits; the error is a sentence's end.
    pub(crate) fn agree(&self, spec: &BundleSpec) -> Result<(), String> {
        for (said, crop, side) in
            [(self.sides[0], spec.input.crop[0], "height"), (self.sides[1], spec.input.crop[1], "width")]
        {
            if let Some(said) = said.filter(|said| *said != crop) {
                return Err(format!(
                    "its input's {side} is {said}, and the model's description has a crop of {crop}"
                ));
            }
        }
        let labels = spec.labels().len() as u64;
        if let Some(classes) = self.classes.filter(|classes| labels > 0 && *classes != labels) {
            return Err(format!("its output has {classes} numbers, and there are {labels} labels"));
        }
        Ok(())
    }
}

/// The one message of a field, if there is any.
fn only<'a>(config: &'a Message, field: &'a str) -> Result<Option<&'a Message>, String> {
    let mut all = config.messages(field);
    let first = all.next();
    match all.count() {
        0 => Ok(first),
        more => {
            Err(format!("it has {} of `{field}`: trawl gives a model images and takes one output", more + 1))
        }
    }
}

/// The shape of one image's input or output; `None` for a side of any length.
fn dims(message: &Message, field: &str, batched: bool) -> Result<Vec<Option<u32>>, String> {
    if let Some(kind) = message.scalar("data_type").filter(|kind| *kind != "TYPE_FP32") {
        return Err(format!(
            "its {field} has `data_type: {kind}`: TYPE_FP32 is what trawl's models take and give"
        ));
    }
    let side = |text: &str| match text {
        "-1" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| format!("its {field} has `dims` of {text:?}")),
    };
    let mut dims = message.scalars("dims").map(side).collect::<Result<Vec<_>, _>>()?;
    if !batched && !dims.is_empty() {
        // Without batches of the server's own the first number is the model's.
        if let Some(fixed) = dims.remove(0) {
            return Err(format!(
                "its {field} has a batch of {fixed} written into `dims`: trawl wants a model for any number of images (-1)"
            ));
        }
    }
    Ok(dims)
}

fn shown(dims: &[Option<u32>]) -> String {
    let side = |side: &Option<u32>| side.map_or("-1".to_owned(), |side| side.to_string());
    format!("[{}]", dims.iter().map(side).collect::<Vec<_>>().join(", "))
}

fn versions(config: &Message) -> Result<Option<Vec<u64>>, String> {
    let Some(specific) =
        config.messages("version_policy").flat_map(|policy| policy.messages("specific")).last()
    else {
        return Ok(None);
    };
    let version =
        |text: &str| text.parse().map_err(|_| format!("its `version_policy` names version {text:?}"));
    specific.scalars("versions").map(version).collect::<Result<Vec<u64>, _>>().map(Some)
}

/// A file of labels: one a line.
pub(crate) fn labels(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOGS: &str = r#"
        name: "dogs"  platform: "pytorch_libtorch"  max_batch_size: 16
        input [ { name: "INPUT__0" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, 192 ] } ]
        output [ { name: "OUTPUT__0" data_type: TYPE_FP32 dims: [ 2 ] label_filename: "dogs.txt" } ]
        instance_group [ { count: 2 kind: KIND_GPU } ]  dynamic_batching { }
    "#;

    #[test]
    fn a_configuration_says_shape_and_labels() {
        let config = Config::read(DOGS).unwrap();
        assert_eq!((config.name.as_deref(), config.labels.as_deref()), (Some("dogs"), Some("dogs.txt")));
        assert_eq!((config.sides, config.classes), ([Some(224), Some(192)], Some(2)));
        assert_eq!(config.version(&[1, 10, 9]), Some(10));
        let specific = DOGS.to_owned()
            + "version_policy: { specific: { versions: [1, 9] } } default_model_filename: 'm.pt'";
        let config = Config::read(&specific).unwrap();
        assert_eq!(
            (config.version(&[1, 9, 10]), config.version(&[2]), &*config.file),
            (Some(9), None, "m.pt")
        );
        assert_eq!(labels("a dog\r\na cat \n\n"), ["a dog", "a cat"]);
    }

    #[test]
    fn what_trawl_does_not_do_is_named() {
        for (from, to, word) in [
            ("pytorch_libtorch", "onnxruntime_onnx", "onnxruntime"),
            ("FORMAT_NCHW", "FORMAT_NHWC", "FORMAT_NHWC"),
            ("TYPE_FP32 format", "TYPE_UINT8 format", "TYPE_UINT8"),
            ("[ 3, 224, 192 ]", "[ 1, 224, 192 ]", "[1, 224, 192]"),
            ("max_batch_size: 16", "max_batch_size: 0", "batch of 3"),
            ("dynamic_batching", "ensemble_scheduling", "ensemble_scheduling"),
            ("dogs.txt", "../dogs.txt", "label_filename"),
            ("} ]\n        instance", "}, { } ]\n        instance", "2 of `output`"),
        ] {
            let text = DOGS.replace(from, to);
            assert_ne!(text, DOGS);
            let error = Config::read(&text).unwrap_err();
            assert!(error.contains(word), "{word}: {error}");
        }
    }
}
