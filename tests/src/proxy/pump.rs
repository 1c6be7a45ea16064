//! One connection through the proxy: a pump for each direction, and an end.
//!
//! A pump is a reader, a short queue and a writer, so that latency delays bytes without holding up those behind
//! them. The queue is bounded: a peer that does not read slows down the one that writes. Bytes never change and
//! never overtake each other.

use super::{
    Counters,
    faults::{Lane, Plan},
};
use crate::background::{Dice, Told};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    time::Instant,
};

/// Read at once.
const CHUNK_BYTES: usize = 16 << 10;

/// Chunks under way in one direction: a megabyte.
const QUEUED_CHUNKS: usize = 64;

/// A rate is kept in steps of this share of a second.
const STEPS_PER_SECOND: u64 = 20;

/// How a connection ends before both sides have closed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// FIN to both.
    Close,
    /// RST to both.
    Reset,
}

/// A connection.
pub(super) struct Link {
    /// Numbered from 0 in the order of their arrival.
    pub(super) id: u64,
    pub(super) plans: watch::Receiver<Told<Plan>>,
    pub(super) counters: Arc<Counters>,
    /// For jitter.
    pub(super) seed: u64,
}

/// What waits in a direction's queue.
enum Queued {
    Bytes { due: Instant, bytes: Vec<u8> },
    Cut,
}

impl Link {
    /// Carries bytes until the connection's end.
    pub(super) async fn carry(self, mut client: TcpStream, mut server: TcpStream) {
        // Latency is ours to make.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let lost = AtomicBool::new(false);
        let end = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            tokio::select! {
                biased;
                () = self.reset_ordered(&lost) => End::Reset,
                end = async { tokio::try_join!(
                    self.pump(true, from_client, to_server, &lost),
                    self.pump(false, from_server, to_client, &lost),
                ) } => end.err().unwrap_or(End::Close),
            }
        };
        if end == End::Reset {
            // A peer that is gone already needs no RST.
            let _ = (client.set_zero_linger(), server.set_zero_linger());
        }
    }

    /// Until the plan says that this connection shall be reset.
    async fn reset_ordered(&self, lost: &AtomicBool) {
        let mut plans = self.plans.clone();
        let ordered = |told: &Told<Plan>| {
            let plan = &told.plan;
            let lifted = !plan.lane(true, self.id).blackhole && !plan.lane(false, self.id).blackhole;
            plan.reset || self.id < plan.reset_below || (lost.load(Ordering::Relaxed) && lifted)
        };
        if plans.wait_for(ordered).await.is_err() {
            // The proxy is being dropped, and this task with it.
            std::future::pending::<()>().await;
        }
    }

    async fn pump(
        &self,
        up: bool,
        from: ReadHalf<'_>,
        to: WriteHalf<'_>,
        lost: &AtomicBool,
    ) -> Result<(), End> {
        let (queue, queued) = mpsc::channel(QUEUED_CHUNKS);
        let count = if up { &self.counters.up } else { &self.counters.down };
        tokio::try_join!(self.read(up, from, queue, lost), write(to, queued, count)).map(|_| ())
    }

    async fn read(
        &self,
        up: bool,
        mut from: ReadHalf<'_>,
        queue: mpsc::Sender<Queued>,
        lost: &AtomicBool,
    ) -> Result<(), End> {
        let mut plans = self.plans.clone();
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut dice = Dice::new(self.seed ^ (self.id << 1) ^ u64::from(up));
        let (mut latest, mut cut) = (Instant::now(), Cut::default());
        loop {
            let lane = plans.borrow_and_update().plan.lane(up, self.id);
            let most = cut.room(lane, step(lane));
            if most == 0 {
                return queue.send(Queued::Cut).await.map_err(|_| End::Close);
            }
            let read = tokio::select! {
                biased;
                changed = plans.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return Err(End::Close),
                },
                read = from.read(&mut buffer[..most]) => read,
            };
            if lane.blackhole {
                lost.store(true, Ordering::Relaxed);
                match read {
                    Ok(1..) => continue,
                    // Whoever closes a half-open connection tells nobody.
                    Ok(0) | Err(_) => return std::future::pending().await,
                }
            }
            let bytes = match read {
                Ok(0) => return Ok(()),
                Ok(n) => buffer[..n].to_vec(),
                Err(_) => return Err(End::Reset),
            };
            cut.count(bytes.len());
            if let Some(rate) = lane.rate {
                let pause = Duration::from_secs_f64(bytes.len() as f64 / rate as f64);
                // Whatever changes meanwhile ends the pause: a healed connection is fast at once.
                let _changed = tokio::time::timeout(pause, plans.changed()).await;
            }
            let (delay, jitter) = lane.latency.unwrap_or_default();
            latest = latest.max(Instant::now() + delay + jitter.mul_f64(dice.roll()));
            if queue.send(Queued::Bytes { due: latest, bytes }).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// How much may be read at once without outrunning the rate.
fn step(lane: Lane) -> usize {
    let bytes = lane.rate.map(|rate| usize::try_from(rate / STEPS_PER_SECOND).unwrap_or(CHUNK_BYTES));
    bytes.map_or(CHUNK_BYTES, |bytes| bytes.clamp(1, CHUNK_BYTES))
}

/// The bytes that have counted towards a cut.
#[derive(Default)]
struct Cut {
    order: u64,
    counted: u64,
}

impl Cut {
    /// How many of `most` bytes may still pass.
    fn room(&mut self, lane: Lane, most: usize) -> usize {
        let Some((order, bytes)) = lane.cut else { return most };
        if order != self.order {
            *self = Self { order, counted: 0 };
        }
        usize::try_from(bytes.saturating_sub(self.counted)).unwrap_or(most).min(most)
    }

    fn count(&mut self, bytes: usize) {
        self.counted += bytes as u64;
    }
}

async fn write(
    mut to: WriteHalf<'_>,
    mut queued: mpsc::Receiver<Queued>,
    count: &AtomicU64,
) -> Result<(), End> {
    while let Some(next) = queued.recv().await {
        let Queued::Bytes { due, bytes } = next else { return Err(End::Close) };
        tokio::time::sleep_until(due).await;
        to.write_all(&bytes).await.map_err(|_| End::Reset)?;
        count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }
    // The peer may have closed meanwhile; its own direction says so.
    let _closed = to.shutdown().await;
    Ok(())
}
