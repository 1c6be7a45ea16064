//! Sink: the rows of a finished batch become the bytes of its part.
//!
//! After infer, before settle. Encoding is compression, so it runs on a blocking thread. Nothing is
//! written here.

use super::{Pipeline, batch::OpenBatch, meters::Stage};
use bytes::Bytes;
use std::{sync::Arc, time::Instant};
use trawl_common::{
    disposition::{Failure, describe},
    offload::offload,
    results::{
        part::{PartError, PartFooter, encode_part},
        row::ResultRow,
    },
};

/// A part that is ready to be put.
pub struct EncodedPart {
    /// The file.
    pub bytes: Bytes,
    /// Its footer.
    pub footer: PartFooter,
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
        let began = Instant::now();
        let (number, attempt) = (batch.descriptor.batch, self.next_attempt_id());
        let footer = PartFooter::new(&batch.job.spec, number, attempt, self.worker.clone()).counted(&rows);
        let columns = batch.job.columns;
        let encoded = offload(move || {
            let bytes = encode_part(&rows, columns, &footer)?;
            Ok(EncodedPart { bytes, footer })
        });
        let part = encoded.await.map_err(|e: PartError| Failure::Output(describe(&e)))?;
        self.meters.stage(Stage::Encode, began.elapsed(), 1);
        Ok(part)
    }
}
