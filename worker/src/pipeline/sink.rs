//! Sink: the rows of a finished batch become the bytes of its part.
//!
//! After infer, before settle. Encoding is compression, so it runs on a blocking thread. Nothing is
//! written here.

use super::{Pipeline, batch::OpenBatch, meters::Stage};
use bytes::Bytes;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use trawl_common::{
    disposition::{Failure, describe},
    offload::offload,
    results::{
        part::{PartError, PartFooter, encode_part},
        row::ResultRow,
    },
    trace,
};

/// A part that is ready to be put.
pub struct EncodedPart {
    /// The file.
    pub bytes: Bytes,
    /// Its footer.
    pub footer: PartFooter,
    /// What encoding it took, which cannot be in the footer itself.
    pub took: Duration,
}

impl Pipeline {
    /// Encodes `rows`, one for each image of the batch in their order.
    ///
    /// # Errors
    /// [`Failure::Output`] if the rows do not fit the job's columns.
    pub(super) async fn encode(
        &self,
        batch: &Arc<OpenBatch>,
        rows: Vec<ResultRow>,
    ) -> Result<EncodedPart, Failure> {
        assert_eq!(rows.len(), batch.descriptor.images.len(), "one row for each planned image");
        let (_encoding, began) = (trace::child("encode"), Instant::now());
        let (number, attempt) = (batch.descriptor.batch, self.next_attempt_id());
        let mut footer =
            PartFooter::new(&batch.job.spec, number, attempt, self.worker.clone()).counted(&rows);
        footer.engine = batch.job.model.engine.clone();
        footer.stages = batch.stages();
        footer.stages.binding.extend(self.meters.binding().map(|stage| (stage, 1)));
        let columns = batch.job.columns.clone();
        let encoded = offload(move || {
            let bytes = encode_part(&rows, &columns, &footer)?;
            Ok((bytes, footer))
        });
        let (bytes, footer) = encoded.await.map_err(|e: PartError| Failure::Output(describe(&e)))?;
        let took = began.elapsed();
        self.meters.stage(Stage::Encode, took, 1);
        Ok(EncodedPart { bytes, footer, took })
    }
}
