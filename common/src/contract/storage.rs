//! What every [`Storage`] must do.
//!
//! Each function is one promise; [`suite`] checks them all below a prefix that must be empty before and is
//! emptied again after.

use crate::storage::{ObjectMeta, PutOutcome, Storage, StorageError};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::join_all, stream};
use std::{collections::BTreeSet, sync::Arc};

/// Enough for more than two pages of any implementation.
const MANY: usize = 2500;

/// Requests in flight while the many are made and removed.
const IN_FLIGHT: usize = 32;

const ANY_SIZE: u64 = 1 << 30;

/// In which order a store lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Byte order of the whole keys, as S3 promises it.
    Bytes,
    /// An order of the store's own, that is always the same and that `start_after` follows. SeaweedFS compares
    /// folder by folder, so that `a/b/2.jpg` comes before `a/b.jpg`.
    Own,
}

/// Checks everything below `prefix`, which ends in a slash and under which nothing is.
pub async fn suite(store: Arc<dyn Storage>, prefix: &str) {
    suite_in(store, prefix, Order::Bytes).await;
}

/// The same for a store with the given order.
pub async fn suite_in(store: Arc<dyn Storage>, prefix: &str, order: Order) {
    assert!(prefix.ends_with('/'), "the suite needs a prefix that ends in a slash");
    let at = |name: &str| format!("{prefix}{name}");
    round_trip(&*store, &at("round/")).await;
    missing(&*store, &at("missing/")).await;
    size_limits(&*store, &at("limits/")).await;
    suffixes(&*store, &at("suffix/")).await;
    ranges(&*store, &at("range/")).await;
    one_winner(&store, &at("winner/")).await;
    odd_keys(&*store, &at("odd/")).await;
    listing_order(&*store, &at("order/"), order).await;
    listing_pages(&*store, &at("pages/")).await;
    large_object(&*store, &at("large/")).await;
    clear(&*store, prefix).await;
}

/// Everything below `prefix`, page by page; no key may come twice.
pub async fn list_all(store: &dyn Storage, prefix: &str, after: Option<&str>) -> Vec<ObjectMeta> {
    let pages: Vec<_> = store.list(prefix, after).try_collect().await.expect("the listing works");
    let objects: Vec<ObjectMeta> = pages.into_iter().flat_map(|page| page.objects).collect();
    let distinct: BTreeSet<_> = objects.iter().map(|object| &object.key).collect();
    assert_eq!(distinct.len(), objects.len(), "a key is listed twice");
    objects
}

async fn keys(store: &dyn Storage, prefix: &str, after: Option<&str>) -> Vec<String> {
    list_all(store, prefix, after).await.into_iter().map(|object| object.key).collect()
}

async fn clear(store: &dyn Storage, prefix: &str) {
    let all = keys(store, prefix, None).await;
    let removals = stream::iter(&all).map(|key| store.delete(key)).buffer_unordered(IN_FLIGHT);
    removals.try_collect::<Vec<()>>().await.expect("objects can be removed");
    assert_eq!(keys(store, prefix, None).await, Vec::<String>::new(), "what was removed is not listed");
}

async fn put(store: &dyn Storage, key: &str, bytes: impl Into<Bytes>) {
    store.put(key, bytes.into()).await.unwrap_or_else(|e| panic!("put of {key:?}: {e}"));
}

/// What is put comes back, from every call alike; a second put replaces it and changes the tag.
pub async fn round_trip(store: &dyn Storage, prefix: &str) {
    let key = format!("{prefix}a/b.bin");
    put(store, &key, "first").await;
    let first = store.get(&key, ANY_SIZE).await.expect("it is there");
    assert_eq!((&first.bytes[..], first.size), (&b"first"[..], 5));
    let head = store.head(&key).await.expect("it is there");
    assert_eq!(
        head,
        ObjectMeta { key: key.clone(), size: 5, etag: first.etag.clone(), modified: head.modified }
    );
    assert_eq!(list_all(store, prefix, None).await, [head], "get, head and list agree");
    let etag = first.etag.expect("objects have tags");
    assert!(!etag.contains('"'), "the tag {etag} has quotes");

    put(store, &key, "second, longer").await;
    let second = store.get(&key, ANY_SIZE).await.expect("it is there");
    assert_eq!(&second.bytes[..], b"second, longer");
    assert_ne!(second.etag, Some(etag), "new content, new tag");

    store.delete(&key).await.expect("it can be removed");
    store.delete(&key).await.expect("removing what is not there is no error");
    assert!(store.get(&key, ANY_SIZE).await.is_err_and(|e| e.is_not_found()));
}

/// A missing key is `NotFound` for every call that reads, and an empty listing.
pub async fn missing(store: &dyn Storage, prefix: &str) {
    let key = format!("{prefix}nobody");
    let errors = [
        store.get(&key, 1).await.map(drop).expect_err("get"),
        store.get_suffix(&key, 8).await.map(drop).expect_err("get_suffix"),
        store.get_suffix(&key, 0).await.map(drop).expect_err("get_suffix of nothing"),
        store.get_range(&key, 1, 8).await.map(drop).expect_err("get_range"),
        store.get_range(&key, 1, 0).await.map(drop).expect_err("get_range of nothing"),
        store.head(&key).await.map(drop).expect_err("head"),
    ];
    for error in errors {
        assert!(error.is_not_found() && !error.is_transient(), "{error}");
        assert!(error.to_string().contains("nobody"), "{error}");
    }
    assert!(list_all(store, prefix, None).await.is_empty());
    store.delete(&key).await.expect("removing what is not there is no error");
}

/// More bytes than allowed are refused, exactly as many are not.
pub async fn size_limits(store: &dyn Storage, prefix: &str) {
    let key = format!("{prefix}ten");
    put(store, &key, "0123456789").await;
    match store.get(&key, 9).await {
        Err(StorageError::TooLarge { size: 10, limit: 9, .. }) => {}
        other => panic!("ten bytes with a limit of nine gave {other:?}"),
    }
    assert_eq!(store.get(&key, 10).await.expect("just small enough").size, 10);
}

/// Suffixes of objects that are longer, as long, shorter and empty.
pub async fn suffixes(store: &dyn Storage, prefix: &str) {
    let (full, empty) = (format!("{prefix}full"), format!("{prefix}empty"));
    put(store, &full, "0123456789").await;
    put(store, &empty, "").await;
    for (len, expected) in
        [(0, ""), (1, "9"), (4, "6789"), (10, "0123456789"), (11, "0123456789"), (1 << 20, "0123456789")]
    {
        let got = store.get_suffix(&full, len).await.unwrap_or_else(|e| panic!("suffix of {len}: {e}"));
        assert_eq!((&got.bytes[..], got.size), (expected.as_bytes(), 10), "suffix of {len}");
    }
    let whole = store.head(&full).await.expect("it is there");
    assert_eq!(store.get_suffix(&full, 4).await.expect("it is there").etag, whole.etag);
    for len in [0, 8] {
        let got = store.get_suffix(&empty, len).await.unwrap_or_else(|e| panic!("suffix of nothing: {e}"));
        assert_eq!((got.bytes.len(), got.size), (0, 0));
    }
    assert_eq!(store.get(&empty, 0).await.expect("nothing is within a limit of nothing").size, 0);
}

/// Ranges that lie in an object, reach over its end, and begin at or behind it.
pub async fn ranges(store: &dyn Storage, prefix: &str) {
    let (full, empty) = (format!("{prefix}full"), format!("{prefix}empty"));
    put(store, &full, "0123456789").await;
    put(store, &empty, "").await;
    let whole = store.head(&full).await.expect("it is there");
    for (offset, len, expected) in [
        (0, 1, "0"),
        (3, 4, "3456"),
        (0, 10, "0123456789"),
        (9, 1, "9"),
        (8, 1 << 20, "89"),
        (4, 0, ""),
        (10, 1, ""),
        (11, 5, ""),
        (1 << 40, 1, ""),
    ] {
        let asked = format!("{len} from {offset}");
        let got = store.get_range(&full, offset, len).await.unwrap_or_else(|e| panic!("{asked}: {e}"));
        assert_eq!((&got.bytes[..], got.size), (expected.as_bytes(), 10), "{asked}");
        assert_eq!(got.etag, whole.etag, "{asked}");
    }
    for (offset, len) in [(0, 0), (0, 8), (3, 8)] {
        let got = store.get_range(&empty, offset, len).await.unwrap_or_else(|e| panic!("of nothing: {e}"));
        assert_eq!((got.bytes.len(), got.size), (0, 0));
    }
}

/// Of all who create the same object one wins, its bytes stay, and a plain put still replaces them.
pub async fn one_winner(store: &Arc<dyn Storage>, prefix: &str) {
    const ROUNDS: usize = 20;
    const RACERS: usize = 8;
    for round in 0..ROUNDS {
        let key = format!("{prefix}{round:02}");
        let race = (0..RACERS).map(|racer| {
            let (store, key) = (store.clone(), key.clone());
            tokio::spawn(
                async move { store.put_if_absent(&key, Bytes::from(format!("racer {racer}"))).await },
            )
        });
        let outcomes: Vec<_> =
            join_all(race).await.into_iter().map(|o| o.expect("no panic").expect("no error")).collect();
        let winners: Vec<_> = (0..RACERS).filter(|&r| outcomes[r] == PutOutcome::Created).collect();
        assert_eq!(winners.len(), 1, "round {round}: {outcomes:?}");
        let got = store.get(&key, ANY_SIZE).await.expect("it is there");
        assert_eq!(got.bytes, format!("racer {}", winners[0]), "round {round}");
    }
    let key = format!("{prefix}00");
    let late = store.put_if_absent(&key, Bytes::from_static(b"late")).await.expect("no error");
    assert_eq!(late, PutOutcome::AlreadyExists);
    store.delete(&key).await.expect("it can be removed");
    let again = store.put_if_absent(&key, Bytes::from_static(b"again")).await.expect("no error");
    assert_eq!(again, PutOutcome::Created, "a removed key is free again");
    put(&**store, &key, "replaced").await;
    assert_eq!(store.get(&key, ANY_SIZE).await.expect("it is there").bytes, "replaced");
}

/// Keys that need escaping somewhere on the way survive it. No backslash: SeaweedFS takes it for a slash in
/// a prefix.
pub async fn odd_keys(store: &dyn Storage, prefix: &str) {
    let names = [
        "two words.jpg",
        " lead and trail ",
        "plus+and&percent%20.jpg",
        "%2F%25%",
        "quotes'\"`.jpg",
        "[brackets]{braces}(round).jpg",
        "question?hash#semi;colon:comma,equals=at@.jpg",
        "dollar$star*bang!tilde~pipe|caret^less<more>.jpg",
        "ümläut-ß.jpg",
        "e\u{301}.jpg",
        "日本語/写真.jpg",
        "📷/🐈.jpg",
        ".hidden",
        "...",
        "-dash",
    ];
    for name in names {
        let key = format!("{prefix}{name}");
        put(store, &key, name).await;
        let got = store.get(&key, ANY_SIZE).await.unwrap_or_else(|e| panic!("get of {name:?}: {e}"));
        assert_eq!(got.bytes, name);
        assert_eq!(store.head(&key).await.unwrap_or_else(|e| panic!("head of {name:?}: {e}")).key, key);
        assert_eq!(keys(store, &key, None).await, std::slice::from_ref(&key), "as a prefix of itself");
    }
    let expected: BTreeSet<_> = names.iter().map(|name| format!("{prefix}{name}")).collect();
    let listed = keys(store, prefix, None).await;
    assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), expected);
    for (i, key) in listed.iter().enumerate() {
        assert_eq!(keys(store, prefix, Some(key)).await, listed[i + 1..], "after {key:?}");
        store.delete(key).await.unwrap_or_else(|e| panic!("delete of {key:?}: {e}"));
    }
    assert!(list_all(store, prefix, None).await.is_empty());
}

/// The order holds also where a folder's name begins another's; a listing can begin behind any key, and any
/// text can be its prefix.
pub async fn listing_order(store: &dyn Storage, prefix: &str, order: Order) {
    let names =
        ["a-/x", "a.jpg", "a/1.jpg", "a/b/2.jpg", "a/b.jpg", "a/b-/y", "a0.jpg", "B.jpg", "b/3.jpg", "ab"];
    for name in names {
        put(store, &format!("{prefix}{name}"), name).await;
    }
    let listed = keys(store, prefix, None).await;
    let mut sorted: Vec<_> = names.iter().map(|name| format!("{prefix}{name}")).collect();
    sorted.sort_unstable();
    assert_eq!(sorted, listed.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>());
    assert_eq!(keys(store, prefix, None).await, listed, "the order is not the same twice");
    for (i, key) in listed.iter().enumerate() {
        assert_eq!(keys(store, prefix, Some(key)).await, listed[i + 1..], "after {key:?}");
    }
    if order == Order::Bytes {
        assert_eq!(listed, sorted, "the order is not that of the bytes");
        for start in ["a", "a/", "a/b/", "a/zz", "b", "zz", "A"].map(|s| format!("{prefix}{s}")) {
            let rest: Vec<_> = sorted.iter().filter(|key| **key > start).cloned().collect();
            assert_eq!(keys(store, prefix, Some(&start)).await, rest, "after {start:?}, which is no key");
        }
    }
    if store.lists_from_any_key() {
        for start in
            ["a", "a/", "a/b", "a/b/", "a/b0", "a/zz", "a1", "b", "zz", "A"].map(|s| format!("{prefix}{s}"))
        {
            let rest = keys(store, prefix, Some(&start)).await;
            assert!(listed.ends_with(&rest), "after {start:?}, which is no key: {rest:?}");
        }
    }
    for begin in ["a", "a/", "a/b", "a.jpg", "b/", "nothing"].map(|s| format!("{prefix}{s}")) {
        let within: Vec<_> = listed.iter().filter(|key| key.starts_with(&begin)).cloned().collect();
        assert_eq!(keys(store, &begin, None).await, within, "prefix {begin:?}");
    }
}

/// A listing of more than two pages is complete, and can begin anywhere in it.
pub async fn listing_pages(store: &dyn Storage, prefix: &str) {
    let expected: Vec<_> = (0..MANY).map(|i| format!("{prefix}img_{i:05}.jpg")).collect();
    let puts = stream::iter(&expected)
        .map(|key| store.put(key, Bytes::from_static(b"x")))
        .buffer_unordered(IN_FLIGHT);
    puts.try_collect::<Vec<()>>().await.expect("the objects are written");
    let pages: Vec<_> = store.list(prefix, None).try_collect().await.expect("the listing works");
    assert!(pages.len() > 2, "{} objects came in {} pages", MANY, pages.len());
    assert!(pages.iter().all(|page| page.unlistable == 0));
    assert_eq!(keys(store, prefix, None).await, expected);
    for i in [0, 998, 999, 1000, 1001, 1999, MANY - 2, MANY - 1] {
        assert_eq!(keys(store, prefix, Some(&expected[i])).await, expected[i + 1..], "after {i}");
    }
    assert_eq!(
        keys(store, &format!("{prefix}img_001"), None).await,
        expected[100..200],
        "a prefix within a name"
    );
    let first = store.list(prefix, None).next().await.expect("one page").expect("the listing works");
    assert!(!first.objects.is_empty(), "a listing that is dropped after a page does no harm");
}

/// Five million bytes, all of them, with a suffix that is the end of the same.
pub async fn large_object(store: &dyn Storage, prefix: &str) {
    let key = format!("{prefix}five-megabytes");
    let bytes: Bytes = (0..5_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert_eq!(
        store.put_if_absent(&key, bytes.clone()).await.expect("no error"),
        PutOutcome::Created,
        "the prefix is not empty"
    );
    let got = store.get(&key, 5_000_000).await.expect("it is there");
    assert!(got.bytes == bytes, "five megabytes came back changed");
    let end = store.get_suffix(&key, 70_000).await.expect("it is there");
    assert_eq!(end.size, 5_000_000);
    assert!(end.bytes == bytes.slice(4_930_000..), "the suffix is not the end");
}
