//! What a model's outputs mean: the `head`, or the `heads`, of a bundle's `trawl.json`.
//!
//! Read by the producer to refuse what cannot be, by the worker to turn tensors into predictions, and by whoever makes
//! a bundle. The columns that follow from it are [`crate::results::schema`]'s. A word that this build does not know, or
//! one that means nothing for a head, is an error and never ignored: the rows would mean something else.
//!
//! A model of one head says so beside its name; one of several has a list, and every one in it a name, which its
//! columns begin with:
//!
//! ```json
//! {"version": 1, "name": "m", "head": "classification", "labels": ["cat", "dog"], "input": {}}
//! {"version": 1, "name": "m", "head": "multi_label", "threshold": 0.4, "labels": ["sun", "sea"], "input": {}}
//! {"version": 1, "name": "m", "head": "embedding", "dtype": "f16", "normalize": true, "input": {}}
//! {"version": 1, "name": "m", "head": "detection", "threshold": 0.3, "max_boxes": 50, "labels": ["car"], "input": {}}
//! {"version": 1, "name": "m", "head": "raw", "input": {}}
//! {"version": 1, "name": "m", "input": {}, "heads": [
//!   {"name": "species", "head": "classification", "output": "logits", "labels": ["cat", "dog"]},
//!   {"name": "look", "head": "embedding", "output": "features", "dtype": "f16"}]}
//! ```
//!
//! `output` says which of the model's outputs it is: the place in a tuple, or the key in a dict. It may be left out
//! where the model gives one tensor. A detection has three, boxes `[N, K, 4]` (x0, y0, x1, y1 in pixels of the model's
//! input), scores `[N, K]` and class indices `[N, K]`: `"output": ["boxes", "scores", "labels"]` or `[0, 1, 2]`, which
//! are also what is looked for where it is left out.

use serde::{Deserialize, Serialize};

/// The probability from which a label is given, unless the bundle says so.
pub const DEFAULT_LABEL_THRESHOLD: f32 = 0.5;

/// The score from which a box is given, unless the bundle says so.
pub const DEFAULT_BOX_THRESHOLD: f32 = 0.25;

/// Boxes of an image, unless the bundle says so.
pub const DEFAULT_MAX_BOXES: u32 = 100;

/// Boxes of an image that a bundle may ask for: a row of more is no row.
const MOST_BOXES: u32 = 10_000;

/// Heads of a model: each adds up to four columns.
const MOST_HEADS: usize = 16;

/// The longest name of a head, in characters: it is the beginning of column names.
const MAX_HEAD_NAME: usize = 32;

/// What an output means.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Head {
    /// Logits `[N, classes]`; softmax and top-k are ours.
    Classification,
    /// Logits `[N, labels]`, each label for itself: the sigmoid is ours.
    MultiLabel {
        /// The probability from which a label is given.
        threshold: f32,
    },
    /// A vector `[N, d]`.
    Embedding {
        /// How it is stored.
        dtype: VectorType,
        /// Whether its length is made 1.
        normalize: bool,
    },
    /// Boxes, scores and class indices.
    Detection {
        /// The score from which a box is given.
        threshold: f32,
        /// Boxes of an image at most, those of the best scores.
        max_boxes: u32,
    },
    /// Anything `[N, ...]`, stored flattened with its shape.
    Raw,
}

/// The numbers of a stored vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VectorType {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats: half the bytes, three digits, numbers up to 65,504.
    F16,
}

impl Head {
    /// An embedding as it is stored where nothing is said.
    pub const EMBEDDING: Self = Self::Embedding { dtype: VectorType::F32, normalize: false };

    /// The word for it in `trawl.json`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Classification => "classification",
            Self::MultiLabel { .. } => "multi_label",
            Self::Embedding { .. } => "embedding",
            Self::Detection { .. } => "detection",
            Self::Raw => "raw",
        }
    }

    /// The tensors that it is made of.
    pub fn tensors(self) -> usize {
        if matches!(self, Self::Detection { .. }) { 3 } else { 1 }
    }

    /// Whether its answers are classes, which have names.
    pub fn has_labels(self) -> bool {
        matches!(self, Self::Classification | Self::MultiLabel { .. } | Self::Detection { .. })
    }
}

/// One head of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadSpec {
    /// What its columns begin with; `None` for the only head of a model, whose columns have plain names.
    pub name: Option<String>,
    /// What it means.
    pub head: Head,
    /// Class names in the order of the output; may be empty.
    pub labels: Vec<String>,
    /// Which tensors of the model's it is made of, as [`Head::tensors`] counts them; `None` where nothing is said.
    pub output: Option<Vec<OutputRef>>,
}

/// One of a model's outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OutputRef {
    /// Its place in a tuple.
    Index(u32),
    /// Its key in a dict.
    Key(String),
}

/// Where one tensor is looked for in what a model returns: by its key in a dict, by its place in a tuple; with neither
/// it must be the only one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slot {
    /// The key.
    pub key: Option<String>,
    /// The place.
    pub index: Option<u32>,
}

impl HeadSpec {
    /// The only head of a model.
    pub fn only(head: Head, labels: Vec<String>) -> Self {
        Self { name: None, head, labels, output: None }
    }

    /// What the names of its columns begin with: nothing, or `NAME_`.
    pub fn prefix(&self) -> String {
        self.name.as_ref().map(|name| format!("{name}_")).unwrap_or_default()
    }

    /// Its tensors, in the order that it wants them in.
    pub fn slots(&self) -> Vec<Slot> {
        let slot = |output: &OutputRef| match output {
            OutputRef::Index(index) => Slot { key: None, index: Some(*index) },
            OutputRef::Key(key) => Slot { key: Some(key.clone()), index: None },
        };
        match (&self.output, self.head) {
            (Some(outputs), _) => outputs.iter().map(slot).collect(),
            (None, Head::Detection { .. }) => (0..)
                .zip(["boxes", "scores", "labels"])
                .map(|(index, key)| Slot { key: Some(key.to_owned()), index: Some(index) })
                .collect(),
            (None, _) => vec![Slot::default()],
        }
    }
}

/// A head as it is written; which fields may be there depends on the head.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenHead {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    head: String,
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    output: Option<WrittenOutput>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    threshold: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max_boxes: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dtype: Option<VectorType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    normalize: Option<bool>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum WrittenOutput {
    One(OutputRef),
    Several(Vec<OutputRef>),
}

impl From<&HeadSpec> for WrittenHead {
    fn from(spec: &HeadSpec) -> Self {
        let output = spec.output.clone().map(|mut outputs| match outputs.len() {
            1 => WrittenOutput::One(outputs.remove(0)),
            _ => WrittenOutput::Several(outputs),
        });
        let mut written = Self {
            name: spec.name.clone(),
            head: spec.head.word().to_owned(),
            labels: spec.labels.clone(),
            output,
            ..Self::default()
        };
        match spec.head {
            Head::Classification | Head::Raw => {}
            Head::MultiLabel { threshold } => written.threshold = Some(threshold),
            Head::Embedding { dtype, normalize } => {
                written.dtype = (dtype != VectorType::default()).then_some(dtype);
                written.normalize = normalize.then_some(true);
            }
            Head::Detection { threshold, max_boxes } => {
                (written.threshold, written.max_boxes) = (Some(threshold), Some(max_boxes));
            }
        }
        written
    }
}

impl WrittenHead {
    /// The head that was meant; the error is a sentence's end.
    pub(super) fn meant(self) -> Result<HeadSpec, String> {
        let threshold = |default| {
            let threshold = self.threshold.unwrap_or(default);
            let fits = (0.0..=1.0).contains(&threshold);
            fits.then_some(threshold)
                .ok_or_else(|| format!("a threshold of {threshold} is not within 0 to 1"))
        };
        let head = match self.head.as_str() {
            "classification" => Head::Classification,
            "multi_label" => Head::MultiLabel { threshold: threshold(DEFAULT_LABEL_THRESHOLD)? },
            "embedding" => Head::Embedding {
                dtype: self.dtype.unwrap_or_default(),
                normalize: self.normalize.unwrap_or(false),
            },
            "detection" => {
                let max_boxes = self.max_boxes.unwrap_or(DEFAULT_MAX_BOXES);
                if !(1..=MOST_BOXES).contains(&max_boxes) {
                    return Err(format!("max_boxes of {max_boxes} is not within 1 to {MOST_BOXES}"));
                }
                Head::Detection { threshold: threshold(DEFAULT_BOX_THRESHOLD)?, max_boxes }
            }
            "raw" => Head::Raw,
            other => {
                return Err(format!(
                    "its head `{other}` is none of classification, multi_label, embedding, detection and raw"
                ));
            }
        };
        self.check_fields(head)?;
        let output = match self.output {
            None => None,
            Some(WrittenOutput::One(output)) => Some(vec![output]),
            Some(WrittenOutput::Several(outputs)) => Some(outputs),
        };
        if let Some(outputs) = &output
            && outputs.len() != head.tensors()
        {
            return Err(format!(
                "the head `{}` is made of {} output(s), `output` names {}",
                head.word(),
                head.tensors(),
                outputs.len()
            ));
        }
        Ok(HeadSpec { name: self.name, head, labels: self.labels, output })
    }

    /// Refuses a field that means nothing for `head`.
    fn check_fields(&self, head: Head) -> Result<(), String> {
        let vector = matches!(head, Head::Embedding { .. });
        let boxes = matches!(head, Head::Detection { .. });
        let given = [
            ("threshold", self.threshold.is_some(), boxes || matches!(head, Head::MultiLabel { .. })),
            ("max_boxes", self.max_boxes.is_some(), boxes),
            ("dtype", self.dtype.is_some(), vector),
            ("normalize", self.normalize.is_some(), vector),
        ];
        match given.iter().find(|(_, given, meant)| *given && !meant) {
            Some((field, ..)) => Err(format!("`{field}` means nothing for the head `{}`", head.word())),
            None => Ok(()),
        }
    }
}

/// Checks what the heads of one model must be together; the error is a sentence's end.
pub(super) fn check_heads(heads: &[HeadSpec]) -> Result<(), String> {
    if heads.is_empty() || heads.len() > MOST_HEADS {
        return Err(format!("it has {} heads, 1 to {MOST_HEADS} are possible", heads.len()));
    }
    for (place, head) in heads.iter().enumerate() {
        let Some(name) = &head.name else {
            // That one of several needs a name was said before.
            continue;
        };
        let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if name.len() > MAX_HEAD_NAME
            || !name.bytes().next().is_some_and(|b| b.is_ascii_lowercase())
            || !name.bytes().all(letter)
        {
            return Err(format!(
                "the head's name `{name}` cannot begin a column's: use 1 to {MAX_HEAD_NAME} of a-z, 0-9 and `_`, \
                 beginning with a letter"
            ));
        }
        if heads[..place].iter().any(|other| other.name.as_ref() == Some(name)) {
            return Err(format!("two heads are named `{name}`"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::BundleSpec;
    use super::*;
    use serde_json::{Value, json};

    #[allow(clippy::needless_pass_by_value, reason = "it is written on the spot")]
    fn parse(heads: Value) -> Result<Vec<HeadSpec>, String> {
        let mut spec = json!({"version": 1, "name": "m", "input": {"crop": [8, 8], "resize_mode": "squash",
            "interpolation": "bilinear", "mean": [0, 0, 0], "std": [1, 1, 1]}});
        spec.as_object_mut().unwrap().extend(heads.as_object().unwrap().clone());
        let parsed = BundleSpec::parse(spec.to_string().as_bytes())?;
        // What is written is read again as the same.
        let again = BundleSpec::parse(&serde_json::to_vec(&parsed).unwrap()).unwrap();
        assert_eq!(again, parsed);
        Ok(parsed.heads)
    }

    fn one(head: Value) -> HeadSpec {
        let mut heads = parse(head).unwrap();
        assert_eq!(heads.len(), 1);
        heads.remove(0)
    }

    #[test]
    fn each_head_has_its_settings_or_their_defaults() {
        let head = one(json!({"head": "classification", "labels": ["a"]}));
        assert_eq!(head, HeadSpec::only(Head::Classification, vec!["a".into()]));
        assert_eq!(one(json!({"head": "multi_label"})).head, Head::MultiLabel { threshold: 0.5 });
        assert_eq!(
            one(json!({"head": "multi_label", "threshold": 0.25})).head,
            Head::MultiLabel { threshold: 0.25 }
        );
        assert_eq!(one(json!({"head": "embedding"})).head, Head::EMBEDDING);
        assert_eq!(
            one(json!({"head": "embedding", "dtype": "f16", "normalize": true})).head,
            Head::Embedding { dtype: VectorType::F16, normalize: true }
        );
        assert_eq!(
            one(json!({"head": "detection", "max_boxes": 7})).head,
            Head::Detection { threshold: DEFAULT_BOX_THRESHOLD, max_boxes: 7 }
        );
        assert_eq!(one(json!({"head": "raw", "labels": []})).head, Head::Raw);
    }

    #[test]
    fn several_heads_have_names_and_say_where_their_tensors_are() {
        let heads = parse(json!({"heads": [
            {"name": "species", "head": "classification", "output": "logits", "labels": ["x"]},
            {"name": "look", "head": "embedding", "output": 1},
            {"name": "things", "head": "detection", "output": ["b", "s", "l"]},
            {"name": "more", "head": "detection"},
        ]}))
        .unwrap();
        assert_eq!(heads[0].prefix(), "species_");
        let key = |key: &str| Slot { key: Some(key.into()), index: None };
        assert_eq!(heads[0].slots(), [key("logits")]);
        assert_eq!(heads[1].slots(), [Slot { key: None, index: Some(1) }]);
        assert_eq!(heads[2].slots(), [key("b"), key("s"), key("l")]);
        assert_eq!(heads[3].slots()[2], Slot { key: Some("labels".into()), index: Some(2) });
        assert_eq!(one(json!({"head": "raw"})).slots(), [Slot::default()]);
        // A list of one has a prefix all the same: that is what the name is for.
        assert_eq!(parse(json!({"heads": [{"name": "a", "head": "raw"}]})).unwrap()[0].prefix(), "a_");
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let refused = |heads: Value, words: &str| {
            let error = parse(heads.clone()).unwrap_err();
            assert!(error.contains(words), "{heads}: {error}");
        };
        refused(json!({}), "head");
        refused(json!({"head": "segmentation"}), "segmentation");
        refused(json!({"head": "raw", "heads": [{"name": "a", "head": "raw"}]}), "both");
        refused(json!({"heads": [], }), "0 heads");
        refused(json!({"heads": [{"head": "raw"}, {"name": "a", "head": "raw"}]}), "needs a `name`");
        refused(json!({"heads": [{"head": "raw"}]}), "needs a `name`");
        refused(json!({"heads": [{"name": "a", "head": "raw"}, {"name": "a", "head": "raw"}]}), "named `a`");
        for name in ["", "A", "1a", "a-b", &"a".repeat(33)] {
            refused(json!({"heads": [{"name": name, "head": "raw"}]}), "cannot begin a column's");
        }
        refused(json!({"head": "raw", "name_": 1}), "name_");
        refused(json!({"head": "classification", "threshold": 0.5}), "`threshold` means nothing");
        refused(json!({"head": "raw", "dtype": "f16"}), "`dtype` means nothing");
        refused(json!({"head": "embedding", "dtype": "f8"}), "f8");
        refused(json!({"head": "embedding", "max_boxes": 3}), "`max_boxes` means nothing");
        refused(json!({"head": "multi_label", "threshold": 1.5}), "1.5");
        refused(json!({"head": "detection", "max_boxes": 0}), "max_boxes of 0");
        refused(json!({"head": "detection", "output": "boxes"}), "3 output(s)");
        refused(json!({"head": "raw", "output": [0, 1]}), "1 output(s)");
    }
}
