//! `trawl-worker serve`: a long-running worker on RabbitMQ, Redis and a bucket.
//!
//! Ends with 0 after a drain, and with an error only if a service refuses it at the start or in a way that
//! no waiting mends. A broker that goes away later is waited for.

use crate::{
    assemble::{self, Seams},
    cli::ServeArgs,
    heartbeat::Heartbeat,
    http::{self, Health},
    pipeline::{Drained, Pipeline, meters::Meters},
};
use anyhow::{Context, Result};
use std::sync::Arc;
use tokio::task::JoinSet;
use trawl_common::{
    broker::{Broker, BrokerError, Consumer, rabbit::RabbitBroker, topology::RetryPolicy},
    config::exit,
    fleet::{Fleet, redis::RedisFleet},
    job::QueueName,
    ledger::{Ledger, redis::RedisLedger},
    shutdown::Shutdown,
    tls,
};

/// Serves until told to stop.
///
/// # Errors
/// If a device, RabbitMQ, Redis or the health endpoint is not to be had.
pub async fn serve(args: ServeArgs, shutdown: Shutdown) -> Result<u8> {
    tls::install_crypto_provider();
    let meters = Arc::new(Meters::new());
    let health = Health::new(meters.clone());
    http::serve_if_asked(args.http, &health).await?;
    health.at("looking for its devices");
    let compute = args.compute.clone();
    let devices = tokio::task::spawn_blocking(move || assemble::devices(&compute)).await??;
    let worker = assemble::worker_name();
    let (amqp, redis) = (args.services.amqp().await?, args.services.redis().await?);
    health.at("connecting to RabbitMQ");
    let broker = RabbitBroker::connect_over(&amqp.url, RetryPolicy::default(), amqp.tls).await?;
    let broker: Arc<dyn Broker> = Arc::new(broker.named(&worker));
    health.at("connecting to Redis");
    let redis = RedisLedger::connect_over(&redis.url, &redis.tls).await?;
    redis.warn_if_evicting().await;
    let fleet: Arc<dyn Fleet> = Arc::new(RedisFleet::beside(&redis));
    let ledger: Arc<dyn Ledger> = Arc::new(redis);
    health.at("subscribing to its queues");
    let mut consumers = Vec::with_capacity(args.queue.len());
    for queue in &args.queue {
        broker.ensure_queue(queue).await?;
        consumers.push(broker.consume(queue, args.prefetch).await?);
    }
    let seams = Seams { broker, ledger, stores: args.compute.stores(), worker, meters };
    let shown: Vec<String> = devices.iter().map(ToString::to_string).collect();
    let used = devices.clone();
    let queues: Vec<&str> = args.queue.iter().map(QueueName::as_str).collect();
    let first = args.queue.first().context("a lane is served")?.clone();
    let (mut pipeline, threads) =
        assemble::pipeline(&args.compute, devices, args.prefetch, first, seams, None);
    pipeline.reclaim_after = args.reclaim_after();
    let pipeline = Arc::new(pipeline);
    health.started(consumers.iter().map(|consumer| consumer.attached()).collect(), used.clone());
    tracing::info!(
        worker = %pipeline.worker, queue = %queues.join(","), device = %shown.join(","),
        threads = args.compute.thread_count(), prefetch = args.prefetch, "worker ready"
    );
    let lanes = queues.into_iter().map(str::to_owned).collect();
    let heartbeat = Heartbeat::start(fleet, &pipeline, used, lanes, &shutdown);
    let drained = serve_all(&args, &pipeline, consumers, &shutdown).await;
    heartbeat.end().await;
    // The threads end after what they are at, which may be a long forward pass; whoever asked twice does
    // not wait for it, and the broker has the batches back.
    match drained? {
        Drained::Clean => {
            drop(threads);
            tracing::info!("drained");
        }
        Drained::CutShort { batches } => {
            tracing::warn!(batch.count = batches, "drained with batches given back");
            std::mem::forget(threads);
        }
        Drained::DeviceLost => {
            std::mem::forget(threads);
            anyhow::bail!(
                "a device of this worker is lost and its batches are back in the queue: start the worker again; if \
                 it happens again, look at the machine (nvidia-smi, dmesg)"
            );
        }
    }
    Ok(exit::OK)
}

/// Serves every lane until all have drained; a lane that cannot be served drains the others.
async fn serve_all(
    args: &ServeArgs,
    pipeline: &Arc<Pipeline>,
    consumers: Vec<Box<dyn Consumer>>,
    shutdown: &Shutdown,
) -> Result<Drained, BrokerError> {
    let mut lanes = JoinSet::new();
    for (queue, consumer) in args.queue.iter().zip(consumers) {
        let (lane, shutdown, grace) = (pipeline.for_queue(queue.clone()), shutdown.clone(), args.grace());
        lanes.spawn(async move { lane.serve(consumer, &shutdown, grace).await });
    }
    let mut all = Ok(Drained::Clean);
    while let Some(lane) = lanes.join_next().await {
        let lane = lane.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        all = match (all, lane) {
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            (Ok(Drained::DeviceLost), Ok(_)) | (Ok(_), Ok(Drained::DeviceLost)) => Ok(Drained::DeviceLost),
            (Ok(Drained::CutShort { batches }), Ok(Drained::CutShort { batches: more })) => {
                Ok(Drained::CutShort { batches: batches + more })
            }
            (Ok(cut @ Drained::CutShort { .. }), Ok(Drained::Clean))
            | (Ok(Drained::Clean), Ok(cut @ Drained::CutShort { .. })) => Ok(cut),
            (Ok(Drained::Clean), Ok(Drained::Clean)) => Ok(Drained::Clean),
        };
        if all.is_err() {
            shutdown.drain();
        }
    }
    all
}
