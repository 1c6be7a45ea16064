//! `trawl failures`: the images of an output that have no prediction, and why.
//!
//! A part whose footer counts no failure is not read. The rows go to stdout, the sums to stderr.

use crate::{
    errors::Stop,
    next, report,
    results::Printing,
    rows,
    table::{Align, Table},
    target, text,
};
use futures::TryStreamExt;
use std::{collections::BTreeMap, pin::pin, sync::Arc};
use trawl_common::{
    config::{OutputFormat, exit},
    error_code::ErrorCode,
    location::Location,
    results::{
        OutputLayout,
        row::{Outcome, ResultRow},
    },
    storage::Stores,
};

/// Prints the failed rows of the output at `place`, those with `code` if one is given.
///
/// # Errors
/// Not found if it is no output, or what the store or the printer gives.
pub async fn run(
    stores: &Arc<Stores>,
    place: &Location,
    code: Option<ErrorCode>,
    printing: Printing<'_>,
) -> Result<u8, Stop> {
    let Printing { limit, output, terminal_width, out } = printing;
    let layout = OutputLayout::new(place.clone());
    let store = stores.open(place).await;
    let mut footers = pin!(rows::footers(store.as_ref(), &layout));
    let mut table =
        Table::new(&[("KEY", Align::Left), ("CODE", Align::Left), ("MESSAGE", Align::Left)], terminal_width);
    let mut left = limit.unwrap_or(u64::MAX);
    let (mut parts, mut failed, mut total) = (0_u64, BTreeMap::<ErrorCode, u64>::new(), 0_u64);
    while left > 0
        && let Some((key, footer)) = footers.try_next().await?
    {
        parts += 1;
        total += footer.rows;
        if footer.failures == 0 || code.is_some_and(|code| !footer.errors.contains_key(&code)) {
            continue;
        }
        let mut part = rows::of_part(store.as_ref(), &key).await?;
        part.rows.retain(|row| failure(row).is_some_and(|found| code.is_none_or(|code| code == found)));
        part.rows.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left -= part.rows.len() as u64;
        for found in part.rows.iter().filter_map(failure) {
            *failed.entry(found).or_default() += 1;
        }
        let printed = part.printed();
        match output {
            OutputFormat::Json => {
                for row in printed {
                    report::print_json(out, &row)?;
                }
            }
            OutputFormat::Text => {
                let cells: Vec<_> = printed.map(|row| row.failure_cells()).collect();
                table.print(out, &cells)?;
            }
        }
    }
    if parts == 0 {
        let spec = target::spec(stores, place).await?;
        eprintln!("job {} has no results yet: `trawl status {place}` says how it stands", spec.job);
    } else {
        out.flush()?;
        eprintln!("{}", summary(&failed, total, left == 0));
        if !failed.is_empty() {
            next::say(output, &next::failures(&place.to_string()));
        }
    }
    Ok(exit::OK)
}

fn failure(row: &ResultRow) -> Option<ErrorCode> {
    match &row.outcome {
        Outcome::Failed { code, .. } => Some(*code),
        Outcome::Ok(_) | Outcome::OkTruncated(_) => None,
    }
}

/// The sums in one line.
fn summary(failed: &BTreeMap<ErrorCode, u64>, total: u64, cut: bool) -> String {
    let all: u64 = failed.values().sum();
    let rows = text::counted(total, "row", "rows");
    if cut {
        return format!("stopped at --limit {all}: there may be more");
    }
    if all == 0 {
        return format!("no such failures in {rows}");
    }
    let mut by_code: Vec<_> = failed.iter().collect();
    by_code.sort_by_key(|(code, n)| (std::cmp::Reverse(**n), code.as_str()));
    let by_code: Vec<String> =
        by_code.iter().map(|(code, n)| format!("{code} {}", text::count(**n))).collect();
    format!("{} failed of {rows}: {}", text::count(all), by_code.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    async fn printed(code: Option<ErrorCode>, limit: Option<u64>) -> Vec<String> {
        let stores = fixture::output(3, true).await;
        let mut out = Vec::new();
        let printing = Printing { limit, output: OutputFormat::Json, terminal_width: None, out: &mut out };
        assert_eq!(run(&stores, &fixture::place(), code, printing).await.unwrap(), exit::OK);
        let code =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["error_code"].clone();
        String::from_utf8(out).unwrap().lines().map(|line| code(line).as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn only_failures_and_only_those_asked_for() {
        assert_eq!(printed(None, None).await, ["truncated", "corrupt", "truncated", "corrupt"]);
        assert_eq!(printed(Some(ErrorCode::Corrupt), None).await, ["corrupt", "corrupt"]);
        assert_eq!(printed(Some(ErrorCode::Empty), None).await, Vec::<String>::new());
        assert_eq!(printed(None, Some(3)).await.len(), 3);
    }

    #[tokio::test]
    async fn a_part_without_failures_is_not_read() {
        let stores = fixture::output(3, true).await;
        let (store, layout) = (stores.open(&fixture::place()).await, OutputLayout::new(fixture::place()));
        // Its footer is whole, its rows are not: reading them would fail.
        let key = layout.part(trawl_common::batch::BatchNumber(0));
        let mut part = store.get(&key, 1 << 20).await.unwrap().bytes.to_vec();
        part[4..64].fill(0xff);
        store.put(&key, part.into()).await.unwrap();
        let mut out = Vec::new();
        let printing =
            Printing { limit: None, output: OutputFormat::Text, terminal_width: None, out: &mut out };
        run(&stores, &fixture::place(), None, printing).await.unwrap();
        assert_eq!(String::from_utf8(out).unwrap().lines().count(), 5);
    }

    #[test]
    fn sums_are_in_the_order_of_their_weight() {
        let failed = [(ErrorCode::Corrupt, 1), (ErrorCode::Truncated, 1200)].into();
        assert_eq!(summary(&failed, 5000, false), "1,201 failed of 5,000 rows: truncated 1,200, corrupt 1");
        assert_eq!(summary(&BTreeMap::new(), 1, false), "no such failures in 1 row");
        assert!(summary(&failed, 5000, true).contains("may be more"));
    }
}
