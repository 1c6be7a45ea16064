//! `trawl cancel` and `trawl pause`: give a job up, or hold it back for now.
//!
//! What is done and in which order is `trawl_common::planning::hold`'s. Nothing is taken from the queue and nothing in
//! the output is deleted: workers drop the batches of a held job as they come to them.

use crate::{errors::Stop, report, target};
use serde::Serialize;
use std::{io::Write, sync::Arc};
use trawl_common::{
    config::{OutputFormat, exit},
    job::JobId,
    ledger::{JobState, Ledger},
    planning::{
        cancellation::Hold,
        hold::{HoldError, hold as hold_back},
    },
    storage::Stores,
};

#[derive(Serialize)]
struct Held<'a> {
    job: &'a JobId,
    state: JobState,
    /// Whether the output says so too.
    marked: bool,
}

/// Cancels or pauses the job; one that is held so already is left as it is.
///
/// # Errors
/// Not found if the ledger does not know it, failed if it is complete or, for a pause, given up.
pub async fn run(
    stores: &Arc<Stores>,
    ledger: &dyn Ledger,
    job: &JobId,
    hold: Hold,
    output: OutputFormat,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    let marked = match hold_back(stores, ledger, job, hold).await {
        Ok(marked) => marked,
        Err(error) => return Err(target::suggest(ledger, job, error.into()).await),
    };
    match output {
        OutputFormat::Json => {
            report::print_json(out, &Held { job, state: hold.state(), marked: marked.is_ok() })?;
        }
        OutputFormat::Text => {
            writeln!(out, "job {job} is {}", hold.state().name())?;
            let again = match hold {
                Hold::Cancelled => {
                    "giving its `trawl submit` command again takes it up from there".to_owned()
                }
                Hold::Paused => format!("`trawl resume {job}` takes it up from there"),
            };
            eprintln!(
                "what workers have in hand is finished, the rest is dropped as they come to it; {again}"
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

impl From<HoldError> for Stop {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::Unknown(job) => target::unknown(&job),
            HoldError::Plan(error) => error.into(),
            HoldError::Ledger(error) => error.into(),
            error @ (HoldError::Nothing { .. } | HoldError::OtherOutput { .. }) => {
                Self::failed(error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use trawl_common::{
        ledger::{BatchOutcome, JobRecord, memory::MemoryLedger},
        planning::cancellation,
        results::OutputLayout,
    };

    #[tokio::test]
    async fn a_job_at_work_a_complete_one_and_none() {
        let (ledger, job): (_, JobId) = (MemoryLedger::default(), "job-1".parse().unwrap());
        let stores = Stores::in_memory();
        let mut out = Vec::new();
        let stop =
            run(&stores, &ledger, &job, Hold::Cancelled, OutputFormat::Json, &mut out).await.unwrap_err();
        assert_eq!((stop.code, out.len()), (exit::NOT_FOUND, 0));

        let record = JobRecord {
            job: job.clone(),
            out: "s3://b/o".into(),
            queue: "default".into(),
            created_unix_ms: 1,
        };
        ledger.open(&record).await.unwrap();
        assert_eq!(
            run(&stores, &ledger, &job, Hold::Cancelled, OutputFormat::Json, &mut out).await.unwrap(),
            exit::OK
        );
        assert_eq!(
            String::from_utf8(out.clone()).unwrap(),
            "{\"job\":\"job-1\",\"state\":\"cancelled\",\"marked\":false}\n"
        );
        assert_eq!(ledger.state(&job).await.unwrap(), Some(JobState::Cancelled));

        // What is given up is not held back.
        let stop = run(&stores, &ledger, &job, Hold::Paused, OutputFormat::Text, &mut out).await.unwrap_err();
        assert!(stop.message.contains("cancelled: there is nothing to pause"), "{}", stop.message);

        ledger.open(&record).await.unwrap();
        ledger.plan_complete(&job, 0, 0).await.unwrap();
        ledger.finalized(&record, 0, &BatchOutcome::default()).await.unwrap();
        let stop =
            run(&stores, &ledger, &job, Hold::Cancelled, OutputFormat::Text, &mut out).await.unwrap_err();
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
        let own = JobRecord::of(&spec);
        let cases = [(later, Hold::Cancelled, None), (own.clone(), Hold::Paused, Some(Hold::Paused))];
        for (record, hold, marked) in cases.into_iter().chain([(own, Hold::Cancelled, Some(Hold::Cancelled))])
        {
            ledger.open(&record).await.unwrap();
            assert_eq!(
                run(&stores, &ledger, &spec.job, hold, OutputFormat::Text, &mut out).await.unwrap(),
                exit::OK
            );
            assert_eq!(cancellation::marked(&*store, &layout).await.unwrap(), marked);
        }
    }
}
