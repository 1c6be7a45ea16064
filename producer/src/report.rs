//! A job's standing, as a block of text or a JSON document.
//!
//! The counters come from the ledger or, without it, from the output itself; both end here, so that
//! `status`, `watch` and `submit --watch` say the same thing in the same words. The JSON keys are fixed:
//! scripts depend on them.

pub use trawl_common::summary::{errors, line};

use crate::text;
use serde::Serialize;
use std::io::{self, Write};
use trawl_common::{
    ledger::Progress,
    summary::{pace, planned},
};

/// Who counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Redis: quick, and with a rate.
    Ledger,
    /// The output's own files: exact, and there whatever became of the services.
    Output,
}

/// The dead letters of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Dead {
    /// So many; in JSON a number.
    Counted(u64),
    /// The broker was not to be asked; in JSON null.
    Unknown,
}

impl Dead {
    /// Their number, if it is known.
    pub fn count(self) -> Option<u64> {
        match self {
            Self::Counted(n) => Some(n),
            Self::Unknown => None,
        }
    }
}

/// What `status` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The counters.
    #[serde(flatten)]
    pub progress: Progress,
    /// Who counted them.
    pub counted_from: Source,
    /// The job's dead letters, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<Dead>,
}

impl Report {
    /// A report of the ledger's counters.
    pub fn of_ledger(progress: Progress) -> Self {
        Self { progress, counted_from: Source::Ledger, dead_letters: None }
    }

    /// One JSON document in one line.
    ///
    /// # Errors
    /// What the writer gives.
    pub fn json(&self, out: &mut dyn Write) -> io::Result<()> {
        print_json(out, self)
    }

    /// A block for people.
    ///
    /// # Errors
    /// What the writer gives.
    pub fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let p = &self.progress;
        let done = p.images_ok + p.images_failed;
        writeln!(out, "job      {}", p.job)?;
        writeln!(out, "state    {}", p.state.name())?;
        writeln!(out, "out      {}", text::printable(&p.out))?;
        writeln!(
            out,
            "images   {} {}  {} of {}",
            text::bar(done, p.images_planned),
            text::percent(done, p.images_planned),
            text::count(done),
            planned(p),
        )?;
        writeln!(out, "         {} ok, {} failed", text::count(p.images_ok), text::count(p.images_failed))?;
        writeln!(out, "batches  {} of {}", text::count(p.batches_done), text::count(p.batches_planned))?;
        if !p.errors.is_empty() {
            writeln!(out, "errors   {}", errors(p))?;
        }
        match self.dead_letters {
            None | Some(Dead::Counted(0)) => {}
            Some(Dead::Counted(n)) => writeln!(out, "dead     {}", text::counted(n, "letter", "letters"))?,
            Some(Dead::Unknown) => writeln!(out, "dead     unknown, RabbitMQ does not answer")?,
        }
        if let Some(pace) = pace(p) {
            writeln!(out, "rate     {pace}")?;
        }
        if let Some(stages) = stages(p) {
            writeln!(out, "stages   {stages}")?;
        }
        Ok(())
    }
}

/// Where the time goes, if that was measured.
fn stages(p: &Progress) -> Option<String> {
    let stages: Vec<String> = p.stages.iter().map(|(stage, ms)| format!("{stage} {ms:.2}")).collect();
    let binding = p.binding.map_or_else(String::new, |stage| format!("; {stage} binds"));
    (!stages.is_empty()).then(|| format!("{} ms an image{binding}", stages.join(", ")))
}

/// Prints one JSON document in one line.
///
/// # Errors
/// What the writer gives.
pub fn print_json(out: &mut dyn Write, document: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_string(document).map_err(io::Error::other)?;
    writeln!(out, "{json}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use trawl_common::{error_code::ErrorCode, ledger::JobState, stages::Stage};

    pub(crate) fn progress(state: JobState) -> Progress {
        Progress {
            job: "job-1".parse().unwrap(),
            state,
            out: "s3://b/out".into(),
            queue: "default".into(),
            created_unix_ms: 1_700_000_000_000,
            images_planned: 1000,
            images_ok: 490,
            images_failed: 10,
            batches_planned: 4,
            batches_done: 2,
            errors: [(ErrorCode::Truncated, 3), (ErrorCode::NotAnImage, 7)].into(),
            images_per_second: 50.0,
            eta_seconds: Some(10.0),
            stages: [(Stage::Decode, 1.5), (Stage::Forward, 12.25)].into(),
            binding: Some(Stage::Forward),
        }
    }

    #[test]
    fn the_json_keys_are_those_that_scripts_read() {
        let mut out = Vec::new();
        Report::of_ledger(progress(JobState::Running)).json(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 1);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let expected = serde_json::json!({
            "job": "job-1", "state": "running", "out": "s3://b/out", "queue": "default",
            "created_unix_ms": 1_700_000_000_000_u64, "images_planned": 1000, "images_ok": 490, "images_failed": 10,
            "batches_planned": 4, "batches_done": 2, "errors": {"truncated": 3, "not_an_image": 7},
            "images_per_second": 50.0, "eta_seconds": 10.0, "stages": {"decode": 1.5, "forward": 12.25}, "binding": "forward",
            "counted_from": "ledger",
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn the_block_says_it_all() {
        let mut out = Vec::new();
        Report::of_ledger(progress(JobState::Running)).text(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        for part in [
            "job-1",
            "running",
            "50 %  500 of 1,000 images",
            "490 ok, 10 failed",
            "2 of 4",
            "50 images/s, 10s left",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(text.contains("errors   not_an_image 7, truncated 3"), "{text}");
        assert!(text.contains("stages   decode 1.50, forward 12.25 ms an image; forward binds"), "{text}");
    }

    #[test]
    fn dead_letters_are_told_where_somebody_asked_for_them() {
        let told = |dead_letters| {
            let report = Report { dead_letters, ..Report::of_ledger(progress(JobState::Running)) };
            let (mut text, mut json) = (Vec::new(), Vec::new());
            report.text(&mut text).unwrap();
            report.json(&mut json).unwrap();
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            (String::from_utf8(text).unwrap(), json.get("dead_letters").cloned())
        };
        assert_eq!(told(None).1, None);
        assert_eq!(told(Some(Dead::Counted(0))).1, Some(0.into()));
        let (text, json) = told(Some(Dead::Counted(2)));
        assert!(text.contains("dead     2 letters") && json == Some(2.into()), "{text}");
        let (text, json) = told(Some(Dead::Unknown));
        assert!(text.contains("dead     unknown") && json == Some(serde_json::Value::Null), "{text}");
    }
}
