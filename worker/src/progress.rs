//! Shows how an embedded run is getting on: a bar on a terminal, a plain line now and then elsewhere.
//!
//! Reads the ledger and writes to stderr; stdout is for results.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{io::IsTerminal, time::Duration};
use trawl_common::ledger::{JobState, Progress};

/// Between two looks at the ledger.
pub const TICK: Duration = Duration::from_millis(200);

/// Between two plain lines: a log of an hour stays readable.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The display.
pub struct Display {
    bar: ProgressBar,
    terminal: bool,
    last_line: std::time::Instant,
}

impl Display {
    /// A display on stderr; silent if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = "{bar:30} {pos}/{len} images  {per_sec}  {eta} left  {msg}";
        bar.set_style(ProgressStyle::with_template(style).expect("a constant template"));
        Self { bar, terminal, last_line: std::time::Instant::now() }
    }

    /// Shows these counters.
    pub fn show(&mut self, progress: &Progress) {
        let done = progress.images_ok + progress.images_failed;
        self.bar.set_length(progress.images_planned);
        self.bar.set_position(done);
        let mut message = String::new();
        if progress.images_failed > 0 {
            message = format!("{} failed ", progress.images_failed);
        }
        if progress.state == JobState::Enqueuing {
            message.push_str("(listing)");
        }
        self.bar.set_message(message);
        if !self.terminal && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = std::time::Instant::now();
            tracing::info!(
                images.done = done,
                images.planned = progress.images_planned,
                images.failed = progress.images_failed,
                images.per_second = progress.images_per_second.round(),
                "running"
            );
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
