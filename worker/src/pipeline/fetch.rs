//! Fetch: gets the bytes of a batch's images, several at a time, within bounds of count and of bytes.
//!
//! After intake, before decode. The permits travel with the bytes and come back when the image is decoded,
//! so what waits between the two stages is bounded as well. An object that cannot be had is an error row;
//! only a store that does not answer fails the batch.

use super::{
    asking::{Asked, Asker, Missed},
    batch::OpenBatch,
    handover::{Room, Undecoded},
    meters::{Meters, Stage},
    pace::{Pace, Reads},
    reading::{Brought, Part, Reading},
    seats::Seats,
};
use std::{
    sync::{Arc, Mutex},
    task::Poll,
    time::Instant,
};
use tokio::{
    sync::Semaphore,
    task::{JoinError, JoinSet},
};
use tracing::Instrument;
use trawl_common::{
    batch::ImageRef,
    disposition::Failure,
    error_code::ErrorCode,
    storage::{StorageError, Stores, retry::transient_errors},
};

/// The bytes budget is counted in units of this size, to fit the semaphore's 32 bits.
const BUDGET_UNIT_BYTES: u64 = 1024;

/// Taken for the size of an image of which nobody knows it, as in a list of names: that of a photo from the web.
const UNKNOWN_BYTES: u64 = 256 << 10;

/// So many images of one batch, all of them and all forbidden, are not the images' fault: credentials ran out or
/// were withdrawn, and the job must wait for better ones instead of becoming rows of `forbidden`.
const FORBIDDEN_TOGETHER: usize = 8;

/// What bounds the fetch stage.
#[derive(Debug, Clone)]
pub struct FetchLimits {
    /// Objects being read or waiting for decode.
    pub reads: Reads,
    /// Their bytes in all.
    pub bytes: u64,
    /// A larger object is an error row.
    pub max_image_bytes: u64,
}

/// The fetch stage.
pub struct Fetcher {
    limits: FetchLimits,
    seats: Arc<Seats>,
    pace: Mutex<Pace>,
    budget: Arc<Semaphore>,
    meters: Arc<Meters>,
    asker: Asker,
}

impl Fetcher {
    /// A fetch stage within `limits`.
    pub fn new(stores: Arc<Stores>, limits: FetchLimits, meters: Arc<Meters>) -> Self {
        let units = usize::try_from(limits.bytes.div_ceil(BUDGET_UNIT_BYTES)).unwrap_or(usize::MAX);
        let budget = Arc::new(Semaphore::new(units.clamp(1, Semaphore::MAX_PERMITS)));
        let pace = Pace::new(limits.reads);
        let seats = Seats::new(pace.limit());
        meters.set_fetches(pace.limit());
        let asker = Asker::new(stores, limits.max_image_bytes);
        Self { seats, pace: Mutex::new(pace), budget, limits, meters, asker }
    }

    /// Hands the `wanted` images of `batch` to decode, or gives them their error rows. `expect` announces an image and gives
    /// the way to hand it over, which says whether decode was waiting. On the `last` attempt an object that
    /// the store cannot give although it gives others is an error row too (`unreadable`), so that one rotten
    /// object does not cost its batch. Cancel safe: what is under way is dropped.
    ///
    /// # Errors
    /// [`Failure::Storage`] if the store stays away, refuses every image of a batch of several, or refuses what it
    /// gave before.
    pub async fn feed<Arrived>(
        self: &Arc<Self>,
        batch: &Arc<OpenBatch>,
        wanted: &[usize],
        expect: impl Fn() -> Arrived + Send + Sync,
        last: bool,
    ) -> Result<(), Failure>
    where
        Arrived: FnOnce(Undecoded) -> bool + Send + 'static,
    {
        let (mut reads, mut withheld) = (JoinSet::new(), Vec::new());
        let mut note = |read: Result<Option<Withheld>, JoinError>| {
            withheld.extend(read.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())));
            // Any other attempt ends with the first: the store gets a rest before the next.
            match withheld.pop_if(|latest| !last && !latest.is_forbidden()) {
                Some(Withheld { error, .. }) => Err(Failure::from(error)),
                None => Ok(()),
            }
        };
        for Reading { wanted: these, part } in Reading::plan(&batch.descriptor.images, wanted) {
            let request = Request { images: wanted[these].into(), part };
            let room = self.room(self.bytes_of(&request, batch)).await;
            let arrived: Vec<_> = request.images.iter().map(|_| expect()).collect();
            let (fetcher, batch) = (self.clone(), batch.clone());
            let read = async move { fetcher.read(&batch, request, room, arrived).await };
            // What a store has to say about it belongs to the batch.
            let mut read = Box::pin(read.in_current_span());
            // What is there at once needs no task.
            match futures::poll!(&mut read) {
                Poll::Ready(read) => note(Ok(read))?,
                Poll::Pending => drop(reads.spawn(read)),
            }
            while let Some(read) = reads.try_join_next() {
                note(read)?;
            }
        }
        while let Some(read) = reads.join_next().await {
            note(read)?;
        }
        let all_forbidden = withheld.iter().all(Withheld::is_forbidden);
        let (images, refused) =
            (wanted.len(), withheld.iter().map(|w| w.request.images.len()).sum::<usize>());
        if refused == images
            && (!all_forbidden || images >= FORBIDDEN_TOGETHER)
            && let Some(Withheld { error, .. }) = withheld.pop()
        {
            return Err(error.into());
        }
        let withheld = self.ask_again(batch, withheld, &expect, last).await?;
        if let Some(error) = self.refuses_what_it_gave(batch, &withheld).await {
            return Err(error.into());
        }
        for missed in withheld {
            let code = if missed.is_forbidden() { ErrorCode::Forbidden } else { ErrorCode::Unreadable };
            for index in missed.request.images {
                batch.fail_row(index, code, missed.error.to_string());
            }
        }
        Ok(())
    }

    /// Asks once more for what was refused while other images were given: better credentials may have come in between.
    /// Gives what is withheld still; an error that is not the image's own ends all attempts but the `last`.
    async fn ask_again<Arrived>(
        &self,
        batch: &Arc<OpenBatch>,
        withheld: Vec<Withheld>,
        expect: &(impl Fn() -> Arrived + Send + Sync),
        last: bool,
    ) -> Result<Vec<Withheld>, Failure>
    where
        Arrived: FnOnce(Undecoded) -> bool + Send + 'static,
    {
        let mut still = Vec::new();
        for missed in withheld {
            if !missed.is_forbidden() {
                still.push(missed);
                continue;
            }
            let room = self.room(self.bytes_of(&missed.request, batch)).await;
            let arrived = missed.request.images.iter().map(|_| expect()).collect();
            match self.read(batch, missed.request, room, arrived).await {
                Some(missed) if !last && !missed.is_forbidden() => return Err(missed.error.into()),
                missed => still.extend(missed),
            }
        }
        Ok(still)
    }

    /// Whether a store that refuses an image refuses by now what it gave last as well: then the credentials ran out
    /// between the two, and no image is to blame.
    async fn refuses_what_it_gave(&self, batch: &OpenBatch, withheld: &[Withheld]) -> Option<StorageError> {
        let forbidden = withheld.iter().find(|missed| missed.is_forbidden())?;
        let image = batch.image(*forbidden.request.images.first()?);
        self.asker.refuses_what_it_gave(&batch.job.spec, image).await
    }

    /// Lets more or fewer objects be read at once, by how it goes.
    fn keep_pace(&self, awaited: bool) {
        self.seats.decode_waited(awaited);
        let mut pace = self.pace.lock().expect("no panic while the pace is held");
        let changed = pace.arrived(awaited, transient_errors(), tokio::time::Instant::now());
        let limit = pace.limit();
        if changed {
            tracing::debug!(fetches = limit, "objects read at once");
            self.meters.set_fetches(limit);
        }
        self.seats.resize(limit);
    }

    /// What a request brings, as far as the plan knows.
    fn bytes_of(&self, request: &Request, batch: &OpenBatch) -> u64 {
        let image = batch.image(request.images[0]);
        match &request.part {
            Part::Whole if image.size == 0 => UNKNOWN_BYTES,
            // A larger one is refused before it is read.
            Part::Whole => image.size.min(self.limits.max_image_bytes),
            Part::Bytes(_) if request.is_too_large(image, self.limits.max_image_bytes) => 0,
            Part::Bytes(bytes) => bytes.end - bytes.start,
            Part::Rows(_, rows) => UNKNOWN_BYTES * u64::from(rows.end - rows.start),
        }
    }

    async fn room(&self, size: u64) -> Room {
        // An object over the whole budget takes all of it and goes alone.
        let all = self.limits.bytes.div_ceil(BUDGET_UNIT_BYTES);
        let units = size.div_ceil(BUDGET_UNIT_BYTES).clamp(1, all.max(1));
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let image = self.seats.take().await;
        let bytes = self.budget.clone().acquire_many_owned(units).await.expect("never closed");
        Room { image, bytes }
    }

    async fn read(
        &self,
        batch: &Arc<OpenBatch>,
        request: Request,
        room: Room,
        arrived: Vec<impl FnOnce(Undecoded) -> bool + Send>,
    ) -> Option<Withheld> {
        let began = Instant::now();
        let image = batch.image(request.images[0]);
        let asked = Asked { image, alone: request.images.len() == 1, part: &request.part };
        match self.asker.ask(&batch.job.spec, asked).await {
            Ok(Brought { bytes, etag }) => {
                let took = began.elapsed();
                self.meters.stage(Stage::Fetch, took, request.images.len() as u64);
                batch.spent(Stage::Fetch, took);
                self.meters.image_bytes.inc_by(bytes.len());
                let (mut awaited, room) = (false, Arc::new(room));
                for (&index, arrived) in request.images.iter().zip(arrived) {
                    match bytes.of(batch.image(index)) {
                        Ok(bytes) => {
                            let (batch, etag, room) = (batch.clone(), etag.clone(), room.clone());
                            awaited |= arrived(Undecoded { batch, index, bytes, etag, room });
                        }
                        Err((code, message)) => batch.fail_row(index, code, message),
                    }
                }
                self.keep_pace(awaited);
                None
            }
            Err(Missed::Row(code, message)) => {
                for &index in &request.images {
                    batch.fail_row(index, code, message.clone());
                }
                None
            }
            Err(Missed::Store(error)) => Some(Withheld { request, error }),
        }
    }
}

/// Images that are asked for at once.
struct Request {
    images: Vec<usize>,
    part: Part,
}

impl Request {
    /// Whether it is for one image that has more than `most` bytes.
    fn is_too_large(&self, image: &ImageRef, most: u64) -> bool {
        self.images.len() == 1 && image.size > most
    }
}

/// Images that the store did not give.
struct Withheld {
    request: Request,
    error: StorageError,
}

impl Withheld {
    fn is_forbidden(&self) -> bool {
        self.error.is_forbidden()
    }
}
