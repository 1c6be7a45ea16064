//! What the monitor knows of the whole, and the poller that finds it out.
//!
//! One poller asks for all viewers, quickly while somebody looks and slowly while nobody does; pages are made from what
//! it knows and never wait for a server. It only reads. Everything in here is bounded: jobs by number, workers by
//! number, a job's history by points.

pub mod dead;
pub mod job;
pub mod pace;
pub mod poll;
pub mod queues;
pub mod topics;

use dead::DeadLetters;
use job::{Job, Source};
use queues::Queues;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard},
};
use trawl_common::{
    config::unix_ms,
    fleet::Heard,
    job::JobId,
    ledger::{JobState, Progress},
};

/// Jobs that are known at once, the newest; a kilobyte or two each, and their history.
pub const MAX_JOBS: usize = 1000;

/// Jobs of one page of the list.
pub const MAX_JOBS_LISTED: usize = 500;

/// Jobs of a page where nobody says how many, and of the event.
pub const JOBS_LISTED: usize = 100;

/// How a service is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Whether it answered when it was asked last.
    pub ok: bool,
    /// Why not, in words, without secrets.
    pub reason: Option<String>,
}

impl Health {
    /// Before it was asked.
    fn unknown() -> Self {
        Self::bad("it was not asked yet")
    }

    /// It answers.
    pub fn good() -> Self {
        Self { ok: true, reason: None }
    }

    /// It does not.
    pub fn bad(reason: impl Into<String>) -> Self {
        Self { ok: false, reason: Some(reason.into()) }
    }
}

/// How the services are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Services {
    /// Redis: the ledger and the fleet.
    pub redis: Health,
    /// RabbitMQ by AMQP: dead letters.
    pub rabbitmq: Health,
    /// RabbitMQ's management API: the queues' figures.
    pub management: Health,
}

/// What is known.
pub struct State {
    /// By id.
    pub jobs: HashMap<JobId, Job>,
    /// In the order of their names.
    pub workers: Vec<Heard>,
    /// The lanes.
    pub queues: Queues,
    /// The services.
    pub services: Services,
}

/// The state, shared.
pub struct Known {
    state: Mutex<State>,
    /// The dead letters of the last look.
    pub dead: DeadLetters,
    /// Held by whoever looks at the dead letters themselves.
    pub judging: tokio::sync::Mutex<()>,
}

impl Default for Known {
    fn default() -> Self {
        let unknown = Health::unknown;
        let services = Services { redis: unknown(), rabbitmq: unknown(), management: unknown() };
        let state = State { jobs: HashMap::new(), workers: Vec::new(), queues: Queues::default(), services };
        Self {
            state: Mutex::new(state),
            dead: DeadLetters::default(),
            judging: tokio::sync::Mutex::default(),
        }
    }
}

impl Known {
    /// The state, for moments: never across an await.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the state is held")
    }

    /// Takes a job's counters over, from whoever told them.
    pub fn tell(&self, progress: Progress, source: Source) {
        self.state().tell(progress, source);
    }

    /// A job as it was last seen.
    pub fn job(&self, job: &JobId) -> Option<Job> {
        self.state().jobs.get(job).cloned()
    }

    /// `{"jobs": [...]}`: the newest first, those submitted at `before` or earlier, at most `limit`. Two may have been
    /// submitted in one millisecond: better one twice than one never.
    pub fn jobs_json(&self, limit: usize, before: Option<u64>) -> Value {
        let state = self.state();
        let mut jobs: Vec<&Job> = state
            .jobs
            .values()
            .filter(|job| before.is_none_or(|before| job.progress.created_unix_ms <= before))
            .collect();
        jobs.sort_unstable_by(|a, b| order(b).cmp(&order(a)));
        jobs.truncate(limit.min(MAX_JOBS_LISTED));
        json!({ "jobs": jobs.into_iter().map(Job::listed).collect::<Vec<_>>() })
    }

    /// The sums, without what depends on who asks and when.
    pub fn overview(&self) -> Map<String, Value> {
        let state = self.state();
        let mut jobs: BTreeMap<&str, u64> =
            ["running", "enqueuing", "paused", "complete", "cancelled"].map(|name| (name, 0)).into();
        for job in state.jobs.values() {
            *jobs.entry(job.progress.state.name()).or_default() += 1;
        }
        let lanes = &state.queues.rows;
        let ready = (!lanes.is_empty()).then(|| lanes.iter().map(|lane| lane.ready).sum::<u64>());
        let unacked: Option<u64> = lanes.iter().map(|lane| lane.unacked).sum();
        let overview = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "services": state.services,
            "jobs": jobs,
            "images_per_second": state.images_per_second(),
            "workers": state.workers.iter().filter(|worker| !worker.is_silent()).count(),
            "dead": state.queues.dead,
            "ready": ready,
            "unacked": unacked.filter(|_| !lanes.is_empty()),
        });
        let Value::Object(overview) = overview else { return Map::new() };
        overview
    }

    /// `{"workers": [...]}`.
    pub fn workers_json(&self) -> Value {
        let worker = |heard: &Heard| {
            let Ok(Value::Object(mut worker)) = serde_json::to_value(&heard.report) else {
                return Value::Null;
            };
            worker.insert("last_heartbeat_ms".into(), json!(heard.age_ms));
            worker.insert("silent".into(), json!(heard.is_silent()));
            Value::Object(worker)
        };
        json!({ "workers": self.state().workers.iter().map(worker).collect::<Vec<_>>() })
    }

    /// `{"queues": [...], "management": {...}}`.
    pub fn queues_json(&self) -> Value {
        let state = self.state();
        json!({ "queues": state.queues.rows, "management": state.services.management })
    }
}

impl State {
    /// Takes a job's counters over.
    pub fn tell(&mut self, progress: Progress, source: Source) {
        let now = unix_ms();
        match self.jobs.get_mut(&progress.job) {
            Some(job) => job.update(progress, source, now),
            None => {
                self.make_room();
                self.jobs.insert(progress.job.clone(), Job::new(progress, source, now));
            }
        }
    }

    /// Forgets the oldest job when there are too many: one that is at its end, if there is any.
    fn make_room(&mut self) {
        while self.jobs.len() >= MAX_JOBS {
            let oldest = self.jobs.values().min_by_key(|job| (job.is_active(), order(job)));
            let Some(oldest) = oldest.map(|job| job.progress.job.clone()) else { return };
            self.jobs.remove(&oldest);
        }
    }

    /// By the workers' own word; by the ledger's where no worker is heard.
    pub fn images_per_second(&self) -> f64 {
        let mut live = self.workers.iter().filter(|worker| !worker.is_silent()).peekable();
        if live.peek().is_some() {
            return live.map(|worker| worker.report.images_per_second).sum();
        }
        let at_work = |job: &&Job| matches!(job.progress.state, JobState::Running | JobState::Enqueuing);
        self.jobs.values().filter(at_work).map(|job| job.progress.images_per_second).sum()
    }
}

/// By submission, then by name.
fn order(job: &Job) -> (u64, &JobId) {
    (job.progress.created_unix_ms, &job.progress.job)
}

#[cfg(test)]
mod tests {
    use super::{job::tests::progress, *};

    #[tokio::test]
    async fn the_list_is_newest_first_in_pages_and_bounded() {
        let known = Known::default();
        for n in 0..MAX_JOBS as u64 + 50 {
            let state = if n == 3 { JobState::Running } else { JobState::Complete };
            known.tell(Progress { state, ..progress(&format!("j{n}"), n, 1) }, Source::Redis);
        }
        assert_eq!(known.state().jobs.len(), MAX_JOBS);
        assert!(known.job(&"j3".parse().unwrap()).is_some(), "one that is at work is not forgotten");
        assert!(known.job(&"j5".parse().unwrap()).is_none());
        let names = |page: &Value| {
            let name = |job: &Value| job["job"].as_str().unwrap().to_owned();
            page["jobs"].as_array().unwrap().iter().map(name).collect::<Vec<_>>()
        };
        let first = known.jobs_json(2, None);
        assert_eq!(names(&first), ["j1049", "j1048"]);
        let before = first["jobs"][1]["created_unix_ms"].as_u64();
        assert_eq!(names(&known.jobs_json(2, before)), ["j1048", "j1047"]);
        assert_eq!(known.jobs_json(usize::MAX, None)["jobs"].as_array().unwrap().len(), MAX_JOBS_LISTED);
    }

    #[tokio::test]
    async fn sums_say_null_where_nothing_is_known() {
        let known = Known::default();
        let empty = known.overview();
        assert_eq!(
            (&empty["ready"], &empty["unacked"], &empty["dead"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
        assert_eq!(empty["services"]["redis"]["ok"], false);
        known.tell(progress("a", 1, 1), Source::Redis);
        known.tell(Progress { state: JobState::Complete, ..progress("b", 2, 1) }, Source::Bucket);
        let sums = known.overview();
        assert_eq!((&sums["jobs"]["running"], &sums["jobs"]["complete"]), (&json!(1), &json!(1)));
        assert_eq!(sums["images_per_second"], 10.0, "of the jobs, since no worker is heard");
    }
}
