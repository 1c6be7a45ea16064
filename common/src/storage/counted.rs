//! Counts what is asked of stores and how they answer: for `/metrics`, and for whoever wonders why a fleet is slow.
//!
//! A decorator at the seam, inside [`super::retry`], so that each try counts and not only the last one. The counts are
//! of the whole process and tell no stores apart. They must never change a call, and never carry a key: both labels
//! are closed sets.

use super::{ListPage, Object, ObjectMeta, Passing, PutOutcome, Storage, StorageError};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use std::sync::atomic::{AtomicU64, Ordering};

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreOp {
    /// An object, or its end.
    Get,
    /// Whether an object is there.
    Head,
    /// A page of a listing.
    List,
    /// A write, conditional or not.
    Put,
    /// A removal.
    Delete,
}

impl StoreOp {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Get, Self::Head, Self::List, Self::Put, Self::Delete];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Put => "put",
            Self::Delete => "delete",
        }
    }
}

/// How a store answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreCode {
    /// As it should: also that an object is there already, or that it is larger than wanted.
    Ok,
    /// No such object, bucket or folder.
    NotFound,
    /// It refuses us.
    Denied,
    /// [`Passing::Throttled`].
    Throttled,
    /// [`Passing::TimedOut`].
    Timeout,
    /// [`Passing::Unavailable`].
    Unavailable,
    /// Anything else.
    Other,
}

impl StoreCode {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Ok,
        Self::NotFound,
        Self::Denied,
        Self::Throttled,
        Self::Timeout,
        Self::Unavailable,
        Self::Other,
    ];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Throttled => "throttled",
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Other => "other",
        }
    }

    fn of<T>(answer: &Result<T, StorageError>) -> Self {
        match answer {
            Ok(_) | Err(StorageError::TooLarge { .. }) => Self::Ok,
            Err(StorageError::NotFound { .. } | StorageError::NoSuchStore { .. }) => Self::NotFound,
            Err(StorageError::Forbidden { .. }) => Self::Denied,
            Err(StorageError::Transient { cause: Passing::Throttled, .. }) => Self::Throttled,
            Err(StorageError::Transient { cause: Passing::TimedOut, .. }) => Self::Timeout,
            Err(StorageError::Transient { cause: Passing::Unavailable, .. }) => Self::Unavailable,
            Err(StorageError::Invalid { .. } | StorageError::Other { .. }) => Self::Other,
        }
    }
}

/// Requests to all stores of this process.
static REQUESTS: [[AtomicU64; StoreCode::ALL.len()]; StoreOp::ALL.len()] =
    [const { [const { AtomicU64::new(0) }; StoreCode::ALL.len()] }; StoreOp::ALL.len()];

/// How often this process asked a store for `op` and was answered with `code`. Each try counts; one that nobody waited
/// for to its end does not.
pub fn store_requests(op: StoreOp, code: StoreCode) -> u64 {
    REQUESTS[op as usize][code as usize].load(Ordering::Relaxed)
}

fn count<T>(op: StoreOp, answer: Result<T, StorageError>) -> Result<T, StorageError> {
    REQUESTS[op as usize][StoreCode::of(&answer) as usize].fetch_add(1, Ordering::Relaxed);
    answer
}

/// A store whose requests are counted.
#[derive(Debug)]
pub struct Counted<S>(S);

impl<S: Storage> Counted<S> {
    /// Counts what `inner` is asked.
    pub fn new(inner: S) -> Self {
        Self(inner)
    }
}

#[async_trait]
impl<S: Storage> Storage for Counted<S> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn list<'a>(
        &'a self,
        prefix: &str,
        start_after: Option<&str>,
    ) -> BoxStream<'a, Result<ListPage, StorageError>> {
        let begin = (self.0.list(prefix, start_after), false);
        stream::unfold(begin, |(mut pages, any)| async move {
            match pages.next().await {
                Some(page) => Some((count(StoreOp::List, page), (pages, true))),
                None => {
                    // A listing of nothing is a request too; the end behind a page is none.
                    if !any {
                        let _counted = count(StoreOp::List, Ok(()));
                    }
                    None
                }
            }
        })
        .boxed()
    }

    fn lists_from_any_key(&self) -> bool {
        self.0.lists_from_any_key()
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        count(StoreOp::Get, self.0.get(key, max_bytes).await)
    }

    async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError> {
        count(StoreOp::Get, self.0.get_suffix(key, len).await)
    }

    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Object, StorageError> {
        count(StoreOp::Get, self.0.get_range(key, offset, len).await)
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        count(StoreOp::Head, self.0.head(key).await)
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StorageError> {
        count(StoreOp::Put, self.0.put(key, bytes).await)
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome, StorageError> {
        count(StoreOp::Put, self.0.put_if_absent(key, bytes).await)
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        count(StoreOp::Delete, self.0.delete(key).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryStorage;

    #[test]
    fn numbers_and_names_are_those_of_the_lists() {
        let mut names = std::collections::HashSet::new();
        for (n, op) in StoreOp::ALL.into_iter().enumerate() {
            assert!(op as usize == n && names.insert(op.name()), "{op:?}");
        }
        for (n, code) in StoreCode::ALL.into_iter().enumerate() {
            assert!(code as usize == n && names.insert(code.name()), "{code:?}");
        }
    }

    #[test]
    fn every_error_has_its_code() {
        let [store, key, reason] = ["s", "k", "r"].map(str::to_owned);
        let transient = |cause| StorageError::Transient {
            store: store.clone(),
            key: key.clone(),
            cause,
            reason: reason.clone(),
        };
        let (key, reason) = (key.clone(), reason.clone());
        for (error, code) in [
            (StorageError::NotFound { key: key.clone() }, StoreCode::NotFound),
            (StorageError::NoSuchStore { store: store.clone() }, StoreCode::NotFound),
            (StorageError::Forbidden { key: key.clone(), reason: reason.clone() }, StoreCode::Denied),
            (StorageError::TooLarge { key: key.clone(), size: 2, limit: 1 }, StoreCode::Ok),
            (transient(Passing::Throttled), StoreCode::Throttled),
            (transient(Passing::TimedOut), StoreCode::Timeout),
            (transient(Passing::Unavailable), StoreCode::Unavailable),
            (StorageError::Invalid { key: key.clone(), reason: reason.clone() }, StoreCode::Other),
            (StorageError::Other { store: store.clone(), key, reason }, StoreCode::Other),
        ] {
            assert_eq!(StoreCode::of(&Err::<(), _>(error)), code);
        }
    }

    #[tokio::test]
    async fn calls_are_counted_and_come_through_unchanged() {
        let asked = |op| StoreCode::ALL.map(|code| store_requests(op, code)).iter().sum::<u64>();
        let before = StoreOp::ALL.map(asked);
        let store = Counted::new(MemoryStorage::new("s3://b").with_pages_of(1));
        store.put("a", Bytes::from_static(b"1")).await.unwrap();
        assert_eq!(store.put_if_absent("b", Bytes::new()).await.unwrap(), PutOutcome::Created);
        assert_eq!(store.get("a", 9).await.unwrap().bytes, "1");
        assert!(store.get("none", 9).await.unwrap_err().is_not_found());
        assert_eq!(store.head("a").await.unwrap().size, 1);
        assert!(store.list("", None).all(async |page| page.is_ok()).await);
        assert_eq!(store.list("nothing", None).count().await, 0);
        store.delete("a").await.unwrap();
        // Other tests of this process count too: at least.
        for (op, (before, more)) in StoreOp::ALL.into_iter().zip(before.into_iter().zip([2, 1, 3, 2, 1])) {
            assert!(asked(op) >= before + more, "{op:?}: {} after {before}", asked(op));
        }
        assert!(store_requests(StoreOp::Get, StoreCode::NotFound) >= 1);
    }
}
