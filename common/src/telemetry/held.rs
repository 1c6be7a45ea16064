//! Keeps log lines back while a screen is up, where they would be drawn over.
//!
//! Nothing is lost but what is over the bound, and that is counted: the lines go to stderr when the screen has
//! given the terminal back.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Mutex, PoisonError},
};

/// Lines that are kept: a screen is left within hours, and whoever wants all logs sends them to a file.
const MOST_LINES: usize = 500;

static LINES: Mutex<Option<Lines>> = Mutex::new(None);

#[derive(Default)]
struct Lines {
    kept: VecDeque<Vec<u8>>,
    dropped: u64,
    /// Those from the end that nobody has asked for by [`Held::news`].
    unseen: usize,
}

/// While this lives, log lines wait; dropping it writes them.
#[derive(Debug)]
#[must_use = "the lines are held only while this lives"]
pub struct Held(());

/// Holds log lines back from now on.
pub fn hold() -> Held {
    with(|lines| *lines = Some(Lines::default()));
    Held(())
}

impl Held {
    /// The lines that came since the last call, without colour.
    pub fn news(&self) -> Vec<String> {
        with(|lines| lines.as_mut().map(Lines::news).unwrap_or_default())
    }

    /// The lines that wait, as they are; they wait no more.
    pub fn take(&self) -> Vec<Vec<u8>> {
        with(|lines| lines.as_mut().map(Lines::take_all).unwrap_or_default())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(lines) = with(Option::take) {
            // Nobody may be left to read it.
            let _ = lines.write(&mut io::stderr().lock());
        }
    }
}

impl Lines {
    fn take(&mut self, line: &[u8]) {
        if self.kept.len() == MOST_LINES {
            self.kept.pop_front();
            self.dropped += 1;
        }
        self.kept.push_back(line.to_vec());
        self.unseen = (self.unseen + 1).min(self.kept.len());
    }

    fn take_all(&mut self) -> Vec<Vec<u8>> {
        self.unseen = 0;
        self.kept.drain(..).collect()
    }

    fn news(&mut self) -> Vec<String> {
        let from = self.kept.len().saturating_sub(std::mem::take(&mut self.unseen));
        self.kept.range(from..).map(|line| plain(line)).collect()
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        if self.dropped > 0 {
            writeln!(out, "({} earlier log lines were not kept)", self.dropped)?;
        }
        self.kept.iter().try_for_each(|line| out.write_all(line))
    }
}

/// Takes a line if lines are held; false if it is the caller's to write.
pub(super) fn takes(line: &[u8]) -> bool {
    with(|lines| lines.as_mut().map(|lines| lines.take(line)).is_some())
}

fn plain(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    super::printable(anstream::adapter::strip_str(text.trim_end()).to_string().trim())
}

fn with<T>(act: impl FnOnce(&mut Option<Lines>) -> T) -> T {
    act(&mut LINES.lock().unwrap_or_else(PoisonError::into_inner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_and_are_written_in_the_end() {
        let mut lines = Lines::default();
        lines.take(b"\x1b[33m WARN\x1b[0m the ledger is away\n");
        lines.take(b"two\n");
        assert_eq!(lines.news(), ["WARN the ledger is away", "two"]);
        assert!(lines.news().is_empty(), "each is news once");
        for _ in 0..MOST_LINES {
            lines.take(b"more\n");
        }
        assert_eq!(lines.news().len(), MOST_LINES);
        let mut out = Vec::new();
        lines.write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("(2 earlier log lines were not kept)\nmore\n"), "{text}");
        assert_eq!(text.lines().count(), 1 + MOST_LINES);
        assert_eq!(lines.take_all().len(), MOST_LINES);
        assert!(lines.take_all().is_empty());
    }
}
