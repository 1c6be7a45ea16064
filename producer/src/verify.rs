//! `trawl verify`: is an output what its plan says?
//!
//! Reads the bucket alone, so that it works with Redis and RabbitMQ gone, and writes nothing. The checks are
//! `trawl_common::audit`'s, the same that come before `_SUCCESS`; this file prints what they found.

use crate::{errors::Stop, report, text};
use std::{io::Write, sync::Arc};
use trawl_common::{
    audit::{
        Audit, Depth, audit,
        finding::{Finding, Kind},
        report::{Findings, Report, Verdict},
    },
    config::{OutputFormat, exit},
    location::Location,
    planning::cancellation::Hold,
    results::OutputLayout,
    storage::Stores,
};

/// Findings of each kind in the JSON document.
pub const FINDINGS_IN_JSON: usize = 100;

/// Findings of each kind on a screen.
const FINDINGS_SHOWN: usize = 10;

/// Verifies the output at `place`.
///
/// # Errors
/// Not found if it is no output, or what the store gives; findings are no error but the exit code 1.
pub async fn run(
    stores: &Arc<Stores>,
    place: &Location,
    depth: Depth,
    output: OutputFormat,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    let (store, layout) = (stores.open(place).await, OutputLayout::new(place.clone()));
    let mut findings = Findings::keeping(FINDINGS_IN_JSON);
    let audit = audit(&*store, &layout, depth, &mut |finding| findings.push(finding)).await?;
    let verdict = findings.verdict(audit.success);
    match output {
        OutputFormat::Json => report::print_json(out, &Report::new(&audit, &findings, depth))?,
        OutputFormat::Text => print(place, &audit, &findings, depth, out)?,
    }
    Ok(match verdict {
        Verdict::Complete => exit::OK,
        Verdict::Incomplete | Verdict::Damaged => exit::FAILED,
    })
}

fn print(
    place: &Location,
    audit: &Audit,
    findings: &Findings,
    depth: Depth,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    let verdict = match findings.verdict(audit.success) {
        Verdict::Complete => "complete: every planned image has its row once",
        Verdict::Incomplete => "incomplete: what is there is right, and there is work left",
        Verdict::Damaged => "damaged",
    };
    let depth = match depth {
        Depth::Footers => "footers compared; --deep compares every row's key",
        Depth::Keys => "footers and keys compared",
    };
    writeln!(out, "job      {}", audit.spec.job)?;
    writeln!(out, "out      {}", text::printable(&place.to_string()))?;
    writeln!(out, "verdict  {verdict} ({depth})")?;
    match audit.held {
        Some(Hold::Cancelled) => {
            writeln!(out, "         the job was cancelled; its `trawl submit` command takes it up again")?;
        }
        Some(Hold::Paused) => writeln!(out, "         the job is paused; `trawl resume` takes it up again")?,
        None => {}
    }
    writeln!(
        out,
        "parts    {} of {} good, with {}, {} of them failed",
        text::count(audit.parts),
        text::count(audit.batches_planned),
        text::counted(audit.totals.images_ok + audit.totals.images_failed, "row", "rows"),
        text::count(audit.totals.images_failed),
    )?;
    print_findings(place, findings, out)
}

/// Every kind that was found with its first objects and its next step.
///
/// # Errors
/// What the printer gives.
pub fn print_findings(place: &Location, findings: &Findings, out: &mut dyn Write) -> Result<(), Stop> {
    for kind in findings.kinds() {
        let n = findings.count(kind);
        writeln!(out, "\n{}: {}", kind.title(), text::count(n))?;
        let first = findings.first(kind).iter().take(FINDINGS_SHOWN);
        let shown = first.len() as u64;
        for finding in first {
            writeln!(out, "  {}", line(finding))?;
        }
        if n > shown {
            writeln!(out, "  and {} more", text::count(n - shown))?;
        }
        writeln!(out, "  -> {}", text::printable(&kind.remedy().replace("OUT", &place.to_string())))?;
    }
    Ok(())
}

/// One finding in one line.
pub fn line(finding: &Finding) -> String {
    let object = match (&finding.object, finding.batch, finding.kind) {
        (_, Some(batch), Kind::Missing) => return format!("batch {batch}"),
        (Some(object), ..) => format!("{object}: "),
        (None, ..) => String::new(),
    };
    text::printable(&format!("{object}{}", finding.detail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use trawl_common::batch::BatchNumber;

    async fn verified(stores: &Arc<Stores>, output: OutputFormat) -> (u8, String) {
        let mut out = Vec::new();
        let code = run(stores, &fixture::place(), Depth::Keys, output, &mut out).await.unwrap();
        (code, String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn a_complete_output_is_zero_and_anything_else_is_not() {
        let whole = fixture::output(3, true).await;
        let (code, text) = verified(&whole, OutputFormat::Text).await;
        assert_eq!(code, exit::OK, "{text}");
        assert!(text.contains("verdict  complete") && text.contains("3 of 3 good, with 9 rows, 4"), "{text}");
        let (code, text) = verified(&fixture::output(2, true).await, OutputFormat::Text).await;
        assert_eq!(code, exit::FAILED);
        for words in
            ["incomplete", "batch 00000002", "-> wait for the workers", "trawl repair s3://bucket/labels"]
        {
            assert!(text.contains(words), "`{words}` is not in {text}");
        }
        let (nowhere, mut out) = (Stores::in_memory(), Vec::new());
        let found = run(&nowhere, &fixture::place(), Depth::Footers, OutputFormat::Text, &mut out).await;
        assert_eq!(found.unwrap_err().code, exit::NOT_FOUND);
    }

    #[tokio::test]
    async fn the_document_has_the_names_that_scripts_read() {
        let stores = fixture::output(3, true).await;
        let (store, layout) = (stores.open(&fixture::place()).await, OutputLayout::new(fixture::place()));
        let copy = store.get(&layout.part(BatchNumber(0)), 1 << 20).await.unwrap().bytes;
        store.put("labels/copy.parquet", copy).await.unwrap();
        let (code, text) = verified(&stores, OutputFormat::Json).await;
        assert_eq!((code, text.lines().count()), (exit::FAILED, 1));
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["counts"]["duplicate"], 1);
        assert_eq!(json["counts"]["missing"], 0);
        json.as_object_mut().unwrap().remove("counts");
        let expected = serde_json::json!({
            "version": 1, "job": "job-1", "out": "s3://bucket/labels", "verdict": "damaged", "complete": false,
            "cancelled": false, "paused": false, "deep": true, "success": true, "plan_done": true,
            "batches_planned": 3, "images_planned": 9, "parts": 3, "rows": 9, "images_ok": 5, "images_failed": 4,
            "errors": {"truncated": 2, "corrupt": 2},
            "findings": [{
                "kind": "duplicate", "object": "labels/copy.parquet", "batch": 0,
                "detail": "its rows are those of batch 00000000",
            }],
        });
        assert_eq!(json, expected);
    }

    #[tokio::test]
    async fn no_name_in_a_bucket_steers_the_terminal() {
        let stores = fixture::output(3, true).await;
        stores.open(&fixture::place()).await.put("labels/x\u{1b}[2J.parquet", "x".into()).await.unwrap();
        let (_, text) = verified(&stores, OutputFormat::Text).await;
        assert!(!text.contains('\u{1b}') && text.contains("\\u{1b}"), "{text}");
    }
}
