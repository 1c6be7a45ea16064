//! Shows how an embedded run is getting on: a bar on a terminal, a plain line now and then elsewhere.
//!
//! Reads the ledger and writes to stderr; stdout is for results.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};
use trawl_common::{bar::Bar, ledger::Progress, summary, terminal};

/// Between two looks at the ledger.
pub const TICK: Duration = Duration::from_millis(200);

/// Between two plain lines: a log of an hour stays readable.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The display.
pub enum Display {
    /// Nothing: somebody reads JSON.
    Quiet,
    /// On a terminal.
    Bar(Bar),
    /// Elsewhere; when the last line was written.
    Lines(Instant),
}

impl Display {
    /// A display on stderr; silent if `quiet`.
    pub fn new(quiet: bool) -> Self {
        match terminal::redraws(&io::stderr()) {
            _ if quiet => Self::Quiet,
            true => Self::Bar(Bar::on_stderr()),
            false => Self::Lines(Instant::now()),
        }
    }

    /// Shows these counters.
    pub fn show(&mut self, progress: &Progress) {
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => bar.show(progress),
            Self::Lines(last) if last.elapsed() >= LINE_EVERY => {
                *last = Instant::now();
                // Nobody may be left to read it; the run goes on.
                let _ = writeln!(io::stderr(), "{}", summary::line(progress));
            }
            Self::Lines(_) => {}
        }
    }

    /// Takes the bar away.
    pub fn end(self) {
        drop(self);
    }
}
