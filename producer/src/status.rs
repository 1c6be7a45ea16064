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
