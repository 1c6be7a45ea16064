//! The poller: asks Redis and RabbitMQ again and again, and says what is new.
//!
//! Two loops, so that a broker that hangs does not hold the jobs up. Each question is bounded; one that fails leaves
//! what was known and marks the service. It must never change anything at any of them.

use super::{Health, JOBS_LISTED, MAX_JOBS, State, job::Source, queues::Queues, topics::Shared};
use crate::{
    Monitor,
    seams::{ASK_TIMEOUT, within},
};
use bytes::Bytes;
use futures::{StreamExt, stream};
use std::{collections::HashSet, sync::Arc, time::Duration};
use trawl_common::{job::JobId, job::QueueName, ledger::Progress};

/// Between two looks at the jobs while somebody looks at a page.
const VIEWED_EVERY: Duration = Duration::from_secs(1);

/// And while nobody does: rates and metrics want some.
const IDLE_EVERY: Duration = Duration::from_secs(5);

/// A page that polls, because its event stream fails, counts as a viewer for this long.
pub const VIEWED_FOR: Duration = Duration::from_secs(15);

/// Between two looks at the queues; RabbitMQ's own figures are five seconds old.
const QUEUES_EVERY: Duration = Duration::from_secs(3);

/// Of so many looks one reads every job that the ledger knows, and not just the newest and those at work.
const WHOLE_EVERY: u64 = 10;

/// The newest jobs, read by every look: new ones are among them.
const RECENT: usize = 50;

/// Jobs at work besides those; more than a fleet has.
const MAX_ACTIVE: usize = 200;

/// Questions about single jobs under way at once.
const QUESTIONS_AT_ONCE: usize = 16;

/// For a listing of every job: a thousand of them take Redis a tenth of a second.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);

/// Workers shown; the largest fleets have hundreds.
const MAX_WORKERS: usize = 1000;

/// Lanes asked about one by one where there is no management API.
const MAX_LANES: usize = 64;

/// Runs both loops until the monitor stops.
pub async fn run(monitor: Arc<Monitor>) {
    let jobs = async {
        for look in 0.. {
            look_at_jobs(&monitor, look).await;
            speak(&monitor).await;
            monitor.looked();
            tokio::time::sleep(if monitor.is_viewed() { VIEWED_EVERY } else { IDLE_EVERY }).await;
        }
    };
    let queues = async {
        loop {
            look_at_queues(&monitor).await;
            tokio::time::sleep(QUEUES_EVERY).await;
        }
    };
    tokio::select! {
        () = monitor.stop.cancelled() => {}
        ((), ()) = async { tokio::join!(jobs, queues) } => {}
    }
}

/// One look at the ledger and the fleet.
pub async fn look_at_jobs(monitor: &Monitor, look: u64) {
    let limit = if look.is_multiple_of(WHOLE_EVERY) { MAX_JOBS } else { RECENT };
    let (listed, workers) = tokio::join!(
        within(LIST_TIMEOUT, monitor.seams.ledger.jobs(limit)),
        within(ASK_TIMEOUT, monitor.seams.fleet.workers(MAX_WORKERS)),
    );
    let listed = match listed {
        Ok(listed) => listed,
        Err(reason) => {
            let mut state = monitor.known.state();
            state.services.redis = Health::bad(reason);
            // Their last words grow old in the eyes of a page all the same.
            state.workers.clear();
            return;
        }
    };
    let others = others_at_work(&monitor.known.state(), &listed);
    let asked: Vec<(JobId, Result<Option<Progress>, String>)> = stream::iter(others)
        .map(|job| async move {
            let progress = within(ASK_TIMEOUT, monitor.seams.ledger.progress(&job)).await;
            (job, progress)
        })
        .buffer_unordered(QUESTIONS_AT_ONCE)
        .collect()
        .await;
    let mut state = monitor.known.state();
    state.services.redis = Health::good();
    if let Ok(workers) = workers {
        state.workers = workers;
    }
    mark_forgotten(&mut state, &listed, limit);
    for progress in listed {
        state.tell(progress, Source::Redis);
    }
    for (job, progress) in asked {
        match progress {
            Ok(Some(progress)) => state.tell(progress, Source::Redis),
            Ok(None) => forget_counters(&mut state, &job),
            Err(_) => {}
        }
    }
}

/// Jobs at work that are not among those just listed.
fn others_at_work(state: &State, listed: &[Progress]) -> Vec<JobId> {
    let listed: HashSet<&JobId> = listed.iter().map(|progress| &progress.job).collect();
    let at_work = state.jobs.values().filter(|job| job.source == Source::Redis && job.is_active());
    let others = at_work.map(|job| &job.progress.job).filter(|job| !listed.contains(job));
    others.take(MAX_ACTIVE).cloned().collect()
}

/// Marks the jobs that the ledger would have listed if it still knew them: from now on their output tells.
fn mark_forgotten(state: &mut State, listed: &[Progress], limit: usize) {
    // A listing that is cut knows nothing of what is older.
    let oldest = if listed.len() < limit { None } else { listed.iter().map(|p| p.created_unix_ms).min() };
    let there: HashSet<&JobId> = listed.iter().map(|progress| &progress.job).collect();
    let gone: Vec<JobId> = (state.jobs.values())
        .filter(|job| job.source == Source::Redis && !there.contains(&job.progress.job))
        .filter(|job| oldest.is_none_or(|oldest| job.progress.created_unix_ms > oldest))
        .map(|job| job.progress.job.clone())
        .collect();
    for job in gone {
        forget_counters(state, &job);
    }
}

fn forget_counters(state: &mut State, job: &JobId) {
    if let Some(job) = state.jobs.get_mut(job) {
        job.source = Source::Bucket;
        job.progress.images_per_second = 0.0;
        job.progress.eta_seconds = None;
        job.look_again = Some(tokio::time::Instant::now());
    }
}

/// One look at the queues and the dead letters.
pub async fn look_at_queues(monitor: &Monitor) {
    let (figures, rabbitmq) = tokio::join!(figures(monitor), look_at_dead(monitor));
    let (management, queues) = match figures {
        Ok(queues) => (Health::good(), Some(queues)),
        Err(reason) => {
            let depths = if rabbitmq.is_ok() { depths(monitor).await.ok() } else { None };
            (Health::bad(reason), depths)
        }
    };
    let mut state = monitor.known.state();
    state.services.management = management;
    let dead = match rabbitmq {
        Ok(dead) => {
            state.services.rabbitmq = Health::good();
            Some(dead)
        }
        Err(reason) => {
            state.services.rabbitmq = Health::bad(reason);
            None
        }
    };
    // Figures that nobody can give any more are not shown: a queue that stands still would look like one that works.
    let mut queues = queues.unwrap_or_default();
    queues.dead = dead.or(queues.dead);
    queues.count_dead(|lane| monitor.known.dead.of_lane(lane));
    state.queues = queues;
}

async fn figures(monitor: &Monitor) -> Result<Queues, String> {
    let Some(management) = &monitor.seams.management else {
        return Err("no address was given: set TRAWL_MANAGEMENT_URL".to_owned());
    };
    // It has a bound of its own.
    let figures = management.queues().await.map_err(|error| error.to_string())?;
    Ok(Queues::of_figures(&figures))
}

/// The number of dead letters, once they were looked at if that has changed.
async fn look_at_dead(monitor: &Monitor) -> Result<u64, String> {
    let broker = within(LIST_TIMEOUT, monitor.seams.broker.get()).await?;
    let depth = within(ASK_TIMEOUT, broker.dead_depth()).await?;
    let _alone = monitor.known.judging.lock().await;
    if let Err(reason) = within(LIST_TIMEOUT, monitor.known.dead.refresh(&*broker, depth)).await {
        tracing::debug!(reason, "the dead letters could not be looked at");
    }
    Ok(depth)
}

/// What AMQP tells of the lanes that jobs and workers name.
async fn depths(monitor: &Monitor) -> Result<Queues, String> {
    let lanes: Vec<QueueName> = {
        let state = monitor.known.state();
        let of_jobs = state.jobs.values().filter(|job| job.is_active()).map(|job| job.progress.queue.clone());
        let of_workers = state.workers.iter().flat_map(|worker| worker.report.queues.clone());
        let names: std::collections::BTreeSet<String> = of_jobs.chain(of_workers).collect();
        names.iter().filter_map(|name| name.parse().ok()).take(MAX_LANES).collect()
    };
    let broker = within(ASK_TIMEOUT, monitor.seams.broker.get()).await?;
    let mut depths = Vec::with_capacity(lanes.len());
    for lane in lanes {
        if let Some(depth) = within(ASK_TIMEOUT, broker.depth(&lane)).await? {
            depths.push((lane, depth));
        }
    }
    Ok(Queues::of_depths(depths, None))
}

/// Tells the listeners what is new.
pub async fn speak(monitor: &Monitor) {
    let word = |value: &serde_json::Value| Bytes::from(value.to_string());
    let known = &monitor.known;
    let topics = &monitor.topics;
    if topics.has_listeners() {
        topics.say(Shared::Overview, word(&serde_json::Value::Object(known.overview())));
        topics.say(Shared::Jobs, word(&known.jobs_json(JOBS_LISTED, None)));
        topics.say(Shared::Workers, word(&known.workers_json()));
        topics.say(Shared::Queues, word(&known.queues_json()));
    }
    let told = topics.jobs_listened_to().into_iter().map(|job| async move {
        if let Ok(detail) = crate::detail::job_json(monitor, &job).await {
            topics.say_of_job(&job, word(&detail));
        }
    });
    stream::iter(told).buffer_unordered(QUESTIONS_AT_ONCE).collect::<Vec<()>>().await;
}
