//! What computed a part: the versions and the machine half of where a number came from.
//!
//! The spec and the digests say what was asked for; this says what answered. Written into each part's footer by the worker's
//! sink and gathered in the manifest. Decides nothing: it is for whoever finds two answers and asks why.

use super::footer::{FooterEntries, entry};
use parquet::file::metadata::KeyValue;
use serde::{Deserialize, Serialize};

/// The entry with the trawl that computed the rows, where another wrote the file.
const COMPUTED_BY: &str = "trawl.computed_by";

/// Between the values of several workers; the devices of one have a comma alone between them.
const BETWEEN: &str = ", ";

/// Values of a field that are named at most: a fleet has one or two of each, and a footer is read for every part.
const MOST_NAMED: usize = 16;

/// What ran the model. Empty texts in parts that were written before this was. Of a compacted part each text names all
/// that computed its rows, in the order of the rows.
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
    /// The entries of a footer. Its `trawl` is there under another name, unless it is not this one.
    pub(super) fn entries(&self) -> impl Iterator<Item = KeyValue> {
        let is_said = self.trawl.is_empty() || self.trawl == env!("CARGO_PKG_VERSION");
        let computed_by = (!is_said).then(|| entry(COMPUTED_BY, &self.trawl));
        let named = [
            ("trawl.torch", &self.torch),
            ("trawl.device", &self.device),
            ("trawl.precision", &self.precision),
        ];
        let named = named.into_iter().filter(|(_, value)| !value.is_empty());
        named.map(|(name, value)| entry(name, value)).chain(computed_by)
    }

    /// Adds what computed the rows of another part, as far as it is not named yet.
    pub(super) fn add(&mut self, other: &Self) {
        let fields = [
            (&mut self.trawl, &other.trawl),
            (&mut self.torch, &other.torch),
            (&mut self.device, &other.device),
            (&mut self.precision, &other.precision),
        ];
        for (all, more) in fields {
            for one in more.split(BETWEEN).filter(|one| !one.is_empty()) {
                let named = all.split(BETWEEN).filter(|known| !known.is_empty());
                if named.clone().any(|known| known == one) || named.count() >= MOST_NAMED {
                    continue;
                }
                if !all.is_empty() {
                    all.push_str(BETWEEN);
                }
                all.push_str(one);
            }
        }
    }

    /// Out of a footer that `trawl` wrote.
    pub(super) fn of(entries: &FooterEntries, trawl: &str) -> Self {
        let text = |name| entries.text(name).unwrap_or_default().to_owned();
        Self {
            trawl: entries.text(COMPUTED_BY).unwrap_or(trawl).to_owned(),
            torch: text("trawl.torch"),
            device: text("trawl.device"),
            precision: text("trawl.precision"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(trawl: &str, torch: &str, device: &str) -> Engine {
        Engine { trawl: trawl.into(), torch: torch.into(), device: device.into(), precision: "fp32".into() }
    }

    #[test]
    fn what_differs_is_named_once_and_in_order() {
        let mut all = engine("0.1.0", "2.11.0", "cuda:0,cuda:1");
        for device in ["cpu", "cuda:0", "cpu", "cuda:0,cuda:1", ""] {
            all.add(&engine("0.1.0", "2.11.0", device));
        }
        assert_eq!(all, engine("0.1.0", "2.11.0", "cuda:0,cuda:1, cpu, cuda:0"));
        // A part that says nothing adds nothing; what was merged once is merged again value by value.
        all.add(&Engine::default());
        all.add(&engine("0.1.0, 0.2.0", "2.11.0", "cpu, cuda:3"));
        assert_eq!(all, engine("0.1.0, 0.2.0", "2.11.0", "cuda:0,cuda:1, cpu, cuda:0, cuda:3"));
        let mut old = Engine::default();
        old.add(&all);
        assert_eq!(old, all);
    }

    #[test]
    fn a_footer_names_no_more_than_it_may() {
        let mut all = Engine::default();
        for n in 0..MOST_NAMED + 5 {
            all.add(&engine("0.1.0", "2.11.0", &format!("cuda:{n}")));
        }
        assert_eq!(all.device.split(BETWEEN).count(), MOST_NAMED);
        assert_eq!(all.torch, "2.11.0");
    }
}
