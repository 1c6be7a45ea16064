//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(50);

/// Waits until `look` gives something; fails the test with `what` after `limit`.
///
/// # Panics
/// At the deadline.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(EVERY);
    }
}
