//! The names of an output's objects.
//!
//! ```text
//! OUT/_trawl/job.json            the spec, create-only, before anything is published
//! OUT/_trawl/plan/00000.parquet  what was planned, streamed while listing
//! OUT/_trawl/plan/_DONE          the plan's end
//! OUT/part-00000042.parquet      one per batch, by ONE create-only put
//! OUT/_trawl/solo/00000042.json  while a batch is in work that may kill its worker
//! OUT/_trawl/manifest.json       written when the parts equal the plan
//! OUT/_trawl/manifest/00000000.json  the parts of a huge job, written before the manifest that names them
//! OUT/_SUCCESS                   last of all
//! OUT/_trawl/compacted.json      in an output that was made of another by `trawl compact`
//! OUT/_trawl/_CANCELLED          the job was given up; removed when it is submitted again
//! ```
//! Names come from numbers alone: no worker, attempt or time may enter them, or a redelivery would write
//! a second part. A name is compared by its number and never as text: with more digits than the others it sorts
//! elsewhere.

use crate::{batch::BatchNumber, location::Location};

/// The objects of one output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputLayout {
    root: Location,
}

impl OutputLayout {
    /// The layout below `out`.
    pub fn new(out: Location) -> Self {
        Self { root: out.without_trailing_slash() }
    }

    /// The output itself.
    pub fn root(&self) -> &Location {
        &self.root
    }
    /// The key prefix of everything below the output.
    pub fn prefix(&self) -> String {
        self.key("")
    }
    /// The job spec's key.
    pub fn job(&self) -> String {
        self.key("_trawl/job.json")
    }
    /// The key of plan file `index`.
    pub fn plan_file(&self, index: u32) -> String {
        self.key(&format!("_trawl/plan/{index:05}.parquet"))
    }
    /// The plan file that has this key, if it is a plan file's.
    pub fn index_of_plan_file(&self, key: &str) -> Option<u32> {
        let digits = key.strip_prefix(&self.plan_prefix())?.strip_suffix(".parquet")?;
        let index = digits.parse().ok()?;
        // Only the canonical spelling, as of parts.
        (self.plan_file(index) == key).then_some(index)
    }
    /// The key prefix of the plan files.
    pub fn plan_prefix(&self) -> String {
        self.key("_trawl/plan/")
    }
    /// The key of the mark that ends the plan.
    pub fn plan_done(&self) -> String {
        self.key("_trawl/plan/_DONE")
    }
    /// The key of a batch's part.
    pub fn part(&self, batch: BatchNumber) -> String {
        self.key(&format!("part-{batch}.parquet"))
    }
    /// The key prefix of the parts.
    pub fn part_prefix(&self) -> String {
        self.key("part-")
    }
    /// The batch whose part has this key, if it is a part's.
    pub fn batch_of_part(&self, key: &str) -> Option<BatchNumber> {
        let digits = key.strip_prefix(&self.part_prefix())?.strip_suffix(".parquet")?;
        let number = digits.parse().ok()?;
        // Only the canonical spelling: `part-1.parquet` is somebody else's file.
        (self.part(BatchNumber(number)) == key).then_some(BatchNumber(number))
    }
    /// The key of the journal of a batch that may kill its worker.
    pub fn solo(&self, batch: BatchNumber) -> String {
        self.key(&format!("_trawl/solo/{batch}.json"))
    }
    /// The key prefix of these journals.
    pub fn solo_prefix(&self) -> String {
        self.key("_trawl/solo/")
    }
    /// The batch whose journal has this key, if it is a journal's.
    pub fn batch_of_solo(&self, key: &str) -> Option<BatchNumber> {
        key.strip_prefix(&self.solo_prefix())?.strip_suffix(".json")?.parse().ok().map(BatchNumber)
    }
    /// The key under which a store is asked whether its create-only puts are what they should be.
    pub fn probe(&self, name: &str) -> String {
        self.key(&format!("_trawl/probe-{name}"))
    }
    /// The key of the mark that the job was given up.
    pub fn cancelled(&self) -> String {
        self.key("_trawl/_CANCELLED")
    }

    /// Says that the job is held back for now.
    pub fn paused(&self) -> String {
        self.key("_trawl/_PAUSED")
    }
    /// The name of an object that lies directly in the output, where readers of `OUT/*.parquet` look.
    pub fn top_level_name<'k>(&self, key: &'k str) -> Option<&'k str> {
        key.strip_prefix(&self.prefix()).filter(|name| !name.is_empty() && !name.contains('/'))
    }
    /// The key of what a compaction says of itself.
    pub fn compacted(&self) -> String {
        self.key("_trawl/compacted.json")
    }
    /// The manifest's key.
    pub fn manifest(&self) -> String {
        self.key("_trawl/manifest.json")
    }
    /// The name of piece `index` of the manifest below the output.
    pub fn manifest_piece_name(index: usize) -> String {
        format!("_trawl/manifest/{index:08}.json")
    }
    /// The key of piece `index` of the manifest.
    pub fn manifest_piece(&self, index: usize) -> String {
        self.key(&Self::manifest_piece_name(index))
    }
    /// The key of the mark that ends the job.
    pub fn success(&self) -> String {
        self.key("_SUCCESS")
    }
    /// The key of a model that was given as a local file.
    pub fn model(&self, sha256: &str) -> String {
        self.key(&format!("_trawl/model-{sha256}.pt"))
    }

    fn key(&self, name: &str) -> String {
        match self.root.key() {
            "" => name.to_owned(),
            root => format!("{root}/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn names_round_trip() {
        let layout = OutputLayout::new(Location::parse("s3://b/jobs/1/", Path::new("/")).unwrap());
        assert_eq!(layout.part(BatchNumber(42)), "jobs/1/part-00000042.parquet");
        assert_eq!(layout.batch_of_part("jobs/1/part-00000042.parquet"), Some(BatchNumber(42)));
        assert_eq!(layout.batch_of_part("jobs/1/part-42.parquet"), None);
        assert_eq!(layout.batch_of_part("jobs/1/part-123456789.parquet"), Some(BatchNumber(123_456_789)));
        assert_eq!(layout.manifest_piece(3), "jobs/1/_trawl/manifest/00000003.json");
        let root = OutputLayout::new(Location::parse("s3://b", Path::new("/")).unwrap());
        assert_eq!(root.success(), "_SUCCESS");
    }

    #[test]
    fn plan_files_are_known_by_their_numbers_whatever_their_digits() {
        let layout = OutputLayout::new(Location::parse("s3://b/jobs/1/", Path::new("/")).unwrap());
        for (index, name) in [(0, "00000"), (99_999, "99999"), (100_000, "100000"), (u32::MAX, "4294967295")]
        {
            let key = format!("jobs/1/_trawl/plan/{name}.parquet");
            assert_eq!(layout.plan_file(index), key);
            assert_eq!(layout.index_of_plan_file(&key), Some(index));
        }
        for name in ["0", "099999", "1_0", "+00001", "4294967296", "_DONE"] {
            let key = format!("jobs/1/_trawl/plan/{name}.parquet");
            assert_eq!(layout.index_of_plan_file(&key), None, "{name}");
        }
        assert_eq!(layout.index_of_plan_file("jobs/1/_trawl/plan/00000"), None);
    }
}
