//! `trawl watch`: one job until it ends, or all of them until somebody leaves.
//!
//! On a terminal it is a screen ([`crate::screen`]); elsewhere sparse lines, or JSON lines for machines. It reads
//! alone, and leaving it leaves the jobs at work.

use crate::{
    connect::{self, Context},
    errors::Stop,
    follow::{self, Following, POLL, with_signal},
    next,
    progress::{self, JsonLines, moved},
    report::{self, Report},
    screen::{
        self, Ended, Watched,
        feed::{Feed, MOST_JOBS},
        look::Look,
        state::Scope,
    },
    target::{self, Target},
    text,
};
use std::{
    collections::BTreeMap,
    io::{self, Write},
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use trawl_common::{
    broker::Broker,
    config::{OutputFormat, exit},
    fleet::redis::RedisFleet,
    job::JobId,
    ledger::{JobState, Ledger, LedgerError, Progress},
};

/// Runs the command.
///
/// # Errors
/// Not found, a ledger that stays away, a job that was cancelled, a signal.
pub async fn run(cx: &Context, name: Option<&str>, strict: bool, out: &mut dyn Write) -> Result<u8, Stop> {
    let ledger = connect::ledger(&cx.services).await?;
    let scope = match name.map(|name| target::parse(name, &cx.base_dir)).transpose()? {
        None => Scope::All,
        Some(Target::Job(job)) => Scope::One(job),
        Some(Target::Out(location)) => Scope::One(target::spec(&cx.stores, &location).await?.job),
    };
    // A watch without the broker is a watch all the same; it only cannot say why nothing moves.
    let broker = connect::broker(&cx.services).await.ok();
    let fleet = RedisFleet::beside(&ledger);
    let feed = Feed { ledger: &ledger, fleet: &fleet, broker: broker.as_ref().map(|b| b as &dyn Broker) };
    if cx.output == OutputFormat::Text && screen::is_there() {
        let stop = &cx.shutdown.draining;
        let watched = Watched { feed, scope, strict, stop, look: Look::of_stderr() };
        let ended = screen::run(&watched).await;
        return match known(&ledger, &watched.scope, ended).await.map_err(|stop| with_signal(cx, stop))? {
            Ended::Left => Ok(exit::OK),
            Ended::Job(progress, code) => {
                Report::of_ledger((*progress).clone()).text(out)?;
                out.flush()?;
                next::say(cx.output, &next::standing(&progress, None));
                follow::verdict(&progress, code)
            }
        };
    }
    match &scope {
        Scope::One(job) => {
            let ended = one(cx, feed, job, strict, out).await;
            known(&ledger, &scope, ended).await
        }
        Scope::All => {
            let stop = &cx.shutdown.draining;
            all(feed.ledger, stop, cx.output, out).await.map_err(|stop| with_signal(cx, stop))
        }
    }
}

/// Helps somebody who misspelled the job.
async fn known<T>(ledger: &dyn Ledger, scope: &Scope, ended: Result<T, Stop>) -> Result<T, Stop> {
    match (ended, scope) {
        (Err(stop), Scope::One(job)) => Err(target::suggest(ledger, job, stop).await),
        (ended, _) => ended,
    }
}

async fn one(
    cx: &Context,
    feed: Feed<'_>,
    job: &JobId,
    strict: bool,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    let Feed { ledger, broker, .. } = feed;
    let following = Following { ledger, broker, job, strict, stop: &cx.shutdown.draining };
    let ended = match cx.output {
        OutputFormat::Json => follow::follow(&following, &mut JsonLines::new(out, io::stderr())).await,
        OutputFormat::Text => {
            let mut view = progress::for_people();
            let ended = follow::follow(&following, view.as_mut()).await;
            if let Ok((progress, _)) = &ended {
                Report::of_ledger(progress.clone()).text(out)?;
            }
            ended
        }
    };
    let (progress, code) = ended.map_err(|stop| with_signal(cx, stop))?;
    out.flush()?;
    next::say(cx.output, &next::standing(&progress, None));
    follow::verdict(&progress, code)
}

/// Prints a line for every change of any job, until a signal comes. Jobs that had ended before are not told of.
async fn all(
    ledger: &dyn Ledger,
    stop: &CancellationToken,
    output: OutputFormat,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    let mut shown: Option<BTreeMap<JobId, Progress>> = None;
    let mut away = false;
    while !stop.is_cancelled() {
        match ledger.jobs(MOST_JOBS).await {
            Ok(jobs) => {
                away = false;
                for progress in changes(shown.as_ref(), &jobs) {
                    match output {
                        OutputFormat::Json => {
                            Report::of_ledger(progress.clone()).json(out)?;
                        }
                        OutputFormat::Text => writeln!(out, "{}: {}", progress.job, report::line(progress))?,
                    }
                }
                out.flush()?;
                shown = Some(jobs.into_iter().map(|progress| (progress.job.clone(), progress)).collect());
            }
            Err(error @ LedgerError::Unreachable { .. }) => {
                if !away {
                    eprintln!(
                        "{}; waiting for it, the jobs go on meanwhile",
                        text::printable(&error.to_string())
                    );
                }
                away = true;
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = sleep(POLL) => {}
        }
    }
    Err(Stop::signalled(exit::INTERRUPTED, "stopped watching; the jobs go on"))
}

/// What is worth a line: at first the jobs that are not at their end, later whatever moved.
fn changes<'a>(
    shown: Option<&'a BTreeMap<JobId, Progress>>,
    jobs: &'a [Progress],
) -> impl Iterator<Item = &'a Progress> {
    let at_its_end = |p: &Progress| matches!(p.state, JobState::Complete | JobState::Cancelled);
    jobs.iter().filter(move |job| match shown {
        None => !at_its_end(job),
        Some(shown) => shown.get(&job.job).is_none_or(|before| moved(before, job)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_common::ledger::{BatchOutcome, JobRecord, memory::MemoryLedger};

    fn record(job: &str, created_unix_ms: u64) -> JobRecord {
        JobRecord {
            job: job.parse().unwrap(),
            out: "s3://b/o".into(),
            queue: "default".into(),
            created_unix_ms,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_change_of_every_job_is_a_line_until_somebody_stops_it() {
        let (ledger, stop, mut out) = (MemoryLedger::default(), CancellationToken::new(), Vec::new());
        let (old, new) = (record("job-old", 1), record("job-new", 2));
        ledger.open(&old).await.unwrap();
        ledger.finalized(&old, 0, &BatchOutcome::default()).await.unwrap();
        ledger.open(&new).await.unwrap();
        let (ended, ()) = tokio::join!(all(&ledger, &stop, OutputFormat::Json, &mut out), async {
            sleep(POLL * 3).await;
            ledger.planned(&new.job, 2, 20).await.unwrap();
            sleep(POLL * 3).await;
            ledger.open(&record("job-newer", 3)).await.unwrap();
            sleep(POLL * 3).await;
            stop.cancel();
        });
        assert_eq!(ended.unwrap_err().code, exit::INTERRUPTED);
        let told: Vec<(String, u64)> = String::from_utf8(out)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| (line["job"].as_str().unwrap().to_owned(), line["images_planned"].as_u64().unwrap()))
            .collect();
        let expected = [("job-new", 0), ("job-new", 20), ("job-newer", 0)];
        assert_eq!(told, expected.map(|(job, planned)| (job.to_owned(), planned)));
    }
}
