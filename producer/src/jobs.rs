//! `trawl jobs`: the jobs that the ledger knows, the newest first.

use crate::{
    errors::Stop,
    report::Report,
    table::{Align, Table},
    text,
};
use std::io::Write;
use trawl_common::{
    config::OutputFormat,
    ledger::{Ledger, Progress},
};

/// Prints the newest `limit` jobs; `now_unix_ms` is what ages count from.
///
/// # Errors
/// What the ledger or the writer gives.
pub async fn run(
    ledger: &dyn Ledger,
    limit: usize,
    output: OutputFormat,
    terminal_width: Option<usize>,
    now_unix_ms: u64,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    let jobs = ledger.jobs(limit).await?;
    match output {
        OutputFormat::Json => {
            for progress in jobs {
                Report::of_ledger(progress).json(out)?;
            }
        }
        OutputFormat::Text if jobs.is_empty() => {
            eprintln!("no jobs yet: `trawl submit` makes one");
        }
        OutputFormat::Text => {
            let columns = [
                ("OUT", Align::Left),
                ("JOB", Align::Left),
                ("STATE", Align::Left),
                ("DONE", Align::Right),
                ("IMAGES", Align::Right),
                ("FAILED", Align::Right),
                ("SUBMITTED", Align::Right),
            ];
            let rows: Vec<_> = jobs.iter().map(|p| row(p, now_unix_ms)).collect();
            Table::new(&columns, terminal_width).print(out, &rows)?;
        }
    }
    Ok(trawl_common::config::exit::OK)
}

fn row(p: &Progress, now_unix_ms: u64) -> Vec<String> {
    vec![
        p.out.clone(),
        p.job.to_string(),
        p.state.name().to_owned(),
        text::percent(p.images_ok + p.images_failed, p.images_planned),
        text::count(p.images_planned),
        text::count(p.images_failed),
        text::ago(p.created_unix_ms, now_unix_ms),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use trawl_common::ledger::{JobRecord, memory::MemoryLedger};

    async fn listed(output: OutputFormat, limit: usize) -> String {
        let ledger = MemoryLedger::default();
        for (job, created_unix_ms) in [("job-a", 1_000), ("job-b", 2_000)] {
            let record = JobRecord {
                job: job.parse().unwrap(),
                out: format!("s3://bucket/{job}"),
                queue: "default".into(),
                created_unix_ms,
            };
            ledger.open(&record).await.unwrap();
        }
        let mut out = Vec::new();
        assert_eq!(run(&ledger, limit, output, None, 62_000, &mut out).await.unwrap(), 0);
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn the_newest_comes_first() {
        let text = listed(OutputFormat::Text, 10).await;
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("OUT") && lines[1].contains("job-b") && lines[2].contains("job-a"),
            "{text}"
        );
        assert!(lines[1].contains("1m00s ago"), "{text}");
        let json = listed(OutputFormat::Json, 1).await;
        assert_eq!(json.lines().count(), 1);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["job"], "job-b");
    }
}
