//! What became of a seed, and of many: figures for people, and the command that replays what failed.

use crate::fleet::Fleet;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// One seed.
pub struct Story {
    pub seed: u64,
    pub log: String,
    /// Nothing if all is well.
    pub violations: Vec<String>,
    faults: BTreeMap<&'static str, u64>,
    virtual_ms: u64,
    images: u64,
    redeliveries: u64,
    recovered: u64,
    computed_twice: u64,
}

impl Story {
    pub fn of(seed: u64, fleet: &Fleet) -> Self {
        let log = fleet.world.chronicle.log();
        let again = |line: &&str| line.contains(" takes ") && line.contains(" again,");
        // Jepsen's fourth set: what is there although its first delivery failed.
        let came_back: BTreeSet<&str> = log
            .lines()
            .filter(again)
            .filter_map(|line| line.split("takes batch ").nth(1)?.split(' ').next())
            .collect();
        let size = u64::from(fleet.scenario.batch_size);
        let computed = fleet.computed.lock().expect("no panic while they are held");
        Self {
            seed,
            violations: fleet.violations.lock().expect("no panic while they are held").clone(),
            faults: fleet.world.chronicle.faults(),
            virtual_ms: fleet.world.chronicle.elapsed_ms(),
            images: fleet.photos.len() as u64,
            redeliveries: log.lines().filter(again).count() as u64,
            recovered: came_back.len() as u64 * size,
            computed_twice: computed.values().map(|times| times.saturating_sub(1)).sum(),
            log,
        }
    }
}

/// Many seeds.
#[derive(Debug, Default)]
pub struct Report {
    pub seeds: u64,
    /// Seeds with what was wrong.
    pub failed: BTreeMap<u64, Vec<String>>,
    pub redeliveries: u64,
    pub computed_twice: u64,
    recovered: u64,
    images: u64,
    virtual_ms: u64,
    faults: BTreeMap<&'static str, u64>,
}

impl Report {
    pub fn add(&mut self, story: &Story) {
        self.seeds += 1;
        self.redeliveries += story.redeliveries;
        self.computed_twice += story.computed_twice;
        self.recovered += story.recovered;
        self.images += story.images;
        self.virtual_ms += story.virtual_ms;
        for (kind, n) in &story.faults {
            *self.faults.entry(kind).or_default() += n;
        }
        if !story.violations.is_empty() {
            self.failed.insert(story.seed, story.violations.clone());
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.virtual_ms as f64 / 3_600_000.0;
        writeln!(f, "{} seeds, {hours:.1} virtual hours, {} images", self.seeds, self.images)?;
        writeln!(
            f,
            "{} redeliveries, about {} rows recovered by them, {} images computed again",
            self.redeliveries, self.recovered, self.computed_twice
        )?;
        for (kind, n) in &self.faults {
            writeln!(f, "  {n:>7} {kind}")?;
        }
        for (seed, violations) in &self.failed {
            writeln!(f, "seed {seed} FAILED; replay it with: make sim SEED={seed}")?;
            for violation in violations.iter().take(8) {
                writeln!(f, "    {violation}")?;
            }
        }
        match self.failed.len() {
            0 => write!(f, "every job ended with each row once"),
            n => write!(f, "{n} of {} seeds FAILED", self.seeds),
        }
    }
}
