//! The flags of `trawl submit` that are not the job's own.
//!
//! What describes the job is shared with `trawl-worker run` and lies in `trawl_common::config`. Nothing is decided here.

use clap::{Args, value_parser};
use trawl_common::{
    config::JobArgs,
    planning::{Ready, sample::MAX_SAMPLE},
};

/// Flags of `trawl submit`.
#[derive(Debug, Args)]
pub struct SubmitArgs {
    /// The job.
    #[command(flatten)]
    pub job: JobArgs,

    /// Batches of the job that wait in the queue; the workers queue the rest as these are done, so that jobs share a
    /// lane. `all` queues every batch now
    #[arg(long, default_value = "auto", value_name = "auto|all|N")]
    pub ready: Ready,

    /// Say what would be enqueued, how large the images are and what is left out, and why; write and enqueue nothing
    #[arg(long, conflicts_with = "watch")]
    pub dry_run: bool,

    /// With --dry-run: run N images, taken from the whole listing, through the model with the trawl-worker of this
    /// machine, and estimate the hours of the whole job
    #[arg(long, requires = "dry_run", value_parser = value_parser!(u32).range(1..=MAX_SAMPLE as i64), value_name = "N")]
    pub sample: Option<u32>,

    /// Follow the job until it ends
    #[arg(long)]
    pub watch: bool,

    /// With --watch: exit with 3 if images failed
    #[arg(long, requires = "watch")]
    pub strict: bool,
}
