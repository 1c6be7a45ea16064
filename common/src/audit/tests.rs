//! Each way in which an output can be wrong is found, and by its name.

use super::{
    report::{Findings, Report, Verdict},
    *,
};
use crate::{
    batch::ImageRef,
    finalize::{finalize, tests::finished_in_pieces},
    job::JobSpec,
    location::Location,
    planning::tests::{FOREVER, OneJob, Outbox, bucket, output, plan, put_part, spec, submit},
    results::{
        Columns, Manifest, PartFooter, encode_part,
        row::{ClassScore, Outcome, Prediction, ResultRow},
    },
    storage::Stores,
};
use bytes::Bytes;
use std::{path::Path, sync::Arc};

/// A finished job of ten batches.
pub(crate) async fn finished() -> (Arc<Stores>, JobSpec, Vec<(BatchNumber, Vec<ImageRef>)>) {
    let (stores, job) = (bucket(95).await, spec(&["s3://b/p"]));
    submit(&stores, &job, &Outbox::new(FOREVER), &OneJob::new(FOREVER)).await.unwrap();
    let batches = plan(&stores, &job).await;
    for (number, images) in &batches {
        put_part(&stores, &job, *number, images).await;
    }
    let out = Location::parse(&job.out, Path::new("/")).unwrap();
    finalize(&job.job, &out, &stores).await.unwrap();
    (stores, job, batches)
}

pub(crate) async fn report(stores: &Arc<Stores>, job: &JobSpec, depth: Depth) -> Report {
    let (store, layout) = output(stores, job).await;
    let mut findings = Findings::keeping(5);
    let audit = audit(&*store, &layout, depth, &mut |finding| findings.push(finding)).await.unwrap();
    Report::new(&audit, &findings, depth)
}

/// The kinds that were found, with how many.
fn kinds(report: &Report) -> Vec<(&'static str, u64)> {
    report.counts.iter().filter(|(_, n)| **n > 0).map(|(kind, n)| (*kind, *n)).collect()
}

/// A part with these keys, with the footer of these.
async fn put_keys(stores: &Stores, job: &JobSpec, batch: BatchNumber, keys: &[&str]) {
    let class = ClassScore { index: 1, label: None, probability: 0.5 };
    let row = |key: &&str| ResultRow {
        key: (*key).into(),
        etag: None,
        size: 1,
        width: None,
        height: None,
        outcome: Outcome::Ok(Prediction::Classes(vec![class.clone()])),
        carried: Vec::new(),
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    let footer = PartFooter::new(job, batch, "attempt", "worker").counted(&rows);
    let (store, layout) = output(stores, job).await;
    store.put(&layout.part(batch), encode_part(&rows, &Columns::classes(), &footer).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_finished_job_is_complete_whatever_lies_in_folders_beside_it() {
    let (stores, job, _) = finished().await;
    let (store, _) = output(&stores, &job).await;
    for n in 0..2500 {
        store.put(&format!("out/a/{n:05}.parquet"), Bytes::new()).await.unwrap();
        store.put(&format!("out/z/{n:05}.parquet"), Bytes::new()).await.unwrap();
    }
    store.put("out/_trawl/solo/00000003.json", Bytes::from_static(b"left over")).await.unwrap();
    store.put("out/notes.txt", Bytes::from_static(b"mine")).await.unwrap();
    for depth in [Depth::Footers, Depth::Keys] {
        let report = report(&stores, &job, depth).await;
        assert_eq!(kinds(&report), []);
        assert_eq!((report.verdict, report.complete, report.success), (Verdict::Complete, true, true));
        assert_eq!((report.batches_planned, report.parts, report.rows, report.images_ok), (10, 10, 95, 95));
    }
}

#[tokio::test]
async fn a_place_without_a_job_is_no_output() {
    let stores = Stores::in_memory();
    let (store, layout) = output(&stores, &spec(&["s3://b/p"])).await;
    let error = audit(&*store, &layout, Depth::Footers, &mut |_| {}).await.unwrap_err();
    assert!(matches!(error, AuditError::NoJob { .. }), "{error}");
}

#[tokio::test]
async fn a_job_at_work_is_incomplete_and_not_damaged() {
    let (stores, job, _) = finished().await;
    let (store, layout) = output(&stores, &job).await;
    store.delete(&layout.part(BatchNumber(4))).await.unwrap();
    let report_now = report(&stores, &job, Depth::Footers).await;
    assert_eq!(report_now.verdict, Verdict::Damaged, "with _SUCCESS a missing part is damage");
    assert_eq!(kinds(&report_now), [("bad_manifest", 1), ("missing", 1)]);
    store.delete(&layout.success()).await.unwrap();
    store.delete(&layout.plan_done()).await.unwrap();
    let report = report(&stores, &job, Depth::Footers).await;
    assert_eq!((report.verdict, report.complete), (Verdict::Incomplete, false));
    assert_eq!(kinds(&report), [("missing", 1), ("no_success", 1), ("open_plan", 1)]);
    assert_eq!(report.findings[1].batch, Some(BatchNumber(4)));
}

#[tokio::test]
async fn every_bad_object_is_named() {
    let (stores, job, batches) = finished().await;
    let (store, layout) = output(&stores, &job).await;
    let part = |n| layout.part(BatchNumber(n));
    let bytes = store.get(&part(0), 1 << 20).await.unwrap().bytes;
    let shorter = bytes.slice(..bytes.len() - 20);
    // The end is whole; bytes of the rows are gone.
    let hollow = Bytes::from([&bytes[..4], &bytes[200..]].concat());
    for (name, content) in [
        ("part-00000099.parquet", bytes.clone()),
        ("copy.parquet", bytes.clone()),
        ("part-00000001 (1).parquet", bytes.clone()),
        ("part-broken.parquet", shorter.clone()),
        ("summary.parquet", Bytes::from_static(b"PAR1 not ours")),
    ] {
        store.put(&format!("out/{name}"), content).await.unwrap();
    }
    store.put(&part(1), shorter).await.unwrap();
    store.put(&part(2), hollow).await.unwrap();
    let other = |change: &dyn Fn(&mut JobSpec)| {
        let mut other = job.clone();
        change(&mut other);
        other
    };
    put_part(&stores, &other(&|j| j.model.sha256 = "cd".repeat(32)), BatchNumber(3), &batches[3].1).await;
    put_part(&stores, &other(&|j| j.decode = crate::job::Decode::Fast), BatchNumber(4), &batches[4].1).await;
    put_part(&stores, &other(&|j| j.job = "job-2".parse().unwrap()), BatchNumber(5), &batches[5].1).await;
    put_part(&stores, &other(&|j| j.created_unix_ms = 9), BatchNumber(6), &batches[6].1).await;
    put_part(&stores, &job, BatchNumber(7), &batches[7].1[..9]).await;
    put_part(&stores, &job, BatchNumber(77), &batches[7].1).await;
    store.put(&part(8), store.get(&part(9), 1 << 20).await.unwrap().bytes).await.unwrap();

    let report = report(&stores, &job, Depth::Footers).await;
    assert_eq!(report.verdict, Verdict::Damaged);
    let expected = [
        ("bad_manifest", 1),
        ("duplicate", 4),
        ("foreign", 3),
        ("stray", 1),
        ("unreadable", 3),
        ("wrong_model", 1),
        ("wrong_preprocessing", 1),
        ("wrong_rows", 1),
    ];
    assert_eq!(kinds(&report), expected, "{:#?}", report.findings);
    let named = |kind: &str| -> Vec<&str> {
        let of_kind = report.findings.iter().filter(|f| f.kind.as_str() == kind);
        of_kind.filter_map(|f| f.object.as_deref()).collect()
    };
    assert_eq!(
        named("duplicate"),
        [
            "out/copy.parquet",
            "out/part-00000001 (1).parquet",
            "out/part-00000008.parquet",
            "out/part-00000099.parquet"
        ]
    );
    assert_eq!(report.parts, 2);
    // A repeated look says the same.
    let again = self::report(&stores, &job, Depth::Footers).await;
    assert_eq!(again.findings, report.findings);
}

#[tokio::test]
async fn rows_are_compared_with_the_plan_when_asked() {
    let (stores, job, batches) = finished().await;
    let key = |b: usize, i: usize| batches[b].1[i].key.as_str();
    let mut keys: Vec<&str> = (0..10).map(|i| key(1, i)).collect();
    keys.swap(0, 1);
    put_keys(&stores, &job, BatchNumber(1), &keys).await;
    let mut keys: Vec<&str> = (0..10).map(|i| key(2, i)).collect();
    keys[3] = keys[4];
    put_keys(&stores, &job, BatchNumber(2), &keys).await;
    let mut keys: Vec<&str> = (0..10).map(|i| key(3, i)).collect();
    keys[9] = "s3://b/p/elsewhere.jpg";
    put_keys(&stores, &job, BatchNumber(3), &keys).await;
    let report_now = report(&stores, &job, Depth::Keys).await;
    let expected = [("duplicate_key", 1), ("missing_key", 2), ("unexpected_key", 1), ("wrong_order", 1)];
    let found: Vec<_> = kinds(&report_now).into_iter().filter(|(kind, _)| *kind != "bad_manifest").collect();
    assert_eq!(found, expected, "{:#?}", report_now.findings);
    let unexpected = report_now.findings.iter().find(|f| f.kind == Kind::UnexpectedKey).unwrap();
    assert!(unexpected.detail.contains("elsewhere.jpg"), "{unexpected:?}");
}

#[tokio::test]
async fn a_broken_plan_and_a_wrong_manifest_are_found() {
    let (stores, job, _) = finished().await;
    let (store, layout) = output(&stores, &job).await;
    let manifest = store.get(&layout.manifest(), 1 << 20).await.unwrap().bytes;
    for wrong in [
        Some("{}".to_owned()),
        None,
        Some(String::from_utf8_lossy(&manifest).replace("\"rows\": 95", "\"rows\": 96")),
    ] {
        match wrong {
            Some(text) => store.put(&layout.manifest(), text.into()).await.unwrap(),
            None => store.delete(&layout.manifest()).await.unwrap(),
        }
        assert_eq!(kinds(&report(&stores, &job, Depth::Footers).await), [("bad_manifest", 1)]);
    }
    store.put(&layout.manifest(), manifest).await.unwrap();
    store.delete(&layout.plan_file(0)).await.unwrap();
    let report = report(&stores, &job, Depth::Footers).await;
    assert_eq!(kinds(&report), [("broken_plan", 1)]);
    assert!(!report.complete);
}

#[tokio::test]
async fn a_bad_piece_of_the_manifest_is_found_and_named() {
    let (stores, job, _) = finished_in_pieces(3).await;
    let (store, layout) = output(&stores, &job).await;
    let key = layout.manifest_piece(1);
    let good = store.get(&key, 1 << 20).await.unwrap().bytes;
    let other = store.get(&layout.manifest_piece(2), 1 << 20).await.unwrap().bytes;
    let found = async |object: &str, detail: &str| {
        let report = report(&stores, &job, Depth::Footers).await;
        assert_eq!(kinds(&report), [("bad_manifest", 1)], "{detail}");
        let finding = &report.findings[0];
        assert_eq!(finding.object.as_deref(), Some(object), "{finding:?}");
        assert!(finding.detail.contains(detail), "{detail}: {finding:?}");
        assert_eq!(report.parts, 10, "the parts are what they should be");
    };
    for (bytes, detail) in [
        (good.slice(..good.len() - 40), "EOF"),
        (other, "from batch 00000006 on"),
        (Bytes::from(String::from_utf8_lossy(&good).replacen("\"rows\":10", "\"rows\":11", 1)), "31 rows"),
    ] {
        store.put(&key, bytes).await.unwrap();
        found(&key, detail).await;
    }
    store.delete(&key).await.unwrap();
    found(&key, "not there").await;
    // Its sums are right and one of its entries is not: the manifest differs from a part.
    let text = String::from_utf8_lossy(&good).replacen("\"rows\":10", "\"rows\":9", 1);
    store.put(&key, text.replacen("\"rows\":10", "\"rows\":11", 1).into()).await.unwrap();
    found(&layout.manifest(), "does not list `out/part-00000003.parquet`").await;
    store.put(&key, good).await.unwrap();
    assert_eq!(kinds(&report(&stores, &job, Depth::Footers).await), []);
    // A manifest that names one piece fewer, and one whose pieces are in another order.
    let whole = Manifest::parse(&store.get(&layout.manifest(), 1 << 20).await.unwrap().bytes).unwrap();
    let mut fewer = whole.clone();
    fewer.pieces.pop();
    store.put(&layout.manifest(), fewer.to_json()).await.unwrap();
    found(&layout.manifest(), "does not list `out/part-00000009.parquet`").await;
    let mut swapped = whole.clone();
    swapped.pieces.swap(0, 3);
    store.put(&layout.manifest(), swapped.to_json()).await.unwrap();
    assert_eq!(kinds(&report(&stores, &job, Depth::Footers).await), [("bad_manifest", 1)]);
    // A missing part is said as such, and by the sums.
    store.put(&layout.manifest(), whole.to_json()).await.unwrap();
    for number in 3..6 {
        store.delete(&layout.part(BatchNumber(number))).await.unwrap();
    }
    let report = report(&stores, &job, Depth::Footers).await;
    assert_eq!(kinds(&report), [("bad_manifest", 1), ("missing", 3)]);
}
