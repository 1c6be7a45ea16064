//! Which parts go into one file. The same manifest and size give the same cut, so that a compaction can go on.

use std::ops::Range;
use trawl_common::results::Manifest;

/// Rows of a file at most: their keys are held in memory while its plan is written.
const MAX_ROWS: u64 = 1 << 20;

/// Parts that become one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Their places in the manifest, which are the numbers of their batches.
    pub(super) parts: Range<usize>,
    /// Their rows.
    pub(super) rows: u64,
}

impl Group {
    /// How many parts.
    pub(super) fn batches(&self) -> usize {
        self.parts.len()
    }
}

/// Parts in their order, until a file would be larger than `target` bytes; a part that is larger stays alone.
pub(super) fn groups(manifest: &Manifest, target: u64) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut bytes = 0_u64;
    for (place, part) in manifest.parts.iter().enumerate() {
        match groups.last_mut() {
            Some(group) if bytes + part.bytes <= target && group.rows + part.rows <= MAX_ROWS => {
                group.parts.end = place + 1;
                group.rows += part.rows;
                bytes += part.bytes;
            }
            _ => {
                groups.push(Group { parts: place..place + 1, rows: part.rows });
                bytes = part.bytes;
            }
        }
    }
    groups
}
