//! How fast a job has been moving while somebody watched.
//!
//! Batches end in lumps of hundreds of images, so that a rate is taken over [`WINDOW`] and not between two
//! looks. It knows nothing of the time before it was begun.

use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// Between two points.
pub const STEP: Duration = Duration::from_secs(2);

/// What a rate is taken over.
const WINDOW: Duration = Duration::from_secs(10);

/// Points that are kept: six minutes, wider than most terminals.
const MOST_POINTS: usize = 180;

/// The counts of one job, one for each [`STEP`].
#[derive(Debug, Default)]
pub struct Trace(VecDeque<(Instant, u64)>);

impl Trace {
    /// Takes note of a count; what comes sooner than a step after the last one replaces nothing and is not kept.
    pub fn note(&mut self, at: Instant, done: u64) {
        if let Some((last, before)) = self.0.back() {
            // A job that was begun anew has another history.
            if done < *before {
                self.0.clear();
            } else if at.duration_since(*last) < STEP {
                return;
            }
        }
        if self.0.len() == MOST_POINTS {
            self.0.pop_front();
        }
        self.0.push_back((at, done));
    }

    /// The rates of the last `most` points, images a second, the oldest first.
    pub fn rates(&self, most: usize) -> Vec<f64> {
        let rates: Vec<f64> = (1..self.0.len()).map(|end| self.rate(end)).collect();
        rates[rates.len().saturating_sub(most)..].to_vec()
    }

    fn rate(&self, end: usize) -> f64 {
        let (at, done) = self.0[end];
        let begin = (0..end).rev().take_while(|i| at.duration_since(self.0[*i].0) <= WINDOW).last();
        let (since, before) = self.0[begin.unwrap_or(end - 1)];
        let seconds = at.duration_since(since).as_secs_f64();
        if seconds > 0.0 { (done - before) as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_taken_over_its_window() {
        let (mut trace, began) = (Trace::default(), Instant::now());
        assert!(trace.rates(10).is_empty());
        // 100 images in one lump, then nothing.
        for (step, done) in [0, 100, 100, 100, 100, 100, 100, 100].into_iter().enumerate() {
            trace.note(began + STEP * u32::try_from(step).unwrap(), done);
            trace.note(began + STEP * u32::try_from(step).unwrap() + STEP / 4, done);
        }
        assert_eq!(trace.rates(10), [50.0, 25.0, 100.0 / 6.0, 12.5, 10.0, 0.0, 0.0]);
        assert_eq!(trace.rates(2), [0.0, 0.0]);
    }

    #[test]
    fn a_job_that_begins_anew_has_no_past() {
        let (mut trace, began) = (Trace::default(), Instant::now());
        trace.note(began, 500);
        trace.note(began + STEP, 10);
        trace.note(began + STEP * 2, 30);
        assert_eq!(trace.rates(10), [10.0]);
    }

    #[test]
    fn it_is_bounded() {
        let (mut trace, began) = (Trace::default(), Instant::now());
        for step in 0..MOST_POINTS as u32 * 2 {
            trace.note(began + STEP * step, u64::from(step));
        }
        assert_eq!(trace.rates(usize::MAX).len(), MOST_POINTS - 1);
    }
}
