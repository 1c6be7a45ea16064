//! What a proxy can do to the bytes that pass, and how faults add up.

use std::time::Duration;

/// Which bytes a fault is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
    /// All of them.
    Both,
}

/// A fault. One of each kind and direction is in force at a time; setting it again replaces it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Bytes arrive later by `delay` and up to `jitter` more, in their order. It costs no throughput until a
    /// megabyte is under way.
    Latency {
        /// Which bytes.
        direction: Direction,
        /// The least delay.
        delay: Duration,
        /// The most that is added, by the proxy's seed.
        jitter: Duration,
    },
    /// No more than so many bytes a second on each connection.
    Rate {
        /// Which bytes.
        direction: Direction,
        /// At least 1.
        bytes_per_second: u64,
    },
    /// Each connection is closed on both sides when it has carried so many more bytes, counted from now on.
    CutAfter {
        /// Which bytes are counted; with `Both` each direction has a count of its own.
        direction: Direction,
        /// The last one still arrives.
        bytes: u64,
    },
    /// Open connections are reset (RST) at once, and new ones as soon as they are there.
    Reset,
    /// Bytes are swallowed, connections stay: no FIN, no RST, whatever the other side does. A connection that
    /// has lost bytes this way is reset when the fault is lifted; it could only carry garbage.
    Blackhole {
        /// Which bytes.
        direction: Direction,
    },
    /// New connections are refused; open ones stay.
    Refuse,
}

/// The faults of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Lane {
    pub(super) latency: Option<(Duration, Duration)>,
    pub(super) rate: Option<u64>,
    /// With the number of the order, so that the same limit set again counts anew.
    pub(super) cut: Option<(u64, u64)>,
    pub(super) blackhole: bool,
}

/// All that is in force.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) up: Lane,
    pub(super) down: Lane,
    pub(super) reset: bool,
    pub(super) refuse: bool,
    /// Connections with lower numbers are reset.
    pub(super) reset_below: u64,
    /// Connections with lower numbers are half-open for good.
    pub(super) half_open_below: u64,
    cuts_ordered: u64,
}

impl Plan {
    /// Adds a fault, or replaces the one of its kind.
    pub(super) fn add(&mut self, fault: Fault) {
        match fault {
            Fault::Latency { direction, delay, jitter } => {
                self.each(direction, |lane| lane.latency = Some((delay, jitter)));
            }
            Fault::Rate { direction, bytes_per_second } => {
                self.each(direction, |lane| lane.rate = Some(bytes_per_second.max(1)));
            }
            Fault::CutAfter { direction, bytes } => {
                self.cuts_ordered += 1;
                let order = self.cuts_ordered;
                self.each(direction, |lane| lane.cut = Some((order, bytes)));
            }
            Fault::Blackhole { direction } => self.each(direction, |lane| lane.blackhole = true),
            Fault::Reset => self.reset = true,
            Fault::Refuse => self.refuse = true,
        }
    }

    /// No faults any more. What has been done to a connection is not undone.
    pub(super) fn heal(&mut self) {
        let Self { reset_below, half_open_below, cuts_ordered, .. } = *self;
        *self = Self { reset_below, half_open_below, cuts_ordered, ..Self::default() };
    }

    fn each(&mut self, direction: Direction, change: impl Fn(&mut Lane)) {
        if direction != Direction::Down {
            change(&mut self.up);
        }
        if direction != Direction::Up {
            change(&mut self.down);
        }
    }

    /// The faults of one direction of connection `id`.
    pub(super) fn lane(&self, up: bool, id: u64) -> Lane {
        let lane = if up { self.up } else { self.down };
        Lane { blackhole: lane.blackhole || id < self.half_open_below, ..lane }
    }
}
