//! The rows of a table of images, of which nothing is read but the footer, and the columns that name and go along.

use super::{ContentsError, Entry, Opening, Pages};
use crate::{
    batch::Place,
    storage::reader::ObjectReader,
    table::{self, Table, TableError},
};

/// Rows whose names are read at once.
const NAMED_ROWS: u64 = 16_384;

/// Reads the table, from row `next` on. Blocks.
pub(super) fn read(opening: &Opening, reader: &ObjectReader, pages: &mut Pages) -> Result<(), ContentsError> {
    let failed = |error: TableError| ContentsError::of_table(opening, error);
    let table = Table::open(reader.clone()).map_err(failed)?;
    table.image_column(opening.image_column.as_deref()).map_err(failed)?;
    let mut wanted: Vec<&str> = opening.carry.iter().map(|column| column.name.as_str()).collect();
    wanted.extend(opening.key_column.as_deref());
    for name in &wanted {
        if table.schema().field_with_name(name).is_err() {
            return Err(failed(TableError::Column(format!("it has no column `{name}`"))));
        }
    }
    let mut first = 0;
    for (group, rows) in table.groups().into_iter().enumerate() {
        let mut from = opening.next.saturating_sub(first).min(rows);
        while from < rows {
            let to = (from + NAMED_ROWS).min(rows);
            let batches = if wanted.is_empty() {
                Vec::new()
            } else {
                table.read(group, from..to, &wanted).map_err(failed)?
            };
            let names = batches.iter().flat_map(|batch| match &opening.key_column {
                Some(column) => table::texts(batch, column),
                None => Vec::new(),
            });
            let mut names = names.collect::<Vec<_>>().into_iter();
            let carried = batches.iter().flat_map(|batch| table::carried(batch, &opening.carry));
            let mut carried = carried.collect::<Vec<_>>().into_iter();
            for row in from..to {
                let number = first + row;
                let name = match &opening.key_column {
                    Some(_) => names.next().flatten().unwrap_or_default(),
                    None => number.to_string(),
                };
                let place = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
                let at = Place::Row(place(group as u64), place(row));
                let mut image = opening.inside(&name, at, 0);
                if let (Some(image), Some(carried)) = (&mut image, carried.next()) {
                    image.carried = carried;
                }
                let entry =
                    Entry { image, path: name, named: true, next: number + 1, group_rows: place(rows) };
                if !pages.push(entry) {
                    return Ok(());
                }
            }
            from = to;
        }
        first += rows;
    }
    Ok(())
}
