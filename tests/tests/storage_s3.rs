//! The S3 store against a real server: the contract, and what only a server can refuse.
//!
//! On a private server, below a prefix of each test's own.

use bytes::Bytes;
use futures::StreamExt;
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use trawl_common::{
    contract,
    retry::RetryPolicy,
    storage::{
        PutOutcome, Storage, StorageError, Stores,
        s3::{S3Config, S3Storage},
    },
};
use trawl_tests::stack::shared_value;

const BUCKET: &str = "trawl";

/// A connection that stalls must fail here within seconds, not minutes.
const IMPATIENT: RetryPolicy = RetryPolicy { max_elapsed: Duration::from_secs(1), ..RetryPolicy::STORAGE };

fn env(name: &str) -> String {
    shared_value("s3", name)
}

fn config() -> S3Config {
    S3Config {
        endpoint: env("AWS_ENDPOINT_URL"),
        region: env("AWS_REGION"),
        access_key: env("AWS_ACCESS_KEY_ID"),
        secret_key: env("AWS_SECRET_ACCESS_KEY"),
    }
}

/// A prefix that no other run has used.
fn own_prefix(name: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    format!("{name}-{}-{}/", std::process::id(), now.as_nanos())
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract() {
    let store = Arc::new(S3Storage::with_config(BUCKET, config()));
    // The server of the stack is SeaweedFS, which lists folder by folder.
    contract::storage::suite_in(store, &own_prefix("contract"), contract::storage::Order::Own).await;
}

#[tokio::test]
async fn the_environment_is_enough_and_start_up_is_quick() {
    let begin = Instant::now();
    // The same variables that `env` reads; path style follows from the endpoint.
    let (_, _) = (env("AWS_ENDPOINT_URL"), env("AWS_ACCESS_KEY_ID"));
    let place = trawl_common::location::Location::S3 { bucket: BUCKET.into(), key: String::new() };
    let store = Stores::new().open(&place).await;
    assert_eq!(store.name(), "s3://trawl");
    let prefix = own_prefix("environment");
    let key = format!("{prefix}x");
    assert_eq!(store.put_if_absent(&key, Bytes::from_static(b"1")).await.unwrap(), PutOutcome::Created);
    assert_eq!(store.get(&key, 1).await.unwrap().bytes, "1");
    store.delete(&key).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_wrong_secret_is_forbidden_and_never_repeated() {
    let secret = "canary-secret-0123456789";
    let store = S3Storage::with_config(BUCKET, S3Config { secret_key: secret.into(), ..config() });
    let listing = store.list("", None).next().await.expect("an answer").map(drop);
    let results = [
        listing,
        store.get("k", 1).await.map(drop),
        store.head("k").await.map(drop),
        store.put("k", Bytes::new()).await,
        store.put_if_absent("k", Bytes::new()).await.map(drop),
        store.delete("k").await,
    ];
    for result in results {
        let error = result.expect_err("a wrong secret must not work");
        assert!(matches!(error, StorageError::Forbidden { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
    }
    let unknown = S3Storage::with_config(BUCKET, S3Config { access_key: "nobody".into(), ..config() });
    let error = unknown.get("k", 1).await.expect_err("an unknown key must not work");
    assert!(matches!(error, StorageError::Forbidden { .. }), "{error:?}");
}

#[tokio::test]
async fn a_missing_bucket_is_no_such_store() {
    let store = S3Storage::with_config("trawl-is-not-here", config());
    let error = store.list("", None).next().await.expect("an answer").expect_err("no listing");
    assert!(matches!(error, StorageError::NoSuchStore { .. }), "{error:?}");
    assert!(error.to_string().contains("s3://trawl-is-not-here"), "{error}");
    let error = store.get("k", 1).await.expect_err("no object");
    assert!(matches!(error, StorageError::NoSuchStore { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_away_or_mute_is_transient() {
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = mute.local_addr().expect("an address").port();
    let cut = tokio::spawn(async move {
        // Takes connections and hangs up before any answer.
        loop {
            drop(mute.accept().await);
        }
    });
    for endpoint in [format!("http://127.0.0.1:{port}"), "http://127.0.0.1:1".to_owned()] {
        let store = S3Storage::with_config(BUCKET, S3Config { endpoint, ..config() }).paced(IMPATIENT);
        let begin = Instant::now();
        let error = store.get("k", 1).await.expect_err("nobody answers");
        assert!(error.is_transient(), "{error:?}");
        assert!(
            !error.to_string().contains(&env("AWS_SECRET_ACCESS_KEY"))
                || env("AWS_SECRET_ACCESS_KEY").len() < 4
        );
        assert!(begin.elapsed() < Duration::from_secs(20), "it took {:?}", begin.elapsed());
    }
    cut.abort();
}
