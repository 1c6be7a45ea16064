//! Whether a store's create-only put is what it says: of all who race, one wins.
//!
//! Stores that speak S3 have accepted `If-None-Match` and ignored it. The commit of a batch rests on it, so it is
//! tried out: by a worker before its first commit to a store, and by `trawl doctor --store`. Leaves nothing
//! behind, unless deleting is refused. It must never touch an object that is not its own.

use super::{PutOutcome, Storage, StorageError};
use bytes::Bytes;
use futures::future::join_all;

/// Who race at a time. Old SeaweedFS let 3 of 3 win.
const RACERS: usize = 6;

/// Races. One that goes right by chance is possible; three in a row on a store that ignores the condition are not,
/// since then the check after each race fails for certain.
const ROUNDS: usize = 3;

/// What a store makes of a create-only put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConditionalPut {
    /// One winner, always.
    Real,
    /// It cannot be relied on.
    Unreliable {
        /// What was seen.
        reason: String,
    },
}

/// Races creators of an object. `key` gives the object's key for each round; none of them may be in use.
///
/// # Errors
/// [`StorageError`] if the store cannot be reached, or refuses to be written. Cancel safe, but for what is left.
pub async fn probe(
    store: &dyn Storage,
    key: impl Fn(usize) -> String,
) -> Result<ConditionalPut, StorageError> {
    for round in 0..ROUNDS {
        let key = key(round);
        let seen = race(store, &key).await;
        if let Err(error) = store.delete(&key).await {
            tracing::debug!(%error, "`{key}` was left behind");
        }
        match seen? {
            ConditionalPut::Real => {}
            unreliable @ ConditionalPut::Unreliable { .. } => return Ok(unreliable),
        }
    }
    Ok(ConditionalPut::Real)
}

async fn race(store: &dyn Storage, key: &str) -> Result<ConditionalPut, StorageError> {
    let body = |racer: usize| Bytes::from(format!("racer {racer}\n"));
    let racers = (0..RACERS).map(|racer| store.put_if_absent(key, body(racer)));
    let mut winners = Vec::new();
    for (racer, outcome) in join_all(racers).await.into_iter().enumerate() {
        match outcome {
            Ok(PutOutcome::Created) => winners.push(racer),
            Ok(PutOutcome::AlreadyExists) => {}
            // "Not implemented", by stores that know the condition and do not keep it.
            Err(StorageError::Other { reason, .. }) => {
                return unconditional(store, key, format!("it refuses create-only puts: {reason}")).await;
            }
            Err(error) => return Err(error),
        }
    }
    let unreliable = |reason| Ok(ConditionalPut::Unreliable { reason });
    let [winner] = winners[..] else {
        // None: each reply may have been lost after its put; that is one object of one racer all the same.
        if winners.is_empty() {
            return Ok(ConditionalPut::Real);
        }
        return unreliable(format!("{} of {RACERS} creators of one object won", winners.len()));
    };
    if store.put_if_absent(key, Bytes::from_static(b"late\n")).await? == PutOutcome::Created {
        return unreliable("an object was created a second time".to_owned());
    }
    let found = store.get(key, 1 << 10).await?.bytes;
    if found != body(winner) {
        return unreliable("the object is not the one of the creator that won".to_owned());
    }
    Ok(ConditionalPut::Real)
}

/// The store refuses the condition; whether it takes a plain put says whether it can be written at all.
async fn unconditional(
    store: &dyn Storage,
    key: &str,
    reason: String,
) -> Result<ConditionalPut, StorageError> {
    store.put(key, Bytes::from_static(b"plain\n")).await?;
    Ok(ConditionalPut::Unreliable { reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{ListPage, Object, ObjectMeta, memory::MemoryStorage};
    use async_trait::async_trait;
    use futures::stream::BoxStream;

    /// A store that takes the condition for decoration, or refuses it.
    #[derive(Debug)]
    struct Loose {
        inner: MemoryStorage,
        refuses: bool,
    }

    #[async_trait]
    impl Storage for Loose {
        fn name(&self) -> &str {
            self.inner.name()
        }
        fn list<'a>(
            &'a self,
            prefix: &str,
            start_after: Option<&str>,
        ) -> BoxStream<'a, Result<ListPage, StorageError>> {
            self.inner.list(prefix, start_after)
        }
        async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
            self.inner.get(key, max_bytes).await
        }
        async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError> {
            self.inner.get_suffix(key, len).await
        }
        async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Object, StorageError> {
            self.inner.get_range(key, offset, len).await
        }
        async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
            self.inner.head(key).await
        }
        async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StorageError> {
            self.inner.put(key, bytes).await
        }
        async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome, StorageError> {
            if self.refuses {
                let (store, key) = (self.name().to_owned(), key.to_owned());
                return Err(StorageError::Other { store, key, reason: "501 NotImplemented".into() });
            }
            self.inner.put(key, bytes).await?;
            Ok(PutOutcome::Created)
        }
        async fn delete(&self, key: &str) -> Result<(), StorageError> {
            self.inner.delete(key).await
        }
    }

    #[tokio::test]
    async fn a_store_with_one_winner_is_told_from_one_with_many() {
        let good = MemoryStorage::new("s3://b");
        let key = |round: usize| format!("out/_trawl/probe-w-{round}");
        assert_eq!(probe(&good, key).await.unwrap(), ConditionalPut::Real);
        for (refuses, said) in [(false, "6 of 6 creators"), (true, "501")] {
            let loose = Loose { inner: MemoryStorage::new("s3://b"), refuses };
            let ConditionalPut::Unreliable { reason } = probe(&loose, key).await.unwrap() else {
                panic!("it is not reliable")
            };
            assert!(reason.contains(said), "{reason}");
            assert!(loose.head(&key(0)).await.unwrap_err().is_not_found(), "nothing is left behind");
        }
        assert!(good.head(&key(0)).await.unwrap_err().is_not_found());
    }
}
