//! What a job is: the spec that is written once, before anything is published, and read by every worker.
//!
//! `OUT/_trawl/job.json` is this type. Whatever changes a result is in here (decode, precision, top-k);
//! whatever changes only speed is a flag of the worker and must never be. Wire JSON, version 1: the
//! fixture in `common/fixtures/` is frozen, later versions must still read it.

use crate::{
    carried::CarriedColumn,
    selection::Selection,
    trace::{self, TraceContext},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{fmt, str::FromStr};

/// The version of [`JobSpec`] that this build writes.
pub const JOB_SPEC_VERSION: u32 = 1;

/// The longest id or queue name: it becomes part of Redis keys, queue names and file names.
const MAX_NAME_LEN: usize = 64;

/// A name that is not fit for keys, queues and file names.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{value}` is not a valid {what}: use 1 to 64 of a-z, A-Z, 0-9, `.`, `_` and `-`, beginning with a letter or digit"
)]
pub struct InvalidName {
    what: &'static str,
    value: String,
}

fn checked_name(what: &'static str, value: &str) -> Result<String, InvalidName> {
    let fits = !value.is_empty()
        && value.len() <= MAX_NAME_LEN
        && value.as_bytes()[0].is_ascii_alphanumeric()
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if fits {
        Ok(value.to_owned())
    } else {
        Err(InvalidName { what, value: value.chars().take(80).collect() })
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(value: &str) -> Result<Self, InvalidName> {
                checked_name($what, value).map(Self)
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidName;
            fn try_from(value: String) -> Result<Self, InvalidName> {
                value.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// Names a job everywhere: messages, ledger keys, part footers.
    JobId,
    "job id"
);
name_type!(
    /// A lane of work that workers subscribe to; the broker's queue is `trawl.<name>`.
    QueueName,
    "queue name"
);

/// How pixels are made from an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Decode {
    /// The pixels that Pillow and torchvision give, bit for bit where the formats define them.
    Exact,
    /// Scaled decode and a quicker resize: close, not equal.
    Fast,
}

/// What becomes of an image that ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Truncated {
    /// An error row with the code `truncated`, as Pillow refuses it.
    Reject,
    /// Predict on what is there; the row says so.
    Accept,
}

/// Whether the EXIF orientation turns the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Orient {
    /// Pixels as stored, as torchvision loads them.
    None,
    /// Turned as viewers show them.
    Exif,
}

/// The number format of the forward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    Fp32,
    /// 16-bit floats; CUDA only.
    Fp16,
    /// bfloat16; CUDA only.
    Bf16,
}

/// A model by place and digest; a worker loads nothing whose digest differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRef {
    /// Where the bundle is: an absolute path or an `s3://` URL.
    pub location: String,
    /// Hex sha256 of the bundle file.
    pub sha256: String,
}

/// Everything that decides a job's rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// [`JOB_SPEC_VERSION`].
    pub version: u32,
    /// The job's name.
    pub job: JobId,
    /// The lane whose workers take it.
    pub queue: QueueName,
    /// Folders, files, globs or `s3://` prefixes, as they were given.
    pub sources: Vec<String>,
    /// The folder that relative sources (and the keys below them) start from.
    pub base_dir: String,
    /// Globs a key must match one of; empty: names with an image extension.
    pub include: Vec<String>,
    /// Globs that leave a key out.
    pub exclude: Vec<String>,
    /// How the sources are read.
    #[serde(default, skip_serializing_if = "Selection::is_default")]
    pub select: Selection,
    /// Columns that go from the source into the rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carry: Vec<CarriedColumn>,
    /// At most this many images.
    pub limit: Option<u64>,
    /// Images in one batch.
    pub batch_size: u32,
    /// Where the results go: an absolute folder or an `s3://` prefix, without a trailing slash.
    pub out: String,
    /// The model.
    pub model: ModelRef,
    /// Classes kept per image.
    pub topk: u16,
    /// See [`Decode`].
    pub decode: Decode,
    /// See [`Truncated`].
    pub truncated: Truncated,
    /// See [`Orient`].
    pub orient: Orient,
    /// See [`Precision`].
    pub precision: Precision,
    /// When it was submitted, milliseconds since 1970; not part of the job's identity.
    pub created_unix_ms: u64,
    /// The trace of the submission, if it had one: batches that are queued later belong to it too. Not part of the
    /// job's identity.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "trace::lenient")]
    pub trace: Option<TraceContext>,
}

/// A job spec that this build cannot read.
#[derive(Debug, thiserror::Error)]
pub enum JobSpecError {
    /// Not JSON, or not of this shape.
    #[error("the job spec is not readable")]
    Json(#[from] serde_json::Error),
    /// Written by a later trawl.
    #[error("the job spec has version {found}, this trawl reads {JOB_SPEC_VERSION}: update trawl")]
    Version {
        /// The version found.
        found: u64,
    },
}

impl JobSpec {
    /// Reads `job.json`.
    ///
    /// # Errors
    /// [`JobSpecError`] if it is not JSON of a version that this build knows.
    pub fn parse(json: &[u8]) -> Result<Self, JobSpecError> {
        let value: serde_json::Value = serde_json::from_slice(json)?;
        let found = value.get("version").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if found != u64::from(JOB_SPEC_VERSION) {
            return Err(JobSpecError::Version { found });
        }
        Ok(serde_json::from_value(value)?)
    }

    /// The file's bytes.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("a job spec is plain data");
        json.push(b'\n');
        json
    }

    /// Whether both describe the same work: all but the name, the time of submission and the place of the
    /// model's file.
    pub fn same_work(&self, other: &JobSpec) -> bool {
        self.fingerprint() == other.fingerprint()
    }

    /// The names of the fields in which two specs differ, for an error message.
    pub fn differences(&self, other: &JobSpec) -> Vec<String> {
        let (a, b) = (self.identity(), other.identity());
        let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return Vec::new() };
        a.iter().filter(|(name, value)| b.get(*name) != Some(value)).map(|(name, _)| name.clone()).collect()
    }

    /// The id a job gets when none is given: the same work has the same id, so that submitting twice
    /// resumes instead of starting over.
    pub fn derived_id(&self) -> JobId {
        JobId(format!("job-{}", &self.fingerprint()[..12]))
    }

    /// Hex sha256 over what changes pixels and predictions, for part footers.
    pub fn preprocess_digest(&self) -> String {
        hex_sha256(
            format!("{:?}/{:?}/{:?}/{:?}", self.decode, self.truncated, self.orient, self.precision)
                .as_bytes(),
        )
    }

    fn identity(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).expect("a job spec is plain data");
        if let Some(fields) = value.as_object_mut() {
            fields.remove("job");
            fields.remove("created_unix_ms");
            fields.remove("trace");
            // The digest is the model; where its file lay is not.
            if let Some(model) = fields.get_mut("model").and_then(serde_json::Value::as_object_mut) {
                model.remove("location");
            }
        }
        value
    }

    fn fingerprint(&self) -> String {
        // serde_json keeps map keys sorted (no `preserve_order`), so equal specs give equal bytes.
        hex_sha256(self.identity().to_string().as_bytes())
    }
}

/// Lower-case hex sha256.
pub fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}
