//! What is in the objects of a source that hold many images, or name them.
//!
//! Between the listing, which finds the objects, and the filter, which takes images: an archive's members, a table's
//! rows, a list's entries, in the object's order and from any of them on, so that a producer that was killed goes on in
//! the middle of one. Nothing here reads an image.

mod failures;
mod inventory;
mod list;
#[cfg(any(test, feature = "testing"))]
pub mod packing;
mod pages;
mod tables;
pub mod tar;
pub mod tar_header;

use crate::{
    batch::{ImageRef, MAX_NAME_BYTES, Place, Within},
    carried::CarriedColumn,
    error_code::ErrorCode,
    location::Location,
    results::OutputLayout,
    selection::SourceKind,
    storage::{
        ObjectMeta, Storage, StorageError,
        reader::{ObjectReader, ReadError},
    },
    table::TableError,
};
use futures::{StreamExt, stream::BoxStream};
use pages::Pages;
use std::sync::Arc;

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

impl From<ReadError> for ContentsError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Storage(error) => Self::Storage(error),
            ReadError::Changed(key) => Self::Changed { key },
        }
    }
}

impl ContentsError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Storage(error) => error.is_transient(),
            Self::Damaged { .. } | Self::Unusable { .. } | Self::Changed { .. } => false,
        }
    }

    fn of_table(opening: &Opening, error: TableError) -> Self {
        match error {
            TableError::Read(error) => error.into(),
            TableError::Parquet(reason) | TableError::Column(reason) => unusable(opening, reason),
        }
    }
}

#[cfg(test)]
mod tests;

fn unusable(opening: &Opening, reason: impl Into<String>) -> ContentsError {
    ContentsError::Unusable { key: opening.given.clone(), reason: reason.into() }
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
    /// Images of the run that is read as a whole, if it is in one: a row group's rows.
    pub group_rows: u32,
}

/// An object to look into.
#[derive(Debug, Clone)]
pub struct Opening {
    /// What it is taken for.
    pub kind: SourceKind,
    /// Where it is.
    pub store: Arc<dyn Storage>,
    /// It.
    pub object: ObjectMeta,
    /// Its name in rows.
    pub given: String,
    /// Where to go on: 0, or what an [`Entry`] said.
    pub next: u64,
    /// What relative names in a list begin with; may be empty.
    pub root: String,
    /// See [`crate::selection::Selection::image_column`].
    pub image_column: Option<String>,
    /// See [`crate::selection::Selection::key_column`].
    pub key_column: Option<String>,
    /// Columns to carry.
    pub carry: Vec<CarriedColumn>,
    /// Of failed images, those with one of these codes; empty: all.
    pub codes: Arc<[ErrorCode]>,
    /// Where the source begins.
    pub location: Location,
}

/// Pages of what an object holds.
pub type Contents<'a> = BoxStream<'a, Result<Vec<Entry>, ContentsError>>;

impl Opening {
    /// What the object holds.
    ///
    /// # Errors
    /// [`ContentsError::Unusable`] if it can be told at once that it is no such thing; the stream gives the others.
    pub fn entries(&self) -> Result<Contents<'_>, ContentsError> {
        let reader = || ObjectReader::new(self.store.clone(), self.object.clone());
        match self.kind {
            SourceKind::Tar
                if !self.object.key.to_ascii_lowercase().ends_with(".tar") && self.is_compressed() =>
            {
                Err(unusable(self, "a compressed archive cannot be read in parts: unpack it to .tar"))
            }
            SourceKind::Tar => Ok(self.members()),
            SourceKind::Parquet => Ok(pages::read(self.clone(), reader(), tables::read)),
            SourceKind::List => Ok(pages::read(self.clone(), reader(), list::read)),
            SourceKind::Inventory => Ok(pages::read(self.clone(), reader(), inventory::read)),
            SourceKind::Failures => {
                let plan = self.location.key().trim_end_matches('/');
                let out = plan.trim_end_matches("_trawl/plan").trim_end_matches('/');
                Ok(self.failures(OutputLayout::new(self.location.with_key(out)), self.codes.clone()))
            }
            SourceKind::Auto | SourceKind::Images => Err(unusable(self, "it holds nothing but itself")),
        }
    }

    fn is_compressed(&self) -> bool {
        let key = self.object.key.to_ascii_lowercase();
        [".gz", ".tgz", ".zst", ".bz2", ".xz"].iter().any(|end| key.ends_with(end))
    }

    /// The members of an archive.
    fn members(&self) -> Contents<'_> {
        let members = tar::members(&*self.store, &self.object, self.next);
        let entry = |member: tar::Member| {
            let path = member.name.unwrap_or_default();
            let image = self.inside(&path, Place::Bytes(member.offset), member.size);
            Entry { image, path, named: false, next: member.next, group_rows: 0 }
        };
        members.map(move |members| members.map(|members| members.into_iter().map(entry).collect())).boxed()
    }

    /// The image `name` in the object, if that can be a key.
    fn inside(&self, name: &str, at: Place, size: u64) -> Option<ImageRef> {
        if name.is_empty() || self.given.len() + 1 + name.len() > MAX_NAME_BYTES {
            return None;
        }
        let object = u32::try_from(self.given.len()).ok()?;
        let key = format!("{}#{name}", self.given);
        Some(ImageRef {
            within: Some(Within { object, at }),
            ..ImageRef::whole(key, self.object.etag.clone(), size)
        })
    }
}
