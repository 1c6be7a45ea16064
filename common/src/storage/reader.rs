//! An object as a file that is read by ranges, for parsers that know files and no stores.
//!
//! Lists, tables and inventory reports are read through it, on a thread that may wait: every read that is not at hand is
//! a request. It must never be used on a tokio thread, and never give bytes of two versions of an object.

use super::{ObjectMeta, Storage, StorageError};
use bytes::{Buf, Bytes};
use parquet::{
    errors::ParquetError,
    file::reader::{ChunkReader, Length},
};
use std::{
    io::{self, Read},
    sync::{Arc, Mutex},
};
use tokio::runtime::Handle;

/// What is read at once where the parser does not say how much it wants.
const WINDOW_BYTES: u64 = 1 << 20;

/// Why an object cannot be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// It was replaced in between.
    #[error("`{0}` changed while it was being read")]
    Changed(String),
}

/// A handle of an object; clones share what is at hand.
#[derive(Debug, Clone)]
pub struct ObjectReader {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn Storage>,
    object: ObjectMeta,
    runtime: Handle,
    /// What was fetched ahead: where it begins, and the bytes.
    ahead: Mutex<Vec<(u64, Bytes)>>,
    /// What went wrong first: parsers wrap errors beyond recognition.
    failed: Mutex<Option<ReadError>>,
}

impl ObjectReader {
    /// Reads `object` of `store`. Must be called on a tokio runtime; used off it.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn new(store: Arc<dyn Storage>, object: ObjectMeta) -> Self {
        let (ahead, failed) = (Mutex::default(), Mutex::default());
        Self { shared: Arc::new(Shared { store, object, runtime: Handle::current(), ahead, failed }) }
    }

    /// What is read.
    pub fn object(&self) -> &ObjectMeta {
        &self.shared.object
    }

    /// Up to `len` bytes from `offset`: fewer at the object's end. Blocks.
    ///
    /// # Errors
    /// Of any kind, with the cause kept for [`Self::failure`].
    pub fn range(&self, offset: u64, len: u64) -> io::Result<Bytes> {
        if let Some(bytes) = self.at_hand(offset, len) {
            return Ok(bytes);
        }
        let Shared { store, object, runtime, .. } = &*self.shared;
        let read = runtime.block_on(store.get_range(&object.key, offset, len));
        let read = read.map_err(ReadError::from).and_then(|read| match (&object.etag, &read.etag) {
            (Some(listed), Some(found)) if listed != found => Err(ReadError::Changed(object.key.clone())),
            _ => Ok(read.bytes),
        });
        read.map_err(|error| {
            let told = io::Error::other(error.to_string());
            self.shared.failed.lock().expect("no panic while it is held").get_or_insert(error);
            told
        })
    }

    /// Fetches a range now, so that reads in it ask for nothing; it takes the place of what was fetched before. Blocks.
    ///
    /// # Errors
    /// As [`Self::range`].
    pub fn fetch_ahead(&self, ranges: impl IntoIterator<Item = (u64, u64)>) -> io::Result<()> {
        self.lock_ahead().clear();
        let fetched: io::Result<Vec<_>> =
            ranges.into_iter().map(|(offset, len)| Ok((offset, self.range(offset, len)?))).collect();
        *self.lock_ahead() = fetched?;
        Ok(())
    }

    /// What the store or the object did, if that is why a parser failed.
    pub fn failure(&self) -> Option<ReadError> {
        self.shared.failed.lock().expect("no panic while it is held").take()
    }

    /// The object from `offset` on.
    pub fn stream(&self, offset: u64) -> ObjectStream {
        ObjectStream { reader: self.clone(), next: offset, window: Bytes::new() }
    }

    fn at_hand(&self, offset: u64, len: u64) -> Option<Bytes> {
        self.lock_ahead().iter().find_map(|(begin, bytes)| {
            let from = usize::try_from(offset.checked_sub(*begin)?).ok()?;
            let to = from.checked_add(usize::try_from(len).ok()?)?;
            (to <= bytes.len()).then(|| bytes.slice(from..to))
        })
    }

    /// What is at hand from `offset` on, however much it is.
    fn rest_at_hand(&self, offset: u64) -> Option<Bytes> {
        self.lock_ahead().iter().find_map(|(begin, bytes)| {
            let from = usize::try_from(offset.checked_sub(*begin)?).ok()?;
            (from < bytes.len()).then(|| bytes.slice(from..))
        })
    }

    fn lock_ahead(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Bytes)>> {
        self.shared.ahead.lock().expect("no panic while it is held")
    }
}

impl Length for ObjectReader {
    fn len(&self) -> u64 {
        self.shared.object.size
    }
}

impl ChunkReader for ObjectReader {
    type T = ObjectStream;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.stream(start))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let bytes = self.range(start, length as u64)?;
        if bytes.len() < length {
            return Err(ParquetError::EOF(format!("{} bytes of {length} from {start} on", bytes.len())));
        }
        Ok(bytes)
    }
}

/// Reads an object from some place to its end.
#[derive(Debug)]
pub struct ObjectStream {
    reader: ObjectReader,
    next: u64,
    window: Bytes,
}

impl Read for ObjectStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.window.is_empty() && self.next < self.reader.object().size {
            self.window = match self.reader.rest_at_hand(self.next) {
                Some(rest) => rest,
                None => self.reader.range(self.next, WINDOW_BYTES)?,
            };
            self.next += self.window.len() as u64;
        }
        let len = into.len().min(self.window.len());
        self.window.split_to(len).copy_to_slice(&mut into[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryStorage;

    #[tokio::test(flavor = "multi_thread")]
    async fn bytes_come_once_and_of_one_version() {
        let store: Arc<dyn Storage> = Arc::new(MemoryStorage::new("s3://b"));
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        store.put("a", content.clone().into()).await.unwrap();
        let reader = ObjectReader::new(store.clone(), store.head("a").await.unwrap());
        let (read, expected) = (reader.clone(), content.clone());
        tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            read.stream(0).read_to_end(&mut all).unwrap();
            assert!(all == expected);
            read.fetch_ahead([(10, 1000)]).unwrap();
            assert_eq!(read.range(20, 5).unwrap(), expected[20..25]);
        })
        .await
        .unwrap();
        store.put("a", Bytes::from_static(b"other")).await.unwrap();
        let read = reader.clone();
        tokio::task::spawn_blocking(move || {
            assert_eq!(read.range(20, 5).unwrap(), content[20..25], "what is at hand asks for nothing");
            assert!(read.range(0, 5).is_err());
        })
        .await
        .unwrap();
        assert!(matches!(reader.failure(), Some(ReadError::Changed(_))));
    }
}
