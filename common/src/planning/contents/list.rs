//! Lists of keys or URLs: lines, CSV, JSON lines or a Parquet table, compressed by gzip or not.
//!
//! An entry names a whole object somewhere else. What it does not say (size, tag) stays unknown until a worker reads the
//! image. An entry is never left out because it looks wrong: it becomes a row that says so; only what carries
//! credentials, or cannot be a key at all, is counted instead, so that no secret is written anywhere.

use super::{ContentsError, Entry, Opening, Pages, unusable};
use crate::{
    batch::{ImageRef, MAX_ETAG_BYTES, MAX_NAME_BYTES},
    carried::{Carried, CarriedColumn, MAX_CARRIED_BYTES},
    location::{Location, LocationError},
    storage::reader::ObjectReader,
    table::{self, Table},
};
use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
};

/// Names that columns of keys go by, the first found wins.
const KEY_NAMES: &[&str] = &[
    "key",
    "url",
    "uri",
    "path",
    "image",
    "image_url",
    "image_path",
    "file",
    "filename",
    "file_name",
    "location",
];

/// Names of columns of sizes in bytes, and of entity tags.
const SIZE_NAMES: &[&str] = &["size", "bytes", "content_length"];
const TAG_NAMES: &[&str] = &["etag", "e_tag"];

/// The longest line: a key, and some carried values.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Rows of a table that are read at once.
const TABLE_ROWS: u64 = 16_384;

/// What an entry of a list says.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub key: Option<String>,
    pub etag: Option<String>,
    pub size: Option<u64>,
    pub carried: Carried,
}

/// Reads the list, from entry `next` on. Blocks.
pub(super) fn read(opening: &Opening, reader: &ObjectReader, pages: &mut Pages) -> Result<(), ContentsError> {
    let name = opening.object.key.to_ascii_lowercase();
    if name.ends_with(".parquet") {
        return read_table(opening, reader, pages);
    }
    let bytes: Box<dyn Read> = if name.ends_with(".gz") {
        Box::new(flate2::read::MultiGzDecoder::new(reader.stream(0)))
    } else {
        Box::new(reader.stream(0))
    };
    let name = name.trim_end_matches(".gz");
    let mut bytes = BufReader::new(bytes);
    let read = if name.ends_with(".csv") {
        read_csv(opening, &mut bytes, pages)
    } else if name.ends_with(".jsonl") || name.ends_with(".ndjson") {
        read_lines(opening, &mut bytes, pages, |line| json_line(line, opening))
    } else {
        read_lines(opening, &mut bytes, pages, |line| {
            Ok(Line { key: Some(line.to_owned()), ..Line::default() })
        })
    };
    // What the store did says more than what the parser made of it.
    read.map_err(|error| reader.failure().map_or(error, ContentsError::from))
}

fn read_lines(
    opening: &Opening,
    bytes: &mut impl BufRead,
    pages: &mut Pages,
    parse: impl Fn(&str) -> Result<Line, String>,
) -> Result<(), ContentsError> {
    let (mut number, mut line) = (0_u64, Vec::new());
    loop {
        line.clear();
        let read = bytes.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
        let at = number + 1;
        let wrong = |what: String| unusable(opening, format!("line {at}: {what}"));
        if read.map_err(|error| wrong(error.to_string()))? == 0 {
            return Ok(());
        }
        if line.len() as u64 == MAX_LINE_BYTES {
            return Err(wrong(format!("it has more than {MAX_LINE_BYTES} bytes; is this a list?")));
        }
        number = at;
        if number <= opening.next {
            continue;
        }
        let text = std::str::from_utf8(line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&line));
        let entry = match text.map(|text| text.trim_end_matches(['\n', '\r'])) {
            // Not text: counted.
            Err(_) => Line::default(),
            Ok("") => continue,
            Ok(text) => parse(text).map_err(wrong)?,
        };
        if !pages.push(entry_of(opening, entry, number)) {
            return Ok(());
        }
    }
}

fn json_line(line: &str, opening: &Opening) -> Result<Line, String> {
    let value: serde_json::Value =
        serde_json::from_str(line).map_err(|error| format!("it is no JSON: {error}"))?;
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let serde_json::Value::Object(fields) = &value else {
        return match value {
            serde_json::Value::String(key) => Ok(Line { key: Some(key), ..Line::default() }),
            _ => Err("it is neither a text nor an object".to_owned()),
        };
    };
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    let columns = Columns::find(opening, &names)?;
    let field = |at: usize| fields.get(names[at]).and_then(text);
    Ok(columns.line(&opening.carry, &names, field))
}

fn read_csv(opening: &Opening, bytes: &mut impl BufRead, pages: &mut Pages) -> Result<(), ContentsError> {
    // A mark of UTF-8 is no part of the first name.
    if bytes.fill_buf().is_ok_and(|start| start.starts_with("\u{feff}".as_bytes())) {
        bytes.consume(3);
    }
    let mut records = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut record = csv::ByteRecord::new();
    let wrong =
        |number: u64, error: &dyn std::fmt::Display| unusable(opening, format!("record {number}: {error}"));
    let mut header: Option<(Vec<String>, Columns)> = None;
    let mut number = 0;
    loop {
        if !records.read_byte_record(&mut record).map_err(|error| wrong(number + 1, &error))? {
            return Ok(());
        }
        number += 1;
        if header.is_none() {
            let names: Vec<String> =
                record.iter().map(|name| String::from_utf8_lossy(name).trim().to_owned()).collect();
            let texts: Vec<&str> = names.iter().map(String::as_str).collect();
            match Columns::find(opening, &texts) {
                Ok(columns) => {
                    header = Some((names, columns));
                    continue;
                }
                // One column and no known name: a list with commas in its name's stead.
                Err(_) if names.len() == 1 && opening.key_column.is_none() => {
                    header = Some((vec!["key".to_owned()], Columns { key: 0, etag: None, size: None }));
                }
                Err(reason) => return Err(unusable(opening, reason)),
            }
        }
        if number <= opening.next {
            continue;
        }
        let Some((names, columns)) = &header else { continue };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let field = |at: usize| {
            let text = record.get(at).and_then(|field| std::str::from_utf8(field).ok());
            text.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        let line = columns.line(&opening.carry, &names, field);
        if !pages.push(entry_of(opening, line, number)) {
            return Ok(());
        }
    }
}

fn read_table(opening: &Opening, reader: &ObjectReader, pages: &mut Pages) -> Result<(), ContentsError> {
    let table = Table::open(reader.clone()).map_err(|error| ContentsError::of_table(opening, error))?;
    let names: Vec<String> = table.schema().fields().iter().map(|field| field.name().clone()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let columns = Columns::find(opening, &names).map_err(|reason| unusable(opening, reason))?;
    let name = |at: Option<usize>| at.map(|at| names[at]);
    let mut wanted: Vec<&str> = opening.carry.iter().map(|column| column.name.as_str()).collect();
    wanted.extend([Some(names[columns.key]), name(columns.etag), name(columns.size)].into_iter().flatten());
    let mut first = 0;
    for (group, rows) in table.groups().into_iter().enumerate() {
        let mut from = opening.next.saturating_sub(first).min(rows);
        while from < rows {
            let to = (from + TABLE_ROWS).min(rows);
            let read = table.read(group, from..to, &wanted);
            for batch in read.map_err(|error| ContentsError::of_table(opening, error))? {
                let mut keys = table::texts(&batch, names[columns.key]);
                let texts = |at: Option<usize>| name(at).map(|name| table::texts(&batch, name));
                let (etags, sizes) = (texts(columns.etag), texts(columns.size));
                for (row, carried) in table::carried(&batch, &opening.carry).into_iter().enumerate() {
                    let of = |texts: &Option<Vec<Option<String>>>| texts.as_ref()?.get(row)?.clone();
                    let size = of(&sizes).and_then(|text| text.parse().ok());
                    let line = Line { key: keys[row].take(), etag: of(&etags), size, carried };
                    if !pages.push(entry_of(opening, line, first + from + row as u64 + 1)) {
                        return Ok(());
                    }
                }
            }
            from = to;
        }
        first += rows;
    }
    Ok(())
}

/// Which columns say what.
struct Columns {
    key: usize,
    etag: Option<usize>,
    size: Option<usize>,
}

impl Columns {
    fn find(opening: &Opening, names: &[&str]) -> Result<Self, String> {
        let find = |known: &[&str]| {
            known.iter().find_map(|known| names.iter().position(|name| name.eq_ignore_ascii_case(known)))
        };
        let there = || names.iter().take(20).copied().collect::<Vec<_>>().join(", ");
        let key = match &opening.key_column {
            Some(asked) => names
                .iter()
                .position(|name| name == asked)
                .ok_or_else(|| format!("it has no column `{asked}`: there are {}", there()))?,
            None => find(KEY_NAMES).ok_or_else(|| {
                format!(
                    "it is not clear which of its columns names the images: say with --key-column ({})",
                    there()
                )
            })?,
        };
        Ok(Self { key, etag: find(TAG_NAMES), size: find(SIZE_NAMES) })
    }

    fn line(&self, carry: &[CarriedColumn], names: &[&str], field: impl Fn(usize) -> Option<String>) -> Line {
        let carried = carry.iter().map(|column| {
            let at = names.iter().position(|name| *name == column.name)?;
            field(at).filter(|text| text.len() <= MAX_CARRIED_BYTES)
        });
        Line {
            key: field(self.key),
            etag: self.etag.and_then(&field).map(|tag| tag.trim_matches('"').to_owned()),
            size: self.size.and_then(&field).and_then(|text| text.trim().parse().ok()),
            carried: carried.collect(),
        }
    }
}

/// The entry of a line, behind which the list goes on with entry `next`.
pub(super) fn entry_of(opening: &Opening, line: Line, next: u64) -> Entry {
    let key = line.key.map(|key| joined(&opening.root, &key)).filter(|key| is_usable(key));
    let etag = line.etag.filter(|tag| !tag.is_empty() && tag.len() <= MAX_ETAG_BYTES);
    let path = key.clone().unwrap_or_default();
    let image = key
        .map(|key| ImageRef { carried: line.carried, ..ImageRef::whole(key, etag, line.size.unwrap_or(0)) });
    Entry { image, path, named: true, next, group_rows: 0 }
}

/// A name below `root`, unless it is whole already.
fn joined(root: &str, key: &str) -> String {
    if root.is_empty() || key.contains("://") || key.starts_with('/') {
        return key.to_owned();
    }
    format!("{}/{key}", root.trim_end_matches('/'))
}

fn is_usable(key: &str) -> bool {
    let fits = !key.is_empty() && key.len() <= MAX_NAME_BYTES;
    fits && !matches!(Location::parse(key, Path::new("/")), Err(LocationError::Credentials { .. }))
}
