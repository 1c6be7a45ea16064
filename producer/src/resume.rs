//! `trawl resume`: takes a paused job up again.
//!
//! Queues what has no part, as the job's `submit` would; what that is and in which order is
//! `trawl_common::planning::hold`'s.

use crate::{
    connect::{self, Context},
    errors::Stop,
    follow, next, progress, report, target,
};
use serde::Serialize;
use std::io::Write;
use trawl_common::{
    config::{OutputFormat, exit},
    job::JobId,
    planning::hold,
};

#[derive(Serialize)]
struct Resumed<'a> {
    job: &'a JobId,
    batches: u64,
    images: u64,
    /// Batches without a part, which are queued now.
    published: u64,
}

/// Runs the command.
///
/// # Errors
/// Not found if the ledger does not know the job, failed if it is not paused, transient for services that are away.
pub async fn run(cx: &Context, job: &JobId, out: &mut dyn Write) -> Result<u8, Stop> {
    let (broker, ledger) = connect::both(&cx.services).await?;
    let mut shown = progress::Enlisting::new();
    let stop = &cx.shutdown.draining;
    let resumed =
        hold::resume(&cx.stores, &broker, &ledger, job, &mut |planned| shown.show(planned), stop).await;
    shown.end();
    let planned = match resumed {
        Ok(planned) => planned,
        Err(error) => {
            let stop = target::suggest(&ledger, job, error.into()).await;
            return Err(follow::with_signal(cx, stop));
        }
    };
    match cx.output {
        OutputFormat::Json => {
            let (batches, images, published) = (planned.batches, planned.images, planned.published);
            report::print_json(out, &Resumed { job, batches, images, published })?;
        }
        OutputFormat::Text => {
            eprintln!("{}", progress::enlisted(&planned));
            writeln!(out, "job {job} goes on")?;
            out.flush()?;
            next::say(cx.output, &[format!("`trawl watch {job}` follows it")]);
        }
    }
    Ok(exit::OK)
}
