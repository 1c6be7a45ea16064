//! Repairs that are cut short at every request, and what must never happen in between.

use super::*;
use crate::{
    audit::{
        report::Verdict,
        tests::{finished, report},
    },
    batch::{BatchNumber, ImageRef},
    finalize::{finalize, finalize_in_pieces, tests::finished_in_pieces},
    job::JobSpec,
    ledger::{JobState, Ledger, memory::MemoryLedger},
    location::Location,
    planning::tests::{FOREVER, OneJob, Outbox, bucket, plan, put_part, spec, submit},
    planning::{Ready, cancellation::Hold},
    storage::{ListPage, Object, ObjectMeta, PutOutcome, Stores},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

/// A store that fails for good once `left` requests were made: the process that uses it is dead from there on.
#[derive(Debug)]
pub(crate) struct Mortal {
    pub(crate) inner: Arc<dyn Storage>,
    pub(crate) left: AtomicI64,
}

impl Mortal {
    fn call(&self) -> Result<(), StorageError> {
        match self.left.fetch_sub(1, Ordering::SeqCst) {
            1.. => Ok(()),
            _ => Err(StorageError::Other {
                store: "s3://results".into(),
                key: "k".into(),
                reason: "dead".into(),
            }),
        }
    }
}

#[async_trait]
impl Storage for Mortal {
    fn name(&self) -> &str {
        self.inner.name()
    }
    fn list<'a>(
        &'a self,
        prefix: &str,
        after: Option<&str>,
    ) -> BoxStream<'a, Result<ListPage, StorageError>> {
        match self.call() {
            Ok(()) => self.inner.list(prefix, after),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }
    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        self.call()?;
        self.inner.get(key, max_bytes).await
    }
    async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError> {
        self.call()?;
        self.inner.get_suffix(key, len).await
    }
    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Object, StorageError> {
        self.call()?;
        self.inner.get_range(key, offset, len).await
    }
    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        self.call()?;
        self.inner.head(key).await
    }
    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StorageError> {
        self.call()?;
        self.inner.put(key, bytes).await
    }
    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome, StorageError> {
        self.call()?;
        self.inner.put_if_absent(key, bytes).await
    }
    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        self.call()?;
        self.inner.delete(key).await
    }
}

/// One run of the command over `stores`.
async fn run(
    stores: &Arc<Stores>,
    job: &JobSpec,
    outbox: &Outbox,
    ledger: &dyn Ledger,
    discard: bool,
) -> Result<Repaired, String> {
    let (store, layout) = output(job, stores).await.unwrap();
    let survey = Survey::of(&*store, &layout, Depth::Footers, 10).await.map_err(|e| e.to_string())?;
    let ctx = Enlisting { spec: job, stores, broker: outbox, ledger, window: 4, ready: Ready::All };
    let repaired = repair(ctx, &survey, discard, &mut |_| {}, &CancellationToken::new()).await;
    repaired.map_err(|e| e.to_string())
}

fn numbers(outbox: &Outbox) -> BTreeSet<u64> {
    outbox.batches().into_iter().map(|(number, _)| number.0).collect()
}

/// Batches 1 missing, 2 cut, 3 of another model, 4 another's copy; a copy beside them, and a file of the user's.
async fn damage(stores: &Arc<Stores>, job: &JobSpec, batches: &[(BatchNumber, Vec<ImageRef>)]) {
    let (store, layout) = output(job, stores).await.unwrap();
    let part = |n| layout.part(BatchNumber(n));
    let good = store.get(&part(5), 1 << 20).await.unwrap().bytes;
    store.delete(&part(1)).await.unwrap();
    store.put(&part(2), good.slice(..good.len() - 9)).await.unwrap();
    let mut other = job.clone();
    other.model.sha256 = "cd".repeat(32);
    put_part(stores, &other, BatchNumber(3), &batches[3].1).await;
    store.put(&part(4), good.clone()).await.unwrap();
    store.put("out/part-00000099.parquet", good).await.unwrap();
    store.put("out/mine.parquet", Bytes::from_static(b"mine")).await.unwrap();
}

/// The workers' half: makes the parts of all batches in the outbox that have none.
async fn work(stores: &Arc<Stores>, job: &JobSpec, outbox: &Outbox) {
    let (store, layout) = output(job, stores).await.unwrap();
    for (number, images) in outbox.batches() {
        if store.head(&layout.part(number)).await.is_err() {
            put_part(stores, job, number, &images).await;
        }
    }
}

#[tokio::test]
async fn a_repair_that_dies_at_any_request_harms_nothing_and_the_next_one_ends_it() {
    let mut died = 0;
    for requests in 0.. {
        let (stores, job, batches) = finished().await;
        damage(&stores, &job, &batches).await;
        let (store, layout) = output(&job, &stores).await.unwrap();
        let mortal = Mortal { inner: store.clone(), left: AtomicI64::new(requests) };
        stores.replace("results", Arc::new(mortal));
        let (outbox, ledger) = (Outbox::new(FOREVER), MemoryLedger::new());
        let first = run(&stores, &job, &outbox, &ledger, true).await;
        stores.replace("results", store.clone());
        died += u64::from(first.is_err());

        for n in [0, 5, 6, 7, 8, 9] {
            assert!(
                store.head(&layout.part(BatchNumber(n))).await.is_ok(),
                "{requests}: good part {n} is gone"
            );
        }
        assert!(store.head("out/mine.parquet").await.is_ok(), "{requests}: the user's own file is gone");
        let bad_left = {
            let mut left = 0;
            for n in [2, 3, 4] {
                left += u64::from(store.head(&layout.part(BatchNumber(n))).await.is_ok());
            }
            left
        };
        let success = store.head(&layout.success()).await.is_ok();
        assert!(!success || bad_left == 3, "{requests}: it claims to be complete and a part was removed");
        assert!(numbers(&outbox).is_subset(&[1, 2, 3, 4].into()), "{requests}: {:?}", numbers(&outbox));

        // The next one, without anything that failed.
        let outbox = Outbox::new(FOREVER);
        run(&stores, &job, &outbox, &ledger, true).await.unwrap();
        assert_eq!(numbers(&outbox), [1, 2, 3, 4].into(), "{requests}");
        let progress = ledger.progress(&job.job).await.unwrap().unwrap();
        assert_eq!((progress.batches_done, progress.images_ok, progress.images_planned), (6, 55, 95));
        work(&stores, &job, &outbox).await;
        let out = Location::parse(&job.out, Path::new("/")).unwrap();
        finalize(&job.job, &out, &stores).await.unwrap();
        store.delete("out/mine.parquet").await.unwrap();
        assert_eq!(report(&stores, &job, Depth::Keys).await.verdict, Verdict::Complete, "{requests}");
        if first.is_ok() {
            break;
        }
    }
    assert!(died > 20, "it died {died} times, too few to prove anything");
}

#[tokio::test]
async fn without_discard_the_bad_stay_and_the_rest_is_queued() {
    let (stores, job, batches) = finished().await;
    damage(&stores, &job, &batches).await;
    let (store, layout) = output(&job, &stores).await.unwrap();
    let (outbox, ledger) = (Outbox::new(FOREVER), MemoryLedger::new());
    let done = run(&stores, &job, &outbox, &ledger, false).await.unwrap();
    let expected = Repaired { success_removed: true, enqueued: 1, ..Repaired::default() };
    assert_eq!(done, expected);
    assert_eq!((numbers(&outbox), outbox.finalizes()), ([1].into(), 0));
    assert!(store.head(&layout.part(BatchNumber(2))).await.is_ok());
    assert!(store.head("out/part-00000099.parquet").await.is_ok());
}

#[tokio::test]
async fn what_is_only_beside_the_parts_takes_no_success_away() {
    let (stores, job, _) = finished().await;
    let (store, layout) = output(&job, &stores).await.unwrap();
    let copy = store.get(&layout.part(BatchNumber(0)), 1 << 20).await.unwrap().bytes;
    store.put("out/copy.parquet", copy).await.unwrap();
    let (outbox, ledger) = (Outbox::new(FOREVER), MemoryLedger::new());
    let done = run(&stores, &job, &outbox, &ledger, true).await.unwrap();
    assert_eq!(done, Repaired { discarded: 1, complete: true, ..Repaired::default() });
    assert_eq!(report(&stores, &job, Depth::Keys).await.verdict, Verdict::Complete);
    assert_eq!(ledger.state(&job.job).await.unwrap(), Some(JobState::Complete));
    // A manifest that is wrong is written again by whoever takes the request.
    store.put(&layout.manifest(), Bytes::from_static(b"{}")).await.unwrap();
    let done = run(&stores, &job, &outbox, &ledger, false).await.unwrap();
    assert!(done.success_removed && done.finish_requested && done.enqueued == 0, "{done:?}");
    assert_eq!(outbox.finalizes(), 1);
}

#[tokio::test]
async fn a_stopped_producer_is_finished_and_a_cancelled_job_left_alone() {
    let (stores, job) = (bucket(95).await, spec(&["s3://b/p"]));
    // Opening and the first announcement are two calls; the producer dies at the next one.
    submit(&stores, &job, &Outbox::new(FOREVER), &OneJob::new(2)).await.unwrap_err();
    let (store, layout) = output(&job, &stores).await.unwrap();
    store.delete(&layout.plan_done()).await.unwrap();
    let (outbox, ledger) = (Outbox::new(FOREVER), MemoryLedger::new());
    let done = run(&stores, &job, &outbox, &ledger, false).await.unwrap();
    assert_eq!((done.plan_ended, done.enqueued), (true, 10));
    assert_eq!(plan(&stores, &job).await.len(), 10);

    // The ledger alone knows: the mark could not be written when it was cancelled.
    ledger.cancel(&job.job).await.unwrap();
    let outbox = Outbox::new(FOREVER);
    let done = run(&stores, &job, &outbox, &ledger, false).await.unwrap();
    assert_eq!((done.held, numbers(&outbox)), (Some(Hold::Cancelled), [].into()));
    ledger.forget(&job.job).await.unwrap();
    let done = run(&stores, &job, &outbox, &ledger, false).await.unwrap();
    assert_eq!((done.held, numbers(&outbox)), (Some(Hold::Cancelled), [].into()));
    assert_eq!(ledger.state(&job.job).await.unwrap(), Some(JobState::Cancelled));

    store.delete(&layout.plan_file(0)).await.unwrap();
    let error = run(&stores, &job, &outbox, &ledger, true).await.unwrap_err();
    assert!(error.contains("contradicts itself"), "{error}");
}

#[tokio::test]
async fn a_manifest_with_a_bad_piece_is_made_again_as_a_whole() {
    for damage in [None, Some("torn")] {
        let (stores, job, out) = finished_in_pieces(3).await;
        let (store, layout) = output(&job, &stores).await.unwrap();
        match damage {
            None => store.delete(&layout.manifest_piece(2)).await.unwrap(),
            Some(text) => store.put(&layout.manifest_piece(2), text.into()).await.unwrap(),
        }
        let (outbox, ledger) = (Outbox::new(FOREVER), MemoryLedger::new());
        let done = run(&stores, &job, &outbox, &ledger, false).await.unwrap();
        assert!(done.success_removed && done.finish_requested && done.enqueued == 0, "{done:?}");
        assert!(store.head(&layout.manifest()).await.is_err());
        finalize_in_pieces(&job.job, &out, &stores, 3).await.unwrap();
        assert_eq!(report(&stores, &job, Depth::Keys).await.verdict, Verdict::Complete);
    }
}
