//! Declares at RabbitMQ what [`crate::broker::topology`] describes.
//!
//! Runs before a subscription and on `ensure_queue`. A refused declaration closes its channel, so the caller
//! hands in one that nothing else depends on.

use super::connection::Endpoint;
use crate::{
    broker::{
        BrokerError,
        topology::{self, Argument, QueueShape, RetryPolicy},
    },
    job::QueueName,
};
use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

/// Makes a lane's queues and the dead letters where they are missing.
pub(super) async fn declare(
    endpoint: &Endpoint,
    channel: &Channel,
    queue: &QueueName,
    policy: &RetryPolicy,
) -> Result<(), BrokerError> {
    let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
    let exchange =
        channel.exchange_declare(topology::DEAD.into(), ExchangeKind::Fanout, durable, FieldTable::default());
    endpoint.queue_request(topology::DEAD, exchange).await?;
    declare_queue(endpoint, channel, &topology::dead_shape()).await?;
    let binding = channel.queue_bind(
        topology::DEAD.into(),
        topology::DEAD.into(),
        "".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    endpoint.queue_request(topology::DEAD, binding).await?;
    declare_queue(endpoint, channel, &topology::retry_shape(queue, policy.delay)).await?;
    declare_queue(endpoint, channel, &topology::work_shape(queue)).await
}

async fn declare_queue(
    endpoint: &Endpoint,
    channel: &Channel,
    shape: &QueueShape,
) -> Result<(), BrokerError> {
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    let mut arguments = FieldTable::default();
    for (name, value) in &shape.arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        arguments.insert((*name).into(), value);
    }
    let declaring = channel.queue_declare(shape.name.as_str().into(), options, arguments);
    endpoint.queue_request(&shape.name, declaring).await.map(|_| ())
}
