//! How quick a job was and how long it may still take: two small rings of samples.
//!
//! Fed by the poller with what the ledger counts. One ring is for the picture: it covers all the time the job was
//! watched, at a resolution that halves when it is full. The other is for the estimate: windows of half a minute, whose
//! spread says how far the estimate can be trusted. Both are bounded whatever happens.

use std::collections::VecDeque;

/// Points of the picture; a page is some hundreds of pixels wide.
pub const MAX_POINTS: usize = 180;

/// The first distance of two points.
const FIRST_STEP_MS: u64 = 2_000;

/// A window of the estimate: several batches end in it where work goes on at all.
const WINDOW_MS: u64 = 30_000;

/// Windows that the spread is taken over: five minutes.
const MAX_WINDOWS: usize = 10;

/// With fewer windows there is no spread to speak of.
const MIN_WINDOWS: usize = 3;

/// The rings of one job.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    points: VecDeque<(u64, f64)>,
    step_ms: u64,
    /// The window that is being filled: when it began, and the images done by then.
    open: Option<(u64, u64)>,
    windows: VecDeque<f64>,
}

/// Seconds left: at best and at worst.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EtaRange {
    /// If it goes on as in the quick windows.
    pub low_seconds: f64,
    /// If it goes on as in the slow ones.
    pub high_seconds: f64,
}

impl Pace {
    /// Takes a sample: the rate that the ledger gives, and the images done in all.
    pub fn sample(&mut self, now_ms: u64, images_per_second: f64, images_done: u64) {
        self.step_ms = self.step_ms.max(FIRST_STEP_MS);
        if self.points.back().is_none_or(|(last, _)| now_ms >= last + self.step_ms) {
            self.points.push_back((now_ms, (images_per_second * 10.0).round() / 10.0));
            if self.points.len() > MAX_POINTS {
                self.halve();
            }
        }
        match self.open {
            Some((since, done)) if now_ms >= since + WINDOW_MS && images_done >= done => {
                self.windows.push_back((images_done - done) as f64 * 1000.0 / (now_ms - since) as f64);
                if self.windows.len() > MAX_WINDOWS {
                    self.windows.pop_front();
                }
                self.open = Some((now_ms, images_done));
            }
            // Counters that go back are another count, by another ledger.
            Some((_, done)) if images_done < done => self.open = Some((now_ms, images_done)),
            Some(_) => {}
            None => self.open = Some((now_ms, images_done)),
        }
    }

    fn halve(&mut self) {
        self.step_ms *= 2;
        let points: Vec<_> = self.points.drain(..).collect();
        let merged = points.chunks(2).map(|pair| {
            let mean = pair.iter().map(|(_, rate)| rate).sum::<f64>() / pair.len() as f64;
            (pair[0].0, (mean * 10.0).round() / 10.0)
        });
        self.points = merged.collect();
    }

    /// At most `limit` points of the picture, oldest first, the newest among them.
    pub fn points(&self, limit: usize) -> Vec<(u64, f64)> {
        let every = self.points.len().div_ceil(limit.max(1)).max(1);
        let skip = self.points.len().saturating_sub(1) % every;
        self.points.iter().copied().skip(skip).step_by(every).collect()
    }

    /// What is left of `images_left`, by the spread of the windows around the ledger's own estimate; `None` if there
    /// are too few windows, or nothing was done in the slow ones.
    pub fn eta_range(&self, images_left: u64, eta_seconds: f64) -> Option<EtaRange> {
        if self.windows.len() < MIN_WINDOWS {
            return None;
        }
        let mut rates: Vec<f64> = self.windows.iter().copied().collect();
        rates.sort_unstable_by(f64::total_cmp);
        // The second slowest and second quickest of ten: one odd window is no forecast.
        let aside = rates.len() / 5;
        let (slow, quick) = (rates[aside], rates[rates.len() - 1 - aside]);
        if slow <= 0.0 {
            return None;
        }
        let left = images_left as f64;
        Some(EtaRange {
            low_seconds: (left / quick).min(eta_seconds),
            high_seconds: (left / slow).max(eta_seconds),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_is_bounded_and_covers_everything() {
        let mut pace = Pace::default();
        for second in 0..100_000_u64 {
            pace.sample(second * 1000, 50.0, second * 50);
            assert!(pace.points.len() <= MAX_POINTS && pace.windows.len() <= MAX_WINDOWS);
        }
        let points = pace.points(MAX_POINTS);
        assert_eq!(points[0].0, 0);
        assert!(points.last().unwrap().0 > 98_000_000, "{:?}", points.last());
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let few = pace.points(24);
        assert!(few.len() <= 24 && few.last() == points.last(), "{few:?}");
    }

    #[test]
    fn the_range_is_that_of_the_windows_and_holds_the_estimate() {
        let mut pace = Pace::default();
        let mut done = 0;
        for window in 0..7_u64 {
            // Between 100 and 200 images a second, one window without any.
            let rate = if window == 3 { 0 } else { 100 + 20 * window };
            for second in 0..30 {
                done += rate;
                pace.sample((window * 30 + second) * 1000, rate as f64, done);
            }
        }
        pace.sample(7 * 30_000, 0.0, done);
        let range = pace.eta_range(12_000, 80.0).unwrap();
        assert!(range.low_seconds <= 80.0 && range.high_seconds >= 80.0, "{range:?}");
        assert!(range.low_seconds > 12_000.0 / 230.0 && range.high_seconds < 12_000.0 / 90.0, "{range:?}");
        // An estimate outside of the spread widens it.
        assert_eq!(pace.eta_range(12_000, 1000.0).unwrap().high_seconds, 1000.0);
    }

    #[test]
    fn without_windows_or_with_standstill_there_is_no_range() {
        let mut pace = Pace::default();
        assert_eq!(pace.eta_range(100, 1.0), None);
        for second in 0..600 {
            pace.sample(second * 1000, 0.0, 7);
        }
        assert_eq!(pace.eta_range(100, 1.0), None);
        // A ledger that was rebuilt counts anew; that is no negative rate.
        pace.sample(700_000, 1.0, 3);
        pace.sample(740_000, 1.0, 43);
        assert!(pace.windows.iter().all(|rate| *rate >= 0.0));
    }
}
