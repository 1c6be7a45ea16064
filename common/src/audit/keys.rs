//! The rows of the parts against the keys of the plan, for `verify --deep`.
//!
//! Goes through the plan file by file, so that one file's keys and a few parts are in memory. Reads the columns
//! `key`, `status` and `error_code` alone.

use super::finding::{Finding, Kind};
use crate::{
    batch::{BatchNumber, ImageRef},
    bits::Bits,
    disposition::describe,
    planning::{PlanError, plan_log::read_batches},
    results::{
        OutputLayout, PartFooter,
        part_keys::{KeyedRow, read_keys},
    },
    storage::{ObjectMeta, Storage, StorageError},
};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::{BTreeMap, HashMap};

/// Parts held as a whole at a time: embeddings of a large batch have hundreds of megabytes.
const PARTS_AT_ONCE: usize = 4;

/// A larger part is not read: ten thousand rows of an embedding of 16,384 floats stay below it.
const MAX_PART_BYTES: u64 = 1 << 30;

/// Keys named in a finding; the count says how many there are.
const KEYS_NAMED: usize = 3;

/// Compares the rows of every part in `usable` with the `files` of the plan.
pub(super) async fn compare(
    store: &dyn Storage,
    layout: &OutputLayout,
    files: u32,
    usable: &Bits,
    found: &mut (dyn FnMut(Finding) + Send),
) -> Result<(), PlanError> {
    for index in 0..files {
        let batches = read_batches(store, layout, index).await?;
        let batches = batches.into_iter().filter(|(number, _)| usable.has(number.0));
        let look =
            |(number, images)| async move { of_part(store, layout.part(number), number, images).await };
        // Collected: a stream over a borrowing closure is not `Send` for every lifetime.
        let looks: Vec<_> = batches.map(look).collect();
        let mut looked = stream::iter(looks).buffered(PARTS_AT_ONCE);
        while let Some(findings) = looked.try_next().await? {
            findings.into_iter().for_each(&mut *found);
        }
    }
    Ok(())
}

async fn of_part(
    store: &dyn Storage,
    key: String,
    batch: BatchNumber,
    images: Vec<ImageRef>,
) -> Result<Vec<Finding>, StorageError> {
    let object = match store.get(&key, MAX_PART_BYTES).await {
        Ok(object) => object,
        // It was there a moment ago.
        Err(error) if error.is_not_found() => {
            return Ok(vec![
                Finding::of_object(Kind::Missing, key, "it was removed meanwhile").of_batch(batch),
            ]);
        }
        Err(error) => return Err(error),
    };
    let meta = ObjectMeta { key, size: object.size, etag: object.etag, modified: None };
    let bytes = object.bytes;
    let read = tokio::task::spawn_blocking(move || read_keys(bytes)).await;
    let read = read.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    let wrong = match read {
        Err(error) => vec![(Kind::Unreadable, describe(&error))],
        Ok((footer, rows)) => differences(&footer, &rows, &images),
    };
    let finding = |(kind, detail)| Finding {
        etag: meta.etag.clone(),
        ..Finding::of_object(kind, &meta.key, detail).of_batch(batch)
    };
    Ok(wrong.into_iter().map(finding).collect())
}

/// What the rows have other than the plan and the footer say.
fn differences(footer: &PartFooter, rows: &[KeyedRow], images: &[ImageRef]) -> Vec<(Kind, String)> {
    let mut wrong = Vec::new();
    if !rows.iter().map(|row| row.key.as_str()).eq(images.iter().map(|image| image.key.as_str())) {
        // A plan may have a key twice, when its sources overlap: keys are counted, not only looked up.
        let mut balance: BTreeMap<&str, (i64, bool)> = BTreeMap::new();
        for image in images {
            let entry = balance.entry(&image.key).or_default();
            *entry = (entry.0 - 1, true);
        }
        for row in rows {
            balance.entry(&row.key).or_default().0 += 1;
        }
        let pick = |wanted: fn(i64, bool) -> bool| -> Vec<&str> {
            balance.iter().filter(|(_, (n, planned))| wanted(*n, *planned)).map(|(key, _)| *key).collect()
        };
        for (kind, keys) in [
            (Kind::MissingKey, pick(|n, _| n < 0)),
            (Kind::DuplicateKey, pick(|n, planned| n > 0 && planned)),
            (Kind::UnexpectedKey, pick(|n, planned| n > 0 && !planned)),
        ] {
            if !keys.is_empty() {
                wrong.push((kind, named(&keys)));
            }
        }
        if wrong.is_empty() {
            let at = rows.iter().zip(images).position(|(row, image)| row.key != image.key).unwrap_or(0);
            wrong.push((Kind::WrongOrder, format!("from row {at} on")));
        }
    }
    let mut errors: HashMap<&str, u64> = HashMap::new();
    for code in rows.iter().filter_map(|row| row.failed_with.as_deref()) {
        *errors.entry(code).or_default() += 1;
    }
    let said: HashMap<&str, u64> =
        footer.errors.iter().filter(|(_, n)| **n > 0).map(|(code, n)| (code.as_str(), *n)).collect();
    if errors != said {
        let (counted, failed) = (footer.failures, errors.values().sum::<u64>());
        wrong.push((
            Kind::WrongCounts,
            format!("it counts {counted} failed rows, there are {failed}, or other codes"),
        ));
    }
    wrong
}

fn named(keys: &[&str]) -> String {
    let first: Vec<String> = keys.iter().take(KEYS_NAMED).map(|key| format!("`{key}`")).collect();
    let more = keys.len().saturating_sub(KEYS_NAMED);
    match more {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}
