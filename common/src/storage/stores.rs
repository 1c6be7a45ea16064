//! Opens the store behind a location, once each.
//!
//! Keys of rows are whole names over any number of stores; this is the map from such a name to the store
//! and the key in it. Opening does no request: the first use of a store says whether it is there.

use super::{Storage, counted::Counted, local::LocalStorage, memory::MemoryStorage, s3::S3Storage};
use crate::location::Location;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

/// The open stores of one process.
#[derive(Debug, Default)]
pub struct Stores {
    open: Mutex<HashMap<String, Arc<dyn Storage>>>,
    buckets_in_memory: bool,
}

impl Stores {
    /// Real stores.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// For tests: each bucket is a [`MemoryStorage`]; local paths stay local.
    pub fn in_memory() -> Arc<Self> {
        Arc::new(Self { buckets_in_memory: true, ..Self::default() })
    }

    /// For tests: another store in the place of a bucket's, such as one that fails.
    #[cfg(any(test, feature = "testing"))]
    pub fn replace(&self, bucket: &str, store: Arc<dyn Storage>) {
        self.open.lock().expect("no panic while the map is held").insert(bucket.to_owned(), store);
    }

    /// The store that holds `location`; its key is [`Location::key`]. No request is made.
    pub async fn open(&self, location: &Location) -> Arc<dyn Storage> {
        let name = match location {
            Location::Local { .. } => String::new(),
            Location::S3 { bucket, .. } => bucket.clone(),
        };
        if let Some(store) = self.open.lock().expect("no panic while the map is held").get(&name) {
            return store.clone();
        }
        let made: Arc<dyn Storage> = match location {
            Location::Local { .. } => Arc::new(Counted::new(LocalStorage::new("/"))),
            Location::S3 { bucket, .. } if self.buckets_in_memory => {
                Arc::new(Counted::new(MemoryStorage::new(format!("s3://{bucket}"))))
            }
            Location::S3 { bucket, .. } => Arc::new(S3Storage::from_env(bucket).await),
        };
        // Two tasks may both have made one; the first in the map is used by all.
        self.open.lock().expect("no panic while the map is held").entry(name).or_insert(made).clone()
    }
}
