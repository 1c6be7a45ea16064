//! Reading web servers: ranges, redirects, limits, and what a URL must not lead to.

use bytes::Bytes;
use futures::StreamExt;
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use trawl_common::{
    location::Location,
    storage::{Storage, StorageError, Stores},
};
use trawl_tests::web_files::{Page, WebFiles};

const DIGITS: &[u8] = b"0123456789";

/// The store and the key of a URL, for a process that may read private addresses or not.
async fn open(url: &str, private: bool) -> (Arc<dyn Storage>, String) {
    let place = Location::parse(url, Path::new("/")).expect("a URL");
    (Stores::with_private_addresses(private).open(&place).await, place.key().to_owned())
}

async fn get(url: &str, private: bool) -> Result<Bytes, StorageError> {
    let (store, key) = open(url, private).await;
    store.get(&key, 1000).await.map(|object| object.bytes)
}

fn server() -> WebFiles {
    let server = WebFiles::start();
    server.set("/a/ten.bin?v=1", Page::File(Bytes::from_static(DIGITS)));
    server.set("/empty", Page::File(Bytes::new()));
    server.set("/plain", Page::Plain(Bytes::from_static(DIGITS)));
    server
}

#[tokio::test]
async fn objects_parts_ends_and_sizes() {
    let server = server();
    let (store, key) = open(&server.url("/a/ten.bin?v=1"), true).await;
    let whole = store.get(&key, 10).await.unwrap();
    assert_eq!((&whole.bytes[..], whole.size, whole.etag.as_deref()), (DIGITS, 10, Some("tag")));
    let head = store.head(&key).await.unwrap();
    assert_eq!((head.size, head.etag.as_deref(), head.modified), (10, Some("tag"), Some(1_390_862_909)));
    for (len, expected) in [(0, &b""[..]), (4, b"6789"), (11, DIGITS)] {
        let end = store.get_suffix(&key, len).await.unwrap();
        assert_eq!((&end.bytes[..], end.size), (expected, 10), "the last {len}");
    }
    for (offset, len, expected) in [(3, 4, &b"3456"[..]), (8, 99, b"89"), (10, 1, b""), (4, 0, b"")] {
        let part = store.get_range(&key, offset, len).await.unwrap();
        assert_eq!((&part.bytes[..], part.size), (expected, 10), "{len} from {offset}");
    }
    let error = store.get(&key, 9).await.unwrap_err();
    assert!(matches!(error, StorageError::TooLarge { size: 10, limit: 9, .. }), "{error:?}");
    for key in ["empty"] {
        assert_eq!(store.get(key, 0).await.unwrap().size, 0);
        assert_eq!(store.get_suffix(key, 8).await.unwrap().size, 0);
        assert_eq!(store.get_range(key, 0, 8).await.unwrap().bytes, "");
    }
    let missing = store.get("nobody", 9).await.unwrap_err();
    assert!(missing.is_not_found() && missing.to_string().contains("/nobody"), "{missing}");
}

#[tokio::test]
async fn a_server_without_ranges_and_head_gives_what_it_can() {
    let server = server();
    let (store, key) = open(&server.url("/plain"), true).await;
    assert_eq!(store.head(&key).await.unwrap().size, 10);
    assert_eq!(store.get_suffix(&key, 10).await.unwrap().bytes, DIGITS);
    assert_eq!(store.get_range(&key, 0, 10).await.unwrap().bytes, DIGITS);
    let error = store.get_range(&key, 3, 4).await.unwrap_err();
    assert!(error.to_string().contains("whole objects only"), "{error}");
}

#[tokio::test]
async fn listing_and_writing_are_refused_with_the_way_out() {
    let server = server();
    let (store, key) = open(&server.url("/photos/"), true).await;
    let error = store.list(&key, None).next().await.expect("an answer").unwrap_err();
    assert!(error.to_string().contains("list of URLs (a manifest)"), "{error}");
    for error in [
        store.put(&key, Bytes::new()).await.unwrap_err(),
        store.put_if_absent(&key, Bytes::new()).await.unwrap_err(),
        store.delete(&key).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("can only be read"), "{error}");
    }
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn an_endless_body_ends_at_the_limit() {
    let server = server();
    server.set("/endless", Page::Endless);
    let (store, key) = open(&server.url("/endless"), true).await;
    let began = Instant::now();
    let error = store.get(&key, 100_000).await.unwrap_err();
    assert!(matches!(error, StorageError::TooLarge { limit: 100_000, .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn private_addresses_are_refused_however_they_are_written() {
    let server = server();
    let port = server.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "0.0.0.0",
        "[::]",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "[fe80::1]",
        "[2002:7f00:1::]",
        "[64:ff9b::7f00:1]",
        "100.64.0.1",
        "224.0.0.1",
    ] {
        let began = Instant::now();
        let error = get(&format!("http://{host}:{port}/a/ten.bin?v=1"), false).await.unwrap_err();
        assert!(matches!(error, StorageError::Other { .. }), "{host}: {error:?}");
        assert!(error.to_string().contains("--allow-private-addresses"), "{host}: {error}");
        assert!(began.elapsed() < Duration::from_secs(5), "{host}: nothing is tried again");
    }
    assert!(server.asked().is_empty(), "a refused address was asked");
    assert_eq!(get(&server.url("/a/ten.bin?v=1"), true).await.unwrap(), DIGITS);
    assert_eq!(get(&format!("http://localhost:{port}/a/ten.bin?v=1"), true).await.unwrap(), DIGITS);
}

#[tokio::test]
async fn redirects_are_followed_a_few_times_and_never_into_trouble() {
    let (server, other) = (server(), server());
    for (status, path) in [(301, "/r1"), (302, "/r2"), (303, "/r3"), (307, "/r4"), (308, "/r5")] {
        server.set(path, Page::Redirect(status, "/a/ten.bin?v=1".into()));
        assert_eq!(get(&server.url(path), true).await.unwrap(), DIGITS, "{status}");
    }
    server.set("/abroad", Page::Redirect(302, other.url("/a/ten.bin?v=1")));
    assert_eq!(get(&server.url("/abroad"), true).await.unwrap(), DIGITS);
    let asked = other.asked();
    assert_eq!(asked.len(), 1);
    for name in ["authorization", "cookie", "referer"] {
        assert!(!asked[0].headers.contains_key(name), "{name} was sent to another host");
    }

    let signed = format!("http://canary@127.0.0.1:{}/a", other.port());
    server.set("/login", Page::Redirect(302, signed));
    server.set("/file", Page::Redirect(302, "file:///etc/passwd".into()));
    server.set("/nowhere", Page::Redirect(302, "http://".into()));
    server.set("/round", Page::Redirect(302, "/round".into()));
    server.set("/signed", Page::Redirect(302, other.url("/gone?sig=canary")));
    for (path, says) in [
        ("/login", "credentials"),
        ("/file", "file://"),
        ("/nowhere", "nowhere"),
        ("/round", "more than 5 times"),
        ("/signed", "does not exist"),
    ] {
        let error = get(&server.url(path), true).await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains(says) && !text.contains("canary"), "{path}: {text}");
    }
    let rounds = server.asked().iter().filter(|asked| asked.path == "/round").count();
    assert_eq!(rounds, 6);
}

#[tokio::test]
async fn refusals_are_about_the_url_and_outages_pass() {
    let server = server();
    for (status, transient) in [(401, false), (403, false), (418, false), (503, true)] {
        let path = format!("/s{status}");
        server.set(&path, Page::Status(status));
        let error = get(&server.url(&path), true).await.unwrap_err();
        assert_eq!(error.is_transient(), transient, "{status}: {error:?}");
        assert!(!error.is_forbidden(), "{status}: one URL must not look like lost credentials");
        let tries = server.asked().iter().filter(|asked| asked.path == path).count();
        assert_eq!(tries > 1, transient, "{status} was asked for {tries} times");
    }
    server.set("/gone", Page::Status(410));
    assert!(get(&server.url("/gone"), true).await.unwrap_err().is_not_found());
}
