//! Whether the manifest of a finished job says what its parts say.
//!
//! Read only when `_SUCCESS` is there: before that, a manifest is an unfinished step and nobody believes it. A manifest in
//! pieces is read piece by piece as the parts of each go by.

use super::finding::{Finding, Kind};
use crate::{
    batch::BatchNumber,
    disposition::describe,
    job::JobSpec,
    ledger::BatchOutcome,
    results::{
        Manifest, OutputLayout, PartFooter,
        manifest::MAX_MANIFEST_BYTES,
        manifest_pieces::{ManifestParts, PieceError},
    },
    storage::{ObjectMeta, Storage, StorageError},
};

/// The comparison while parts go by.
pub(super) struct ManifestCheck<'a> {
    key: String,
    parts: Option<ManifestParts<'a>>,
    finding: Option<Finding>,
}

impl<'a> ManifestCheck<'a> {
    /// Reads the manifest of the job, unless it is not finished.
    pub(super) async fn begin(
        store: &'a dyn Storage,
        layout: &'a OutputLayout,
        spec: &JobSpec,
        success: bool,
    ) -> Result<Self, StorageError> {
        let key = layout.manifest();
        let mut check = Self { key, parts: None, finding: None };
        if !success {
            return Ok(check);
        }
        match store.get(&check.key, MAX_MANIFEST_BYTES).await {
            Err(error) if error.is_not_found() => check.differs("it is not there"),
            Err(error) => return Err(error),
            Ok(object) => match Manifest::parse(&object.bytes) {
                Err(error) => check.differs(describe(&error)),
                Ok(manifest)
                    if manifest.job != spec.job || manifest.created_unix_ms != spec.created_unix_ms =>
                {
                    check.differs(format!("it is that of another job, {}", manifest.job));
                }
                Ok(manifest) => check.parts = Some(ManifestParts::new(store, layout, manifest)),
            },
        }
        Ok(check)
    }

    /// Only the first difference is kept: the rest follows from it, and the remedy is the same.
    fn differs(&mut self, detail: impl Into<String>) {
        self.finding.get_or_insert_with(|| Finding::of_object(Kind::BadManifest, &self.key, detail));
    }

    /// Compares one usable part.
    pub(super) async fn part(
        &mut self,
        batch: BatchNumber,
        object: &ObjectMeta,
        footer: &PartFooter,
    ) -> Result<(), StorageError> {
        let Some(parts) = self.parts.as_mut().filter(|_| self.finding.is_none()) else { return Ok(()) };
        let entry = match parts.part(batch).await {
            Ok(entry) => entry,
            Err(PieceError::Storage(error)) => return Err(error),
            Err(PieceError::Bad { key, reason }) => {
                self.finding = Some(Finding::of_object(Kind::BadManifest, key, reason));
                return Ok(());
            }
        };
        let same = entry.is_some_and(|entry| {
            (entry.batch, entry.rows, entry.failures, entry.bytes)
                == (batch, footer.rows, footer.failures, object.size)
                && object.key.ends_with(&entry.name)
        });
        if !same {
            self.differs(format!(
                "it does not list `{}` with {} rows, {} failures and {} bytes",
                object.key, footer.rows, footer.failures, object.size
            ));
        }
        Ok(())
    }

    /// Compares the sums; `parts` are the usable ones.
    pub(super) fn end(mut self, parts: u64, totals: &BatchOutcome) -> Option<Finding> {
        if let Some(manifest) = self.parts.as_ref().map(ManifestParts::manifest) {
            let (listed, rows) = (manifest.listed(), totals.images_ok + totals.images_failed);
            let sums = manifest.totals() == *totals && manifest.rows == rows && manifest.batches == parts;
            if listed != parts || !sums {
                let detail = format!(
                    "it lists {listed} parts with {} rows, {} of them failed; there are {parts} with {rows}, {} failed",
                    manifest.rows, manifest.images_failed, totals.images_failed
                );
                self.differs(detail);
            }
        }
        self.finding
    }
}
