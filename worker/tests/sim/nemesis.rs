//! What befalls the fleet: deaths, stops, lost connections, services that are away or forget.
//!
//! Until the faults end; then everything is mended and the job has to end. Beside it the broker's own patience
//! with slow consumers, which has no end, and an inspection that looks at what must hold at every moment.

use crate::fleet::{Fleet, Process};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};
use trawl_common::{faults::weather::Service, ledger::Ledger};

/// How often the broker looks for deliveries that are out for too long.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How often the fleet is looked at.
const INSPECT_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy)]
enum Stroke {
    KillWorker,
    StopWorker,
    SlowWorker,
    DrainWorker,
    CutConnection,
    KillProducer,
    WipeLedger,
    EvictBits,
    LedgerAway,
    StorageAway,
    BrokerRestart,
    Reorder,
}

const STROKES: [Stroke; 12] = [
    Stroke::KillWorker,
    Stroke::StopWorker,
    Stroke::SlowWorker,
    Stroke::DrainWorker,
    Stroke::CutConnection,
    Stroke::KillProducer,
    Stroke::WipeLedger,
    Stroke::EvictBits,
    Stroke::LedgerAway,
    Stroke::StorageAway,
    Stroke::BrokerRestart,
    Stroke::Reorder,
];

/// Strikes until the faults end, then mends everything.
pub async fn strike(fleet: Arc<Fleet>) {
    let (world, scenario) = (fleet.world.clone(), &fleet.scenario);
    let until = Instant::now() + scenario.faults_until;
    // A seed has its favourites, so that some seeds are all deaths and others all stops.
    let favourites: Vec<Stroke> = (0..world.dice.between(1, 6)).map(|_| world.dice.one(&STROKES)).collect();
    while Instant::now() < until {
        sleep(Duration::from_millis(world.dice.between(1, 2 * scenario.stroke_every_ms))).await;
        once(&fleet, world.dice.one(&favourites));
    }
    world.weather().clear_up();
    world.chronicle.note("-", "the weather clears up");
    for process in fleet.workers() {
        process.line.go_on();
        process.line.slow_down(1);
    }
}

fn once(fleet: &Arc<Fleet>, stroke: Stroke) {
    let (world, dice) = (&fleet.world, &fleet.world.dice);
    let workers = fleet.workers();
    let worker: Option<&Arc<Process>> = (!workers.is_empty()).then(|| &workers[dice.below(workers.len())]);
    let time = Duration::from_millis(dice.between(100, 60_000));
    let fault = |who: &str, kind, what: &str| world.chronicle.fault(who, kind, what);
    match (stroke, worker) {
        (Stroke::KillWorker, Some(worker)) if world.weather().may_return() => {
            fault(worker.line.name(), "killed", "from outside");
            worker.line.kill();
        }
        (Stroke::StopWorker, Some(worker)) if world.weather().may_return() => {
            // Some stops outlast the broker's patience.
            let time = time * if dice.chance(500) { 8 } else { 1 };
            fault(worker.line.name(), "stopped", &format!("for {} ms", time.as_millis()));
            worker.line.stop();
            let line = worker.line.clone();
            tokio::spawn(async move {
                sleep(time).await;
                line.go_on();
            });
        }
        (Stroke::SlowWorker, Some(worker)) if world.weather().may_return() => {
            let times = u32::try_from(dice.between(2, 200)).unwrap_or(2);
            fault(worker.line.name(), "slow", &format!("{times} times"));
            worker.line.slow_down(times);
        }
        (Stroke::DrainWorker, Some(worker)) if world.weather().may_return() => {
            fault(worker.line.name(), "drained", "");
            if dice.chance(300) { worker.shutdown.stop_now() } else { worker.shutdown.drain() }
        }
        (Stroke::CutConnection, Some(worker)) if world.weather().may_return() => {
            let back = fleet.broker.lose_connection(worker.line.name());
            fault(worker.line.name(), "connection lost", &format!("with {back} deliveries"));
        }
        (Stroke::KillProducer, _) => {
            if let Some(line) = fleet.producer() {
                fault(line.name(), "producer killed", "");
                line.kill();
            }
        }
        (Stroke::WipeLedger, _) => {
            fault("-", "ledger wiped", "");
            fleet.ledger.wipe();
        }
        (Stroke::EvictBits, _) => {
            fault("-", "ledger evicted", "");
            fleet.ledger.evict_bits(&fleet.spec.job);
        }
        (Stroke::LedgerAway, _) => {
            fault("-", "ledger away", &format!("for {} ms", time.as_millis()));
            world.weather().take_away(Service::Ledger, time);
        }
        (Stroke::StorageAway, _) => {
            fault("-", "storage away", &format!("for {} ms", time.as_millis() / 2));
            world.weather().take_away(Service::Storage, time / 2);
        }
        (Stroke::BrokerRestart, _) if world.weather().may_return() => {
            fault("-", "broker restarted", &format!("away for {} ms", time.as_millis() / 4));
            world.weather().take_away(Service::Broker, time / 4);
            for worker in workers {
                fleet.broker.lose_connection(worker.line.name());
            }
        }
        (Stroke::Reorder, _) => {
            fault("-", "reordered", "");
            fleet.broker.reorder(&fleet.spec.queue, |n| dice.below(n));
        }
        _ => {}
    }
}

/// The broker's time-out for consumers.
pub async fn patience(fleet: Arc<Fleet>) {
    loop {
        sleep(LOOK_EVERY).await;
        let back = fleet.broker.time_out(fleet.scenario.patience);
        if back > 0 {
            fleet.world.chronicle.fault("-", "timed out", &format!("{back} deliveries"));
        }
    }
}

/// What must hold at every moment: the ledger is never ahead of the bucket, nor of the plan.
pub async fn inspection(fleet: Arc<Fleet>) {
    let layout = fleet.layout();
    let mut said = false;
    loop {
        sleep(INSPECT_EVERY).await;
        let mut parts = 0;
        for batch in 0..fleet.photos.len() as u64 {
            parts += u64::from(
                fleet.bucket.head(&layout.part(trawl_common::batch::BatchNumber(batch))).await.is_ok(),
            );
        }
        let progress = fleet.ledger.progress(&fleet.spec.job).await.ok().flatten();
        if let Some(progress) = progress.filter(|progress| progress.batches_done > parts && !said) {
            said = true;
            let at = fleet.world.chronicle.elapsed_ms();
            fleet.violated(format!(
                "the ledger counts {} batches at {at} ms and there are {parts} parts",
                progress.batches_done
            ));
        }
    }
}
