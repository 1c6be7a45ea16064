//! What can become of a batch, in words that metrics use: closed sets, each of which is exported from the start.
//!
//! Told to [`super::meters`] by the stages that know. A panel over a series that appears with the first trouble cannot
//! be told from a broken one, so nothing here may depend on what has happened.

use trawl_common::disposition::Failure;

/// How a delivery's work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchEnd {
    /// Its part was committed first by this worker.
    Done,
    /// Done by somebody else, or nobody's any more.
    Skipped,
    /// Back to the queue at once.
    Requeued,
    /// Back to the queue after a rest, as another attempt.
    Retried,
    /// Back to the queue after a rest, through no fault of the batch.
    Deferred,
    /// Given up: to the dead letters.
    Dead,
}

impl BatchEnd {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Done, Self::Skipped, Self::Requeued, Self::Retried, Self::Deferred, Self::Dead];

    /// The name in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Skipped => "skipped",
            Self::Requeued => "requeued",
            Self::Retried => "retried",
            Self::Deferred => "deferred",
            Self::Dead => "dead",
        }
    }
}

/// Whose part was there before ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Winner {
    /// Our own, put in an attempt whose answer was lost.
    Own,
    /// Another worker's.
    Other,
}

impl Winner {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Own, Self::Other];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "self",
            Self::Other => "other",
        }
    }
}

/// Why a batch was set aside from the usual work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quarantine {
    /// It came back without a word, as from a worker that died: tried again with nobody beside it.
    Alone,
    /// It did so again: its images go one by one, to find the one that kills.
    OneByOne,
    /// To the dead letters: no message of ours.
    Message,
    /// To the dead letters: its job's spec is missing or at odds with it.
    Job,
    /// To the dead letters: its model cannot be had or used.
    Model,
    /// To the dead letters: the store failed it each time.
    Store,
    /// To the dead letters: its part or the manifest could not be made.
    Output,
    /// To the dead letters for anything else.
    Other,
}

impl Quarantine {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Alone,
        Self::OneByOne,
        Self::Message,
        Self::Job,
        Self::Model,
        Self::Store,
        Self::Output,
        Self::Other,
    ];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::OneByOne => "one_by_one",
            Self::Message => "message",
            Self::Job => "job",
            Self::Model => "model",
            Self::Store => "store",
            Self::Output => "output",
            Self::Other => "other",
        }
    }

    /// Of a batch that becomes a dead letter.
    pub fn dead(failure: &Failure) -> Self {
        match failure {
            Failure::Message(_) => Self::Message,
            Failure::Job(_) => Self::Job,
            Failure::Model(_) | Failure::ModelFile(_) => Self::Model,
            Failure::Storage(_) => Self::Store,
            Failure::Output(_) => Self::Output,
            Failure::Ledger(_) | Failure::DeviceLost(_) | Failure::Draining => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_distinct() {
        assert_eq!(HashSet::from(BatchEnd::ALL.map(BatchEnd::name)).len(), BatchEnd::ALL.len());
        assert_eq!(HashSet::from(Quarantine::ALL.map(Quarantine::name)).len(), Quarantine::ALL.len());
        assert_eq!(Quarantine::dead(&Failure::Output("o".into())), Quarantine::Output);
    }
}
