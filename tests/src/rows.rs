//! Reads an output back: every row of every part.

use std::path::Path;
use trawl_common::results::{part_rows::read_rows, row::ResultRow};

/// The rows of a local output, part by part.
///
/// # Panics
/// If a part cannot be read.
pub fn of_folder(out: &Path) -> Vec<ResultRow> {
    let mut parts: Vec<_> = std::fs::read_dir(out)
        .expect("the output is there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "parquet"))
        .collect();
    parts.sort();
    parts
        .iter()
        .flat_map(|part| read_rows(std::fs::read(part).expect("a part").into()).expect("rows"))
        .collect()
}
