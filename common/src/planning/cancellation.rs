//! The mark in an output that says its job was given up.
//!
//! The ledger is what workers ask before every batch; the mark is what a rebuild of a wiped ledger asks, so that a
//! cancelled job stays cancelled. Written by `trawl cancel` after the ledger was told, removed by the next submission
//! of the same work before the ledger is opened. It must never be taken for the end of a job: what is written stays.

use crate::{
    disposition::describe,
    job::JobSpec,
    ledger::Progress,
    location::Location,
    results::OutputLayout,
    standing,
    storage::{Storage, StorageError, Stores},
};
use bytes::Bytes;
use std::{path::Path, time::Duration};

/// Marks the job as given up; marking it again changes nothing but the time.
///
/// # Errors
/// What the store gives.
pub async fn mark(
    store: &dyn Storage,
    layout: &OutputLayout,
    spec: &JobSpec,
    now_unix_ms: u64,
) -> Result<(), StorageError> {
    let said = serde_json::json!({
        "job": spec.job, "created_unix_ms": spec.created_unix_ms, "cancelled_unix_ms": now_unix_ms,
    });
    store.put(&layout.cancelled(), Bytes::from(format!("{said}\n"))).await
}

/// Marks the output of a job that the ledger knows as cancelled, if it can be reached from here within `limit` and is
/// that job's. Best effort: whoever cancels has told the ledger already.
///
/// # Errors
/// Why it is not marked, in words.
pub async fn mark_known(
    stores: &Stores,
    progress: &Progress,
    limit: Duration,
    now_unix_ms: u64,
) -> Result<(), String> {
    let place = Location::parse(&progress.out, Path::new("/")).map_err(|error| error.to_string())?;
    let marking = async {
        let spec = standing::spec(stores, &place).await.map_err(|error| describe(&error))?;
        if spec.job != progress.job || spec.created_unix_ms != progress.created_unix_ms {
            return Err(format!("`{place}` has another job by now, {}", spec.job));
        }
        let store = stores.open(&place).await;
        let marked = mark(&*store, &OutputLayout::new(place.clone()), &spec, now_unix_ms).await;
        marked.map_err(|error| describe(&error))
    };
    let marked = tokio::time::timeout(limit, marking).await;
    marked.unwrap_or_else(|_| Err(format!("`{place}` did not answer within {} s", limit.as_secs())))
}

/// Whether the job is marked as given up.
///
/// # Errors
/// What the store gives, other than that there is no mark.
pub async fn is_marked(store: &dyn Storage, layout: &OutputLayout) -> Result<bool, StorageError> {
    match store.head(&layout.cancelled()).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes the mark; none is no error.
///
/// # Errors
/// What the store gives.
pub async fn unmark(store: &dyn Storage, layout: &OutputLayout) -> Result<(), StorageError> {
    store.delete(&layout.cancelled()).await
}
