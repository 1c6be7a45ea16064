//! Archives of every kind, walked from one place and from many.

use super::{super::packing::Packing, *};
use crate::storage::memory::MemoryStorage;
use futures::TryStreamExt;

async fn found(archive: Bytes, from: u64) -> Result<Vec<Member>, ContentsError> {
    let store = MemoryStorage::new("s3://b");
    store.put("a.tar", archive).await.unwrap();
    let object = store.head("a.tar").await.unwrap();
    members(&store, &object, from).try_concat().await
}

fn names(members: &[Member]) -> Vec<&str> {
    members.iter().map(|member| member.name.as_deref().unwrap_or("?")).collect()
}

#[tokio::test]
async fn long_names_folders_and_links() {
    let mut archive = Packing::default();
    archive.member("d/", b'5', b"");
    archive.add("d/a.jpg", b"first");
    let long = "x/".repeat(90) + "long.jpg";
    archive.member("././@LongLink", b'L', format!("{long}\0").as_bytes());
    archive.add("cut", b"second");
    archive.member("pax", b'x', b"19 path=ordner/\xc3\xa4b\n30 mtime=1700000000.123456789\n");
    archive.add("cut too", &[7; 2000]);
    archive.member("link", b'2', b"");
    archive.member("pax", b'x', b"9 path=\xff\n");
    archive.add("not text", b"third");
    let archive = archive.end();
    let all = found(archive.clone(), 0).await.unwrap();
    assert_eq!(names(&all), ["d/a.jpg", &long, "ordner/äb", "?"]);
    let contents: Vec<&[u8]> = all
        .iter()
        .map(|member| &archive[member.offset as usize..(member.offset + member.size) as usize])
        .collect();
    assert_eq!(contents, [&b"first"[..], b"second", &[7; 2000], b"third"]);
    // From behind any member the rest is found.
    for (n, member) in all.iter().enumerate() {
        assert_eq!(found(archive.clone(), member.next).await.unwrap(), all[n + 1..]);
    }
}

#[tokio::test]
async fn many_walks_find_what_one_finds_whatever_the_contents_look_like() {
    // Contents that are archives themselves, so that every search finds a header that is none of the chain.
    let mut inner = Packing::default();
    for n in 0..3000 {
        inner.add(&format!("inner/{n}.jpg"), &[b'i'; 400]);
    }
    let inner = inner.end();
    let mut archive = Packing::default();
    for n in 0..40 {
        archive.add(&format!("{n}.tar"), &inner);
        archive.add(&format!("{n}.jpg"), &vec![b'j'; 10 + n * 1000]);
    }
    let archive = archive.end();
    assert!(archive.len() as u64 > 3 * WALK_BYTES, "several walks: {}", archive.len());
    let all = found(archive, 0).await.unwrap();
    let expected: Vec<_> = (0..40).flat_map(|n| [format!("{n}.tar"), format!("{n}.jpg")]).collect();
    assert_eq!(names(&all), expected);
}

#[tokio::test]
async fn headers_cost_little_to_read() {
    let (store, mut archive) = (MemoryStorage::new("s3://b"), Packing::default());
    for n in 0..1000 {
        archive.member("pax", b'x', b"30 mtime=1700000000.123456789\n");
        archive.add(&format!("{n:04}.jpg"), &vec![b'j'; 100_000]);
        archive.add(&format!("{n:04}.cls"), b"7");
    }
    store.put("a.tar", archive.end()).await.unwrap();
    let object = store.head("a.tar").await.unwrap();
    let counting = counting::Counting::new(store);
    let all = members(&counting, &object, 0).try_concat().await.unwrap();
    assert_eq!(all.len(), 2000);
    let (reads, bytes) = counting.asked();
    assert!(bytes * 100 < object.size * 4, "{bytes} bytes of {} were read", object.size);
    assert!(reads < 1100, "{reads} reads for 1,000 samples");
}

#[tokio::test]
async fn damage_is_named_by_its_place() {
    let mut archive = Packing::default();
    archive.add("a.jpg", &[1; 600]);
    let at = archive.0.len();
    archive.0.extend([9; 2048]);
    match found(archive.end(), 0).await {
        Err(ContentsError::Damaged { at: found, .. }) => assert_eq!(found, at as u64),
        other => panic!("{other:?}"),
    }
    // An archive that was cut is read as far as its headers go: the image that is cut fails by itself.
    let mut archive = Packing::default();
    archive.add("a.jpg", &[1; 600]);
    archive.add("b.jpg", &[1; 6000]);
    let cut = Bytes::from(archive.0).slice(..2500);
    assert_eq!(names(&found(cut, 0).await.unwrap()), ["a.jpg", "b.jpg"]);
    assert!(found(Bytes::new(), 0).await.unwrap().is_empty());
}

mod counting {
    //! A store that counts what is read of it.

    use super::*;
    use crate::storage::{ListPage, Object, PutOutcome, StorageError};
    use std::sync::atomic::{AtomicU64, Ordering};

    #[derive(Debug)]
    pub struct Counting {
        inner: MemoryStorage,
        reads: AtomicU64,
        bytes: AtomicU64,
    }

    impl Counting {
        pub fn new(inner: MemoryStorage) -> Self {
            Self { inner, reads: AtomicU64::new(0), bytes: AtomicU64::new(0) }
        }

        pub fn asked(&self) -> (u64, u64) {
            (self.reads.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
        }
    }

    #[async_trait::async_trait]
    impl Storage for Counting {
        fn name(&self) -> &str {
            self.inner.name()
        }
        fn list<'a>(
            &'a self,
            prefix: &str,
            after: Option<&str>,
        ) -> BoxStream<'a, Result<ListPage, StorageError>> {
            self.inner.list(prefix, after)
        }
        async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
            self.inner.get(key, max_bytes).await
        }
        async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError> {
            self.inner.get_suffix(key, len).await
        }
        async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Object, StorageError> {
            let object = self.inner.get_range(key, offset, len).await?;
            self.reads.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(object.bytes.len() as u64, Ordering::Relaxed);
            Ok(object)
        }
        async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
            self.inner.head(key).await
        }
        async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StorageError> {
            self.inner.put(key, bytes).await
        }
        async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome, StorageError> {
            self.inner.put_if_absent(key, bytes).await
        }
        async fn delete(&self, key: &str) -> Result<(), StorageError> {
            self.inner.delete(key).await
        }
    }
}
