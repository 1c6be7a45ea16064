//! The pipeline: intake -> fetch -> decode -> infer -> sink -> settle, a file a stage.
//!
//! Only this file knows them all; the stages do not know each other. One pipeline serves one queue, with
//! as many deliveries in hand as the prefetch allows, each by a task of its own. The same code runs under
//! `serve` (RabbitMQ, Redis, a bucket) and `run` (everything in this process).

pub mod batch;
pub mod fetch;
pub mod handover;
pub mod infer;
pub mod intake;
pub mod meters;
pub mod pool;
pub mod settle;
pub mod sink;

use crate::jobs::Jobs;
use batch::OpenBatch;
use fetch::Fetcher;
use intake::Intake;
use meters::Meters;
use pool::{Pool, PoolSettings, PoolThreads};
use settle::{Finished, Subject};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet};
use trawl_common::{
    batch::{BatchDescriptor, FinalizeRequest, Message},
    broker::{Broker, BrokerError, Consumer, Delivery, topology::MAX_ATTEMPTS},
    disposition::{Failure, describe},
    finalize::{Finalized, finalize},
    job::{JobId, QueueName},
    ledger::{JobRecord, Ledger},
    location::Location,
    planning::rebuild::rebuild,
    shutdown::Shutdown,
    storage::Stores,
};

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
    /// The order of settling; a wrong one shows that a simulation would notice.
    #[cfg(any(test, feature = "testing"))]
    pub order: settle::SettleOrder,
}

/// How a pipeline ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Everything in hand was finished.
    Clean,
    /// The grace ran out, or a second signal came; what was left went back to the queue.
    CutShort {
        /// Batches given back.
        batches: usize,
    },
}

/// Starts the compute stage: decode, and infer's forward passes.
pub fn start_pool(settings: PoolSettings, meters: Arc<Meters>) -> (Arc<Pool>, PoolThreads) {
    Pool::start(settings, infer::forward, meters)
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
        let mut tasks = JoinSet::new();
        let ended = loop {
            tokio::select! {
                biased;
                () = shutdown.draining.cancelled() => break Ok(()),
                Some(task) = tasks.join_next(), if !tasks.is_empty() => report_panic(task),
                delivery = consumer.next() => match delivery {
                    Ok(delivery) => {
                        let pipeline = self.clone();
                        tasks.spawn(async move { pipeline.handle(delivery).await });
                    }
                    Err(error) => break Err(error),
                },
            }
        };
        if let Err(error) = consumer.cancel().await {
            tracing::warn!(%error, "the subscription could not be cancelled");
        }
        let drained = drain(&mut tasks, shutdown, grace).await;
        ended.map(|()| drained)
    }

    async fn handle(self: Arc<Self>, delivery: Delivery) {
        self.meters.inflight_batches.inc();
        // A task that is aborted counts down too.
        let _counted = CountDown(&self.meters);
        let seen = delivery.seen();
        if seen {
            self.meters.redeliveries.inc();
        }
        match Message::parse(&delivery.body) {
            Err(error) => self.settle(delivery, None, Err(error.into())).await,
            Ok(Message::Batch(descriptor)) => {
                let subject = Subject {
                    job: descriptor.job.clone(),
                    out: descriptor.out.clone(),
                    batch: descriptor.batch,
                };
                let last = delivery.attempt >= MAX_ATTEMPTS;
                let finished = self.work(descriptor, seen, last).await;
                self.settle(delivery, Some(&subject), finished).await;
            }
            Ok(Message::Finalize(request)) => {
                let finished = self.finish(&request).await.map(|()| Finished::Dropped);
                self.settle(delivery, None, finished).await;
            }
        }
    }

    /// A batch from its message to its encoded part; `seen` if it was delivered before, `last` if it will not be
    /// tried again.
    async fn work(&self, descriptor: BatchDescriptor, seen: bool, last: bool) -> Result<Finished, Failure> {
        let job = match self.take_in(&descriptor, seen).await? {
            Intake::Cancelled => return Ok(Finished::Dropped),
            Intake::Written(outcome) => return Ok(Finished::Written(outcome)),
            Intake::Compute(job) => job,
        };
        let (batch, rows) = OpenBatch::open(descriptor, job.clone());
        let _abandon = AbandonOnDrop(batch.clone());
        let expect = || {
            let coming = self.pool.expect_one();
            move |image| coming.arrived(image)
        };
        self.fetcher.feed(&batch, expect, last).await?;
        let rows = rows
            .await
            .map_err(|_| Failure::Model("the compute threads are gone".into()))?
            .map_err(Failure::Model)?;
        let part = self.encode(&batch, rows).await?;
        Ok(Finished::Part(job, part))
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

    /// Fills a ledger that has forgotten a job with what its output has. One at a time in this worker: whoever
    /// waited finds it filled, and fills it again for the price of a listing.
    async fn rebuild_ledger(&self, job: &JobId, out: &str) -> Result<(), Failure> {
        let (layout, spec) = self.jobs.spec(job, out).await?;
        let store = self.stores.open(layout.root()).await;
        tracing::warn!(job.id = %job, "the ledger has forgotten a job; rebuilding it from {out}");
        let rebuilt = rebuild(&spec, &layout, &store, &*self.ledger).await;
        let rebuilt = rebuilt.map_err(|e| Failure::Output(describe(&e)))?;
        tracing::info!(job.id = %job, parts = rebuilt.parts, batches = rebuilt.batches_planned, "ledger rebuilt");
        Ok(())
    }

    fn next_attempt_id(&self) -> String {
        format!("{}-{}", self.worker, self.attempts.fetch_add(1, Ordering::Relaxed))
    }
}

async fn drain(tasks: &mut JoinSet<()>, shutdown: &Shutdown, grace: Duration) -> Drained {
    let all = async {
        while let Some(task) = tasks.join_next().await {
            report_panic(task);
        }
    };
    tokio::select! {
        biased;
        () = all => return Drained::Clean,
        () = shutdown.now.cancelled() => {}
        () = tokio::time::sleep(grace) => {}
    }
    let batches = tasks.len();
    tracing::warn!(batch.count = batches, "giving unfinished batches back to the queue");
    // Dropping a delivery gives it back.
    tasks.shutdown().await;
    Drained::CutShort { batches }
}

fn report_panic(task: Result<(), tokio::task::JoinError>) {
    if let Err(error) = task {
        tracing::error!(%error, "a batch's task died; the broker delivers the batch again");
    }
}

struct CountDown<'a>(&'a Meters);

impl Drop for CountDown<'_> {
    fn drop(&mut self) {
        self.0.inflight_batches.dec();
    }
}

struct AbandonOnDrop(Arc<OpenBatch>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
