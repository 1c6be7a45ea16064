//! What computed a part: the versions and the machine half of where a number came from.
//!
//! The spec and the digests say what was asked for; this says what answered. Written into each part's footer by the worker's
//! sink and gathered in the manifest. Decides nothing: it is for whoever finds two answers and asks why.

use super::footer::{FooterEntries, entry};
use parquet::file::metadata::KeyValue;
use serde::{Deserialize, Serialize};

/// What ran the model. Empty texts in parts that were written before this was.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Engine {
    /// The trawl of the worker.
    pub trawl: String,
    /// Its libtorch.
    pub torch: String,
    /// `cpu`, `cuda:0`, or several of the latter.
    pub device: String,
    /// `fp32`, `fp16` or `bf16`.
    pub precision: String,
}

impl Engine {
    /// The entries of a footer; its `trawl` is there under another name.
    pub(super) fn entries(&self) -> impl Iterator<Item = KeyValue> {
        let named = [
            ("trawl.torch", &self.torch),
            ("trawl.device", &self.device),
            ("trawl.precision", &self.precision),
        ];
        named.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| entry(name, value))
    }

    /// Out of a footer of `trawl`.
    pub(super) fn of(entries: &FooterEntries, trawl: &str) -> Self {
        let text = |name| entries.text(name).unwrap_or_default().to_owned();
        Self {
            trawl: trawl.to_owned(),
            torch: text("trawl.torch"),
            device: text("trawl.device"),
            precision: text("trawl.precision"),
        }
    }
}
