//! RabbitMQ against the contract of the broker seam.
//!
//! On a private server, which is crashed once.

use anyhow::Result;
use std::sync::Arc;
use trawl_common::{
    broker::{Broker, rabbit::RabbitBroker},
    contract,
};
use trawl_tests::stack::Stack;

async fn passes_the_contract(amqp_url: &str, management_url: &str) {
    contract::broker::suite(|| async {
        let broker = RabbitBroker::connect_with(amqp_url, contract::broker::POLICY).await;
        Arc::new(broker.expect("a connection")) as Arc<dyn Broker>
    })
    .await;
    contract::broker::rabbit_only(amqp_url, management_url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_passes_the_contract() -> Result<()> {
    let stack = tokio::task::spawn_blocking(|| Stack::start("rabbitmq")).await?;
    let amqp_url = stack.get("TRAWL_AMQP_URL");
    passes_the_contract(amqp_url, stack.get("RABBITMQ_MANAGEMENT_URL")).await;
    contract::broker::crash_is_survived(amqp_url, || {
        stack.crash("rabbitmq");
        Ok::<(), anyhow::Error>(())
    })
    .await?;
    Ok(())
}
