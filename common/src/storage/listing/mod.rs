//! A long listing read in many places at once, in the order that one request after another would give.
//!
//! A store answers a page of 1000 keys in some 50 to 200 ms, and a page says where the next begins: one after the other
//! that is 10^4 keys a second, and hours for 10^8. Where a store can begin behind any key, pages far ahead are asked for
//! at the same time, behind keys that are guessed ([`keyspace`]) and joined without a gap ([`segments`]). A guess must
//! never decide what is listed.

mod keyspace;
mod segments;
#[cfg(test)]
mod tests;

use super::{ListPage, Storage, StorageError, retry::resuming};
use crate::retry::RetryPolicy;
use futures::StreamExt;
use segments::{Ask, MAX_PIECES, Segments};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};

/// Pages that come one after the other before any is guessed: most listings have no more, and guesses need something to
/// go by.
pub(super) const FIRST_PAGES: usize = 2;

/// Pages that are handed over ahead of the taker.
const PAGES_AHEAD: usize = 2;

/// What a request brought for a piece: a page, or that nothing is behind.
type Answer = (u64, Result<Option<ListPage>, StorageError>);

/// The pages of a listing; dropping it ends the task that reads them.
pub(super) struct Pages {
    /// Ends with `Ok(None)` or an error.
    received: mpsc::Receiver<Result<Option<ListPage>, StorageError>>,
    store: String,
    prefix: String,
    ended: bool,
}

impl Pages {
    /// The next page; `None` after the last one, or after an error. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Result<ListPage, StorageError>> {
        if self.ended {
            return None;
        }
        let page = match self.received.recv().await {
            Some(page) => page.transpose(),
            // The task panicked, or its runtime ends: a listing that is not whole must not look as if it were.
            None => {
                let reason = "the listing ended early".to_owned();
                Some(Err(StorageError::Other { store: self.store.clone(), key: self.prefix.clone(), reason }))
            }
        };
        self.ended = !matches!(page, Some(Ok(_)));
        page
    }
}

/// Whether the listing that began with `seen` may go on in pieces: names that cannot be used have no place among the
/// keys, and a page that is shorter than the one before is the last.
pub(super) fn may_be_guessed(seen: &[ListPage]) -> bool {
    seen.iter().all(|page| page.unlistable == 0 && !page.objects.is_empty())
        && seen.is_sorted_by_key(|page| page.objects.len())
}

/// The pages behind `seen`, which has keys, in the listing of `prefix`.
pub(super) fn behind<S: Storage + 'static>(
    store: &Arc<S>,
    policy: RetryPolicy,
    prefix: &str,
    seen: &[ListPage],
) -> Pages {
    let (send, received) = mpsc::channel(PAGES_AHEAD);
    let pages = Pages { received, store: store.name().to_owned(), prefix: prefix.to_owned(), ended: false };
    if let Some(segments) = Segments::behind(prefix, seen) {
        let requests = JoinSet::new();
        let (store, prefix) = (store.clone(), prefix.into());
        let sweep = Sweep {
            store,
            policy,
            prefix,
            segments,
            requests,
            limit: MAX_PIECES,
            good: 0,
            troubles: Arc::default(),
            seen: 0,
        };
        tokio::spawn(sweep.run(send));
    }
    pages
}

struct Sweep<S> {
    store: Arc<S>,
    policy: RetryPolicy,
    prefix: Arc<str>,
    segments: Segments,
    requests: JoinSet<Answer>,
    /// Requests at once: halved when a store is in trouble, one more after as many good answers.
    limit: usize,
    good: usize,
    /// Requests that were refused or lost, and how many of them the limit has followed.
    troubles: Arc<AtomicU64>,
    seen: u64,
}

impl<S: Storage + 'static> Sweep<S> {
    async fn run(mut self, send: mpsc::Sender<Result<Option<ListPage>, StorageError>>) {
        while !self.segments.is_done() {
            while let Some(ask) = self.segments.ask(self.limit.saturating_sub(self.requests.len())) {
                self.request(ask);
            }
            tokio::select! {
                biased;
                () = send.closed() => return,
                place = send.reserve(), if self.segments.has_page() => {
                    let (Ok(place), Some(page)) = (place, self.segments.take()) else { return };
                    place.send(Ok(Some(page)));
                }
                Some(answer) = self.requests.join_next() => {
                    self.pace();
                    if let Err(error) = self.take(answer) {
                        let _ended = send.send(Err(error)).await;
                        return;
                    }
                }
            }
        }
        let Self { store, policy, prefix, segments, troubles, .. } = self;
        if let Some(after) = segments.rest() {
            let mut pages = resuming(&*store, policy, &prefix, Some(&after), troubles);
            while let Some(page) = pages.next().await {
                let failed = page.is_err();
                if send.send(page.map(Some)).await.is_err() || failed {
                    return;
                }
            }
        }
        // Nobody takes it any more: then nobody wants to know.
        let _ended = send.send(Ok(None)).await;
    }

    fn request(&mut self, Ask { id, after }: Ask) {
        let (store, policy, prefix) = (self.store.clone(), self.policy, self.prefix.clone());
        let troubles = self.troubles.clone();
        self.requests.spawn(async move {
            let mut pages = resuming(&*store, policy, &prefix, Some(&after), troubles);
            loop {
                match pages.next().await.transpose() {
                    // S3 may give a page of nothing with more behind it, which has no key to go on from.
                    Ok(Some(page)) if page == ListPage::default() => {}
                    answer => return (id, answer),
                }
            }
        });
    }

    fn pace(&mut self) {
        let troubles = self.troubles.load(Ordering::Relaxed);
        if troubles > self.seen {
            self.seen = troubles;
            (self.limit, self.good) = ((self.limit / 2).max(1), 0);
        } else {
            self.good += 1;
            if self.good >= self.limit {
                (self.limit, self.good) = ((self.limit + 1).min(MAX_PIECES), 0);
            }
        }
    }

    fn take(&mut self, answer: Result<Answer, JoinError>) -> Result<(), StorageError> {
        let (id, page) = answer.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        self.segments.answer(id, page?);
        Ok(())
    }
}
