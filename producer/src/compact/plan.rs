//! The plan of the new output: the images of the old one in their order, a plan file for each new batch.
//!
//! Read from the plan and not from the rows, which know other tags where an image has changed since it was listed.

use super::{Group, Place};
use crate::errors::Stop;
use trawl_common::{
    batch::{BatchNumber, ImageRef},
    disposition::describe,
    planning::PlanShape,
    results::{
        Cursor, PlanDone,
        plan_file::{encode_plan_file, read_plan_file},
    },
};

/// A plan file of more bytes is none of ours.
const MAX_PLAN_FILE_BYTES: u64 = 1 << 30;

/// Writes the plan files and, last, the plan's end. Done again, it writes the same.
///
/// # Errors
/// Failed if the old plan is not whole, or what a store gives.
pub(super) async fn write(source: Place<'_>, target: Place<'_>, groups: &[Group]) -> Result<(), Stop> {
    let broken = |what: String| Stop::failed(format!("the plan of {} {what}", source.layout.root()));
    let shape = PlanShape::read(source.store, source.layout).await?;
    let last = groups.last().map_or(0, |group| group.parts.end);
    if !shape.is_done() || shape.batches() != last {
        return Err(broken(format!(
            "has {} batches, its manifest {last}: run `trawl verify`",
            shape.batches()
        )));
    }
    let (mut batches, mut files) = (Vec::new().into_iter(), 0..shape.files());
    let mut written = Cursor::default();
    for (number, group) in (0..).map(BatchNumber).zip(groups) {
        let mut images: Vec<ImageRef> = Vec::new();
        for batch in group.parts.clone() {
            let next = loop {
                match batches.next() {
                    Some(next) => break next,
                    None => {
                        let Some(file) = files.next() else {
                            return Err(broken(format!("ends before batch {batch}")));
                        };
                        let key = source.layout.plan_file(file);
                        let bytes = source.store.get(&key, MAX_PLAN_FILE_BYTES).await?.bytes;
                        let read = super::blocking(move || read_plan_file(bytes)).await;
                        let read = read.map_err(|e| broken(format!("is not readable: {}", describe(&e))))?;
                        batches = read.into_iter();
                    }
                }
            };
            let (found, of_batch): (BatchNumber, Vec<ImageRef>) = next;
            if found.0 != batch {
                return Err(broken(format!("has batch {found} where {batch} should be")));
            }
            images.extend(of_batch);
        }
        if images.len() as u64 != group.rows {
            return Err(broken(format!("has {} images for {} rows", images.len(), group.rows)));
        }
        written.images += group.rows;
        let (index, cursor) = (u32::try_from(number.0).unwrap_or(u32::MAX), written.clone());
        let encoded = super::blocking(move || encode_plan_file(number, &[images], &cursor)).await;
        let encoded = encoded.map_err(|error| Stop::failed(describe(&error)))?;
        target.store.put(&target.layout.plan_file(index), encoded).await?;
    }
    let done = PlanDone { batches: groups.len() as u64, images: written.images, skipped: 0, unlistable: 0 };
    Ok(target.store.put(&target.layout.plan_done(), done.to_json()).await?)
}
