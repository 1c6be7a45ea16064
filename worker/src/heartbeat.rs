//! The heartbeat: what this worker is at, told to the fleet's registry every few seconds.
//!
//! Beside the pipeline, in a task of its own, from counters that are kept anyway; a registry that is away costs a
//! debug line. Shares and rates are those of the last interval, not of the whole life. It must never hold up a batch
//! or the end of the process.

use crate::{
    ceilings::Ceilings,
    jobs::Jobs,
    model::{Device, network},
    pipeline::{
        Pipeline,
        in_hand::InHand,
        meters::{Meters, Stage, StageTotal},
    },
};
use std::{sync::Arc, time::Duration};
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use trawl_common::{
    config::unix_ms,
    fleet::{Fleet, HEARTBEAT_EVERY, MAX_IN_FLIGHT, WorkerReport},
    shutdown::Shutdown,
};

/// For the farewell at the end; without it the registry forgets the worker by itself, a minute later.
const FAREWELL: Duration = Duration::from_secs(1);

/// The running heartbeat. Dropping it without [`Heartbeat::end`] lets it beat until the runtime ends.
pub struct Heartbeat {
    ended: CancellationToken,
    task: JoinHandle<()>,
}

impl Heartbeat {
    /// Begins to report for a worker on `devices` that serves `queues`: at once, then every [`HEARTBEAT_EVERY`], and
    /// when a drain begins.
    pub fn start(
        fleet: Arc<dyn Fleet>,
        pipeline: &Pipeline,
        devices: Vec<Device>,
        queues: Vec<String>,
        shutdown: &Shutdown,
    ) -> Self {
        let shown: Vec<String> = devices.iter().map(ToString::to_string).collect();
        let constant = WorkerReport {
            worker: pipeline.worker.clone(),
            host: crate::assemble::host_name(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: shown.join(","),
            queues,
            started_unix_ms: unix_ms(),
            ..WorkerReport::default()
        };
        Self::beat(
            fleet,
            Pulse {
                constant,
                devices,
                last: Snapshot::of(&pipeline.meters),
                meters: pipeline.meters.clone(),
                jobs: pipeline.jobs.clone(),
                in_hand: pipeline.in_hand.clone(),
                draining: shutdown.draining.clone(),
            },
        )
    }

    fn beat(fleet: Arc<dyn Fleet>, mut pulse: Pulse) -> Self {
        let ended = CancellationToken::new();
        let told = ended.clone();
        let task = tokio::spawn(async move {
            let worker = pulse.constant.worker.clone();
            tokio::select! {
                biased;
                () = told.cancelled() => {}
                () = pulse.keep_reporting(&*fleet) => {}
            }
            // On the same connection as the last report, so that it cannot be overtaken by it.
            match timeout(FAREWELL, fleet.leave(&worker)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "the fleet's registry was not told of the end"),
                Err(_) => tracing::debug!("the fleet's registry does not answer the farewell"),
            }
        });
        Self { ended, task }
    }

    /// Takes the worker out of the registry, within about a second.
    pub async fn end(self) {
        self.ended.cancel();
        if timeout(FAREWELL * 2, self.task).await.is_err() {
            tracing::debug!("the heartbeat did not end in time");
        }
    }
}

/// What reports are made from.
struct Pulse {
    /// What does not change while the worker lives.
    constant: WorkerReport,
    devices: Vec<Device>,
    meters: Arc<Meters>,
    jobs: Arc<Jobs>,
    in_hand: InHand,
    draining: CancellationToken,
    last: Snapshot,
}

/// The counters at a moment.
struct Snapshot {
    at: Instant,
    stages: [StageTotal; Stage::ALL.len()],
    computed: u64,
}

impl Snapshot {
    fn of(meters: &Meters) -> Self {
        Self {
            at: Instant::now(),
            stages: Stage::ALL.map(|stage| meters.total(stage)),
            computed: meters.computed(),
        }
    }

    /// What `stage` did between `earlier` and this.
    fn since(&self, earlier: &Self, stage: Stage) -> StageTotal {
        let (now, then) = (self.stages[stage as usize], earlier.stages[stage as usize]);
        StageTotal { busy: now.busy.saturating_sub(then.busy), count: now.count.saturating_sub(then.count) }
    }
}

impl Pulse {
    async fn keep_reporting(&mut self, fleet: &dyn Fleet) {
        let mut due = interval(HEARTBEAT_EVERY);
        // A registry that did not answer for a while is not told of the past.
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let draining = self.draining.clone();
        let mut drain_told = false;
        loop {
            tokio::select! {
                _ = due.tick() => {}
                () = draining.cancelled(), if !drain_told => {}
            }
            drain_told = draining.is_cancelled();
            let report = self.report().await;
            if let Err(error) = fleet.report(&report).await {
                tracing::debug!(%error, "the fleet's registry did not take a report");
            }
        }
    }

    /// What is to be said now; the next one tells of the time from here on.
    async fn report(&mut self) -> WorkerReport {
        let now = Snapshot::of(&self.meters);
        let seconds = now.at.duration_since(self.last.at).as_secs_f64();
        let did = |stage| now.since(&self.last, stage);
        let mut report = WorkerReport {
            model: self.jobs.loaded(),
            memory_bytes: resident_bytes().await,
            device_memory_bytes: self.device_memory().await,
            in_flight: self.in_hand.oldest(MAX_IN_FLIGHT),
            images_total: now.computed,
            draining: self.draining.is_cancelled(),
            ..self.constant.clone()
        };
        if let Some(lanes) = self.meters.lanes().filter(|_| seconds > 0.0) {
            // Work is entered at its end: what began before the interval may make more than all of it.
            let share =
                |stage| (did(stage).busy.as_secs_f64() / seconds / lanes.at(stage) as f64).clamp(0.0, 1.0);
            report.busy = Stage::ALL.map(|stage| (stage.name().to_owned(), share(stage))).into();
            report.images_per_second = did(Stage::Forward).count as f64 / seconds;
            let committed = now.computed.saturating_sub(self.last.computed);
            report.binding = Ceilings::new(did, committed.max(did(Stage::Forward).count), lanes)
                .map(|ceilings| ceilings.binding().name().to_owned());
        }
        self.last = now;
        report
    }
}

impl Pulse {
    /// What this process holds of its devices' memory, all together; `None` on the CPU and before the first model.
    async fn device_memory(&self) -> Option<u64> {
        let held = network::device_memories(&self.devices).await;
        (!held.is_empty()).then(|| held.iter().map(|(_, bytes)| bytes).sum())
    }
}

/// The process's resident memory; 0 where /proc does not tell.
async fn resident_bytes() -> u64 {
    let statm = tokio::fs::read_to_string("/proc/self/statm").await.unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    // SAFETY: `sysconf` takes a number and touches no memory of ours.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * u64::try_from(page_bytes).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ceilings::Lanes,
        jobs::TorchLoader,
        model::{GraphPasses, verdicts::Verdicts},
        preprocess::Limits,
    };
    use async_trait::async_trait;
    use std::sync::Mutex;
    use trawl_common::{
        fleet::{Heard, memory::MemoryFleet},
        ledger::LedgerError,
        storage::Stores,
    };

    /// A registry that remembers everything, and may be away.
    #[derive(Default)]
    struct Told {
        reports: Mutex<Vec<WorkerReport>>,
        inner: MemoryFleet,
        away: bool,
    }

    #[async_trait]
    impl Fleet for Told {
        async fn report(&self, report: &WorkerReport) -> Result<(), LedgerError> {
            self.reports.lock().unwrap().push(report.clone());
            if self.away {
                return std::future::pending().await;
            }
            self.inner.report(report).await
        }
        async fn leave(&self, worker: &str) -> Result<(), LedgerError> {
            if self.away {
                return std::future::pending().await;
            }
            self.inner.leave(worker).await
        }
        async fn workers(&self, limit: usize) -> Result<Vec<Heard>, LedgerError> {
            self.inner.workers(limit).await
        }
    }

    fn pulse(meters: &Arc<Meters>, draining: &CancellationToken) -> Pulse {
        let loader = Arc::new(TorchLoader {
            devices: Vec::new(),
            graph_passes: GraphPasses::Off,
            verdicts: Verdicts::default(),
        });
        let jobs = Jobs::new(Stores::in_memory(), loader, "/nowhere".into(), Limits::default(), None);
        Pulse {
            devices: vec![Device::Cpu],
            constant: WorkerReport { worker: "w".into(), ..WorkerReport::default() },
            last: Snapshot::of(meters),
            meters: meters.clone(),
            jobs: Arc::new(jobs),
            in_hand: InHand::default(),
            draining: draining.clone(),
        }
    }

    async fn until(told: &Told, reports: usize) -> WorkerReport {
        loop {
            if let Some(report) = told.reports.lock().unwrap().get(reports - 1) {
                return report.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn shares_and_rates_are_those_of_the_last_interval() {
        let (meters, draining) = (Arc::new(Meters::new()), CancellationToken::new());
        meters.set_lanes(Lanes { threads: 2, devices: 0, fetches: 10, batches: 2 });
        meters.stage(Stage::Forward, Duration::from_secs(100), 1000);
        let told = Arc::new(Told::default());
        let heartbeat = Heartbeat::beat(told.clone(), pulse(&meters, &draining));
        let first = until(&told, 1).await;
        assert_eq!((first.images_per_second, first.binding.clone()), (0.0, None), "{first:?}");
        assert!(first.memory_bytes > 1 << 20 && first.device_memory_bytes.is_none(), "{first:?}");
        meters.stage(Stage::Fetch, Duration::from_secs(5), 50);
        meters.stage(Stage::Forward, Duration::from_secs(5), 50);
        let second = until(&told, 2).await;
        assert!((second.images_per_second - 10.0).abs() < 0.1, "{second:?}");
        assert!((second.busy["forward"] - 0.5).abs() < 0.01, "{second:?}");
        assert!((second.busy["fetch"] - 0.1).abs() < 0.01, "{second:?}");
        assert_eq!(second.busy["put"], 0.0);
        assert_eq!(second.binding.as_deref(), Some("forward"));
        assert_eq!(until(&told, 3).await.images_per_second, 0.0, "nothing was done since");
        heartbeat.end().await;
        assert!(told.workers(9).await.unwrap().is_empty(), "who ends leaves");
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_is_told_at_once_and_an_absent_registry_holds_nothing_up() {
        let (meters, draining) = (Arc::new(Meters::new()), CancellationToken::new());
        let told = Arc::new(Told::default());
        let heartbeat = Heartbeat::beat(told.clone(), pulse(&meters, &draining));
        until(&told, 1).await;
        let began = Instant::now();
        draining.cancel();
        assert!(until(&told, 2).await.draining);
        assert!(began.elapsed() < HEARTBEAT_EVERY / 2);
        until(&told, 3).await;
        assert!(began.elapsed() > HEARTBEAT_EVERY / 2, "it is told once");
        heartbeat.end().await;

        let away = Arc::new(Told { away: true, ..Told::default() });
        let heartbeat = Heartbeat::beat(away.clone(), pulse(&meters, &draining));
        until(&away, 1).await;
        let began = Instant::now();
        heartbeat.end().await;
        assert!(began.elapsed() <= FAREWELL * 2, "{:?}", began.elapsed());
    }
}
