//! Shows a job that moves: a bar on a terminal, sparse lines off it, JSON lines for machines.
//!
//! Bars, lines and notes go to stderr, so that stdout stays what a script may capture; only the JSON lines
//! are data. A view never decides when a job has ended: [`crate::follow`] does.

use crate::report::{self, Report};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::{self, Write},
    time::Duration,
};
use tokio::time::Instant;
use trawl_common::{
    bar::{Bar, SPIN},
    ledger::Progress,
    planning::submit::Planned,
    terminal,
};

/// Off a terminal a line is printed at most this often: logs are kept, a refresh is not worth a line.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// Somewhere to show a job.
pub trait View {
    /// Shows where the job stands; called at every poll, whether something changed or not.
    ///
    /// # Errors
    /// What the writer gives.
    fn show(&mut self, progress: &Progress) -> io::Result<()>;

    /// Says something once.
    fn note(&mut self, text: &str);

    /// Shows the last standing and gives the terminal back.
    ///
    /// # Errors
    /// What the writer gives.
    fn end(&mut self, progress: &Progress) -> io::Result<()>;
}

/// What counts as a change; rate and estimate move by themselves.
pub fn moved(a: &Progress, b: &Progress) -> bool {
    let counters = |p: &Progress| {
        (p.state, p.images_planned, p.images_ok, p.images_failed, p.batches_planned, p.batches_done)
    };
    counters(a) != counters(b)
}

/// The view for people: a bar if stderr is a terminal, else lines.
pub fn for_people() -> Box<dyn View> {
    if terminal::redraws(&io::stderr()) {
        Box::new(Bar::on_stderr())
    } else {
        Box::new(Lines::new(io::stderr()))
    }
}

impl View for Bar {
    fn show(&mut self, progress: &Progress) -> io::Result<()> {
        Self::show(self, progress);
        Ok(())
    }

    fn note(&mut self, text: &str) {
        Self::note(self, text);
    }

    fn end(&mut self, progress: &Progress) -> io::Result<()> {
        Self::end(self);
        writeln!(io::stderr(), "{}", report::line(progress))
    }
}

/// A line now and then.
pub struct Lines<W> {
    out: W,
    shown: Option<(Progress, Instant)>,
}

impl<W: Write> Lines<W> {
    /// Lines into `out`.
    pub fn new(out: W) -> Self {
        Self { out, shown: None }
    }

    fn print(&mut self, progress: &Progress) -> io::Result<()> {
        self.shown = Some((progress.clone(), Instant::now()));
        writeln!(self.out, "{}", report::line(progress))
    }
}

impl<W: Write> View for Lines<W> {
    fn show(&mut self, progress: &Progress) -> io::Result<()> {
        match &self.shown {
            Some((shown, at)) if !moved(shown, progress) || at.elapsed() < LINE_INTERVAL => Ok(()),
            _ => self.print(progress),
        }
    }

    fn note(&mut self, text: &str) {
        // A closed stderr must not end a watch whose exit code somebody waits for.
        let _ = writeln!(self.out, "{text}");
    }

    fn end(&mut self, progress: &Progress) -> io::Result<()> {
        match &self.shown {
            Some((shown, _)) if !moved(shown, progress) => Ok(()),
            _ => self.print(progress),
        }
    }
}

/// A JSON line per change into the first writer, notes into the second.
pub struct JsonLines<'a> {
    out: &'a mut dyn Write,
    notes: Box<dyn Write + 'a>,
    shown: Option<Progress>,
}

impl<'a> JsonLines<'a> {
    /// JSON lines into `out`, notes into `notes`.
    pub fn new(out: &'a mut dyn Write, notes: impl Write + 'a) -> Self {
        Self { out, notes: Box::new(notes), shown: None }
    }
}

impl View for JsonLines<'_> {
    fn show(&mut self, progress: &Progress) -> io::Result<()> {
        if self.shown.as_ref().is_some_and(|shown| !moved(shown, progress)) {
            return Ok(());
        }
        self.shown = Some(progress.clone());
        Report::of_ledger(progress.clone()).json(self.out)?;
        // Whoever reads a stream of changes wants each when it happens.
        self.out.flush()
    }

    fn note(&mut self, text: &str) {
        let _ = writeln!(self.notes, "{text}");
    }

    fn end(&mut self, progress: &Progress) -> io::Result<()> {
        self.show(progress)
    }
}

/// Shows how far the enqueuing is, on stderr.
pub struct Enlisting {
    bar: Option<ProgressBar>,
    shown_at: Instant,
}

impl Enlisting {
    /// A spinner if stderr is a terminal, else lines.
    pub fn new() -> Self {
        let bar = terminal::redraws(&io::stderr()).then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("a constant template"));
            bar.enable_steady_tick(SPIN);
            bar
        });
        Self { bar, shown_at: Instant::now() }
    }

    /// Shows the numbers so far.
    pub fn show(&mut self, planned: &Planned) {
        let text = enlisted(planned);
        if let Some(bar) = &self.bar {
            bar.set_message(text);
        } else if self.shown_at.elapsed() >= LINE_INTERVAL {
            // A quick submission prints its sums alone.
            self.shown_at = Instant::now();
            eprintln!("{text}");
        }
    }

    /// Gives the terminal back.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The numbers of an enqueuing in one line.
pub fn enlisted(planned: &Planned) -> String {
    use crate::text::{count, counted};
    let mut text = format!(
        "enqueued {} in {}",
        counted(planned.images, "image", "images"),
        counted(planned.batches, "batch", "batches")
    );
    if planned.skipped > 0 {
        text.push_str(&format!(
            ", {} that are no images left out",
            counted(planned.skipped, "object", "objects")
        ));
    }
    if planned.unlistable > 0 {
        text.push_str(&format!(", {} with names that cannot be used left out", count(planned.unlistable)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::progress;
    use trawl_common::ledger::JobState;

    #[tokio::test(start_paused = true)]
    async fn lines_are_sparse_and_the_last_change_is_never_lost() {
        let mut out = Vec::new();
        let mut view = Lines::new(&mut out);
        let mut p = progress(JobState::Running);
        view.show(&p).unwrap();
        view.show(&p).unwrap();
        p.images_ok += 1;
        view.show(&p).unwrap();
        tokio::time::advance(LINE_INTERVAL).await;
        view.show(&p).unwrap();
        p.images_per_second = 1.0;
        tokio::time::advance(LINE_INTERVAL).await;
        view.show(&p).unwrap();
        p.state = JobState::Complete;
        view.end(&p).unwrap();
        view.end(&p).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].contains("501 of") && lines[2].starts_with("complete"), "{text}");
    }

    #[test]
    fn json_lines_are_changes_only() {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        let mut view = JsonLines::new(&mut out, &mut notes);
        let mut p = progress(JobState::Running);
        view.show(&p).unwrap();
        view.show(&p).unwrap();
        view.note("look");
        p.state = JobState::Complete;
        view.end(&p).unwrap();
        drop(view);
        let states: Vec<String> = String::from_utf8(out)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["state"].to_string())
            .collect();
        assert_eq!(states, ["\"running\"", "\"complete\""]);
        assert_eq!(notes, b"look\n");
    }
}
