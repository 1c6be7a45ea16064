//! The pipeline: intake -> fetch -> decode -> infer -> sink -> settle, a file a stage.
//!
//! Beside the stages: [`solo`] takes a batch that may have killed its worker, [`tail`] looks for batches that
//! somebody else is slow with.
//! Only this file knows them all; the stages do not know each other. One pipeline serves one queue, with
//! as many deliveries in hand as the prefetch allows, each by a task of its own. The same code runs under
//! `serve` (RabbitMQ, Redis, a bucket) and `run` (everything in this process).

pub(crate) mod asking;
pub mod batch;
mod feed;
pub mod fetch;
pub mod handover;
pub mod in_hand;
pub mod infer;
pub mod intake;
pub mod journal;
pub mod knees;
pub mod meters;
pub mod outcomes;
pub mod pace;
pub mod pool;
pub(crate) mod reading;
mod seats;
pub mod settle;
pub mod sink;
pub mod sizing;
pub mod solo;
mod tables;
pub mod tail;
mod tallies;
mod traced;

use crate::jobs::Jobs;
use batch::{BatchRows, OpenBatch};
use fetch::Fetcher;
use in_hand::InHand;
use intake::Intake;
use knees::Knees;
use meters::Meters;
use pool::{Pool, PoolSettings, PoolThreads};
use settle::{Finished, Subject};
use solo::{Place, Room};
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use trawl_common::{
    batch::{BatchDescriptor, FinalizeRequest, Message, MessageError},
    broker::{Broker, BrokerError, Consumer, Delivery, topology::MAX_ATTEMPTS},
    disposition::{Failure, describe},
    finalize::{Finalized, finalize},
    job::{JobId, QueueName},
    ledger::{JobRecord, Ledger},
    location::Location,
    planning::{
        PlanError,
        feed::Ready,
        rebuild::{Rebuilt, is_half_filled, rebuild},
    },
    results::row::ResultRow,
    shutdown::Shutdown,
    storage::Stores,
    trace,
};

/// How long batches that are given back may take to say so: a publish to a broker that answers.
const SETTLE_PATIENCE: Duration = Duration::from_secs(5);

/// One queue's pipeline and everything its stages share.
pub struct Pipeline {
    /// The work list.
    pub broker: Arc<dyn Broker>,
    /// Progress.
    pub ledger: Arc<dyn Ledger>,
    /// Objects.
    pub stores: Arc<Stores>,
    /// Specs and models.
    pub jobs: Arc<Jobs>,
    /// The fetch stage.
    pub fetcher: Arc<Fetcher>,
    /// The compute stage.
    pub pool: Arc<Pool>,
    /// Clock and counters.
    pub meters: Arc<Meters>,
    /// The queue that is served.
    pub queue: QueueName,
    /// This worker's name: host, process and a random part.
    pub worker: String,
    /// Attempts begun, for attempt ids.
    pub attempts: Arc<AtomicU64>,
    /// Jobs finished by this worker: bumped after each `_SUCCESS`.
    pub finished: watch::Sender<u64>,
    /// One for all lanes of this process.
    pub room: Room,
    /// When somebody else's batch may be taken; `None` leaves it to them.
    pub reclaim_after: Option<Duration>,
    /// How many batches of a job may wait in the queue.
    pub ready: Ready,
    /// Jobs that idle looks found not to move.
    pub stalled: tail::Stalled,
    /// Batches that were in work when an earlier process of this job ended without a word, by number; only an
    /// embedded run, which has no broker to count such ends, knows and marks them.
    pub begun: Option<Arc<Mutex<HashSet<u64>>>>,
    /// What is in hand, for display.
    pub in_hand: InHand,
    /// Set when a device is lost: nothing more can be done in this process.
    pub device_lost: CancellationToken,
    /// The order of settling; a wrong one shows that a simulation would notice.
    #[cfg(any(test, feature = "testing"))]
    pub order: settle::SettleOrder,
}

/// How a pipeline ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Everything in hand was finished.
    Clean,
    /// A device is lost; what was in hand went back to the queue. The process must end, for its supervisor to
    /// start a new one.
    DeviceLost,
    /// The grace ran out, or a second signal came; what was left went back to the queue.
    CutShort {
        /// Batches given back.
        batches: usize,
    },
}

/// Starts the compute stage: decode, and infer's forward passes.
pub fn start_pool(settings: PoolSettings, knees: Knees, meters: Arc<Meters>) -> (Arc<Pool>, PoolThreads) {
    Pool::start(settings, infer::forward, knees, meters)
}

/// The same as a tokio task, for simulations: each piece of work takes `pace` of the runtime's clock.
#[cfg(any(test, feature = "testing"))]
pub fn start_pool_as_task(
    settings: PoolSettings,
    meters: Arc<Meters>,
    pace: Duration,
) -> (Arc<Pool>, PoolThreads) {
    Pool::start_as_task(settings, infer::forward, meters, pace)
}

impl Pipeline {
    /// The same stages, for another queue.
    #[must_use]
    pub fn for_queue(&self, queue: QueueName) -> Arc<Self> {
        Arc::new(Self {
            broker: self.broker.clone(),
            ledger: self.ledger.clone(),
            stores: self.stores.clone(),
            jobs: self.jobs.clone(),
            fetcher: self.fetcher.clone(),
            pool: self.pool.clone(),
            meters: self.meters.clone(),
            queue,
            worker: self.worker.clone(),
            attempts: self.attempts.clone(),
            finished: watch::Sender::new(0),
            room: self.room.clone(),
            reclaim_after: self.reclaim_after,
            ready: self.ready,
            stalled: tail::Stalled::default(),
            begun: self.begun.clone(),
            in_hand: self.in_hand.clone(),
            device_lost: self.device_lost.clone(),
            #[cfg(any(test, feature = "testing"))]
            order: self.order,
        })
    }

    /// Consumes until `shutdown` drains, then finishes what is in hand within `grace` and gives back the rest.
    ///
    /// # Errors
    /// What the consumer cannot mend by waiting (see [`Consumer::next`]).
    pub async fn serve(
        self: &Arc<Self>,
        mut consumer: Box<dyn Consumer>,
        shutdown: &Shutdown,
        grace: Duration,
    ) -> Result<Drained, BrokerError> {
        let (mut tasks, cut) = (JoinSet::new(), CancellationToken::new());
        let mut idle = tokio::time::interval(tail::LOOK_EVERY);
        let ended = loop {
            tokio::select! {
                biased;
                () = shutdown.draining.cancelled() => break Ok(()),
                () = self.device_lost.cancelled() => break Ok(()),
                Some(task) = tasks.join_next(), if !tasks.is_empty() => {
                    report_panic(task);
                    idle.reset();
                }
                delivery = consumer.next() => match delivery {
                    Ok(delivery) => {
                        let (pipeline, cut) = (self.clone(), cut.clone());
                        tasks.spawn(async move { pipeline.handle(delivery, cut).await });
                    }
                    Err(error) => break Err(error),
                },
                // An embedded run is alone: there is nobody to help, and its ledger is its own.
                _ = idle.tick(), if tasks.is_empty() && self.begun.is_none() => {
                    let (pipeline, cut) = (self.clone(), cut.clone());
                    tasks.spawn(async move { pipeline.look_at_the_tail(cut).await });
                }
            }
        };
        if let Err(error) = consumer.cancel().await {
            tracing::warn!(%error, "the subscription could not be cancelled");
        }
        let drained = drain(&mut tasks, &cut, shutdown, &self.device_lost, grace).await;
        ended.map(|()| drained)
    }

    /// Sees a delivery to its end; `cut` gives back what is not at its commit yet.
    async fn handle(self: Arc<Self>, delivery: Delivery, cut: CancellationToken) {
        let message = Message::parse(&delivery.body);
        let surroundings = self.surroundings(&delivery, message.as_ref().ok());
        surroundings.around(self.see_through(delivery, message, cut)).await;
    }

    async fn see_through(
        self: &Arc<Self>,
        delivery: Delivery,
        message: Result<Message, MessageError>,
        cut: CancellationToken,
    ) {
        self.meters.progressed();
        self.meters.inflight_batches.inc();
        // A task that is aborted counts down too.
        let _counted = CountDown(&self.meters);
        let seen = delivery.seen();
        if seen {
            self.meters.redeliveries.inc();
        }
        match message {
            Err(error) => self.settle(delivery, None, Err(error.into())).await,
            Ok(Message::Batch(descriptor)) => {
                let subject = Subject::of(&descriptor);
                let _held = self.in_hand.hold(&subject);
                let alone = delivery.deliveries > 0 || self.has_begun(&subject);
                let last = delivery.attempt >= MAX_ATTEMPTS;
                let again = descriptor.clone();
                if alone {
                    // Before it waits for its place: nobody may take over meanwhile what may kill.
                    self.release(&descriptor).await;
                }
                let mut place: Option<Place> = None;
                let work = async {
                    let waiting = trace::child("wait");
                    place = Some(self.room.enter(alone).await);
                    drop(waiting);
                    self.work(descriptor, Sight { seen, alone, last }).await
                };
                let finished = tokio::select! {
                    biased;
                    () = cut.cancelled() => Err(Failure::Draining),
                    finished = work => finished,
                };
                if place.is_some() && matches!(finished, Err(Failure::Draining)) {
                    self.forgive(&again, alone).await;
                }
                self.settle(delivery, Some(&subject), finished).await;
            }
            Ok(Message::Feed(request)) => {
                let fed = self.feed_on(&request).await.map(|()| Finished::Dropped);
                self.settle(delivery, None, fed).await;
            }
            Ok(Message::Finalize(request)) => {
                let finished = self.finish(&request).await.map(|()| Finished::Dropped);
                self.settle(delivery, None, finished).await;
            }
        }
    }

    /// A batch from its message to its encoded part.
    async fn work(&self, descriptor: BatchDescriptor, sight: Sight) -> Result<Finished, Failure> {
        let claiming = trace::child("claim");
        let taken = self.take_in(&descriptor, sight.seen || sight.alone, sight.alone).await?;
        drop(claiming);
        let job = match taken {
            Intake::Held => return Ok(Finished::Dropped),
            Intake::Written(outcome) => return Ok(Finished::Written(outcome)),
            Intake::Compute(job) => job,
        };
        let (batch, rows) = if sight.alone {
            self.compute_alone(descriptor, &job, sight.last).await?
        } else {
            self.mark_begun(&descriptor, &job).await?;
            let (batch, mut rows) = OpenBatch::open(descriptor, job.clone());
            let _abandon = AbandonOnDrop(batch.clone());
            let all: Vec<usize> = (0..batch.descriptor.images.len()).collect();
            let rows = self.feed_and_wait(&batch, &all, &mut rows, sight.last).await?;
            (batch, rows)
        };
        traced::note_stages(&batch);
        let part = self.encode(&batch, rows).await?;
        Ok(Finished::Part { job, part, journalled: sight.alone || self.begun.is_some() })
    }

    /// Sends images of a batch through fetch, decode and infer, and waits until each row of the batch is in.
    async fn feed_and_wait(
        &self,
        batch: &Arc<OpenBatch>,
        wanted: &[usize],
        rows: &mut BatchRows,
        last: bool,
    ) -> Result<Vec<ResultRow>, Failure> {
        let _computing = trace::child("compute");
        self.feed(batch, wanted, last).await?;
        received(rows.await)
    }

    async fn feed(&self, batch: &Arc<OpenBatch>, wanted: &[usize], last: bool) -> Result<(), Failure> {
        let expect = || {
            let coming = self.pool.expect_one();
            move |image| coming.arrived(image)
        };
        let _fetching = trace::child("fetch");
        self.fetcher.feed(batch, wanted, expect, last).await
    }

    async fn finish(&self, request: &FinalizeRequest) -> Result<(), Failure> {
        let out = Location::parse(&request.out, std::path::Path::new("/"))
            .map_err(|e| Failure::Job(e.to_string()))?;
        match finalize(&request.job, &out, &self.stores).await.map_err(|e| Failure::Output(describe(&e)))? {
            Finalized::Written(manifest) => {
                let (_, spec) = self.jobs.spec(&request.job, &request.out).await?;
                self.ledger.finalized(&JobRecord::of(&spec), manifest.batches, &manifest.totals()).await?;
                tracing::info!(job.id = %request.job, batch.count = manifest.batches, "job complete");
                self.finished.send_modify(|jobs| *jobs += 1);
            }
            Finalized::PlanOpen => tracing::info!(job.id = %request.job, "the plan is still open"),
            Finalized::Incomplete { missing_count, .. } => {
                return Err(Failure::Output(format!("{missing_count} parts of the plan are missing")));
            }
        }
        Ok(())
    }

    /// Fills a ledger that has forgotten a job with what its output has. One at a time in this worker, because a wipe
    /// is noticed by every batch in hand at once: whoever waited, and finds that it was done meanwhile, has nothing
    /// to do. Cancel safe.
    async fn rebuild_ledger(&self, job: &JobId, out: &str) -> Result<(), Failure> {
        let _alone = self.jobs.rebuilding.lock().await;
        // In doubt it is filled: that has more patience with a ledger that does not answer.
        if is_half_filled(job, &*self.ledger).await.unwrap_or(true) {
            self.fill_ledger(job, out).await?;
        }
        Ok(())
    }

    /// Fills a ledger with what the output of a job has, whatever it knows. Hold [`crate::jobs::Jobs::rebuilding`].
    async fn fill_ledger(&self, job: &JobId, out: &str) -> Result<Rebuilt, Failure> {
        let (layout, spec) = self.jobs.spec(job, out).await?;
        let store = self.stores.open(layout.root()).await;
        tracing::warn!(job.id = %job, "the ledger does not know all of a job; rebuilding it from {out}");
        let rebuilt = rebuild(&spec, &layout, &store, &*self.ledger).await;
        let rebuilt = rebuilt.map_err(|error| match error {
            // Its outage is no attempt of a batch.
            PlanError::Ledger(error) => Failure::Ledger(error),
            error => Failure::Output(describe(&error)),
        })?;
        tracing::info!(job.id = %job, parts = rebuilt.parts, batches = rebuilt.batches_planned, "ledger rebuilt");
        Ok(rebuilt)
    }

    fn next_attempt_id(&self) -> String {
        format!("{}-{}", self.worker, self.attempts.fetch_add(1, Ordering::Relaxed))
    }
}

/// How a delivery is looked at.
#[derive(Debug, Clone, Copy)]
struct Sight {
    /// Somebody may have worked on it before.
    seen: bool,
    /// It came back without a word: it may have killed its worker.
    alone: bool,
    /// It will not be tried again.
    last: bool,
}

/// A batch's rows, from the threads that made them.
fn received(
    rows: Result<Result<Vec<ResultRow>, Failure>, oneshot::error::RecvError>,
) -> Result<Vec<ResultRow>, Failure> {
    rows.unwrap_or_else(|_| Err(Failure::Model("the compute threads are gone".into())))
}

/// Waits for what is in hand, as long as it may take; then `cut`s it short and lets it settle.
async fn drain(
    tasks: &mut JoinSet<()>,
    cut: &CancellationToken,
    shutdown: &Shutdown,
    device_lost: &CancellationToken,
    grace: Duration,
) -> Drained {
    let all = async {
        while let Some(task) = tasks.join_next().await {
            report_panic(task);
        }
    };
    tokio::select! {
        biased;
        () = all => return if device_lost.is_cancelled() { Drained::DeviceLost } else { Drained::Clean },
        () = shutdown.now.cancelled() => {}
        () = device_lost.cancelled() => {}
        () = tokio::time::sleep(grace) => {}
    }
    let batches = tasks.len();
    tracing::warn!(batch.count = batches, "giving unfinished batches back to the queue");
    cut.cancel();
    let settled = async {
        while let Some(task) = tasks.join_next().await {
            report_panic(task);
        }
    };
    if tokio::time::timeout(SETTLE_PATIENCE, settled).await.is_err() {
        // Dropping a delivery gives it back too, but the broker counts it as one that came back without a word.
        tasks.shutdown().await;
    }
    if device_lost.is_cancelled() { Drained::DeviceLost } else { Drained::CutShort { batches } }
}

fn report_panic(task: Result<(), tokio::task::JoinError>) {
    if let Err(error) = task {
        tracing::error!(%error, "a batch's task died; the broker delivers the batch again");
    }
}

struct CountDown<'a>(&'a Meters);

impl Drop for CountDown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Within the batch's log span, where whoever joins the task is not.
            tracing::error!("the task of a delivery panics; its words are in the log above");
        }
        self.0.inflight_batches.dec();
    }
}

struct AbandonOnDrop(Arc<OpenBatch>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
