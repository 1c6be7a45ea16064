//! What `trawl verify` says: the counts, the first of each kind of finding, and the verdict.
//!
//! The names of the fields are fixed: scripts depend on them. Holds a bounded number of findings, however many
//! there are.

use super::{
    Audit, Depth,
    finding::{Finding, Kind},
};
use crate::planning::cancellation::Hold;
use crate::{error_code::ErrorCode, job::JobId};
use serde::Serialize;
use std::collections::BTreeMap;

/// The version of [`Report`] that this build writes.
pub const REPORT_VERSION: u32 = 1;

/// In one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every planned image has its row once, and nothing else is there.
    Complete,
    /// Nothing is wrong with what is there; there is work left.
    Incomplete,
    /// Something is wrong with what is there.
    Damaged,
}

/// Findings counted by kind, with the first of each.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    limit: usize,
    counts: BTreeMap<Kind, u64>,
    first: BTreeMap<Kind, Vec<Finding>>,
}

impl Findings {
    /// Keeps at most `limit` findings of each kind.
    pub fn keeping(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Takes one.
    pub fn push(&mut self, finding: Finding) {
        *self.counts.entry(finding.kind).or_default() += 1;
        let first = self.first.entry(finding.kind).or_default();
        if first.len() < self.limit {
            first.push(finding);
        }
    }

    /// How many there are of a kind.
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    /// The first of a kind.
    pub fn first(&self, kind: Kind) -> &[Finding] {
        self.first.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// The kinds that were found.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.counts.keys().copied()
    }

    /// What they say together about a job with or without `_SUCCESS`.
    pub fn verdict(&self, success: bool) -> Verdict {
        let damaged = |kind: Kind| !kind.is_unfinished() || success;
        match self.counts.is_empty() {
            true => Verdict::Complete,
            false if self.kinds().any(damaged) => Verdict::Damaged,
            false => Verdict::Incomplete,
        }
    }
}

/// The document of `trawl verify --output json`.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// [`REPORT_VERSION`].
    pub version: u32,
    /// The job.
    pub job: JobId,
    /// Its output.
    pub out: String,
    /// In one word.
    pub verdict: Verdict,
    /// Whether the verdict is [`Verdict::Complete`].
    pub complete: bool,
    /// Whether the job was given up.
    pub cancelled: bool,
    /// Whether it is held back for now.
    pub paused: bool,
    /// Whether rows were compared, or footers alone.
    pub deep: bool,
    /// Whether `_SUCCESS` is there.
    pub success: bool,
    /// Whether the plan is at its end.
    pub plan_done: bool,
    /// Batches planned.
    pub batches_planned: u64,
    /// Images planned.
    pub images_planned: u64,
    /// Parts that are what they should be.
    pub parts: u64,
    /// Rows in them.
    pub rows: u64,
    /// Rows with a prediction.
    pub images_ok: u64,
    /// Rows without.
    pub images_failed: u64,
    /// Failed images by code.
    pub errors: BTreeMap<ErrorCode, u64>,
    /// Every kind of finding with how many there are; kinds with none are 0.
    pub counts: BTreeMap<&'static str, u64>,
    /// The first of each kind.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Sums up.
    pub fn new(audit: &Audit, findings: &Findings, depth: Depth) -> Self {
        let verdict = findings.verdict(audit.success);
        let (images_ok, images_failed) = (audit.totals.images_ok, audit.totals.images_failed);
        Self {
            version: REPORT_VERSION,
            job: audit.spec.job.clone(),
            out: audit.spec.out.clone(),
            verdict,
            complete: verdict == Verdict::Complete,
            cancelled: audit.held == Some(Hold::Cancelled),
            paused: audit.held == Some(Hold::Paused),
            deep: depth == Depth::Keys,
            success: audit.success,
            plan_done: audit.plan_done,
            batches_planned: audit.batches_planned,
            images_planned: audit.images_planned,
            parts: audit.parts,
            rows: images_ok + images_failed,
            images_ok,
            images_failed,
            errors: audit.totals.errors.clone(),
            counts: Kind::ALL.iter().map(|kind| (kind.as_str(), findings.count(*kind))).collect(),
            findings: Kind::ALL.iter().flat_map(|kind| findings.first(*kind).to_vec()).collect(),
        }
    }
}
