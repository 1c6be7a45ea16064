//! `/livez`, `/readyz` and `/metrics` for orchestrators and Prometheus.
//!
//! Beside the pipeline, never in its way. Live is: this runtime answers. Ready is: the subscriptions to
//! all queues stand. Neither asks a server anything, so that a broker's outage restarts no worker.

use crate::pipeline::meters::Meters;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use std::{net::SocketAddr, sync::Arc};
use tokio::{net::TcpListener, sync::watch};

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
        .route("/livez", get(|| async { "ok\n" }))
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
