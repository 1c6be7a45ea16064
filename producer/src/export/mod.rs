//! `trawl export`: the rows of an output as CSV, JSON lines or a NumPy matrix.
//!
//! Reads the bucket alone, part by part in the order of the plan; no more than a part and a thousand of its rows are in
//! memory. A file gets its name only when it is whole, so that one that is there can be believed.

mod file;
mod npy;
mod text;

use crate::{
    bucket,
    cells::{Cell, cells},
    cli::{ExportArgs, ExportFormat, StatusFilter},
    errors::Stop,
    rows,
};
use file::Target;
use futures::TryStreamExt;
use std::{io::Write, path::Path, pin::pin, sync::Arc};
use trawl_common::{
    config::exit,
    disposition::describe,
    location::Location,
    results::{Columns, OutputLayout, PartReader, row::ResultRow},
    storage::{Storage, Stores},
};

/// Writes the rows of the output at `place`.
///
/// # Errors
/// Not found if it is no output, usage if the columns are not there, or what the store or the file gives.
pub async fn run(
    stores: &Arc<Stores>,
    place: &Location,
    args: &ExportArgs,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    let (spec, progress) = bucket::progress(stores, place).await?;
    let layout = OutputLayout::new(place.clone());
    let store = stores.open(place).await;
    let mut parts: Vec<PartRef> = Vec::new();
    {
        let mut footers = pin!(rows::footers(store.as_ref(), &layout));
        while let Some((key, footer)) = footers.try_next().await? {
            let failed = footer.failures;
            parts.push(PartRef { key, ok: footer.rows - failed, failed });
        }
    }
    let Some(first) = parts.first() else {
        let why = format!("job {} has no results yet: `trawl status {place}` says how it stands", spec.job);
        return Err(Stop::failed(why));
    };
    let columns = reader(store.as_ref(), &first.key).await?.columns().clone();
    let source = Source { store: store.as_ref(), parts: &parts, columns: &columns };
    let written = match args.to {
        ExportFormat::Csv | ExportFormat::Jsonl => {
            let chosen = Chosen::of(&columns, &args.columns)?;
            let mut target = Target::open(&args.file, out)?;
            let written = text::write(&source, &chosen, args, &mut target).await?;
            target.finish()?;
            written
        }
        ExportFormat::Npy => npy::write(&source, args, out).await?,
    };
    let rows = trawl_common::text::counted(written, "row", "rows");
    let there: u64 = parts.iter().map(|part| part.ok + part.failed).sum();
    match progress.images_planned {
        planned if planned > there => eprintln!(
            "{rows} written; job {} is not complete: {there} of {planned} planned images have a row so far",
            spec.job
        ),
        _ => eprintln!("{rows} written{}", place_of(&args.file)),
    }
    Ok(exit::OK)
}

fn place_of(file: &Path) -> String {
    if file == Path::new("-") { String::new() } else { format!(" to {}", file.display()) }
}

/// A part that was there when the export began.
struct PartRef {
    key: String,
    ok: u64,
    failed: u64,
}

/// What is exported.
struct Source<'a> {
    store: &'a dyn Storage,
    parts: &'a [PartRef],
    columns: &'a Columns,
}

impl Source<'_> {
    /// Hands every row that `filter` takes to `each`, in their order, and counts them.
    ///
    /// # Errors
    /// What the store or `each` gives, or failed if a part is not readable or has other columns than the first.
    async fn each_row(
        &self,
        filter: StatusFilter,
        each: &mut dyn FnMut(&ResultRow) -> Result<(), Stop>,
    ) -> Result<u64, Stop> {
        let mut written = 0;
        for part in self.parts {
            let mut opened = reader(self.store, &part.key).await?;
            if opened.columns() != self.columns {
                return Err(Stop::failed(format!(
                    "part `{}` has other columns than the first part: it was written by another version, or for another \
                     job",
                    part.key
                )));
            }
            loop {
                let (next, back) = blocking(move || (opened.next(), opened)).await;
                opened = back;
                let Some(rows) = next else { break };
                let rows = rows.map_err(|error| unreadable(&part.key, &error))?;
                for row in rows.iter().filter(|row| filter.takes(row.outcome.is_failed())) {
                    each(row)?;
                    written += 1;
                }
            }
        }
        Ok(written)
    }

    /// Rows that `filter` takes, by the footers.
    fn rows(&self, filter: StatusFilter) -> u64 {
        let of = |part: &PartRef| {
            let ok = if filter.takes(false) { part.ok } else { 0 };
            ok + if filter.takes(true) { part.failed } else { 0 }
        };
        self.parts.iter().map(of).sum()
    }
}

async fn reader(store: &dyn Storage, key: &str) -> Result<PartReader, Stop> {
    let bytes = store.get(key, rows::MAX_PART_BYTES).await?.bytes;
    let opened = blocking(move || PartReader::open(bytes)).await;
    opened.map_err(|error| unreadable(key, &error))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

fn unreadable(key: &str, error: &dyn std::error::Error) -> Stop {
    Stop::failed(format!("part `{key}` is not readable: {}", describe(error)))
}

/// The columns that are written, by their places in the schema.
struct Chosen {
    places: Vec<usize>,
    names: Vec<String>,
}

impl Chosen {
    /// Those with these names, or all.
    ///
    /// # Errors
    /// Usage, with the names that there are, if one is not among them.
    fn of(columns: &Columns, wanted: &[String]) -> Result<Self, Stop> {
        let schema = columns.schema();
        let all: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        if wanted.is_empty() {
            return Ok(Self { places: (0..all.len()).collect(), names: all });
        }
        let place = |name: &String| {
            all.iter().position(|there| there == name).ok_or_else(|| {
                Stop::usage(format!("these results have no column `{name}`: they have {}", all.join(", ")))
            })
        };
        let places = wanted.iter().map(place).collect::<Result<Vec<_>, Stop>>()?;
        Ok(Self { places, names: wanted.to_vec() })
    }

    /// Their values in a row.
    fn cells<'r>(&self, row: &'r ResultRow, columns: &Columns) -> Vec<Cell<'r>> {
        let all = cells(row, columns);
        self.places.iter().map(|place| all[*place]).collect()
    }
}

#[cfg(test)]
mod tests;
