//! Asking: one request for images of a job, of whatever kind their source is.
//!
//! The fetch stage asks so for its batches, and `bench` for a sample. Says of what did not come whether the image is to
//! blame or the store. It must never give bytes of another version of an object than the plan names.

use super::{
    reading::{Brought, Came, Part},
    tables::{Rows, Tables, UnreadTable},
};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};
use trawl_common::{
    batch::ImageRef,
    error_code::ErrorCode,
    failpoint,
    job::JobSpec,
    location::Location,
    storage::{Passing, Storage, StorageError, Stores},
};

/// Stores whose latest good object is remembered: a job has one or a few sources.
const STORES_REMEMBERED: usize = 64;

/// What a request is for.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    /// The image, or the first of several that come together.
    pub image: &'a ImageRef,
    /// Whether there is no other.
    pub alone: bool,
    /// What of the object.
    pub part: &'a Part,
}

/// Asks stores for objects, and remembers of them what later requests need.
pub struct Asker {
    stores: Arc<Stores>,
    /// A larger object is an error row.
    max_image_bytes: u64,
    /// Of each store, the key that it gave last.
    given: Mutex<BTreeMap<String, String>>,
    tables: Tables,
}

/// Why an image has no bytes.
#[derive(Debug)]
pub enum Missed {
    /// The image is to blame: what its row says.
    Row(ErrorCode, String),
    /// The store is.
    Store(StorageError),
}

impl Asker {
    /// Asks `stores`; an image of more than `max_image_bytes` is not read.
    pub fn new(stores: Arc<Stores>, max_image_bytes: u64) -> Self {
        Self { stores, max_image_bytes, given: Mutex::default(), tables: Tables::default() }
    }

    /// What was asked for, of the version that was planned. Cancel safe.
    ///
    /// # Errors
    /// [`Missed`].
    pub async fn ask(&self, spec: &JobSpec, asked: Asked<'_>) -> Result<Brought, Missed> {
        let Asked { image, alone, part } = asked;
        let place = Location::parse(image.object(), Path::new(&spec.base_dir))
            .map_err(|e| Missed::Row(ErrorCode::Unreadable, e.to_string()))?;
        let store = self.stores.open(&place).await;
        failpoint::hit(failpoint::FETCH_BEFORE).await;
        if failpoint::error(failpoint::FETCH_ERROR) {
            let (store, key, cause) = (store.name().to_owned(), image.key.clone(), Passing::Unavailable);
            return Err(StorageError::Transient { store, key, cause, reason: "a failpoint".into() }.into());
        }
        let most = self.max_image_bytes;
        let object = match part {
            Part::Whole => store.get(place.key(), most).await,
            Part::Bytes(_) if alone && image.size > most => {
                Err(StorageError::TooLarge { key: image.key.clone(), size: image.size, limit: most })
            }
            Part::Bytes(bytes) => store.get_range(place.key(), bytes.start, bytes.end - bytes.start).await,
            Part::Rows(group, rows) => {
                let (etag, column) = (image.etag.as_deref(), spec.select.image_column.as_deref());
                let wanted = Rows { key: place.key(), etag, group: *group, rows, column };
                let cells = self.tables.read(&store, wanted).await?;
                return Ok(Brought { bytes: Came::Cells(rows.start, cells), etag: image.etag.clone() });
            }
        };
        let object = match object {
            Ok(object) => object,
            Err(error) if error.is_not_found() && place.is_local() => {
                return Err(missing_source(spec, image.object())
                    .await
                    .map_or(Missed::from(error), Missed::Store));
            }
            Err(error) => return Err(error.into()),
        };
        match (&image.etag, &object.etag) {
            (Some(planned), Some(found)) if planned != found => Err(Missed::Row(
                ErrorCode::Changed,
                format!("it was listed with etag {planned} and has {found} now"),
            )),
            _ => {
                self.gave(&*store, place.key());
                let bytes = match part {
                    Part::Bytes(bytes) => Came::Piece(bytes.start, object.bytes),
                    Part::Whole | Part::Rows(..) => Came::Whole(object.bytes),
                };
                Ok(Brought { bytes, etag: object.etag })
            }
        }
    }

    /// Whether the store of `image` refuses by now what it gave last.
    pub async fn refuses_what_it_gave(&self, spec: &JobSpec, image: &ImageRef) -> Option<StorageError> {
        let place = Location::parse(image.object(), Path::new(&spec.base_dir)).ok()?;
        let store = self.stores.open(&place).await;
        let given = self.given.lock().expect("no panic while the map is held").get(store.name()).cloned()?;
        store.head(&given).await.err().filter(StorageError::is_forbidden)
    }

    /// Remembers what `store` gave.
    fn gave(&self, store: &dyn Storage, key: &str) {
        let mut given = self.given.lock().expect("no panic while the map is held");
        if let Some(known) = given.get_mut(store.name()) {
            key.clone_into(known);
        } else if given.len() < STORES_REMEMBERED {
            given.insert(store.name().to_owned(), key.to_owned());
        }
    }
}

/// Whether a local file is missing because its whole source is: a folder that is not mounted on this machine
/// must not turn a job into rows of `not_found`.
async fn missing_source(spec: &JobSpec, key: &str) -> Option<StorageError> {
    let below = |source: &&String| {
        let root = source.trim_end_matches('/');
        key.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'))
    };
    let source = spec.sources.iter().find(below)?;
    let folder = Path::new(&spec.base_dir).join(source.strip_prefix("file://").unwrap_or(source));
    match tokio::fs::metadata(&folder).await {
        Ok(_) => None,
        Err(_) => Some(StorageError::NoSuchStore { store: folder.display().to_string() }),
    }
}

impl From<UnreadTable> for Missed {
    fn from(error: UnreadTable) -> Self {
        match error {
            UnreadTable::Storage(error) => error.into(),
            UnreadTable::Changed(text) => Self::Row(ErrorCode::Changed, text),
            UnreadTable::Unusable(text) => Self::Row(ErrorCode::Unreadable, text),
        }
    }
}

impl From<StorageError> for Missed {
    fn from(error: StorageError) -> Self {
        let text = error.to_string();
        match error {
            StorageError::NotFound { .. } => Self::Row(ErrorCode::NotFound, text),
            StorageError::TooLarge { .. } => Self::Row(ErrorCode::TooManyBytes, text),
            StorageError::Invalid { .. } | StorageError::Other { .. } => {
                Self::Row(ErrorCode::Unreadable, text)
            }
            StorageError::Transient { .. }
            | StorageError::NoSuchStore { .. }
            | StorageError::Forbidden { .. } => Self::Store(error),
        }
    }
}
