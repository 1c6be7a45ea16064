//! `trawl status`: how one job stands.
//!
//! By id from the ledger; by place from the output itself, which works with every service gone. When both
//! can be asked, the output counts and the ledger adds what files cannot say: rate, estimate, cancellation.

use crate::{
    bucket,
    errors::Stop,
    next,
    report::{Dead, Report, Source},
    target::{self, Target},
};
use std::{io::Write, sync::Arc, time::Duration};
use trawl_common::{
    batch::Message,
    broker::{Broker, Verdict},
    config::{OutputFormat, exit},
    job::JobId,
    ledger::{JobState, Ledger},
    storage::Stores,
};

/// Dead letters that are looked through for those of the job; more are "unknown" and want `trawl dead list`.
const LETTERS_LOOKED_AT: usize = 2000;

/// For all of what is asked of the broker, which is a bonus.
const BROKER_PATIENCE: Duration = Duration::from_secs(3);

/// The ways to the services; nothing connects before it must.
pub struct Asking<L, B> {
    /// To the ledger: a must for a job id and a bonus for a place.
    pub ledger: L,
    /// To the broker: a bonus.
    pub broker: B,
}

/// Prints where `target` stands.
///
/// # Errors
/// Not found, or what the ledger (for an id) or the store gives.
pub async fn run(
    stores: &Arc<Stores>,
    target: Target,
    asking: Asking<
        impl AsyncFnOnce() -> Result<Box<dyn Ledger>, Stop>,
        impl AsyncFnOnce() -> Result<Arc<dyn Broker>, Stop>,
    >,
    output: OutputFormat,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    let Asking { ledger, broker } = asking;
    let mut report = match target {
        Target::Job(job) => {
            let ledger = ledger().await?;
            match ledger.progress(&job).await? {
                Some(progress) => Report::of_ledger(progress),
                None => return Err(target::suggest(ledger.as_ref(), &job, target::unknown(&job)).await),
            }
        }
        Target::Out(place) => {
            let (_, progress) = bucket::progress(stores, &place).await?;
            let mut report = Report { progress, counted_from: Source::Output, dead_letters: None };
            if report.progress.state != JobState::Complete {
                add_pace(&mut report, ledger).await;
            }
            report
        }
    };
    // What a complete job has left there is done all the same.
    if report.progress.state != JobState::Complete {
        report.dead_letters = Some(dead_letters(&report.progress.job, broker).await);
    }
    match output {
        OutputFormat::Json => report.json(out)?,
        OutputFormat::Text => report.text(out)?,
    }
    out.flush()?;
    next::say(output, &next::standing(&report.progress, report.dead_letters.and_then(Dead::count)));
    Ok(exit::OK)
}

/// Counts the job's dead letters; whatever goes wrong makes them unknown.
async fn dead_letters(job: &JobId, broker: impl AsyncFnOnce() -> Result<Arc<dyn Broker>, Stop>) -> Dead {
    let counting = async {
        let broker = broker().await?;
        if broker.dead_depth().await? == 0 {
            return Ok(Dead::Counted(0));
        }
        let mut of_job = 0;
        let mut look = |letter: &trawl_common::broker::DeadLetter| {
            of_job += u64::from(Message::parse(&letter.body).is_ok_and(|message| message.job() == job));
            Verdict::Keep
        };
        let looked_at = broker.judge_dead(LETTERS_LOOKED_AT, &mut look).await?.len();
        Ok::<_, Stop>(if looked_at < LETTERS_LOOKED_AT { Dead::Counted(of_job) } else { Dead::Unknown })
    };
    match tokio::time::timeout(BROKER_PATIENCE, counting).await {
        Ok(Ok(dead)) => dead,
        Ok(Err(stop)) => {
            tracing::info!("dead letters unknown, the broker was not asked: {}", stop.message);
            Dead::Unknown
        }
        Err(_) => Dead::Unknown,
    }
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
    use trawl_common::{
        batch::FinalizeRequest,
        broker::{Disposition, Publication, memory::MemoryBroker},
        job::QueueName,
        ledger::{JobRecord, memory::MemoryLedger},
    };

    async fn away() -> Result<Box<dyn Ledger>, Stop> {
        Err(Stop::transient("the ledger is away"))
    }

    async fn no_broker() -> Result<Arc<dyn Broker>, Stop> {
        Err(Stop::transient("the broker is away"))
    }

    async fn run(
        stores: &Arc<Stores>,
        target: Target,
        ledger: impl AsyncFnOnce() -> Result<Box<dyn Ledger>, Stop>,
        output: OutputFormat,
        out: &mut dyn Write,
    ) -> Result<u8, Stop> {
        super::run(stores, target, Asking { ledger, broker: no_broker }, output, out).await
    }

    #[tokio::test]
    async fn dead_letters_of_the_job_are_counted_and_left_where_they_are() {
        let broker = Arc::new(MemoryBroker::new());
        let (lane, job): (QueueName, JobId) = ("default".parse().unwrap(), "job-1".parse().unwrap());
        let lend = async || {
            let lent: Arc<dyn Broker> = broker.clone();
            Ok(lent)
        };
        broker.ensure_queue(&lane).await.unwrap();
        assert_eq!(dead_letters(&job, lend).await, Dead::Counted(0));
        let mut consumer = broker.consume(&lane, 8).await.unwrap();
        for name in ["job-1", "job-2", "job-1", "junk"] {
            let request = FinalizeRequest { job: name.parse().unwrap(), out: "s3://b/o".into() };
            let body = match name {
                "junk" => b"junk".to_vec(),
                _ => Message::Finalize(request).to_json(),
            };
            broker.publish(&lane, Publication::new(body)).await.unwrap();
            let delivery = consumer.next().await.unwrap();
            delivery.settle(Disposition::DeadLetter { reason: "r".into() }).await.unwrap();
        }
        assert_eq!(dead_letters(&job, lend).await, Dead::Counted(2));
        assert_eq!(broker.dead_depth().await.unwrap(), 4);
        assert_eq!(dead_letters(&job, no_broker).await, Dead::Unknown);
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
