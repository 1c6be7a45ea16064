//! What earlier processes found out on this machine, in small JSON files of the cache folder.
//!
//! Beside the pipeline: the sizes of micro-batches, the outcome of a model's comparison. Worth some seconds at most: a file
//! that cannot be read or written is as good as none, and is never an error. Must never hold what a result depends on.

use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    marker::PhantomData,
    path::{Path, PathBuf},
};

/// A larger file is not ours.
const MAX_BYTES: u64 = 1 << 20;

/// Entries that are kept; then the file begins anew.
const MAX_ENTRIES: usize = 1_000;

/// One file of values by name.
#[derive(Debug, Clone)]
pub struct Remembered<T> {
    file: Option<PathBuf>,
    values: PhantomData<fn() -> T>,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self { file: None, values: PhantomData }
    }
}

impl<T: Clone + Serialize + DeserializeOwned> Remembered<T> {
    /// That of the file `name` in `folder`.
    pub fn of(folder: &Path, name: &str) -> Self {
        Self { file: Some(folder.join(name)), values: PhantomData }
    }

    /// The value of `key`. Blocking.
    pub fn get(&self, key: &str) -> Option<T> {
        self.read().remove(key)
    }

    /// Keeps a value. Blocking; of two processes at once one may be forgotten.
    pub fn set(&self, key: String, value: T) {
        let Some(file) = &self.file else { return };
        let mut entries = self.read();
        if entries.len() >= MAX_ENTRIES {
            entries.clear();
        }
        entries.insert(key, value);
        if let Err(error) = write(file, &entries) {
            tracing::debug!(%error, file = %file.display(), "something worth remembering was not");
        }
    }

    fn read(&self) -> BTreeMap<String, T> {
        let Some(file) = &self.file else { return BTreeMap::new() };
        let known = std::fs::metadata(file).is_ok_and(|m| m.is_file() && m.len() <= MAX_BYTES);
        let text = known.then(|| std::fs::read(file)).and_then(Result::ok);
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }
}

fn write<T: Serialize>(file: &Path, entries: &BTreeMap<String, T>) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
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
    fn what_is_kept_is_found_again_and_rubbish_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("not/yet");
        let sizes = Remembered::of(&cache, "sizes.json");
        assert_eq!(sizes.get("m"), None);
        sizes.set("m".into(), 32);
        assert_eq!((sizes.get("m"), sizes.get("n")), (Some(32), None));
        std::fs::write(cache.join("sizes.json"), b"{").unwrap();
        assert_eq!(sizes.get("m"), None);
        sizes.set("m".into(), 8);
        assert_eq!(sizes.get("m"), Some(8));
        let nothing = Remembered::default();
        nothing.set("m".into(), 1);
        assert_eq!(nothing.get("m"), None);
    }
}
