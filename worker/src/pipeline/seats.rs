//! Seats: how many objects may be read or wait for decode at once, given back by the handful.
//!
//! Part of the fetch stage. While decode has objects to go on with, the seats that it frees are kept until there are several
//! of them: whoever reads the next objects is then woken once for all, and not once an image on a core that decodes. When
//! decode waits, each seat is given back at once. It must never keep a seat that nobody's return would free.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tokio::sync::Semaphore;

/// Seats that are given back together, unless there are fewer than four times as many: readers must not run dry.
const HANDFUL: usize = 8;

/// All seats.
#[derive(Debug)]
pub struct Seats {
    free: Semaphore,
    /// How many there are in all.
    given: AtomicUsize,
    /// Seats that were left and are not free yet.
    kept: AtomicUsize,
    /// Whether decode has objects to go on with.
    decode_is_busy: AtomicBool,
}

impl Seats {
    /// So many.
    pub fn new(seats: usize) -> Arc<Self> {
        let (given, kept) = (AtomicUsize::new(seats), AtomicUsize::new(0));
        Arc::new(Self { free: Semaphore::new(seats), given, kept, decode_is_busy: AtomicBool::new(false) })
    }

    /// Waits for one. Cancel safe.
    pub async fn take(self: &Arc<Self>) -> Seat {
        self.free.acquire().await.expect("never closed").forget();
        Seat(self.clone())
    }

    /// There are to be so many. Fewer only as far as they are free: the rest goes with a later call. Not to be called by two
    /// threads at once.
    pub fn resize(&self, seats: usize) {
        let given = self.given.load(Ordering::Relaxed);
        if seats > given {
            self.given.store(seats, Ordering::Relaxed);
            self.free.add_permits(seats - given);
        } else if seats < given {
            self.give_back();
            let gone = self.free.forget_permits(given - seats);
            self.given.store(given - gone, Ordering::Relaxed);
        }
    }

    /// Takes note of whether decode was waiting when the last object came.
    pub fn decode_waited(&self, waited: bool) {
        if self.decode_is_busy.swap(!waited, Ordering::Relaxed) && waited {
            self.give_back();
        }
    }

    fn give_back(&self) {
        let kept = self.kept.swap(0, Ordering::AcqRel);
        if kept > 0 {
            self.free.add_permits(kept);
        }
    }
}

/// One of them; dropping it leaves it to another.
#[derive(Debug)]
pub struct Seat(Arc<Seats>);

impl Drop for Seat {
    fn drop(&mut self) {
        let seats = &self.0;
        let kept = seats.kept.fetch_add(1, Ordering::AcqRel) + 1;
        let handful = if seats.decode_is_busy.load(Ordering::Relaxed) {
            (seats.given.load(Ordering::Relaxed) / 4).min(HANDFUL)
        } else {
            1
        };
        if kept >= handful {
            seats.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn free(seats: &Arc<Seats>) -> usize {
        seats.free.available_permits()
    }

    fn taken(seats: &Arc<Seats>, count: usize) -> Vec<Seat> {
        (0..count).map(|_| seats.take().now_or_never().expect("a seat is free")).collect()
    }

    #[test]
    fn a_busy_decode_frees_seats_by_the_handful_and_an_idle_one_each() {
        let seats = Seats::new(32);
        let mut held = taken(&seats, 32);
        assert!(seats.take().now_or_never().is_none());
        held.truncate(31);
        assert_eq!(free(&seats), 1);
        seats.decode_waited(false);
        held.truncate(24);
        assert_eq!(free(&seats), 1, "seven are kept");
        held.truncate(23);
        assert_eq!(free(&seats), 9);
        held.truncate(20);
        assert_eq!(free(&seats), 9);
        seats.decode_waited(true);
        assert_eq!(free(&seats), 12, "nobody keeps what decode waits for");
        held.truncate(19);
        assert_eq!(free(&seats), 13);
    }

    #[test]
    fn however_few_there_are_and_become_all_come_back() {
        for count in 1..70_usize {
            for smaller in [1, 2, count.div_ceil(2), count] {
                let seats = Seats::new(count);
                seats.decode_waited(false);
                let held = taken(&seats, count);
                seats.resize(smaller);
                drop(held);
                assert!(free(&seats) > 0, "{count} to {smaller}: nobody could go on");
                seats.resize(smaller);
                seats.decode_waited(true);
                assert_eq!(free(&seats), smaller, "{count} to {smaller}");
                seats.resize(count + 3);
                assert_eq!(free(&seats), count + 3);
            }
        }
    }
}
