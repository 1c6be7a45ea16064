//! RabbitMQ when it is out of patience or out of memory: what a held delivery and a blocked producer become.

use std::time::{Duration, Instant};
use trawl_common::contract::broker::a_timed_out_delivery_comes_again;
use trawl_tests::{
    programs::{run, tiny_model},
    scene::{Scene, job_id},
    stack::Stack,
};

/// How long the producer may take to give a blocked broker up: its own retries and then some.
const GIVEN_UP: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_held_too_long_costs_its_channel_and_nothing_else() {
    let stack = tokio::task::spawn_blocking(|| Stack::start("rabbitmq")).await.unwrap();
    let impatient = || stack.rabbitmqctl(&["eval", "application:set_env(rabbit, consumer_timeout, 10000)."]);
    a_timed_out_delivery_comes_again(stack.get("TRAWL_AMQP_URL"), impatient).await;
}

#[test]
fn a_producer_that_the_broker_blocks_says_so_and_can_be_repeated() {
    let scene = Scene::new("blocked");
    scene.bucket.upload_images(&scene.input(), 12);
    // One submit while all is well: what is blocked later is publishing, not the declaration of a new queue.
    let job = job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "4"])));
    scene.stack.rabbitmqctl(&["set_vm_memory_high_watermark", "0.00001"]);
    let began = Instant::now();
    let blocked = run(&mut scene.submit(tiny_model(), &["--batch-size", "4"])).expect(5);
    assert!(began.elapsed() < GIVEN_UP, "{:?}", began.elapsed());
    assert!(blocked.stderr.contains("blocks publishers"), "{}", blocked.stderr);
    scene.stack.rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", "1GB"]);
    assert_eq!(job_id(run(&mut scene.submit(tiny_model(), &["--batch-size", "4"]))), job);
    let _worker = scene.worker(&[]);
    scene.assert_exact(&job, 3, 12);
}
