//! The pool without threads: one tokio task does its work, for simulations on a paused clock.
//!
//! The same queues, the same order and the same micro-batches as on threads; only who does the work differs, and
//! that each piece of it takes a given time of the runtime's clock. It must never serve a real worker: it blocks.

use super::{Forward, Pool, PoolSettings, PoolThreads};
use crate::{
    pipeline::{knees::Knees, meters::Meters},
    preprocess::Scratch,
};
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

impl Pool {
    /// Starts the task in the current runtime; every decode and every forward pass takes `pace`. Dropping the
    /// [`PoolThreads`] ends it in the middle of whatever it is at, as a killed process would.
    pub fn start_as_task(
        settings: PoolSettings,
        forward: Forward,
        meters: Arc<Meters>,
        pace: Duration,
    ) -> (Arc<Self>, PoolThreads) {
        let pool = Arc::new(Self::new(settings, forward, Knees::none(), meters));
        let task = tokio::spawn(pool.clone().work_as_task(pace));
        (pool.clone(), PoolThreads { pool, threads: Vec::new(), task: Some(task.abort_handle()) })
    }

    async fn work_as_task(self: Arc<Self>, pace: Duration) {
        loop {
            let rung = self.changed.task.notified();
            let found = self.look(&mut self.lock(), true, true);
            match found {
                Ok(task) => {
                    sleep(pace).await;
                    if !self.perform(task, 0, &mut Scratch::new()) {
                        return;
                    }
                }
                Err(None) => rung.await,
                Err(Some(wait)) => {
                    // Late is as good as rung: look again.
                    let _late = timeout(wait, rung).await;
                }
            }
        }
    }
}
