//! Plan files: which image belongs to which batch, durable before any of it is published.
//!
//! The producer writes them while it lists and reads them again when it was killed: what is planned stays
//! planned, with the same numbers, and the listing goes on after the [`Cursor`] of the last file, whatever
//! has changed in the bucket before it. Equal plans have equal bytes (no times, no names of processes), so
//! that a producer whose put found a file there can tell its own from another's.

#[path = "plan_extras.rs"]
mod extras;

use super::{
    footer::{FetchFooterError, FooterEntries, FooterError, entry},
    part::{MAX_ROW_GROUP_ROWS, ZSTD_LEVEL},
};
use crate::{
    batch::{BatchNumber, ImageRef, MAX_BATCH_IMAGES},
    storage::Storage,
};
use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Int64Type, Schema},
};
use bytes::Bytes;
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, Encoding, ZstdLevel},
    errors::ParquetError,
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Where the listing stood after the last image of a plan file, and what was counted up to there.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Index of the source in the job's spec; the number of sources once all of them are listed.
    pub source: usize,
    /// The last key of it that is planned, as its store spells it; none: the source's beginning.
    pub after: Option<String>,
    /// The object of that key holds more images than are planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Inside>,
    /// Images planned.
    pub images: u64,
    /// Objects left out by the filters.
    pub skipped: u64,
    /// Entries whose names cannot be used: not text, or nothing the store's client can ask for.
    pub unlistable: u64,
}

/// How much of an object that holds many images is planned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inside {
    /// Where it goes on: a byte of an archive or list, a row of a table.
    pub next: u64,
    /// The object's tag: one that changed has to be planned anew.
    pub etag: Option<String>,
}

/// `plan/_DONE`: the plan's end and its sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanDone {
    /// Batches in all.
    pub batches: u64,
    /// Images in all.
    pub images: u64,
    /// Objects left out by the filters.
    pub skipped: u64,
    /// Entries whose names cannot be used: not text, or nothing the store's client can ask for.
    pub unlistable: u64,
}

impl PlanDone {
    /// The object's bytes.
    pub fn to_json(&self) -> Bytes {
        serde_json::to_vec(self).expect("sums are plain data").into()
    }

    /// Reads the object.
    ///
    /// # Errors
    /// [`PlanFileError::Done`].
    pub fn parse(json: &[u8]) -> Result<Self, PlanFileError> {
        serde_json::from_slice(json).map_err(PlanFileError::Done)
    }
}

/// A plan file that cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum PlanFileError {
    /// The writer or reader failed.
    #[error("the plan file cannot be encoded or read: {0}")]
    Parquet(#[from] ParquetError),
    /// Arrow refuses the arrays.
    #[error("the plan cannot be put into columns: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// The file is no plan file of ours.
    #[error(transparent)]
    Footer(#[from] FooterError),
    /// The rows do not agree with the footer.
    #[error("the plan file contradicts itself: {0}")]
    Contradiction(String),
    /// `_DONE` is not what it should be.
    #[error("the plan's end mark is not readable: {0}")]
    Done(#[source] serde_json::Error),
}

/// What a plan file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanFileFooter {
    /// The number of its first batch.
    pub first_batch: BatchNumber,
    /// Batches in it, numbered without gaps.
    pub batches: u64,
    /// Images in it.
    pub images: u64,
    /// Where the listing goes on.
    pub cursor: Cursor,
    /// Images by batch, run by run: (images, batches in a row that have as many).
    runs: Vec<(u64, u64)>,
}

impl PlanFileFooter {
    /// Reads the footer out of the last bytes of a plan file of `size` bytes.
    ///
    /// # Errors
    /// [`FooterError::NeedMore`] with the number of bytes if `tail` is too short.
    pub fn read(tail: &Bytes, size: u64) -> Result<Self, FooterError> {
        Self::of(&FooterEntries::read(tail, size)?)
    }

    /// Fetches the footer of the plan file at `key`.
    ///
    /// # Errors
    /// [`FetchFooterError`]; `NotFound` of the store if there is no such file. Cancel safe.
    pub async fn fetch(store: &dyn Storage, key: &str) -> Result<Self, FetchFooterError> {
        let (entries, _) = FooterEntries::fetch(store, key).await?;
        Self::of(&entries).map_err(|reason| FetchFooterError::Unusable { key: key.to_owned(), reason })
    }

    /// Each batch with the number of its images.
    pub fn batch_images(&self) -> impl Iterator<Item = (BatchNumber, u64)> {
        let sizes = self.runs.iter().flat_map(|&(images, batches)| (0..batches).map(move |_| images));
        (self.first_batch.0..).map(BatchNumber).zip(sizes)
    }

    /// The same, run by run: (images, batches in a row that have as many).
    pub fn runs(&self) -> &[(u64, u64)] {
        &self.runs
    }

    fn of(entries: &FooterEntries) -> Result<Self, FooterError> {
        let footer = Self {
            first_batch: BatchNumber(entries.value("trawl.first_batch")?),
            batches: entries.value("trawl.batches")?,
            images: entries.value("trawl.images")?,
            cursor: entries.json("trawl.cursor")?,
            runs: entries.json("trawl.batch_images")?,
        };
        let bad = |name, reason| Err(FooterError::Bad { name, reason });
        if footer.images != entries.rows() {
            return bad(
                "trawl.images",
                format!("it says {}, the file has {}", footer.images, entries.rows()),
            );
        }
        let sums = footer.runs.iter().try_fold((0_u64, 0_u64), |(batches, images), (size, n)| {
            Some((batches.checked_add(*n)?, images.checked_add(size.checked_mul(*n)?)?))
        });
        // An empty batch would let a few bytes claim any number of them.
        if sums != Some((footer.batches, footer.images)) || footer.runs.iter().any(|(size, _)| *size == 0) {
            return bad("trawl.batch_images", "it does not sum to the batches and images".into());
        }
        Ok(footer)
    }
}

/// Encodes batches `first_batch`, `first_batch + 1`, ... as a Parquet file with the columns `batch`, `key`,
/// `etag` and `size`. Takes tens of milliseconds of one core: not for an async thread.
///
/// # Errors
/// [`PlanFileError`]; a fault of the caller's (an empty batch) or of the encoder's.
pub fn encode_plan_file(
    first_batch: BatchNumber,
    batches: &[Vec<ImageRef>],
    cursor: &Cursor,
) -> Result<Bytes, PlanFileError> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for batch in batches {
        let images = batch.len() as u64;
        if images == 0 {
            return Err(PlanFileError::Contradiction("a batch has no images".into()));
        }
        match runs.last_mut() {
            Some((size, n)) if *size == images => *n += 1,
            _ => runs.push((images, 1)),
        }
    }
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let numbered = batches.iter().zip(first_batch.0..);
    let numbers = numbered.flat_map(|(batch, number)| batch.iter().map(move |_| signed(number)));
    let images = || batches.iter().flatten();
    let mut fields: Vec<_> = schema().fields().iter().cloned().collect();
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(numbers)),
        Arc::new(StringArray::from_iter_values(images().map(|image| &image.key))),
        Arc::new(StringArray::from_iter(images().map(|image| image.etag.as_deref()))),
        Arc::new(Int64Array::from_iter_values(images().map(|image| signed(image.size)))),
    ];
    for (field, column) in extras::encode(batches) {
        fields.push(field);
        columns.push(column);
    }
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    let metadata = vec![
        entry("trawl.first_batch", &first_batch.0),
        entry("trawl.batches", &batches.len()),
        entry("trawl.images", &rows.num_rows()),
        entry("trawl.batch_images", &serde_json::to_string(&runs).expect("counts are plain data")),
        entry("trawl.cursor", &serde_json::to_string(cursor).expect("a cursor is plain data")),
    ];
    let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties(metadata)?))?;
    writer.write(&rows)?;
    Ok(writer.into_inner()?.into())
}

fn schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![
        Field::new("batch", DataType::Int64, false),
        Field::new("key", DataType::Utf8, false),
        Field::new("etag", DataType::Utf8, true),
        Field::new("size", DataType::Int64, false),
    ]))
}

fn properties(metadata: Vec<parquet::file::metadata::KeyValue>) -> Result<WriterProperties, ParquetError> {
    let column = |name: &str| ColumnPath::from(name);
    Ok(WriterProperties::builder()
        .set_created_by(format!("trawl {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_max_row_group_row_count(Some(MAX_ROW_GROUP_ROWS))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_dictionary_enabled(false)
        // Keys come in order and share long beginnings; numbers repeat.
        .set_column_encoding(column("batch"), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding(column("key"), Encoding::DELTA_BYTE_ARRAY)
        .set_column_encoding(column("size"), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding(column(extras::OBJECT), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding(column(extras::AT), Encoding::DELTA_BINARY_PACKED)
        .set_column_encoding(column(extras::ROW_GROUP), Encoding::DELTA_BINARY_PACKED)
        .set_key_value_metadata(Some(metadata))
        .build())
}

/// The batches of a plan file, in order. Takes tens of milliseconds of one core: not for an async thread.
///
/// # Errors
/// [`PlanFileError`] if the file is not ours, or its rows do not agree with its footer.
pub fn read_plan_file(bytes: Bytes) -> Result<Vec<(BatchNumber, Vec<ImageRef>)>, PlanFileError> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let footer = PlanFileFooter::of(&FooterEntries::of(builder.metadata()))?;
    let wanted = schema();
    let ours = |f: &Arc<Field>| {
        builder.schema().field_with_name(f.name()).is_ok_and(|g| g.data_type() == f.data_type())
    };
    if !wanted.fields().iter().all(ours) {
        return Err(PlanFileError::Contradiction("its columns are not those of a plan".into()));
    }
    let mut images = Vec::new();
    for rows in builder.build()? {
        let rows = rows?;
        let wrong = || PlanFileError::Contradiction("a column has another type than a plan's".into());
        let column = |name| rows.column_by_name(name).ok_or_else(wrong);
        let numbers: &Int64Array = column("batch")?.as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
        let keys: &StringArray = column("key")?.as_string_opt().ok_or_else(wrong)?;
        let etags: &StringArray = column("etag")?.as_string_opt().ok_or_else(wrong)?;
        let sizes: &Int64Array = column("size")?.as_primitive_opt::<Int64Type>().ok_or_else(wrong)?;
        let extras = extras::View::of(&rows);
        images.extend((0..rows.num_rows()).map(|row| {
            let etag = etags.is_valid(row).then(|| etags.value(row).to_owned());
            let size = u64::try_from(sizes.value(row)).unwrap_or(0);
            let (within, carried) = (extras.within(row), extras.carried(row));
            (numbers.value(row), ImageRef { key: keys.value(row).to_owned(), etag, size, within, carried })
        }));
    }
    let mut images = images.into_iter();
    let mut batches = Vec::new();
    for (number, size) in footer.batch_images() {
        // The footer sums to the rows; a single size beyond the limit would still be no batch.
        let size = usize::try_from(size).ok().filter(|n| *n <= MAX_BATCH_IMAGES);
        let size =
            size.ok_or_else(|| PlanFileError::Contradiction(format!("batch {number} is too large")))?;
        let taken: Vec<_> = images.by_ref().take(size).collect();
        if taken.len() != size || taken.iter().any(|(n, _)| u64::try_from(*n) != Ok(number.0)) {
            return Err(PlanFileError::Contradiction(format!("batch {number} has other rows than it says")));
        }
        batches.push((number, taken.into_iter().map(|(_, image)| image).collect()));
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Place, Within};

    fn image(n: usize) -> ImageRef {
        let etag = (!n.is_multiple_of(3)).then(|| format!("{n:x}"));
        ImageRef::whole(format!("s3://bucket/photos/2024/ä{n:06}.jpg"), etag, 100_000 + n as u64)
    }

    fn cursor() -> Cursor {
        let inside = Some(Inside { next: 4096, etag: Some("e".into()) });
        Cursor {
            source: 1,
            after: Some("photos/\"ä\".jpg".into()),
            inside,
            images: 11,
            skipped: 4,
            unlistable: 1,
        }
    }

    #[test]
    fn a_plan_file_round_trips() {
        let batches: Vec<Vec<ImageRef>> =
            vec![(0..4).map(image).collect(), (4..8).map(image).collect(), (8..11).map(image).collect()];
        let file = encode_plan_file(BatchNumber(7), &batches, &cursor()).unwrap();
        let read = read_plan_file(file.clone()).unwrap();
        assert_eq!(read.iter().map(|(n, _)| n.0).collect::<Vec<_>>(), [7, 8, 9]);
        assert_eq!(read.into_iter().map(|(_, images)| images).collect::<Vec<_>>(), batches);
        let footer = PlanFileFooter::read(&file, file.len() as u64).unwrap();
        assert_eq!((footer.first_batch, footer.batches, footer.images), (BatchNumber(7), 3, 11));
        assert_eq!(footer.cursor, cursor());
        let sizes: Vec<_> = footer.batch_images().map(|(n, images)| (n.0, images)).collect();
        assert_eq!(sizes, [(7, 4), (8, 4), (9, 3)]);
    }

    #[test]
    fn places_and_carried_values_round_trip() {
        let at = |key: &str, place| {
            Some(Within { object: u32::try_from(key.find('#').unwrap()).unwrap(), at: place })
        };
        let (tar, table) = ("s3://b/0.tar#a.jpg", "s3://b/0.parquet#7");
        let batches = vec![
            vec![
                ImageRef { within: at(tar, Place::Bytes(1 << 40)), ..ImageRef::whole(tar, None, 5) },
                ImageRef { within: at(table, Place::Row(3, 9)), ..ImageRef::whole(table, None, 5) },
            ],
            vec![
                ImageRef { carried: vec![Some("x".into()), None], ..ImageRef::whole("a", None, 5) },
                ImageRef { carried: vec![None, Some(String::new())], ..ImageRef::whole("b", None, 5) },
            ],
        ];
        let file = encode_plan_file(BatchNumber(0), &batches, &cursor()).unwrap();
        let read = read_plan_file(file).unwrap();
        let padded = |image: &ImageRef| ImageRef {
            carried: (0..2).map(|n| image.carried.get(n).cloned().flatten()).collect(),
            ..image.clone()
        };
        let expected: Vec<Vec<_>> = batches.iter().map(|batch| batch.iter().map(padded).collect()).collect();
        assert_eq!(read.into_iter().map(|(_, images)| images).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn equal_plans_have_equal_bytes_and_are_small() {
        let batches: Vec<Vec<ImageRef>> =
            (0..256).map(|b| (b * 256..(b + 1) * 256).map(image).collect()).collect();
        let file = encode_plan_file(BatchNumber(0), &batches, &cursor()).unwrap();
        assert_eq!(file, encode_plan_file(BatchNumber(0), &batches, &cursor()).unwrap());
        assert!(file.len() < 65_536 * 10, "65,536 images took {} bytes", file.len());
    }

    #[test]
    fn broken_files_are_refused() {
        let file = encode_plan_file(BatchNumber(0), &[vec![image(1)]], &cursor()).unwrap();
        for cut in [0, 5, file.len() / 2, file.len() - 1] {
            assert!(read_plan_file(file.slice(..cut)).is_err(), "cut at {cut}");
        }
        assert!(encode_plan_file(BatchNumber(0), &[vec![]], &cursor()).is_err());
        assert!(PlanDone::parse(b"{\"batches\": 1}").is_err());
        let done = PlanDone { batches: 1, images: 2, skipped: 3, unlistable: 4 };
        assert_eq!(PlanDone::parse(&done.to_json()).unwrap(), done);
    }
}
