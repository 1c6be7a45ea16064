//! That a listing in pieces gives what one page after the other gives, and sooner.

use crate::storage::{
    ListPage, Object, ObjectMeta, PutOutcome, Storage, StorageError, memory::MemoryStorage,
    retry::RetryingStorage,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// A listing takes so long a page.
const PAGE_TIME: Duration = Duration::from_millis(50);

/// How keys compare.
type Rank = fn(&str) -> String;

/// A store with pages of ten keys and a latency, in an order that may be its own.
#[derive(Debug)]
struct Slow {
    keys: Vec<(String, String)>,
    rank: Rank,
    pages: AtomicU64,
    /// One key in so many is removed as soon as it was listed once.
    vanishing: usize,
    gone: Mutex<BTreeSet<String>>,
    /// An entry that cannot be used lies behind this key.
    odd: Option<String>,
    /// Requests that are refused, one in so many.
    refuse: u64,
}

fn bytes(key: &str) -> String {
    key.to_owned()
}

/// SeaweedFS: folder by folder.
fn folders(key: &str) -> String {
    key.replace('/', "\0")
}

const PAGE_KEYS: usize = 10;

impl Slow {
    fn new(keys: impl IntoIterator<Item = String>, rank: Rank) -> Self {
        let mut keys: Vec<_> = keys.into_iter().map(|key| (rank(&key), key)).collect();
        keys.sort_unstable();
        keys.dedup();
        Self {
            keys,
            rank,
            pages: AtomicU64::new(0),
            vanishing: usize::MAX,
            gone: Mutex::default(),
            odd: None,
            refuse: u64::MAX,
        }
    }

    async fn page(&self, prefix: &str, after: Option<&str>) -> Result<ListPage, StorageError> {
        tokio::time::sleep(PAGE_TIME).await;
        let number = self.pages.fetch_add(1, Ordering::SeqCst);
        if number % self.refuse == self.refuse - 1 {
            let (store, key, reason) = (String::new(), String::new(), "slow down".to_owned());
            return Err(StorageError::Transient {
                store,
                key,
                cause: crate::storage::Passing::Throttled,
                reason,
            });
        }
        let after = after.map(self.rank);
        let begin = after.map_or(0, |after| self.keys.partition_point(|(rank, _)| *rank <= after));
        let mut gone = self.gone.lock().unwrap();
        let page: Vec<&String> = self.keys[begin..]
            .iter()
            .map(|(_, key)| key)
            .filter(|key| key.starts_with(prefix) && !gone.contains(*key))
            .take(PAGE_KEYS)
            .collect();
        let unlistable = self.odd.as_ref().is_some_and(|odd| page.contains(&odd)).into();
        let meta = |key: &String| ObjectMeta { key: key.clone(), size: 1, etag: None, modified: None };
        let objects = page.iter().copied().map(meta).collect();
        gone.extend(
            self.keys
                .iter()
                .step_by(self.vanishing)
                .map(|(_, key)| key)
                .filter(|key| page.contains(key))
                .cloned(),
        );
        Ok(ListPage { objects, unlistable })
    }
}

#[async_trait]
impl Storage for Slow {
    fn name(&self) -> &'static str {
        "s3://slow"
    }
    fn list<'a>(
        &'a self,
        prefix: &str,
        after: Option<&str>,
    ) -> BoxStream<'a, Result<ListPage, StorageError>> {
        let begin = Some((prefix.to_owned(), after.map(str::to_owned)));
        stream::unfold(begin, move |state| async move {
            let (prefix, after) = state?;
            match self.page(&prefix, after.as_deref()).await {
                Err(error) => Some((Err(error), None)),
                Ok(page) => {
                    let last = page.objects.last()?.key.clone();
                    Some((Ok(page), Some((prefix, Some(last)))))
                }
            }
        })
        .boxed()
    }
    fn lists_from_any_key(&self) -> bool {
        true
    }
    async fn get(&self, _: &str, _: u64) -> Result<Object, StorageError> {
        unreachable!()
    }
    async fn get_suffix(&self, _: &str, _: u64) -> Result<Object, StorageError> {
        unreachable!()
    }
    async fn get_range(&self, _: &str, _: u64, _: u64) -> Result<Object, StorageError> {
        unreachable!()
    }
    async fn head(&self, _: &str) -> Result<ObjectMeta, StorageError> {
        unreachable!()
    }
    async fn put(&self, _: &str, _: Bytes) -> Result<(), StorageError> {
        unreachable!()
    }
    async fn put_if_absent(&self, _: &str, _: Bytes) -> Result<PutOutcome, StorageError> {
        unreachable!()
    }
    async fn delete(&self, _: &str) -> Result<(), StorageError> {
        unreachable!()
    }
}

/// What a listing gave.
struct Listed {
    keys: Vec<String>,
    unlistable: u64,
    /// In units of a page's time.
    rounds: u128,
    requests: u64,
}

async fn listed(store: Slow, prefix: &str, after: Option<&str>) -> Listed {
    let store = Arc::new(RetryingStorage::new(store));
    let began = Instant::now();
    let pages: Vec<ListPage> = store.list(prefix, after).try_collect().await.unwrap();
    let rounds = began.elapsed().as_millis() / PAGE_TIME.as_millis();
    let unlistable = pages.iter().map(|page| page.unlistable).sum();
    let keys = pages.into_iter().flat_map(|page| page.objects).map(|object| object.key).collect();
    let requests = store.inner().pages.load(Ordering::SeqCst);
    Listed { keys, unlistable, rounds, requests }
}

/// Names as people have them, some thousands of each kind.
fn shapes() -> Vec<(&'static str, Vec<String>)> {
    let hash =
        |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).wrapping_mul(0xd6e8_feb8_6659_fd93);
    vec![
        ("numbers", (0..6000).map(|n| format!("in/img_{n:08}.jpg")).collect()),
        ("numbers without zeros", (0..6000).map(|n| format!("in/{n}.jpg")).collect()),
        ("digests", (0..6000).map(|n| format!("in/{:016x}", hash(n))).collect()),
        (
            "digests in folders",
            (0..6000).map(|n| format!("in/{:02x}/{:x}.png", hash(n) % 256, hash(n))).collect(),
        ),
        (
            "classes",
            (0..6000).map(|n| format!("in/n{:08}/n_{}.JPEG", hash(n % 60) % 100_000_000, n)).collect(),
        ),
        (
            "days",
            (0..6000).map(|n| format!("in/2024/{:02}/{:02}/{:05}.jpg", n % 12 + 1, n % 28 + 1, n)).collect(),
        ),
        ("far apart", (0..6000).map(|n| format!("in/{}/{n:05}", if n < 3000 { "a" } else { "z" })).collect()),
        ("words", (0..6000).map(|n| format!("in/{:?}-{}", hash(n) % 97, hash(n) % 1000)).collect()),
        ("foreign", (0..3000).map(|n| format!("in/ä{n}-ß{}", hash(n))).collect()),
        (
            "folders and their names",
            (0..4000).map(|n| format!("in/a{}{:03}/x{n}", [".", "-", "", "_"][n % 4], n / 8)).collect(),
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn pieces_are_the_listing() {
    for (shape, keys) in shapes() {
        for rank in [bytes as Rank, folders] {
            let wanted: Vec<String> =
                Slow::new(keys.clone(), rank).keys.into_iter().map(|(_, key)| key).collect();
            let got = listed(Slow::new(keys.clone(), rank), "in/", None).await;
            assert_eq!(got.keys, wanted, "{shape}");
            for from in [1, wanted.len() / 3, wanted.len() - 25, wanted.len() - 1] {
                let got = listed(Slow::new(keys.clone(), rank), "in/", Some(&wanted[from])).await;
                assert_eq!(got.keys, wanted[from + 1..], "{shape} after {from}");
            }
            let pages = wanted.len() as u64 / PAGE_KEYS as u64;
            assert!(
                got.requests <= pages * 5 / 4 + 40,
                "{shape}: {} requests for {pages} pages",
                got.requests
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn common_names_are_listed_many_times_as_fast() {
    for (shape, keys) in shapes() {
        let pages = keys.len() as u128 / PAGE_KEYS as u128;
        let wanted = match shape {
            "numbers" | "digests" | "far apart" => 10,
            "digests in folders" => 8,
            "classes" | "days" => 4,
            "numbers without zeros" => 2,
            _ => continue,
        };
        let got = listed(Slow::new(keys, bytes), "in/", None).await;
        assert!(got.rounds * wanted <= pages, "{shape}: {pages} pages took the time of {}", got.rounds);
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_cannot_be_used_are_counted_once() {
    let (_, keys) = shapes().swap_remove(0);
    for at in [3, 15, 28, 400, 3000, 5990] {
        let store = Slow { odd: Some(keys[at].clone()), ..Slow::new(keys.clone(), bytes) };
        let got = listed(store, "in/", None).await;
        assert_eq!(got.keys, keys, "odd at {at}");
        assert_eq!(got.unlistable, 1, "odd at {at}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_removed_meanwhile_costs_no_other_key() {
    let (_, keys) = shapes().swap_remove(0);
    // Any of them may be where two pieces were to be joined.
    for vanishing in [1, 2, 3, 7, 50] {
        let store = Slow { vanishing, ..Slow::new(keys.clone(), bytes) };
        let mut got = listed(store, "in/", None).await.keys;
        assert!(got.is_sorted_by(|a, b| a < b), "a key came twice, one in {vanishing} vanishing");
        let stay = |key: &String| keys.binary_search(key).unwrap() % vanishing != 0;
        got.retain(stay);
        assert_eq!(got, keys.iter().filter(|key| stay(key)).cloned().collect::<Vec<_>>());
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_asked_too_much_is_asked_less() {
    let (_, keys) = shapes().swap_remove(0);
    let store = Slow { refuse: 7, ..Slow::new(keys.clone(), bytes) };
    let got = listed(store, "in/", None).await;
    assert_eq!(got.keys, keys);
}

#[tokio::test(start_paused = true)]
async fn a_short_listing_asks_no_more_than_before_and_one_that_is_dropped_stops() {
    let (_, keys) = shapes().swap_remove(0);
    let got = listed(Slow::new(keys[..15].to_vec(), bytes), "in/", None).await;
    assert_eq!(
        (got.keys.len(), got.requests),
        (15, 3),
        "two pages, and the end, which this store tells by itself"
    );

    let store = Arc::new(RetryingStorage::new(Slow::new(keys, bytes)));
    let pages: Vec<_> = store.list("in/", None).take(4).collect().await;
    assert_eq!(pages.len(), 4);
    tokio::time::sleep(PAGE_TIME * 100).await;
    let asked = store.inner().pages.load(Ordering::SeqCst);
    assert!(asked < 40, "{asked} pages were asked for");
}

#[tokio::test(start_paused = true)]
async fn an_error_ends_it() {
    let store = RetryingStorage::new(MemoryStorage::new("s3://m"));
    let pages: Vec<_> = store.list("", None).collect().await;
    assert!(pages.is_empty());
    let refusing = Slow { refuse: 1, ..Slow::new(vec!["in/a".to_owned()], bytes) };
    let pages: Vec<_> = RetryingStorage::new(refusing).list("in/", None).collect().await;
    assert!(matches!(pages[..], [Err(_)]), "{pages:?}");
}
