//! The key-value metadata in the footer of a Parquet file, from the file's last bytes.
//!
//! What a part or a plan file says of itself is in there, so that a redelivery, a resume or the end of a
//! job reads kilobytes of a file instead of all of it. What comes from a store is not trusted: a footer
//! that claims to be huge is refused before it is fetched.

use crate::storage::{Storage, StorageError};
use bytes::Bytes;
use parquet::{
    errors::ParquetError,
    file::metadata::{KeyValue, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData},
};
use std::{collections::BTreeMap, str::FromStr};

/// Fetched first. A part's footer is about 5 KB and a plan file's 2 KB, so that one request does.
const FIRST_TAIL_BYTES: u64 = 64 << 10;

/// A longer footer is not one of ours.
const MAX_FOOTER_BYTES: usize = 64 << 20;

/// The length of the footer and the magic number, at the very end.
const TRAILER_BYTES: usize = 8;

/// A file that does not say what it must.
#[derive(Debug, thiserror::Error)]
pub enum FooterError {
    /// The tail is too short; fetch at least this many of the last bytes and try again.
    #[error("the footer is longer than the bytes at hand: {0} of the last bytes are needed")]
    NeedMore(usize),
    /// Not Parquet, cut off, or broken.
    #[error("the file is not readable as Parquet: {0}")]
    Parquet(String),
    /// Parquet, but without an entry of ours.
    #[error("the footer has no `{0}`: the file was not written by trawl")]
    Missing(&'static str),
    /// An entry that cannot be.
    #[error("the footer's `{name}` is not usable: {reason}")]
    Bad {
        /// The entry.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// A footer that could not be fetched or read.
#[derive(Debug, thiserror::Error)]
pub enum FetchFooterError {
    /// The store did not give the bytes.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The bytes are not what they should be.
    #[error("`{key}` is not usable: {reason}")]
    Unusable {
        /// The object.
        key: String,
        /// What is wrong with it.
        #[source]
        reason: FooterError,
    },
}

impl FetchFooterError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_transient())
    }

    /// Whether there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_not_found())
    }
}

/// The entries of a footer, and the number of rows that Parquet itself counts.
#[derive(Debug)]
pub struct FooterEntries {
    entries: BTreeMap<String, String>,
    rows: u64,
}

impl FooterEntries {
    /// Reads the footer out of a file's last bytes; `size` is the whole file's.
    ///
    /// # Errors
    /// [`FooterError::NeedMore`] if the footer begins before `tail` does.
    pub fn read(tail: &Bytes, size: u64) -> Result<Self, FooterError> {
        let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Skip);
        match reader.try_parse_sized(tail, size) {
            Ok(()) => {}
            Err(ParquetError::NeedMoreData(needed)) if needed <= MAX_FOOTER_BYTES => {
                return Err(FooterError::NeedMore(needed));
            }
            Err(ParquetError::NeedMoreData(needed)) => {
                return Err(FooterError::Parquet(format!("it claims a footer of {needed} bytes")));
            }
            Err(error) => return Err(FooterError::Parquet(error.to_string())),
        }
        let metadata = reader.finish().map_err(|e| FooterError::Parquet(e.to_string()))?;
        check_extent(&metadata, tail, size)?;
        Ok(Self::of(&metadata))
    }

    /// Fetches the footer of an object, and the object's size in bytes: one request, or two if it is unusually long.
    ///
    /// # Errors
    /// [`FetchFooterError`]. Cancel safe.
    pub async fn fetch(store: &dyn Storage, key: &str) -> Result<(Self, u64), FetchFooterError> {
        let unusable = |reason| FetchFooterError::Unusable { key: key.to_owned(), reason };
        let tail = store.get_suffix(key, FIRST_TAIL_BYTES).await?;
        let (entries, size) = match Self::read(&tail.bytes, tail.size) {
            Err(FooterError::NeedMore(needed)) => {
                let tail = store.get_suffix(key, needed as u64).await?;
                (Self::read(&tail.bytes, tail.size), tail.size)
            }
            other => (other, tail.size),
        };
        Ok((entries.map_err(unusable)?, size))
    }

    /// The entries of a footer that was parsed already.
    pub(super) fn of(metadata: &ParquetMetaData) -> Self {
        let file = metadata.file_metadata();
        let pairs = file.key_value_metadata().into_iter().flatten();
        let entries = pairs.filter_map(|kv| Some((kv.key.clone(), kv.value.clone()?))).collect();
        Self { entries, rows: u64::try_from(file.num_rows()).unwrap_or(0) }
    }

    /// Rows in the file.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// An entry as text.
    ///
    /// # Errors
    /// [`FooterError::Missing`].
    pub fn text(&self, name: &'static str) -> Result<&str, FooterError> {
        self.entries.get(name).map(String::as_str).ok_or(FooterError::Missing(name))
    }

    /// An entry as a value.
    ///
    /// # Errors
    /// [`FooterError`] if it is missing or does not parse.
    pub fn value<T: FromStr>(&self, name: &'static str) -> Result<T, FooterError>
    where
        T::Err: std::fmt::Display,
    {
        self.text(name)?.parse().map_err(|e: T::Err| FooterError::Bad { name, reason: e.to_string() })
    }

    /// An entry as JSON.
    ///
    /// # Errors
    /// [`FooterError`] if it is missing or does not parse.
    pub fn json<T: serde::de::DeserializeOwned>(&self, name: &'static str) -> Result<T, FooterError> {
        serde_json::from_str(self.text(name)?).map_err(|e| FooterError::Bad { name, reason: e.to_string() })
    }
}

/// Refuses a file that is shorter than its own footer says: one that lost bytes in its middle still ends as it
/// should.
fn check_extent(metadata: &ParquetMetaData, tail: &Bytes, size: u64) -> Result<(), FooterError> {
    let before = tail.len().checked_sub(TRAILER_BYTES).map(|at| &tail[at..at + 4]);
    let footer = before.and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
    let room = size.saturating_sub(u64::from(footer) + TRAILER_BYTES as u64);
    let columns = metadata.row_groups().iter().flat_map(RowGroupMetaData::columns);
    // Not `byte_range`, which panics at numbers below zero.
    let end = columns.map(|column| {
        let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
        let unsigned = |n: i64| u64::try_from(n).unwrap_or(u64::MAX);
        unsigned(start).saturating_add(unsigned(column.compressed_size()))
    });
    let end = end.max();
    match end {
        Some(end) if end > room => Err(FooterError::Parquet(format!(
            "its columns end at byte {end} and its footer begins at byte {room}: bytes are missing in between"
        ))),
        _ => Ok(()),
    }
}

/// One entry to be written.
pub(super) fn entry(name: &str, value: &impl ToString) -> KeyValue {
    KeyValue::new(name.to_owned(), value.to_string())
}
