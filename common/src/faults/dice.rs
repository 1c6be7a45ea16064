//! The one source of chance of a simulation: SplitMix64 from a seed.
//!
//! Clones roll the same dice: on one thread the order of the rolls is as fixed as everything else.

use std::sync::{Arc, Mutex};

/// See the file's head.
#[derive(Debug, Clone)]
pub struct Dice {
    state: Arc<Mutex<u64>>,
}

impl Dice {
    /// Dice that always fall the same way for the same seed.
    pub fn new(seed: u64) -> Self {
        Self { state: Arc::new(Mutex::new(seed)) }
    }

    /// Any number.
    pub fn roll(&self) -> u64 {
        let mut state = self.state.lock().expect("no panic while the state is held");
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.roll() % (high - low + 1)
    }

    /// A number below `n`.
    pub fn below(&self, n: usize) -> usize {
        usize::try_from(self.roll() % n.max(1) as u64).unwrap_or(0)
    }

    /// True `per_mille` times in a thousand.
    pub fn chance(&self, per_mille: u32) -> bool {
        self.roll() % 1000 < u64::from(per_mille)
    }

    /// From 0 to 1.
    pub fn fraction(&self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// One of them.
    pub fn one<T: Copy>(&self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_falls_the_same_way_and_another_one_differently() {
        // SplitMix64's published first values for the seed 1234567.
        let dice = Dice::new(1_234_567);
        assert_eq!([dice.roll(), dice.roll()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        assert_ne!(Dice::new(1).roll(), Dice::new(2).roll());
        let dice = Dice::new(3);
        assert!((0..1000).map(|_| dice.between(5, 7)).all(|n| (5..=7).contains(&n)));
        assert_eq!((dice.chance(0), dice.chance(1000)), (false, true));
    }
}
