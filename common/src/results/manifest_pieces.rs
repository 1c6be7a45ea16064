//! The parts of a huge job's manifest, in pieces beside it: written in order, read one at a time.
//!
//! `finalize` writes them before the manifest that names them, `trawl verify`, `trawl compact` and the monitor read them.
//! A manifest of four million parts has half a gigabyte; whoever wants its sums reads some kilobytes, and whoever wants its
//! parts holds a piece or two. Pieces say nothing that the parts do not say, and no time or worker is in them, so that two
//! workers that finish a job at once write the same. It must never hold all parts of a manifest that has pieces.

use super::{
    OutputLayout, PartFooter,
    manifest::{Manifest, ManifestPart, PIECES_VERSION, PieceSums},
};
use crate::{
    batch::BatchNumber,
    disposition::describe,
    job::JobId,
    offload::offload,
    storage::{Storage, StorageError},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Parts of a piece; a job of no more has its parts in the manifest, as before there were pieces. Some megabytes: one
/// request each, and a thousand pieces are a job of 10^10 images.
pub const PARTS_A_PIECE: u64 = 65_536;

/// A piece of more bytes is none: ours have about 6 MB.
const MAX_PIECE_BYTES: u64 = 64 << 20;

/// Pieces held by a reader. Two, because names of more than eight digits sort between those of eight: parts that are
/// asked for as they are listed come from two pieces in turn.
const HELD: usize = 2;

/// `OUT/_trawl/manifest/00000000.json`. Fields that a later trawl adds are ignored by this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestPiece {
    /// [`PIECES_VERSION`].
    pub version: u32,
    /// The job.
    pub job: JobId,
    /// When the job was submitted, milliseconds since 1970.
    pub created_unix_ms: u64,
    /// The batch of its first part.
    pub first_batch: BatchNumber,
    /// The batch of its last.
    pub last_batch: BatchNumber,
    /// The parts, by batch.
    pub parts: Vec<ManifestPart>,
}

/// A piece that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PieceError {
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// It is not there, torn, or not what the manifest says.
    #[error("`{key}`, a piece of the manifest, is not usable: {reason}; `trawl repair` has it written again")]
    Bad {
        /// The piece.
        key: String,
        /// Why not.
        reason: String,
    },
}

impl PieceError {
    /// Whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Storage(error) if error.is_transient())
    }
}

impl ManifestPiece {
    /// The file's bytes: on one line, because nobody looks at tens of thousands of parts.
    fn to_json(&self) -> Bytes {
        let mut json = serde_json::to_vec(self).expect("a piece is plain data");
        json.push(b'\n');
        json.into()
    }

    /// Reads a piece that `manifest` names as `sums`; in words why it is not that one.
    fn parse(json: &[u8], job: &JobId, created_unix_ms: u64, sums: &PieceSums) -> Result<Self, String> {
        let piece: Self = serde_json::from_slice(json).map_err(|error| describe(&error))?;
        if piece.version != PIECES_VERSION {
            return Err(format!("it has version {}, this trawl reads {PIECES_VERSION}", piece.version));
        }
        if (&piece.job, piece.created_unix_ms) != (job, created_unix_ms) {
            return Err(format!("it is that of another job, {}", piece.job));
        }
        let first = sums.first_batch.0;
        let in_order = (first..).zip(&piece.parts).all(|(batch, part)| part.batch.0 == batch);
        let last = piece.parts.last().map(|part| part.batch);
        let found = sums_of(sums.name.clone(), piece.first_batch, &piece.parts);
        if !in_order || last != Some(piece.last_batch) || found != *sums {
            return Err(format!(
                "it lists {} parts from batch {} on with {} rows, {} of them failed, and {} bytes; the manifest says {} \
                 from {} on, {}, {} and {}",
                found.parts,
                found.first_batch,
                found.rows,
                found.failures,
                found.bytes,
                sums.parts,
                sums.first_batch,
                sums.rows,
                sums.failures,
                sums.bytes,
            ));
        }
        Ok(piece)
    }
}

/// What parts sum to. Foreign bytes may claim anything, so that nothing may overflow.
fn sums_of(name: String, first_batch: BatchNumber, parts: &[ManifestPart]) -> PieceSums {
    let sum = |of: fn(&ManifestPart) -> u64| parts.iter().map(of).fold(0, u64::saturating_add);
    PieceSums {
        name,
        first_batch,
        parts: parts.len() as u64,
        rows: sum(|part| part.rows),
        failures: sum(|part| part.failures),
        bytes: sum(|part| part.bytes),
    }
}

/// Makes a manifest of parts that come one after the other, and writes its pieces if there are many.
pub struct ManifestWriter<'a> {
    store: &'a dyn Storage,
    layout: &'a OutputLayout,
    manifest: Manifest,
    /// Parts of a piece; `None` if all go into the manifest.
    piece: Option<usize>,
    /// The parts of the piece that is begun.
    parts: Vec<ManifestPart>,
}

impl<'a> ManifestWriter<'a> {
    /// Begins with a `manifest` without parts, to which `parts` are to come; in pieces of `parts_a_piece` if those are
    /// fewer.
    pub fn new(
        store: &'a dyn Storage,
        layout: &'a OutputLayout,
        mut manifest: Manifest,
        parts: u64,
        parts_a_piece: u64,
    ) -> Self {
        let piece =
            (parts > parts_a_piece).then(|| usize::try_from(parts_a_piece).unwrap_or(usize::MAX).max(1));
        if piece.is_some() {
            manifest.version = PIECES_VERSION;
        }
        Self { store, layout, manifest, piece, parts: Vec::new() }
    }

    /// Adds the part of the next batch, and writes the piece that it fills. Not cancel safe: go on with a new writer.
    ///
    /// # Errors
    /// What the store gives.
    pub async fn push(&mut self, name: String, bytes: u64, footer: &PartFooter) -> Result<(), StorageError> {
        self.manifest.count(footer);
        self.take(ManifestPart::of(name, bytes, footer)).await
    }

    async fn take(&mut self, part: ManifestPart) -> Result<(), StorageError> {
        let Some(piece) = self.piece else {
            self.manifest.parts.push(part);
            return Ok(());
        };
        self.parts.push(part);
        if self.parts.len() >= piece { self.put_piece().await } else { Ok(()) }
    }

    /// Writes the rest and gives the manifest back, which is to be written now.
    ///
    /// # Errors
    /// What the store gives.
    pub async fn finish(mut self) -> Result<Manifest, StorageError> {
        if !self.parts.is_empty() {
            self.put_piece().await?;
        }
        Ok(self.manifest)
    }

    async fn put_piece(&mut self) -> Result<(), StorageError> {
        let parts = std::mem::take(&mut self.parts);
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(()) };
        let (first_batch, last_batch) = (first.batch, last.batch);
        let index = self.manifest.pieces.len();
        let name = OutputLayout::manifest_piece_name(index);
        self.manifest.pieces.push(sums_of(name, first_batch, &parts));
        let (job, created_unix_ms) = (self.manifest.job.clone(), self.manifest.created_unix_ms);
        let piece =
            ManifestPiece { version: PIECES_VERSION, job, created_unix_ms, first_batch, last_batch, parts };
        let json = offload(move || piece.to_json()).await;
        self.store.put(&self.layout.manifest_piece(index), json).await
    }
}

/// Cuts a manifest that lists its parts, for the tests of what reads pieces; gives the one back that names them.
///
/// # Errors
/// What the store gives.
#[cfg(any(test, feature = "testing"))]
pub async fn cut(
    store: &dyn Storage,
    layout: &OutputLayout,
    mut whole: Manifest,
    parts_a_piece: u64,
) -> Result<Manifest, StorageError> {
    let parts = std::mem::take(&mut whole.parts);
    let mut writer = ManifestWriter::new(store, layout, whole, parts.len() as u64, parts_a_piece);
    for part in parts {
        writer.take(part).await?;
    }
    writer.finish().await
}

/// The parts of a manifest, wherever they are listed.
pub struct ManifestParts<'a> {
    store: &'a dyn Storage,
    layout: &'a OutputLayout,
    manifest: Manifest,
    /// The pieces read last, the latest at the end.
    held: Vec<(usize, Vec<ManifestPart>)>,
}

impl<'a> ManifestParts<'a> {
    /// Nothing is read yet.
    pub fn new(store: &'a dyn Storage, layout: &'a OutputLayout, manifest: Manifest) -> Self {
        Self { store, layout, manifest, held: Vec::new() }
    }

    /// The manifest itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Into how many pieces the parts are cut; one if the manifest lists them itself.
    pub fn pieces(&self) -> usize {
        self.manifest.pieces.len().max(1)
    }

    /// The parts of a piece, by batch. Cancel safe.
    ///
    /// # Errors
    /// [`PieceError`]; also for a piece that there is not.
    pub async fn piece(&mut self, index: usize) -> Result<&[ManifestPart], PieceError> {
        if self.manifest.pieces.is_empty() && index == 0 {
            return Ok(&self.manifest.parts);
        }
        let at = match self.held.iter().position(|(held, _)| *held == index) {
            Some(at) => at,
            None => {
                let parts = self.read(index).await?;
                self.held.drain(..(self.held.len() + 1).saturating_sub(HELD));
                self.held.push((index, parts));
                self.held.len() - 1
            }
        };
        Ok(&self.held[at].1)
    }

    /// The entry of a batch; `None` if the manifest lists none. Cheap for batches in their order: each piece is read
    /// once. Cancel safe.
    ///
    /// # Errors
    /// [`PieceError`].
    pub async fn part(&mut self, batch: BatchNumber) -> Result<Option<&ManifestPart>, PieceError> {
        let pieces = &self.manifest.pieces;
        let (index, first) = match pieces.partition_point(|piece| piece.first_batch <= batch).checked_sub(1) {
            None if pieces.is_empty() => (0, 0),
            None => return Ok(None),
            Some(index) => (index, pieces[index].first_batch.0),
        };
        if pieces.get(index).is_some_and(|piece| batch.0 - first >= piece.parts) {
            return Ok(None);
        }
        let Ok(place) = usize::try_from(batch.0 - first) else { return Ok(None) };
        Ok(self.piece(index).await?.get(place))
    }

    async fn read(&self, index: usize) -> Result<Vec<ManifestPart>, PieceError> {
        let key = self.layout.manifest_piece(index);
        let bad = |reason: String| PieceError::Bad { key: key.clone(), reason };
        let Some(sums) = self.manifest.pieces.get(index).cloned() else {
            return Err(bad("the manifest does not name it".to_owned()));
        };
        if sums.name != OutputLayout::manifest_piece_name(index) {
            return Err(bad(format!("the manifest names `{}` in its place", sums.name)));
        }
        let object = match self.store.get(&key, MAX_PIECE_BYTES).await {
            Ok(object) => object,
            Err(error) if error.is_not_found() => return Err(bad("it is not there".to_owned())),
            Err(error @ StorageError::TooLarge { .. }) => return Err(bad(describe(&error))),
            Err(error) => return Err(error.into()),
        };
        let (job, created) = (self.manifest.job.clone(), self.manifest.created_unix_ms);
        let piece = offload(move || ManifestPiece::parse(&object.bytes, &job, created, &sums)).await;
        Ok(piece.map_err(bad)?.parts)
    }
}

#[cfg(test)]
#[path = "manifest_pieces_tests.rs"]
mod tests;
