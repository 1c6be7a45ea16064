//! Many parts into one: the rows of batches that follow one another, in one Parquet file.
//!
//! For `trawl compact`. Rows are copied as columns, never decoded into rows; the sums of the footers become the footer.
//! What is put in is checked like any part: of the job, of the batch that comes next, with the columns of the first.

use super::{
    footer::{FooterEntries, FooterError},
    part::{PartError, PartFooter, properties},
    schema::Columns,
};
use crate::batch::BatchNumber;
use arrow::array::RecordBatch;
use bytes::Bytes;
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};

/// A file that is being made of several parts. Holds what is encoded so far in memory.
pub struct Merger {
    footer: PartFooter,
    row_group_rows: usize,
    columns: Option<Columns>,
    writer: Option<ArrowWriter<Vec<u8>>>,
}

impl Merger {
    /// Begins the part of `footer`'s batch, which counts no rows yet, with so many rows in a row group.
    pub fn new(footer: PartFooter, row_group_rows: usize) -> Self {
        Self { footer, row_group_rows, columns: None, writer: None }
    }

    /// Appends the rows of the part of batch `batch`, and gives its footer. Takes tens of milliseconds of one core.
    ///
    /// # Errors
    /// [`PartError`] if it is not that part, or has other columns than those before it.
    pub fn add(&mut self, batch: BatchNumber, bytes: Bytes) -> Result<PartFooter, PartError> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
        let footer = PartFooter::of(&FooterEntries::of(builder.metadata()))?;
        if footer.batch != batch {
            let reason = format!("it is that of batch {}, not of {batch}", footer.batch);
            return Err(FooterError::Bad { name: "trawl.batch", reason }.into());
        }
        let unlike = |what: &str| FooterError::Parquet(format!("its columns are not those of {what}"));
        let columns = Columns::of_schema(builder.schema()).ok_or_else(|| unlike("a part"))?;
        if self.columns.as_ref().is_some_and(|first| *first != columns) {
            return Err(unlike("the parts before it").into());
        }
        let schema = columns.schema();
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => {
                let properties = properties(&columns, Vec::new(), self.row_group_rows, usize::MAX)?;
                none.insert(ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties))?)
            }
        };
        for rows in builder.build()? {
            // With the schema that we write: what a file says besides, of no interest to rows, may differ.
            writer.write(&RecordBatch::try_new(schema.clone(), rows?.columns().to_vec())?)?;
        }
        self.columns = Some(columns);
        self.footer.rows += footer.rows;
        self.footer.failures += footer.failures;
        for (code, n) in &footer.errors {
            *self.footer.errors.entry(*code).or_default() += n;
        }
        self.footer.stages.add(&footer.stages);
        Ok(footer)
    }

    /// The file with its footer. Takes tens of milliseconds of one core.
    ///
    /// # Errors
    /// [`PartError`] if nothing was put in, or the writer fails.
    pub fn finish(self) -> Result<(Bytes, PartFooter), PartError> {
        let Some(mut writer) = self.writer else {
            return Err(FooterError::Parquet("no part was put in".into()).into());
        };
        for entry in self.footer.entries() {
            writer.append_key_value_metadata(entry);
        }
        Ok((writer.into_inner()?.into(), self.footer))
    }
}
