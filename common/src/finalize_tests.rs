//! When a job may be finished, and when it must not be.

use super::*;
use crate::planning::open_output;
use crate::planning::tests::{FOREVER, OneJob, Outbox, bucket, output, plan, put_part, spec, submit};
use std::path::Path;

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
