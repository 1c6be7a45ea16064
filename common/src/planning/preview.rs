//! The dry run: lists everything that a job would take and writes nothing.
//!
//! For `trawl submit --dry-run`; asks neither the broker nor the ledger. Costs the same memory for any number of images.

use super::{
    PlanError,
    cut::Cutter,
    enumerate::{Enumeration, Scope},
    filter::extension,
    left_out::LeftOut,
    reservoir::Reservoir,
    sizes::SizeHistogram,
};
use crate::{batch::ImageRef, job::JobSpec, results::Cursor, storage::Stores};
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
    /// Their bytes, as far as they are known.
    pub bytes: u64,
    /// Bytes of an image whose size is known; none if no size is.
    pub mean_bytes: Option<u64>,
    /// Images by size, without those of [`Self::size_unknown`].
    pub size_histogram: SizeHistogram,
    /// Images that are empty, or of which nobody knows the size, as in a list of names.
    pub size_unknown: u64,
    /// Batches they make.
    pub batches: u64,
    /// Images by lower-case extension; `none` for names without one.
    pub by_extension: BTreeMap<String, u64>,
    /// Objects left out by the filters.
    pub skipped: u64,
    /// The same by reason.
    pub skipped_by: LeftOut,
    /// Entries whose names cannot be used: not text, or nothing the store's client can ask for.
    pub unlistable: u64,
    /// The first keys, in the plan's order.
    pub first_keys: Vec<String>,
}

impl DryRun {
    fn add(&mut self, image: &ImageRef) {
        self.images += 1;
        self.bytes += image.size;
        match image.size {
            0 => self.size_unknown += 1,
            size => self.size_histogram.add(size),
        }
        let name = extension(&image.key).unwrap_or_else(|| "none".to_owned());
        let known = self.by_extension.len() < MAX_EXTENSIONS || self.by_extension.contains_key(&name);
        *self.by_extension.entry(if known { name } else { "other".to_owned() }).or_default() += 1;
        if self.first_keys.len() < FIRST_KEYS {
            self.first_keys.push(image.key.clone());
        }
    }
}

/// Lists the sources of a job to their end.
///
/// # Errors
/// [`PlanError::SourceMissing`], [`PlanError::NoImages`], or what a store says.
pub async fn dry_run(spec: &JobSpec, stores: &Arc<Stores>) -> Result<DryRun, PlanError> {
    Ok(sampled(spec, stores, 0).await?.0)
}

/// The same, and up to `sample` of the images, each with the same chance, in the plan's order. The same listing for the
/// same job gives the same images. Cancel safe.
///
/// # Errors
/// As [`dry_run`].
pub async fn sampled(
    spec: &JobSpec,
    stores: &Arc<Stores>,
    sample: usize,
) -> Result<(DryRun, Vec<ImageRef>), PlanError> {
    let scope = Scope::of(spec).await?;
    scope.check_sources(stores).await?;
    let (mut run, mut end) = (DryRun::default(), Cursor::default());
    let mut chosen = Reservoir::new(sample, spec.job.as_str());
    let mut cutter = Cutter::new(spec.batch_size, 0);
    let mut pages = Enumeration::start(scope, stores.clone(), Cursor::default());
    while let Some(page) = pages.next().await? {
        (run.skipped, run.unlistable) = (page.cursor.skipped, page.cursor.unlistable);
        run.skipped_by = page.left_out;
        end = page.cursor.clone();
        for found in &page.found {
            run.add(&found.image);
            chosen.offer(|| found.image.clone());
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
    run.mean_bytes = run.bytes.checked_div(run.images - run.size_unknown);
    Ok((run, chosen.into_sample()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planning::{
        left_out::Reason,
        tests::{put, spec},
    };

    async fn bucket(images: usize) -> Arc<Stores> {
        let stores = Stores::in_memory();
        for n in 0..images {
            put(&stores, &format!("s3://b/p/{n:06}.jpg")).await;
        }
        put(&stores, "s3://b/p/notes.txt").await;
        stores
    }

    #[tokio::test]
    async fn sizes_and_reasons_are_of_the_whole_listing() {
        let run = dry_run(&spec(&["s3://b/p"]), &bucket(1500).await).await.unwrap();
        assert_eq!((run.images, run.mean_bytes, run.size_unknown), (1500, Some(1), 0));
        assert_eq!(run.size_histogram.buckets().next().map(|bucket| bucket.images), Some(1500));
        assert_eq!((run.skipped, run.skipped_by.of(Reason::NotAnImage)), (1, 1));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_size_that_nobody_knows_is_in_no_bucket_and_no_mean() {
        let stores = Stores::in_memory();
        let list = crate::location::Location::parse("s3://b/keys.csv", std::path::Path::new("/")).unwrap();
        let text = "key,size\na.jpg,5000\nb.jpg,\nc.jpg,7000\n";
        stores.open(&list).await.put("keys.csv", text.into()).await.unwrap();
        let run = dry_run(&spec(&["s3://b/keys.csv"]), &stores).await.unwrap();
        assert_eq!((run.images, run.bytes, run.size_unknown), (3, 12_000, 1));
        assert_eq!(run.mean_bytes, Some(6000));
        assert_eq!(run.size_histogram.buckets().map(|bucket| bucket.images).sum::<u64>(), 2);
    }

    #[tokio::test]
    async fn a_sample_is_of_the_whole_listing_and_the_same_each_time() {
        let (stores, job) = (bucket(2500).await, spec(&["s3://b/p"]));
        let (run, sample) = sampled(&job, &stores, 20).await.unwrap();
        assert_eq!((run.images, sample.len()), (2500, 20));
        assert_eq!(sampled(&job, &stores, 20).await.unwrap().1, sample);
        let key = |image: &ImageRef| image.key.clone();
        assert!(sample.is_sorted_by_key(key), "in the plan's order");
        assert!(key(&sample[19]).as_str() > "s3://b/p/001500.jpg", "{:?}: beyond the first page", sample[19]);
        let mut other = job.clone();
        other.job = "another".parse().unwrap();
        assert_ne!(sampled(&other, &stores, 20).await.unwrap().1, sample);
        assert_eq!(sampled(&job, &stores, 5000).await.unwrap().1.len(), 2500, "no more than there are");
    }
}
