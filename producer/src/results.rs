//! `trawl results`: the rows of an output, in the order of the plan.
//!
//! Reads the bucket alone. What is not done yet has no rows; nothing is waited for.

use crate::{
    errors::Stop,
    report, rows,
    table::{Align, Table},
    target,
};
use futures::TryStreamExt;
use std::{io::Write, pin::pin, sync::Arc};
use trawl_common::{
    config::{OutputFormat, exit},
    location::Location,
    results::OutputLayout,
    storage::Stores,
};

/// Where and how rows are printed.
pub struct Printing<'a> {
    /// Rows at most.
    pub limit: Option<u64>,
    /// Table or JSON lines.
    pub output: OutputFormat,
    /// In characters; `None` cuts nothing.
    pub terminal_width: Option<usize>,
    /// The printer.
    pub out: &'a mut dyn Write,
}

/// Prints the rows of the output at `place`.
///
/// # Errors
/// Not found if it is no output, or what the store or the printer gives.
pub async fn run(stores: &Arc<Stores>, place: &Location, printing: Printing<'_>) -> Result<u8, Stop> {
    let Printing { limit, output, terminal_width, out } = printing;
    let layout = OutputLayout::new(place.clone());
    let store = stores.open(place).await;
    let mut parts = pin!(rows::of_parts(store.as_ref(), &layout));
    let mut table = Table::new(
        &[
            ("KEY", Align::Left),
            ("STATUS", Align::Left),
            ("LABEL", Align::Left),
            ("CONFIDENCE", Align::Right),
        ],
        terminal_width,
    );
    let mut left = limit.unwrap_or(u64::MAX);
    let mut any = false;
    while left > 0
        && let Some(mut part) = parts.try_next().await?
    {
        any = true;
        part.rows.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= part.rows.len() as u64;
        let printed = part.printed();
        match output {
            OutputFormat::Json => {
                for row in printed {
                    report::print_json(out, &row)?;
                }
            }
            OutputFormat::Text => {
                let cells: Vec<_> = printed.map(|row| row.result_cells()).collect();
                table.print(out, &cells)?;
            }
        }
    }
    if !any {
        let spec = target::spec(stores, place).await?;
        eprintln!("job {} has no results yet: `trawl status {place}` says how it stands", spec.job);
    }
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    async fn printed(done: u64, limit: Option<u64>, output: OutputFormat) -> String {
        let stores = fixture::output(done, true).await;
        let mut out = Vec::new();
        let printing = Printing { limit, output, terminal_width: None, out: &mut out };
        assert_eq!(run(&stores, &fixture::place(), printing).await.unwrap(), exit::OK);
        String::from_utf8(out).unwrap()
    }

    #[tokio::test]
    async fn rows_come_in_order_and_stop_at_the_limit() {
        let json = printed(3, None, OutputFormat::Json).await;
        let keys: Vec<String> = json
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["key"].as_str().unwrap().to_owned()
            })
            .collect();
        assert_eq!(keys.len(), 9);
        assert!(keys.is_sorted(), "{keys:?}");
        assert_eq!(printed(3, Some(4), OutputFormat::Json).await.lines().count(), 4);
        let table = printed(3, Some(4), OutputFormat::Text).await;
        assert_eq!(table.lines().count(), 5, "{table}");
        assert_eq!(table.matches("KEY").count(), 1, "{table}");
        assert_eq!(printed(0, None, OutputFormat::Text).await, "", "nothing done yet is no error");
    }

    #[tokio::test]
    async fn a_place_that_is_no_output_is_not_found() {
        let mut out = Vec::new();
        let printing =
            Printing { limit: None, output: OutputFormat::Json, terminal_width: None, out: &mut out };
        let stop = run(&Stores::in_memory(), &fixture::place(), printing).await.unwrap_err();
        assert_eq!(stop.code, exit::NOT_FOUND);
    }
}
