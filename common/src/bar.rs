//! The progress bar of `trawl submit --watch`, `trawl run` and `trawl-worker run`: one line that moves, on stderr.
//!
//! Only where a terminal can redraw a line; [`crate::terminal::redraws`] says where. It says what
//! [`crate::summary::line`] says, and log lines go above it instead of through it.

use crate::{
    ledger::Progress,
    summary,
    telemetry::held::{self, Held},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::{self, Write},
    time::Duration,
};

/// The spinner moves while nothing else does, so that a slow listing does not look hung.
pub const SPIN: Duration = Duration::from_millis(120);

/// A bar on stderr. Log lines are held while it lives, and written above it with every [`Bar::show`].
pub struct Bar {
    bar: ProgressBar,
    held: Held,
}

impl Bar {
    /// An empty bar.
    pub fn on_stderr() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} [{bar:24}] {wide_msg}");
        bar.set_style(style.expect("a constant template").progress_chars("=> "));
        bar.enable_steady_tick(SPIN);
        Self { bar, held: held::hold() }
    }

    /// Shows where the job stands.
    pub fn show(&self, progress: &Progress) {
        let lines = self.held.take();
        if !lines.is_empty() {
            self.bar.suspend(|| write_lines(&lines));
        }
        self.bar.set_length(progress.images_planned);
        self.bar.set_position(progress.images_ok + progress.images_failed);
        self.bar.set_message(summary::line(progress));
    }

    /// Says something above the bar.
    pub fn note(&self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn write_lines(lines: &[Vec<u8>]) {
    let mut stderr = io::stderr().lock();
    for line in lines {
        // Nobody may be left to read it.
        let _ = stderr.write_all(line);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        // Before the lines that are still held: they would be drawn over.
        self.bar.finish_and_clear();
    }
}
