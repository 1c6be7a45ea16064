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
        match self.columns.replace(columns) {
            // Who copies rows has not computed them.
            None => self.footer.engine = footer.engine.clone(),
            Some(_) => self.footer.engine.add(&footer.engine),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{
        engine::Engine,
        part::encode_part,
        row::{ClassScore, Outcome, Prediction, ResultRow},
    };

    fn part(batch: u64, version: &str, device: &str) -> Bytes {
        let class = ClassScore { index: 1, label: None, probability: 0.5 };
        let row = ResultRow {
            key: format!("photos/{batch}.jpg"),
            etag: None,
            size: 1,
            width: Some(2),
            height: Some(3),
            outcome: Outcome::Ok(Prediction::Classes(vec![class])),
            carried: Vec::new(),
        };
        let engine = Engine {
            trawl: version.into(),
            torch: "2.11.0".into(),
            device: device.into(),
            precision: "fp32".into(),
        };
        let footer = PartFooter { version: version.into(), engine, ..footer(batch, "a worker") };
        let rows = [row];
        encode_part(&rows, &Columns::classes(), &footer.counted(&rows)).unwrap()
    }

    fn footer(batch: u64, worker: &str) -> PartFooter {
        PartFooter {
            job: "j-1".parse().unwrap(),
            created_unix_ms: None,
            batch: BatchNumber(batch),
            rows: 0,
            failures: 0,
            errors: Default::default(),
            model_sha256: "ab".repeat(32),
            preprocess_sha256: "cd".repeat(32),
            version: env!("CARGO_PKG_VERSION").into(),
            attempt_id: "attempt".into(),
            worker: worker.into(),
            stages: Default::default(),
            engine: Engine { trawl: env!("CARGO_PKG_VERSION").into(), ..Engine::default() },
        }
    }

    #[test]
    fn a_file_of_several_parts_names_what_computed_their_rows() {
        let mut merger = Merger::new(footer(0, "trawl compact"), 1000);
        for (batch, (version, device)) in (5..).zip([("0.0.9", "cpu"), ("0.0.9", "cuda:0"), ("0.0.9", "cpu")])
        {
            merger.add(BatchNumber(batch), part(batch, version, device)).unwrap();
        }
        let (file, told) = merger.finish().unwrap();
        let read = PartFooter::read(&file, file.len() as u64).unwrap();
        assert_eq!(read, told);
        let engine = Engine {
            trawl: "0.0.9".into(),
            torch: "2.11.0".into(),
            device: "cpu, cuda:0".into(),
            precision: "fp32".into(),
        };
        assert_eq!((read.rows, read.engine), (3, engine));
        // Who wrote the file is another thing.
        assert_eq!((&*read.version, &*read.worker), (env!("CARGO_PKG_VERSION"), "trawl compact"));
    }
}
