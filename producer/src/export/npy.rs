//! A NumPy matrix of the embeddings (`.npy`, version 1.0) with a list of keys beside it.
//!
//! Line i of the matrix is line i of the list. The header has the number of lines before the first of them is written:
//! it comes from the footers of the parts, and an export that ends with another number fails.

use super::{Chosen, Source, file::Target, text::csv_line};
use crate::{
    cells::{Cell, cells},
    cli::{ExportArgs, StatusFilter},
    errors::Stop,
};
use std::{
    io::Write,
    path::{Path, PathBuf},
};
use trawl_common::{
    bundle::VectorType,
    results::{Columns, half_bytes, schema::HeadKind},
};

/// The matrix that is asked for.
struct Matrix {
    /// The column's place in the schema.
    place: usize,
    of: VectorType,
    /// The shape of a line.
    shape: Vec<u32>,
    /// The other columns that are asked for.
    keys: Chosen,
}

/// Writes the matrix and the list; how many lines they have.
///
/// # Errors
/// Usage if there is no column to make a matrix of, or not one; what the store or the files give.
pub(super) async fn write(source: &Source<'_>, args: &ExportArgs, out: &mut dyn Write) -> Result<u64, Stop> {
    let matrix = Matrix::of(source.columns, &args.columns)?;
    if let Some(status) = args.status.filter(|status| *status != StatusFilter::Ok) {
        return Err(Stop::usage(format!(
            "a matrix has no line for a failed image: leave out --status {}, or use --to jsonl",
            if status == StatusFilter::All { "all" } else { "error" }
        )));
    }
    let lines = source.rows(StatusFilter::Ok);
    let keys = beside(&args.file);
    let mut nowhere = std::io::sink();
    let mut list = match &keys {
        Some(path) => Target::open(path, &mut nowhere)?,
        None => Target::Printer(&mut nowhere),
    };
    let mut target = Target::open(&args.file, out)?;
    target.write_all(&header(matrix.of, lines, &matrix.shape))?;
    csv_line(&mut list, matrix.keys.names.iter().map(|name| Cell::Text(name)))?;
    let numbers: usize = matrix.shape.iter().map(|side| *side as usize).product();
    let mut bytes = Vec::with_capacity(numbers * 4);
    let each = &mut |row: &_| {
        let all = cells(row, source.columns);
        let Cell::Numbers(values) = all[matrix.place] else {
            return Err(Stop::failed(format!("the row of `{}` has no vector", row.key)));
        };
        bytes.clear();
        for value in values {
            match matrix.of {
                VectorType::F32 => bytes.extend(value.to_le_bytes()),
                VectorType::F16 => bytes.extend(half_bytes(*value)),
            }
        }
        target.write_all(&bytes)?;
        csv_line(&mut list, matrix.keys.places.iter().map(|place| all[*place]))
    };
    let written = source.each_row(StatusFilter::Ok, each).await?;
    if written != lines {
        return Err(Stop::failed(format!(
            "{written} rows were there where the footers of the parts counted {lines}: somebody changes this output; \
             try again"
        )));
    }
    list.finish()?;
    target.finish()?;
    Ok(written)
}

/// `vectors.keys.csv` for `vectors.npy`; none for stdout.
fn beside(file: &Path) -> Option<PathBuf> {
    (file != Path::new("-")).then(|| file.with_extension("keys.csv"))
}

impl Matrix {
    fn of(columns: &Columns, wanted: &[String]) -> Result<Self, Stop> {
        let vectors: Vec<(String, VectorType, Vec<u32>)> = columns
            .heads
            .iter()
            .filter_map(|head| {
                let name = format!("{}embedding", head.prefix());
                match &head.kind {
                    HeadKind::Vector(width, of) => Some((name, *of, vec![*width])),
                    HeadKind::Tensor(shape) => Some((name, VectorType::F32, shape.to_vec())),
                    HeadKind::Classes | HeadKind::Labels | HeadKind::Boxes => None,
                }
            })
            .collect();
        // Before anything else: a name that is not there.
        let all = Chosen::of(columns, &[])?.names;
        let asked = Chosen::of(columns, wanted)?;
        let is_asked = |name: &String| wanted.is_empty() || asked.names.contains(name);
        let mut chosen = vectors.iter().filter(|(name, ..)| is_asked(name));
        let names = || vectors.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>().join(", ");
        let (name, of, shape) = match (chosen.next(), chosen.next()) {
            (Some(one), None) => one.clone(),
            (None, _) if vectors.is_empty() => {
                return Err(Stop::usage(format!(
                    "these results have no embedding to make a matrix of (their columns: {}): use --to csv or --to jsonl",
                    all.join(", ")
                )));
            }
            (None, _) => {
                return Err(Stop::usage(format!("--columns names no embedding; there is {}", names())));
            }
            (Some(_), Some(_)) => {
                return Err(Stop::usage(format!(
                    "a matrix is of one embedding: choose with --columns among {}",
                    names()
                )));
            }
        };
        let mut listed: Vec<String> = wanted.iter().filter(|asked| **asked != name).cloned().collect();
        if listed.is_empty() {
            listed.push("key".to_owned());
        }
        let place = all.iter().position(|column| *column == name).unwrap_or_default();
        Ok(Self { place, of, shape, keys: Chosen::of(columns, &listed)? })
    }
}

/// The magic number, the version and a dictionary of Python, filled up to a multiple of 64 bytes.
fn header(of: VectorType, lines: u64, shape: &[u32]) -> Vec<u8> {
    const BEFORE: usize = 10;
    const ALIGNMENT: usize = 64;
    let descr = match of {
        VectorType::F32 => "<f4",
        VectorType::F16 => "<f2",
    };
    let sides: Vec<String> = shape.iter().map(ToString::to_string).collect();
    let mut text =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({lines}, {}), }}", sides.join(", "));
    let whole = (BEFORE + text.len() + 1).next_multiple_of(ALIGNMENT);
    text.extend(std::iter::repeat_n(' ', whole - BEFORE - text.len() - 1));
    text.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes());
    bytes.extend(text.into_bytes());
    bytes
}
