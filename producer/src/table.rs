//! Columns of text for people.
//!
//! Widths come from the rows given first, so that a stream of millions of rows can be printed while it is
//! read. Nothing is cut unless the output is a terminal that is too narrow.

use crate::text;
use std::io::{self, Write};

/// Between two columns.
const GAP: &str = "  ";

/// A column narrower than this is not cut further, however narrow the terminal.
const MIN_FLEXIBLE_WIDTH: usize = 12;

/// How a column is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table whose first column takes what room is left, cut at its front.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(&'static str, Align)>,
    widths: Option<Vec<usize>>,
    terminal_width: Option<usize>,
}

impl Table {
    /// A table; `terminal_width` in characters, `None` to cut nothing.
    pub fn new(columns: &[(&'static str, Align)], terminal_width: Option<usize>) -> Self {
        Self { columns: columns.to_vec(), widths: None, terminal_width }
    }

    /// Prints rows; the first call decides the widths and prints the header.
    ///
    /// # Errors
    /// What the writer gives.
    pub fn print(&mut self, out: &mut dyn Write, rows: &[Vec<String>]) -> io::Result<()> {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| text::printable(cell)).collect()).collect();
        let header: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        if self.widths.is_none() {
            self.widths = Some(self.measure(&header, &rows));
            self.line(out, &header)?;
        }
        rows.iter().try_for_each(|row| self.line(out, row))
    }

    fn measure(&self, header: &[String], rows: &[Vec<String>]) -> Vec<usize> {
        let width = |i: usize| {
            let cells = rows.iter().filter_map(|row| row.get(i)).chain(header.get(i));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        if let (Some(terminal), Some((first, others))) = (self.terminal_width, widths.split_first_mut()) {
            let taken: usize = others.iter().map(|w| w + GAP.len()).sum();
            *first = (*first).min(terminal.saturating_sub(taken).max(MIN_FLEXIBLE_WIDTH));
        }
        widths
    }

    fn line(&self, out: &mut dyn Write, cells: &[String]) -> io::Result<()> {
        let widths = self.widths.as_deref().unwrap_or_default();
        let mut line = String::new();
        for (i, (cell, (&width, (_, align)))) in
            cells.iter().zip(widths.iter().zip(&self.columns)).enumerate()
        {
            let cell = match self.terminal_width {
                None => cell.clone(),
                Some(_) if i == 0 => text::cut_front(cell, width),
                Some(_) => text::cut_back(cell, width),
            };
            let room = " ".repeat(width.saturating_sub(cell.chars().count()));
            match align {
                Align::Left => line.extend([&cell, &room[..]]),
                Align::Right => line.extend([&room[..], &cell]),
            }
            if i + 1 < cells.len() {
                line.push_str(GAP);
            }
        }
        writeln!(out, "{}", line.trim_end())
    }
}

/// The width of the terminal behind stdout, in characters; `None` if stdout is none.
pub fn stdout_width() -> Option<usize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize` through a pointer that is valid for the call.
    let answer = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
    (answer == 0 && size.ws_col > 0).then_some(usize::from(size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(width: Option<usize>, pages: &[&[&[&str]]]) -> String {
        let mut table = Table::new(&[("KEY", Align::Left), ("N", Align::Right)], width);
        let mut out = Vec::new();
        for page in pages {
            let rows: Vec<Vec<String>> =
                page.iter().map(|row| row.iter().map(|&c| c.to_owned()).collect()).collect();
            table.print(&mut out, &rows).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_line_up_and_the_header_comes_once() {
        let text = printed(None, &[&[&["a", "1"], &["bb", "22"]], &[&["cccc", "333"]]]);
        assert_eq!(text, "KEY   N\na     1\nbb   22\ncccc  333\n");
    }

    #[test]
    fn a_narrow_terminal_cuts_the_front_of_the_first_column() {
        let text = printed(Some(16), &[&[&["s3://bucket/long/way/a.jpg", "1"]]]);
        assert_eq!(text, "KEY            N\n…ong/way/a.jpg  1\n".replace("…o", "…"));
    }

    #[test]
    fn an_empty_table_is_its_header() {
        assert_eq!(printed(None, &[&[]]), "KEY  N\n");
    }

    #[test]
    fn keys_cannot_add_lines() {
        assert_eq!(printed(None, &[&[&["a\nb", "1"]]]).lines().count(), 2);
    }
}
