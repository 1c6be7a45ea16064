//! Decode and infer: the compute threads, and the micro-batches between the two.
//!
//! After fetch, before the rows. On CPU devices one work-conserving pool does both: a thread runs a
//! forward pass when a micro-batch is full and decodes otherwise, so cores are neither oversubscribed nor
//! idle. A CUDA device has threads of its own and the pool only decodes. Micro-batches are filled
//! across batches; a ragged one goes when nothing is on its way to fill it, or after [`LINGER`]. These are
//! OS threads: nothing here may be called from, or block, a tokio thread.

#[cfg(any(test, feature = "testing"))]
mod task;

use super::{
    batch::OpenBatch,
    handover::{Decoded, Undecoded},
    infer::Fit,
    knees::Knees,
    meters::{Meters, Stage},
    sizing::{Found, Rule, Sizing},
};
use crate::{
    model::LoadedModel,
    preprocess::{self, Scratch},
};
use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::JoinHandle,
    time::Duration,
};
use tokio::time::Instant;
use trawl_common::{
    disposition::Failure,
    results::row::{Outcome, ResultRow},
};

/// How long a ragged micro-batch waits for images that are still being fetched: well below a forward
/// pass, well above the gap between two objects of a store that answers.
const LINGER: Duration = Duration::from_millis(10);

/// However busy the decoders are, a ragged micro-batch of one model does not wait longer than this for images
/// of its own while those of another model flow past.
const MAX_LINGER: Duration = Duration::from_millis(500);

/// Full micro-batches that may wait for a CUDA device before the decoders pause: one ready for each of its threads.
const READY_PER_DEVICE: usize = THREADS_PER_DEVICE;

/// Threads of a CUDA device, each with a stream and page-locked memory of its own: one copies its micro-batch over, or
/// files its rows, while the other's is computed.
pub const THREADS_PER_DEVICE: usize = 2;

/// Models whose size is known here; more are forgotten, the oldest first.
const MODELS_SIZED: usize = 8;

/// The forward pass over a micro-batch on one replica of its model; files the rows.
pub type Forward = fn(&LoadedModel, usize, Vec<Decoded>, &Meters) -> Fit;

/// How the pool is laid out.
#[derive(Debug, Clone, Copy)]
pub struct PoolSettings {
    /// Compute threads.
    pub threads: usize,
    /// How many images a full micro-batch has.
    pub micro_batch: Rule,
    /// Whether the compute threads run forward passes too (CPU).
    pub forward_in_pool: bool,
    /// Devices with [`THREADS_PER_DEVICE`] threads of their own.
    pub devices: usize,
}

/// A micro-batch being filled, or full.
struct MicroBatch {
    model: Arc<LoadedModel>,
    images: Vec<Decoded>,
    since: Instant,
}

#[derive(Default)]
struct State {
    undecoded: VecDeque<Undecoded>,
    /// One per model in use; a handful at most.
    filling: Vec<MicroBatch>,
    ready: VecDeque<MicroBatch>,
    /// Images announced by fetch and not here yet.
    expected: usize,
    /// Threads that are decoding now.
    decoding: usize,
    /// The size of each model's micro-batches, by digest and precision.
    sizes: Vec<(String, Sizing)>,
    closed: bool,
}

/// Wakes whoever waits for the pool's state to change.
#[derive(Default)]
struct Bell {
    threads: Condvar,
    #[cfg(any(test, feature = "testing"))]
    task: tokio::sync::Notify,
}

impl Bell {
    fn notify_one(&self) {
        self.threads.notify_one();
        #[cfg(any(test, feature = "testing"))]
        self.task.notify_one();
    }

    fn notify_all(&self) {
        self.threads.notify_all();
        #[cfg(any(test, feature = "testing"))]
        self.task.notify_one();
    }
}

/// The compute stage.
pub struct Pool {
    state: Mutex<State>,
    /// Something to decode, something to forward, or the end.
    changed: Bell,
    settings: PoolSettings,
    forward: Forward,
    knees: Knees,
    meters: Arc<Meters>,
}

/// The promise of one image; keeps ragged micro-batches waiting for it until it arrives or is dropped.
pub struct Expected {
    pool: Arc<Pool>,
}

impl Expected {
    /// The image is here; true if there was nothing to decode before it.
    pub fn arrived(self, image: Undecoded) -> bool {
        let mut state = self.pool.lock();
        let awaited = state.undecoded.is_empty();
        state.undecoded.push_back(image);
        drop(state);
        if self.pool.settings.devices == 0 {
            self.pool.changed.notify_one();
        } else {
            // One would do, but it may be a device's thread, which does not decode.
            self.pool.changed.notify_all();
        }
        awaited
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        state.expected -= 1;
        if state.expected == 0 {
            // The last one: whoever lingers over a ragged micro-batch can go.
            self.pool.changed.notify_all();
        }
    }
}

/// The pool's threads; dropping it ends them after what they are at.
pub struct PoolThreads {
    pool: Arc<Pool>,
    threads: Vec<JoinHandle<()>>,
    #[cfg(any(test, feature = "testing"))]
    task: Option<tokio::task::AbortHandle>,
}

impl Drop for PoolThreads {
    fn drop(&mut self) {
        #[cfg(any(test, feature = "testing"))]
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.pool.lock().closed = true;
        self.pool.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A panic was reported by its hook; there is nobody left to tell.
            let _panicked = thread.join();
        }
    }
}

/// What a thread found to do.
enum Task {
    Decode(Undecoded),
    Forward(MicroBatch),
    End,
}

/// Does `work`; a panic in it fails the batches that it was for instead of the thread, on which others wait.
fn guarded<T>(batches: &[Arc<OpenBatch>], work: impl FnOnce() -> T) -> Option<T> {
    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)) {
        Ok(done) => Some(done),
        Err(_) => {
            for batch in batches {
                let reason = "a compute thread panicked; its words are in the log above";
                batch.fail(Failure::Model(reason.to_owned()));
            }
            None
        }
    }
}

impl Pool {
    /// Starts the threads.
    pub fn start(
        settings: PoolSettings,
        forward: Forward,
        knees: Knees,
        meters: Arc<Meters>,
    ) -> (Arc<Self>, PoolThreads) {
        let pool = Arc::new(Self::new(settings, forward, knees, meters));
        let spawn = |name: String, decodes: bool, forwards: bool, replica: usize| {
            let pool = pool.clone();
            std::thread::Builder::new()
                .name(name)
                .spawn(move || pool.work(decodes, forwards, replica))
                .expect("the system has threads to give")
        };
        let threads = (0..settings.threads.max(1))
            .map(|i| spawn(format!("compute-{i}"), true, settings.forward_in_pool, 0))
            .chain((0..settings.devices * THREADS_PER_DEVICE).map(|i| {
                let device = i / THREADS_PER_DEVICE;
                spawn(format!("device-{device}-{}", i % THREADS_PER_DEVICE), false, true, device)
            }))
            .collect();
        let threads = PoolThreads {
            pool: pool.clone(),
            threads,
            #[cfg(any(test, feature = "testing"))]
            task: None,
        };
        (pool, threads)
    }

    fn new(settings: PoolSettings, forward: Forward, knees: Knees, meters: Arc<Meters>) -> Self {
        Self { state: Mutex::default(), changed: Bell::default(), settings, forward, knees, meters }
    }

    /// Announces an image that is being fetched.
    pub fn expect_one(self: &Arc<Self>) -> Expected {
        self.lock().expected += 1;
        Expected { pool: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the pool's state is held")
    }

    fn work(&self, decodes: bool, forwards: bool, replica: usize) {
        crate::model::network::prepare_thread();
        let mut scratch = Scratch::new();
        while self.perform(self.next(decodes, forwards), replica, &mut scratch) {}
    }

    /// False at the end.
    fn perform(&self, task: Task, replica: usize, scratch: &mut Scratch) -> bool {
        match task {
            Task::Decode(image) => {
                let batch = image.batch.clone();
                let decoded = guarded(&[batch], || self.decode(image, scratch));
                self.file(decoded.flatten());
            }
            Task::Forward(MicroBatch { model, images, .. }) => {
                let (count, began) = (images.len(), Instant::now());
                let batches: Vec<_> = images.iter().map(|image| image.batch.clone()).collect();
                let fit = guarded(&batches, || (self.forward)(&model, replica, images, &self.meters));
                self.adapt(&model, count, began.elapsed(), fit);
            }
            Task::End => return false,
        }
        true
    }

    fn next(&self, decodes: bool, forwards: bool) -> Task {
        let mut state = self.lock();
        loop {
            state = match self.look(&mut state, decodes, forwards) {
                Ok(task) => return task,
                Err(Some(time)) => self.changed.threads.wait_timeout(state, time).expect("as in lock").0,
                Err(None) => self.changed.threads.wait(state).expect("as in lock"),
            };
        }
    }

    /// Takes note of what a pass over so many images showed about their number.
    fn adapt(&self, model: &LoadedModel, images: usize, took: Duration, fit: Option<Fit>) {
        let mut state = self.lock();
        let sizing = self.sizing(&mut state, model);
        self.meters.micro_batch(images, sizing.full());
        let found = fit.map_or(Found::Nothing, |fit| sizing.observe(images, took, fit));
        drop(state);
        if let Found::Knee(size) = found {
            tracing::info!(model.name = %model.spec.name, images = size, "the micro-batch of this model has its size");
            self.knees.set(&model.variant, size);
        }
    }

    /// The size of a model's micro-batches. One small read of a file when a model is new.
    fn sizing<'s>(&self, state: &'s mut State, model: &LoadedModel) -> &'s mut Sizing {
        let place = state.sizes.iter().position(|(variant, _)| *variant == model.variant);
        let place = place.unwrap_or_else(|| {
            if state.sizes.len() >= MODELS_SIZED {
                state.sizes.remove(0);
            }
            let remembered = match self.settings.micro_batch {
                Rule::Fixed(_) => None,
                Rule::Climb { .. } => self.knees.get(&model.variant),
            };
            state.sizes.push((model.variant.clone(), Sizing::new(self.settings.micro_batch, remembered)));
            state.sizes.len() - 1
        });
        &mut state.sizes[place].1
    }

    /// What there is to do now, or else how long to wait at most for a change.
    fn look(&self, state: &mut State, decodes: bool, forwards: bool) -> Result<Task, Option<Duration>> {
        if forwards && let Some(batch) = state.ready.pop_front() {
            // Decoders may have paused for room.
            self.changed.notify_all();
            return Ok(Task::Forward(batch));
        }
        if forwards && let Some(old) = state.filling.iter().position(|m| m.since.elapsed() >= MAX_LINGER) {
            // Whoever waits for the end looks again: this may have been the last.
            self.changed.notify_all();
            return Ok(Task::Forward(state.filling.remove(old)));
        }
        let room = self.settings.devices == 0 || state.ready.len() < READY_PER_DEVICE * self.settings.devices;
        if decodes
            && room
            && let Some(image) = state.undecoded.pop_front()
        {
            state.decoding += 1;
            return Ok(Task::Decode(image));
        }
        let mut wait = None;
        if forwards && state.undecoded.is_empty() && state.decoding == 0 && !state.filling.is_empty() {
            let age = state.filling[0].since.elapsed();
            if state.expected == 0 || age >= LINGER {
                self.changed.notify_all();
                return Ok(Task::Forward(state.filling.remove(0)));
            }
            wait = Some(LINGER.saturating_sub(age));
        }
        let idle = state.undecoded.is_empty() && state.ready.is_empty() && state.filling.is_empty();
        if state.closed && idle && state.decoding == 0 {
            return Ok(Task::End);
        }
        Err(wait)
    }

    /// Bytes to pixels; `None` if the image got its error row, or nobody wants it any more.
    fn decode(&self, image: Undecoded, scratch: &mut Scratch) -> Option<Decoded> {
        let Undecoded { batch, index, bytes, etag, room } = image;
        if batch.is_abandoned() {
            return None;
        }
        let began = Instant::now();
        trawl_common::failpoint::hit_blocking(trawl_common::failpoint::DECODE_BEFORE);
        let prepared = preprocess::prepare(&bytes, &batch.job.recipe, scratch);
        let took = began.elapsed();
        self.meters.stage(Stage::Decode, took, 1);
        batch.spent(Stage::Decode, took);
        let size = bytes.len() as u64;
        drop((bytes, room));
        match prepared {
            Ok(prepared) => Some(Decoded { batch, index, prepared, etag, size }),
            Err(error) => {
                let row = ResultRow {
                    key: batch.image(index).key.clone(),
                    etag,
                    size,
                    width: error.width,
                    height: error.height,
                    outcome: Outcome::Failed { code: error.code, message: error.message },
                    carried: batch.image(index).carried.clone(),
                };
                batch.set_row(index, row);
                None
            }
        }
    }

    fn file(&self, decoded: Option<Decoded>) {
        let mut state = self.lock();
        state.decoding -= 1;
        if let Some(image) = decoded {
            let model = image.batch.job.model.clone();
            let size = self.sizing(&mut state, &model).full();
            let place = state.filling.iter().position(|filling| Arc::ptr_eq(&filling.model, &model));
            let place = place.unwrap_or_else(|| {
                let images = Vec::with_capacity(size);
                state.filling.push(MicroBatch { model, images, since: Instant::now() });
                state.filling.len() - 1
            });
            state.filling[place].images.push(image);
            if state.filling[place].images.len() >= size {
                let full = state.filling.remove(place);
                state.ready.push_back(full);
            }
        }
        // A full micro-batch, or the end of the decoding that a ragged one waited for.
        self.changed.notify_all();
    }
}
