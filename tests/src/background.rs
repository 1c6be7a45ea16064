//! A server of the fault rig on a thread and a runtime of its own.
//!
//! The tests are blocking code and some are async; both must be able to use the proxies, so these share no
//! runtime with the test. What a server shall do is a plan in a watch channel. Changing it returns only when the
//! server has seen the change, so that no test depends on luck. Plans are state, never a queue.

use std::{
    future::Future,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};
use tokio::{net::TcpStream, sync::watch, task::JoinSet};

/// A server thread answers a change within this time or is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server is told, and which version of it.
#[derive(Debug, Clone)]
pub(crate) struct Told<P> {
    pub(crate) plan: P,
    version: u64,
    stop: bool,
}

/// The server's ear: what it is told, and a way to say that it has understood.
pub(crate) struct Ear<P> {
    pub(crate) told: watch::Receiver<Told<P>>,
    seen: u64,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard {
    version: Mutex<u64>,
    changed: Condvar,
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.version.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Clone> Ear<P> {
    /// Waits for the next change; `None` when the server shall end. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<P> {
        if self.told.changed().await.is_err() {
            return None;
        }
        let told = self.told.borrow_and_update().clone();
        self.seen = told.version;
        (!told.stop).then_some(told.plan)
    }

    /// Says that the plan as last given by [`Ear::next`] is in force.
    pub(crate) fn in_force(&self) {
        *self.heard.lock() = self.seen;
        self.heard.changed.notify_all();
    }
}

/// A running server; dropping it ends the server and its connections.
pub(crate) struct Background<P> {
    tell: watch::Sender<Told<P>>,
    heard: Arc<Heard>,
    thread: Option<JoinHandle<()>>,
}

impl<P: Clone + Send + Sync + 'static> Background<P> {
    /// Runs `serve` on a thread `name`.
    ///
    /// # Panics
    /// If there is no thread to be had.
    pub(crate) fn start<S, Served>(name: &str, plan: P, serve: S) -> Self
    where
        S: FnOnce(Ear<P>) -> Served + Send + 'static,
        Served: Future<Output = ()>,
    {
        let (tell, told) = watch::channel(Told { plan, version: 0, stop: false });
        let heard = Arc::new(Heard::default());
        let ear = Ear { told, seen: 0, heard: heard.clone() };
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(serve(ear));
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread");
        Self { tell, heard, thread: Some(thread) }
    }

    /// Changes the plan and waits until it is in force.
    ///
    /// # Panics
    /// If the server has died.
    pub(crate) fn change(&self, change: impl FnOnce(&mut P)) {
        let mut version = 0;
        self.tell.send_modify(|told| {
            change(&mut told.plan);
            told.version += 1;
            version = told.version;
        });
        let heard = self.heard.lock();
        let waited = self.heard.changed.wait_timeout_while(heard, PATIENCE, |heard| *heard < version);
        let (_heard, time) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!time.timed_out(), "a server of the fault rig does not answer; did its thread panic?");
    }
}

impl<P> Drop for Background<P> {
    fn drop(&mut self) {
        self.tell.send_modify(|told| told.stop = true);
        let ended = self.thread.take().map(JoinHandle::join);
        // The panic of the server is the test's failure, unless the test is failing already.
        if matches!(ended, Some(Err(_))) && !std::thread::panicking() {
            panic!("a server of the fault rig panicked; its words are above");
        }
    }
}

/// Takes connections until told to stop. `connection` gives what is to be done with one, and is told how many there are
/// already; `None` closes it.
pub(crate) async fn accept<F>(
    listener: std::net::TcpListener,
    mut ear: Ear<()>,
    mut connection: impl FnMut(TcpStream, usize) -> Option<F>,
) where
    F: Future<Output: Send> + Send + 'static,
{
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listening socket");
    // Dropped with this future, and the connections with it.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            told = ear.next() => match told {
                Some(()) => ear.in_force(),
                None => return,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            Ok((client, _)) = listener.accept() => {
                if let Some(work) = connection(client, connections.len()) {
                    connections.spawn(work);
                }
            }
        }
    }
}

/// `url` with host and port replaced; scheme, credentials, path and query stay.
///
/// # Panics
/// If it is no URL.
pub(crate) fn redirected(url: &str, address: std::net::SocketAddr) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or_else(|| panic!("`{url}` has no scheme"));
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let credentials = authority.rsplit_once('@').map_or(String::new(), |(who, _)| format!("{who}@"));
    format!("{scheme}://{credentials}{address}{tail}")
}

/// xorshift64*: the same faults for the same seed on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // Spread out, and zero would stay zero for ever.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 up to but not including 1.
    pub(crate) fn roll(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        bits as f64 / f64::from(1u32 << 31) / 2.0
    }

    /// A whole number from 0 up to but not including `below`; 0 if that is 0.
    pub(crate) fn below(&mut self, below: usize) -> usize {
        (self.roll() * below as f64) as usize
    }
}
