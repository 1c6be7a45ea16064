//! S3 Inventory: the reports that Amazon writes of a bucket's objects, in the place of a listing.
//!
//! The source is a report's `manifest.json`, which names CSV or Parquet files with the objects. What is read is held
//! against the checksums that come with it. Format: Amazon S3 User Guide, "Amazon S3 Inventory" (keys in CSV are
//! URL-encoded, deleted and older versions may be listed and are no objects to read).

use super::{ContentsError, Opening, Pages, list, unusable};
use crate::{
    storage::{ObjectMeta, Storage, StorageError, reader::ObjectReader},
    table::{self, Table},
};
use bytes::Bytes;
use md5::{Digest, Md5};
use serde::Deserialize;
use std::{io::Read, sync::Arc};

/// The largest description of a report; one names a few hundred files.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// The largest file of a report; Amazon's have some tens of megabytes.
const MAX_FILE_BYTES: u64 = 2 << 30;

/// Columns of a report.
const COLUMNS: &[&str] = &[
    "bucket",
    "key",
    "size",
    "e_tag",
    "etag",
    "is_latest",
    "islatest",
    "is_delete_marker",
    "isdeletemarker",
];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    source_bucket: String,
    file_format: String,
    #[serde(default)]
    file_schema: String,
    files: Vec<ReportFile>,
}

#[derive(Deserialize)]
struct ReportFile {
    key: String,
    #[serde(rename = "MD5checksum")]
    md5: String,
}

/// Reads the report that `opening` describes, from object `next` on. Blocks.
pub(super) fn read(opening: &Opening, reader: &ObjectReader, pages: &mut Pages) -> Result<(), ContentsError> {
    let runtime = tokio::runtime::Handle::current();
    let get = |key: &str, most| runtime.block_on(opening.store.get(key, most)).map(|object| object.bytes);
    let json = get(&reader.object().key, MAX_MANIFEST_BYTES)?;
    let sum_key = format!("{}.checksum", opening.object.key.trim_end_matches(".json"));
    match get(&sum_key, MAX_MANIFEST_BYTES) {
        Ok(sum) => check(opening, "manifest.checksum", &String::from_utf8_lossy(&sum), &json)?,
        // A copy of a report may come without.
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    let report: Report = serde_json::from_slice(&json)
        .map_err(|error| unusable(opening, format!("it is no S3 Inventory manifest: {error}")))?;
    let mut number = 0;
    for file in &report.files {
        let bytes = file_bytes(opening, &file.key, get)?;
        check(opening, &file.key, &file.md5, &bytes)?;
        let mut taken = |row: Row| take(opening, &report, row, &mut number, pages);
        match report.file_format.to_ascii_lowercase().as_str() {
            "csv" => read_csv(opening, &report, &bytes, &mut taken)?,
            "parquet" => read_parquet(opening, &bytes, &mut taken)?,
            other => {
                let reason =
                    format!("its files are {other}: choose CSV or Parquet in the inventory's settings");
                return Err(unusable(opening, reason));
            }
        }
        if pages.is_closed() {
            break;
        }
    }
    Ok(())
}

/// The bytes of a report's file: where the report says, or beside the manifest, where a copy of it may lie.
fn file_bytes(
    opening: &Opening,
    key: &str,
    get: impl Fn(&str, u64) -> Result<Bytes, StorageError>,
) -> Result<Bytes, ContentsError> {
    let folder = opening.object.key.rsplit_once('/').map_or("", |(folder, _)| folder);
    let (above, base) =
        (folder.rsplit_once('/').map_or("", |(above, _)| above), key.rsplit('/').next().unwrap_or(key));
    let below = |folder: &str| format!("{folder}/{base}").trim_start_matches('/').to_owned();
    let mut missing = None;
    for candidate in
        [key.to_owned(), below(folder), below(&format!("{above}/data")), below(&format!("{folder}/data"))]
    {
        match get(&candidate, MAX_FILE_BYTES) {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.is_not_found() => missing = missing.or(Some(error)),
            Err(error) => return Err(error.into()),
        }
    }
    Err(missing.map_or_else(|| unusable(opening, format!("its file {key} is missing")), Into::into))
}

fn check(opening: &Opening, what: &str, expected: &str, bytes: &[u8]) -> Result<(), ContentsError> {
    let found: String = Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if found.eq_ignore_ascii_case(expected.trim()) {
        return Ok(());
    }
    let reason =
        format!("{what} should have the MD5 {} and has {found}: take a whole report", expected.trim());
    Err(unusable(opening, reason))
}

/// An object of a report.
#[derive(Default)]
struct Row {
    bucket: Option<String>,
    key: Option<String>,
    size: Option<u64>,
    etag: Option<String>,
    /// An older version, or the mark of a deletion.
    gone: bool,
}

impl Row {
    fn set(&mut self, column: &str, text: &str) {
        let text = text.trim_matches('"');
        match column {
            "bucket" => self.bucket = Some(text.to_owned()),
            "key" => self.key = Some(text.to_owned()),
            "size" => self.size = text.parse().ok(),
            "etag" | "e_tag" => self.etag = Some(text.to_owned()),
            "islatest" | "is_latest" => self.gone |= text.eq_ignore_ascii_case("false"),
            "isdeletemarker" | "is_delete_marker" => self.gone |= text.eq_ignore_ascii_case("true"),
            _ => {}
        }
    }
}

/// Hands an object on; `false` when nobody wants more.
fn take(opening: &Opening, report: &Report, row: Row, number: &mut u64, pages: &mut Pages) -> bool {
    *number += 1;
    let folder = row.key.as_ref().is_some_and(|key| key.ends_with('/'));
    if *number <= opening.next || row.gone || folder {
        return true;
    }
    let bucket = row.bucket.unwrap_or_else(|| report.source_bucket.clone());
    let key = row.key.map(|key| format!("s3://{bucket}/{key}"));
    let line = list::Line { key, etag: row.etag, size: row.size, carried: Vec::new() };
    let mut entry = list::entry_of(opening, line, *number);
    // A report is of all objects, as a listing is: the images among them are known by their names.
    entry.named = false;
    pages.push(entry)
}

fn read_csv(
    opening: &Opening,
    report: &Report,
    bytes: &Bytes,
    taken: &mut impl FnMut(Row) -> bool,
) -> Result<(), ContentsError> {
    let columns: Vec<String> =
        report.file_schema.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
    if !columns.iter().any(|name| name == "key") {
        return Err(unusable(opening, format!("its fileSchema `{}` has no Key", report.file_schema)));
    }
    let plain: Box<dyn Read + '_> = if bytes.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::read::MultiGzDecoder::new(&bytes[..]))
    } else {
        Box::new(&bytes[..])
    };
    let mut records = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(plain);
    for record in records.byte_records() {
        let record = record.map_err(|error| unusable(opening, format!("a file of it: {error}")))?;
        let mut row = Row::default();
        for (column, field) in columns.iter().zip(record.iter()) {
            match (column.as_str(), std::str::from_utf8(field)) {
                ("key", Ok(text)) => row.key = decoded(text),
                (column, Ok(text)) => row.set(column, text),
                (_, Err(_)) => {}
            }
        }
        if !taken(row) {
            break;
        }
    }
    Ok(())
}

fn read_parquet(
    opening: &Opening,
    bytes: &Bytes,
    taken: &mut impl FnMut(Row) -> bool,
) -> Result<(), ContentsError> {
    // At hand already: read as a file of its own.
    let store: Arc<dyn Storage> = Arc::new(crate::storage::memory::MemoryStorage::new("inventory"));
    let runtime = tokio::runtime::Handle::current();
    runtime.block_on(store.put("file", bytes.clone()))?;
    let object = ObjectMeta { key: "file".into(), size: bytes.len() as u64, etag: None, modified: None };
    let open = Table::open(ObjectReader::new(store, object));
    let table = open.map_err(|error| ContentsError::of_table(opening, error))?;
    for (group, rows) in table.groups().into_iter().enumerate() {
        let read = table.read(group, 0..rows, COLUMNS);
        for batch in read.map_err(|error| ContentsError::of_table(opening, error))? {
            let columns: Vec<_> = COLUMNS
                .iter()
                .filter(|name| batch.column_by_name(name).is_some())
                .map(|name| (*name, table::texts(&batch, name)))
                .collect();
            for n in 0..batch.num_rows() {
                let mut row = Row::default();
                for (name, texts) in &columns {
                    if let Some(text) = &texts[n] {
                        row.set(name, text);
                    }
                }
                if !taken(row) {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// A URL-encoded key; `None` if it is not text. A plus is a space, as forms write it.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        rest = after;
        match (byte, hex) {
            (b'%', Some(decoded)) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (byte, _) => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_as_amazon_encodes_them() {
        assert_eq!(decoded("a/b%20c+d%2Be%C3%A4.jpg").as_deref(), Some("a/b c d+eä.jpg"));
        assert_eq!(decoded("100%").as_deref(), Some("100%"));
        assert_eq!(decoded("%ff"), None);
    }
}
