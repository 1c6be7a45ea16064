//! Stopping on request: once gently, twice at once.
//!
//! The first SIGTERM or SIGINT cancels [`Shutdown::draining`] (take nothing new, finish what is in flight),
//! the second cancels [`Shutdown::now`] (hand everything back), the third ends the process on the spot:
//! whatever is lost then is redelivered. Nothing here stops work by itself; it only tells.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A process that a signal ended exits with this plus the signal's number: 130 for SIGINT, 143 for SIGTERM.
const SIGNAL_EXIT_BASE: i32 = 128;

/// The two requests to stop. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled by the first signal: take no new work, finish what is begun.
    pub draining: CancellationToken,
    /// Cancelled by the second signal: stop at once and hand everything back. Never without `draining`.
    pub now: CancellationToken,
    first_signal: Arc<AtomicI32>,
}

impl Shutdown {
    /// Listens for SIGTERM and SIGINT from now on, in a task of the current runtime. If the listeners
    /// cannot be set up, the signals keep their default meaning, which is to end the process; that is
    /// logged and safe, since unfinished work is redelivered.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn install() -> Self {
        let shutdown = Self::manual();
        match Signals::new() {
            Ok(signals) => {
                tokio::spawn(listen(signals, shutdown.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot listen for SIGTERM and SIGINT: they will end the process at once");
            }
        }
        shutdown
    }

    /// Without signals: the caller says when, by [`Shutdown::drain`] and [`Shutdown::stop_now`].
    pub fn manual() -> Self {
        Self::default()
    }

    /// Asks for the gentle stop.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Asks for the stop at once, which includes the gentle one.
    pub fn stop_now(&self) {
        self.draining.cancel();
        self.now.cancel();
    }

    /// The number of the first signal that came, if one did.
    pub fn signal(&self) -> Option<i32> {
        match self.first_signal.load(Ordering::Acquire) {
            0 => None,
            number => Some(number),
        }
    }

    /// What a process ended by that signal exits with: 130 for SIGINT, 143 for SIGTERM.
    pub fn exit_code(&self) -> Option<i32> {
        self.signal().map(|number| SIGNAL_EXIT_BASE + number)
    }

    /// Takes note of one signal; the answer is true if it was one too many and the process has to end.
    fn on_signal(&self, number: i32) -> bool {
        // The number first: whoever wakes by a token must find it.
        let _ = self.first_signal.compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire);
        if self.now.is_cancelled() {
            return true;
        }
        if self.draining.is_cancelled() {
            self.now.cancel();
        } else {
            self.draining.cancel();
        }
        false
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.terminate.recv() => libc::SIGTERM,
            _ = self.interrupt.recv() => libc::SIGINT,
        }
    }
}

async fn listen(mut signals: Signals, shutdown: Shutdown) {
    loop {
        let number = signals.next().await;
        if shutdown.on_signal(number) {
            // SAFETY: `_exit` takes no pointers and does not return. Unlike `exit` it runs no exit handlers,
            // which in a process full of native threads may hang, and hanging is why a third signal came.
            unsafe { libc::_exit(SIGNAL_EXIT_BASE + number) }
        }
        let asked =
            if shutdown.now.is_cancelled() { "stopping at once" } else { "finishing what is in flight" };
        tracing::info!(signal = number, "{asked}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn one_signal_drains_two_stop_three_are_too_many() {
        let shutdown = Shutdown::manual();
        let seen_elsewhere = shutdown.clone();
        assert_eq!(shutdown.exit_code(), None);
        assert!(!shutdown.on_signal(libc::SIGTERM));
        assert!(seen_elsewhere.draining.is_cancelled() && !seen_elsewhere.now.is_cancelled());
        assert!(!shutdown.on_signal(libc::SIGINT));
        assert!(seen_elsewhere.now.is_cancelled());
        assert!(shutdown.on_signal(libc::SIGINT));
        assert_eq!(seen_elsewhere.exit_code(), Some(143), "the first signal decides");
    }

    #[test]
    fn stopping_at_once_is_also_draining() {
        let shutdown = Shutdown::manual();
        shutdown.stop_now();
        assert!(shutdown.draining.is_cancelled() && shutdown.now.is_cancelled());
        assert_eq!(shutdown.signal(), None);
    }

    #[tokio::test]
    async fn real_signals_arrive() {
        let shutdown = Shutdown::install();
        let raise = || {
            // SAFETY: `raise` takes a number only; a handler for SIGINT is installed above.
            assert_eq!(unsafe { libc::raise(libc::SIGINT) }, 0);
        };
        let wait = |token: CancellationToken| async move {
            tokio::time::timeout(Duration::from_secs(10), token.cancelled())
                .await
                .expect("the signal is seen");
        };
        raise();
        wait(shutdown.draining.clone()).await;
        assert!(!shutdown.now.is_cancelled());
        raise();
        wait(shutdown.now.clone()).await;
        assert_eq!(shutdown.exit_code(), Some(130));
    }
}
