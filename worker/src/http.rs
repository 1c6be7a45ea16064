//! `/livez`, `/readyz`, `/startupz` and `/metrics` for orchestrators and Prometheus.
//!
//! Beside the pipeline, never in its way, and there before any service was asked for. Live is: this runtime answers, and
//! what is in hand moves. Started is: devices, services and subscriptions were had once; it stays so. Ready is: the
//! subscriptions to all queues stand now. None asks a server anything, so that a broker's outage restarts no worker.
//! Models are no part of starting: they are their jobs', loaded and warmed up with a job's first batch.

use crate::{
    model::{Device, network},
    pipeline::meters::Meters,
};
use anyhow::Context;
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch};
use trawl_common::exposition;

/// With batches in hand and no stage done for so long, something hangs: half of the broker's own patience with a
/// delivery (30 minutes), and far above the slowest forward pass.
const STALLED_AFTER: Duration = Duration::from_secs(15 * 60);

/// What the endpoint knows of its worker, told by whoever starts it.
pub struct Health {
    meters: Arc<Meters>,
    /// What is being done before it has started.
    step: Mutex<&'static str>,
    started: OnceLock<Started>,
}

/// What there is once a worker has started.
struct Started {
    attached: Vec<watch::Receiver<bool>>,
    devices: Vec<Device>,
}

impl Health {
    /// Of a worker that has only begun to start.
    pub fn new(meters: Arc<Meters>) -> Arc<Self> {
        Arc::new(Self { meters, step: Mutex::new("beginning"), started: OnceLock::new() })
    }

    /// Says what is being done, or waited for, until the next word.
    pub fn at(&self, step: &'static str) {
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    /// Says that the worker has started: its services answered, it stands on `devices`, and the subscriptions tell by
    /// themselves from now on. Only the first time counts.
    pub fn started(&self, attached: Vec<watch::Receiver<bool>>, devices: Vec<Device>) {
        let _said_before = self.started.set(Started { attached, devices });
    }

    /// What was started, or why it is not.
    fn standing(&self) -> Result<&Started, String> {
        let step = || *self.step.lock().unwrap_or_else(PoisonError::into_inner);
        self.started.get().ok_or_else(|| format!("starting: {}\n", step()))
    }
}

/// Serves on `address`, if there is to be an endpoint.
///
/// # Errors
/// If the address cannot be bound; the words name it and the flag.
pub async fn serve_if_asked(address: Option<SocketAddr>, health: &Arc<Health>) -> anyhow::Result<()> {
    let Some(address) = address else { return Ok(()) };
    serve(address, health.clone())
        .await
        .with_context(|| format!("the health endpoint cannot listen on {address}: choose another --http"))?;
    Ok(())
}

/// Serves on `address` until the process ends; gives the address it is bound to.
///
/// # Errors
/// If the address cannot be bound.
pub async fn serve(address: SocketAddr, health: Arc<Health>) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let app = Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/startupz", get(startup))
        .route("/metrics", get(metrics))
        .with_state(health);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "the health endpoint ended");
        }
    });
    tracing::info!(http.address = %bound, "serving /livez, /readyz, /startupz and /metrics");
    Ok(bound)
}

async fn live(State(health): State<Arc<Health>>) -> (StatusCode, String) {
    liveness(health.meters.stalled_for())
}

fn liveness(stalled: Duration) -> (StatusCode, String) {
    if stalled < STALLED_AFTER {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let seconds = stalled.as_secs();
    (StatusCode::SERVICE_UNAVAILABLE, format!("batches are in hand and nothing has moved for {seconds} s\n"))
}

async fn ready(State(health): State<Arc<Health>>) -> (StatusCode, String) {
    readiness(&health)
}

fn readiness(health: &Health) -> (StatusCode, String) {
    match health.standing() {
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
        Ok(started) if started.attached.iter().all(|attached| *attached.borrow()) => {
            (StatusCode::OK, "ready\n".to_owned())
        }
        Ok(_) => (StatusCode::SERVICE_UNAVAILABLE, "not attached to the queue\n".to_owned()),
    }
}

async fn startup(State(health): State<Arc<Health>>) -> (StatusCode, String) {
    match health.standing() {
        Ok(_) => (StatusCode::OK, "started\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

async fn metrics(State(health): State<Arc<Health>>, headers: HeaderMap) -> impl IntoResponse {
    let devices = health.started.get().map_or(&[][..], |started| &started.devices);
    for (device, bytes) in network::device_memories(devices).await {
        health.meters.set_device_memory(device, bytes);
    }
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let (kind, text) = exposition::answer(accept, health.meters.render());
    ([(header::CONTENT_TYPE, kind)], text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_holds_work_and_does_nothing_is_not_live() {
        let meters = Meters::new();
        assert_eq!(meters.stalled_for(), Duration::ZERO, "nothing is in hand");
        meters.inflight_batches.inc();
        assert!(meters.stalled_for() < Duration::from_secs(60));
        assert_eq!(liveness(Duration::from_secs(226)).0, StatusCode::OK, "a slow model is at work");
        let (status, said) = liveness(Duration::from_secs(901));
        assert_eq!((status, said.contains("901 s")), (StatusCode::SERVICE_UNAVAILABLE, true));
    }

    #[test]
    fn who_has_not_started_says_what_it_waits_for_and_a_lost_queue_is_no_new_start() {
        let health = Health::new(Arc::new(Meters::new()));
        health.at("connecting to Redis");
        let (status, said) = readiness(&health);
        assert_eq!(
            (status, said.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "starting: connecting to Redis\n")
        );
        assert_eq!(health.standing().err(), Some(said));
        let (attached, watching) = watch::channel(true);
        health.started(vec![watching], vec![Device::Cpu]);
        assert_eq!(readiness(&health).0, StatusCode::OK);
        attached.send_replace(false);
        assert_eq!(readiness(&health).0, StatusCode::SERVICE_UNAVAILABLE);
        assert!(health.standing().is_ok());
    }
}
