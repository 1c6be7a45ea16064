//! A bucket of any number of keys that holds none of them: a key is computed from its number.
//!
//! Stands where a job's source would. Each shape gives keys that sort as their numbers do, so that a listing may begin
//! behind any key by a binary search, and memory does not grow with the bucket. Every object is the same tiny PNG. It
//! must never give a page out of order: the plan is cut from it.

use async_trait::async_trait;
use bytes::Bytes;
use clap::ValueEnum;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use std::time::Duration;
use trawl_common::storage::{ListPage, Object, ObjectMeta, PutOutcome, Storage, StorageError};

/// Objects of one folder, where numbers are the names.
const FOLDER: u64 = 1_000_000;

/// Folders, where classes are.
const CLASSES: u64 = 1000;

/// When all of it was written, seconds since 1970.
const WRITTEN: u64 = 1_700_000_000;

/// How keys look: what a plan file makes of them differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// `photos/0003/0003141592.png`: runs of neighbours.
    Numbers,
    /// `photos/4c1a...32 digits.png`: nothing in common.
    Digests,
    /// `photos/n00000017/n00000017_0000042.png`: a thousand folders.
    Classes,
}

/// See the file's head.
#[derive(Debug)]
pub struct Synthetic {
    name: String,
    shape: Shape,
    keys: u64,
    page: usize,
    latency: Duration,
    image: Bytes,
}

impl Synthetic {
    /// `name` is for messages; a listing gives `page` keys after `latency`.
    pub fn new(name: &str, shape: Shape, keys: u64, page: usize, latency: Duration) -> Self {
        Self { name: name.to_owned(), shape, keys, page: page.max(1), latency, image: tiny_png() }
    }

    /// The key of object `number`, below [`Self::keys`]. Grows with the number.
    pub fn key(&self, number: u64) -> String {
        match self.shape {
            Shape::Numbers => format!("photos/{:04}/{number:010}.png", number / FOLDER),
            Shape::Digests => {
                // One value in each of as many equal intervals.
                let stride = u64::MAX / self.keys.max(1);
                let low = mix(number);
                format!("photos/{:016x}{:016x}.png", number * stride + low % stride.max(1), mix(low))
            }
            Shape::Classes => {
                let each = self.keys.div_ceil(CLASSES).max(1);
                let (class, member) = (number / each, number % each);
                format!("photos/n{class:08}/n{class:08}_{member:07}.png")
            }
        }
    }

    /// The first number whose key is not `before`, for a `before` that holds up to some key and not from there on.
    fn first(&self, before: impl Fn(&str) -> bool) -> u64 {
        let (mut low, mut high) = (0, self.keys);
        while low < high {
            let middle = low + (high - low) / 2;
            if before(&self.key(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn meta(&self, number: u64) -> ObjectMeta {
        let (key, size) = (self.key(number), self.image.len() as u64);
        // As long as the MD5 that S3 uses.
        let etag = Some(format!("{:016x}{:016x}", mix(number), mix(number ^ u64::MAX)));
        ObjectMeta { key, size, etag, modified: Some(WRITTEN) }
    }

    fn find(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        let number = self.first(|known| known < key);
        let found = (number < self.keys).then(|| self.meta(number)).filter(|meta| meta.key == key);
        found.ok_or_else(|| StorageError::NotFound { key: format!("{}/{key}", self.name) })
    }

    fn part(&self, key: &str, from: usize, to: usize) -> Result<Object, StorageError> {
        let ObjectMeta { size, etag, .. } = self.find(key)?;
        Ok(Object { bytes: self.image.slice(from.min(to)..to), size, etag })
    }

    fn read_only<T>(&self, key: &str) -> Result<T, StorageError> {
        Err(StorageError::Forbidden {
            key: format!("{}/{key}", self.name),
            reason: "nothing is written here".into(),
        })
    }

    async fn wait(&self) {
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
    }
}

/// Scatters numbers (the finalizer of SplitMix64).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Eight by eight pixels.
fn tiny_png() -> Bytes {
    let image = image::RgbImage::from_fn(8, 8, |x, y| image::Rgb([90, x as u8 * 20, y as u8 * 30]));
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.write_to(&mut bytes, image::ImageFormat::Png).expect("memory takes it");
    bytes.into_inner().into()
}

#[async_trait]
impl Storage for Synthetic {
    fn name(&self) -> &str {
        &self.name
    }

    fn lists_from_any_key(&self) -> bool {
        true
    }

    fn list<'a>(
        &'a self,
        prefix: &str,
        start_after: Option<&str>,
    ) -> BoxStream<'a, Result<ListPage, StorageError>> {
        let (prefix, after) = (prefix.to_owned(), start_after.unwrap_or_default().to_owned());
        let begin = self.first(|key| key < prefix.as_str()).max(self.first(|key| key <= after.as_str()));
        stream::unfold(Some(begin), move |begin| {
            let prefix = prefix.clone();
            async move {
                let begin = begin?;
                self.wait().await;
                let end = self.keys.min(begin.saturating_add(self.page as u64));
                let objects: Vec<_> = (begin..end)
                    .map(|number| self.meta(number))
                    .take_while(|object| object.key.starts_with(&prefix))
                    .collect();
                // Only a full page has another behind it.
                let next = (objects.len() == self.page && end < self.keys).then_some(end);
                (!objects.is_empty()).then_some((Ok(ListPage { objects, unlistable: 0 }), next))
            }
        })
        .boxed()
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        let (size, limit) = (self.image.len() as u64, max_bytes);
        if size > limit {
            return Err(StorageError::TooLarge { key: key.to_owned(), size, limit });
        }
        self.part(key, 0, self.image.len())
    }

    async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError> {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.part(key, self.image.len().saturating_sub(len), self.image.len())
    }

    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Object, StorageError> {
        let end = usize::try_from(offset.saturating_add(len)).unwrap_or(usize::MAX).min(self.image.len());
        self.part(key, usize::try_from(offset).unwrap_or(usize::MAX), end)
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.find(key)
    }

    async fn put(&self, key: &str, _: Bytes) -> Result<(), StorageError> {
        self.read_only(key)
    }

    async fn put_if_absent(&self, key: &str, _: Bytes) -> Result<PutOutcome, StorageError> {
        self.read_only(key)
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.read_only(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_common::contract::storage::list_all;

    const SHAPES: [Shape; 3] = [Shape::Numbers, Shape::Digests, Shape::Classes];

    fn bucket(shape: Shape, keys: u64) -> Synthetic {
        Synthetic::new("s3://made-up", shape, keys, 1000, Duration::ZERO)
    }

    async fn listed(store: &Synthetic, prefix: &str, after: Option<&str>) -> Vec<String> {
        list_all(store, prefix, after).await.into_iter().map(|object| object.key).collect()
    }

    #[tokio::test]
    async fn every_key_is_listed_once_in_byte_order_and_pages_end_where_the_keys_do() {
        for shape in SHAPES {
            for keys in [0, 1, 999, 1000, 1001, 2000, 2500] {
                let store = bucket(shape, keys);
                let pages: Vec<_> = store.list("photos/", None).collect().await;
                let sizes: Vec<usize> =
                    pages.iter().map(|page| page.as_ref().unwrap().objects.len()).collect();
                assert_eq!(sizes.len() as u64, keys.div_ceil(1000), "{shape:?} {sizes:?}");
                assert!(sizes.iter().rev().skip(1).all(|size| *size == 1000), "{shape:?} {sizes:?}");
                let all = listed(&store, "", None).await;
                assert!(all.len() as u64 == keys && all.is_sorted_by(|a, b| a < b), "{shape:?} of {keys}");
            }
        }
    }

    #[tokio::test]
    async fn a_listing_begins_behind_any_key_whether_it_is_there_or_not() {
        for shape in SHAPES {
            let store = bucket(shape, 3000);
            let all = listed(&store, "photos/", None).await;
            for at in [0, 1, 999, 1000, 2998, 2999] {
                let after = all[at].as_str();
                assert_eq!(listed(&store, "photos/", Some(after)).await, all[at + 1..], "{shape:?}");
                // A key that is not there, right behind one that is.
                assert_eq!(listed(&store, "photos/", Some(&format!("{after}0"))).await, all[at + 1..]);
            }
            assert_eq!(listed(&store, "photos/", Some("a")).await, all);
            assert!(listed(&store, "photos/", Some("z")).await.is_empty());
            assert!(listed(&store, "other/", None).await.is_empty());
            let prefix = &all[1500][..16];
            let expected: Vec<_> = all.iter().filter(|key| key.starts_with(prefix)).cloned().collect();
            assert_eq!(listed(&store, prefix, None).await, expected, "{shape:?} {prefix}");
        }
    }

    #[tokio::test]
    async fn what_is_listed_can_be_read_and_nothing_else() {
        for shape in SHAPES {
            let store = bucket(shape, 100_000_000);
            let key = store.key(99_999_999);
            let (object, meta) = (store.get(&key, 1 << 20).await.unwrap(), store.head(&key).await.unwrap());
            assert_eq!((object.size, &object.etag), (meta.size, &meta.etag));
            assert!(image::load_from_memory(&object.bytes).is_ok());
            assert_eq!(
                store.get_suffix(&key, 8).await.unwrap().bytes,
                object.bytes[object.bytes.len() - 8..]
            );
            assert_eq!(store.get_range(&key, 1, 3).await.unwrap().bytes, object.bytes[1..4]);
            assert!(store.get_range(&key, 1 << 20, 3).await.unwrap().bytes.is_empty());
            assert!(store.get(&format!("{key}x"), 1 << 20).await.unwrap_err().is_not_found());
            assert!(store.put(&key, Bytes::new()).await.is_err());
        }
    }
}
