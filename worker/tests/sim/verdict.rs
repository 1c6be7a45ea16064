//! What must hold when a simulated job has ended, whatever befell it.
//!
//! Rows by image key in Jepsen's sets: lost, duplicated, unexpected, recovered. Then the marks, the manifest, the
//! ledger, the dead letters, and how much was done in vain.

use crate::fleet::Fleet;
use futures::StreamExt;
use std::collections::BTreeMap;
use trawl_common::{
    batch::BatchNumber,
    ledger::{JobState, Ledger, LedgerError, Progress},
    planning::rebuild::rebuild,
    results::{Manifest, part_rows::read_rows, row::ResultRow},
};

/// Adds to the fleet's violations.
pub async fn judge(fleet: &Fleet, ended: bool) {
    if !ended {
        fleet.violated("the job did not end".to_owned());
    }
    let rows = rows(fleet).await;
    check_rows(fleet, &rows);
    check_waste(fleet);
    check_dead_letters(fleet);
    if ended {
        check_manifest(fleet, &rows).await;
        check_ledger(fleet, &rows).await;
    }
}

fn batches(fleet: &Fleet) -> usize {
    fleet.photos.len().div_ceil(fleet.scenario.batch_size as usize)
}

/// The rows of every part, by the part's key; what else is in the output must have a known name.
async fn rows(fleet: &Fleet) -> BTreeMap<String, Vec<ResultRow>> {
    let (layout, mut parts) = (fleet.layout(), BTreeMap::new());
    let mut pages = fleet.bucket.list("out/", None);
    while let Some(page) = pages.next().await {
        for object in page.expect("memory lists").objects {
            let batch = layout.batch_of_part(&object.key);
            let ours = object.key.starts_with("out/_trawl/") || object.key == layout.success();
            match batch {
                Some(BatchNumber(n)) if n < batches(fleet) as u64 => {
                    let bytes = fleet.bucket.get(&object.key, u64::MAX).await.expect("it is listed").bytes;
                    parts.insert(object.key, read_rows(bytes).expect("a whole part"));
                }
                _ if ours => {}
                _ => fleet.violated(format!("unexpected object {}", object.key)),
            }
        }
    }
    parts
}

fn check_rows(fleet: &Fleet, parts: &BTreeMap<String, Vec<ResultRow>>) {
    let mut by_key: BTreeMap<&str, Vec<&ResultRow>> = BTreeMap::new();
    for row in parts.values().flatten() {
        by_key.entry(&row.key).or_default().push(row);
    }
    for (number, (key, photo)) in fleet.photos.iter().enumerate() {
        let killer = fleet.scenario.killer == Some(number);
        match by_key.remove(key.as_str()).as_deref() {
            None => fleet.violated(format!("lost: {key}")),
            Some([row]) if photo.is_answered_by(row, key, killer) => {}
            Some([row]) => fleet.violated(format!("unexpected row: {row:?}")),
            Some(rows) => fleet.violated(format!("duplicated: {key} has {} rows", rows.len())),
        }
    }
    for key in by_key.keys() {
        fleet.violated(format!("unexpected: nobody planned {key}"));
    }
}

/// No image may be computed more often than what befell the fleet explains.
fn check_waste(fleet: &Fleet) {
    let faults: u64 = fleet.world.chronicle.faults().values().sum();
    let most = 1 + u64::from(fleet.scenario.prefetch) * faults;
    for (pixels, times) in &*fleet.computed.lock().expect("no panic while they are held") {
        if *times > most {
            fleet
                .violated(format!("the image with pixels {pixels:x} was computed {times} times, not {most}"));
        }
    }
}

fn check_dead_letters(fleet: &Fleet) {
    let dead = fleet.broker.dead_letters();
    let (junk, others): (Vec<_>, Vec<_>) = dead.iter().partition(|letter| letter.body == "junk");
    if junk.len() < fleet.scenario.junk {
        fleet.violated(format!("{} of {} junk messages are dead", junk.len(), fleet.scenario.junk));
    }
    for letter in others {
        fleet.violated(format!(
            "dead: {} (attempt {}, {} deliveries)",
            letter.reason, letter.attempt, letter.deliveries
        ));
    }
}

async fn check_manifest(fleet: &Fleet, parts: &BTreeMap<String, Vec<ResultRow>>) {
    let layout = fleet.layout();
    let json = fleet.bucket.get(&layout.manifest(), u64::MAX).await;
    let Some(manifest) = json.ok().and_then(|object| Manifest::parse(&object.bytes).ok()) else {
        return fleet.violated("there is no manifest".to_owned());
    };
    let named: Vec<String> = manifest.parts.iter().map(|part| format!("out/{}", part.name)).collect();
    if !named.iter().eq(parts.keys()) || named.len() != batches(fleet) {
        fleet.violated(format!("the manifest names {named:?}"));
    }
    if manifest.rows != fleet.photos.len() as u64 {
        fleet.violated(format!("the manifest has {} rows", manifest.rows));
    }
}

async fn check_ledger(fleet: &Fleet, parts: &BTreeMap<String, Vec<ResultRow>>) {
    let progress = match settled_progress(fleet).await {
        Ok(Some(progress)) => progress,
        other => return fleet.violated(format!("the ledger says {other:?}")),
    };
    let failed = parts.values().flatten().filter(|row| row.outcome.is_failed()).count() as u64;
    let images = fleet.photos.len() as u64;
    let found = (progress.state, progress.images_ok, progress.images_failed, progress.batches_done);
    let wanted = (JobState::Complete, images - failed, failed, batches(fleet) as u64);
    if found != wanted {
        fleet.violated(format!("the ledger has {found:?}, not {wanted:?}"));
    }
    let by_code: u64 = progress.errors.values().sum();
    if by_code != failed || progress.batches_planned != progress.batches_done {
        fleet.violated(format!("the ledger contradicts itself: {progress:?}"));
    }
}

/// The ledger's word; one that was wiped after the end is rebuilt, as `trawl status OUT` and `repair` do.
async fn settled_progress(fleet: &Fleet) -> Result<Option<Progress>, LedgerError> {
    if fleet.ledger.progress(&fleet.spec.job).await?.is_none() {
        let rebuilt = rebuild(&fleet.spec, &fleet.layout(), &fleet.bucket, &*fleet.ledger).await;
        if let Err(error) = rebuilt {
            fleet.violated(format!("the ledger cannot be rebuilt: {error}"));
        }
    }
    fleet.ledger.progress(&fleet.spec.job).await
}
