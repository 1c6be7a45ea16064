//! All that happened in a simulation, in order: a line an event, with its virtual time.
//!
//! Two runs of a seed must write the same bytes, so nothing of the real world may get in: no wall clock, no
//! address, no order of a hash map. Also counts the faults by kind.

use std::{collections::BTreeMap, fmt::Write, sync::Mutex};
use tokio::time::Instant;

/// See the file's head.
pub struct Chronicle {
    began: Instant,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    log: String,
    faults: BTreeMap<&'static str, u64>,
}

impl Chronicle {
    /// Begins at the runtime's time.
    pub fn new() -> Self {
        Self { began: Instant::now(), told: Mutex::default() }
    }

    /// Writes down what `who` did or suffered.
    pub fn note(&self, who: &str, what: &str) {
        let ms = self.began.elapsed().as_millis();
        let mut told = self.told.lock().expect("no panic while the log is held");
        writeln!(told.log, "{ms:>9} {who:<6} {what}").expect("a text takes any number of lines");
    }

    /// The same for a fault, which is counted under `kind`.
    pub fn fault(&self, who: &str, kind: &'static str, what: &str) {
        *self.told.lock().expect("no panic while the log is held").faults.entry(kind).or_default() += 1;
        self.note(who, &format!("! {kind} {what}"));
    }

    /// The whole log.
    pub fn log(&self) -> String {
        self.told.lock().expect("no panic while the log is held").log.clone()
    }

    /// Faults by kind.
    pub fn faults(&self) -> BTreeMap<&'static str, u64> {
        self.told.lock().expect("no panic while the log is held").faults.clone()
    }

    /// Virtual milliseconds since the beginning.
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Default for Chronicle {
    fn default() -> Self {
        Self::new()
    }
}
