//! The messages on the work queue: a batch of images, the request to queue more of them, or to finish a job.
//!
//! Made by the producer (a batch), by whoever was asked for more (batches and feed) or completes the last batch (finalize), parsed by the
//! worker's intake. Wire JSON, version 1, frozen by fixtures. A message that does not parse goes to the
//! dead letters on first sight; parsing must never panic or allocate beyond [`MAX_MESSAGE_BYTES`].

use crate::{
    carried::{Carried, MAX_CARRIED_BYTES, MAX_CARRIED_COLUMNS},
    job::JobId,
};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The version of the messages that this build writes.
pub const MESSAGE_VERSION: u32 = 1;

/// The largest message accepted: 10,000 images with keys of 1,024 bytes and room for JSON escapes.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The most images one batch may hold; a batch must stay far below the broker's 30-minute ack timeout.
pub const MAX_BATCH_IMAGES: usize = 10_000;

/// The longest key of an image and the longest output: a path has at most 4,096 bytes, a bucket's key 1,024, and
/// before them come scheme and bucket.
pub const MAX_NAME_BYTES: usize = 4_200;

/// The longest entity tag; S3's have some 40 bytes.
pub const MAX_ETAG_BYTES: usize = 1_024;

/// A SHA-256 in hexadecimal digits.
pub const MAX_DIGEST_BYTES: usize = 64;

/// The number of a batch in its job's plan, from 0; names its part file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BatchNumber(pub u64);

impl fmt::Display for BatchNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08}", self.0)
    }
}

/// One image of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRef {
    /// The whole name, as users join on it: `s3://bucket/a/b.jpg`, or the folder as given plus the path below. An
    /// image within an object is that object's name, `#`, and its own: `s3://bucket/0001.tar#a/b.jpg`.
    pub key: String,
    /// The store's entity tag at listing time: of the object, which may hold other images too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// Bytes of the image at listing time; 0 where nobody knew.
    pub size: u64,
    /// Where it lies, if it is not a whole object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<Within>,
    /// See [`crate::carried`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carried: Carried,
}

/// Where in an object an image lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Within {
    /// So many bytes at the beginning of the key name the object.
    pub object: u32,
    /// The place in it.
    pub at: Place,
}

/// A place in an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// From this byte on, as many as the image has: a member of a tar archive.
    Bytes(u64),
    /// Row group and row in it: a cell of a Parquet file.
    Row(u32, u32),
}

impl ImageRef {
    /// An image that is a whole object.
    pub fn whole(key: impl Into<String>, etag: Option<String>, size: u64) -> Self {
        Self { key: key.into(), etag, size, ..Self::default() }
    }

    /// The name of the object that it is, or lies in.
    pub fn object(&self) -> &str {
        // A message may say anything; what is no place in the key is the whole of it, which no store will have.
        self.within.and_then(|within| self.key.get(..within.object as usize)).unwrap_or(&self.key)
    }
}

/// One queue message of work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchDescriptor {
    /// The job it belongs to.
    pub job: JobId,
    /// Its number in the plan.
    pub batch: BatchNumber,
    /// The job's output, where the worker finds the spec.
    pub out: String,
    /// When the job was submitted, as in its spec: an output that was removed and submitted again is another
    /// job of the same name, and the messages of the old one must not write into it.
    pub created_unix_ms: u64,
    /// The digest the job was submitted with; a model is code and is never taken on a message's word alone.
    pub model_sha256: String,
    /// The images, in the order of the rows.
    pub images: Vec<ImageRef>,
}

/// Asks for the comparison of plan and parts, and for `_SUCCESS` when they agree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinalizeRequest {
    /// The job.
    pub job: JobId,
    /// Its output.
    pub out: String,
}

/// Asks for the next batches of a job to be queued, from its plan files. Lies among the batches that were queued with
/// it, so that the queue holds a few of each job and does not run dry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedRequest {
    /// The job.
    pub job: JobId,
    /// Its output.
    pub out: String,
    /// As in [`BatchDescriptor::created_unix_ms`].
    pub created_unix_ms: u64,
    /// The submission or repair that began it: only the latest one feeds a job.
    pub chain: u64,
    /// The plan file to go on with.
    pub file: u32,
    /// The first batch that is not queued yet.
    pub from: BatchNumber,
}

/// A parsed queue message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Images to predict.
    Batch(BatchDescriptor),
    /// More batches to queue.
    Feed(FeedRequest),
    /// A job to finish.
    Finalize(FinalizeRequest),
}

impl Message {
    /// The job that it is about.
    pub fn job(&self) -> &JobId {
        match self {
            Self::Batch(batch) => &batch.job,
            Self::Feed(request) => &request.job,
            Self::Finalize(request) => &request.job,
        }
    }
}

/// A message that cannot be worked on and never will be.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// Over [`MAX_MESSAGE_BYTES`].
    #[error("the message has {0} bytes, more than {MAX_MESSAGE_BYTES}")]
    TooLarge(usize),
    /// Over [`MAX_BATCH_IMAGES`], or empty.
    #[error("the batch has {0} images, it must have 1 to {MAX_BATCH_IMAGES}")]
    ImageCount(usize),
    /// A text longer than any that trawl writes.
    #[error("the message's `{field}` has {bytes} bytes, more than {limit}")]
    TooLong {
        /// Which of its fields.
        field: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Not JSON, or fields missing or unknown.
    #[error("the message is not readable")]
    Json(#[from] serde_json::Error),
    /// Written by another version of trawl.
    #[error("the message has version {0}, this worker reads {MESSAGE_VERSION}")]
    Version(u64),
    /// A kind this worker does not know.
    #[error("the message has the unknown kind `{0}`")]
    Kind(String),
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    v: u64,
    kind: String,
    body: T,
}

impl Message {
    /// The bytes that go to the broker.
    pub fn to_json(&self) -> Vec<u8> {
        let v = u64::from(MESSAGE_VERSION);
        let json = match self {
            Message::Batch(body) => serde_json::to_vec(&Envelope { v, kind: "batch".into(), body }),
            Message::Feed(body) => serde_json::to_vec(&Envelope { v, kind: "feed".into(), body }),
            Message::Finalize(body) => serde_json::to_vec(&Envelope { v, kind: "finalize".into(), body }),
        };
        json.expect("a message is plain data")
    }

    /// Reads what came from the broker. The version is looked at before the body, so that a message of a
    /// later version is named as such.
    ///
    /// # Errors
    /// [`MessageError`]; all of them are permanent.
    pub fn parse(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(MessageError::TooLarge(bytes.len()));
        }
        let head: Envelope<serde::de::IgnoredAny> = serde_json::from_slice(bytes)?;
        if head.v != u64::from(MESSAGE_VERSION) {
            return Err(MessageError::Version(head.v));
        }
        match head.kind.as_str() {
            "batch" => {
                let body = serde_json::from_slice::<Envelope<BatchDescriptor>>(bytes)?.body;
                match body.images.len() {
                    1..=MAX_BATCH_IMAGES => body.check().map(|()| Message::Batch(body)),
                    n => Err(MessageError::ImageCount(n)),
                }
            }
            "feed" => {
                let body = serde_json::from_slice::<Envelope<FeedRequest>>(bytes)?.body;
                bounded("out", &body.out, MAX_NAME_BYTES)?;
                Ok(Message::Feed(body))
            }
            "finalize" => {
                let body = serde_json::from_slice::<Envelope<FinalizeRequest>>(bytes)?.body;
                bounded("out", &body.out, MAX_NAME_BYTES)?;
                Ok(Message::Finalize(body))
            }
            _ => Err(MessageError::Kind(head.kind.chars().take(40).collect())),
        }
    }
}

impl BatchDescriptor {
    /// Refuses texts that go into rows, paths and logs and are longer than they can be.
    fn check(&self) -> Result<(), MessageError> {
        bounded("out", &self.out, MAX_NAME_BYTES)?;
        bounded("model_sha256", &self.model_sha256, MAX_DIGEST_BYTES)?;
        for image in &self.images {
            bounded("key", &image.key, MAX_NAME_BYTES)?;
            bounded("etag", image.etag.as_deref().unwrap_or_default(), MAX_ETAG_BYTES)?;
            if image.carried.len() > MAX_CARRIED_COLUMNS {
                let bytes = image.carried.len();
                return Err(MessageError::TooLong { field: "carried", bytes, limit: MAX_CARRIED_COLUMNS });
            }
            for value in image.carried.iter().flatten() {
                bounded("carried", value, MAX_CARRIED_BYTES)?;
            }
        }
        Ok(())
    }
}

fn bounded(field: &'static str, text: &str, limit: usize) -> Result<(), MessageError> {
    match text.len() {
        bytes if bytes > limit => Err(MessageError::TooLong { field, bytes, limit }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(images: usize) -> BatchDescriptor {
        BatchDescriptor {
            job: "j".parse().unwrap(),
            batch: BatchNumber(0),
            out: "/out".into(),
            created_unix_ms: 1,
            model_sha256: "0".repeat(MAX_DIGEST_BYTES),
            images: vec![ImageRef::whole("k", None, 1); images],
        }
    }

    fn parsed(batch: &BatchDescriptor) -> Result<Message, MessageError> {
        Message::parse(&Message::Batch(batch.clone()).to_json())
    }

    #[test]
    fn texts_and_counts_have_bounds() {
        assert!(parsed(&batch(MAX_BATCH_IMAGES)).is_ok());
        for images in [0, MAX_BATCH_IMAGES + 1] {
            assert!(matches!(parsed(&batch(images)), Err(MessageError::ImageCount(n)) if n == images));
        }
        type Set = fn(&mut BatchDescriptor, String);
        let cases: [(&str, usize, Set); 4] = [
            ("key", MAX_NAME_BYTES, |batch, text| batch.images[1].key = text),
            ("etag", MAX_ETAG_BYTES, |batch, text| batch.images[1].etag = Some(text)),
            ("out", MAX_NAME_BYTES, |batch, text| batch.out = text),
            ("model_sha256", MAX_DIGEST_BYTES, |batch, text| batch.model_sha256 = text),
        ];
        for (name, limit, set) in cases {
            let mut batch = batch(2);
            set(&mut batch, "x".repeat(limit));
            assert!(parsed(&batch).is_ok(), "{name}");
            set(&mut batch, "x".repeat(limit + 1));
            match parsed(&batch) {
                Err(MessageError::TooLong { field, bytes, .. }) => {
                    assert_eq!((field, bytes), (name, limit + 1));
                }
                other => panic!("{name}: {other:?}"),
            }
        }
        let finalize = FinalizeRequest { job: "j".parse().unwrap(), out: "x".repeat(MAX_NAME_BYTES + 1) };
        let told = Message::parse(&Message::Finalize(finalize).to_json());
        assert!(matches!(told, Err(MessageError::TooLong { field: "out", .. })), "{told:?}");
        assert!(matches!(Message::parse(&vec![b' '; MAX_MESSAGE_BYTES + 1]), Err(MessageError::TooLarge(_))));
    }

    #[test]
    fn depth_and_length_of_junk_cost_nothing() {
        let deep = [b"[".repeat(1 << 20), b"]".repeat(1 << 20)].concat();
        let body = [br#"{"v":1,"kind":"batch","body":"#, &deep[..], b"}"].concat();
        for junk in [deep, body] {
            assert!(matches!(Message::parse(&junk), Err(MessageError::Json(_))));
        }
        let kind = format!(r#"{{"v":1,"kind":"{}","body":0}}"#, "k".repeat(1 << 20));
        match Message::parse(kind.as_bytes()) {
            Err(MessageError::Kind(shown)) => assert_eq!(shown.len(), 40),
            other => panic!("{other:?}"),
        }
    }
}
