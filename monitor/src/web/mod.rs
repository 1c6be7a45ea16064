//! The pages, their JSON, and who may ask for what.
//!
//! `server` takes connections, `guard` looks at every request and answer, `session` knows who may change something,
//! `writes` is the only place where something is changed. All else answers from what is known.

pub mod answers;
pub mod api;
pub mod events;
pub mod guard;
pub mod metrics;
pub mod pages;
pub mod query;
pub mod server;
pub mod session;
#[cfg(test)]
mod tests;
pub mod writes;

use crate::Monitor;
use axum::{
    Router, middleware,
    routing::{get, post},
};
use std::sync::Arc;

/// Every route.
pub fn router(monitor: Arc<Monitor>) -> Router {
    let pages = Router::new()
        .route("/", get(pages::index))
        .route("/jobs/{job}", get(pages::index))
        .route("/jobs/{job}/gallery", get(pages::index))
        .route("/workers", get(pages::index))
        .route("/queues", get(pages::index))
        .route("/assets/{name}", get(pages::asset))
        .route("/favicon.ico", get(pages::favicon));
    let reads = Router::new()
        .route("/api/overview", get(api::overview))
        .route("/api/jobs", get(api::jobs))
        .route("/api/jobs/{job}", get(api::job))
        .route("/api/jobs/{job}/failures", get(api::failures))
        .route("/api/jobs/{job}/gallery", get(api::gallery))
        .route("/api/jobs/{job}/thumbnail/{batch}/{row}", get(api::thumbnail))
        .route("/api/workers", get(api::workers))
        .route("/api/queues", get(api::queues))
        .route("/api/events", get(events::events));
    let changes = Router::new()
        .route("/api/login", post(writes::login))
        .route("/api/logout", post(writes::logout))
        .route("/api/jobs/{job}/pause", post(writes::pause))
        .route("/api/jobs/{job}/resume", post(writes::resume))
        .route("/api/jobs/{job}/cancel", post(writes::cancel))
        .route("/api/jobs/{job}/dead/retry", post(writes::retry_all))
        .route("/api/jobs/{job}/dead/{id}/retry", post(writes::retry))
        .route("/api/jobs/{job}/dead/{id}/drop", post(writes::drop_letter));
    let machines = Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/livez", get(metrics::live))
        .route("/readyz", get(metrics::ready));
    pages
        .merge(reads)
        .merge(changes)
        .merge(machines)
        .fallback(answers::no_such_page)
        .layer(middleware::from_fn_with_state(monitor.clone(), guard::guard))
        .with_state(monitor)
}
