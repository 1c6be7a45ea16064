//! A store in memory: for the tests of everything above the seam.
//!
//! Behaves as S3 does, down to opaque keys and pages, but is never throttled and never away. It must never
//! hold the results of a real run: nothing in it survives the process.

use super::{ListPage, Object, ObjectMeta, PutOutcome, Storage, StorageError};
use crate::job::hex_sha256;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use std::{
    collections::BTreeMap,
    fmt,
    ops::Bound,
    sync::{Mutex, MutexGuard},
    time::{SystemTime, UNIX_EPOCH},
};

/// Objects in one page of a listing, as S3 has it.
const PAGE_OBJECTS: usize = 1000;

/// Objects by key.
pub struct MemoryStorage {
    name: String,
    page_objects: usize,
    objects: Mutex<BTreeMap<String, Stored>>,
}

#[derive(Clone)]
struct Stored {
    bytes: Bytes,
    etag: String,
    /// Seconds since 1970.
    modified: u64,
}

impl Stored {
    fn new(bytes: Bytes) -> Self {
        // Half of a sha256: as long as the MD5 that S3 uses.
        let etag = hex_sha256(&bytes)[..32].to_owned();
        let modified = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { bytes, etag, modified }
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn meta(&self, key: &str) -> ObjectMeta {
        let (size, etag) = (self.size(), Some(self.etag.clone()));
        ObjectMeta { key: key.to_owned(), size, etag, modified: Some(self.modified) }
    }
}

impl MemoryStorage {
    /// An empty store; `name` is for messages, such as `s3://bucket`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), page_objects: PAGE_OBJECTS, objects: Mutex::default() }
    }

    /// The same with shorter pages, so that a short listing has several.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn with_pages_of(self, page_objects: usize) -> Self {
        Self { page_objects, ..self }
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Stored>> {
        self.objects.lock().expect("no panic while the map is held")
    }

    fn stored(&self, key: &str) -> Result<Stored, StorageError> {
        let stored = self.objects().get(key).cloned();
        stored.ok_or_else(|| StorageError::NotFound { key: format!("{}/{key}", self.name) })
    }

    fn page(&self, prefix: &str, after: Option<&str>) -> ListPage {
        let begin = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let objects = self
            .objects()
            .range::<str, _>((begin, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(self.page_objects)
            .map(|(key, stored)| stored.meta(key))
            .collect();
        ListPage { objects, unlistable: 0 }
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryStorage({}, {} objects)", self.name, self.objects().len())
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn name(&self) -> &str {
        &self.name
    }

    fn list<'a>(
        &'a self,
        prefix: &str,
        start_after: Option<&str>,
    ) -> BoxStream<'a, Result<ListPage, StorageError>> {
        let begin = Some((prefix.to_owned(), start_after.map(str::to_owned)));
        stream::unfold(begin, move |state| async move {
            let (prefix, after) = state?;
            let page = self.page(&prefix, after.as_deref());
            let last = page.objects.last()?.key.clone();
            let next = (page.objects.len() == self.page_objects).then_some((prefix, Some(last)));
            Some((Ok(page), next))
        })
        .boxed()
    }

    fn lists_from_any_key(&self) -> bool {
        true
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        let stored = self.stored(key)?;
        let size = stored.size();
        if size > max_bytes {
            return Err(StorageError::TooLarge {
                key: format!("{}/{key}", self.name),
                size,
                limit: max_bytes,
            });
        }
        Ok(Object { bytes: stored.bytes, size, etag: Some(stored.etag) })
    }

    async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError> {
        let stored = self.stored(key)?;
        let size = stored.bytes.len();
        let begin = size.saturating_sub(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(Object { bytes: stored.bytes.slice(begin..), size: size as u64, etag: Some(stored.etag) })
    }

    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Object, StorageError> {
        let stored = self.stored(key)?;
        let size = stored.bytes.len();
        let begin = usize::try_from(offset).unwrap_or(usize::MAX).min(size);
        let end = begin.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)).min(size);
        Ok(Object { bytes: stored.bytes.slice(begin..end), size: size as u64, etag: Some(stored.etag) })
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        Ok(self.stored(key)?.meta(key))
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StorageError> {
        let stored = Stored::new(bytes);
        self.objects().insert(key.to_owned(), stored);
        Ok(())
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome, StorageError> {
        let stored = Stored::new(bytes);
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Ok(PutOutcome::AlreadyExists);
        }
        objects.insert(key.to_owned(), stored);
        Ok(PutOutcome::Created)
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.objects().remove(key);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn keeps_the_contract() {
        crate::contract::storage::suite(Arc::new(MemoryStorage::new("s3://memory")), "contract/run/").await;
    }

    #[tokio::test]
    async fn keys_are_opaque() {
        let store = MemoryStorage::new("s3://memory");
        for key in ["a//b", "a/b", "/a", "a/../b", "a/"] {
            store.put(key, Bytes::from(key)).await.unwrap();
        }
        for key in ["a//b", "a/b", "/a", "a/../b", "a/"] {
            assert_eq!(store.get(key, 10).await.unwrap().bytes, key);
        }
    }
}
