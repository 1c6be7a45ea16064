//! Pace: how many objects are read at once, found while they are read.
//!
//! Part of the fetch stage. With `--fetches auto` the number grows for as long as decode waits for bytes and more
//! reads at once bring more of them, and falls when the store begins to fail: so a far store gets the hundreds that its
//! latency asks for, and a near or a small one is left alone. It must never change what is read, only how much of it
//! at once; bytes have a bound of their own.

use std::time::Duration;
use tokio::time::Instant;

/// Where `auto` begins: enough for a store in the same place (5 ms an object are 6,400 a second), and no burden to any.
const START: usize = 32;

/// The most at once: 5,000 objects a second at 100 ms each, as much as one fast GPU takes.
const MOST: usize = 512;

/// The fewest at once: a store that fails is still asked.
const LEAST: usize = 4;

/// The shortest time over which reads are counted: shorter ones are noise.
const WINDOW: Duration = Duration::from_millis(250);

/// A larger number must bring this much more, or it is taken back.
const WORTH: f64 = 1.05;

/// Windows without another try after a larger number brought nothing.
const HELD_AT_KNEE: u32 = 64;

/// Windows without growth after the store failed.
const HELD_AFTER_FAILURE: u32 = 16;

/// How many objects are read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// The user's number.
    Fixed(usize),
    /// Ours.
    Auto,
}

/// The number, and what it is found by.
#[derive(Debug)]
pub struct Pace {
    limit: usize,
    adaptive: bool,
    window: Option<Window>,
    /// The number before it last grew, with the objects a second that it gave.
    before: Option<(usize, f64)>,
    /// Windows in which it does not grow.
    held: u32,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    /// Failures of the store before it.
    failures: u64,
    arrived: usize,
    /// Objects for which decode had been waiting.
    awaited: usize,
}

impl Pace {
    /// The first number.
    pub fn new(reads: Reads) -> Self {
        let (limit, adaptive) = match reads {
            Reads::Fixed(n) => (n.max(1), false),
            Reads::Auto => (START, true),
        };
        Self { limit, adaptive, window: None, before: None, held: 0 }
    }

    /// How many may be read at once now.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// An object is here; decode had been waiting for it if it was `awaited`. `failures`: how often stores failed so
    /// far. True if the limit is another one now.
    pub fn arrived(&mut self, awaited: bool, failures: u64, now: Instant) -> bool {
        if !self.adaptive {
            return false;
        }
        let fresh = Window { began: now, failures, arrived: 0, awaited: 0 };
        let window = self.window.get_or_insert(fresh);
        window.arrived += 1;
        window.awaited += usize::from(awaited);
        if window.arrived < self.limit.max(START) || now.duration_since(window.began) < WINDOW {
            return false;
        }
        let was = self.limit;
        if let Some(window) = self.window.take() {
            self.limit = self.decide(&window, failures, now);
        }
        self.limit != was
    }

    fn decide(&mut self, window: &Window, failures: u64, now: Instant) -> usize {
        let before = self.before.take();
        if failures > window.failures {
            self.held = HELD_AFTER_FAILURE;
            return (self.limit * 7 / 10).max(LEAST);
        }
        let rate = window.arrived as f64 / now.duration_since(window.began).as_secs_f64().max(f64::EPSILON);
        if let Some((smaller, gave)) = before
            && rate < gave * WORTH
        {
            self.held = HELD_AT_KNEE;
            return smaller;
        }
        if self.held > 0 {
            self.held -= 1;
            return self.limit;
        }
        if window.awaited * 2 <= window.arrived || self.limit >= MOST {
            return self.limit;
        }
        self.before = Some((self.limit, rate));
        (self.limit + self.limit / 2).min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that takes `latency_ms` for an object and serves at most `at_once`; decode takes `decodes` a second. Gives
    /// the limit after `seconds`.
    fn after(pace: &mut Pace, seconds: u64, latency_ms: f64, at_once: usize, decodes: f64) -> usize {
        let (mut now, end) = (Instant::now(), Instant::now() + Duration::from_secs(seconds));
        while now < end {
            let store = pace.limit().min(at_once) as f64 * 1000.0 / latency_ms;
            now += Duration::from_secs_f64(1.0 / store.min(decodes));
            pace.arrived(store < decodes, 0, now);
        }
        pace.limit()
    }

    #[test]
    fn it_grows_while_decode_waits_and_more_reads_bring_more() {
        // 100 ms away and decode takes 2,000 a second: 200 at once would do.
        let limit = after(&mut Pace::new(Reads::Auto), 20, 100.0, usize::MAX, 2000.0);
        assert!((200..=400).contains(&limit), "{limit}");
        // A near store: nothing waits, nothing grows.
        assert_eq!(after(&mut Pace::new(Reads::Auto), 20, 2.0, usize::MAX, 2000.0), START);
        // A far one and a fast device: as many as are allowed.
        assert_eq!(after(&mut Pace::new(Reads::Auto), 60, 500.0, usize::MAX, 1e6), MOST);
    }

    #[test]
    fn what_brings_nothing_is_taken_back() {
        // It serves 40 at once, whoever asks for more waits.
        let limit = after(&mut Pace::new(Reads::Auto), 20, 50.0, 40, 1e6);
        assert!(limit <= 48, "{limit}");
    }

    #[test]
    fn a_store_that_fails_is_asked_for_less_and_never_for_nothing() {
        let mut pace = Pace::new(Reads::Auto);
        let mut now = Instant::now();
        for failures in 0..10_000 {
            now += Duration::from_millis(10);
            pace.arrived(true, failures, now);
        }
        assert_eq!(pace.limit(), LEAST);
        // When it is well again it is asked for more, after a while. The clock of what follows begins anew.
        pace.window = None;
        assert!(after(&mut pace, 60, 100.0, usize::MAX, 2000.0) >= 64, "{}", pace.limit());
    }

    #[test]
    fn the_users_number_stays() {
        let mut pace = Pace::new(Reads::Fixed(7));
        assert_eq!(after(&mut pace, 20, 100.0, usize::MAX, 2000.0), 7);
    }
}
