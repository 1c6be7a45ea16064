//! Looks for outputs below the places that `--outputs` names, for jobs that were there before this process.
//!
//! A listing has no folders, so the first key below each child is asked for and the rest of the child skipped: a
//! request a child, however many parts it has. Bounded, in the background, and only what Redis does not know is read.

use super::tell;
use crate::{Monitor, seams::within, watch::job::Source};
use futures::TryStreamExt;
use std::{sync::Arc, time::Duration};
use trawl_common::{
    location::Location,
    standing::{self, StandingError},
    storage::{Storage, StorageError},
};

/// Between two looks: new jobs come from Redis, this is for the others.
const LOOK_EVERY: Duration = Duration::from_secs(300);

/// Children looked at below one place.
const MAX_CHILDREN: usize = 1000;

/// For one request, and for the standing of one output.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Looks below every place until the monitor stops.
pub async fn run(monitor: Arc<Monitor>) {
    let looking = async {
        loop {
            for place in &monitor.below {
                look_below(&monitor, place).await;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        () = monitor.stop.cancelled() => {}
        () = looking => {}
    }
}

/// Looks below one place.
pub async fn look_below(monitor: &Monitor, place: &Location) {
    let store = monitor.seams.stores.open(place).await;
    let children = match within(TIMEOUT, children(&*store, place)).await {
        Ok(children) => children,
        Err(reason) => {
            tracing::warn!(outputs = %place, reason, "the outputs could not be listed; will look again");
            return;
        }
    };
    for child in children {
        match within(TIMEOUT, look_at(monitor, &child)).await {
            Ok(()) => {}
            Err(reason) => tracing::debug!(out = %child, reason, "an output could not be read"),
        }
    }
}

async fn look_at(monitor: &Monitor, out: &Location) -> Result<(), StandingError> {
    let spec = match standing::spec(&monitor.seams.stores, out).await {
        Ok(spec) => spec,
        // Somebody else's folder.
        Err(StandingError::NoOutput { .. }) => return Ok(()),
        Err(error) => return Err(error),
    };
    let known = monitor.known.job(&spec.job);
    // What the ledger knows is newer, and what was read once is read again when it is due.
    if known.is_some_and(|job| {
        job.source == Source::Redis || job.progress.created_unix_ms == spec.created_unix_ms
    }) {
        return Ok(());
    }
    let standing = standing::standing(&monitor.seams.stores, out).await?;
    tell(monitor, standing);
    Ok(())
}

/// The places directly below `place` that have something in them.
async fn children(store: &dyn Storage, place: &Location) -> Result<Vec<Location>, StorageError> {
    let prefix = match place.key().trim_end_matches('/') {
        "" => String::new(),
        key => format!("{key}/"),
    };
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    while found.len() < MAX_CHILDREN {
        let first = first_key(store, &prefix, after.as_deref()).await?;
        let Some(rest) = first.as_deref().and_then(|key| key.strip_prefix(&prefix)) else { break };
        after = match rest.split_once('/') {
            Some((child, _)) => {
                found.push(place.with_key(format!("{prefix}{child}")));
                // `0` is the byte after `/`: the first key that is not below the child. A listing begins after it, so
                // that a file of just this name is missed, which is no output.
                Some(format!("{prefix}{child}0"))
            }
            None => first,
        };
    }
    Ok(found)
}

async fn first_key(
    store: &dyn Storage,
    prefix: &str,
    after: Option<&str>,
) -> Result<Option<String>, StorageError> {
    let mut pages = store.list(prefix, after);
    while let Some(page) = pages.try_next().await? {
        if let Some(object) = page.objects.into_iter().next() {
            return Ok(Some(object.key));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use trawl_common::storage::Stores;

    #[tokio::test]
    async fn each_child_is_found_once() {
        let stores = Stores::in_memory();
        let place = Location::parse("s3://b/labels/", Path::new("/")).unwrap();
        let store = stores.open(&place).await;
        for key in [
            "labels/a/_trawl/job.json",
            "labels/a/part-00000000.parquet",
            "labels/a-b/x",
            "labels/a0/y",
            "labels/file",
            "labels/z/deep/er/x",
            "labelsx/no/x",
            "zzz",
        ] {
            store.put(key, "x".into()).await.unwrap();
        }
        let found: Vec<String> =
            children(&*store, &place).await.unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(found, ["s3://b/labels/a-b", "s3://b/labels/a", "s3://b/labels/a0", "s3://b/labels/z"]);
    }
}
