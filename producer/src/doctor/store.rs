//! Whether a store keeps what a job rests on, one promise a line.
//!
//! Writes scratch objects of a few bytes below `_trawl-doctor/` of the place it was told to check, and removes them,
//! whatever else fails. What cannot be tried because an earlier check failed is said to be so.

use super::{Check, bounded};
use crate::errors::Stop;
use bytes::Bytes;
use futures::TryStreamExt;
use std::{path::Path, time::Instant};
use trawl_common::{
    config::unix_ms,
    location::Location,
    storage::{
        Storage, StorageError, Stores,
        probe::{ConditionalPut, probe},
    },
};

/// What is written, and of it what a range takes.
const BODY: &[u8] = b"trawl doctor: sixteen bytes follow: 0123456789abcdef";
const PART: (u64, u64) = (36, 10);

/// The scratch objects are a few bytes.
const MAX_SCRATCH_BYTES: u64 = 4096;

/// The checks, in their order.
const CHECKS: [&str; 6] = ["put", "get", "range", "list", "create-only", "delete"];

/// Runs the checks and hands each to `found` as it ends.
///
/// # Errors
/// Those of `found`.
pub(super) async fn check(
    stores: &Stores,
    place: &Location,
    found: &mut dyn FnMut(Check) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let scratch = place.join(&format!("_trawl-doctor/{:x}-{:x}", unix_ms(), std::process::id()));
    let store = stores.open(place).await;
    let mut written = true;
    for name in CHECKS {
        if !written {
            let reason = format!("not tried: without `{}` there is nothing to try it on", CHECKS[0]);
            found(Check::new(name, Err(Stop::failed(reason))))?;
            continue;
        }
        let began = Instant::now();
        let outcome = bounded(one(name, &*store, &scratch)).await;
        written = name != CHECKS[0] || outcome.is_ok();
        let outcome = outcome.map(|said| format!("{place}: {said} ({} ms)", began.elapsed().as_millis()));
        found(Check::new(name, outcome))?;
    }
    // What could not be written cannot be removed; the check's own error says more.
    let _ = bounded(async { Ok(store.delete(&key(&scratch)).await.map(|()| String::new())?) }).await;
    if scratch.is_local() {
        remove_empty_folders(scratch.to_string()).await;
    }
    Ok(())
}

fn key(scratch: &Location) -> String {
    format!("{}/plain", scratch.key())
}

async fn one(name: &str, store: &dyn Storage, scratch: &Location) -> Result<String, Stop> {
    let key = key(scratch);
    match name {
        "put" => {
            store.put(&key, Bytes::from_static(BODY)).await.map_err(remedied)?;
            Ok("objects can be written".to_owned())
        }
        "get" => {
            let object = store.get(&key, MAX_SCRATCH_BYTES).await.map_err(remedied)?;
            let head = store.head(&key).await.map_err(remedied)?;
            if object.bytes != BODY || head.size != BODY.len() as u64 {
                return Err(Stop::failed(format!("`{key}` reads back other than it was written")));
            }
            if object.etag.is_none() || object.etag != head.etag {
                return Err(Stop::failed(
                    "objects have no tag, or not the same one twice: an image that is replaced during a job goes \
                     unnoticed",
                ));
            }
            Ok("what is written is read back, with its size and tag".to_owned())
        }
        "range" => {
            let (offset, length) = PART;
            let part = store.get_range(&key, offset, length).await.map_err(remedied)?;
            let end = store.get_suffix(&key, length).await.map_err(remedied)?;
            if part.bytes != b"0123456789"[..] || end.bytes != b"6789abcdef"[..] {
                return Err(Stop::failed(
                    "a part of an object is not the part that was asked for: archives and Parquet cannot be read here",
                ));
            }
            Ok("parts and ends of objects can be read".to_owned())
        }
        "list" => {
            let mut listed = Vec::new();
            let mut pages = store.list(&format!("{}/", scratch.key()), None);
            while let Some(page) = pages.try_next().await.map_err(remedied)? {
                listed.extend(page.objects.into_iter().map(|object| object.key));
            }
            if listed != [key] {
                let count = listed.len();
                return Err(Stop::failed(format!("a listing gives {count} objects where 1 was written")));
            }
            Ok("a listing shows what was written".to_owned())
        }
        "create-only" => create_only(store, scratch).await,
        "delete" => {
            store.delete(&key).await.map_err(remedied)?;
            match store.head(&key).await {
                Err(StorageError::NotFound { .. }) => Ok("objects can be removed".to_owned()),
                Err(error) => Err(remedied(error)),
                Ok(_) => Err(Stop::failed("a deleted object is still there")),
            }
        }
        other => Err(Stop::failed(format!("there is no check `{other}`"))),
    }
}

/// Whether the store's create-only write is one: workers ask the same before their first commit.
async fn create_only(store: &dyn Storage, scratch: &Location) -> Result<String, Stop> {
    match probe(store, |round| format!("{}/race-{round}", scratch.key())).await.map_err(remedied)? {
        ConditionalPut::Real => Ok("of six who create one object at once, one wins".to_owned()),
        ConditionalPut::Unreliable { reason } => Err(Stop::failed(format!(
            "{reason}; workers look before they put instead: there is one part a batch, but of two workers at the same \
             batch the later one's may stand"
        ))),
    }
}

/// The error with what to do about it, where its own words do not say it.
fn remedied(error: StorageError) -> Stop {
    let step = match &error {
        StorageError::NotFound { .. } => Some("what was written a moment ago is not there"),
        _ => None,
    };
    let mut stop = Stop::from(error);
    // A check shows no hint of a service that is away.
    let hint = step.map(str::to_owned).or_else(|| stop.hint.take());
    if let Some(hint) = hint {
        stop.message = format!("{} ({hint})", stop.message);
        stop.hint = None;
    }
    stop
}

/// A bucket has no folders; on a disk they would stay. Folders that hold something are left alone.
async fn remove_empty_folders(scratch: String) {
    let removed = tokio::task::spawn_blocking(move || {
        let scratch = Path::new(&scratch);
        let _ = std::fs::remove_dir(scratch);
        if let Some(parent) = scratch.parent() {
            let _ = std::fs::remove_dir(parent);
        }
    });
    let _ = removed.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn checked(stores: &Stores, place: &str) -> Vec<Check> {
        let place = Location::parse(place, Path::new("/")).unwrap();
        let mut checks = Vec::new();
        let mut keep = |check| {
            checks.push(check);
            Ok(())
        };
        check(stores, &place, &mut keep).await.unwrap();
        checks
    }

    #[tokio::test]
    async fn a_good_store_passes_and_nothing_is_left_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let stores = Stores::in_memory();
        for place in [dir.path().to_str().unwrap(), "s3://bucket/labels", "gs://bucket", "az://c/x"] {
            let checks = checked(&stores, place).await;
            assert_eq!(checks.iter().map(|check| check.check).collect::<Vec<_>>(), CHECKS);
            assert!(checks.iter().all(|check| check.ok), "{checks:?}");
            let place = Location::parse(place, Path::new("/")).unwrap();
            let left: Vec<_> = stores.open(&place).await.list(place.key(), None).try_collect().await.unwrap();
            assert!(left.iter().all(|page| page.objects.is_empty()), "{left:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_said_once_and_the_rest_is_not_tried() {
        let checks = checked(&Stores::new(), "https://example.com/photos").await;
        assert_eq!(checks.len(), CHECKS.len());
        assert!(checks.iter().all(|check| !check.ok));
        assert!(checks[0].detail.contains("can only be read"), "{:?}", checks[0]);
        assert!(checks[1..].iter().all(|check| check.detail.contains("not tried")), "{checks:?}");
    }
}
