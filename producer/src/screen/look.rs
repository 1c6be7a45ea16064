//! How the screen looks: colour or none, glyphs or plain characters.
//!
//! Colour never says what a word does not say too, so that nothing is lost without it.

use ratatui::style::{Color, Modifier, Style};
use std::io;
use trawl_common::{ledger::JobState, terminal};

/// Eighths of a cell, for the end of a bar.
const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// Heights of a sparkline, and those of a terminal that has ASCII alone.
const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const PLAIN_SPARKS: [char; 8] = ['_', '.', ',', '-', '~', '=', '+', '#'];

/// What the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Colours.
    pub colour: bool,
    /// More than ASCII.
    pub unicode: bool,
}

impl Look {
    /// What stderr's terminal can show.
    pub fn of_stderr() -> Self {
        Self { colour: terminal::colour(&io::stderr()), unicode: terminal::has_unicode() }
    }

    fn coloured(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    /// What is good.
    pub fn good(self) -> Style {
        self.coloured(Color::Green)
    }

    /// What wants a look.
    pub fn warning(self) -> Style {
        self.coloured(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    /// What is lost.
    pub fn bad(self) -> Style {
        self.coloured(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// What stands out.
    pub fn accent(self) -> Style {
        self.coloured(Color::Cyan)
    }

    /// Names of fields.
    pub fn label(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// Heads of tables, and the top line.
    pub fn head(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    /// The head of the table that the keys move.
    pub fn focused_head(self) -> Style {
        self.coloured(Color::Cyan).add_modifier(Modifier::REVERSED | Modifier::BOLD)
    }

    /// The selected row.
    pub fn selected(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED)
    }

    /// A job's state.
    pub fn state(self, state: JobState) -> Style {
        match state {
            JobState::Enqueuing | JobState::Running => self.accent(),
            JobState::Complete => self.good(),
            JobState::Paused => self.warning(),
            JobState::Cancelled => self.bad(),
        }
    }

    /// `part` of `whole` as a bar of `width` cells. Full only when all is done.
    pub fn bar(self, part: u64, whole: u64, width: usize) -> String {
        let steps_a_cell = if self.unicode { EIGHTHS.len() } else { 1 };
        let steps = (width * steps_a_cell) as u128;
        let filled = match whole {
            0 => 0,
            _ => (u128::from(part) * steps / u128::from(whole)).min(steps),
        };
        let filled = usize::try_from(filled).unwrap_or_default();
        let (cells, rest) = (filled / steps_a_cell, filled % steps_a_cell);
        let (full, empty) = if self.unicode { ('█', '░') } else { ('#', '.') };
        (0..width)
            .map(|cell| match cell.cmp(&cells) {
                std::cmp::Ordering::Less => full,
                std::cmp::Ordering::Equal if rest > 0 => EIGHTHS[rest],
                std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => empty,
            })
            .collect()
    }

    /// Values as a line of heights, the highest of them being full; nothing is shown of zeroes.
    pub fn spark(self, values: &[f64]) -> String {
        let most = values.iter().copied().fold(0.0, f64::max);
        let glyphs = if self.unicode { SPARKS } else { PLAIN_SPARKS };
        values
            .iter()
            .map(|value| {
                if *value <= 0.0 || most <= 0.0 {
                    return ' ';
                }
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // From 0 to 7.
                let height = (value / most * (glyphs.len() - 1) as f64).round() as usize;
                glyphs[height.min(glyphs.len() - 1)]
            })
            .collect()
    }

    /// Between two words of a line.
    pub fn dot(self) -> &'static str {
        if self.unicode { " · " } else { ", " }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Look = Look { colour: false, unicode: false };
    const RICH: Look = Look { colour: true, unicode: true };

    #[test]
    fn a_bar_is_full_only_when_all_is_done() {
        assert_eq!(PLAIN.bar(1, 2, 4), "##..");
        assert_eq!(PLAIN.bar(999, 1000, 4), "###.");
        assert_eq!(RICH.bar(1000, 1000, 4), "████");
        assert_eq!(RICH.bar(1, 8, 4), "▌░░░");
        assert_eq!(RICH.bar(0, 0, 2), "░░");
        assert_eq!(RICH.bar(u64::MAX, 1, 2), "██", "counted twice is no crash");
        assert_eq!(RICH.bar(1, 2, 0), "");
    }

    #[test]
    fn a_sparkline_is_relative_to_its_highest() {
        assert_eq!(RICH.spark(&[0.0, 1.0, 50.0, 100.0]), " ▁▅█");
        assert_eq!(PLAIN.spark(&[0.0, 100.0]), " #");
        assert_eq!(RICH.spark(&[0.0, 0.0]), "  ");
        assert_eq!(RICH.spark(&[]), "");
    }

    #[test]
    fn without_colour_there_is_none() {
        for style in [
            PLAIN.good(),
            PLAIN.warning(),
            PLAIN.bad(),
            PLAIN.accent(),
            PLAIN.focused_head(),
            PLAIN.state(JobState::Running),
        ] {
            assert_eq!((style.fg, style.bg), (None, None));
        }
        assert_eq!(RICH.bad().fg, Some(Color::Red));
    }
}
