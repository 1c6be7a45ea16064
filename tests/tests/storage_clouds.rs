//! GCS (our stub) and Azure (Azurite) through the store that workers use: the contract, and what only a server refuses.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future::join_all};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use trawl_common::{
    contract::{self, storage::list_all},
    location::Location,
    retry::RetryPolicy,
    storage::{
        ListPage, Passing, PutOutcome, Storage, StorageError, Stores,
        object::{AzureConfig, GcsConfig, ObjectStorage},
    },
};
use trawl_tests::{
    gcs::Gcs,
    http_faults::{HttpFaults, Misdeed, Rule},
    stack::shared_value,
    unique,
};

const CONTAINER: &str = "trawl";

/// Quick repeats: the faults are made up, nobody has to be spared.
const QUICK: RetryPolicy = RetryPolicy {
    initial: Duration::from_millis(5),
    max_interval: Duration::from_millis(50),
    max_elapsed: Duration::from_secs(30),
};

const AT_ONCE: RetryPolicy = RetryPolicy { max_elapsed: Duration::ZERO, ..QUICK };

fn azure_config() -> AzureConfig {
    let env = |name| shared_value("azure", name);
    let account = env("AZURE_STORAGE_ACCOUNT_NAME");
    AzureConfig {
        endpoint: format!("{}/{account}", env("AZURITE_BLOB_STORAGE_URL")),
        account,
        key: env("AZURE_STORAGE_ACCOUNT_KEY"),
    }
}

async fn azure() -> ObjectStorage {
    ObjectStorage::azure_with(CONTAINER, azure_config()).await
}

async fn gcs(stub: &Gcs) -> ObjectStorage {
    ObjectStorage::gcs_with(Gcs::BUCKET, GcsConfig { base_url: stub.url(), token: None }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn gcs_keeps_the_contract() {
    let stub = Gcs::start();
    contract::storage::suite(Arc::new(gcs(&stub).await), "contract/").await;
    assert_eq!(stub.keys(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_keeps_the_contract() {
    let store = Arc::new(azure().await);
    contract::storage::suite(store, &format!("{}/", unique("contract"))).await;
}

#[tokio::test]
async fn the_environment_is_enough() {
    let _started = azure_config();
    let place = |text: &str| Location::parse(text, std::path::Path::new("/")).unwrap();
    let store = Stores::new().open(&place("az://trawl/x")).await;
    assert_eq!(store.name(), "az://trawl");
    let key = unique("environment");
    assert_eq!(store.put_if_absent(&key, Bytes::from_static(b"1")).await.unwrap(), PutOutcome::Created);
    assert_eq!(store.get(&key, 1).await.unwrap().bytes, "1");
    store.delete(&key).await.unwrap();
    // The account of the URL and not the environment's.
    let other = Stores::new().open(&place("abfss://trawl@trawltest.dfs.core.windows.net/x")).await;
    assert_eq!(other.name(), "abfss://trawl@trawltest.dfs.core.windows.net");
}

#[tokio::test]
async fn odd_keys_are_counted_and_cost_no_good_ones() {
    let stub = Gcs::start();
    for key in ["in/a.jpg", "in/b//c.jpg", "in/./d.jpg", "in/../e.jpg", "in/f\u{1}.jpg", "in/g.jpg", "in/h/"]
    {
        stub.insert(key, "x");
    }
    let store = gcs(&stub).await;
    let pages: Vec<ListPage> = store.list("in/", None).try_collect().await.unwrap();
    let keys: Vec<_> =
        pages.iter().flat_map(|page| &page.objects).map(|object| object.key.as_str()).collect();
    assert_eq!(keys, ["in/a.jpg", "in/g.jpg", "in/h/"]);
    assert_eq!(pages.iter().map(|page| page.unlistable).sum::<u64>(), 4);
    let error = store.get("in/b//c.jpg", 1).await.unwrap_err();
    assert!(matches!(error, StorageError::Invalid { .. }), "{error:?}");
}

#[tokio::test]
async fn pages_of_odd_keys_alone_end_no_listing() {
    let stub = Gcs::start();
    for i in 0..2500 {
        stub.insert(&format!("in/a//{i:05}.jpg"), "x");
    }
    stub.insert("in/z.jpg", "x");
    let store = gcs(&stub).await;
    let pages: Vec<ListPage> = store.list("in/", None).try_collect().await.unwrap();
    assert_eq!(pages.iter().map(|page| page.unlistable).sum::<u64>(), 2500);
    assert_eq!(pages.last().unwrap().objects[0].key, "in/z.jpg");
}

async fn refusals(store: &ObjectStorage) -> Vec<StorageError> {
    vec![
        store.list("", None).next().await.expect("an answer").map(drop).expect_err("list"),
        store.get("k", 1).await.map(drop).expect_err("get"),
        store.get_suffix("k", 1).await.map(drop).expect_err("get_suffix"),
        store.get_range("k", 0, 1).await.map(drop).expect_err("get_range"),
        store.head("k").await.map(drop).expect_err("head"),
        store.put("k", Bytes::new()).await.expect_err("put"),
        store.put_if_absent("k", Bytes::new()).await.map(drop).expect_err("put_if_absent"),
        store.delete("k").await.expect_err("delete"),
    ]
}

#[tokio::test]
async fn wrong_credentials_are_forbidden_and_never_repeated() {
    let stub = Gcs::wanting("the-right-one");
    let config = GcsConfig { base_url: stub.url(), token: Some("canary-0123456789".into()) };
    let wrong_token = ObjectStorage::gcs_with(Gcs::BUCKET, config).await;
    // A key that is none of theirs, in base64.
    let config = AzureConfig { key: "Y2FuYXJ5LTAxMjM0NTY3ODk=".into(), ..azure_config() };
    let wrong_key = ObjectStorage::azure_with(CONTAINER, config).await;
    let config = AzureConfig { key: "not base64, canary".into(), ..azure_config() };
    let broken_key = ObjectStorage::azure_with(CONTAINER, config).await;
    for (store, variable) in [
        (wrong_token, "GOOGLE_APPLICATION_CREDENTIALS"),
        (wrong_key, "AZURE_STORAGE_ACCOUNT_KEY"),
        (broken_key, "AZURE_STORAGE_ACCOUNT_KEY"),
    ] {
        for error in refusals(&store).await {
            assert!(matches!(error, StorageError::Forbidden { .. }), "{error:?}");
            let text = format!("{error} {error:?} {store:?}");
            assert!(!text.contains("canary") && !text.contains("Y2FuYXJ5"), "{text}");
            assert!(text.contains(variable), "{text}");
        }
    }
}

#[tokio::test]
async fn a_missing_bucket_is_no_such_store() {
    let stub = Gcs::start();
    let config = GcsConfig { base_url: stub.url(), token: None };
    let gcs = ObjectStorage::gcs_with("nobodys-bucket", config).await;
    let azure = ObjectStorage::azure_with("nobodys", azure_config()).await;
    for (store, name) in [(gcs, "gs://nobodys-bucket"), (azure, "az://nobodys")] {
        let listing = store.list("x", None).next().await.expect("an answer").expect_err("no listing");
        for error in [listing, store.get("k", 1).await.expect_err("no object")] {
            assert!(matches!(error, StorageError::NoSuchStore { .. }), "{error:?}");
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

/// The store behind a front that misbehaves, and the front.
async fn behind_faults(azure: bool, stub: &Gcs, policy: RetryPolicy) -> (ObjectStorage, HttpFaults) {
    if azure {
        let config = azure_config();
        let front = HttpFaults::before(&shared_value("azure", "AZURITE_BLOB_STORAGE_URL"), 7);
        let endpoint = front.url(&config.endpoint);
        let store = ObjectStorage::azure_with(CONTAINER, AzureConfig { endpoint, ..config }).await;
        return (store.paced(policy), front);
    }
    let front = HttpFaults::before(&stub.url(), 7);
    let config = GcsConfig { base_url: front.url(&stub.url()), token: None };
    (ObjectStorage::gcs_with(Gcs::BUCKET, config).await.paced(policy), front)
}

#[tokio::test]
async fn bad_days_are_waited_out_by_one_policy() {
    let stub = Gcs::start();
    for azure in [false, true] {
        let (store, front) = behind_faults(azure, &stub, QUICK).await;
        let prefix = unique("faults");
        front.set([Rule::new(Misdeed::SlowDown).share(0.3)]);
        let puts = (0..40).map(|i| {
            let (store, key) = (&store, format!("{prefix}/{i:02}"));
            async move { store.put_if_absent(&key, Bytes::from(vec![i; 500])).await.unwrap() }
        });
        assert!(join_all(puts).await.iter().all(|outcome| *outcome == PutOutcome::Created));
        front.set([Rule::new(Misdeed::Truncate).share(0.3), Rule::new(Misdeed::FalseError).share(0.2)]);
        for i in 0..40 {
            assert_eq!(store.get(&format!("{prefix}/{i:02}"), 500).await.unwrap().bytes, vec![i; 500]);
        }
        assert_eq!(list_all(&store, &format!("{prefix}/"), None).await.len(), 40);
        assert!(front.struck(Misdeed::SlowDown) > 5 && front.struck(Misdeed::Truncate) > 3);

        // The put happened and its reply was lost: the second try is told so.
        front.set([Rule::new(Misdeed::LoseReply).methods(&["PUT"]).times(1)]);
        let outcome = store.put_if_absent(&format!("{prefix}/once"), Bytes::from_static(b"1")).await.unwrap();
        assert_eq!(outcome, PutOutcome::AlreadyExists);
    }
}

#[tokio::test]
async fn one_request_is_one_attempt_and_throttling_is_told() {
    let stub = Gcs::start();
    for azure in [false, true] {
        let (store, front) = behind_faults(azure, &stub, AT_ONCE).await;
        for (misdeed, cause) in
            [(Misdeed::SlowDown, Passing::Throttled), (Misdeed::LoseReply, Passing::Unavailable)]
        {
            front.set([Rule::new(misdeed)]);
            let (began, before) = (Instant::now(), front.requests());
            for error in refusals(&store).await {
                let StorageError::Transient { cause: told, reason, .. } = &error else { panic!("{error:?}") };
                // An answer to HEAD has no body that could say more.
                assert!(*told == cause || reason == "HTTP 503", "{error:?}");
            }
            assert_eq!(front.requests() - before, 8, "object_store tried again by itself");
            assert!(began.elapsed() < Duration::from_secs(10));
        }
    }
}

#[tokio::test]
async fn a_large_object_is_refused_before_its_body() {
    let stub = Gcs::start();
    let key = unique("large");
    for store in [gcs(&stub).await, azure().await] {
        store.put(&key, Bytes::from(vec![7; 1 << 20])).await.unwrap();
        let error = store.get(&key, 1000).await.unwrap_err();
        assert!(matches!(error, StorageError::TooLarge { size: 1_048_576, limit: 1000, .. }), "{error:?}");
        store.delete(&key).await.unwrap();
    }
}
