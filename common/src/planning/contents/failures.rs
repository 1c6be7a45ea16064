//! The images that failed in another job: the plan of that job, less what its parts have an answer for.
//!
//! Goes through that job's plan files in order and reads the parts of each, so that an image comes with all that was
//! planned of it. Its tag is forgotten, as an image that was mended has another; one that lies in an archive or table
//! keeps it, because its place holds for that very object only.

use super::{Contents, ContentsError, Entry, Opening, unusable};
use crate::{
    batch::{BatchNumber, ImageRef},
    error_code::ErrorCode,
    offload::offload,
    results::{OutputLayout, part_keys::read_keys, plan_file::read_plan_file},
};
use futures::{StreamExt, TryStreamExt, stream};
use std::{collections::HashSet, sync::Arc};

/// Plan files have some megabytes, parts of thousands of embeddings some hundred.
const MAX_FILE_BYTES: u64 = 2 << 30;

/// Parts read at once.
const PARTS_AT_ONCE: usize = 8;

impl Opening {
    /// The failed images of the plan file that this opens, whose job wrote into `layout`.
    pub(super) fn failures(&self, layout: OutputLayout, codes: Arc<[ErrorCode]>) -> Contents<'_> {
        stream::once(async move {
            let object = self.store.get(&self.object.key, MAX_FILE_BYTES).await?;
            let batches = offload(move || read_plan_file(object.bytes)).await;
            let batches = batches.map_err(|error| unusable(self, error.to_string()))?;
            let mut first = 0;
            let numbered: Vec<_> = batches
                .into_iter()
                .map(|(number, images)| {
                    first += images.len() as u64;
                    (number, images, first)
                })
                .filter(|(.., end)| *end > self.next)
                .collect();
            let pages = stream::iter(numbered)
                .map(move |(number, images, end)| {
                    let (layout, codes) = (layout.clone(), codes.clone());
                    async move { self.failed_of(&layout, number, images, &codes, end).await }
                })
                .buffered(PARTS_AT_ONCE);
            Ok::<_, ContentsError>(pages)
        })
        .try_flatten()
        .boxed()
    }

    async fn failed_of(
        &self,
        layout: &OutputLayout,
        number: BatchNumber,
        images: Vec<ImageRef>,
        codes: &[ErrorCode],
        end: u64,
    ) -> Result<Vec<Entry>, ContentsError> {
        let key = layout.part(number);
        let part = match self.store.get(&key, MAX_FILE_BYTES).await {
            Ok(part) => part,
            Err(error) if error.is_not_found() => {
                let reason = format!("{key} is missing: that job is not complete, see `trawl verify`");
                return Err(unusable(self, reason));
            }
            Err(error) => return Err(error.into()),
        };
        let rows = offload(move || read_keys(part.bytes)).await;
        let (_, rows) = rows.map_err(|error| unusable(self, format!("{key}: {error}")))?;
        let wanted = |code: &str| codes.is_empty() || codes.iter().any(|wanted| wanted.as_str() == code);
        let failed: HashSet<String> = rows
            .into_iter()
            .filter(|row| row.failed_with.as_deref().is_some_and(wanted))
            .map(|row| row.key)
            .collect();
        let entry = |image: ImageRef| {
            let etag = image.etag.clone().filter(|_| image.within.is_some());
            Entry {
                path: image.key.clone(),
                image: Some(ImageRef { etag, ..image }),
                named: true,
                next: end,
                group_rows: 0,
            }
        };
        Ok(images.into_iter().filter(|image| failed.contains(&image.key)).map(entry).collect())
    }
}
