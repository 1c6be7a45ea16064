//! CSV and JSON lines.
//!
//! CSV is RFC 4180: CRLF, a header, quotes where a value has a quote, a comma or a line's end. A list is JSON. What is
//! null is empty; text that is empty is `""`, so that the two can be told apart by readers that look.

use super::{Chosen, Source};
use crate::{
    cells::Cell,
    cli::{ExportArgs, ExportFormat, StatusFilter},
    errors::Stop,
};
use serde::{Serialize, Serializer, ser::SerializeMap};
use std::io::{self, Write};

/// Writes the chosen columns of the rows that were asked for; how many they were.
///
/// # Errors
/// What the store or the file gives.
pub(super) async fn write(
    source: &Source<'_>,
    chosen: &Chosen,
    args: &ExportArgs,
    to: &mut dyn Write,
) -> Result<u64, Stop> {
    let filter = args.status.unwrap_or(StatusFilter::All);
    let csv = args.to == ExportFormat::Csv;
    if csv {
        csv_line(to, chosen.names.iter().map(|name| Cell::Text(name)))?;
    }
    let each = &mut |row: &_| {
        let cells = chosen.cells(row, source.columns);
        if csv {
            csv_line(to, cells.into_iter())?;
        } else {
            serde_json::to_writer(&mut *to, &Line { names: &chosen.names, cells })
                .map_err(io::Error::from)?;
            to.write_all(b"\n")?;
        }
        Ok(())
    };
    source.each_row(filter, each).await
}

/// A JSON object of the columns in their order.
struct Line<'a> {
    names: &'a [String],
    cells: Vec<Cell<'a>>,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.names.len()))?;
        for (name, cell) in self.names.iter().zip(&self.cells) {
            map.serialize_entry(name, cell)?;
        }
        map.end()
    }
}

/// One line of CSV.
pub(super) fn csv_line<'a>(to: &mut dyn Write, cells: impl Iterator<Item = Cell<'a>>) -> Result<(), Stop> {
    for (place, cell) in cells.enumerate() {
        if place > 0 {
            to.write_all(b",")?;
        }
        let text = text_of(&cell).map_err(io::Error::from)?;
        let empty_text = text.is_empty() && cell != Cell::Null;
        if empty_text || text.contains(['"', ',', '\r', '\n']) {
            write!(to, "\"{}\"", text.replace('"', "\"\""))?;
        } else {
            to.write_all(text.as_bytes())?;
        }
    }
    Ok(to.write_all(b"\r\n")?)
}

/// A value without quotes: nothing for null, JSON for a list.
fn text_of(cell: &Cell<'_>) -> serde_json::Result<String> {
    Ok(match cell {
        Cell::Null => String::new(),
        Cell::Text(text) => (*text).to_owned(),
        // JSON has no word for these.
        Cell::Double(number) if !number.is_finite() => number.to_string(),
        other => serde_json::to_string(other)?,
    })
}
