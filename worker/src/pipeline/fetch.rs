//! Fetch: gets the bytes of a batch's images, several at a time, within bounds of count and of bytes.
//!
//! After intake, before decode. The permits travel with the bytes and come back when the image is decoded,
//! so what waits between the two stages is bounded as well. An object that cannot be had is an error row;
//! only a store that does not answer fails the batch.

use super::{
    batch::OpenBatch,
    meters::Meters,
    meters::Stage,
    pool::{Pool, Undecoded},
};
use bytes::Bytes;
use std::{path::Path, sync::Arc, time::Instant};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use trawl_common::{
    batch::ImageRef,
    disposition::Failure,
    error_code::ErrorCode,
    location::Location,
    storage::{Object, StorageError, Stores},
};

/// The bytes budget is counted in units of this size, to fit the semaphore's 32 bits.
const BUDGET_UNIT_BYTES: u64 = 1024;

/// What bounds the fetch stage.
#[derive(Debug, Clone)]
pub struct FetchLimits {
    /// Objects being read or waiting for decode.
    pub images: usize,
    /// Their bytes in all.
    pub bytes: u64,
    /// A larger object is an error row.
    pub max_image_bytes: u64,
}

/// The fetch stage.
pub struct Fetcher {
    stores: Arc<Stores>,
    limits: FetchLimits,
    images: Arc<Semaphore>,
    budget: Arc<Semaphore>,
    meters: Arc<Meters>,
}

/// A share of the fetch stage's bounds; dropping it makes room.
pub struct Room {
    _image: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Fetcher {
    /// A fetch stage within `limits`.
    pub fn new(stores: Arc<Stores>, limits: FetchLimits, meters: Arc<Meters>) -> Self {
        let units = usize::try_from(limits.bytes.div_ceil(BUDGET_UNIT_BYTES)).unwrap_or(usize::MAX);
        let budget = Arc::new(Semaphore::new(units.clamp(1, Semaphore::MAX_PERMITS)));
        Self { stores, images: Arc::new(Semaphore::new(limits.images.max(1))), budget, limits, meters }
    }

    /// Feeds every image of `batch` to `pool`, or gives it its error row. Cancel safe: what is under way is
    /// dropped.
    ///
    /// # Errors
    /// [`Failure::Storage`] if the store stays away.
    pub async fn feed(self: &Arc<Self>, batch: &Arc<OpenBatch>, pool: &Arc<Pool>) -> Result<(), Failure> {
        let mut reads = JoinSet::new();
        for index in 0..batch.descriptor.images.len() {
            let room = self.room(batch.image(index).size).await;
            let (fetcher, batch, coming) = (self.clone(), batch.clone(), pool.expect_one());
            reads.spawn(async move { fetcher.read(&batch, index, room, coming).await });
            while let Some(read) = reads.try_join_next() {
                joined(read)?;
            }
        }
        while let Some(read) = reads.join_next().await {
            joined(read)?;
        }
        Ok(())
    }

    async fn room(&self, size: u64) -> Room {
        // An object over the whole budget takes all of it and goes alone.
        let all = self.limits.bytes.div_ceil(BUDGET_UNIT_BYTES);
        let units = size.min(self.limits.max_image_bytes).div_ceil(BUDGET_UNIT_BYTES).clamp(1, all.max(1));
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let image = self.images.clone().acquire_owned().await.expect("never closed");
        let bytes = self.budget.clone().acquire_many_owned(units).await.expect("never closed");
        Room { _image: image, _bytes: bytes }
    }

    async fn read(
        &self,
        batch: &Arc<OpenBatch>,
        index: usize,
        room: Room,
        coming: super::pool::Expected,
    ) -> Result<(), Failure> {
        let image = batch.image(index);
        let began = Instant::now();
        match self.get(image, &batch.job.base_dir).await {
            Ok(object) => {
                self.meters.stage(Stage::Fetch, began.elapsed(), 1);
                self.meters.image_bytes.inc_by(object.bytes.len() as u64);
                let Object { bytes, etag, .. } = object;
                let bytes: Bytes = bytes;
                coming.arrived(Undecoded { batch: batch.clone(), index, bytes, etag, room });
                Ok(())
            }
            Err(Missed::Row(code, message)) => {
                batch.fail_row(index, code, message);
                Ok(())
            }
            Err(Missed::Store(error)) => Err(error.into()),
        }
    }

    async fn get(&self, image: &ImageRef, base_dir: &Path) -> Result<Object, Missed> {
        let place = Location::parse(&image.key, base_dir)
            .map_err(|e| Missed::Row(ErrorCode::Unreadable, e.to_string()))?;
        let store = self.stores.open(&place).await;
        let object = store.get(place.key(), self.limits.max_image_bytes).await.map_err(Missed::from)?;
        match (&image.etag, &object.etag) {
            (Some(planned), Some(found)) if planned != found => Err(Missed::Row(
                ErrorCode::Changed,
                format!("it was listed with etag {planned} and has {found} now"),
            )),
            _ => Ok(object),
        }
    }
}

/// Why an image has no bytes.
enum Missed {
    Row(ErrorCode, String),
    Store(StorageError),
}

impl From<StorageError> for Missed {
    fn from(error: StorageError) -> Self {
        let text = error.to_string();
        match error {
            StorageError::NotFound { .. } => Self::Row(ErrorCode::NotFound, text),
            StorageError::Forbidden { .. } => Self::Row(ErrorCode::Forbidden, text),
            StorageError::TooLarge { .. } => Self::Row(ErrorCode::TooManyBytes, text),
            StorageError::Invalid { .. } | StorageError::Other { .. } => {
                Self::Row(ErrorCode::Unreadable, text)
            }
            StorageError::Transient { .. } | StorageError::NoSuchStore { .. } => Self::Store(error),
        }
    }
}

fn joined(read: Result<Result<(), Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
    read.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
