//! A part: the rows of one batch as one Parquet file, and what its footer says of them.
//!
//! Encoded by the worker's sink when the last image of a batch is in, written by one create-only put, and
//! asked for its footer by everyone who finds it there: a redelivery, a resumed producer, `finalize`. The
//! bytes may differ between two attempts (their ids are in the footer); the rows must not.

use super::{
    engine::Engine,
    footer::{FetchFooterError, FooterEntries, FooterError, entry},
    part_answers, part_carried,
    row::{Outcome, ResultRow},
    schema::{Columns, HeadKind},
};
use crate::{
    batch::BatchNumber,
    error_code::ErrorCode,
    job::{JobId, JobSpec},
    ledger::BatchOutcome,
    stages::StageTimes,
    storage::Storage,
};
use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::{EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};
use std::{collections::BTreeMap, num::NonZeroU64, sync::Arc};

/// zstd's own default: levels above it cost the worker's cores more than they save in the bucket.
pub(super) const ZSTD_LEVEL: i32 = 3;

/// A part of fewer rows is neither compressed nor given dictionaries: setting both up for each of a dozen columns
/// takes longer than all else that is done to such a batch, and the file is footer for the most part anyway.
const MIN_COMPRESSED_ROWS: usize = 16;

/// Rows of one row group; a batch has far fewer, so that a part is one group.
pub(super) const MAX_ROW_GROUP_ROWS: usize = 1 << 20;

/// Rows that do not fit a part.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// A prediction of another kind than the part's columns, or of another length.
    #[error("the prediction for `{key}` does not fit the part: {reason}")]
    WrongShape {
        /// The row.
        key: String,
        /// What was expected and found.
        reason: String,
    },
    /// The footer counts other rows than there are; see [`PartFooter::counted`].
    #[error(
        "the footer of batch {batch} counts {said} rows with {said_failed} failures, there are {rows} with {failed}"
    )]
    Counts {
        /// The batch.
        batch: BatchNumber,
        /// Rows by the footer.
        said: u64,
        /// Failures by the footer.
        said_failed: u64,
        /// Rows.
        rows: u64,
        /// Failures.
        failed: u64,
    },
    /// The writer or reader failed.
    #[error("the part cannot be encoded or read: {0}")]
    Parquet(#[from] ParquetError),
    /// Arrow refuses the arrays.
    #[error("the rows cannot be put into columns: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// The file is no part of ours.
    #[error(transparent)]
    Footer(#[from] FooterError),
    /// A row that this version cannot read.
    #[error("row {row} of the part is not readable: {reason}")]
    Row {
        /// Its index in the part.
        row: usize,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a part says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartFooter {
    /// The job.
    pub job: JobId,
    /// When the job was submitted, as in its spec: tells it from an earlier one of its name. `None` in parts that
    /// were written before this was.
    pub created_unix_ms: Option<NonZeroU64>,
    /// The batch.
    pub batch: BatchNumber,
    /// Rows, one for each planned image.
    pub rows: u64,
    /// Rows with `status = error`.
    pub failures: u64,
    /// The failures by code; sums to `failures`.
    pub errors: BTreeMap<ErrorCode, u64>,
    /// Digest of the model that made the predictions.
    pub model_sha256: String,
    /// [`JobSpec::preprocess_digest`].
    pub preprocess_sha256: String,
    /// The trawl that wrote it.
    pub version: String,
    /// Of the attempt that won.
    pub attempt_id: String,
    /// The worker that made the attempt.
    pub worker: String,
    /// Where the batch's time went until it was encoded; empty in parts that were written before this was.
    pub stages: StageTimes,
    /// What ran the model.
    pub engine: Engine,
}

impl PartFooter {
    /// A footer for a batch of `spec`'s, written by this version, that counts no rows yet.
    pub fn new(
        spec: &JobSpec,
        batch: BatchNumber,
        attempt_id: impl Into<String>,
        worker: impl Into<String>,
    ) -> Self {
        Self {
            job: spec.job.clone(),
            created_unix_ms: NonZeroU64::new(spec.created_unix_ms),
            batch,
            rows: 0,
            failures: 0,
            errors: BTreeMap::new(),
            model_sha256: spec.model.sha256.clone(),
            preprocess_sha256: spec.preprocess_digest(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            attempt_id: attempt_id.into(),
            worker: worker.into(),
            stages: StageTimes::default(),
            engine: Engine { trawl: env!("CARGO_PKG_VERSION").to_owned(), ..Engine::default() },
        }
    }

    /// Whether it is of this submission of a job; one that does not say which may be of any.
    pub fn is_of(&self, job: &JobId, created_unix_ms: u64) -> bool {
        self.job == *job && self.created_unix_ms.is_none_or(|ms| ms.get() == created_unix_ms)
    }

    /// The same with the counts of these rows.
    #[must_use]
    pub fn counted(mut self, rows: &[ResultRow]) -> Self {
        self.rows = rows.len() as u64;
        self.errors.clear();
        for row in rows {
            if let Outcome::Failed { code, .. } = row.outcome {
                *self.errors.entry(code).or_default() += 1;
            }
        }
        self.failures = self.errors.values().sum();
        self
    }

    /// What the ledger is told.
    pub fn outcome(&self) -> BatchOutcome {
        BatchOutcome {
            images_ok: self.rows - self.failures,
            images_failed: self.failures,
            errors: self.errors.clone(),
            stages: self.stages.clone(),
        }
    }

    /// Reads the footer out of the last bytes of a part of `size` bytes.
    ///
    /// # Errors
    /// [`FooterError::NeedMore`] with the number of bytes if `tail` is too short.
    pub fn read(tail: &Bytes, size: u64) -> Result<Self, FooterError> {
        Self::of(&FooterEntries::read(tail, size)?)
    }

    pub(super) fn of(entries: &FooterEntries) -> Result<Self, FooterError> {
        let footer = Self {
            job: entries.value("trawl.job")?,
            created_unix_ms: match entries.value("trawl.created_unix_ms") {
                Err(FooterError::Missing(_)) => None,
                created => Some(created?),
            },
            batch: BatchNumber(entries.value("trawl.batch")?),
            rows: entries.value("trawl.rows")?,
            failures: entries.value("trawl.failures")?,
            errors: entries.json("trawl.errors")?,
            model_sha256: entries.text("trawl.model_sha256")?.to_owned(),
            preprocess_sha256: entries.text("trawl.preprocess_sha256")?.to_owned(),
            version: entries.text("trawl.version")?.to_owned(),
            attempt_id: entries.text("trawl.attempt_id")?.to_owned(),
            worker: entries.text("trawl.worker")?.to_owned(),
            // Decides nothing, so that one that is not there, or of a later trawl, costs nothing.
            stages: entries.json("trawl.stages").unwrap_or_default(),
            engine: Engine::of(entries, entries.text("trawl.version")?),
        };
        let bad = |name, reason| Err(FooterError::Bad { name, reason });
        if footer.rows != entries.rows() {
            return bad("trawl.rows", format!("it says {}, the file has {}", footer.rows, entries.rows()));
        }
        let counted = footer.errors.values().try_fold(0_u64, |sum, n| sum.checked_add(*n));
        if counted != Some(footer.failures) || footer.failures > footer.rows {
            return bad("trawl.failures", format!("{} do not fit rows and errors", footer.failures));
        }
        Ok(footer)
    }

    pub(super) fn entries(&self) -> Vec<parquet::file::metadata::KeyValue> {
        let errors = serde_json::to_string(&self.errors).expect("counts are plain data");
        let mut entries = vec![
            entry("trawl.job", &self.job),
            entry("trawl.batch", &self.batch.0),
            entry("trawl.rows", &self.rows),
            entry("trawl.failures", &self.failures),
            entry("trawl.errors", &errors),
            entry("trawl.model_sha256", &self.model_sha256),
            entry("trawl.preprocess_sha256", &self.preprocess_sha256),
            entry("trawl.version", &self.version),
            entry("trawl.attempt_id", &self.attempt_id),
            entry("trawl.worker", &self.worker),
            entry("trawl.stages", &serde_json::to_string(&self.stages).expect("counts are plain data")),
        ];
        entries.extend(self.engine.entries());
        entries.extend(self.created_unix_ms.map(|ms| entry("trawl.created_unix_ms", &ms)));
        entries
    }
}

/// Fetches the footer of the part at `key`.
///
/// # Errors
/// [`FetchFooterError`]; `NotFound` of the store if there is no such part. Cancel safe.
pub async fn read_footer(store: &dyn Storage, key: &str) -> Result<PartFooter, FetchFooterError> {
    Ok(read_sized_footer(store, key).await?.0)
}

/// The same with the bytes of the part, which the same answer has.
///
/// # Errors
/// [`FetchFooterError`]. Cancel safe.
pub async fn read_sized_footer(
    store: &dyn Storage,
    key: &str,
) -> Result<(PartFooter, u64), FetchFooterError> {
    let (entries, size) = FooterEntries::fetch(store, key).await?;
    let footer = PartFooter::of(&entries);
    footer
        .map(|footer| (footer, size))
        .map_err(|reason| FetchFooterError::Unusable { key: key.to_owned(), reason })
}

/// Encodes the rows of a batch as a Parquet file. Takes milliseconds of one core: not for an async thread.
///
/// # Errors
/// [`PartError`]; all of them are a fault of the caller's, none depends on the images.
pub fn encode_part(rows: &[ResultRow], columns: &Columns, footer: &PartFooter) -> Result<Bytes, PartError> {
    let failed = rows.iter().filter(|row| row.outcome.is_failed()).count() as u64;
    if (footer.rows, footer.failures) != (rows.len() as u64, failed) {
        return Err(PartError::Counts {
            batch: footer.batch,
            said: footer.rows,
            said_failed: footer.failures,
            rows: rows.len() as u64,
            failed,
        });
    }
    let mut arrays = common_columns(rows);
    for place in 0..columns.heads.len() {
        arrays.extend(part_answers::encode(rows, columns, place)?);
    }
    arrays.extend(part_carried::encode(rows, &columns.carried));
    let batch = RecordBatch::try_new(columns.schema(), arrays)?;
    let mut writer = ArrowWriter::try_new(
        Vec::new(),
        batch.schema(),
        Some(properties(columns, footer.entries(), MAX_ROW_GROUP_ROWS, rows.len())?),
    )?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?.into())
}

/// How a file of so many rows is written, with these entries in its footer.
pub(super) fn properties(
    columns: &Columns,
    entries: Vec<parquet::file::metadata::KeyValue>,
    row_group_rows: usize,
    rows: usize,
) -> Result<WriterProperties, ParquetError> {
    let large = rows >= MIN_COMPRESSED_ROWS;
    let compression = match large {
        true => Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?),
        false => Compression::UNCOMPRESSED,
    };
    let mut builder = WriterProperties::builder()
        .set_created_by(format!("trawl {}", env!("CARGO_PKG_VERSION")))
        .set_compression(compression)
        .set_dictionary_enabled(large)
        .set_max_row_group_row_count(Some(row_group_rows))
        // A batch is one row group: statistics by page would only make the footer longer.
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_key_value_metadata(Some(entries));
    // A dictionary of values that never repeat is work for nothing.
    for unique in ["key", "etag", "size"] {
        builder = builder.set_column_dictionary_enabled(ColumnPath::from(unique), false);
    }
    for head in &columns.heads {
        let prefix = head.prefix();
        let path = |name: &str, inner: &[&str]| {
            let inner = inner.iter().map(ToString::to_string);
            ColumnPath::new([format!("{prefix}{name}")].into_iter().chain(inner).collect())
        };
        let unique = match head.kind {
            HeadKind::Classes => vec![path("confidence", &[]), path("topk", &["list", "element", "prob"])],
            HeadKind::Labels => vec![path("labels", &["list", "element", "prob"])],
            HeadKind::Boxes => {
                ["x0", "y0", "x1", "y1", "score"].map(|name| path("boxes", &["list", "element", name])).into()
            }
            HeadKind::Vector(..) | HeadKind::Tensor(_) => vec![path("embedding", &["list", "element"])],
        };
        let is_vector = matches!(head.kind, HeadKind::Vector(..) | HeadKind::Tensor(_));
        for path in unique {
            if is_vector {
                builder = builder.set_column_statistics_enabled(path.clone(), EnabledStatistics::None);
            }
            builder = builder.set_column_dictionary_enabled(path, false);
        }
    }
    Ok(builder.build())
}

fn common_columns(rows: &[ResultRow]) -> Vec<ArrayRef> {
    let pixels = |side: Option<u32>| side.map(|n| i32::try_from(n).unwrap_or(i32::MAX));
    let status = |row: &ResultRow| if row.outcome.is_failed() { "error" } else { "ok" };
    let code = |row: &ResultRow| match &row.outcome {
        Outcome::Ok(_) => None,
        Outcome::OkTruncated(_) => Some(ErrorCode::Truncated.as_str()),
        Outcome::Failed { code, .. } => Some(code.as_str()),
    };
    fn message(row: &ResultRow) -> Option<&str> {
        match &row.outcome {
            Outcome::Failed { message, .. } => Some(message),
            Outcome::Ok(_) | Outcome::OkTruncated(_) => None,
        }
    }
    vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.key))),
        Arc::new(StringArray::from_iter(rows.iter().map(|row| row.etag.as_deref()))),
        Arc::new(Int64Array::from_iter_values(
            rows.iter().map(|row| i64::try_from(row.size).unwrap_or(i64::MAX)),
        )),
        Arc::new(Int32Array::from_iter(rows.iter().map(|row| pixels(row.width)))),
        Arc::new(Int32Array::from_iter(rows.iter().map(|row| pixels(row.height)))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(status))),
        Arc::new(StringArray::from_iter(rows.iter().map(code))),
        Arc::new(StringArray::from_iter(rows.iter().map(message))),
    ]
}
