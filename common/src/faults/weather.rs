//! How bad the network and the services are at the moment.
//!
//! Set by whoever drives a simulation, read by every call. Rates are in thousandths of calls.

use super::dice::Dice;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// Where a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// The bucket.
    Storage,
    /// Redis.
    Ledger,
    /// RabbitMQ.
    Broker,
}

/// Rates and outages.
#[derive(Debug, Clone)]
pub struct Weather {
    /// Calls that fail without an effect.
    pub refuse: u32,
    /// Calls that are done while their reply is lost.
    pub lose: u32,
    /// Calls whose caller dies when they have had their effect.
    pub kill: u32,
    /// Publishes that arrive twice.
    pub twice: u32,
    /// Calls that take up to [`Weather::stall_ms`].
    pub stall: u32,
    /// A call's way there and its way back take up to so many milliseconds each.
    pub latency_ms: u64,
    /// The same for a stalled one.
    pub stall_ms: u64,
    /// How many more faults may give deliveries back: a message has a limit of these, and one that goes over it
    /// is not lost but dead.
    pub returns_left: u32,
    away: BTreeMap<Service, Instant>,
}

impl Weather {
    /// Nothing fails and a call takes two milliseconds.
    pub fn calm() -> Self {
        Self {
            refuse: 0,
            lose: 0,
            kill: 0,
            twice: 0,
            stall: 0,
            latency_ms: 1,
            stall_ms: 1,
            returns_left: 0,
            away: BTreeMap::new(),
        }
    }

    /// Ends every outage and all chance of faults; calls take as long as before.
    pub fn clear_up(&mut self) {
        let latency_ms = self.latency_ms;
        *self = Self { latency_ms, ..Self::calm() };
    }

    /// Takes a service away for a while.
    pub fn take_away(&mut self, service: Service, time: Duration) {
        let back = Instant::now() + time;
        let until = self.away.entry(service).or_insert(back);
        *until = back.max(*until);
    }

    /// Since a service is away: when it is back.
    pub fn back_at(&self, service: Service) -> Option<Instant> {
        self.away.get(&service).copied().filter(|back| *back > Instant::now())
    }

    /// Whether one more fault may give deliveries back; counts it.
    pub fn may_return(&mut self) -> bool {
        let may = self.returns_left > 0;
        self.returns_left = self.returns_left.saturating_sub(1);
        may
    }

    /// How long one way of a call takes.
    pub(super) fn way(&self, dice: &Dice) -> Duration {
        let longest = if dice.chance(self.stall) { self.stall_ms } else { self.latency_ms };
        Duration::from_millis(dice.between(1, longest.max(1)))
    }
}
