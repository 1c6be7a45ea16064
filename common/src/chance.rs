//! Numbers by chance, for jitter and for names that nobody else has. Not for secrets.
//!
//! From the system's randomness, or, in a simulation, from its seed: what a simulation does must follow from the
//! seed alone.

use std::hash::{BuildHasher, RandomState};

/// Any number.
pub fn number() -> u64 {
    #[cfg(any(test, feature = "testing"))]
    if let Some(drawn) = seeded::draw() {
        return drawn;
    }
    // The standard library's hashers are seeded from the system's randomness, each one differently.
    RandomState::new().hash_one(0_u8)
}

/// From 0 to 1.
pub fn fraction() -> f64 {
    (number() >> 11) as f64 / (1_u64 << 53) as f64
}

/// The source of a simulation.
#[cfg(any(test, feature = "testing"))]
pub mod seeded {
    use std::cell::RefCell;

    type Source = Box<dyn FnMut() -> u64>;

    thread_local! {
        static SOURCE: RefCell<Option<Source>> = const { RefCell::new(None) };
    }

    /// Takes this thread's numbers from `source`; `None`: from the system again.
    pub fn take_from(source: Option<Source>) {
        SOURCE.set(source);
    }

    pub(super) fn draw() -> Option<u64> {
        SOURCE.with_borrow_mut(|source| source.as_mut().map(|draw| draw()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_unless_they_are_seeded() {
        assert_ne!(number(), number());
        assert!((0..1000).map(|_| fraction()).all(|f| (0.0..1.0).contains(&f)));
        seeded::take_from(Some(Box::new(|| 7)));
        assert_eq!([number(), number()], [7, 7]);
        seeded::take_from(None);
    }
}
