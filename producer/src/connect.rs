//! What every command runs in: the flags, the stores, and the way to the services.
//!
//! Connections are made only by the commands that need them, so that the output can be read with Redis and
//! RabbitMQ gone. No URL is printed here: the errors of the seams name host and port.

use crate::errors::Stop;
use std::{path::PathBuf, sync::Arc};
use trawl_common::{
    broker::{rabbit::RabbitBroker, topology::RetryPolicy},
    config::{OutputFormat, ServiceArgs},
    ledger::redis::RedisLedger,
    services::ServiceUrl,
    shutdown::Shutdown,
    storage::Stores,
};

/// The surroundings of a command.
pub struct Context {
    /// How to print.
    pub output: OutputFormat,
    /// Where the services are.
    pub services: ServiceArgs,
    /// The open stores.
    pub stores: Arc<Stores>,
    /// The working directory, where relative names start from.
    pub base_dir: PathBuf,
    /// Told by SIGINT and SIGTERM.
    pub shutdown: Shutdown,
}

/// Connects to RabbitMQ.
///
/// # Errors
/// Transient if it is away, usage if it refuses us.
pub async fn broker(services: &ServiceArgs) -> Result<RabbitBroker, Stop> {
    let ServiceUrl { url, tls } = services.amqp().await?;
    Ok(RabbitBroker::connect_over(&url, RetryPolicy::default(), tls).await?)
}

/// Connects to both; of two that are away, both are named.
///
/// # Errors
/// As for each.
pub async fn both(services: &ServiceArgs) -> Result<(RabbitBroker, RedisLedger), Stop> {
    match tokio::join!(broker(services), ledger(services)) {
        (Ok(broker), Ok(ledger)) => Ok((broker, ledger)),
        (Err(stop), Ok(_)) | (Ok(_), Err(stop)) => Err(stop),
        (Err(broker), Err(ledger)) => {
            eprintln!("{}", broker.lines());
            Err(ledger)
        }
    }
}

/// Connects to Redis.
///
/// # Errors
/// Transient if it is away, usage if it refuses us.
pub async fn ledger(services: &ServiceArgs) -> Result<RedisLedger, Stop> {
    let ServiceUrl { url, tls } = services.redis().await?;
    Ok(RedisLedger::connect_over(&url, &tls).await?)
}
