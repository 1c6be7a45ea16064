//! `trawl status`: how one job stands.
//!
//! By id from the ledger; by place from the output itself, which works with every service gone. When both
//! can be asked, the output counts and the ledger adds what files cannot say: rate, estimate, cancellation.

use crate::{
    bucket,
    errors::Stop,
    report::{Report, Source},
    target::{self, Target},
};
use std::{io::Write, sync::Arc};
use trawl_common::{
    config::{OutputFormat, exit},
    ledger::{JobState, Ledger},
    storage::Stores,
};

/// Prints where `target` stands. `ledger` connects; it is a must for a job id and a bonus for a place.
///
/// # Errors
/// Not found, or what the ledger (for an id) or the store gives.
pub async fn run(
    stores: &Arc<Stores>,
    target: Target,
    ledger: impl AsyncFnOnce() -> Result<Box<dyn Ledger>, Stop>,
    output: OutputFormat,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    let report = match target {
        Target::Job(job) => {
            let progress = ledger().await?.progress(&job).await?.ok_or_else(|| target::unknown(&job))?;
            Report { progress, counted_from: Source::Ledger }
        }
        Target::Out(place) => {
            let (_, progress) = bucket::progress(stores, &place).await?;
            let mut report = Report { progress, counted_from: Source::Output };
            if report.progress.state != JobState::Complete {
                add_pace(&mut report, ledger).await;
            }
            report
        }
    };
    match output {
        OutputFormat::Json => report.json(out)?,
        OutputFormat::Text => report.text(out)?,
    }
    Ok(exit::OK)
}

/// Takes over from the ledger what the output cannot know; without a ledger nothing changes.
async fn add_pace(report: &mut Report, ledger: impl AsyncFnOnce() -> Result<Box<dyn Ledger>, Stop>) {
    let known = match ledger().await {
        Ok(ledger) => ledger.progress(&report.progress.job).await.map_err(Stop::from),
        Err(stop) => Err(stop),
    };
    match known {
        Ok(Some(known)) if known.out == report.progress.out => {
            report.progress.images_per_second = known.images_per_second;
            report.progress.eta_seconds = known.eta_seconds;
            if matches!(known.state, JobState::Cancelled | JobState::Paused) {
                report.progress.state = known.state;
            }
        }
        // Another job of the same name in another place, or none.
        Ok(_) => {}
        Err(stop) => tracing::info!("no rate, the ledger was not asked: {}", stop.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use trawl_common::ledger::{JobRecord, memory::MemoryLedger};

    async fn away() -> Result<Box<dyn Ledger>, Stop> {
        Err(Stop::transient("the ledger is away"))
    }

    async fn json(done: u64, plan_ended: bool) -> serde_json::Value {
        let stores = fixture::output(done, plan_ended).await;
        let mut out = Vec::new();
        let target = Target::Out(fixture::place());
        assert_eq!(run(&stores, target, away, OutputFormat::Json, &mut out).await.unwrap(), exit::OK);
        serde_json::from_slice(&out).unwrap()
    }

    #[tokio::test]
    async fn the_output_alone_says_how_a_job_stands() {
        let begun = json(1, false).await;
        assert_eq!(begun["state"], "enqueuing");
        assert_eq!((begun["images_planned"].as_u64(), begun["batches_planned"].as_u64()), (Some(9), Some(3)));
        let half = json(2, true).await;
        assert_eq!(half["state"], "running");
        assert_eq!((half["images_ok"].as_u64(), half["images_failed"].as_u64()), (Some(4), Some(2)));
        assert_eq!(half["errors"], serde_json::json!({"truncated": 1, "corrupt": 1}));
        assert_eq!(half["counted_from"], "output");
        let whole = json(3, true).await;
        assert_eq!((whole["state"].as_str(), whole["batches_done"].as_u64()), (Some("complete"), Some(3)));
        assert_eq!(whole["images_failed"], 4);
    }

    #[tokio::test]
    async fn the_ledger_adds_what_files_cannot_say() {
        let stores = fixture::output(2, true).await;
        let ledger = MemoryLedger::default();
        let spec = fixture::spec();
        let record = JobRecord {
            job: spec.job.clone(),
            out: spec.out.clone(),
            queue: "default".into(),
            created_unix_ms: 1,
        };
        ledger.open(&record).await.unwrap();
        ledger.cancel(&spec.job).await.unwrap();
        let ledger: Box<dyn Ledger> = Box::new(ledger);
        let mut out = Vec::new();
        let target = Target::Out(fixture::place());
        run(&stores, target, async || Ok(ledger), OutputFormat::Text, &mut out).await.unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("cancelled") && text.contains("6 of 9 images"), "{text}");
    }

    #[tokio::test]
    async fn what_is_not_known_is_not_found() {
        let stores = Stores::in_memory();
        let mut out = Vec::new();
        let nowhere = Target::Out(fixture::place());
        let stop = run(&stores, nowhere, away, OutputFormat::Text, &mut out).await.unwrap_err();
        assert_eq!(stop.code, exit::NOT_FOUND);
        let none = async || {
            let ledger: Box<dyn Ledger> = Box::new(MemoryLedger::default());
            Ok(ledger)
        };
        let job = Target::Job("job-9".parse().unwrap());
        let stop = run(&stores, job.clone(), none, OutputFormat::Text, &mut out).await.unwrap_err();
        assert_eq!(stop.code, exit::NOT_FOUND);
        assert!(stop.hint.unwrap().contains("trawl status OUT"));
        assert_eq!(
            run(&stores, job, away, OutputFormat::Text, &mut out).await.unwrap_err().code,
            exit::TRANSIENT
        );
        assert!(out.is_empty());
    }
}
