//! Verdicts: which models' graph passes were compared on this machine before, and whether their answers stayed the same.
//!
//! Asked while a model loads, so that a comparison that takes seconds on a busy machine is made once. A verdict is of one
//! bundle, device, processor and build of the passes; for any other it is asked anew.

use super::Device;
use crate::remembered::Remembered;
use std::path::Path;

/// The file's name, beside the models.
const FILE: &str = "graph-passes.json";

/// Where the processor's name stands on Linux.
const PROCESSOR: &str = "/proc/cpuinfo";

/// The remembered verdicts.
#[derive(Debug, Clone, Default)]
pub struct Verdicts {
    same: Remembered<bool>,
}

impl Verdicts {
    /// Those in `cache_dir`.
    pub fn of(cache_dir: &Path) -> Self {
        Self { same: Remembered::of(cache_dir, FILE) }
    }

    /// The verdict on one bundle.
    pub fn on(&self, sha256: &str, device: Device) -> Verdict {
        // The kernels that libtorch chooses, and so the last bits, depend on the processor; so do a device's.
        let processor = std::fs::read_to_string(PROCESSOR).unwrap_or_default();
        let processor = processor.lines().find(|line| line.starts_with("model name")).unwrap_or_default();
        let processor = processor.split(':').nth(1).unwrap_or_default().trim();
        let key = format!("{sha256} {device} {processor} {}", env!("TRAWL_SHIM_DIGEST"));
        Verdict { same: self.same.clone(), key }
    }
}

/// What is known of one bundle's passes.
#[derive(Debug, Clone)]
pub struct Verdict {
    same: Remembered<bool>,
    key: String,
}

impl Verdict {
    /// Whether the answers were the same; `None` if nobody looked. Blocking.
    pub fn known(&self) -> Option<bool> {
        self.same.get(&self.key)
    }

    /// Keeps it. Blocking.
    pub(super) fn keep(&self, same: bool) {
        self.same.set(self.key.clone(), same);
    }
}
