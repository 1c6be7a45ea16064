//! Tables of images: Parquet files with a column that holds image files, as Hugging Face writes them.
//!
//! The producer reads how many rows each row group has, the worker the cells of some rows. Both must take the same
//! column: which one is decided here. Blocking: reads its file through [`ObjectReader`].

use crate::{
    carried::{CarriedColumn, MAX_CARRIED_BYTES},
    storage::{
        ObjectMeta,
        reader::{ObjectReader, ReadError},
    },
};
use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{DataType, Field, Schema},
};
use bytes::Bytes;
use parquet::{
    arrow::{
        ProjectionMask,
        arrow_reader::{
            ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
            RowSelector,
        },
    },
    errors::ParquetError,
    file::metadata::{ColumnChunkMetaData, PageIndexPolicy},
};
use std::ops::Range;

/// Names that columns of image files go by, the first found wins; Hugging Face's is `image`.
const IMAGE_NAMES: &[&str] = &[
    "image",
    "img",
    "picture",
    "photo",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "bytes",
    "image_bytes",
    "content",
    "data",
];

/// The field with the file in a column of Hugging Face's type Image.
const HF_BYTES: &str = "bytes";

/// A table that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The file is not Parquet, or damaged.
    #[error("it cannot be read as Parquet: {0}")]
    Parquet(String),
    /// There is no such column, or it holds no files.
    #[error("{0}")]
    Column(String),
    /// The store, or a file that changed.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A table, its footer read.
#[derive(Debug, Clone)]
pub struct Table {
    reader: ObjectReader,
    metadata: ArrowReaderMetadata,
}

impl Table {
    /// Reads the footer. Blocks.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn open(reader: ObjectReader) -> Result<Self, TableError> {
        // Without the page index every read of some rows is one of their whole row group.
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        match ArrowReaderMetadata::load(&reader, options) {
            Ok(metadata) => Ok(Self { reader, metadata }),
            Err(error) => Err(failed(&reader, &error)),
        }
    }

    /// The same table, read by another reader: what one fetches ahead is not in the way of the other.
    #[must_use]
    pub fn read_by(&self, reader: ObjectReader) -> Self {
        Self { reader, metadata: self.metadata.clone() }
    }

    /// The object.
    pub fn object(&self) -> &ObjectMeta {
        self.reader.object()
    }

    /// The rows of each row group.
    pub fn groups(&self) -> Vec<u64> {
        let groups = self.metadata.metadata().row_groups();
        groups.iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0)).collect()
    }

    /// Its columns.
    pub fn schema(&self) -> &Schema {
        self.metadata.schema()
    }

    /// The column that holds the image files: `asked`, or the one that looks like it.
    ///
    /// # Errors
    /// [`TableError::Column`] that names the columns there are.
    pub fn image_column(&self, asked: Option<&str>) -> Result<String, TableError> {
        let fields = self.schema().fields();
        let names = || fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        if let Some(asked) = asked {
            let name = asked.strip_suffix(".bytes").unwrap_or(asked);
            let field = [asked, name].iter().find_map(|name| self.schema().field_with_name(name).ok());
            return match field {
                Some(field) if holds_files(field) => Ok(field.name().clone()),
                Some(field) => Err(TableError::Column(format!(
                    "its column `{asked}` is of type {}, and image files are binary or a struct with `bytes`",
                    field.data_type()
                ))),
                None => Err(TableError::Column(format!("it has no column `{asked}`: there are {}", names()))),
            };
        }
        let known = IMAGE_NAMES.iter().find_map(|name| {
            fields.iter().find(|field| field.name().eq_ignore_ascii_case(name) && holds_files(field))
        });
        let mut binary = fields.iter().filter(|field| holds_files(field));
        let only = || binary.next().filter(|_| binary.next().is_none());
        known.or_else(only).map(|field| field.name().clone()).ok_or_else(|| {
            TableError::Column(format!(
                "it is not clear which of its columns holds image files: name one with --image-column ({})",
                names()
            ))
        })
    }

    /// Some columns of the rows `rows` of row group `group`; all rows together, in their order. Blocks.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn read(
        &self,
        group: usize,
        rows: Range<u64>,
        columns: &[&str],
    ) -> Result<Vec<RecordBatch>, TableError> {
        self.fetch_ahead(group, &rows, columns)?;
        let read = || -> Result<Vec<RecordBatch>, ParquetError> {
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(
                self.reader.clone(),
                self.metadata.clone(),
            );
            let whole = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
            let selection = RowSelection::from(vec![
                RowSelector::skip(whole(rows.start)),
                RowSelector::select(whole(rows.end - rows.start)),
            ]);
            let mask = self.mask(columns);
            let reader = builder
                .with_row_groups(vec![group])
                .with_projection(mask)
                .with_row_selection(selection)
                .with_batch_size(whole(rows.end - rows.start).max(1))
                .build()?;
            reader.map(|batch| batch.map_err(ParquetError::from)).collect()
        };
        read().map_err(|error| failed(&self.reader, &error))
    }

    /// Bytes of those columns of a row group, compressed as they are in the file.
    pub fn stored_bytes(&self, group: usize, columns: &[&str]) -> u64 {
        self.chunks(group, columns).iter().map(|(_, len)| len).sum()
    }

    fn mask(&self, columns: &[&str]) -> ProjectionMask {
        let schema = self.metadata.metadata().file_metadata().schema_descr();
        let roots = self.schema().fields().iter().enumerate();
        let roots = roots.filter(|(_, field)| columns.contains(&field.name().as_str())).map(|(n, _)| n);
        ProjectionMask::roots(schema, roots)
    }

    /// Where those columns of a row group lie: offset and length.
    fn chunks(&self, group: usize, columns: &[&str]) -> Vec<(u64, u64)> {
        let Some(group) = self.metadata.metadata().row_groups().get(group) else { return Vec::new() };
        let wanted = |path: &[String]| path.first().is_some_and(|root| columns.contains(&root.as_str()));
        group
            .columns()
            .iter()
            .filter(|chunk| wanted(chunk.column_path().parts()))
            .map(ColumnChunkMetaData::byte_range)
            .collect()
    }

    /// Fetches the chunks in one request each, unless the page index leads to the very pages.
    fn fetch_ahead(&self, group: usize, rows: &Range<u64>, columns: &[&str]) -> Result<(), TableError> {
        let all = self.groups().get(group).copied().unwrap_or(0);
        let groups = self.metadata.metadata().row_groups().get(group);
        let indexed = |chunk: &ColumnChunkMetaData| chunk.offset_index_offset().is_some();
        if rows.end - rows.start < all && groups.is_some_and(|group| group.columns().iter().all(indexed)) {
            return Ok(());
        }
        let fetched = self.reader.fetch_ahead(self.chunks(group, columns));
        fetched
            .map_err(|error| self.reader.failure().map_or(TableError::Parquet(error.to_string()), Into::into))
    }
}

fn failed(reader: &ObjectReader, error: &ParquetError) -> TableError {
    reader.failure().map_or_else(|| TableError::Parquet(error.to_string()), Into::into)
}

fn holds_files(field: &Field) -> bool {
    let binary =
        |kind: &DataType| matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView);
    match field.data_type() {
        DataType::Struct(fields) => {
            fields.iter().any(|inner| inner.name() == HF_BYTES && binary(inner.data_type()))
        }
        kind => binary(kind),
    }
}

/// The cells of a column of image files, without a copy; `None` where there is no file.
pub fn files(rows: &RecordBatch, column: &str) -> Vec<Option<Bytes>> {
    let Some(mut cells) = rows.column_by_name(column) else { return Vec::new() };
    if let Some(structs) = cells.as_struct_opt() {
        let Some(inner) = structs.column_by_name(HF_BYTES) else { return Vec::new() };
        cells = inner;
    }
    let cells = cells.clone();
    let valid = |n: usize| cells.is_valid(n);
    match cells.data_type() {
        DataType::Binary => {
            let array = cells.as_binary::<i32>();
            let all = Bytes::from_owner(array.values().clone());
            let offsets = array.value_offsets();
            let cell = |n: usize| valid(n).then(|| all.slice(offsets[n] as usize..offsets[n + 1] as usize));
            (0..array.len()).map(cell).collect()
        }
        DataType::LargeBinary => {
            let array = cells.as_binary::<i64>();
            let all = Bytes::from_owner(array.values().clone());
            let offsets = array.value_offsets();
            let cell = |n: usize| valid(n).then(|| all.slice(offsets[n] as usize..offsets[n + 1] as usize));
            (0..array.len()).map(cell).collect()
        }
        DataType::BinaryView => {
            let array = cells.as_binary_view();
            let cell = |n: usize| valid(n).then(|| Bytes::copy_from_slice(array.value(n)));
            (0..array.len()).map(cell).collect()
        }
        _ => Vec::new(),
    }
}

/// A column's cells as texts; `None` for nulls, for what has no text, and for texts too long to carry.
pub fn texts(rows: &RecordBatch, column: &str) -> Vec<Option<String>> {
    let texts = rows.column_by_name(column).and_then(as_text);
    let Some(texts) = texts else { return vec![None; rows.num_rows()] };
    let texts = texts.as_string::<i32>();
    let text = |n: usize| texts.is_valid(n).then(|| texts.value(n).to_owned());
    (0..texts.len()).map(|n| text(n).filter(|text| text.len() <= MAX_CARRIED_BYTES)).collect()
}

fn as_text(cells: &ArrayRef) -> Option<ArrayRef> {
    arrow::compute::cast(cells, &DataType::Utf8).ok()
}

/// The carried values of some rows, by row.
pub fn carried(rows: &RecordBatch, carry: &[CarriedColumn]) -> Vec<Vec<Option<String>>> {
    let columns: Vec<_> = carry.iter().map(|column| texts(rows, &column.name)).collect();
    (0..rows.num_rows()).map(|row| columns.iter().map(|column| column[row].clone()).collect()).collect()
}
