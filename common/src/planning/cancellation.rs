//! The marks in an output that say its job was given up, or is held back for now.
//!
//! The ledger is what workers ask before every batch; a mark is what a rebuild of a wiped ledger asks, so that a job
//! that is held stays so. Written by `trawl cancel` and `trawl pause` after the ledger was told, removed by the next submission
//! of the same work, or by `trawl resume`, before the ledger is opened. It must never be taken for the end of a job:
//! what is written stays.

use crate::{
    job::JobSpec,
    ledger::JobState,
    results::OutputLayout,
    storage::{Storage, StorageError},
};
use bytes::Bytes;

/// Why a job's batches are left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Given up.
    Cancelled,
    /// Held back for now.
    Paused,
}

impl Hold {
    /// The stronger one first: what is cancelled is not resumed.
    const ALL: [Self; 2] = [Self::Cancelled, Self::Paused];

    /// The hold of a state.
    pub fn of(state: JobState) -> Option<Self> {
        match state {
            JobState::Cancelled => Some(Self::Cancelled),
            JobState::Paused => Some(Self::Paused),
            JobState::Enqueuing | JobState::Running | JobState::Complete => None,
        }
    }

    /// The state of a job under it.
    pub fn state(self) -> JobState {
        match self {
            Self::Cancelled => JobState::Cancelled,
            Self::Paused => JobState::Paused,
        }
    }

    fn key(self, layout: &OutputLayout) -> String {
        match self {
            Self::Cancelled => layout.cancelled(),
            Self::Paused => layout.paused(),
        }
    }
}

/// Marks the job; marking it again changes nothing but the time.
///
/// # Errors
/// What the store gives.
pub async fn mark(
    store: &dyn Storage,
    layout: &OutputLayout,
    spec: &JobSpec,
    hold: Hold,
    now_unix_ms: u64,
) -> Result<(), StorageError> {
    let since = match hold {
        Hold::Cancelled => "cancelled_unix_ms",
        Hold::Paused => "paused_unix_ms",
    };
    let said =
        serde_json::json!({ "job": spec.job, "created_unix_ms": spec.created_unix_ms, since: now_unix_ms });
    store.put(&hold.key(layout), Bytes::from(format!("{said}\n"))).await
}

/// How the job is marked, if it is.
///
/// # Errors
/// What the store gives, other than that there is no mark.
pub async fn marked(store: &dyn Storage, layout: &OutputLayout) -> Result<Option<Hold>, StorageError> {
    for hold in Hold::ALL {
        match store.head(&hold.key(layout)).await {
            Ok(_) => return Ok(Some(hold)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Removes the marks; none is no error.
///
/// # Errors
/// What the store gives.
pub async fn unmark(store: &dyn Storage, layout: &OutputLayout) -> Result<(), StorageError> {
    for hold in Hold::ALL {
        store.delete(&hold.key(layout)).await?;
    }
    Ok(())
}
