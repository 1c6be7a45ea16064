//! `/metrics`, `/livez` and `/readyz`.
//!
//! Live is: the poller goes round. Ready is: it answers at all; a service that is away is shown and no reason to take
//! the pages away with it. Labels come from closed sets and from lanes' names, never from jobs, keys or messages.

use crate::{Monitor, watch::Health};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::Registry,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use trawl_common::{exposition, ledger::JobState};

/// Each question of the poller is bounded by some seconds; after this time it hangs.
const STUCK_AFTER: Duration = Duration::from_secs(180);

/// Lanes with series of their own.
const MAX_LANES: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Service {
    service: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Messages {
    queue: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lane {
    queue: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

type Decimal = Gauge<f64, AtomicU64>;

/// `GET /metrics`.
pub async fn metrics(State(monitor): State<Arc<Monitor>>, headers: HeaderMap) -> impl IntoResponse {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let (kind, text) = exposition::answer(accept, render(&monitor));
    ([(header::CONTENT_TYPE, kind)], text)
}

/// `GET /livez`.
pub async fn live(State(monitor): State<Arc<Monitor>>) -> (StatusCode, String) {
    let stuck = monitor.unlooked_for();
    if stuck < STUCK_AFTER {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("the poller has not been round for {} s\n", stuck.as_secs()))
}

/// `GET /readyz`.
pub async fn ready() -> &'static str {
    "ready\n"
}

/// Made anew each time, so that a lane that is gone leaves no series.
fn render(monitor: &Monitor) -> String {
    let mut registry = Registry::default();
    let build = Family::<Build, Gauge>::default();
    build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
    registry.register("trawl_build_info", "Version of this monitor", build);
    services(monitor, &mut registry);
    queues(monitor, &mut registry);
    jobs(monitor, &mut registry);
    fleet(monitor, &mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("writing to a String");
    text
}

fn services(monitor: &Monitor, registry: &mut Registry) {
    let services = monitor.known.state().services.clone();
    let up = Family::<Service, Gauge>::default();
    let set = |service, health: &Health| up.get_or_create(&Service { service }).set(i64::from(health.ok));
    set("redis", &services.redis);
    set("rabbitmq", &services.rabbitmq);
    set("management", &services.management);
    registry.register(
        "trawl_monitor_service_up",
        "Whether the service answered the monitor's last question",
        up,
    );
}

fn queues(monitor: &Monitor, registry: &mut Registry) {
    let queues = monitor.known.state().queues.clone();
    let messages = Family::<Messages, Gauge>::default();
    let consumers = Family::<Lane, Gauge>::default();
    for lane in queues.rows.iter().take(MAX_LANES) {
        let counts = [
            ("ready", Some(lane.ready)),
            ("unacked", lane.unacked),
            ("retry", lane.retry),
            ("dead", lane.dead),
        ];
        for (state, count) in counts {
            // A figure that nobody tells has no series, rather than a wrong one.
            if let Some(count) = count {
                let label = Messages { queue: lane.queue.clone(), state };
                messages.get_or_create(&label).set(whole(count));
            }
        }
        consumers.get_or_create(&Lane { queue: lane.queue.clone() }).set(whole(lane.consumers));
    }
    registry.register("trawl_queue_messages", "Messages of a lane by where they are", messages);
    registry.register("trawl_queue_consumers", "Workers that take from a lane", consumers);
}

fn jobs(monitor: &Monitor, registry: &mut Registry) {
    let state = monitor.known.state();
    let mut counts: HashMap<&'static str, i64> =
        [JobState::Enqueuing, JobState::Running, JobState::Paused, JobState::Complete, JobState::Cancelled]
            .map(|state| (state.name(), 0))
            .into();
    // Lanes that are known have a series even if nothing runs there.
    let mut stalled: BTreeMap<&str, u64> =
        state.queues.rows.iter().take(MAX_LANES).map(|lane| (lane.queue.as_str(), 0)).collect();
    for job in state.jobs.values() {
        *counts.entry(job.progress.state.name()).or_default() += 1;
        if job.is_active() && (stalled.len() < MAX_LANES || stalled.contains_key(job.progress.queue.as_str()))
        {
            let longest = stalled.entry(&job.progress.queue).or_default();
            *longest = (*longest).max(job.stalled_ms().unwrap_or(0));
        }
    }
    let jobs = Family::<StateLabel, Gauge>::default();
    let stall = Family::<Lane, Decimal>::default();
    for (state, count) in counts {
        jobs.get_or_create(&StateLabel { state }).set(count);
    }
    for (lane, ms) in stalled {
        stall.get_or_create(&Lane { queue: lane.to_owned() }).set(ms as f64 / 1000.0);
    }
    registry.register("trawl_jobs", "Jobs that the monitor knows, by state", jobs);
    registry.register(
        "trawl_job_stalled_seconds",
        "For how long a running job of the lane has finished nothing, the longest of them",
        stall,
    );
}

fn fleet(monitor: &Monitor, registry: &mut Registry) {
    let state = monitor.known.state();
    let silent = state.workers.iter().filter(|worker| worker.is_silent()).count();
    let workers = Family::<StateLabel, Gauge>::default();
    for (name, count) in [("live", state.workers.len() - silent), ("silent", silent)] {
        workers.get_or_create(&StateLabel { state: name }).set(whole(count as u64));
    }
    let rate = Decimal::default();
    rate.set(state.workers.iter().filter(|w| !w.is_silent()).map(|w| w.report.images_per_second).sum());
    registry.register("trawl_fleet_workers", "Workers by whether they were heard lately", workers);
    registry.register("trawl_fleet_images_per_second", "Images that all live workers do in a second", rate);
}

fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
