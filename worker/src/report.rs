//! What a run says at its end: rows, failures, speed, and which stage bound it.
//!
//! Made from the meters and the ledger's counters; printed by `run` to stdout, as text or, if asked, as
//! one JSON document.

use crate::pipeline::meters::{Meters, Stage};
use serde_json::{Value, json};
use std::{fmt::Write, time::Duration};
use trawl_common::{config::OutputFormat, ledger::Progress, planning::DryRun, telemetry::printable};

/// Prints what a run would take.
pub fn print_dry_run(found: &DryRun, output: OutputFormat) {
    if output == OutputFormat::Json {
        println!("{}", serde_json::to_string(found).expect("plain data"));
        return;
    }
    println!("{} images, {} bytes, {} batches", found.images, found.bytes, found.batches);
    for (extension, count) in &found.by_extension {
        println!("  {count:>8} {}", printable(extension));
    }
    for line in found.size_histogram.lines() {
        println!("  {line}");
    }
    println!("left out: {}, names that cannot be used: {}", found.skipped, found.unlistable);
    for key in &found.first_keys {
        println!("  {}", printable(key));
    }
}

/// Images a second, with no more digits than it deserves.
pub fn rate(images_per_second: f64) -> String {
    if images_per_second < 100.0 {
        format!("{images_per_second:.1}")
    } else {
        format!("{images_per_second:.0}")
    }
}

/// The end-of-run report.
pub struct Report<'a> {
    /// The job's counters.
    pub progress: &'a Progress,
    /// This process' clock.
    pub meters: &'a Meters,
    /// From the start of the command.
    pub elapsed: Duration,
    /// Rows that this run computed (the others were there before).
    pub computed: u64,
    /// Of the time, from the first batch on: without the start and the loading of the model.
    pub working: Duration,
    /// Compute threads.
    pub threads: usize,
}

impl Report<'_> {
    /// Images that this run computed, a second.
    pub fn rate(&self) -> f64 {
        self.computed as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// For people.
    pub fn text(&self) -> String {
        let p = self.progress;
        let mut text = format!(
            "{} images: {} ok, {} failed, in {:.2} s ({:.1} images/s)\n",
            p.images_ok + p.images_failed,
            p.images_ok,
            p.images_failed,
            self.elapsed.as_secs_f64(),
            self.rate()
        );
        for (code, count) in &p.errors {
            let _infallible = writeln!(text, "  {count:>8} {code}");
        }
        if self.computed > 0 {
            let stages: Vec<String> =
                self.stages().map(|(stage, ms, _)| format!("{} {ms:.2}", stage.name())).collect();
            let _infallible = writeln!(text, "ms an image by stage: {}", stages.join(", "));
            if let Some(ceilings) = self.meters.ceilings() {
                let _infallible = writeln!(text, "{}", ceilings.text());
            }
        }
        let _infallible = writeln!(text, "results: {}", printable(&p.out));
        text
    }

    /// For programs; the keys of `status`, and what only a run knows.
    pub fn json(&self) -> Value {
        let mut value = serde_json::to_value(self.progress).expect("plain data");
        if let Some(fields) = value.as_object_mut() {
            let stages = self
                .stages()
                .map(|(stage, ms, count)| {
                    (stage.name().to_owned(), json!({"ms_per_image": ms, "count": count}))
                })
                .collect();
            fields.insert("images_computed".into(), json!(self.computed));
            fields.insert("seconds".into(), json!(self.elapsed.as_secs_f64()));
            fields.insert("working_seconds".into(), json!(self.working.as_secs_f64()));
            fields.insert("images_per_second".into(), json!(self.rate()));
            fields.insert("ceilings".into(), self.meters.ceilings().map_or(Value::Null, |c| c.json()));
            fields.insert("eta_seconds".into(), Value::Null);
            fields.insert("threads".into(), json!(self.threads));
            fields.insert("stages".into(), Value::Object(stages));
        }
        value
    }

    /// Each stage with its milliseconds an image, summed over threads, and its count.
    fn stages(&self) -> impl Iterator<Item = (Stage, f64, u64)> {
        Stage::ALL.into_iter().map(|stage| {
            let total = self.meters.total(stage);
            (stage, total.busy.as_secs_f64() * 1e3 / self.computed.max(1) as f64, total.count)
        })
    }
}
