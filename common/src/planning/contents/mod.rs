//! What is in the objects of a source that hold many images, or name them.
//!
//! Between the listing, which finds the objects, and the filter, which takes images: an archive's members, a table's
//! rows, a list's entries, in the object's order and from any of them on, so that a producer that was killed goes on in
//! the middle of one. Nothing here reads an image.

#[cfg(any(test, feature = "testing"))]
pub mod packing;
pub mod tar;
pub mod tar_header;

use crate::{
    batch::{ImageRef, MAX_NAME_BYTES, Place, Within},
    selection::SourceKind,
    storage::{ObjectMeta, Storage, StorageError},
};
use futures::{StreamExt, stream::BoxStream};

/// Why the contents of an object cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// The object is not what it should be, from some place on.
    #[error(
        "`{key}` is damaged: at byte {at} there should be {what}; leave it out with --exclude, or replace it"
    )]
    Damaged {
        /// The object.
        key: String,
        /// The byte.
        at: u64,
        /// What was expected there.
        what: &'static str,
    },
    /// Not of the kind that it was taken for.
    #[error("`{key}` cannot be used as a source: {reason}")]
    Unusable {
        /// The object.
        key: String,
        /// Why, and what to do.
        reason: String,
    },
    /// It is another object than was listed.
    #[error("`{key}` changed while it was being read: submit again once nobody writes to it")]
    Changed {
        /// The object.
        key: String,
    },
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl ContentsError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_transient(),
            Self::Damaged { .. } | Self::Unusable { .. } | Self::Changed { .. } => false,
        }
    }
}

/// One thing that an object holds or names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The image, if its name is text and not too long to be a key.
    pub image: Option<ImageRef>,
    /// Its name in the object, for the filters.
    pub path: String,
    /// Whether the user named it, so that it needs no image's extension.
    pub named: bool,
    /// Where the object goes on behind it.
    pub next: u64,
}

/// What `object`, whose own name in rows is `given`, holds from `next` on, as a source of `kind`.
///
/// # Errors
/// [`ContentsError::Unusable`] if it can be told at once that it is no such thing.
pub fn open<'a>(
    kind: SourceKind,
    store: &'a dyn Storage,
    object: &'a ObjectMeta,
    given: &'a str,
    next: u64,
) -> Result<BoxStream<'a, Result<Vec<Entry>, ContentsError>>, ContentsError> {
    let unusable =
        |reason: &str| ContentsError::Unusable { key: given.to_owned(), reason: reason.to_owned() };
    match kind {
        SourceKind::Tar
            if !object.key.to_ascii_lowercase().ends_with(".tar") && is_compressed(&object.key) =>
        {
            Err(unusable("a compressed archive cannot be read in parts: unpack it to .tar"))
        }
        SourceKind::Tar => Ok(archive(store, object, given, next)),
        SourceKind::Auto
        | SourceKind::Images
        | SourceKind::Parquet
        | SourceKind::List
        | SourceKind::Inventory => Err(unusable("this kind of source cannot be read yet")),
    }
}

fn is_compressed(key: &str) -> bool {
    [".gz", ".tgz", ".zst", ".bz2", ".xz"].iter().any(|end| key.to_ascii_lowercase().ends_with(end))
}

/// The members of the archive `object`, whose own name in rows is `given`, from byte `from` on.
fn archive<'a>(
    store: &'a dyn Storage,
    object: &'a ObjectMeta,
    given: &'a str,
    from: u64,
) -> BoxStream<'a, Result<Vec<Entry>, ContentsError>> {
    let entry = move |member: tar::Member| {
        let path = member.name.unwrap_or_default();
        let fits = !path.is_empty() && given.len() + 1 + path.len() <= MAX_NAME_BYTES;
        let image = fits.then(|| ImageRef {
            key: format!("{given}#{path}"),
            etag: object.etag.clone(),
            size: member.size,
            within: Some(Within {
                object: u32::try_from(given.len()).unwrap_or(u32::MAX),
                at: Place::Bytes(member.offset),
            }),
            carried: Vec::new(),
        });
        Entry { image, path, named: false, next: member.next }
    };
    tar::members(store, object, from)
        .map(move |members| members.map(|members| members.into_iter().map(entry).collect()))
        .boxed()
}
