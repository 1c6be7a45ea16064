//! `/livez`, `/readyz` and `/metrics` for orchestrators and Prometheus.
//!
//! Beside the pipeline, never in its way. Live is: this runtime answers, and what is in hand moves. Ready is: the subscriptions to
//! all queues stand. Neither asks a server anything, so that a broker's outage restarts no worker.

use crate::pipeline::meters::Meters;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch};

/// With batches in hand and no stage done for so long, something hangs: half of the broker's own patience with a
/// delivery (30 minutes), and far above the slowest forward pass.
const STALLED_AFTER: Duration = Duration::from_secs(15 * 60);

#[derive(Clone)]
struct Shared {
    meters: Arc<Meters>,
    attached: Vec<watch::Receiver<bool>>,
}

/// Serves on `address` until the process ends; gives the address it is bound to.
///
/// # Errors
/// If the address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    meters: Arc<Meters>,
    attached: Vec<watch::Receiver<bool>>,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    let app = Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Shared { meters, attached });
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "the health endpoint ended");
        }
    });
    tracing::info!(http.address = %bound, "serving /livez, /readyz and /metrics");
    Ok(bound)
}

async fn live(State(shared): State<Shared>) -> (StatusCode, String) {
    liveness(shared.meters.stalled_for())
}

fn liveness(stalled: Duration) -> (StatusCode, String) {
    if stalled < STALLED_AFTER {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let seconds = stalled.as_secs();
    (StatusCode::SERVICE_UNAVAILABLE, format!("batches are in hand and nothing has moved for {seconds} s\n"))
}

async fn ready(State(shared): State<Shared>) -> impl IntoResponse {
    if shared.attached.iter().all(|attached| *attached.borrow()) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not attached to the queue\n")
    }
}

async fn metrics(State(shared): State<Shared>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], shared.meters.render())
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
}
