//! One process's line to the services, and the process's life.
//!
//! A request that is on its way arrives also when its sender dies meanwhile, as on a network. A process that is
//! stopped (SIGSTOP) begins no call and sees no reply until it goes on; one that is dead never does, so that its
//! futures can be dropped at leisure.

use super::{World, weather::Service};
use std::{
    fmt::Display,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{sleep, sleep_until},
};

/// A client waits no longer than this for either way of a call: real ones have time-outs too, and a slow process on
/// a stalled network would otherwise outlast every test.
const LONGEST_WAY: Duration = Duration::from_secs(60);

/// Where a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    Stopped,
    Dead,
}

/// See the file's head.
pub struct Line {
    name: String,
    world: Arc<World>,
    life: watch::Sender<Life>,
    slowness: AtomicU32,
}

/// What is called.
pub(super) struct Call {
    pub(super) service: Service,
    /// For the log: the operation and what it is about.
    pub(super) what: String,
    /// Whether being refused gives a delivery back.
    pub(super) returns: bool,
}

impl Call {
    pub(super) fn new(service: Service, what: String) -> Self {
        Self { service, what, returns: false }
    }
}

/// What becomes of a call; drawn before it is made.
#[derive(PartialEq, Eq)]
enum Fate {
    Fine,
    Refused,
    ReplyLost,
    Deadly,
}

impl Line {
    /// The line of a process that begins to run.
    pub fn new(name: impl Into<String>, world: Arc<World>) -> Arc<Self> {
        let (life, slowness) = (watch::Sender::new(Life::Running), AtomicU32::new(1));
        Arc::new(Self { name: name.into(), world, life, slowness })
    }

    /// The process's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the process lives in.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Ends the process at once. Its tasks are for the caller of [`Line::died`] to drop.
    pub fn kill(&self) {
        self.life.send_replace(Life::Dead);
    }

    /// Stops the process until [`Line::go_on`].
    pub fn stop(&self) {
        self.life.send_if_modified(|life| {
            *life == Life::Running && {
                *life = Life::Stopped;
                true
            }
        });
    }

    /// Lets a stopped process go on.
    pub fn go_on(&self) {
        self.life.send_if_modified(|life| {
            *life == Life::Stopped && {
                *life = Life::Running;
                true
            }
        });
    }

    /// Makes every call take `times` as long.
    pub fn slow_down(&self, times: u32) {
        self.slowness.store(times, Ordering::Relaxed);
    }

    /// Waits for the process's death. Cancel safe.
    pub async fn died(&self) {
        self.reached(|life| life == Life::Dead).await;
    }

    /// Waits until the process runs: at once, after a stop, or never.
    pub(super) async fn running(&self) {
        self.reached(|life| life == Life::Running).await;
    }

    async fn reached(&self, state: impl Fn(Life) -> bool) {
        let mut life = self.life.subscribe();
        life.wait_for(|life| state(*life)).await.expect("the sender is here");
    }

    /// Waits until the service is not away.
    pub(super) async fn back(&self, service: Service) {
        loop {
            let back = self.world.weather().back_at(service);
            match back {
                Some(back) => sleep_until(back).await,
                None => return,
            }
        }
    }

    /// Makes a call: `work` is done at the service. `failed` makes the error of a call that was refused or whose
    /// reply was lost.
    pub(super) async fn call<T, E>(
        &self,
        call: Call,
        failed: impl Fn(&str) -> E,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: Display + Send + 'static,
    {
        self.running().await;
        let Call { service, what, .. } = &call;
        let slowness = self.slowness.load(Ordering::Relaxed);
        let (there, back) = {
            let weather = self.world.weather();
            let way = || (weather.way(&self.world.dice) * slowness).min(LONGEST_WAY);
            (way(), way())
        };
        let fate = self.fate(&call);
        if fate == Fate::Refused {
            sleep(there).await;
            self.running().await;
            return Err(failed("refused"));
        }
        let (world, name, noted) = (self.world.clone(), self.name.clone(), what.clone());
        // A task of its own: the request does not die with its sender.
        let request = tokio::spawn(async move {
            sleep(there).await;
            let done = work.await;
            let outcome = done.as_ref().err().map(|error| format!(": {error}")).unwrap_or_default();
            world.chronicle.note(&name, &format!("{noted}{outcome}"));
            done
        });
        let done = request.await.expect("a service does not panic");
        if fate == Fate::Deadly {
            self.world.chronicle.fault(&self.name, "killed", &format!("after {what}"));
            self.kill();
        }
        sleep(back).await;
        self.running().await;
        match done {
            Ok(_) if fate == Fate::ReplyLost => {
                self.world.chronicle.fault(&self.name, "reply lost", &format!("of {service:?} {what}"));
                Err(failed("the reply was lost"))
            }
            done => done,
        }
    }

    fn fate(&self, call: &Call) -> Fate {
        let (mut weather, dice) = (self.world.weather(), &self.world.dice);
        let Call { service, what, returns } = call;
        let refused = if weather.back_at(*service).is_some() {
            true
        } else {
            dice.chance(weather.refuse) && (!returns || weather.may_return())
        };
        if refused {
            self.world.chronicle.fault(&self.name, "refused", &format!("{service:?} {what}"));
            Fate::Refused
        } else if dice.chance(weather.lose) {
            Fate::ReplyLost
        } else if dice.chance(weather.kill) && weather.may_return() {
            Fate::Deadly
        } else {
            Fate::Fine
        }
    }
}
