//! Credentials that run out and caches that cannot be written: the job waits, and nothing is used up.

use super::*;

/// A store that refuses some objects for a while.
#[derive(Debug)]
struct Locked {
    inner: Arc<dyn Storage>,
    /// Keys that hold one of these are refused.
    locked: std::sync::Mutex<Vec<&'static str>>,
    /// So many images are still given; then all are refused.
    left: AtomicI64,
}

impl Locked {
    fn refuse(&self, key: &str, cost: i64) -> Result<(), StorageError> {
        let spent = key.contains("in/") && self.left.fetch_sub(cost, Ordering::Relaxed) <= 0;
        if spent || self.locked.lock().unwrap().iter().any(|part| key.contains(part)) {
            let (key, reason) = (key.to_owned(), "the token has expired".to_owned());
            return Err(StorageError::Forbidden { key, reason });
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Storage for Locked {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn list<'a>(
        &'a self,
        prefix: &str,
        start_after: Option<&str>,
    ) -> futures::stream::BoxStream<'a, Result<ListPage, StorageError>> {
        self.inner.list(prefix, start_after)
    }
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        self.refuse(key, 1)?;
        self.inner.get(key, max_bytes).await
    }
    async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError> {
        self.inner.get_suffix(key, len).await
    }
    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Object, StorageError> {
        self.refuse(key, 1)?;
        self.inner.get_range(key, offset, len).await
    }
    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.refuse(key, 0)?;
        self.inner.head(key).await
    }
    async fn put(&self, key: &str, bytes: bytes::Bytes) -> Result<(), StorageError> {
        self.inner.put(key, bytes).await
    }
    async fn put_if_absent(&self, key: &str, bytes: bytes::Bytes) -> Result<PutOutcome, StorageError> {
        self.inner.put_if_absent(key, bytes).await
    }
    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.inner.delete(key).await
    }
}

/// Two batches of ten images in a store that is `locked`, and gives so many images before it refuses all.
async fn refused(locked: Vec<&'static str>, left: i64) -> (Scene, Arc<Locked>) {
    let mut scene = Scene::new(10).await;
    // Far more rests than attempts, so that an attempt that was counted would show as a dead letter.
    scene.broker = MemoryBroker::new().with_retries(RetryPolicy {
        delay: Duration::from_millis(5),
        max_attempts: 0,
        max_deferrals: 10_000,
    });
    scene.upload(0..20).await;
    let (inner, left) = (scene.bucket.clone(), AtomicI64::new(left));
    let locked = Arc::new(Locked { inner, locked: locked.into(), left });
    scene.stores.replace("b", locked.clone());
    (scene, locked)
}

/// Runs the job, calls `renew` when batches were put off six times, and gives the rows without a prediction.
async fn failed_after(scene: &Scene, renew: impl Fn()) -> Vec<(usize, ErrorCode)> {
    let (pipeline, _threads) = scene.pipeline(None);
    scene.enlist().await;
    let deferred = "trawl_batches_total{outcome=\"deferred\"} ";
    let enough = async || {
        let text = pipeline.meters.render();
        let n: u64 = text.lines().find_map(|l| l.strip_prefix(deferred)).map_or(0, |n| n.parse().unwrap());
        if n >= 6 {
            renew();
        }
        scene.state().await == Some(JobState::Complete)
    };
    scene.serve(&pipeline, enough).await;
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
    let failed = |(i, row): (usize, ResultRow)| match row.outcome {
        Outcome::Failed { code, .. } => Some((i, code)),
        Outcome::Ok(_) | Outcome::OkTruncated(_) => None,
    };
    scene.rows(2).await.into_iter().enumerate().filter_map(failed).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_ran_out_hold_the_job_and_use_nothing_up() {
    let (scene, locked) = refused(vec!["in/"], i64::MAX).await;
    // Renewed, but for one object that really is forbidden.
    let renew = || *locked.locked.lock().unwrap() = vec!["in/0003"];
    assert_eq!(failed_after(&scene, renew).await, [(3, ErrorCode::Forbidden)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_run_out_within_a_batch_cost_no_image_its_row() {
    let (scene, locked) = refused(Vec::new(), 15).await;
    let renew = || locked.left.store(i64::MAX, Ordering::Relaxed);
    assert_eq!(failed_after(&scene, renew).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_cache_cannot_be_written_uses_nothing_up() {
    let mut scene = Scene::new(4).await;
    scene.broker = MemoryBroker::new().with_retries(RetryPolicy {
        delay: Duration::from_millis(5),
        max_attempts: 0,
        max_deferrals: 10_000,
    });
    scene.upload(0..4).await;
    scene.bucket.put("m.pt", std::fs::read(BUNDLE).unwrap().into()).await.unwrap();
    scene.spec.model.location = "s3://b/m.pt".into();
    scene.spec.job = scene.spec.derived_id();
    let dir = tempfile::tempdir().unwrap();
    // A file where the folder should be fails like a disk that is full, and for root too.
    let cache = dir.path().join("cache");
    std::fs::write(&cache, b"in the way").unwrap();
    let (pipeline, _threads) = scene.caching(Flaws::default(), &cache);
    scene.enlist().await;
    let enough = async || {
        if pipeline.meters.render().contains("outcome=\"deferred\"} 3") {
            let _gone = std::fs::remove_file(&cache);
        }
        scene.state().await == Some(JobState::Complete)
    };
    scene.serve(&pipeline, enough).await;
    assert_eq!(scene.rows(1).await.len(), 4);
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
}
