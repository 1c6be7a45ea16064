//! The one retry policy: jittered exponential backoff with an end.
//!
//! Storage requests and ledger commands go through [`retry`]; loops that must never give up (the broker's
//! connection) take their pauses from [`Backoff`]. The only file that names the crate `backoff`. It must
//! never retry what cannot get better, and never without a bound in time or in pace.

use crate::chance;
use backoff::{Clock, ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff as _, exponential};
use std::{fmt::Display, future::Future, time::Duration};

/// Each pause is this much longer than the one before.
const MULTIPLIER: f64 = 2.0;

/// Pauses vary by half in both directions, so that a fleet that failed together does not come back together.
const JITTER: f64 = 0.5;

/// From this pause on retries are logged as warnings: whoever waits should know what for.
const LOUD_PAUSE: Duration = Duration::from_secs(2);

/// How long to try, and at what pace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first pause, before jitter.
    pub initial: Duration,
    /// No pause is longer than this, before jitter.
    pub max_interval: Duration,
    /// When this much time has passed since the first attempt began, or the next pause would go beyond it,
    /// the last error is final. An attempt that is under way is not cut off.
    pub max_elapsed: Duration,
}

impl RetryPolicy {
    /// For requests to a store: a throttled or restarting store gets a minute and a half, which is longer
    /// than one read time-out, so that even a request that hung is tried twice. The worker then hands the
    /// batch back to the broker.
    pub const STORAGE: Self = Self {
        initial: Duration::from_millis(100),
        max_interval: Duration::from_secs(10),
        max_elapsed: Duration::from_secs(90),
    };

    /// For commands to the ledger: it is a cache, so only a reconnect is bridged, not an outage.
    pub const LEDGER: Self = Self {
        initial: Duration::from_millis(20),
        max_interval: Duration::from_millis(500),
        max_elapsed: Duration::from_secs(2),
    };

    /// For supervisor loops that reconnect for ever: half a second at first, half a minute at most. Only
    /// [`Backoff`] uses it that way; with [`retry`] it would end after ten minutes.
    pub const RECONNECT: Self = Self {
        initial: Duration::from_millis(500),
        max_interval: Duration::from_secs(30),
        max_elapsed: Duration::from_secs(600),
    };

    fn schedule(&self) -> Schedule {
        let built: ExponentialBackoff = ExponentialBackoffBuilder::new()
            .with_initial_interval(self.initial)
            .with_max_interval(self.max_interval)
            .with_max_elapsed_time(None)
            .with_multiplier(MULTIPLIER)
            .with_randomization_factor(0.0)
            .build();
        let mut growing = exponential::ExponentialBackoff {
            current_interval: built.current_interval,
            initial_interval: built.initial_interval,
            randomization_factor: built.randomization_factor,
            multiplier: built.multiplier,
            max_interval: built.max_interval,
            start_time: TokioClock.now(),
            max_elapsed_time: built.max_elapsed_time,
            clock: TokioClock,
        };
        growing.reset();
        Schedule { growing, max_elapsed: Some(self.max_elapsed) }
    }
}

/// Growing pauses, with the jitter put on here: the crate's own cannot be seeded.
#[derive(Debug)]
struct Schedule {
    growing: exponential::ExponentialBackoff<TokioClock>,
    max_elapsed: Option<Duration>,
}

impl backoff::backoff::Backoff for Schedule {
    fn reset(&mut self) {
        self.growing.reset();
    }

    fn next_backoff(&mut self) -> Option<Duration> {
        let pause = self.growing.next_backoff()?.mul_f64(1.0 + JITTER * (2.0 * chance::fraction() - 1.0));
        match self.max_elapsed {
            Some(longest) if self.growing.get_elapsed_time() + pause > longest => None,
            _ => Some(pause),
        }
    }
}

/// The runtime's clock, so that a paused test clock is believed.
#[derive(Debug, Clone, Copy)]
struct TokioClock;

impl Clock for TokioClock {
    fn now(&self) -> std::time::Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// Runs `op` until it succeeds, fails with an error that is not transient, or the policy is at its end;
/// then the last error is returned. Each retry is logged with its error, so the error's text must be free
/// of secrets.
///
/// Cancel safe to the extent that `op` is: dropping the future drops the attempt under way and no further
/// one is made.
///
/// # Errors
/// The first permanent or the last transient error of `op`.
pub async fn retry<T, E, Op, Attempt>(
    policy: RetryPolicy,
    is_transient: impl Fn(&E) -> bool,
    mut op: Op,
) -> Result<T, E>
where
    E: Display,
    Op: FnMut() -> Attempt,
    Attempt: Future<Output = Result<T, E>>,
{
    let is_transient = &is_transient;
    let attempt = || {
        let attempt = op();
        async move {
            attempt.await.map_err(|error| match is_transient(&error) {
                true => backoff::Error::transient(error),
                false => backoff::Error::permanent(error),
            })
        }
    };
    let log = |error: E, pause| log_retry(&error, pause);
    backoff::future::retry_notify(policy.schedule(), attempt, log).await
}

/// Says that something is tried again after `pause`: at debug level at first, as a warning when it goes on.
pub(crate) fn log_retry(error: &dyn Display, pause: Duration) {
    let pause_s = pause.as_secs_f32();
    if pause < LOUD_PAUSE {
        tracing::debug!(%error, pause_s, "trying again");
    } else {
        tracing::warn!(%error, pause_s, "still failing, trying again");
    }
}

/// The pauses of a loop that never gives up: they grow to the policy's longest and stay there, jittered.
/// `max_elapsed` plays no part.
#[derive(Debug)]
pub struct Backoff {
    schedule: Schedule,
}

impl Backoff {
    /// Begins with the policy's first pause.
    pub fn new(policy: RetryPolicy) -> Self {
        let mut schedule = policy.schedule();
        schedule.max_elapsed = None;
        Self { schedule }
    }

    /// How long to wait now. There is always another pause.
    pub fn next_delay(&mut self) -> Duration {
        let longest = self.schedule.growing.max_interval;
        self.schedule.next_backoff().unwrap_or(longest)
    }

    /// Begins again with the first pause; to be called when what was lost is back.
    pub fn reset(&mut self) {
        self.schedule.reset();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const POLICY: RetryPolicy = RetryPolicy {
        initial: Duration::from_millis(100),
        max_interval: Duration::from_secs(1),
        max_elapsed: Duration::from_secs(10),
    };

    async fn failing(error: &'static str, good_after: u32) -> (Result<u32, &'static str>, u32) {
        let calls = Cell::new(0);
        let result = retry(
            POLICY,
            |e: &&str| *e == "busy",
            || {
                calls.set(calls.get() + 1);
                let n = calls.get();
                async move { if n > good_after { Ok(n) } else { Err(error) } }
            },
        )
        .await;
        (result, calls.get())
    }

    #[tokio::test(start_paused = true)]
    async fn transient_errors_are_retried_until_it_works() {
        assert_eq!(failing("busy", 3).await, (Ok(4), 4));
    }

    #[tokio::test(start_paused = true)]
    async fn permanent_errors_are_final_at_once() {
        let begin = tokio::time::Instant::now();
        assert_eq!(failing("gone", 3).await, (Err("gone"), 1));
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_in_time_with_the_last_error() {
        let begin = tokio::time::Instant::now();
        let (result, calls) = failing("busy", u32::MAX).await;
        assert_eq!(result, Err("busy"));
        // At most 1.5 s a pause: the last attempt is within that of the end.
        assert!(begin.elapsed() <= POLICY.max_elapsed + Duration::from_millis(1), "{:?}", begin.elapsed());
        assert!(begin.elapsed() > POLICY.max_elapsed - Duration::from_secs(2), "{:?}", begin.elapsed());
        assert!((8..60).contains(&calls), "{calls}");
    }

    #[tokio::test(start_paused = true)]
    async fn delays_grow_to_the_longest_vary_and_never_end() {
        let mut backoff = Backoff::new(POLICY);
        let first = backoff.next_delay();
        assert!((50..=150).contains(&first.as_millis()), "{first:?}");
        for _ in 0..8 {
            backoff.next_delay();
        }
        tokio::time::advance(POLICY.max_elapsed * 100).await;
        let late: Vec<Duration> = (0..50).map(|_| backoff.next_delay()).collect();
        assert!(late.iter().all(|d| (500..=1501).contains(&d.as_millis())), "{late:?}");
        assert!(late.iter().any(|d| *d != late[0]), "no jitter: {late:?}");
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(151));
    }
}
