//! What is told to the open pages: the last word on each topic, for any number of listeners.
//!
//! The poller makes each JSON once; listeners take the latest when they get to it, so that a slow one misses words and
//! never makes them pile up. The jobs that are listened to one by one are bounded.

use bytes::Bytes;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};
use tokio::sync::watch;
use trawl_common::job::JobId;

/// Single jobs that are watched at once: each costs Redis a few questions a second.
pub const MAX_JOBS_WATCHED: usize = 64;

/// The topics that all may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shared {
    /// The sums.
    Overview,
    /// The newest jobs.
    Jobs,
    /// The fleet.
    Workers,
    /// The queues.
    Queues,
}

impl Shared {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Overview, Self::Jobs, Self::Workers, Self::Queues];

    /// Its name in requests and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overview => "overview",
            Self::Jobs => "jobs",
            Self::Workers => "workers",
            Self::Queues => "queues",
        }
    }
}

/// The last word on a topic; empty before the first.
pub type Word = watch::Receiver<Bytes>;

/// Every topic.
pub struct Topics {
    shared: [watch::Sender<Bytes>; Shared::ALL.len()],
    jobs: Mutex<HashMap<JobId, watch::Sender<Bytes>>>,
}

impl Default for Topics {
    fn default() -> Self {
        Self { shared: Shared::ALL.map(|_| watch::Sender::new(Bytes::new())), jobs: Mutex::default() }
    }
}

impl Topics {
    /// Listens to a shared topic.
    pub fn listen(&self, topic: Shared) -> Word {
        self.shared[topic as usize].subscribe()
    }

    /// Listens to a job; `None` if too many others are listened to.
    pub fn listen_to_job(&self, job: &JobId) -> Option<Word> {
        let mut jobs = self.jobs();
        if let Some(word) = jobs.get(job) {
            return Some(word.subscribe());
        }
        if jobs.len() >= MAX_JOBS_WATCHED {
            jobs.retain(|_, word| word.receiver_count() > 0);
        }
        if jobs.len() >= MAX_JOBS_WATCHED {
            return None;
        }
        Some(jobs.entry(job.clone()).or_insert_with(|| watch::Sender::new(Bytes::new())).subscribe())
    }

    /// Whether anybody listens to anything.
    pub fn has_listeners(&self) -> bool {
        self.shared.iter().any(|word| word.receiver_count() > 0)
            || self.jobs().values().any(|word| word.receiver_count() > 0)
    }

    /// The jobs that somebody listens to; the others are forgotten.
    pub fn jobs_listened_to(&self) -> Vec<JobId> {
        let mut jobs = self.jobs();
        jobs.retain(|_, word| word.receiver_count() > 0);
        jobs.keys().cloned().collect()
    }

    /// Says the word on a shared topic, if it is a new one.
    pub fn say(&self, topic: Shared, word: Bytes) {
        say(&self.shared[topic as usize], word);
    }

    /// Says the word on a job, if it is a new one.
    pub fn say_of_job(&self, job: &JobId, word: Bytes) {
        if let Some(sender) = self.jobs().get(job) {
            say(sender, word);
        }
    }

    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, watch::Sender<Bytes>>> {
        self.jobs.lock().expect("no panic while the map is held")
    }
}

fn say(sender: &watch::Sender<Bytes>, word: Bytes) {
    sender.send_if_modified(|last| {
        let new = *last != word;
        if new {
            *last = word;
        }
        new
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_words_are_told_and_jobs_are_bounded() {
        let topics = Topics::default();
        assert!(!topics.has_listeners());
        let mut word = topics.listen(Shared::Jobs);
        topics.say(Shared::Jobs, "a".into());
        assert!(word.has_changed().unwrap());
        assert_eq!(*word.borrow_and_update(), "a");
        topics.say(Shared::Jobs, "a".into());
        assert!(!word.has_changed().unwrap());

        let job = |n: usize| format!("j-{n}").parse::<JobId>().unwrap();
        let mut held: Vec<Word> =
            (0..MAX_JOBS_WATCHED).map(|n| topics.listen_to_job(&job(n)).unwrap()).collect();
        assert!(topics.listen_to_job(&job(999)).is_none());
        assert!(topics.listen_to_job(&job(0)).is_some(), "together with others");
        held.pop();
        assert!(topics.listen_to_job(&job(999)).is_some(), "a place is free again");
        drop((held, word));
        assert!(topics.jobs_listened_to().is_empty() && !topics.has_listeners());
    }
}
