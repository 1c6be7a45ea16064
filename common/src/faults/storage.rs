//! The bucket at the far end of a line.

use super::{
    line::{Call, Line},
    weather::Service,
};
use crate::storage::{ListPage, Object, ObjectMeta, Passing, PutOutcome, Storage, StorageError};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use std::{fmt, sync::Arc};

/// One attempt a call, as a store's client makes it; retries belong around it.
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    line: Arc<Line>,
}

impl FaultyStorage {
    /// `inner`, seen by the process at the other end of `line`.
    pub fn new(inner: Arc<dyn Storage>, line: Arc<Line>) -> Self {
        Self { inner, line }
    }

    async fn call<T: Send + 'static>(
        &self,
        what: &str,
        key: &str,
        work: impl Future<Output = Result<T, StorageError>> + Send + 'static,
    ) -> Result<T, StorageError> {
        let failed = |reason: &str| StorageError::Transient {
            store: self.inner.name().to_owned(),
            key: key.to_owned(),
            cause: Passing::Unavailable,
            reason: reason.to_owned(),
        };
        self.line.call(Call::new(Service::Storage, format!("{what} {key}")), failed, work).await
    }
}

impl fmt::Debug for FaultyStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStorage({:?} for {})", self.inner, self.line.name())
    }
}

#[async_trait]
impl Storage for FaultyStorage {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn list<'a>(
        &'a self,
        prefix: &str,
        start_after: Option<&str>,
    ) -> BoxStream<'a, Result<ListPage, StorageError>> {
        let begin = Some((prefix.to_owned(), start_after.map(str::to_owned)));
        stream::unfold(begin, move |state| async move {
            let (prefix, after) = state?;
            let (inner, of) = (self.inner.clone(), prefix.clone());
            let page = async move { inner.list(&of, after.as_deref()).next().await.transpose() };
            match self.call("list", &prefix, page).await {
                Ok(None) => None,
                Ok(Some(page)) => {
                    let last = page.objects.last().map(|object| object.key.clone());
                    Some((Ok(page), last.map(|last| (prefix, Some(last)))))
                }
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        let (inner, at) = (self.inner.clone(), key.to_owned());
        self.call("get", key, async move { inner.get(&at, max_bytes).await }).await
    }

    async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError> {
        let (inner, at) = (self.inner.clone(), key.to_owned());
        self.call("tail", key, async move { inner.get_suffix(&at, len).await }).await
    }

    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Object, StorageError> {
        let (inner, at) = (self.inner.clone(), key.to_owned());
        self.call("range", key, async move { inner.get_range(&at, offset, len).await }).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        let (inner, at) = (self.inner.clone(), key.to_owned());
        self.call("head", key, async move { inner.head(&at).await }).await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StorageError> {
        let (inner, at) = (self.inner.clone(), key.to_owned());
        self.call("put", key, async move { inner.put(&at, bytes).await }).await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome, StorageError> {
        let (inner, at) = (self.inner.clone(), key.to_owned());
        self.call("create", key, async move { inner.put_if_absent(&at, bytes).await }).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let (inner, at) = (self.inner.clone(), key.to_owned());
        self.call("delete", key, async move { inner.delete(&at).await }).await
    }
}
