//! A model bundle: one TorchScript or `torch.export` file that describes itself.
//!
//! The producer reads it to refuse a bad model before anything is enqueued, the worker to know how to make
//! pixels and what to do with the output. Only the zip directory and `trawl.json` are read here; the code
//! in the file is run by libtorch alone, in the worker, after its digest was checked.

pub(crate) mod beside;
mod describe;
mod fields;
pub mod head;
mod hugging_face;
mod input;
mod text_proto;
mod timm;
pub(crate) mod triton;

pub use describe::add_description;
pub use head::{Head, HeadSpec, OutputRef, VectorType};
pub use input::{Centre, InputSpec, Interpolation, Resize, ResizeMode};

use head::{WrittenHead, check_heads};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    fs::File,
    io::{Read, Seek},
    path::{Path, PathBuf},
};

/// The version of `trawl.json` that this build reads.
pub const BUNDLE_VERSION: u32 = 1;

/// The extra file's name.
pub const EXTRA_NAME: &str = "trawl.json";

/// A `trawl.json` of more bytes is refused: 100,000 labels of 100 bytes fit ten times.
const MAX_SPEC_BYTES: u64 = 100 << 20;

/// What a bundle says of itself.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "serde_json::Value")]
pub struct BundleSpec {
    /// [`BUNDLE_VERSION`].
    pub version: u32,
    /// For people.
    pub name: String,
    /// What the outputs mean; never empty. How they are written: [`head`].
    pub heads: Vec<HeadSpec>,
    /// How pixels are made.
    pub input: InputSpec,
}

/// A bundle's description as it is written, with its only head's fields beside the others or with a list of heads.
#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    name: &'a str,
    #[serde(flatten)]
    head: Option<WrittenHead>,
    #[serde(skip_serializing_if = "Option::is_none")]
    heads: Option<Vec<WrittenHead>>,
    input: &'a InputSpec,
}

impl Serialize for BundleSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { version, name, heads, input } = self;
        let mut written: Vec<WrittenHead> = heads.iter().map(WrittenHead::from).collect();
        let only = matches!(&heads[..], [head] if head.name.is_none());
        let (head, heads) = if only { (written.pop(), None) } else { (None, Some(written)) };
        Written { version: *version, name, head, heads, input }.serialize(serializer)
    }
}

impl TryFrom<serde_json::Value> for BundleSpec {
    type Error = String;

    fn try_from(value: serde_json::Value) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Common {
            version: u32,
            name: String,
            input: InputSpec,
        }
        let serde_json::Value::Object(mut head) = value else { return Err("it is no JSON object".into()) };
        let mut common = serde_json::Map::new();
        for field in ["version", "name", "input"] {
            common.extend(head.remove_entry(field));
        }
        let words = |e: serde_json::Error| e.to_string();
        let Common { version, name, input } = serde_json::from_value(common.into()).map_err(words)?;
        let heads = match head.remove("heads") {
            Some(_) if head.contains_key("head") => return Err("it has both `head` and `heads`".into()),
            Some(heads) => {
                if let Some(field) = head.keys().next() {
                    return Err(format!("`{field}` belongs to one of the `heads`"));
                }
                let written: Vec<WrittenHead> = serde_json::from_value(heads).map_err(words)?;
                written.into_iter().map(WrittenHead::meant).collect::<Result<Vec<_>, _>>()?
            }
            None => {
                let written: WrittenHead = serde_json::from_value(head.into()).map_err(words)?;
                let only = written.meant()?;
                check_heads(std::slice::from_ref(&only))?;
                return Ok(Self { version, name, heads: vec![only], input });
            }
        };
        if heads.iter().any(|head| head.name.is_none()) {
            return Err("every one of the `heads` needs a `name`, which its columns begin with".into());
        }
        check_heads(&heads)?;
        Ok(Self { version, name, heads, input })
    }
}

/// A file that is no bundle, with the fix.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Cannot be opened.
    #[error("the model `{path}` cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's words.
        reason: String,
    },
    /// No zip archive, or one of neither format.
    #[error(
        "the model `{path}` is not TorchScript and no torch.export file ({reason}): make a bundle with `python worker/models/export.py`"
    )]
    NotTorchScript {
        /// The file.
        path: PathBuf,
        /// What was missing.
        reason: String,
    },
    /// A model without a description.
    #[error(
        "the model `{path}` does not say how images are prepared: it has no `trawl.json` inside and there is no \
         {beside} beside it; make a bundle with `python worker/models/export.py`"
    )]
    NoSpec {
        /// The file.
        path: PathBuf,
        /// The name looked for beside it.
        beside: String,
    },
    /// A description that does not hold.
    #[error("the description of the model `{path}` is not usable: {reason}")]
    BadSpec {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl BundleSpec {
    /// Reads the description inside the bundle at `path`. One that lies beside it is [`crate::model_import`]'s business.
    ///
    /// # Errors
    /// [`BundleError`]. Blocking: reads the zip directory and one member.
    pub fn read(path: &Path) -> Result<Self, BundleError> {
        let Archive { mut zip, root, .. } = Archive::open(path)?;
        let unreadable =
            |e: std::io::Error| BundleError::Unreadable { path: path.into(), reason: e.to_string() };
        let Ok(member) = zip.by_name(&format!("{root}/extra/{EXTRA_NAME}")) else {
            let beside = path.with_extension("json");
            let beside = beside.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Err(BundleError::NoSpec { path: path.into(), beside });
        };
        let json = read_limited(member).map_err(unreadable)?;
        Self::parse(&json).map_err(|reason| BundleError::BadSpec { path: path.into(), reason })
    }

    /// Parses and checks a `trawl.json`; the error is a sentence's end.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(json: &[u8]) -> Result<Self, String> {
        let value: serde_json::Value =
            serde_json::from_slice(json).map_err(|e| format!("it is not JSON: {e}"))?;
        match value.get("version").and_then(serde_json::Value::as_u64) {
            Some(v) if v == u64::from(BUNDLE_VERSION) => {}
            Some(v) => return Err(format!("it has version {v}, this trawl reads {BUNDLE_VERSION}")),
            None => return Err("it has no version".into()),
        }
        let spec = Self::try_from(value)?;
        spec.input.check()?;
        Ok(spec)
    }

    /// The labels of its first head that has any.
    pub fn labels(&self) -> &[String] {
        self.heads.iter().map(|head| &head.labels[..]).find(|labels| !labels.is_empty()).unwrap_or_default()
    }

    /// The words for its heads: `classification`, or `classification + embedding`.
    pub fn heads_in_words(&self) -> String {
        self.heads.iter().map(|head| head.head.word()).collect::<Vec<_>>().join(" + ")
    }
}

/// The names that models' files end with.
const SUFFIXES: [&str; 3] = [".pt", ".pt2", ".pth"];

/// Whether a name is a model file's.
pub(crate) fn has_suffix(name: &str) -> bool {
    SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// A file's name without the ending of models.
pub(crate) fn stem(name: &str) -> &str {
    SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

/// What a bundle's model is written in; both carry their description in the same place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BundleFormat {
    /// `torch.jit.save`.
    TorchScript,
    /// `torch.export.save`: a graph, no code.
    Exported,
}

impl BundleFormat {
    /// The format of the bundle at `path`, by what is in it; names tell nothing, since caches name bundles by their
    /// digest.
    ///
    /// # Errors
    /// [`BundleError`]. Blocking: reads the zip directory.
    pub fn of(path: &Path) -> Result<Self, BundleError> {
        Archive::open(path).map(|archive| archive.format)
    }
}

/// Bytes of the tensors in the bundle at `path`.
///
/// # Errors
/// [`BundleError`]. Blocking: reads the zip directory.
pub fn weight_bytes(path: &Path) -> Result<u64, BundleError> {
    /// Below a bundle's root: TorchScript's parameters and constants, and those of `torch.export`.
    const FOLDERS: [&str; 4] = ["/data/", "/constants/", "/data/weights/", "/data/constants/"];
    let Archive { mut zip, root, .. } = Archive::open(path)?;
    let mut sum = 0;
    for index in 0..zip.len() {
        let Ok(member) = zip.by_index_raw(index) else { continue };
        let Ok(name) = member.name() else { continue };
        let tensor = name.strip_prefix(&root).is_some_and(|name| {
            FOLDERS.iter().any(|folder| name.strip_prefix(folder).is_some_and(is_tensor))
        });
        sum += if tensor { member.size() } else { 0 };
    }
    Ok(sum)
}

/// Whether a member of a folder of tensors is one: numbered by TorchScript, named by `torch.export`.
fn is_tensor(name: &str) -> bool {
    !name.contains('/')
        && (name.bytes().all(|b| b.is_ascii_digit())
            || name.starts_with("weight_")
            || name.starts_with("tensor_"))
}

/// A bundle's zip directory.
struct Archive {
    zip: zip::ZipArchive<File>,
    /// The folder that all members are in.
    root: String,
    format: BundleFormat,
}

impl Archive {
    fn open(path: &Path) -> Result<Self, BundleError> {
        let unreadable =
            |e: std::io::Error| BundleError::Unreadable { path: path.into(), reason: e.to_string() };
        let file = File::open(path).map_err(unreadable)?;
        if file.metadata().map_err(unreadable)?.is_dir() {
            return Err(BundleError::Unreadable { path: path.into(), reason: "it is a folder".into() });
        }
        let not_torch = |reason: String| BundleError::NotTorchScript { path: path.into(), reason };
        let zip = open_archive(file).map_err(|e| not_torch(format!("it is no zip archive: {e}")))?;
        let names: Vec<String> = zip.file_names().filter_map(Result::ok).map(Cow::into_owned).collect();
        let root_of =
            |member: &str| names.iter().find_map(|name| Some(name.strip_suffix(member)?.to_owned()));
        if let Some(root) = root_of("/models/model.json") {
            return Ok(Self { zip, root, format: BundleFormat::Exported });
        }
        if names.iter().any(|name| name.contains("/data/aotinductor/")) {
            return Err(not_torch("it is an AOTInductor package, compiled for one kind of machine".into()));
        }
        let root = root_of("/constants.pkl").ok_or_else(|| not_torch("it has no constants.pkl".into()))?;
        if !names.iter().any(|name| name.starts_with(&format!("{root}/code/"))) {
            return Err(not_torch("it has no code: it may be a plain torch.save of weights".into()));
        }
        Ok(Self { zip, root, format: BundleFormat::TorchScript })
    }
}

/// Opens an archive that begins where its file does. zip's own search for the beginning takes the second entry of a
/// directory for the first if the first is 76 bytes long, the length of the zip64 records that torch always writes: so
/// it would refuse every bundle of `torch.jit.save` whose name has 13 letters ("Invalid Central Directory header").
///
/// # Errors
/// zip's.
pub fn open_archive<R: Read + Seek>(file: R) -> zip::result::ZipResult<zip::ZipArchive<R>> {
    zip::ZipArchive::with_config(AT_START, file)
}

/// See [`open_archive`].
pub const AT_START: zip::read::Config =
    zip::read::Config { archive_offset: zip::read::ArchiveOffset::Known(0) };

fn read_limited(source: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(MAX_SPEC_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}
