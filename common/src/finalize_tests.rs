//! When a job may be finished, and when it must not be.

use super::*;
use crate::audit::{
    Depth,
    report::Verdict,
    tests::{finished, report},
};
use crate::ledger::{Ledger, memory::MemoryLedger};
use crate::planning::{
    open_output,
    rebuild::rebuild,
    repair::tests::Mortal,
    tests::{FOREVER, OneJob, Outbox, bucket, output, plan, put_part, spec, submit},
};
use crate::standing::standing;
use std::path::Path;
use std::sync::{Arc, atomic::AtomicI64};

#[tokio::test]
async fn finalize_writes_success_when_and_only_when_the_parts_equal_the_plan() {
    let (stores, job) = (bucket(95).await, spec(&["s3://b/p"]));
    let out = Location::parse(&job.out, Path::new("/")).unwrap();
    let (store, layout) = output(&stores, &job).await;
    let (_, job) = open_output(&job, &stores).await.unwrap();
    assert_eq!(finalize(&job.job, &out, &stores).await.unwrap(), Finalized::PlanOpen);
    submit(&stores, &job, &Outbox::new(FOREVER), &OneJob::new(FOREVER)).await.unwrap();
    let batches = plan(&stores, &job).await;
    for (number, images) in batches.iter().filter(|(n, _)| n.0 != 4) {
        put_part(&stores, &job, *number, images).await;
    }
    let answer = finalize(&job.job, &out, &stores).await.unwrap();
    assert_eq!(answer, Finalized::Incomplete { missing: vec![BatchNumber(4)], missing_count: 1 });
    // A part with too few rows is no part of this plan.
    put_part(&stores, &job, BatchNumber(4), &batches[4].1[..9]).await;
    let error = finalize(&job.job, &out, &stores).await.unwrap_err();
    assert!(matches!(error, FinalizeError::Mismatch { what: "a row count of", .. }), "{error}");
    put_part(&stores, &job, BatchNumber(4), &batches[4].1).await;
    put_part(&stores, &job, BatchNumber(10), &batches[4].1).await;
    let error = finalize(&job.job, &out, &stores).await.unwrap_err();
    assert!(matches!(error, FinalizeError::ForeignPart { batches: 10, more: 0, .. }), "{error}");
    assert!(store.head(&layout.success()).await.is_err() && store.head(&layout.manifest()).await.is_err());
    store.delete(&layout.part(BatchNumber(10))).await.unwrap();
    let Finalized::Written(manifest) = finalize(&job.job, &out, &stores).await.unwrap() else {
        panic!("written")
    };
    assert_eq!((manifest.rows, manifest.images_ok, manifest.batches), (95, 95, 10));
    assert!(store.head(&layout.success()).await.is_ok());
    let json = store.get(&layout.manifest(), 1 << 20).await.unwrap();
    assert_eq!(Manifest::parse(&json.bytes).unwrap(), *manifest);
    assert_eq!(
        finalize(&job.job, &out, &stores).await.unwrap(),
        Finalized::Written(manifest),
        "again is harmless"
    );
    let error = finalize(&"job-2".parse().unwrap(), &out, &stores).await.unwrap_err();
    assert!(matches!(error, FinalizeError::OtherJob { .. }), "{error}");
}

/// A job of ten batches, finished in pieces of so many parts.
pub(crate) async fn finished_in_pieces(parts_a_piece: u64) -> (Arc<Stores>, JobSpec, Location) {
    let (stores, job, _) = finished().await;
    let out = Location::parse(&job.out, Path::new("/")).unwrap();
    let (store, layout) = output(&stores, &job).await;
    unfinish(&*store, &layout).await;
    finalize_in_pieces(&job.job, &out, &stores, parts_a_piece).await.unwrap();
    (stores, job, out)
}

/// Removes what `trawl repair` removes of a finished output.
async fn unfinish(store: &dyn Storage, layout: &OutputLayout) {
    store.delete(&layout.success()).await.unwrap();
    store.delete(&layout.manifest()).await.unwrap();
}

fn sums(manifest: &Manifest) -> Manifest {
    let (version, finished_unix_ms) = (0, 0);
    Manifest { version, finished_unix_ms, parts: Vec::new(), pieces: Vec::new(), ..manifest.clone() }
}

#[tokio::test]
async fn a_huge_jobs_manifest_is_cut_into_pieces_and_says_the_same() {
    let (stores, job, _) = finished().await;
    let out = Location::parse(&job.out, Path::new("/")).unwrap();
    let (store, layout) = output(&stores, &job).await;
    let whole = finished_manifest(&*store, &layout, &job.job).await.unwrap().unwrap();
    assert_eq!((whole.version, whole.parts.len(), whole.pieces.len()), (1, 10, 0));
    for (parts_a_piece, pieces) in [(1, 10), (3, 4), (5, 2), (9, 2), (10, 0), (11, 0)] {
        unfinish(&*store, &layout).await;
        let answer = finalize_in_pieces(&job.job, &out, &stores, parts_a_piece).await.unwrap();
        let Finalized::Written(manifest) = answer else { panic!("written") };
        assert_eq!(manifest.pieces.len(), pieces);
        assert_eq!(sums(&manifest), sums(&whole));
        let stored = finished_manifest(&*store, &layout, &job.job).await.unwrap().unwrap();
        assert_eq!(stored, *manifest);
        assert_eq!(report(&stores, &job, Depth::Keys).await.verdict, Verdict::Complete, "{parts_a_piece}");
        assert_eq!(finalize(&job.job, &out, &stores).await.unwrap(), Finalized::Written(manifest));
        // What reads sums reads no piece.
        let standing = standing(&stores, &out).await.unwrap().progress;
        assert_eq!((standing.batches_done, standing.images_ok), (10, 95));
        let ledger = MemoryLedger::new();
        let rebuilt = rebuild(&job, &layout, &store, &ledger).await.unwrap();
        assert_eq!((rebuilt.complete, rebuilt.batches_planned, rebuilt.parts), (true, 10, 10));
        assert_eq!(ledger.progress(&job.job).await.unwrap().unwrap().images_ok, 95);
    }
}

#[tokio::test]
async fn two_that_finish_in_pieces_at_once_write_the_same_pieces() {
    let (stores, job, out) = finished_in_pieces(3).await;
    let (store, layout) = output(&stores, &job).await;
    let pieces = async || {
        let mut pieces = Vec::new();
        for index in 0..4 {
            pieces.push(store.get(&layout.manifest_piece(index), 1 << 20).await.unwrap().bytes);
        }
        pieces
    };
    let before = pieces().await;
    unfinish(&*store, &layout).await;
    let one = || finalize_in_pieces(&job.job, &out, &stores, 3);
    let (a, b) = tokio::join!(one(), one());
    assert!(matches!((a.unwrap(), b.unwrap()), (Finalized::Written(_), Finalized::Written(_))));
    assert_eq!(pieces().await, before);
    assert_eq!(report(&stores, &job, Depth::Footers).await.verdict, Verdict::Complete);
}

#[tokio::test]
async fn a_finish_that_dies_at_any_request_claims_nothing_and_the_next_one_ends_it() {
    let mut died = 0;
    for requests in 0.. {
        let (stores, job, out) = finished_in_pieces(3).await;
        let (store, layout) = output(&stores, &job).await;
        unfinish(&*store, &layout).await;
        // Left by a finish before a part was made anew.
        store.put(&layout.manifest_piece(1), Bytes::from_static(b"stale")).await.unwrap();
        stores.replace("results", Arc::new(Mortal { inner: store.clone(), left: AtomicI64::new(requests) }));
        let first = finalize_in_pieces(&job.job, &out, &stores, 3).await;
        stores.replace("results", store.clone());
        died += u64::from(first.is_err());
        if store.head(&layout.manifest()).await.is_err() {
            assert!(store.head(&layout.success()).await.is_err(), "{requests}: the mark comes last");
        }
        finalize_in_pieces(&job.job, &out, &stores, 3).await.unwrap();
        assert_eq!(report(&stores, &job, Depth::Footers).await.verdict, Verdict::Complete, "{requests}");
        if first.is_ok() {
            break;
        }
    }
    assert!(died > 15, "it died {died} times, too few to prove anything");
}

#[tokio::test]
async fn a_resume_goes_on_beside_the_pieces_of_an_earlier_finish() {
    let (stores, job, out) = finished_in_pieces(3).await;
    let (store, layout) = output(&stores, &job).await;
    let batches = plan(&stores, &job).await;
    unfinish(&*store, &layout).await;
    store.delete(&layout.part(BatchNumber(4))).await.unwrap();
    let outbox = Outbox::new(FOREVER);
    let resumed = submit(&stores, &job, &outbox, &OneJob::new(FOREVER)).await.unwrap();
    assert_eq!((resumed.published, outbox.batches()), (1, vec![batches[4].clone()]));
    let answer = finalize_in_pieces(&job.job, &out, &stores, 3).await.unwrap();
    assert_eq!(answer, Finalized::Incomplete { missing: vec![BatchNumber(4)], missing_count: 1 });
    put_part(&stores, &job, BatchNumber(4), &batches[4].1).await;
    finalize_in_pieces(&job.job, &out, &stores, 3).await.unwrap();
    assert_eq!(report(&stores, &job, Depth::Keys).await.verdict, Verdict::Complete);
}

#[tokio::test]
async fn missing_and_foreign_parts_are_counted_and_the_first_are_named() {
    let (stores, job, _) = finished().await;
    let out = Location::parse(&job.out, Path::new("/")).unwrap();
    let (store, layout) = output(&stores, &job).await;
    unfinish(&*store, &layout).await;
    for number in [2, 3, 7] {
        store.delete(&layout.part(BatchNumber(number))).await.unwrap();
    }
    let answer = finalize(&job.job, &out, &stores).await.unwrap();
    let missing = [2, 3, 7].map(BatchNumber).to_vec();
    assert_eq!(answer, Finalized::Incomplete { missing, missing_count: 3 });
    // Foreign parts are said first. A name may claim any number.
    for number in [u64::MAX, 100_000_000, 77] {
        store.put(&layout.part(BatchNumber(number)), Bytes::new()).await.unwrap();
    }
    let error = finalize(&job.job, &out, &stores).await.unwrap_err();
    let FinalizeError::ForeignPart { key, batches, more } = error else { panic!("{error}") };
    assert_eq!((key, batches, more), (layout.part(BatchNumber(77)), 10, 2));
}
