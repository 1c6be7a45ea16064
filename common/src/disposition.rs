//! The one place where an error becomes ack, requeue, retry or dead-letter.
//!
//! Stages classify their errors once, at their seam; the worker's settle asks here what becomes of the
//! delivery. No default and no wildcard: a new kind of failure does not compile until it has an answer.

use crate::{
    batch::MessageError, broker::Disposition, ledger::LedgerError, model_file::ModelFileError,
    storage::StorageError,
};

/// Why a delivery was not completed. A bad image is never one of these: it is a row.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Junk, or a version we do not read.
    #[error("the message cannot be worked on")]
    Message(#[from] MessageError),
    /// The output, the spec or the part.
    #[error("the store failed")]
    Storage(#[from] StorageError),
    /// The ledger stayed away for longer than its bound.
    #[error("the ledger failed")]
    Ledger(#[from] LedgerError),
    /// The model could not be fetched, or is another one.
    #[error("the model is not at hand")]
    ModelFile(#[from] ModelFileError),
    /// The job's spec is missing, unreadable or at odds with the message.
    #[error("the job cannot be worked on: {0}")]
    Job(String),
    /// The bundle does not load or does not do what it says.
    #[error("the model cannot be used: {0}")]
    Model(String),
    /// A part or the manifest could not be made.
    #[error("the output cannot be written: {0}")]
    Output(String),
    /// The device is gone, and with it this process's use.
    #[error("the device failed for good: {0}")]
    DeviceLost(String),
    /// The worker is shutting down.
    #[error("the worker is shutting down")]
    Draining,
}

/// What becomes of a delivery that ended in `failure`.
pub fn disposition(failure: &Failure) -> Disposition {
    let retry = || Disposition::Retry { reason: describe(failure) };
    let defer = || Disposition::Defer { reason: describe(failure) };
    let dead = || Disposition::DeadLetter { reason: describe(failure) };
    match failure {
        Failure::Draining => Disposition::Requeue,
        // One of its images may have done it; the journal finds out which.
        Failure::DeviceLost(_) => Disposition::Abandon,
        // Trying the same bytes again gives the same answer.
        Failure::Message(_) => dead(),
        // A wrong spec or model stays wrong, but another worker may have the room, the library or the
        // device that this one lacks, so it gets the bounded number of tries.
        Failure::Job(_) | Failure::Model(_) | Failure::Output(_) => retry(),
        // The batch is fine and so is its part; the cache of its progress is not.
        Failure::Ledger(_) => defer(),
        // Another model under the same name: no batch is to blame, and none may be used up by it.
        Failure::ModelFile(ModelFileError::Digest { .. }) => defer(),
        // This worker's own disk.
        Failure::ModelFile(ModelFileError::Io { .. }) => defer(),
        // Credentials that ran out or were withdrawn: for the output and the model there is no error row.
        Failure::Storage(StorageError::Forbidden { .. })
        | Failure::ModelFile(ModelFileError::Storage(StorageError::Forbidden { .. })) => defer(),
        // Transient or not, the store may be mended meanwhile: bounded tries, then a human looks.
        Failure::Storage(_) | Failure::ModelFile(_) => retry(),
    }
}

/// The error and its causes, `a: b: c`, without a cause that the text before it already ends with.
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Message;
    use crate::storage::Passing;

    #[test]
    fn junk_is_dead_at_once_and_a_drain_is_not_an_attempt_lost() {
        let junk = Failure::from(Message::parse(b"{}").unwrap_err());
        assert!(matches!(disposition(&junk), Disposition::DeadLetter { .. }));
        assert_eq!(disposition(&Failure::Draining), Disposition::Requeue);
        let away = StorageError::Transient {
            store: "s3://b".into(),
            key: "k".into(),
            cause: Passing::Unavailable,
            reason: "503".into(),
        };
        let Disposition::Retry { reason } = disposition(&Failure::from(away)) else { panic!("a retry") };
        assert!(reason.contains("the store failed: s3://b") && reason.contains("503"), "{reason}");
    }
}
