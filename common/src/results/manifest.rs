//! The manifest of a finished job: which parts there are and what they sum to.
//!
//! Written by `finalize` when the parts equal the plan, before `_SUCCESS`; read by `trawl verify`, by
//! `trawl status OUT` and by whatever the user builds on top. Never the truth: the parts are.
//!
//! The parts of a small job are in the manifest itself. Those of a huge one are in pieces beside it
//! (`manifest_pieces`), and the manifest has their sums: it must never grow with the parts of such a job.

use super::{engine::Engine, part::PartFooter};
use crate::{
    batch::BatchNumber, error_code::ErrorCode, job::JobId, ledger::BatchOutcome, stages::StageTimes,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The version of a [`Manifest`] that lists its parts itself.
pub const MANIFEST_VERSION: u32 = 1;

/// The version of a [`Manifest`] whose parts are in pieces, and of the pieces: a trawl that knows of no pieces must
/// not take such a manifest for one of a job without parts.
pub const PIECES_VERSION: u32 = 2;

/// A manifest of more bytes is none. Those with pieces have some kilobytes; older ones have about 140 bytes a part,
/// and ten million parts fit.
pub const MAX_MANIFEST_BYTES: u64 = 2 << 30;

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

impl ManifestPart {
    /// The entry of a part.
    pub(super) fn of(name: String, bytes: u64, footer: &PartFooter) -> Self {
        Self { name, batch: footer.batch, rows: footer.rows, failures: footer.failures, bytes }
    }
}

/// What the manifest says of one of its pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceSums {
    /// The file's name below the output.
    pub name: String,
    /// The batch of its first part; the others follow without a gap.
    pub first_batch: BatchNumber,
    /// Parts that it lists.
    pub parts: u64,
    /// Rows in them.
    pub rows: u64,
    /// Rows with `status = error`.
    pub failures: u64,
    /// Bytes of these parts.
    pub bytes: u64,
}

/// `OUT/_trawl/manifest.json`. Fields that a later trawl adds are ignored by this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MANIFEST_VERSION`], or [`PIECES_VERSION`] if it has pieces.
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
    /// The parts, by batch; empty if they are in pieces.
    pub parts: Vec<ManifestPart>,
    /// Where the parts are listed if not here, by batch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pieces: Vec<PieceSums>,
}

/// A manifest that this build cannot read.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of this shape.
    #[error("the manifest is not readable")]
    Json(#[from] serde_json::Error),
    /// Written by a later trawl.
    #[error("the manifest has version {found}, this trawl reads up to {PIECES_VERSION}: update trawl")]
    Version {
        /// The version found.
        found: u64,
    },
}

impl Manifest {
    /// Adds a part and its counts to the sums.
    pub fn push(&mut self, name: String, bytes: u64, footer: &PartFooter) {
        self.count(footer);
        self.parts.push(ManifestPart::of(name, bytes, footer));
    }

    /// Adds a part's counts to the sums, and not the part.
    pub(super) fn count(&mut self, footer: &PartFooter) {
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
    }

    /// Parts that are listed, here or in pieces; as many as batches, unless the manifest is wrong.
    pub fn listed(&self) -> u64 {
        let in_pieces = self.pieces.iter().fold(0, |sum: u64, piece| sum.saturating_add(piece.parts));
        in_pieces.saturating_add(self.parts.len() as u64)
    }

    /// Bytes of the parts that are listed.
    pub fn bytes(&self) -> u64 {
        let sizes =
            self.pieces.iter().map(|piece| piece.bytes).chain(self.parts.iter().map(|part| part.bytes));
        sizes.fold(0, u64::saturating_add)
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
        if ![MANIFEST_VERSION, PIECES_VERSION].map(u64::from).contains(&found) {
            return Err(ManifestError::Version { found });
        }
        Ok(serde_json::from_slice(json)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_parts() -> Manifest {
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
            pieces: Vec::new(),
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
        manifest
    }

    #[test]
    fn a_manifest_sums_its_parts_and_round_trips() {
        let manifest = two_parts();
        assert_eq!((manifest.batches, manifest.rows), (2, 10));
        assert_eq!((manifest.images_ok, manifest.images_failed), (6, 4));
        assert_eq!(manifest.errors[&ErrorCode::Corrupt], 4);
        assert_eq!((manifest.listed(), manifest.bytes()), (2, 200));
        assert_eq!(Manifest::parse(&manifest.to_json()).unwrap(), manifest);
    }

    #[test]
    fn a_small_manifest_is_to_the_byte_what_it_was_before_there_were_pieces() {
        let json = two_parts().to_json();
        assert_eq!(std::str::from_utf8(&json).unwrap(), GOLDEN);
        assert_eq!(Manifest::parse(GOLDEN.as_bytes()).unwrap(), two_parts());
    }

    #[test]
    fn a_later_version_is_named() {
        let error = Manifest::parse(b"{\"version\": 9, \"anything\": true}").unwrap_err();
        assert!(matches!(error, ManifestError::Version { found: 9 }));
        assert!(error.to_string().ends_with("update trawl"), "{error}");
    }

    /// Written by a trawl that had no pieces.
    const GOLDEN: &str = r#"{
  "version": 1,
  "job": "j",
  "batches": 2,
  "rows": 10,
  "images_ok": 6,
  "images_failed": 4,
  "errors": {
    "corrupt": 4
  },
  "stages": {
    "us": {},
    "binding": {}
  },
  "model_sha256": "m",
  "preprocess_sha256": "p",
  "created_unix_ms": 1,
  "finished_unix_ms": 2,
  "engines": [
    {
      "trawl": "",
      "torch": "",
      "device": "",
      "precision": ""
    }
  ],
  "trawl": "0.1.0",
  "parts": [
    {
      "name": "part-00000000.parquet",
      "batch": 0,
      "rows": 5,
      "failures": 2,
      "bytes": 100
    },
    {
      "name": "part-00000001.parquet",
      "batch": 1,
      "rows": 5,
      "failures": 2,
      "bytes": 100
    }
  ]
}
"#;
}
