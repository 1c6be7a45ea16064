//! Retries for any store: transient errors are tried again by [`RetryPolicy::STORAGE`].
//!
//! A decorator, so that every store that goes over a network has the same policy. A listing is taken up
//! again behind the last key that was given out, so a caller sees each key once; a long one is read in many places at
//! once ([`listing`]). After a lost reply a
//! `put_if_absent` that is tried again answers `AlreadyExists` although it was ours: callers must ask what
//! is there, never take the answer for a loss.

use super::{ListPage, Object, ObjectMeta, PutOutcome, Storage, StorageError, listing};
use crate::retry::{Backoff, RetryPolicy, log_retry, retry};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::time::Instant;

/// Transient errors of all stores of this process.
static TRANSIENT_ERRORS: AtomicU64 = AtomicU64::new(0);

/// How often a store of this process failed in a way that passes: throttled, timed out, cut off. For those who decide
/// how much to ask of it at once; tells no stores apart.
pub fn transient_errors() -> u64 {
    TRANSIENT_ERRORS.load(Ordering::Relaxed)
}

/// Whether to try again, and the note of it.
fn noted(error: &StorageError) -> bool {
    let transient = error.is_transient();
    TRANSIENT_ERRORS.fetch_add(u64::from(transient), Ordering::Relaxed);
    transient
}

/// A store whose transient errors are tried again.
#[derive(Debug)]
pub struct RetryingStorage<S> {
    inner: Arc<S>,
    policy: RetryPolicy,
}

impl<S: Storage> RetryingStorage<S> {
    /// With the policy for stores.
    pub fn new(inner: S) -> Self {
        Self { inner: Arc::new(inner), policy: RetryPolicy::STORAGE }
    }

    /// The store without retries.
    #[cfg(test)]
    pub(super) fn inner(&self) -> &S {
        &self.inner
    }

    /// The same with another policy, for callers that cannot wait as long.
    #[must_use]
    pub fn paced(self, policy: RetryPolicy) -> Self {
        Self { policy, ..self }
    }
}

/// A listing that can be taken up again.
struct Listing<'a> {
    pages: BoxStream<'a, Result<ListPage, StorageError>>,
    /// The last key given out, or where the caller began.
    after: Option<String>,
    backoff: Backoff,
    failing_since: Option<Instant>,
}

/// The pages of a listing, one after the other, each tried again by `policy`; each failure that passes is counted in
/// `troubles`.
pub(super) fn resuming<'a, S: Storage>(
    store: &'a S,
    policy: RetryPolicy,
    prefix: &str,
    start_after: Option<&str>,
    troubles: Arc<AtomicU64>,
) -> BoxStream<'a, Result<ListPage, StorageError>> {
    let prefix = prefix.to_owned();
    let listing = Listing {
        pages: store.list(&prefix, start_after),
        after: start_after.map(str::to_owned),
        backoff: Backoff::new(policy),
        failing_since: None,
    };
    stream::unfold(Some((listing, prefix, troubles)), move |listing| async move {
        let (mut listing, prefix, troubles) = listing?;
        loop {
            match listing.pages.next().await? {
                Ok(page) => {
                    listing.failing_since = None;
                    listing.backoff.reset();
                    if let Some(last) = page.objects.last() {
                        listing.after = Some(last.key.clone());
                    }
                    return Some((Ok(page), Some((listing, prefix, troubles))));
                }
                Err(error) => {
                    let since = *listing.failing_since.get_or_insert_with(Instant::now);
                    let pause = listing.backoff.next_delay();
                    if !noted(&error) || since.elapsed() + pause > policy.max_elapsed {
                        return Some((Err(error), None));
                    }
                    troubles.fetch_add(1, Ordering::Relaxed);
                    log_retry(&error, pause);
                    tokio::time::sleep(pause).await;
                    listing.pages = store.list(&prefix, listing.after.as_deref());
                }
            }
        }
    })
    .boxed()
}

/// A listing from its first page to its last.
enum Listed<'a> {
    /// Its first pages, one after the other, and what they were.
    Slowly(BoxStream<'a, Result<ListPage, StorageError>>, Vec<ListPage>),
    /// One after the other to the end.
    InTurn(BoxStream<'a, Result<ListPage, StorageError>>),
    /// The others, in many places at once.
    AtOnce(listing::Pages),
}

#[async_trait]
impl<S: Storage + 'static> Storage for RetryingStorage<S> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn list<'a>(
        &'a self,
        prefix: &str,
        start_after: Option<&str>,
    ) -> BoxStream<'a, Result<ListPage, StorageError>> {
        let pages = resuming(&*self.inner, self.policy, prefix, start_after, Arc::default());
        if !self.inner.lists_from_any_key() {
            return pages;
        }
        let prefix = prefix.to_owned();
        let begin = (Listed::Slowly(pages, Vec::new()), prefix);
        stream::unfold(begin, move |(mut listed, prefix)| async move {
            if let Listed::Slowly(pages, mut seen) = listed {
                listed = match seen.len() {
                    _ if !listing::may_be_guessed(&seen) => Listed::InTurn(pages),
                    listing::FIRST_PAGES => {
                        Listed::AtOnce(listing::behind(&self.inner, self.policy, &prefix, &seen))
                    }
                    _ => {
                        let mut pages = pages;
                        let page = pages.next().await?;
                        seen.extend(page.as_ref().ok().cloned());
                        return Some((page, (Listed::Slowly(pages, seen), prefix)));
                    }
                };
            }
            let page = match &mut listed {
                Listed::AtOnce(pages) => pages.next().await?,
                Listed::InTurn(pages) | Listed::Slowly(pages, _) => pages.next().await?,
            };
            Some((page, (listed, prefix)))
        })
        .boxed()
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        retry(self.policy, noted, || self.inner.get(key, max_bytes)).await
    }

    async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError> {
        retry(self.policy, noted, || self.inner.get_suffix(key, len)).await
    }

    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Object, StorageError> {
        retry(self.policy, noted, || self.inner.get_range(key, offset, len)).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        retry(self.policy, noted, || self.inner.head(key)).await
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StorageError> {
        retry(self.policy, noted, || self.inner.put(key, bytes.clone())).await
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome, StorageError> {
        retry(self.policy, noted, || self.inner.put_if_absent(key, bytes.clone())).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        retry(self.policy, noted, || self.inner.delete(key)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Passing, memory::MemoryStorage};
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    /// Answers, but each request fails before it as often as told; listings break after their first page.
    #[derive(Debug)]
    struct Flaky {
        inner: MemoryStorage,
        failures: AtomicU32,
        /// The write happens and its reply is lost.
        after_the_fact: bool,
    }

    impl Flaky {
        fn new(failures: u32, after_the_fact: bool) -> Self {
            Self {
                inner: MemoryStorage::new("s3://flaky"),
                failures: AtomicU32::new(failures),
                after_the_fact,
            }
        }

        fn fail(&self) -> Result<(), StorageError> {
            match self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
                Err(_) => Ok(()),
                Ok(_) => Err(StorageError::Transient {
                    store: "s3://flaky".into(),
                    key: String::new(),
                    cause: Passing::Throttled,
                    reason: "slow down".into(),
                }),
            }
        }
    }

    #[async_trait]
    impl Storage for Flaky {
        fn name(&self) -> &str {
            self.inner.name()
        }
        fn list<'a>(
            &'a self,
            prefix: &str,
            after: Option<&str>,
        ) -> BoxStream<'a, Result<ListPage, StorageError>> {
            if self.fail().is_ok() {
                return self.inner.list(prefix, after);
            }
            let error = StorageError::Transient {
                store: String::new(),
                key: String::new(),
                cause: Passing::Unavailable,
                reason: "reset".into(),
            };
            self.inner.list(prefix, after).take(1).chain(stream::iter([Err(error)])).boxed()
        }
        async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
            self.fail()?;
            self.inner.get(key, max_bytes).await
        }
        async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError> {
            self.fail()?;
            self.inner.get_suffix(key, len).await
        }
        async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Object, StorageError> {
            self.fail()?;
            self.inner.get_range(key, offset, len).await
        }
        async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
            self.fail()?;
            self.inner.head(key).await
        }
        async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StorageError> {
            self.fail()?;
            self.inner.put(key, bytes).await
        }
        async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome, StorageError> {
            let outcome = if self.after_the_fact {
                Some(self.inner.put_if_absent(key, bytes.clone()).await?)
            } else {
                None
            };
            self.fail()?;
            match outcome {
                Some(outcome) => Ok(outcome),
                None => self.inner.put_if_absent(key, bytes).await,
            }
        }
        async fn delete(&self, key: &str) -> Result<(), StorageError> {
            self.fail()?;
            self.inner.delete(key).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_call_survives_a_few_failures() {
        let store = RetryingStorage::new(Flaky::new(0, false));
        let fail = |n| store.inner.failures.store(n, Ordering::SeqCst);
        fail(3);
        store.put("k", Bytes::from_static(b"v")).await.unwrap();
        fail(3);
        assert_eq!(store.get("k", 9).await.unwrap().bytes, "v");
        fail(3);
        assert_eq!(store.get_suffix("k", 9).await.unwrap().bytes, "v");
        fail(3);
        assert_eq!(store.head("k").await.unwrap().size, 1);
        fail(3);
        store.delete("k").await.unwrap();
        fail(3);
        assert_eq!(store.put_if_absent("k", Bytes::new()).await.unwrap(), PutOutcome::Created);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_reply_shows_as_already_exists() {
        let store = RetryingStorage::new(Flaky::new(1, true));
        assert_eq!(store.put_if_absent("k", Bytes::new()).await.unwrap(), PutOutcome::AlreadyExists);
    }

    #[tokio::test(start_paused = true)]
    async fn missing_is_not_tried_again_and_an_outage_ends() {
        let store = RetryingStorage::new(Flaky::new(0, false));
        let begin = Instant::now();
        assert!(store.get("k", 1).await.unwrap_err().is_not_found());
        assert_eq!(begin.elapsed().as_millis(), 0);
        store.inner.failures.store(u32::MAX, Ordering::SeqCst);
        assert!(store.get("k", 1).await.unwrap_err().is_transient());
        let pages: Vec<_> = store.list("", None).collect().await;
        assert!(pages.last().unwrap().as_ref().unwrap_err().is_transient());
        assert!(begin.elapsed() <= 2 * RetryPolicy::STORAGE.max_elapsed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_broken_listing_goes_on_behind_the_last_key() {
        let store = Arc::new(RetryingStorage::new(Flaky::new(0, false)));
        for i in 0..3500 {
            store.put(&format!("k{i:05}"), Bytes::new()).await.unwrap();
        }
        store.inner.failures.store(2, Ordering::SeqCst);
        let pages: Vec<_> = store.list("k", None).collect().await;
        let keys: Vec<_> = pages.into_iter().flat_map(|page| page.unwrap().objects).map(|o| o.key).collect();
        assert_eq!(keys, (0..3500).map(|i| format!("k{i:05}")).collect::<Vec<_>>());
        assert_eq!(store.inner.failures.load(Ordering::SeqCst), 0, "both failures were met");
    }
}
