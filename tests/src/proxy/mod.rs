//! A TCP proxy that does what networks do: delays, resets, cuts, silence.
//!
//! Stands between a program of trawl and one of the stack's servers; faults change while it runs. It knows
//! nothing of what it carries (`http_faults` does) and never changes a byte. All randomness comes from a seed.

mod faults;
mod pump;

pub use faults::{Direction, Fault};

use crate::background::{self, Background, Ear};
use faults::Plan;
use pump::Link;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// Connections at once; more are reset. Programs of trawl open a few dozen.
const MAX_CONNECTIONS: usize = 1024;

/// After a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Bytes that have passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passed {
    /// To the server.
    pub up: u64,
    /// To the client.
    pub down: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    up: AtomicU64,
    down: AtomicU64,
    open: AtomicU64,
    accepted: AtomicU64,
}

/// A running proxy; dropping it closes its connections and its port.
pub struct Proxy {
    address: SocketAddr,
    counters: Arc<Counters>,
    server: Background<Plan>,
    // Bound and never listening: nobody else is given the port while connections are refused.
    _reserved: TcpSocket,
}

impl Proxy {
    /// Forwards a free port of 127.0.0.1 to `upstream`, without faults.
    ///
    /// # Panics
    /// If there is no port or no thread to be had.
    pub fn start(upstream: SocketAddr) -> Self {
        Self::with_seed(upstream, 1)
    }

    /// The same with a seed for jitter.
    ///
    /// # Panics
    /// If there is no port or no thread to be had.
    pub fn with_seed(upstream: SocketAddr, seed: u64) -> Self {
        let reserved = socket(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = reserved.local_addr().expect("a bound socket");
        let counters = Arc::new(Counters::default());
        let inner = Inner { address, upstream, counters: counters.clone(), seed };
        let server = Background::start("fault-proxy", Plan::default(), move |ear| inner.serve(ear));
        let proxy = Self { address, counters, server, _reserved: reserved };
        // Returns when the port listens.
        proxy.heal();
        proxy
    }

    /// A proxy in front of the server of a URL.
    ///
    /// # Panics
    /// If the URL has no `127.0.0.1:PORT`, as all of the stack's have.
    pub fn before(url: &str) -> Self {
        let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
        let address = authority.rsplit('@').next().unwrap_or_default();
        Self::start(address.parse().unwrap_or_else(|e| panic!("`{address}`: {e}")))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL of the server, through the proxy: credentials, path and query stay.
    ///
    /// # Panics
    /// If it is no URL.
    pub fn url(&self, original: &str) -> String {
        background::redirected(original, self.address)
    }

    /// Adds a fault, or replaces the one of its kind and direction. In force when it returns.
    ///
    /// # Panics
    /// If the proxy's thread has died.
    pub fn set(&self, fault: Fault) {
        self.server.change(|plan| plan.add(fault));
    }

    /// Lifts all faults. Connections that were harmed stay so (see [`Fault::Blackhole`]).
    ///
    /// # Panics
    /// If the proxy's thread has died.
    pub fn heal(&self) {
        self.server.change(Plan::heal);
    }

    /// Resets the connections of this moment; new ones are fine.
    ///
    /// # Panics
    /// If the proxy's thread has died.
    pub fn reset_all(&self) {
        self.server.change(|plan| plan.reset_below = self.counters.accepted.load(Ordering::SeqCst));
    }

    /// Makes the connections of this moment half-open for good, as a firewall that forgot them: both peers
    /// believe in them and hear nothing. New ones are fine.
    ///
    /// # Panics
    /// If the proxy's thread has died.
    pub fn half_open_all(&self) {
        self.server.change(|plan| plan.half_open_below = self.counters.accepted.load(Ordering::SeqCst));
    }

    /// Connections that are open now.
    pub fn connections(&self) -> u64 {
        self.counters.open.load(Ordering::SeqCst)
    }

    /// Connections since the start.
    pub fn accepted(&self) -> u64 {
        self.counters.accepted.load(Ordering::SeqCst)
    }

    /// Bytes since the start that were handed to the other side.
    pub fn bytes(&self) -> Passed {
        let Counters { up, down, .. } = &*self.counters;
        Passed { up: up.load(Ordering::Relaxed), down: down.load(Ordering::Relaxed) }
    }
}

fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Both sockets of a port need it, and a port whose old connections linger.
    socket.set_reuseaddr(true).expect("an option that every socket has");
    socket.bind(address).expect("a free port, or our own");
    socket
}

/// The proxy on its own thread.
struct Inner {
    address: SocketAddr,
    upstream: SocketAddr,
    counters: Arc<Counters>,
    seed: u64,
}

impl Inner {
    async fn serve(self, mut ear: Ear<Plan>) {
        let mut listener = None;
        // Dropped with this future, and the connections with it.
        let mut links = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                plan = ear.next() => {
                    let Some(plan) = plan else { return };
                    if plan.refuse {
                        listener = None;
                    } else if listener.is_none() {
                        listener = Some(socket(self.address).listen(BACKLOG).expect("our own port"));
                    }
                    ear.in_force();
                }
                Some(_) = links.join_next(), if !links.is_empty() => {}
                client = accept(listener.as_ref()) => {
                    let id = self.counters.accepted.fetch_add(1, Ordering::SeqCst);
                    if links.len() >= MAX_CONNECTIONS {
                        let _ = client.set_zero_linger();
                        continue;
                    }
                    let (counters, plans) = (self.counters.clone(), ear.told.clone());
                    let link = Link { id, plans, counters, seed: self.seed };
                    links.spawn(connect(link, client, self.upstream));
                }
            }
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        if let Ok((client, _)) = listener.accept().await {
            return client;
        }
        // Out of descriptors, or a client that has gone again.
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

async fn connect(link: Link, client: TcpStream, upstream: SocketAddr) {
    let counters = link.counters.clone();
    counters.open.fetch_add(1, Ordering::SeqCst);
    let _closing = Closing(&counters);
    match TcpStream::connect(upstream).await {
        Ok(server) => link.carry(client, server).await,
        // A server that is away is a reset, as it would be behind a load balancer.
        Err(_) => drop(client.set_zero_linger()),
    }
}

struct Closing<'a>(&'a Counters);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}
