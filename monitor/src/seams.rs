//! What the monitor looks at: the ledger, the fleet, the broker, its management API, and the stores.
//!
//! Nothing is connected when the process starts, and any of them may be away at any time: each is asked within a bound,
//! by whoever needs it. The broker is connected to by the first who asks for it. No URL is kept where it could be shown.

use crate::management::Management;
use std::{sync::Arc, time::Duration};
use tokio::sync::OnceCell;
use trawl_common::{
    broker::{Broker, BrokerError, rabbit::RabbitBroker, topology::RetryPolicy},
    fleet::Fleet,
    ledger::Ledger,
    services::ServiceUrl,
    storage::Stores,
};

/// For one question to Redis or RabbitMQ: both answer in milliseconds or something is wrong, and a page waits.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(3);

/// The seams of one monitor.
pub struct Seams {
    /// Progress of all jobs.
    pub ledger: Arc<dyn Ledger>,
    /// The workers.
    pub fleet: Arc<dyn Fleet>,
    /// The work list.
    pub broker: LateBroker,
    /// The queues' figures, if an address was given.
    pub management: Option<Arc<dyn Management>>,
    /// Outputs and images.
    pub stores: Arc<Stores>,
}

/// A broker that is connected to when it is first needed.
pub struct LateBroker {
    ready: OnceCell<Arc<dyn Broker>>,
    place: Option<ServiceUrl>,
}

impl LateBroker {
    /// The broker at `place`.
    pub fn at(place: ServiceUrl) -> Self {
        Self { ready: OnceCell::new(), place: Some(place) }
    }

    /// One that is there already.
    pub fn ready(broker: Arc<dyn Broker>) -> Self {
        Self { ready: OnceCell::new_with(Some(broker)), place: None }
    }

    /// The broker; connects if nobody has. Later losses of the connection are the broker's own matter. Cancel safe.
    ///
    /// # Errors
    /// What connecting gives; the next one tries again.
    pub async fn get(&self) -> Result<Arc<dyn Broker>, BrokerError> {
        let connect = async || match &self.place {
            Some(ServiceUrl { url, tls }) => {
                let broker = RabbitBroker::connect_over(url, RetryPolicy::default(), tls.clone()).await?;
                Ok(Arc::new(broker) as Arc<dyn Broker>)
            }
            None => Err(BrokerError::Closed),
        };
        self.ready.get_or_try_init(connect).await.cloned()
    }
}

/// Waits for an answer no longer than `limit`; the error is in words for people.
///
/// # Errors
/// What the question gives, or that it took too long.
pub async fn within<T, E: std::error::Error + 'static>(
    limit: Duration,
    question: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match tokio::time::timeout(limit, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(trawl_common::disposition::describe(&error)),
        Err(_) => Err(format!("no answer within {} s", limit.as_secs_f64())),
    }
}
