//! One read for all who ask for the same thing at the same time.
//!
//! For what every batch of a worker must look up anew before its commit, in a store that does the same for the next
//! one a millisecond later. It must never give an answer that is older than the question.

use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

/// The latest answer, with the number of the read that gave it. Reads are numbered from 1.
#[derive(Debug, Default)]
pub(super) struct Shared<T> {
    /// Reads that were begun.
    begun: AtomicU64,
    /// Held by whoever reads; without an answer if the read failed.
    latest: Mutex<(u64, Option<T>)>,
}

impl<T: Copy> Shared<T> {
    /// What a read gives that began after this call. At most two reads are waited for: the one under way, which is
    /// too old, and the next, which is everybody's who waits by then. Cancel safe: whoever waits next reads.
    ///
    /// # Errors
    /// What this caller's own `read` gives; the errors of others are not shared.
    pub(super) async fn read<E, Read>(&self, read: impl FnOnce() -> Read) -> Result<T, E>
    where
        Read: Future<Output = Result<T, E>>,
    {
        let begun_before = self.begun.load(Ordering::SeqCst);
        let mut latest = self.latest.lock().await;
        match *latest {
            (number, Some(answer)) if number > begun_before => return Ok(answer),
            // A store that is away is asked by all at once: one after the other they would wait for it again each.
            (number, None) if number > begun_before => {
                drop(latest);
                return read().await;
            }
            _ => {}
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let answer = read().await;
        *latest = (number, answer.as_ref().ok().copied());
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::join_all;
    use std::{convert::Infallible, time::Duration};
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_shared_and_never_older_than_the_question() {
        let (shared, truth, reads) = (Shared::default(), AtomicU64::new(0), AtomicU64::new(0));
        let ask = |after_ms| {
            let (shared, truth, reads) = (&shared, &truth, &reads);
            async move {
                sleep(Duration::from_millis(after_ms)).await;
                let asked = truth.fetch_add(1, Ordering::SeqCst) + 1;
                let read = || async {
                    reads.fetch_add(1, Ordering::SeqCst);
                    // What the store says is what was so when it was asked.
                    let seen = truth.load(Ordering::SeqCst);
                    sleep(Duration::from_millis(10)).await;
                    Ok::<_, Infallible>(seen)
                };
                let answer = shared.read(read).await.unwrap_or_else(|never| match never {});
                assert!(answer >= asked, "{answer} was read before {asked} was asked");
            }
        };
        join_all((0..100).map(ask)).await;
        let reads = reads.load(Ordering::SeqCst);
        assert!((10..=12).contains(&reads), "{reads} reads of 10 ms for a question each millisecond");
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_failed_or_was_given_up_is_nobodys_answer() {
        let shared = Shared::default();
        let slow = shared.read(|| async {
            sleep(Duration::from_secs(9)).await;
            Ok::<_, &str>(1)
        });
        assert!(tokio::time::timeout(Duration::from_secs(1), slow).await.is_err());
        let began = tokio::time::Instant::now();
        let away = (0..100).map(|_| {
            shared.read(|| async {
                sleep(Duration::from_secs(60)).await;
                Err("away")
            })
        });
        assert!(join_all(away).await.iter().all(|answer| *answer == Err("away")));
        let waited = began.elapsed().as_secs();
        assert_eq!(waited, 180, "the first one, the one who asked while that read, then all others at once");
        assert_eq!(shared.read(|| async { Ok::<_, &str>(2) }).await, Ok(2));
    }
}
