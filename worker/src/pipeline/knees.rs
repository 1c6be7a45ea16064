//! Knees: the micro-batch sizes that earlier processes found, in one small file of the cache folder.
//!
//! Read when a model is first used, written when its search ends. Worth a few passes at most: a file that cannot be
//! read or written is as good as none, and is never an error.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// The file's name, beside the models.
const FILE: &str = "micro-batches.json";

/// A larger file is not ours.
const MAX_BYTES: u64 = 1 << 20;

/// Sizes that are kept; then the file begins anew.
const MAX_ENTRIES: usize = 1_000;

/// The remembered sizes of this machine's devices.
#[derive(Debug, Clone, Default)]
pub struct Knees {
    file: Option<PathBuf>,
    /// What a size depends on beside the model: device, threads.
    machine: String,
}

#[derive(Default, Serialize, Deserialize)]
struct Entries(BTreeMap<String, usize>);

impl Knees {
    /// Those in `cache_dir` for a machine of this description.
    pub fn of(cache_dir: &std::path::Path, machine: String) -> Self {
        Self { file: Some(cache_dir.join(FILE)), machine }
    }

    /// Remembers nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// The size that was found for a model. Blocking.
    pub fn get(&self, model: &str) -> Option<usize> {
        self.read().0.get(&self.key(model)).copied()
    }

    /// Keeps a size. Blocking; of two processes at once one may be forgotten.
    pub fn set(&self, model: &str, size: usize) {
        let Some(file) = &self.file else { return };
        let mut entries = self.read();
        if entries.0.len() >= MAX_ENTRIES {
            entries.0.clear();
        }
        entries.0.insert(self.key(model), size);
        if let Err(error) = write(file, &entries) {
            tracing::debug!(%error, "the size of a micro-batch was not remembered");
        }
    }

    fn key(&self, model: &str) -> String {
        format!("{} {model}", self.machine)
    }

    fn read(&self) -> Entries {
        let Some(file) = &self.file else { return Entries::default() };
        let known = std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.len() <= MAX_BYTES);
        let text = known.then(|| std::fs::read(file)).and_then(Result::ok);
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }
}

fn write(file: &std::path::Path, entries: &Entries) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(std::path::Path::new("."));
    std::fs::create_dir_all(folder)?;
    let fresh = tempfile::NamedTempFile::new_in(folder)?;
    serde_json::to_writer(&fresh, entries)?;
    fresh.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_remembered_for_its_model_and_machine_and_rubbish_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("not/yet");
        let knees = Knees::of(&cache, "cpu x2".into());
        assert_eq!(knees.get("m"), None);
        knees.set("m", 32);
        assert_eq!((knees.get("m"), knees.get("n")), (Some(32), None));
        assert_eq!(Knees::of(&cache, "cuda x1".into()).get("m"), None);
        std::fs::write(cache.join(FILE), b"{").unwrap();
        assert_eq!(knees.get("m"), None);
        knees.set("m", 8);
        assert_eq!(knees.get("m"), Some(8));
        Knees::none().set("m", 1);
        assert_eq!(Knees::none().get("m"), None);
    }
}
