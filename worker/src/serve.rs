//! `trawl-worker serve`: a long-running worker on RabbitMQ, Redis and a bucket.
//!
//! Ends with 0 after a drain, and with an error only if a service refuses it at the start or in a way that
//! no waiting mends. A broker that goes away later is waited for.

use crate::{
    assemble::{self, Seams},
    cli::ServeArgs,
    http,
    pipeline::Drained,
};
use anyhow::{Context, Result};
use std::sync::Arc;
use trawl_common::{
    broker::{Broker, rabbit::RabbitBroker},
    config::exit,
    ledger::{Ledger, redis::RedisLedger},
    shutdown::Shutdown,
    storage::Stores,
    tls,
};

/// Serves until told to stop.
///
/// # Errors
/// If a device, RabbitMQ, Redis or the health endpoint is not to be had.
pub async fn serve(args: ServeArgs, shutdown: Shutdown) -> Result<u8> {
    tls::install_crypto_provider();
    let compute = args.compute.clone();
    let devices = tokio::task::spawn_blocking(move || assemble::devices(&compute)).await??;
    let broker: Arc<dyn Broker> = Arc::new(RabbitBroker::connect(&args.services.amqp_url).await?);
    let ledger: Arc<dyn Ledger> = Arc::new(RedisLedger::connect(&args.services.redis_url).await?);
    broker.ensure_queue(&args.queue).await?;
    let consumer = broker.consume(&args.queue, args.prefetch).await?;
    let seams = Seams { broker, ledger, stores: Stores::new() };
    let shown: Vec<String> = devices.iter().map(ToString::to_string).collect();
    let (pipeline, threads) = assemble::pipeline(&args.compute, devices, args.queue.clone(), seams, None);
    if let Some(address) = args.http {
        http::serve(address, pipeline.meters.clone(), consumer.attached()).await.with_context(|| {
            format!("the health endpoint cannot listen on {address}: choose another --http")
        })?;
    }
    tracing::info!(
        worker = %pipeline.worker, queue = %args.queue, device = %shown.join(","),
        threads = args.compute.thread_count(), prefetch = args.prefetch, "worker ready"
    );
    let drained = pipeline.serve(consumer, &shutdown, args.grace()).await;
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
    }
    Ok(exit::OK)
}
