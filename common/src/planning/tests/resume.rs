//! Producers that were killed, dropped or overtaken: the plan must be the one of an undisturbed producer.

use super::*;
use crate::finalize::{Finalized, finalize};
use crate::ledger::memory::MemoryLedger;
use crate::planning::{
    cut::PlanSlice,
    plan_log::{Appended, PlanLog},
};
use crate::results::Cursor;
use std::task::Poll;

#[tokio::test]
async fn a_producer_killed_at_any_step_resumes_with_the_same_plan() {
    let stores = bucket(5300).await;
    let at = |out: String| JobSpec { out: format!("s3://results/{out}"), ..spec(&["s3://b/p"]) };
    let job = at("whole".into());
    submit(&stores, &job, &Outbox::new(FOREVER), &OneJob::new(FOREVER)).await.unwrap();
    let whole = plan(&stores, &job).await;
    let mut completed_at_once = false;
    for step in 0.. {
        // Alternately the ledger and the broker fail, at ever later calls.
        let (calls, messages) = if step % 2 == 0 { (step / 2, FOREVER) } else { (FOREVER, step / 2 * 177) };
        let job = at(format!("killed-{step}"));
        let (outbox, ledger) = (Outbox::new(messages), OneJob::new(calls));
        let killed = submit(&stores, &job, &outbox, &ledger).await;
        let planned = plan(&stores, &job).await;
        for batch in outbox.batches() {
            assert!(planned.contains(&batch), "step {step}: {} is published and not planned", batch.0);
        }
        let (outbox, ledger) = (Outbox::new(FOREVER), OneJob::new(FOREVER));
        let resumed = submit(&stores, &job, &outbox, &ledger).await.unwrap();
        assert_eq!(plan(&stores, &job).await, whole, "step {step}");
        assert_eq!((resumed.published, resumed.skipped), (530, 106), "step {step}");
        if killed.is_ok() && step % 2 == 1 {
            completed_at_once = true;
        }
        if completed_at_once && killed.is_ok() && step % 2 == 0 {
            break;
        }
    }
}

#[tokio::test]
async fn a_dropped_producer_resumes_with_the_same_plan() {
    let job = spec(&["s3://b/p"]);
    let whole = undisturbed(3000, &job).await;
    for polls in [0, 1, 2, 4, 8, 16, 32] {
        let stores = bucket(3000).await;
        let (outbox, ledger) = (Outbox::new(FOREVER), OneJob::new(FOREVER));
        let mut left = polls;
        {
            let mut submitting = std::pin::pin!(submit(&stores, &job, &outbox, &ledger));
            std::future::poll_fn(|context| {
                left -= 1;
                if left < 0 || submitting.as_mut().poll(context).is_ready() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
        submit(&stores, &job, &outbox, &ledger).await.unwrap();
        assert_eq!(plan(&stores, &job).await, whole, "dropped after {polls} polls");
    }
}

#[tokio::test]
async fn what_changes_in_the_bucket_meanwhile_shifts_no_number() {
    let (stores, job) = (bucket(5300).await, spec(&["s3://b/p"]));
    // Opening the job and announcing the first file are two calls; the producer dies at the next one.
    let (outbox, ledger) = (Outbox::new(FOREVER), OneJob::new(2));
    submit(&stores, &job, &outbox, &ledger).await.unwrap_err();
    let before = plan(&stores, &job).await;
    assert!(!before.is_empty() && before.len() < 530, "killed while listing: {}", before.len());
    for url in ["s3://b/p/0.jpg", "s3://b/p/000001a.jpg", "s3://b/p/zz.jpg"] {
        put(&stores, url).await;
    }
    let (outbox, ledger) = (Outbox::new(FOREVER), OneJob::new(FOREVER));
    submit(&stores, &job, &outbox, &ledger).await.unwrap();
    let after = plan(&stores, &job).await;
    assert_eq!(after[..before.len()], before);
    let keys: Vec<_> = after.iter().flat_map(|(_, images)| images).map(|image| image.key.as_str()).collect();
    assert_eq!(keys.len(), 5301, "only what sorts after the last planned key is new");
    assert!(keys.contains(&"s3://b/p/zz.jpg") && !keys.contains(&"s3://b/p/0.jpg"));
}

#[tokio::test]
async fn a_resume_publishes_what_has_no_part_and_recounts_the_rest() {
    let (stores, job) = (bucket(95).await, spec(&["s3://b/p"]));
    submit(&stores, &job, &Outbox::new(FOREVER), &OneJob::new(FOREVER)).await.unwrap();
    let batches = plan(&stores, &job).await;
    for (number, images) in &batches[..7] {
        put_part(&stores, &job, *number, images).await;
    }
    // The ledger was wiped meanwhile.
    let (outbox, ledger) = (Outbox::new(FOREVER), OneJob::new(FOREVER));
    let resumed = submit(&stores, &job, &outbox, &ledger).await.unwrap();
    assert_eq!((resumed.published, resumed.job_done, outbox.finalizes()), (3, false, 0));
    assert_eq!(outbox.batches(), batches[7..]);
    assert_eq!(ledger.state.lock().unwrap().images_ok, 70);
    for (number, images) in &batches[7..] {
        put_part(&stores, &job, *number, images).await;
    }
    let (outbox, ledger) = (Outbox::new(FOREVER), OneJob::new(FOREVER));
    let resumed = submit(&stores, &job, &outbox, &ledger).await.unwrap();
    assert_eq!((resumed.published, resumed.job_done, outbox.finalizes()), (0, true, 1));
    let out = Location::parse(&job.out, Path::new("/")).unwrap();
    assert!(matches!(finalize(&job.job, &out, &stores).await.unwrap(), Finalized::Written(_)));
    assert_eq!(open_output(&job, &stores).await.unwrap().0, Opened::AlreadyComplete);
}

#[tokio::test]
async fn a_ledger_that_is_wiped_after_the_last_batch_does_not_leave_the_job_unfinished() {
    let (stores, job) = (bucket(95).await, spec(&["s3://b/p"]));
    submit(&stores, &job, &Outbox::new(FOREVER), &OneJob::new(FOREVER)).await.unwrap();
    for (number, images) in &plan(&stores, &job).await {
        put_part(&stores, &job, *number, images).await;
    }
    let (outbox, ledger) = (Outbox::new(FOREVER), MemoryLedger::new());
    let ctx = Enlisting {
        spec: &job,
        stores: &stores,
        broker: &outbox,
        ledger: &ledger,
        window: 8,
        ready: Ready::All,
    };
    let planned = enlist(ctx, &mut |_| ledger.wipe(), &CancellationToken::new()).await.unwrap();
    assert_eq!((planned.published, planned.job_done, outbox.finalizes()), (0, true, 1));
    let progress = ledger.progress(&job.job).await.unwrap().expect("it is rebuilt");
    assert_eq!((progress.images_ok, progress.batches_done), (95, 10));
}

#[tokio::test]
async fn two_producers_make_one_plan() {
    let (stores, job) = (bucket(5300).await, spec(&["s3://b/p"]));
    let (outbox, ledger) = (Outbox::new(FOREVER), OneJob::new(FOREVER));
    let (one, two) =
        tokio::join!(submit(&stores, &job, &outbox, &ledger), submit(&stores, &job, &outbox, &ledger));
    assert_eq!((one.unwrap().images, two.unwrap().images), (5300, 5300));
    assert_eq!(plan(&stores, &job).await, undisturbed(5300, &job).await);
}

#[tokio::test]
async fn an_append_knows_its_own_file_and_yields_to_another() {
    let stores = Stores::in_memory();
    let (store, layout) = output(&stores, &spec(&["s3://b/p"])).await;
    let slice = |key: &str| PlanSlice {
        first_batch: BatchNumber(0),
        batches: vec![vec![ImageRef::whole(key, None, 1)]],
        cursor: Cursor { after: Some(key.into()), images: 1, ..Cursor::default() },
    };
    let log = || PlanLog::new(store.clone(), layout.clone());
    assert_eq!(log().append(slice("a")).await.unwrap(), Appended::Written);
    assert_eq!(log().append(slice("a")).await.unwrap(), Appended::Written, "a reply was lost");
    let mut late = log();
    assert_eq!(late.append(slice("b")).await.unwrap(), Appended::Overtaken);
    late.catch_up().await.unwrap();
    assert_eq!((late.next_batch, late.cursor.after.as_deref()), (1, Some("a")));
    late.finish(&late.cursor.clone()).await.unwrap();
    assert!(matches!(log().done().await.unwrap_err(), PlanError::BrokenPlan { .. }));
}

#[tokio::test]
async fn plan_files_that_are_left_to_a_feed_are_known_by_their_footers() {
    let (stores, job) = (bucket(5300).await, spec(&["s3://b/p"]));
    let enlisted = async || {
        let (broker, ledger) = (MemoryBroker::new(), MemoryLedger::new());
        let (_, spec) = open_output(&job, &stores).await?;
        let ready = Ready::AtMost(2);
        let ctx =
            Enlisting { spec: &spec, stores: &stores, broker: &broker, ledger: &ledger, window: 4, ready };
        enlist(ctx, &mut |_| {}, &CancellationToken::new()).await
    };
    assert_eq!(enlisted().await.unwrap().published, 530);
    let batches = plan(&stores, &job).await;
    let (store, layout) = output(&stores, &job).await;
    // The rows of the second file are spoiled, its footer is not: whoever reads the rows finds out.
    let key = layout.plan_file(1);
    let mut bytes = store.get(&key, 1 << 20).await.unwrap().bytes.to_vec();
    let rows = bytes.len() / 4;
    bytes[..rows].fill(0);
    store.put(&key, bytes.into()).await.unwrap();
    let (number, images) = &batches[120];
    assert_eq!(enlisted().await.unwrap().published, 530);
    // A part in it is to be recorded, with the images that the plan has for it.
    put_part(&stores, &job, *number, images).await;
    assert!(matches!(enlisted().await.unwrap_err(), PlanError::PlanFile { .. }));
}
