//! What earlier outputs have already, so that only new and changed objects are taken.
//!
//! Read from the plans of complete jobs: a plan is what the rows are about, with the tags that the store gave. Costs 24
//! bytes and a little an image in memory, whatever the keys; two keys with the same 128 bits of their SHA-256 are taken
//! for one, which nobody will see.

use super::{PlanError, plan_log::read_batches, shape::PlanShape};
use crate::{
    batch::ImageRef,
    location::Location,
    results::OutputLayout,
    storage::{StorageError, Stores},
};
use sha2::{Digest, Sha256};
use std::{collections::HashMap, path::Path};

/// The images of earlier outputs.
#[derive(Debug, Default)]
pub struct Seen {
    /// Of each key the latest tag.
    tags: HashMap<u128, u64>,
}

impl Seen {
    /// Reads the plans of `outs`, the later ones over the earlier.
    ///
    /// # Errors
    /// [`PlanError::Unfinished`] for an output whose job is not complete: what it lacks would be lacking for good.
    pub async fn read(outs: &[String], base_dir: &Path, stores: &Stores) -> Result<Self, PlanError> {
        let mut seen = Self::default();
        for out in outs {
            let place = Location::parse(out, base_dir)?.without_trailing_slash();
            let store = stores.open(&place).await;
            let layout = OutputLayout::new(place);
            match store.head(&layout.success()).await {
                Ok(_) => {}
                Err(StorageError::NotFound { .. }) => {
                    return Err(PlanError::Unfinished { out: out.clone() });
                }
                Err(error) => return Err(error.into()),
            }
            let files = PlanShape::read(&*store, &layout).await?.files();
            for index in 0..files {
                for (_, images) in read_batches(&*store, &layout, index).await? {
                    seen.tags.extend(images.iter().map(|image| (key_of(image), tag_of(image))));
                }
            }
        }
        Ok(seen)
    }

    /// Whether an earlier output has `image` as it is now.
    pub fn has(&self, image: &ImageRef) -> bool {
        // Most jobs ask for nothing of the kind: then no key is digested.
        !self.tags.is_empty() && self.tags.get(&key_of(image)) == Some(&tag_of(image))
    }
}

fn key_of(image: &ImageRef) -> u128 {
    let digest = Sha256::digest(image.key.as_bytes());
    u128::from_be_bytes(digest[..16].try_into().expect("32 bytes"))
}

/// The tag, or the size where a store gives none.
fn tag_of(image: &ImageRef) -> u64 {
    let text = image.etag.clone().unwrap_or_else(|| image.size.to_string());
    let digest = Sha256::digest(text.as_bytes());
    u64::from_be_bytes(digest[..8].try_into().expect("32 bytes"))
}
