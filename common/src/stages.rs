//! The stages of a batch's life by name, and the time that went into them.
//!
//! The worker's clock counts in these; a part's footer carries the sums of its batch, so that the ledger, the
//! manifest and whoever rebuilds either of them from the bucket can say what a job's time goes into. Nothing
//! here measures anything.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

/// The stages with a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Reading an object, the store's latency included.
    Fetch,
    /// Bytes to pixels at the model's size.
    Decode,
    /// The forward pass, normalisation included.
    Forward,
    /// Rows to Parquet.
    Encode,
    /// The part's put.
    Put,
    /// Ledger and ack.
    Commit,
}

impl Stage {
    /// All of them, in the order of a batch's life.
    pub const ALL: [Stage; 6] =
        [Self::Fetch, Self::Decode, Self::Forward, Self::Encode, Self::Put, Self::Commit];

    /// Whether it is counted by images; the others are by batches.
    pub fn is_of_images(self) -> bool {
        matches!(self, Self::Fetch | Self::Decode | Self::Forward)
    }

    /// The label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Decode => "decode",
            Self::Forward => "forward",
            Self::Encode => "encode",
            Self::Put => "put",
            Self::Commit => "commit",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let stage = Self::ALL.into_iter().find(|stage| stage.name() == name);
        stage.ok_or_else(|| format!("`{name}` is no stage"))
    }
}

/// Where the time of a batch, or of all batches of a job, went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StageTimes {
    /// Microseconds in each stage, summed over threads and tasks; the waits between stages are in none.
    #[serde(default)]
    pub us: BTreeMap<Stage, u64>,
    /// For how many batches each stage was what its worker waited for.
    #[serde(default)]
    pub binding: BTreeMap<Stage, u64>,
}

impl StageTimes {
    /// Adds time in one stage.
    pub fn spent(&mut self, stage: Stage, time: Duration) {
        let us = self.us.entry(stage).or_default();
        *us = us.saturating_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds another one's.
    pub fn add(&mut self, other: &Self) {
        for (of, more) in [(&mut self.us, &other.us), (&mut self.binding, &other.binding)] {
            for (&stage, &n) in more {
                let sum = of.entry(stage).or_default();
                // What is read from a file may be anything.
                *sum = sum.saturating_add(n);
            }
        }
    }

    /// Takes what `totals` knows in the place of what was counted; what it does not know stays.
    pub fn replace(&mut self, totals: &Self) {
        self.us.extend(&totals.us);
        self.binding.extend(&totals.binding);
    }

    /// Milliseconds of each stage for one of `images`; nothing before the first.
    pub fn ms_an_image(&self, images: u64) -> BTreeMap<Stage, f64> {
        let per = |us: u64| us as f64 / 1000.0 / images as f64;
        self.us.iter().filter(|_| images > 0).map(|(&stage, &us)| (stage, per(us))).collect()
    }

    /// The stage that most batches' workers waited for; of equals the later one.
    pub fn binding(&self) -> Option<Stage> {
        self.binding.iter().max_by_key(|(_, batches)| **batches).map(|(&stage, _)| stage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_written_in_json() {
        for stage in Stage::ALL {
            assert_eq!(stage.name().parse(), Ok(stage));
            assert_eq!(serde_json::to_string(&stage).unwrap(), format!("\"{stage}\""));
        }
        assert!("resize".parse::<Stage>().unwrap_err().contains("resize"));
    }

    #[test]
    fn times_add_up_and_are_shared_by_the_images() {
        let mut one = StageTimes::default();
        one.spent(Stage::Decode, Duration::from_millis(30));
        one.spent(Stage::Decode, Duration::from_millis(10));
        one.binding.insert(Stage::Decode, 1);
        let mut both = one.clone();
        both.add(&one);
        both.binding.insert(Stage::Put, 1);
        assert_eq!(both.ms_an_image(16), [(Stage::Decode, 5.0)].into());
        assert_eq!(both.binding(), Some(Stage::Decode));
        assert_eq!(StageTimes::default().ms_an_image(0), [].into());
        let ends = StageTimes { us: [(Stage::Put, u64::MAX)].into(), ..StageTimes::default() };
        both.add(&ends);
        both.add(&ends);
        assert_eq!(both.us[&Stage::Put], u64::MAX, "a forged footer overflows nothing");
    }
}
