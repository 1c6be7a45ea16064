//! `trawl submit --dry-run`: says what a job would take, and with `--sample` how long it would be.
//!
//! Lists everything, and asks neither RabbitMQ nor Redis. It must never write: not to the output, not to a queue, and a
//! sample goes through a pipe.

use super::{
    estimate::{self, Estimate, Sampling},
    interrupted,
};
use crate::{cli::SubmitArgs, connect::Context, errors::Stop, report, run, text};
use serde::Serialize;
use std::io::Write;
use trawl_common::{
    config::{OutputFormat, exit},
    job::JobSpec,
    model_file::ModelFile,
    planning::{DryRun, sampled},
};

/// Keys of a dry run are shown below this title.
const FIRST_KEYS: &str = "first keys";

/// Runs the command.
///
/// # Errors
/// As a submission, and what the sample's run says.
pub async fn run(
    cx: &Context,
    args: &SubmitArgs,
    spec: &JobSpec,
    model: &ModelFile,
    out: &mut dyn Write,
) -> Result<u8, Stop> {
    let size = args.sample.map_or(0, |n| n as usize);
    // Known before the listing, which may take an hour.
    let worker = match size {
        0 => None,
        _ => Some(run::find_worker().ok_or_else(estimate::no_worker)?),
    };
    let working = async {
        let (found, images) = sampled(spec, &cx.stores, size).await?;
        let Some(worker) = worker else { return Ok((found, None)) };
        if cx.output == OutputFormat::Text {
            eprintln!(
                "running {} through the model ...",
                text::counted(images.len() as u64, "image", "images")
            );
        }
        let private = cx.stores.allows_private_addresses();
        let sampling = Sampling { worker: &worker, model: &model.path, private_addresses: private };
        let measured = sampling.measure(spec, images).await?;
        let estimate = Estimate::of(measured, found.images)?;
        Ok::<_, Stop>((found, Some(estimate)))
    };
    let (found, estimate) = tokio::select! {
        biased;
        () = cx.shutdown.draining.cancelled() => return Err(interrupted(cx)),
        done = working => done?,
    };
    print(spec, &found, estimate.as_ref(), cx.output, out)?;
    Ok(exit::OK)
}

/// What `submit --dry-run --output json` prints.
#[derive(Serialize)]
struct Document<'a> {
    job: &'a str,
    out: &'a str,
    #[serde(flatten)]
    found: &'a DryRun,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<&'a Estimate>,
}

/// What a dry run found.
pub(super) fn print(
    spec: &JobSpec,
    found: &DryRun,
    estimate: Option<&Estimate>,
    output: OutputFormat,
    out: &mut dyn Write,
) -> Result<(), Stop> {
    if output == OutputFormat::Json {
        let document = Document { job: spec.job.as_str(), out: &spec.out, found, estimate };
        return Ok(report::print_json(out, &document)?);
    }
    writeln!(out, "job         {} (nothing was written or enqueued)", spec.job)?;
    writeln!(out, "out         {}", text::printable(&spec.out))?;
    writeln!(
        out,
        "images      {} with {} bytes in {}",
        text::count(found.images),
        text::count(found.bytes),
        text::counted(found.batches, "batch", "batches")
    )?;
    print_sizes(found, out)?;
    let extensions: Vec<String> = found
        .by_extension
        .iter()
        .map(|(name, n)| format!("{} {}", text::printable(name), text::count(*n)))
        .collect();
    writeln!(out, "extensions  {}", extensions.join(", "))?;
    writeln!(out, "left out    {}", left_out(found))?;
    if found.unlistable > 0 {
        writeln!(out, "            {} with names that cannot be used", text::count(found.unlistable))?;
    }
    for (i, key) in found.first_keys.iter().enumerate() {
        let title = if i == 0 { FIRST_KEYS } else { "" };
        writeln!(out, "{title:<11} {}", text::printable(key))?;
    }
    if let Some(estimate) = estimate {
        estimate.print(out)?;
    }
    Ok(())
}

fn print_sizes(found: &DryRun, out: &mut dyn Write) -> Result<(), Stop> {
    let mut lines = found.size_histogram.lines();
    if found.size_unknown > 0 {
        lines.push(format!("empty or unknown  {}", text::count(found.size_unknown)));
    }
    if let Some(mean) = found.mean_bytes {
        let (mean, all) = (text::bytes(mean), text::bytes(found.bytes));
        lines.insert(0, format!("{mean} on average, {all} in all"));
    }
    for (i, line) in lines.iter().enumerate() {
        writeln!(out, "{:<11} {line}", if i == 0 { "sizes" } else { "" })?;
    }
    Ok(())
}

/// `5 objects: 3 without an image's extension, 2 matched by --exclude`.
fn left_out(found: &DryRun) -> String {
    let all = text::counted(found.skipped, "object", "objects");
    let reasons: Vec<String> = found
        .skipped_by
        .there()
        .map(|(reason, objects)| format!("{} {}", text::count(objects), reason.text()))
        .collect();
    if reasons.is_empty() { all } else { format!("{all}: {}", reasons.join(", ")) }
}
