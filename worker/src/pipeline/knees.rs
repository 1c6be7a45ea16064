//! Knees: the micro-batch sizes that earlier processes found.
//!
//! Read when a model is first used, written when its search ends. Must never be what a result depends on.

use crate::remembered::Remembered;

/// The file's name, beside the models.
const FILE: &str = "micro-batches.json";

/// The remembered sizes of this machine's devices.
#[derive(Debug, Clone, Default)]
pub struct Knees {
    sizes: Remembered<usize>,
    /// What a size depends on beside the model: device, threads.
    machine: String,
}

impl Knees {
    /// Those in `cache_dir` for a machine of this description.
    pub fn of(cache_dir: &std::path::Path, machine: String) -> Self {
        Self { sizes: Remembered::of(cache_dir, FILE), machine }
    }

    /// Remembers nothing.
    pub fn none() -> Self {
        Self::default()
    }

    /// The size that was found for a model. Blocking.
    pub fn get(&self, model: &str) -> Option<usize> {
        self.sizes.get(&self.key(model))
    }

    /// Keeps a size. Blocking.
    pub fn set(&self, model: &str, size: usize) {
        self.sizes.set(self.key(model), size);
    }

    fn key(&self, model: &str) -> String {
        format!("{} {model}", self.machine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_of_its_model_and_machine() {
        let dir = tempfile::tempdir().unwrap();
        let knees = Knees::of(dir.path(), "cpu x2".into());
        knees.set("m", 32);
        assert_eq!((knees.get("m"), knees.get("n")), (Some(32), None));
        assert_eq!(Knees::of(dir.path(), "cuda x1".into()).get("m"), None);
    }
}
