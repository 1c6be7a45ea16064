//! Gathered reads: files that are asked for at about the same time are read by one blocking thread.
//!
//! A file that the kernel holds in memory is read in less time than it takes to wake a thread for it and to wake whoever
//! waits for it. So while files come from memory, a thread reads a handful, answers all at once, and looks for more
//! before it ends. A file that has to be waited for, as on a cold disk or across a network, holds up its handful at
//! most: from then on each has a thread of its own again. It must never leave a read to a thread that may not come.

use super::{Object, StorageError};
use std::{
    collections::VecDeque,
    mem::MaybeUninit,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard},
};
use tokio::sync::oneshot;

/// Files that one thread reads before it answers: a quarter of the reads that are under way at first.
const HANDFUL: usize = 8;

type Answer = Result<Object, StorageError>;

/// A file to be read, and who waits for it.
struct Read {
    run: Box<dyn FnOnce() -> Answer + Send>,
    answer: oneshot::Sender<Answer>,
}

/// The reads of a store.
#[derive(Default)]
pub(super) struct Gathered {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Read>,
    /// Threads that were called and have not looked at `waiting` yet. Nobody counts on those that read: theirs may be slow.
    coming: usize,
    /// Whether the latest files came from memory.
    from_memory: bool,
}

impl State {
    /// How many threads must be called, so that those that come take all that waits; they are counted.
    fn call(&mut self) -> usize {
        let files = if self.from_memory { HANDFUL } else { 1 };
        let called = self.waiting.len().div_ceil(files).saturating_sub(self.coming);
        self.coming += called;
        called
    }
}

impl Gathered {
    /// What `run` gives, from a blocking thread; `None` if that ended early, as at the end of its runtime. Cancel safe: a read
    /// that has not begun is left out.
    pub(super) async fn read(
        self: &Arc<Self>,
        run: impl FnOnce() -> Answer + Send + 'static,
    ) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        let called = {
            let mut state = self.lock();
            state.waiting.push_back(Read { run: Box::new(run), answer });
            state.call()
        };
        self.call(called);
        answered.await.ok()
    }

    /// Calls so many threads, which are counted already.
    fn call(self: &Arc<Self>, threads: usize) {
        for _ in 0..threads {
            let thread = Thread { reads: self.clone(), coming: true };
            drop(tokio::task::spawn_blocking(move || thread.work()));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the reads are held")
    }
}

/// One thread.
struct Thread {
    reads: Arc<Gathered>,
    coming: bool,
}

impl Thread {
    fn work(mut self) {
        while let Some(handful) = self.take() {
            let before = waits_of_this_thread();
            let wanted = handful.into_iter().filter(|read| !read.answer.is_closed());
            // A panic is that read's own, whose answer is dropped.
            let run = |read: Read| Some((read.answer, catch_unwind(AssertUnwindSafe(read.run)).ok()?));
            let done: Vec<_> = wanted.filter_map(run).collect();
            self.note(waits_of_this_thread() == before);
            for (answer, read) in done {
                // Whoever waited may be gone.
                let _gone = answer.send(read);
            }
        }
    }

    /// What this thread reads next.
    fn take(&mut self) -> Option<Vec<Read>> {
        let mut state = self.reads.lock();
        state.coming -= usize::from(std::mem::take(&mut self.coming));
        let most = if state.from_memory { HANDFUL } else { 1 };
        let count = state.waiting.len().min(most);
        (count > 0).then(|| state.waiting.drain(..count).collect())
    }

    /// Takes note of where the files came from. What waits behind slow ones gets threads of its own.
    fn note(&self, from_memory: bool) {
        let called = {
            let mut state = self.reads.lock();
            state.from_memory = from_memory;
            state.call()
        };
        self.reads.call(called);
    }
}

impl Drop for Thread {
    /// A thread that never came: its runtime ended first.
    fn drop(&mut self) {
        if self.coming
            && let Ok(mut state) = self.reads.state.lock()
        {
            state.coming -= 1;
            if state.coming == 0 {
                state.waiting.clear();
            }
        }
    }
}

/// How often this thread has given up its core to wait for something, as for a disk; being made to does not count.
pub(super) fn waits_of_this_thread() -> libc::c_long {
    let mut usage = MaybeUninit::<libc::rusage>::uninit();
    // SAFETY: getrusage writes the whole of what the pointer is to, or fails and is not looked at.
    unsafe {
        if libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) == 0 {
            usage.assume_init().ru_nvcsw
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::future::join_all;
    use std::{sync::mpsc, thread, time::Duration};

    fn object(size: u64) -> Answer {
        Ok(Object { bytes: Bytes::new(), size, etag: None })
    }

    fn size(answer: Option<Answer>) -> u64 {
        answer.expect("an answer").expect("an object").size
    }

    /// Reads until files are known to come from memory.
    async fn warm(reads: &Arc<Gathered>) {
        while !reads.lock().from_memory {
            assert_eq!(size(reads.read(|| object(0)).await), 0);
        }
    }

    #[tokio::test]
    async fn each_gets_its_own_answer() {
        let reads = Arc::<Gathered>::default();
        for _ in 0..50 {
            let asked = (0..100).map(|n| reads.read(move || object(n)));
            let sizes: Vec<u64> = join_all(asked).await.into_iter().map(size).collect();
            assert_eq!(sizes, (0..100).collect::<Vec<_>>());
        }
        assert!(reads.lock().waiting.is_empty());
    }

    /// A runtime of one blocking thread.
    fn one_thread() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap()
    }

    #[test]
    fn what_comes_from_memory_is_read_by_the_handful() {
        one_thread().block_on(async {
            let reads = Arc::<Gathered>::default();
            warm(&reads).await;
            // While the thread is at something else nobody comes for them.
            let (let_go, held) = mpsc::channel::<()>();
            let occupied = tokio::task::spawn_blocking(move || held.recv());
            let mut asked = Box::pin(join_all((0..20).map(|n| reads.read(move || object(n)))));
            assert!(futures::poll!(&mut asked).is_pending());
            assert_eq!(reads.lock().coming, 20_usize.div_ceil(HANDFUL));
            drop(let_go);
            assert!(occupied.await.unwrap().is_err());
            assert_eq!(asked.await.into_iter().map(size).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
            assert_eq!(reads.lock().waiting.len(), 0);
        });
    }

    #[test]
    fn what_waits_behind_a_slow_file_gets_threads_of_its_own() {
        let read = |_| Read { run: Box::new(|| object(0)), answer: oneshot::channel().0 };
        let waiting = (0..=2 * HANDFUL).map(read).collect();
        let mut state = State { waiting, coming: 0, from_memory: true };
        assert_eq!((state.call(), state.call(), state.coming), (3, 0, 3));
        state.from_memory = false;
        assert_eq!((state.call(), state.call(), state.coming), (14, 0, 17));
        // Too many are coming now, which is no harm.
        state.from_memory = true;
        assert_eq!((state.call(), state.coming), (0, 17));
    }

    #[tokio::test]
    async fn a_file_that_stays_away_does_not_hold_up_those_that_are_asked_for_later() {
        let reads = Arc::<Gathered>::default();
        for from_memory in [true, false] {
            warm(&reads).await;
            if !from_memory {
                // It waits as for a disk.
                let nap = || {
                    thread::sleep(Duration::from_millis(1));
                    object(1)
                };
                assert_eq!(size(reads.read(nap).await), 1);
                assert!(!reads.lock().from_memory);
            }
            let ((let_go, held), (begin, begun)) = (mpsc::channel::<()>(), oneshot::channel());
            let mut slow = Box::pin(reads.read(move || {
                begin.send(()).expect("the test waits");
                let _until_the_sender_is_gone = held.recv();
                object(2)
            }));
            assert!(futures::poll!(&mut slow).is_pending());
            begun.await.expect("it begins");
            let asked = join_all((0..100).map(|n| reads.read(move || object(n)))).await;
            assert_eq!(asked.into_iter().map(size).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
            drop(let_go);
            assert_eq!(size(slow.await), 2);
        }
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_read_and_no_later_one() {
        let reads = Arc::<Gathered>::default();
        warm(&reads).await;
        assert!(reads.read(|| panic!("as a test")).await.is_none());
        assert_eq!(size(reads.read(|| object(7)).await), 7);
    }

    #[test]
    fn a_runtime_that_ends_leaves_nothing_behind() {
        let reads = Arc::<Gathered>::default();
        for _ in 0..20 {
            let ended = one_thread();
            ended.block_on(async {
                let mut asked = Box::pin(join_all((0..20).map(|n| reads.read(move || object(n)))));
                let _some_are_under_way = futures::poll!(&mut asked);
            });
            ended.shutdown_timeout(Duration::from_secs(10));
            assert_eq!(size(one_thread().block_on(reads.read(|| object(3)))), 3);
        }
    }
}
