//! Work that would hold up a tokio thread (compression, parsing, loading), on a thread that may be held up.
//!
//! Used by planning, sink and model loading. A simulation turns it off for its thread and gets the work done on
//! the spot: a second thread would end a paused clock's determinism. Nothing that waits for another task may be
//! handed over.

/// Does `work` on one of tokio's blocking threads; a panic in it goes on in the caller. Not cancel safe in that
/// work that has begun runs to its end, wanted or not.
///
/// # Panics
/// As `work` does, and outside a tokio runtime.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    #[cfg(any(test, feature = "testing"))]
    if inline::is_on() {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// The switch of a simulation.
#[cfg(any(test, feature = "testing"))]
pub mod inline {
    use std::cell::Cell;

    thread_local! {
        static ON: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether this thread does the work itself from now on.
    pub fn switch(on: bool) {
        ON.set(on);
    }

    pub(super) fn is_on() -> bool {
        ON.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_work_leaves_this_thread_unless_it_is_told_to_stay() {
        let here = std::thread::current().id();
        assert_ne!(offload(|| std::thread::current().id()).await, here);
        inline::switch(true);
        assert_eq!(offload(|| std::thread::current().id()).await, here);
        inline::switch(false);
    }
}
