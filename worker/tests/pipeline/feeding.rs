//! A queue that holds a few batches of each job: what feeds it, who waits for whom, and what pausing is.

use super::*;
use trawl_common::{
    batch::{FeedRequest, Message},
    broker::Disposition,
    ledger::Fed,
    planning::{cancellation::Hold, hold},
};

/// A scene with so many batches of one image, of which few may wait.
async fn scene(batches: u8, waiting: usize) -> Scene {
    let mut scene = Scene::new(1).await;
    scene.ready = Ready::AtMost(waiting);
    scene.upload(0..batches).await;
    scene
}

/// The message that lies first in the queue, which stays there.
async fn first(scene: &Scene) -> Option<Message> {
    let mut consumer = scene.broker.consume(&scene.spec.queue, 1).await.unwrap();
    let next = tokio::time::timeout(Duration::from_millis(50), consumer.next()).await.ok()?.unwrap();
    Some(Message::parse(&next.body).unwrap())
}

async fn ready(scene: &Scene) -> u64 {
    scene.broker.depth(&scene.spec.queue).await.unwrap().unwrap().ready
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_fed_to_its_end_and_few_of_it_wait() {
    let scene = scene(40, 4).await;
    let (pipeline, _threads) = scene.pipeline(None);
    scene.enlist().await;
    assert_eq!(ready(&scene).await, 5, "four batches and the message that asks for more");
    let most = AtomicI64::new(0);
    scene
        .serve(&pipeline, async || {
            most.fetch_max(ready(&scene).await as i64, Ordering::Relaxed);
            scene.state().await == Some(JobState::Complete)
        })
        .await;
    assert_eq!(scene.rows(40).await.len(), 40);
    assert_eq!(pipeline.meters.computed(), 40, "no batch was computed twice");
    // Half a window when more is asked for, and a whole one then, with the next message among them.
    assert!(most.load(Ordering::Relaxed) <= 4 / 2 + 4 + 1, "{most:?} messages waited");
    assert_eq!(scene.broker.dead_depth().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_job_does_not_wait_for_a_huge_one() {
    let huge = scene(100, 8).await;
    huge.enlist().await;
    // The same lane, bucket and ledger; another output.
    let mut small = huge.clone();
    small.spec.out = "s3://b/small".into();
    small.spec.limit = Some(3);
    small.spec.job = small.spec.derived_id();
    small.enlist().await;
    let (pipeline, _threads) = huge.pipeline(None);
    huge.serve(&pipeline, async || {
        let done = small.state().await == Some(JobState::Complete);
        let progress = huge.ledger.progress(&huge.spec.job).await.unwrap().unwrap();
        assert!(done || progress.batches_done < 40, "the small job waits for the huge one");
        done
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_twice_or_too_late_feeds_nothing() {
    let scene = scene(12, 2).await;
    let (pipeline, _threads) = scene.pipeline(None);
    scene.enlist().await;
    let fed = scene.ledger.fed(&scene.spec.job).await.unwrap().expect("it was noted");
    assert_eq!(fed.next, BatchNumber(2));
    let request = request(&scene, fed);
    // Of an earlier submission; from a place that was passed; of an output that was removed since.
    let others = [
        FeedRequest { chain: fed.chain ^ 1, ..request.clone() },
        FeedRequest { from: BatchNumber(0), ..request.clone() },
        FeedRequest { created_unix_ms: 77, ..request.clone() },
        FeedRequest { out: "s3://b/gone".into(), ..request.clone() },
        // And once more what lies there already.
        request,
    ];
    for other in others {
        let message = Publication::new(Message::Feed(other).to_json());
        scene.broker.publish(&scene.spec.queue, message).await.unwrap();
    }
    scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
    assert_eq!(pipeline.meters.computed(), 12);
    assert_eq!((ready(&scene).await, scene.broker.dead_depth().await.unwrap()), (0, 0));
}

/// On a clock that runs while nobody works: a worker waits a minute before it believes that nothing moves.
#[tokio::test(start_paused = true)]
async fn a_queue_that_was_lost_is_fed_anew_by_an_idle_worker() {
    let scene = scene(10, 3).await;
    scene.enlist().await;
    // All of it is lost, the message that asks for more as well.
    let mut consumer = scene.broker.consume(&scene.spec.queue, 100).await.unwrap();
    for _ in 0..4 {
        consumer.next().await.unwrap().settle(Disposition::Ack).await.unwrap();
    }
    drop(consumer);
    assert_eq!(ready(&scene).await, 0);
    let (pipeline, _threads) = scene.pipeline(None);
    scene
        .serve_for(&pipeline, Duration::from_secs(1_000_000), async || {
            scene.state().await == Some(JobState::Complete)
        })
        .await;
    assert_eq!(scene.rows(10).await.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_is_left_alone_until_it_is_resumed() {
    let scene = scene(20, 3).await;
    let (pipeline, _threads) = scene.pipeline(None);
    scene.enlist().await;
    let (job, ledger) = (&scene.spec.job, &*scene.ledger);
    hold::hold(&scene.stores, ledger, job, Hold::Paused).await.unwrap().expect("its output is marked");
    scene.serve(&pipeline, async || ready(&scene).await == 0).await;
    assert_eq!((pipeline.meters.computed(), scene.state().await), (0, Some(JobState::Paused)));
    assert!(first(&scene).await.is_none(), "nothing goes round");
    // A wiped ledger does not bring it back to work.
    scene.ledger.wipe();
    let note = Fed { chain: 1, next: BatchNumber(0) };
    let message = Publication::new(Message::Feed(request(&scene, note)).to_json());
    scene.broker.publish(&scene.spec.queue, message).await.unwrap();
    scene.serve(&pipeline, async || ready(&scene).await == 0).await;
    assert_eq!((pipeline.meters.computed(), scene.state().await), (0, Some(JobState::Paused)));

    let resume = async || {
        let (never, mut quiet) = (CancellationToken::new(), |_: &_| {});
        hold::resume(&scene.stores, &scene.broker, ledger, job, &mut quiet, &never).await
    };
    assert_eq!(resume().await.unwrap().published, 20);
    scene.serve(&pipeline, async || scene.state().await == Some(JobState::Complete)).await;
    assert_eq!((pipeline.meters.computed(), scene.rows(20).await.len()), (20, 20));
    assert!(resume().await.unwrap_err().to_string().contains("complete: there is nothing to resume"));
}

fn request(scene: &Scene, fed: Fed) -> FeedRequest {
    FeedRequest {
        job: scene.spec.job.clone(),
        out: scene.spec.out.clone(),
        created_unix_ms: scene.spec.created_unix_ms,
        chain: fed.chain,
        file: 0,
        from: fed.next,
    }
}
