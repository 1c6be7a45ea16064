//! The dry run: lists everything that a job would take and writes nothing.
//!
//! For `trawl submit --dry-run`; asks neither the broker nor the ledger.

use super::{
    PlanError,
    cut::Cutter,
    enumerate::{Enumeration, Scope},
    filter::extension,
};
use crate::{job::JobSpec, results::Cursor, storage::Stores};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};

/// Keys shown of a dry run.
const FIRST_KEYS: usize = 10;

/// The most extensions told apart; the others count as `other`.
const MAX_EXTENSIONS: usize = 64;

/// What a job would take.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct DryRun {
    /// Images.
    pub images: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Batches they make.
    pub batches: u64,
    /// Images by lower-case extension; `none` for names without one.
    pub by_extension: BTreeMap<String, u64>,
    /// Objects left out by the filters.
    pub skipped: u64,
    /// Entries whose names cannot be used: not text, or nothing the store's client can ask for.
    pub unlistable: u64,
    /// The first keys, in the plan's order.
    pub first_keys: Vec<String>,
}

/// Lists the sources of a job to their end.
///
/// # Errors
/// [`PlanError::SourceMissing`], [`PlanError::NoImages`], or what a store says.
pub async fn dry_run(spec: &JobSpec, stores: &Arc<Stores>) -> Result<DryRun, PlanError> {
    let scope = Scope::of(spec).await?;
    scope.check_sources(stores).await?;
    let (mut run, mut end) = (DryRun::default(), Cursor::default());
    let mut cutter = Cutter::new(spec.batch_size, 0);
    let mut pages = Enumeration::start(scope, stores.clone(), Cursor::default());
    while let Some(page) = pages.next().await? {
        (run.skipped, run.unlistable) = (page.cursor.skipped, page.cursor.unlistable);
        end = page.cursor.clone();
        for found in &page.found {
            run.images += 1;
            run.bytes += found.image.size;
            let name = extension(&found.image.key).unwrap_or_else(|| "none".to_owned());
            let known = run.by_extension.len() < MAX_EXTENSIONS || run.by_extension.contains_key(&name);
            *run.by_extension.entry(if known { name } else { "other".to_owned() }).or_default() += 1;
            if run.first_keys.len() < FIRST_KEYS {
                run.first_keys.push(found.image.key.clone());
            }
        }
        cutter.push(page);
        while let Some(slice) = cutter.take_full(0) {
            run.batches += slice.batches.len() as u64;
        }
    }
    if run.images == 0 {
        return Err(PlanError::NoImages { sources: spec.sources.clone(), skipped: run.skipped });
    }
    run.batches += cutter.take_rest(&end).map_or(0, |slice| slice.batches.len() as u64);
    Ok(run)
}
