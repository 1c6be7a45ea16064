//! Which parts go into one file. The same manifest and size give the same cut, so that a compaction can go on.
//!
//! Before anything is written. Parts are looked at one after the other and not kept: what is held is some bytes for each
//! new file.

use std::ops::Range;
use trawl_common::results::{
    manifest::ManifestPart,
    manifest_pieces::{ManifestParts, PieceError},
};

/// Rows of a file at most: their keys are held in memory while its plan is written.
const MAX_ROWS: u64 = 1 << 20;

/// Parts that become one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Their places in the manifest, which are the numbers of their batches.
    pub(super) parts: Range<u64>,
    /// Their rows.
    pub(super) rows: u64,
}

impl Group {
    /// How many parts.
    pub(super) fn batches(&self) -> u64 {
        self.parts.end - self.parts.start
    }
}

/// Parts in their order, until a file would be larger than `target` bytes; a part that is larger stays alone.
///
/// # Errors
/// If a piece of the manifest cannot be had.
pub(super) async fn groups(parts: &mut ManifestParts<'_>, target: u64) -> Result<Vec<Group>, PieceError> {
    let mut cut = Cut { target, place: 0, bytes: 0, groups: Vec::new() };
    for piece in 0..parts.pieces() {
        parts.piece(piece).await?.iter().for_each(|part| cut.push(part));
    }
    Ok(cut.groups)
}

/// The groups so far.
struct Cut {
    target: u64,
    /// Of the next part.
    place: u64,
    /// In the last group.
    bytes: u64,
    groups: Vec<Group>,
}

impl Cut {
    fn push(&mut self, part: &ManifestPart) {
        match self.groups.last_mut() {
            Some(group) if self.bytes + part.bytes <= self.target && group.rows + part.rows <= MAX_ROWS => {
                group.parts.end = self.place + 1;
                group.rows += part.rows;
                self.bytes += part.bytes;
            }
            _ => {
                self.groups.push(Group { parts: self.place..self.place + 1, rows: part.rows });
                self.bytes = part.bytes;
            }
        }
        self.place += 1;
    }
}
