//! The job that everything here is about: its spec, its stores, its place.
//!
//! Made anew for each run, with a lane of its own, so that runs on the same servers do not meet. Its model is the
//! bundle of the worker's tests, which describes the fake model; nothing is loaded from it.

use crate::synthetic::{Shape, Synthetic};
use anyhow::Result;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use trawl_common::{
    chance,
    config::unix_ms,
    job::{Decode, JOB_SPEC_VERSION, JobSpec, ModelRef, Orient, Precision, Truncated, hex_sha256},
    model_file::ModelFile,
    storage::{Stores, counted::Counted, retry::RetryingStorage},
};

/// The bucket of the images.
const SOURCE: &str = "scale-photos";

/// The bundle that describes the fake model.
const BUNDLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../worker/tests/golden/model.pt");

/// What a bucket of made-up images looks like.
#[derive(Debug, clap::Args)]
pub struct Source {
    /// How the keys look
    #[arg(long, value_enum, default_value_t = Shape::Numbers)]
    pub shape: Shape,
    /// Keys in a page of the listing
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub page: u32,
    /// Milliseconds that each page takes
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub latency_ms: u64,
}

impl Source {
    /// Stores in which the source has so many keys and any other bucket is in memory.
    pub fn stores(&self, keys: u64) -> Arc<Stores> {
        let latency = Duration::from_millis(self.latency_ms);
        let bucket = Synthetic::new(&format!("s3://{SOURCE}"), self.shape, keys, self.page as usize, latency);
        let stores = Stores::in_memory();
        // As a bucket of S3 is asked: with retries, and in many places at once.
        stores.replace(SOURCE, Arc::new(RetryingStorage::new(Counted::new(bucket))));
        stores
    }
}

/// The model that all jobs name.
///
/// # Errors
/// If the repository that this was built in has gone.
pub fn model() -> Result<ModelFile> {
    Ok(ModelFile { path: PathBuf::from(BUNDLE), sha256: hex_sha256(&std::fs::read(BUNDLE)?) })
}

/// A job with a name and a lane of its own, with its results at `out`.
///
/// # Errors
/// As [`model`].
pub fn spec(out: &str, batch_size: u32) -> Result<JobSpec> {
    let name = format!("scale-{:016x}", chance::number());
    Ok(JobSpec {
        version: JOB_SPEC_VERSION,
        job: name.parse()?,
        queue: name.parse()?,
        sources: vec![format!("s3://{SOURCE}/photos/")],
        base_dir: "/".into(),
        include: vec![],
        exclude: vec![],
        select: Default::default(),
        carry: Vec::new(),
        limit: None,
        batch_size,
        out: out.to_owned(),
        model: ModelRef { location: BUNDLE.into(), sha256: model()?.sha256 },
        topk: 1,
        decode: Decode::Exact,
        truncated: Truncated::Reject,
        orient: Orient::None,
        precision: Precision::Fp32,
        created_unix_ms: unix_ms(),
        trace: None,
    })
}

/// A folder that is made if it is not there, as a job names it.
///
/// # Errors
/// If it cannot be made.
pub fn folder(path: &Path) -> Result<String> {
    std::fs::create_dir_all(path)?;
    Ok(path.canonicalize()?.to_string_lossy().into_owned())
}
