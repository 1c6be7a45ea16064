//! A job's standing as its output has it, in the words of this command's errors.
//!
//! The reading is [`trawl_common::standing`]'s, which the monitor shares.

use crate::errors::Stop;
use futures::{Stream, TryStreamExt};
use std::sync::Arc;
pub use trawl_common::standing::FOOTERS_AT_ONCE;
use trawl_common::{
    job::JobSpec,
    ledger::Progress,
    location::Location,
    results::OutputLayout,
    standing,
    storage::{Storage, Stores},
};

/// The standing of the job whose output is at `out`, with its spec. Rate and estimate are left empty: files
/// have no clock.
///
/// # Errors
/// Not found if the place is no output, or what the store gives.
pub async fn progress(stores: &Arc<Stores>, out: &Location) -> Result<(JobSpec, Progress), Stop> {
    let standing = standing::standing(stores, out).await?;
    Ok((standing.spec, standing.progress))
}

/// The keys of an output's parts, in the order of the batches.
pub fn part_keys<'a>(
    store: &'a dyn Storage,
    layout: &'a OutputLayout,
) -> impl Stream<Item = Result<String, Stop>> + 'a {
    standing::part_keys(store, layout).map_err(Stop::from)
}
