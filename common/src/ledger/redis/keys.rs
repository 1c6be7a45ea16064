//! The keys of a job in Redis, and its counters in their stored form.
//!
//! All keys of a job hash to one slot, so that a script may touch them together in a cluster.

use crate::{
    job::JobId,
    ledger::{BatchOutcome, JobState, counters::JobCounters},
    stages::{Stage, StageTimes},
};
use std::collections::{BTreeMap, HashMap};

/// The keys of one job; the braces keep them in one slot of a cluster.
pub(super) struct Keys {
    pub(super) meta: String,
    pub(super) done: String,
    pub(super) errors: String,
    pub(super) rate: String,
    pub(super) claims: String,
    pub(super) claimers: String,
}

impl Keys {
    pub(super) fn of(job: &JobId) -> Self {
        let key = |what: &str| format!("trawl:{{{job}}}:{what}");
        Self {
            meta: key("meta"),
            done: key("done"),
            errors: key("errors"),
            rate: key("rate"),
            claims: key("claims"),
            claimers: key("claimers"),
        }
    }
}

pub(super) fn parse_state(text: &str) -> Option<JobState> {
    match text {
        "enqueuing" => Some(JobState::Enqueuing),
        "running" => Some(JobState::Running),
        "complete" => Some(JobState::Complete),
        "paused" => Some(JobState::Paused),
        "cancelled" => Some(JobState::Cancelled),
        _ => None,
    }
}

/// What `progress.lua` returns.
pub(super) type Stored = (HashMap<String, String>, BTreeMap<String, u64>, BTreeMap<u64, u64>, u64);

/// The counters in their stored form; `None` if the job was never opened, else what is unreadable.
pub(super) fn parse_counters(stored: Stored) -> Option<Result<(JobCounters, u64), String>> {
    let (mut meta, errors, buckets, now_ms) = stored;
    if !meta.contains_key("open") {
        return None;
    }
    let text = meta.remove("state").unwrap_or_default();
    let Some(state) = parse_state(&text) else { return Some(Err(format!("`{text}` is no state of a job"))) };
    let number = |field: &str| meta.get(field).and_then(|text| text.parse().ok()).unwrap_or(0_u64);
    let counters = JobCounters {
        state,
        created_unix_ms: number("created"),
        images_planned: number("images_planned"),
        batches_planned: number("batches_planned"),
        plan_complete: meta.contains_key("plan_complete"),
        batches_done: number("done"),
        images_ok: number("ok"),
        images_failed: number("failed"),
        // A code of a later version has no name here; the counters still hold its images.
        errors: errors.into_iter().filter_map(|(code, n)| Some((code.parse().ok()?, n))).collect(),
        stages: stages(&meta),
        first: meta.contains_key("first_ms").then(|| (number("first_ms"), number("first_images"))),
        last_ms: number("last_ms"),
        buckets,
        out: meta.get("out").cloned().unwrap_or_default(),
        queue: meta.get("queue").cloned().unwrap_or_default(),
    };
    Some(Ok((counters, now_ms)))
}

/// Before the name of a stage, in a job's meta hash: microseconds spent in it.
const SPENT: &str = "us:";

/// Before the name of a stage, in a job's meta hash: batches whose workers waited for it.
const BINDING: &str = "binding:";

fn stages(meta: &HashMap<String, String>) -> StageTimes {
    let of = |prefix: &str| {
        let value = |stage: Stage| meta.get(&format!("{prefix}{stage}"))?.parse().ok();
        Stage::ALL.into_iter().filter_map(|stage| Some((stage, value(stage)?))).collect()
    };
    StageTimes { us: of(SPENT), binding: of(BINDING) }
}

/// What a batch or a whole job adds or says besides its images: the number of codes, codes with their counts, and
/// fields of the meta hash with their values. As `complete.lua` and `finalized.lua` take it.
pub(super) fn outcome_arguments(outcome: &BatchOutcome) -> Vec<String> {
    let mut arguments = vec![outcome.errors.len().to_string()];
    arguments.extend(outcome.errors.iter().flat_map(|(code, n)| [code.to_string(), n.to_string()]));
    for (prefix, values) in [(SPENT, &outcome.stages.us), (BINDING, &outcome.stages.binding)] {
        arguments.extend(values.iter().flat_map(|(stage, n)| [format!("{prefix}{stage}"), n.to_string()]));
    }
    arguments
}
