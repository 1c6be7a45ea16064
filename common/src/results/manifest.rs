//! The manifest of a finished job: which parts there are and what they sum to.
//!
//! Written by `finalize` when the parts equal the plan, before `_SUCCESS`; read by `trawl verify`, by
//! `trawl status OUT` and by whatever the user builds on top. Never the truth: the parts are.

use super::{engine::Engine, part::PartFooter};
use crate::{
    batch::BatchNumber, error_code::ErrorCode, job::JobId, ledger::BatchOutcome, stages::StageTimes,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The version of [`Manifest`] that this build writes.
pub const MANIFEST_VERSION: u32 = 1;

/// Kinds of workers that a manifest names; a fleet has a handful.
const MAX_ENGINES: usize = 64;

/// One part of a finished job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestPart {
    /// The file's name below the output.
    pub name: String,
    /// Its batch.
    pub batch: BatchNumber,
    /// Rows in it.
    pub rows: u64,
    /// Rows with `status = error`.
    pub failures: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// `OUT/_trawl/manifest.json`. Fields that a later trawl adds are ignored by this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`].
    pub version: u32,
    /// The job.
    pub job: JobId,
    /// Batches, and as many parts.
    pub batches: u64,
    /// Rows in all parts.
    pub rows: u64,
    /// Rows with a prediction.
    pub images_ok: u64,
    /// Rows without.
    pub images_failed: u64,
    /// Failed images by code.
    pub errors: BTreeMap<ErrorCode, u64>,
    /// Where the time went, as far as the parts know; empty in manifests that were written before this was.
    #[serde(default)]
    pub stages: StageTimes,
    /// Digest of the model.
    pub model_sha256: String,
    /// Digest of the settings that change pixels.
    pub preprocess_sha256: String,
    /// When the job was submitted, milliseconds since 1970.
    pub created_unix_ms: u64,
    /// When the manifest was written, milliseconds since 1970.
    pub finished_unix_ms: u64,
    /// What ran the model: one entry for each kind of worker; empty in manifests that were written before this was.
    #[serde(default)]
    pub engines: BTreeSet<Engine>,
    /// The trawl that wrote the manifest.
    pub trawl: String,
    /// The parts, by batch.
    pub parts: Vec<ManifestPart>,
}

/// A manifest that this build cannot read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of this shape.
    #[error("the manifest is not readable")]
    Json(#[from] serde_json::Error),
    /// Written by a later trawl.
    #[error("the manifest has version {found}, this trawl reads {MANIFEST_VERSION}: update trawl")]
    Version {
        /// The version found.
        found: u64,
    },
}

impl Manifest {
    /// Adds a part and its counts to the sums.
    pub fn push(&mut self, name: String, bytes: u64, footer: &PartFooter) {
        let outcome = footer.outcome();
        self.batches += 1;
        self.rows += footer.rows;
        self.images_ok += outcome.images_ok;
        self.images_failed += outcome.images_failed;
        for (code, n) in outcome.errors {
            *self.errors.entry(code).or_default() += n;
        }
        self.stages.add(&outcome.stages);
        if self.engines.len() < MAX_ENGINES || self.engines.contains(&footer.engine) {
            self.engines.insert(footer.engine.clone());
        }
        let (batch, rows, failures) = (footer.batch, footer.rows, footer.failures);
        self.parts.push(ManifestPart { name, batch, rows, failures, bytes });
    }

    /// What all parts add up to.
    pub fn totals(&self) -> BatchOutcome {
        let (images_ok, images_failed) = (self.images_ok, self.images_failed);
        BatchOutcome { images_ok, images_failed, errors: self.errors.clone(), stages: self.stages.clone() }
    }

    /// The file's bytes.
    pub fn to_json(&self) -> Bytes {
        let mut json = serde_json::to_vec_pretty(self).expect("a manifest is plain data");
        json.push(b'\n');
        json.into()
    }

    /// Reads `manifest.json`.
    ///
    /// # Errors
    /// [`ManifestError`] if it is not JSON of a version that this build knows.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Head {
            version: u64,
        }
        let found = serde_json::from_slice::<Head>(json)?.version;
        if found != u64::from(MANIFEST_VERSION) {
            return Err(ManifestError::Version { found });
        }
        Ok(serde_json::from_slice(json)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_sums_its_parts_and_round_trips() {
        let mut manifest = Manifest {
            version: MANIFEST_VERSION,
            job: "j".parse().unwrap(),
            batches: 0,
            rows: 0,
            images_ok: 0,
            images_failed: 0,
            errors: BTreeMap::new(),
            stages: Default::default(),
            model_sha256: "m".into(),
            preprocess_sha256: "p".into(),
            created_unix_ms: 1,
            finished_unix_ms: 2,
            engines: Default::default(),
            trawl: "0.1.0".into(),
            parts: Vec::new(),
        };
        for batch in 0..2 {
            let footer = PartFooter {
                job: "j".parse().unwrap(),
                created_unix_ms: std::num::NonZeroU64::new(7),
                batch: BatchNumber(batch),
                rows: 5,
                failures: 2,
                errors: [(ErrorCode::Corrupt, 2)].into(),
                model_sha256: "m".into(),
                preprocess_sha256: "p".into(),
                version: "0.1.0".into(),
                attempt_id: "a".into(),
                worker: "w".into(),
                stages: Default::default(),
                engine: Default::default(),
            };
            manifest.push(format!("part-{}.parquet", footer.batch), 100, &footer);
        }
        assert_eq!((manifest.batches, manifest.rows), (2, 10));
        assert_eq!((manifest.images_ok, manifest.images_failed), (6, 4));
        assert_eq!(manifest.errors[&ErrorCode::Corrupt], 4);
        assert_eq!(Manifest::parse(&manifest.to_json()).unwrap(), manifest);
    }

    #[test]
    fn a_later_version_is_named() {
        let error = Manifest::parse(b"{\"version\": 9, \"anything\": true}").unwrap_err();
        assert!(matches!(error, ManifestError::Version { found: 9 }));
    }
}
