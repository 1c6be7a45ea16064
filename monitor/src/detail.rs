//! Everything about one job: its line, its spec, who is at it, and what was given up.
//!
//! Made from what the poller knows, with two questions about this one job: who has claims on it (Redis), and its spec
//! (the bucket, once). Either may fail without taking the page with it.

use crate::{
    Monitor,
    output::finished_unix_ms,
    seams::{ASK_TIMEOUT, within},
    watch::job::{Job, Source},
};
use serde_json::{Value, json};
use trawl_common::{
    job::{JobId, JobSpec},
    ledger::{Claim, Progress},
};

/// Batches in work that are shown; a large fleet has thousands.
const MAX_CLAIMS: usize = 100;

/// Dead letters of the job that are shown.
const MAX_DEAD: usize = 200;

/// Labels that are summed up.
const MAX_LABELS: usize = 50;

/// Why there is nothing to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoJob {
    /// Nobody knows it.
    Unknown,
    /// Those who may know it do not answer.
    Away(String),
}

/// The job, from what is known or, for one that is older than all that is, from the ledger.
///
/// # Errors
/// [`NoJob`].
pub async fn find(monitor: &Monitor, job: &JobId) -> Result<Job, NoJob> {
    if let Some(known) = monitor.known.job(job) {
        return Ok(known);
    }
    match within(ASK_TIMEOUT, monitor.seams.ledger.progress(job)).await {
        Ok(Some(progress)) => Ok(Job::new(progress, Source::Redis, trawl_common::config::unix_ms())),
        Ok(None) => Err(NoJob::Unknown),
        Err(reason) => Err(NoJob::Away(reason)),
    }
}

/// The job with its detail, as JSON.
///
/// # Errors
/// [`NoJob`].
pub async fn job_json(monitor: &Monitor, id: &JobId) -> Result<Value, NoJob> {
    let job = find(monitor, id).await?;
    let asks_claims = job.source == Source::Redis && job.is_active();
    let claims = async {
        let asked = asks_claims.then(|| within(ASK_TIMEOUT, monitor.seams.ledger.claims(id, MAX_CLAIMS)));
        match asked {
            Some(asked) => asked.await.unwrap_or_default(),
            None => Vec::new(),
        }
    };
    let (claims, spec) = tokio::join!(claims, within(ASK_TIMEOUT, monitor.outputs.spec(&job.progress)));
    let spec = spec.ok();
    let finished = finished_unix_ms(monitor, &job).await;
    let in_flight: Vec<Value> =
        claims.iter().map(|claim| claim_json(claim, &job.progress, spec.as_deref())).collect();
    let labels = monitor.galleries.labels(&job.progress, MAX_LABELS);
    let mut json = job.whole();
    if let Some(spec) = &spec
        && json.get("model").is_none_or(Value::is_null)
    {
        json.insert("model".into(), json!(model_name(spec)));
    }
    let detail = json!({
        "spec": spec.as_deref().map(spec_json),
        "in_flight": in_flight,
        "retries": retries(monitor, &job),
        "dead": monitor.known.dead.of_job(id, MAX_DEAD),
        "finished_unix_ms": finished,
        "labels": labels,
    });
    json.insert("detail".into(), detail);
    Ok(Value::Object(json))
}

/// Batches that rest before they are tried again: known of a lane, and so of a job that has its lane to itself.
fn retries(monitor: &Monitor, job: &Job) -> Option<u64> {
    let state = monitor.known.state();
    let lane = state.queues.rows.iter().find(|lane| lane.queue == job.progress.queue)?;
    let others = state.jobs.values().any(|other| {
        other.is_active()
            && other.progress.queue == job.progress.queue
            && other.progress.job != job.progress.job
    });
    if others { None } else { lane.retry }
}

fn claim_json(claim: &Claim, progress: &Progress, spec: Option<&JobSpec>) -> Value {
    json!({
        "batch": claim.batch, "worker": claim.worker, "age_ms": claim.age_ms,
        "images": spec.and_then(|spec| images_of(claim.batch.0, progress, u64::from(spec.batch_size))),
    })
}

/// The images of a batch, where the job's numbers leave no choice: all are full but the last.
fn images_of(batch: u64, progress: &Progress, batch_size: u64) -> Option<u64> {
    let before_last = progress.batches_planned.checked_sub(1)?.checked_mul(batch_size)?;
    let last =
        progress.images_planned.checked_sub(before_last).filter(|last| (1..=batch_size).contains(last))?;
    match batch + 1 {
        number if number < progress.batches_planned => Some(batch_size),
        number if number == progress.batches_planned => Some(last),
        _ => None,
    }
}

/// The model's name as people know it: its file's.
pub fn model_name(spec: &JobSpec) -> String {
    let file = spec.model.location.rsplit('/').next().unwrap_or_default();
    let name = [".pt", ".pt2"].iter().find_map(|ending| file.strip_suffix(ending)).unwrap_or(file);
    match name.strip_prefix("model-") {
        // A local file that was put beside the results.
        Some(digest) if digest == spec.model.sha256 => format!("sha256:{}", &digest[..digest.len().min(12)]),
        _ => name.to_owned(),
    }
}

fn spec_json(spec: &JobSpec) -> Value {
    json!({
        "model": spec.model.location, "model_sha256": spec.model.sha256, "topk": spec.topk, "decode": spec.decode,
        "precision": spec.precision, "truncated": spec.truncated, "orient": spec.orient,
        "batch_size": spec.batch_size, "sources": spec.sources,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::job::tests::progress;

    #[test]
    fn the_last_batch_has_the_rest() {
        let of = |images, batches| Progress {
            images_planned: images,
            batches_planned: batches,
            ..progress("j", 1, 0)
        };
        assert_eq!(images_of(0, &of(25, 3), 10), Some(10));
        assert_eq!(images_of(2, &of(25, 3), 10), Some(5));
        assert_eq!(images_of(3, &of(25, 3), 10), None, "there is no such batch");
        assert_eq!(images_of(0, &of(12, 3), 10), None, "some batch is smaller, and who knows which");
        assert_eq!(images_of(0, &of(0, 0), 10), None);
    }
}
