//! Memory that runs out, devices and workers that die: what their batches become.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_micro_batch_that_does_not_fit_is_halved_and_nothing_fails() {
    for fits in [1, 3] {
        let scene = Scene::new(5).await;
        scene.upload(0..20).await;
        let (pipeline, _threads) = scene.flawed(Flaws { fits: Some(fits), ..Flaws::default() });
        scene.enlist().await;
        scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
        for (i, row) in scene.rows(4).await.into_iter().enumerate() {
            assert_eq!(row.outcome, scene.expected(&format!("in/{i:04}.png")).await);
        }
        // Not once more than needed: the size that works is remembered.
        let passes = pipeline.meters.total(Stage::Forward).count;
        assert!(passes < 20 * 2, "{passes} images went through passes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_device_ends_the_worker_and_costs_its_batches_nothing() {
    let scene = Scene::new(4).await;
    scene.upload([1, 2, 3, 99]).await;
    let (pipeline, threads) = scene.flawed(Flaws { kills_device: Some(99), ..Flaws::default() });
    scene.enlist().await;
    let consumer = scene.broker.consume(&scene.spec.queue, 2).await.unwrap();
    let shutdown = Shutdown::manual();
    let served = tokio::time::timeout(PATIENCE, pipeline.serve(consumer, &shutdown, PATIENCE)).await;
    assert_eq!(served.expect("it ends by itself").unwrap(), Drained::DeviceLost);
    drop(threads);
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
    // No attempt is used up, but it may have done it: it is worked on alone from now on.
    let mut consumer = scene.broker.consume(&scene.spec.queue, 2).await.unwrap();
    let again = tokio::time::timeout(PATIENCE, consumer.next()).await.expect("it comes back").unwrap();
    assert_eq!((again.attempt, again.deliveries), (0, 1));
    drop((again, consumer));
    let (healthy, _threads) = scene.pipeline(None);
    scene.serve(&healthy, async || scene.state().await == Some(JobState::Complete)).await;
    assert_eq!(scene.rows(1).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_kills_the_device_again_and_again_is_a_row() {
    let scene = Scene::new(2).await;
    scene.upload([1, 2, 3, 99]).await;
    scene.enlist().await;
    let mut lost = 0;
    while scene.state().await != Some(JobState::Complete) {
        assert!(lost <= 6, "{lost} devices were lost");
        let (pipeline, threads) = scene.flawed(Flaws { kills_device: Some(99), ..Flaws::default() });
        let consumer = scene.broker.consume(&scene.spec.queue, 2).await.unwrap();
        let shutdown = Shutdown::manual();
        let done = async {
            while scene.state().await != Some(JobState::Complete) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            shutdown.drain();
            std::future::pending::<()>().await;
        };
        let served = tokio::select! {
            served = pipeline.serve(consumer, &shutdown, PATIENCE) => served.unwrap(),
            () = done => unreachable!("it waits for ever"),
        };
        lost += usize::from(served == Drained::DeviceLost);
        drop(threads);
    }
    let codes: Vec<_> = scene
        .rows(2)
        .await
        .into_iter()
        .filter_map(|row| match row.outcome {
            Outcome::Failed { code, .. } => Some((row.key, code)),
            Outcome::Ok(_) | Outcome::OkTruncated(_) => None,
        })
        .collect();
    assert_eq!(codes, [("s3://b/in/0003.png".to_owned(), ErrorCode::CrashedWorker)]);
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_removed_output_write_nothing_into_the_next_one() {
    let mut scene = Scene::new(2).await;
    scene.upload(0..6).await;
    scene.spec.created_unix_ms = 1;
    let (pipeline, _threads) = scene.pipeline(None);
    scene.enlist().await;
    let mut consumer = scene.broker.consume(&scene.spec.queue, 1).await.unwrap();
    let old = consumer.next().await.unwrap().body.clone();
    drop(consumer);
    // Done once, so that the worker knows the job; then the output is removed and submitted anew.
    scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
    for object in list_all(&*scene.bucket, "out/", None).await {
        scene.bucket.delete(&object.key).await.unwrap();
    }
    scene.spec.created_unix_ms = 2;
    scene.broker.publish(&scene.spec.queue, Publication::new(old)).await.unwrap();
    scene.enlist().await;
    scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
    for number in 0..3 {
        let key = format!("out/part-{number:08}.parquet");
        let footer = trawl_common::results::part::read_footer(&*scene.bucket, &key).await.unwrap();
        assert!(footer.is_of(&scene.spec.job, 2), "{footer:?}");
    }
    assert!(scene.bucket.head("out/_SUCCESS").await.is_ok());
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_came_back_without_a_word_is_done_alone_and_leaves_no_journal() {
    let scene = Scene::new(4).await;
    scene.upload(0..12).await;
    scene.enlist().await;
    // A worker that dies with two batches in hand.
    let mut consumer = scene.broker.consume(&scene.spec.queue, 2).await.unwrap();
    drop((consumer.next().await.unwrap(), consumer.next().await.unwrap(), consumer));
    let (pipeline, _threads) = scene.pipeline(None);
    scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
    for (i, row) in scene.rows(3).await.into_iter().enumerate() {
        assert_eq!(row.outcome, scene.expected(&format!("in/{i:04}.png")).await);
    }
    assert!(list_all(&*scene.bucket, "out/_trawl/solo/", None).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_killed_three_workers_is_a_row_and_one_that_killed_two_is_not() {
    let scene = Scene::new(4).await;
    scene.upload(0..4).await;
    scene.enlist().await;
    let mut consumer = scene.broker.consume(&scene.spec.queue, 1).await.unwrap();
    drop((consumer.next().await.unwrap(), consumer));
    // As the third worker that died with image 2 left it, and one that died twice with image 1.
    let journal = br#"{"created_unix_ms":0,"passes":1,"current":2,"deaths":{"1":2,"2":2}}"#;
    scene.bucket.put("out/_trawl/solo/00000000.json", journal[..].into()).await.unwrap();
    let (pipeline, _threads) = scene.pipeline(None);
    scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
    for (i, row) in scene.rows(1).await.into_iter().enumerate() {
        match row.outcome {
            Outcome::Failed { code, message } => {
                assert_eq!((i, code), (2, ErrorCode::CrashedWorker));
                assert!(message.contains("3 times"), "{message}");
            }
            outcome => assert_eq!(outcome, scene.expected(&format!("in/{i:04}.png")).await),
        }
    }
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_takes_over_what_another_one_sits_on() {
    let scene = Scene::new(4).await;
    scene.upload(0..8).await;
    scene.enlist().await;
    // Somebody claims a batch and never settles it.
    let mut stopped = scene.broker.consume(&scene.spec.queue, 1).await.unwrap();
    let held = stopped.next().await.unwrap();
    scene.ledger.claim(&scene.spec.job, BatchNumber(0), "stopped").await.unwrap();
    let (mut pipeline, _threads) = scene.pipeline(None);
    Arc::get_mut(&mut pipeline).unwrap().reclaim_after = Some(Duration::ZERO);
    scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
    assert_eq!(pipeline.meters.reclaims.get(), 1);
    assert_eq!((scene.rows(2).await.len(), pipeline.meters.computed()), (8, 8));
    // It wakes up: the part is there, and nothing is counted twice.
    drop(held);
    let (late, _threads) = scene.pipeline(None);
    let empty = async || scene.broker.depth(&scene.spec.queue).await.unwrap().unwrap().ready == 0;
    drop(stopped);
    scene.serve(&late, empty).await;
    let progress = scene.ledger.progress(&scene.spec.job).await.unwrap().unwrap();
    assert_eq!((progress.images_ok, progress.batches_done, late.meters.computed()), (8, 2, 0));
}
