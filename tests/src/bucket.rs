//! The stack's bucket, through the same client that trawl uses.

use crate::stack::Stack;
use std::sync::Arc;
use tokio::runtime::Runtime;
use trawl_common::{
    contract::storage::list_all,
    results::{part_rows::read_rows, row::ResultRow},
    storage::{
        Storage, StorageError,
        s3::{S3Config, S3Storage},
    },
};

/// Objects uploaded at once.
const UPLOADS: usize = 16;

/// The bucket `trawl`, with blocking calls.
pub struct Bucket {
    store: Arc<S3Storage>,
    runtime: Runtime,
}

impl Bucket {
    /// The bucket of `stack`.
    ///
    /// # Panics
    /// If the system gives no threads.
    pub fn of(stack: &Stack) -> Self {
        let config = S3Config {
            endpoint: stack.get("AWS_ENDPOINT_URL").to_owned(),
            region: stack.get("AWS_REGION").to_owned(),
            access_key: stack.get("AWS_ACCESS_KEY_ID").to_owned(),
            secret_key: stack.get("AWS_SECRET_ACCESS_KEY").to_owned(),
        };
        let runtime = Runtime::new().expect("a runtime");
        let store = runtime.block_on(async { Arc::new(S3Storage::with_config("trawl", config)) });
        Self { store, runtime }
    }

    /// Writes the objects.
    ///
    /// # Panics
    /// If the store refuses one.
    pub fn upload(&self, objects: impl IntoIterator<Item = (String, Vec<u8>)>) {
        use futures::{StreamExt, stream};
        let puts = stream::iter(objects).map(|(key, bytes)| {
            let store = self.store.clone();
            async move { store.put(&key, bytes.into()).await.expect("an upload") }
        });
        self.runtime.block_on(puts.buffer_unordered(UPLOADS).collect::<Vec<()>>());
    }

    /// Writes one object that the store may refuse.
    ///
    /// # Errors
    /// The store's.
    pub fn try_upload(&self, key: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        self.runtime.block_on(self.store.put(key, bytes.into()))
    }

    /// Uploads `count` small images below `prefix`.
    pub fn upload_images(&self, prefix: &str, count: u32) {
        self.upload((0..count).map(|i| (format!("{prefix}img_{i:05}.png"), crate::images::png(i, 40, 30))));
    }

    /// The keys below a prefix, in order.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.runtime
            .block_on(list_all(&*self.store, prefix, None))
            .into_iter()
            .map(|object| object.key)
            .collect()
    }

    /// Whether there is an object of this key.
    pub fn has(&self, key: &str) -> bool {
        self.runtime.block_on(self.store.head(key)).is_ok()
    }

    /// An object.
    ///
    /// # Panics
    /// If it is not there.
    pub fn get(&self, key: &str) -> bytes::Bytes {
        self.runtime.block_on(self.store.get(key, u64::MAX)).expect("the object").bytes
    }

    /// Removes an object.
    ///
    /// # Panics
    /// If the store refuses.
    pub fn delete(&self, key: &str) {
        self.runtime.block_on(self.store.delete(key)).expect("a removal");
    }

    /// The rows of every part of an output.
    ///
    /// # Panics
    /// If a part cannot be read.
    pub fn rows(&self, out: &str) -> Vec<ResultRow> {
        let parts = self.keys(&format!("{out}/part-"));
        parts.iter().flat_map(|key| read_rows(self.get(key)).expect("a readable part")).collect()
    }
}
