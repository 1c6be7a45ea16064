//! Which of the files beside a model describes it, and what they say together.
//!
//! For [`crate::model_import`], which fetches them; nothing is read from disk here. There must be one description and not two.

use super::{
    BUNDLE_VERSION, BundleSpec,
    fields::Fields,
    hugging_face::{self},
    timm,
};
use serde_json::Value;

pub(crate) use super::hugging_face::{CONFIG, PROCESSOR};

/// A file's place and its bytes.
type Given = (String, Vec<u8>);

/// What lies in one folder.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// What the model is called, unless a file says so.
    pub(crate) name: String,
    /// `NAME.json`.
    pub(crate) own: Option<Given>,
    /// `config.json`.
    pub(crate) config: Option<Given>,
    /// `preprocessor_config.json`.
    pub(crate) processor: Option<Given>,
    /// A file of labels, which Triton's configuration named.
    pub(crate) labels: Option<(String, Vec<String>)>,
}

/// The file and what is wrong with it.
type Wrong = (String, String);

impl Beside {
    /// The description and the files that it is from; none if no file has one.
    pub(crate) fn describe(self) -> Option<Result<(BundleSpec, Vec<String>), Wrong>> {
        match (&self.own, &self.config, &self.processor) {
            (None, None, None) => None,
            (None, None, Some((processor, _))) => {
                Some(Err((processor.clone(), format!("there is no {CONFIG} with the classes beside it"))))
            }
            _ => Some(self.read()),
        }
    }

    fn read(self) -> Result<(BundleSpec, Vec<String>), Wrong> {
        let Self { name, own, config, processor, labels } = self;
        let mut files = Vec::new();
        let mut spec = if let Some((file, json)) = own {
            files.push(file.clone());
            ours(&json, &name).map_err(|reason| (file, reason))?
        } else {
            let (file, json) = config.unwrap_or_default();
            files.push(file.clone());
            let config = object(&json).map_err(|reason| (file.clone(), reason))?;
            let processor = processor
                .map(|(at, json)| {
                    let read = object(&json).map_err(|reason| (at.clone(), reason));
                    files.push(at);
                    read
                })
                .transpose()?;
            let fields = Fields(&config);
            if fields.get("pretrained_cfg").is_some() {
                if processor.is_some() {
                    let reason = format!(
                        "it has timm's `pretrained_cfg` and there is a {PROCESSOR}: remove the one that is not true"
                    );
                    return Err((file, reason));
                }
                timm::describe(fields, &name).map_err(|reason| (file, reason))?
            } else {
                hugging_face::describe(fields, processor.as_ref().map(Fields), &name)
                    .map_err(|reason| (files.join(" and "), reason))?
            }
        };
        spec.input.check().map_err(|reason| (files.join(" and "), reason))?;
        if let Some((file, labels)) = labels {
            // Labels beside a model are those of its only head that has classes.
            let unnamed = spec.heads.iter_mut().find(|head| head.head.has_labels());
            if let Some(head) = unnamed.filter(|head| head.labels.is_empty()) {
                head.labels = labels;
            } else if spec.labels() != labels {
                return Err((
                    file,
                    "its labels differ from those of the model's description: remove one of them".into(),
                ));
            }
            files.push(file);
        }
        Ok((spec, files))
    }
}

/// `NAME.json`: a `trawl.json`, in which the name may be left out.
fn ours(json: &[u8], name: &str) -> Result<BundleSpec, String> {
    let mut object = object(json)?;
    if object.contains_key("pretrained_cfg") || object.contains_key("image_processor_type") {
        return Err(format!("it looks like somebody else's: name it {CONFIG} or {PROCESSOR}"));
    }
    object.entry("name").or_insert_with(|| name.into());
    object.entry("version").or_insert_with(|| BUNDLE_VERSION.into());
    BundleSpec::parse(Value::Object(object).to_string().as_bytes())
}

fn object(json: &[u8]) -> Result<serde_json::Map<String, Value>, String> {
    match serde_json::from_slice(json) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("it is no JSON object".into()),
        Err(error) => Err(format!("it is not JSON: {error}")),
    }
}
