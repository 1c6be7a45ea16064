//! `trawl cancel`: gives a job up.
//!
//! The ledger is told, which is what workers ask before every batch, and then a mark is put into the output, so that
//! a wiped Redis does not bring the job back to work. The mark is a best effort: an output that cannot be reached
//! from here must not keep anybody from cancelling. Nothing is taken from the queue and nothing in the output is
//! deleted: workers skip the batches of a cancelled job as they come to them.

use crate::{errors::Stop, report, target};
use serde::Serialize;
use std::{io::Write, sync::Arc, time::Duration};
use trawl_common::{
    config::{OutputFormat, exit, unix_ms},
    job::JobId,
    ledger::{JobState, Ledger},
    planning::cancellation,
    storage::Stores,
};

/// For the mark: the job is cancelled already, and whoever waits wants to know that.
const MARK_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Serialize)]
struct Cancelled<'a> {
    job: &'a JobId,
    state: JobState,
    /// Whether the output says so too.
    marked: bool,
}

/// Cancels the job.
///
/// # Errors
/// Not found if the ledger does not know it, failed if it is complete already.
pub async fn run(
    stores: &Arc<Stores>,
    ledger: &dyn Ledger,
    job: &JobId,
    output: OutputFormat,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    if !ledger.cancel(job).await? {
        return match ledger.state(job).await? {
            None => Err(target::unknown(job)),
            Some(JobState::Cancelled) => Ok(exit::OK),
            Some(state) => Err(Stop::failed(format!(
                "job {job} is {}: there is nothing to cancel",
                report::state(state)
            ))),
        };
    }
    let marked = match ledger.progress(job).await? {
        Some(progress) => cancellation::mark_known(stores, &progress, MARK_TIMEOUT, unix_ms()).await,
        None => Err("the ledger has forgotten the job meanwhile".to_owned()),
    };
    match output {
        OutputFormat::Json => {
            report::print_json(out, &Cancelled { job, state: JobState::Cancelled, marked: marked.is_ok() })?;
        }
        OutputFormat::Text => {
            writeln!(out, "job {job} is cancelled")?;
            eprintln!(
                "its queued batches are skipped as workers come to them; what is written stays, and giving its \
                 `trawl submit` command again takes it up from there"
            );
        }
    }
    if let Err(reason) = marked {
        eprintln!(
            "its output could not be marked, so that only Redis knows of it: {}",
            crate::text::printable(&reason)
        );
    }
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use trawl_common::{
        ledger::{BatchOutcome, JobRecord, memory::MemoryLedger},
        results::OutputLayout,
    };

    #[tokio::test]
    async fn a_job_at_work_a_complete_one_and_none() {
        let (ledger, job): (_, JobId) = (MemoryLedger::default(), "job-1".parse().unwrap());
        let stores = Stores::in_memory();
        let mut out = Vec::new();
        let stop = run(&stores, &ledger, &job, OutputFormat::Json, &mut out).await.unwrap_err();
        assert_eq!((stop.code, out.len()), (exit::NOT_FOUND, 0));

        let record = JobRecord {
            job: job.clone(),
            out: "s3://b/o".into(),
            queue: "default".into(),
            created_unix_ms: 1,
        };
        ledger.open(&record).await.unwrap();
        assert_eq!(run(&stores, &ledger, &job, OutputFormat::Json, &mut out).await.unwrap(), exit::OK);
        assert_eq!(
            String::from_utf8(out.clone()).unwrap(),
            "{\"job\":\"job-1\",\"state\":\"cancelled\",\"marked\":false}\n"
        );
        assert_eq!(ledger.state(&job).await.unwrap(), Some(JobState::Cancelled));

        ledger.open(&record).await.unwrap();
        ledger.plan_complete(&job, 0, 0).await.unwrap();
        ledger.finalized(&record, 0, &BatchOutcome::default()).await.unwrap();
        let stop = run(&stores, &ledger, &job, OutputFormat::Text, &mut out).await.unwrap_err();
        assert_eq!(stop.code, exit::FAILED);
        assert!(stop.message.contains("complete"), "{}", stop.message);
    }

    #[tokio::test]
    async fn the_output_is_marked_if_it_is_this_jobs() {
        let (ledger, spec) = (MemoryLedger::default(), fixture::spec());
        let stores = fixture::output(2, true).await;
        let (store, layout) = (stores.open(&fixture::place()).await, OutputLayout::new(fixture::place()));
        let mut out = Vec::new();
        let later = JobRecord { created_unix_ms: 5, ..JobRecord::of(&spec) };
        for (record, marked) in [(later, false), (JobRecord::of(&spec), true)] {
            ledger.open(&record).await.unwrap();
            assert_eq!(
                run(&stores, &ledger, &spec.job, OutputFormat::Text, &mut out).await.unwrap(),
                exit::OK
            );
            assert_eq!(cancellation::is_marked(&*store, &layout).await.unwrap(), marked);
        }
    }
}
