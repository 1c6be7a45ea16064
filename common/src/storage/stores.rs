//! Opens the store behind a location, once each.
//!
//! Keys of rows are whole names over any number of stores; this is the map from such a name to the store
//! and the key in it. Opening does no request: the first use of a store says whether it is there.

use super::{
    Storage,
    counted::Counted,
    local::LocalStorage,
    memory::MemoryStorage,
    object::ObjectStorage,
    s3::S3Storage,
    web::{WebClient, WebStorage},
};
use crate::location::Location;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
};
use tokio::sync::OnceCell;

/// Web servers that are remembered at once: a list of URLs may name millions of hosts. Buckets are few and all kept.
const MAX_WEB_SERVERS: usize = 1024;

/// The open stores of one process.
#[derive(Debug, Default)]
pub struct Stores {
    open: Mutex<Open>,
    buckets_in_memory: bool,
    private_addresses: bool,
    /// One for all web servers: connections, certificates and what may be connected to.
    web: OnceCell<WebClient>,
}

#[derive(Debug, Default)]
struct Open {
    stores: HashMap<String, Arc<dyn Storage>>,
    /// Names of web servers, the oldest first.
    web_servers: VecDeque<String>,
}

impl Stores {
    /// Real stores; `http(s)://` leads to public addresses only.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The same, where `http(s)://` may lead to private addresses too.
    pub fn with_private_addresses(allowed: bool) -> Arc<Self> {
        Arc::new(Self { private_addresses: allowed, ..Self::default() })
    }

    /// Whether `http(s)://` may lead to private addresses.
    pub fn allows_private_addresses(&self) -> bool {
        self.private_addresses
    }

    /// For tests: each bucket is a [`MemoryStorage`]; local paths stay local.
    pub fn in_memory() -> Arc<Self> {
        Arc::new(Self { buckets_in_memory: true, ..Self::default() })
    }

    /// For tests: another store in the place of a bucket's, such as one that fails. `name` is the bucket of S3, else
    /// the store's beginning (`gs://bucket`).
    #[cfg(any(test, feature = "testing"))]
    pub fn replace(&self, name: &str, store: Arc<dyn Storage>) {
        self.open.lock().expect("no panic while the map is held").stores.insert(name.to_owned(), store);
    }

    /// The store that holds `location`; its key is [`Location::key`]. No request is made.
    pub async fn open(&self, location: &Location) -> Arc<dyn Storage> {
        let name = match location {
            Location::S3 { bucket, .. } => bucket.clone(),
            other => other.root(),
        };
        if let Some(store) = self.open.lock().expect("no panic while the map is held").stores.get(&name) {
            return store.clone();
        }
        let made = self.make(location).await;
        let mut open = self.open.lock().expect("no panic while the map is held");
        if matches!(location, Location::Http { .. }) && !open.stores.contains_key(&name) {
            open.web_servers.push_back(name.clone());
            if open.web_servers.len() > MAX_WEB_SERVERS
                && let Some(oldest) = open.web_servers.pop_front()
            {
                open.stores.remove(&oldest);
            }
        }
        // Two tasks may both have made one; the first in the map is used by all.
        open.stores.entry(name).or_insert(made).clone()
    }

    async fn make(&self, location: &Location) -> Arc<dyn Storage> {
        match location {
            Location::Local { .. } => Arc::new(Counted::new(LocalStorage::new("/"))),
            other if self.buckets_in_memory => Arc::new(Counted::new(MemoryStorage::new(other.root()))),
            Location::S3 { bucket, .. } => Arc::new(S3Storage::from_env(bucket).await),
            Location::Gcs { bucket, .. } => Arc::new(ObjectStorage::gcs_from_env(bucket).await),
            Location::Azure { container, account, .. } => {
                Arc::new(ObjectStorage::azure_from_env(container, account.clone()).await)
            }
            Location::Http { origin, .. } => {
                let client = self.web.get_or_init(|| WebClient::new(self.private_addresses)).await;
                Arc::new(WebStorage::at(origin, client.clone()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[tokio::test]
    async fn one_store_a_bucket_and_a_bounded_number_of_web_servers() {
        let stores = Stores::in_memory();
        let open = async |text: &str| stores.open(&Location::parse(text, Path::new("/")).unwrap()).await;
        for text in
            ["s3://b/x", "gs://b/x", "az://b/x", "abfss://b@acct.dfs.core.windows.net/x", "https://h/x"]
        {
            let (first, second) = (open(text).await, open(&format!("{text}/y")).await);
            assert!(Arc::ptr_eq(&first, &second), "{text}");
            assert!(text.starts_with(first.name()), "{} for {text}", first.name());
        }
        for host in 0..2 * MAX_WEB_SERVERS {
            open(&format!("https://h{host}/x")).await;
        }
        let held = stores.open.lock().unwrap().stores.len();
        assert_eq!(held, 4 + MAX_WEB_SERVERS);
    }
}
