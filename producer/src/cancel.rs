//! `trawl cancel`: gives a job up.
//!
//! Only the ledger is told. Nothing is taken from the queue and nothing in the output is deleted: workers
//! skip the batches of a cancelled job as they come to them.

use crate::{errors::Stop, report, target};
use serde::Serialize;
use std::io::Write;
use trawl_common::{
    config::{OutputFormat, exit},
    job::JobId,
    ledger::{JobState, Ledger},
};

#[derive(Serialize)]
struct Cancelled<'a> {
    job: &'a JobId,
    state: JobState,
}

/// Cancels the job.
///
/// # Errors
/// Not found if the ledger does not know it, failed if it is complete already.
pub async fn run(
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
    match output {
        OutputFormat::Json => report::print_json(out, &Cancelled { job, state: JobState::Cancelled })?,
        OutputFormat::Text => {
            writeln!(out, "job {job} is cancelled")?;
            eprintln!(
                "its queued batches are skipped as workers come to them; what is written stays, and giving its \
                 `trawl submit` command again takes it up from there"
            );
        }
    }
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_common::ledger::{BatchOutcome, JobRecord, memory::MemoryLedger};

    #[tokio::test]
    async fn a_job_at_work_a_complete_one_and_none() {
        let (ledger, job): (_, JobId) = (MemoryLedger::default(), "job-1".parse().unwrap());
        let mut out = Vec::new();
        let stop = run(&ledger, &job, OutputFormat::Json, &mut out).await.unwrap_err();
        assert_eq!((stop.code, out.len()), (exit::NOT_FOUND, 0));

        let record = JobRecord {
            job: job.clone(),
            out: "s3://b/o".into(),
            queue: "default".into(),
            created_unix_ms: 1,
        };
        ledger.open(&record).await.unwrap();
        assert_eq!(run(&ledger, &job, OutputFormat::Json, &mut out).await.unwrap(), exit::OK);
        assert_eq!(String::from_utf8(out.clone()).unwrap(), "{\"job\":\"job-1\",\"state\":\"cancelled\"}\n");
        assert_eq!(ledger.state(&job).await.unwrap(), Some(JobState::Cancelled));

        ledger.open(&record).await.unwrap();
        ledger.plan_complete(&job, 0, 0).await.unwrap();
        ledger.finalized(&record, 0, &BatchOutcome::default()).await.unwrap();
        let stop = run(&ledger, &job, OutputFormat::Text, &mut out).await.unwrap_err();
        assert_eq!(stop.code, exit::FAILED);
        assert!(stop.message.contains("complete"), "{}", stop.message);
    }
}
