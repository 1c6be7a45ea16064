//! The services of a simulated fleet: the seams in memory behind a network that fails by a seed.
//!
//! Every process of the fleet has a [`line::Line`] of its own to them. A call on it takes time, is refused, is done
//! while its reply is lost, reaches the service after the caller's death, or kills its caller right after its
//! effect; [`weather::Weather`] says how often. All chance comes from one [`dice::Dice`] and all that happens is
//! written into one [`chronicle::Chronicle`], so that a seed always tells the same story. Needs a current-thread
//! runtime with a paused clock. Never part of a service.

pub mod broker;
pub mod chronicle;
pub mod dice;
pub mod ledger;
pub mod line;
pub mod storage;
pub mod weather;

use chronicle::Chronicle;
use dice::Dice;
use std::sync::{Arc, Mutex, MutexGuard};
use weather::Weather;

/// What all processes of a simulation share.
pub struct World {
    /// All chance.
    pub dice: Dice,
    /// All that happened.
    pub chronicle: Chronicle,
    weather: Mutex<Weather>,
}

impl World {
    /// A world from a seed, in calm weather.
    pub fn new(seed: u64) -> Arc<Self> {
        let weather = Mutex::new(Weather::calm());
        Arc::new(Self { dice: Dice::new(seed), chronicle: Chronicle::new(), weather })
    }

    /// The weather, to read or to change.
    pub fn weather(&self) -> MutexGuard<'_, Weather> {
        self.weather.lock().expect("no panic while the weather is held")
    }
}
