//! The storage seam: objects by key, in a bucket, a folder or memory.
//!
//! The bucket is the truth, so the contract is strict: a put is atomic and durable when it returns,
//! `put_if_absent` has one winner, a listing is in byte order of the keys and complete, and a missing key
//! is [`StorageError::NotFound`], never a transient error. Real: [`s3`] (aws-sdk-s3), [`local`] (folders),
//! [`object`] (GCS and Azure, by object_store), [`web`] (http, reading only). In memory: [`memory`]. All pass `contract::storage`. No type of a client library crosses this seam.

pub mod counted;
mod listing;
pub mod local;
pub mod memory;
pub mod object;
pub mod probe;
pub mod reader;
pub mod retry;
pub mod s3;
pub mod stores;
pub mod web;
mod wire;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use stores::Stores;

/// What can go wrong at a store, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No such object.
    #[error("`{key}` does not exist")]
    NotFound {
        /// The object, as a URL or path.
        key: String,
    },
    /// No such bucket or folder.
    #[error("{store} does not exist: check the name, or create it first")]
    NoSuchStore {
        /// The bucket's URL or the folder.
        store: String,
    },
    /// The store refuses us.
    #[error("access to `{key}` is refused: {reason}; check {} and the permissions", credentials_of(key))]
    Forbidden {
        /// The object or store.
        key: String,
        /// The store's words.
        reason: String,
    },
    /// More bytes than the caller allowed.
    #[error("`{key}` has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// The object.
        key: String,
        /// Its size.
        size: u64,
        /// The caller's limit.
        limit: u64,
    },
    /// Time-out, reset, 5xx, throttling: trying again may help.
    #[error("{store} did not answer as it should for `{key}`: {reason}")]
    Transient {
        /// The bucket's URL or the folder.
        store: String,
        /// The object.
        key: String,
        /// What kind of trouble it is.
        cause: Passing,
        /// What happened, without secrets.
        reason: String,
    },
    /// A key or URL that this store cannot express.
    #[error("`{key}` cannot be used: {reason}")]
    Invalid {
        /// The key or URL.
        key: String,
        /// Why.
        reason: String,
    },
    /// Anything else; trying again does not help.
    #[error("{store} failed for `{key}`: {reason}")]
    Other {
        /// The bucket's URL or the folder.
        store: String,
        /// The object.
        key: String,
        /// What happened.
        reason: String,
    },
}

/// Trouble with a store that passes, by what may be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// The store says that it is asked too much at once.
    Throttled,
    /// No answer, or no end of one, in time.
    TimedOut,
    /// A connection that cannot be made or breaks, or a store that is in trouble itself.
    Unavailable,
}

/// Where the credentials for a store come from.
fn credentials_of(key: &str) -> &'static str {
    match key.split_once("://").map(|(scheme, _)| scheme) {
        Some("s3") => "the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE)",
        Some("gs") => "the credentials (GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_SERVICE_ACCOUNT)",
        Some("az" | "abfss") => {
            "the credentials (AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN)"
        }
        _ => "the owner",
    }
}

impl StorageError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Transient { .. } => true,
            Self::NotFound { .. }
            | Self::NoSuchStore { .. }
            | Self::Forbidden { .. }
            | Self::TooLarge { .. }
            | Self::Invalid { .. }
            | Self::Other { .. } => false,
        }
    }

    /// Whether the store refuses us, which other credentials may mend.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Forbidden { .. })
    }

    /// Whether the object, and only the object, is missing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The key in its store.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// The entity tag, without quotes; for local files `<mtime in ns>-<size>`, both in hex.
    pub etag: Option<String>,
    /// When it was last written, in whole seconds since 1970 (some stores give no more), if the store says.
    pub modified: Option<u64>,
}

/// One page of a listing: the objects, and how many entries have names that cannot be used (not UTF-8, or
/// nothing that the store's client can ask for) and are therefore counted here instead of listed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListPage {
    /// In byte order of the keys, all after those of the page before.
    pub objects: Vec<ObjectMeta>,
    /// Entries left out because their names cannot be expressed.
    pub unlistable: u64,
}

/// An object's bytes.
#[derive(Debug, Clone)]
pub struct Object {
    /// All of it, or the part that was asked for.
    pub bytes: Bytes,
    /// The whole object's size in bytes.
    pub size: u64,
    /// As in [`ObjectMeta::etag`].
    pub etag: Option<String>,
}

/// Who won a create-only put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// We did: the object is ours.
    Created,
    /// It was there before; nothing was written. After a lost reply the one before may have been ours.
    AlreadyExists,
}

/// A bucket, a folder, or memory. Keys are relative to it, without a leading slash.
#[async_trait]
pub trait Storage: Send + Sync + std::fmt::Debug {
    /// The store's name for messages: `s3://bucket`, `file://`.
    fn name(&self) -> &str;

    /// Every object whose key begins with `prefix` and sorts after `start_after`, page by page in byte order.
    /// A prefix under which nothing is gives no objects; a bucket that is not there is `NoSuchStore`.
    fn list<'a>(
        &'a self,
        prefix: &str,
        start_after: Option<&str>,
    ) -> BoxStream<'a, Result<ListPage, StorageError>>;

    /// Whether a listing may begin behind any text, key or not, and gives from there on what it would have given had it
    /// begun before. Such a listing is read in many places at once.
    fn lists_from_any_key(&self) -> bool {
        false
    }

    /// The whole object, refused with `TooLarge` before its body is read if it has more than `max_bytes`.
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError>;

    /// The last `len` bytes, or all of a smaller object. For Parquet footers.
    async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError>;

    /// Up to `len` bytes from `offset` on: fewer where the object ends before, none behind its end.
    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Object, StorageError>;

    /// Size and tag of an object.
    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError>;

    /// Writes or replaces an object; nobody ever sees half of it.
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StorageError>;

    /// Writes an object if there is none: of all who race, one is `Created`.
    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome, StorageError>;

    /// Removes an object; one that is not there is no error.
    async fn delete(&self, key: &str) -> Result<(), StorageError>;
}
