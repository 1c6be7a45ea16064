//! `trawl repair`: brings an output, the ledger and the queue back in step.
//!
//! For a wiped Redis, a deleted queue, a producer that did not come back, and parts that `trawl verify` calls bad.
//! What is done and in which order is `trawl_common::planning::repair`'s, whose head says why a crash in the middle
//! is harmless; this file says what will be done, and what was.

use crate::{
    connect::{self, Context},
    errors::Stop,
    progress, report, text, verify,
};
use serde::Serialize;
use std::io::Write;
use trawl_common::{
    audit::{
        Depth,
        finding::{Finding, Kind},
    },
    broker::Broker,
    config::{OutputFormat, exit},
    job::JobId,
    ledger::Ledger,
    location::Location,
    planning::{
        PlanError, Ready,
        cancellation::Hold,
        repair::{Repaired, Survey, repair},
        submit::{Enlisting, PUBLISH_WINDOW},
    },
    results::OutputLayout,
};

/// What the command was asked to do.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Remove bad parts.
    pub discard: bool,
    /// Look at rows to find them.
    pub depth: Depth,
    /// Say it and do nothing.
    pub dry_run: bool,
}

/// What `repair --output json` prints.
#[derive(Debug, Serialize)]
struct Document<'a> {
    version: u32,
    job: &'a JobId,
    out: String,
    dry_run: bool,
    /// Whether nothing bad is left: then the exit code is 0.
    ok: bool,
    complete: bool,
    cancelled: bool,
    paused: bool,
    success_removed: bool,
    plan_ended: bool,
    enqueued: u64,
    finish_requested: bool,
    discarded: u64,
    changed_meanwhile: u64,
    /// Objects that are bad and were left: see `--discard`.
    bad_left: u64,
    bad: &'a [Finding],
    stray: u64,
}

/// Repairs the output at `place`.
///
/// # Errors
/// Not found if it is no output, failed if its plan is broken, or what the services and the store give. What is left
/// to be discarded is no error but the exit code 1.
pub async fn run(cx: &Context, place: &Location, asked: Asked, out: &mut dyn Write) -> Result<u8, Stop> {
    let (store, layout) = (cx.stores.open(place).await, OutputLayout::new(place.clone()));
    let stop = &cx.shutdown.draining;
    let surveying = Survey::of(&*store, &layout, asked.depth, verify::FINDINGS_IN_JSON);
    let Some(survey) = stop.run_until_cancelled(surveying).await else {
        return Err(crate::follow::with_signal(cx, PlanError::Interrupted.into()));
    };
    let survey = survey?;
    if let Some(reason) = survey.broken_plan() {
        return Err(Stop::failed(format!("the plan of `{place}` cannot be read: {reason}"))
            .hint(Kind::BrokenPlan.remedy()));
    }
    if asked.dry_run {
        let foreseen = Repaired {
            success_removed: survey.takes_success_away(asked.discard),
            discarded: if asked.discard { survey.bad.len() as u64 } else { 0 },
            enqueued: if survey.audit.held.is_some() { 0 } else { survey.to_enqueue(asked.discard) },
            held: survey.audit.held,
            complete: survey.audit.success && !survey.takes_success_away(asked.discard),
            ..Repaired::default()
        };
        return tell(cx.output, place, &survey, asked, foreseen, out);
    }
    let (broker, ledger) = connect::both(&cx.services).await?;
    let done = mend(cx, &broker, &ledger, &survey, asked.discard).await?;
    tell(cx.output, place, &survey, asked, done, out)
}

async fn mend(
    cx: &Context,
    broker: &dyn Broker,
    ledger: &dyn Ledger,
    survey: &Survey,
    discard: bool,
) -> Result<Repaired, Stop> {
    let ctx = Enlisting {
        spec: &survey.audit.spec,
        stores: &cx.stores,
        broker,
        ledger,
        window: PUBLISH_WINDOW,
        ready: Ready::DEFAULT,
    };
    let mut shown = progress::Enlisting::new();
    let done = repair(ctx, survey, discard, &mut |planned| shown.show(planned), &cx.shutdown.draining).await;
    shown.end();
    done.map_err(|error| crate::follow::with_signal(cx, error.into()))
}

/// Prints what was done, or would be; the exit code says whether bad parts are left.
fn tell(
    output: OutputFormat,
    place: &Location,
    survey: &Survey,
    asked: Asked,
    done: Repaired,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    let bad_left = survey.bad.len() as u64 - done.discarded.min(survey.bad.len() as u64);
    let bad_left = if asked.discard { done.changed_meanwhile } else { bad_left };
    let stray = survey.findings.count(Kind::Stray);
    let ok = bad_left == 0 && stray == 0;
    match output {
        OutputFormat::Json => {
            let bad = &survey.bad[..survey.bad.len().min(verify::FINDINGS_IN_JSON)];
            report::print_json(
                out,
                &Document {
                    version: 1,
                    job: &survey.audit.spec.job,
                    out: place.to_string(),
                    dry_run: asked.dry_run,
                    ok,
                    complete: done.complete && ok,
                    cancelled: done.held == Some(Hold::Cancelled),
                    paused: done.held == Some(Hold::Paused),
                    success_removed: done.success_removed,
                    plan_ended: done.plan_ended,
                    enqueued: done.enqueued,
                    finish_requested: done.finish_requested,
                    discarded: done.discarded,
                    changed_meanwhile: done.changed_meanwhile,
                    bad_left,
                    bad,
                    stray,
                },
            )?;
        }
        OutputFormat::Text => {
            writeln!(out, "job      {}", survey.audit.spec.job)?;
            for line in sentences(survey, asked, &done) {
                writeln!(out, "{}{line}", if asked.dry_run { "would    " } else { "did      " })?;
            }
            if !ok {
                say_what_is_left(place, survey, asked, stray, out)?;
            }
        }
    }
    Ok(if ok { exit::OK } else { exit::FAILED })
}

/// What was done, a line each.
fn sentences(survey: &Survey, asked: Asked, done: &Repaired) -> Vec<String> {
    let mut lines = Vec::new();
    if done.success_removed {
        lines.push("remove _SUCCESS and the manifest".to_owned());
    }
    if done.discarded > 0 {
        lines.push(format!("remove {}", text::counted(done.discarded, "bad object", "bad objects")));
    }
    lines.push("fill the ledger anew from the output".to_owned());
    if done.plan_ended || (asked.dry_run && !survey.audit.plan_done && done.held.is_none()) {
        lines.push("list the rest of the sources and end the plan".to_owned());
    }
    if done.enqueued > 0 {
        lines.push(format!(
            "enqueue {} without a part (one that was still queued is there twice now, which is harmless)",
            text::counted(done.enqueued, "batch", "batches")
        ));
    }
    if done.finish_requested {
        lines.push("ask the workers to finish the job".to_owned());
    }
    match done.held {
        Some(Hold::Cancelled) => lines.push(
            "enqueue nothing: the job is cancelled, its `trawl submit` command takes it up again".to_owned(),
        ),
        Some(Hold::Paused) => {
            lines.push(format!(
                "enqueue nothing: the job is paused, `trawl resume {}`",
                survey.audit.spec.job
            ));
        }
        None if done.complete => lines.push("enqueue nothing: the job is complete".to_owned()),
        None => {}
    }
    lines
}

fn say_what_is_left(
    place: &Location,
    survey: &Survey,
    asked: Asked,
    stray: u64,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    if !asked.discard && !survey.bad.is_empty() {
        verify::print_findings(place, &survey.findings, out)?;
        eprintln!(
            "hint: look at them, then `trawl repair {place} --discard` removes {} and enqueues what they stood for",
            text::counted(survey.bad.len() as u64, "object", "objects")
        );
    } else if stray > 0 {
        for finding in survey.findings.first(Kind::Stray) {
            writeln!(out, "left     {}", verify::line(finding))?;
        }
        eprintln!("hint: {}", Kind::Stray.remedy().replace("OUT", &place.to_string()));
    } else {
        eprintln!("hint: some objects changed while this ran; look again with `trawl verify {place}`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use trawl_common::{batch::BatchNumber, broker::memory::MemoryBroker, ledger::memory::MemoryLedger};

    async fn repaired(cx: &Context, asked: Asked) -> (u8, serde_json::Value) {
        let place = fixture::place();
        let (store, layout) = (cx.stores.open(&place).await, OutputLayout::new(place.clone()));
        let survey = Survey::of(&*store, &layout, asked.depth, 100).await.unwrap();
        let done =
            mend(cx, &MemoryBroker::new(), &MemoryLedger::new(), &survey, asked.discard).await.unwrap();
        let mut out = Vec::new();
        let code = tell(OutputFormat::Json, &place, &survey, asked, done, &mut out).unwrap();
        (code, serde_json::from_slice(&out).unwrap())
    }

    #[tokio::test]
    async fn bad_parts_are_kept_and_said_until_they_may_be_discarded() {
        let cx = fixture::context(fixture::output(3, true).await);
        let (store, layout) = (cx.stores.open(&fixture::place()).await, OutputLayout::new(fixture::place()));
        store.put(&layout.part(BatchNumber(1)), "broken".into()).await.unwrap();
        let asked = Asked { discard: false, depth: Depth::Footers, dry_run: false };
        let mut said = Vec::new();
        let code = run(&cx, &fixture::place(), Asked { dry_run: true, ..asked }, &mut said).await.unwrap();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(code, exit::FAILED);
        assert!(said.contains("would") && said.contains("cannot be read: 1"), "{said}");

        let (code, json) = repaired(&cx, asked).await;
        assert_eq!((code, &json["bad_left"], &json["enqueued"]), (exit::FAILED, &1.into(), &0.into()));
        assert_eq!(json["bad"][0]["kind"], "unreadable");
        let (code, json) = repaired(&cx, Asked { discard: true, ..asked }).await;
        assert_eq!((code, &json["discarded"], &json["enqueued"]), (exit::OK, &1.into(), &1.into()));
        assert_eq!((&json["success_removed"], &json["complete"]), (&true.into(), &false.into()));
        let (code, json) = repaired(&cx, asked).await;
        assert_eq!((code, &json["enqueued"], &json["bad_left"]), (exit::OK, &1.into(), &0.into()));
    }

    #[tokio::test]
    async fn a_complete_job_only_fills_the_ledger() {
        let cx = fixture::context(fixture::output(3, true).await);
        let asked = Asked { discard: true, depth: Depth::Keys, dry_run: false };
        let (code, json) = repaired(&cx, asked).await;
        assert_eq!((code, &json["complete"], &json["enqueued"]), (exit::OK, &true.into(), &0.into()));
    }
}
