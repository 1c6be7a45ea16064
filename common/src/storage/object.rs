//! Google Cloud Storage and Azure Blob Storage: with its folder the only code that names object_store.
//!
//! Credentials come from the clouds' own variables and files. One request is one attempt here; [`RetryingStorage`]
//! around it tries again, object_store's own retries are off. Its HTTP client is ours (`object/witness.rs`), so that
//! what a store answers decides what an error means, and its listings are read by us (`object/listing.rs`), because its
//! own loses a page for one odd key. It must never put a secret into an error, and never read a body before it knows
//! that the caller wants that many bytes.
//!
//! Keys with an empty, `.` or `..` part, or a control character, cannot be asked for through object_store: they are
//! counted as unlistable, and named in a warning.

mod errors;
mod listing;
mod open;
mod witness;

use super::{
    ListPage, Object, ObjectMeta, Passing, PutOutcome, Storage, StorageError,
    counted::Counted,
    retry::RetryingStorage,
    wire::{self, Unread},
};
use crate::location::AzureAccount;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use listing::{Listed, path_of};
use object_store::{
    GetOptions, GetRange, ObjectStoreExt, PutMode, PutOptions, PutPayload, list::PaginatedListOptions,
    path::Path,
};
use open::Client;
pub use open::{AzureConfig, GcsConfig};
use std::fmt;
use witness::{Seen, Witness};

/// The most that is asked for in one page: S3's number, and GCS's largest.
const PAGE_OBJECTS: usize = 1000;

/// A bucket, with retries, each of which is counted.
pub type ObjectStorage = RetryingStorage<Counted<ObjectBucket>>;

impl ObjectStorage {
    /// A bucket of GCS as the environment describes it: `GOOGLE_APPLICATION_CREDENTIALS`, `GOOGLE_SERVICE_ACCOUNT`,
    /// the files of gcloud, or the machine's own account. Nothing is sent.
    pub async fn gcs_from_env(bucket: &str) -> Self {
        Self::new(Counted::new(Self::gcs_bucket(bucket, None).await))
    }

    /// A bucket of a GCS that is described outright; the environment plays no part.
    pub async fn gcs_with(bucket: &str, config: GcsConfig) -> Self {
        Self::new(Counted::new(Self::gcs_bucket(bucket, Some(config)).await))
    }

    /// A container of Azure as the environment describes it (`AZURE_STORAGE_ACCOUNT_NAME` and the like), of `account`
    /// if the URL names one. Nothing is sent.
    pub async fn azure_from_env(container: &str, account: Option<AzureAccount>) -> Self {
        let name = crate::location::Location::Azure {
            container: container.to_owned(),
            account: account.clone(),
            key: String::new(),
        };
        let client = open::azure(container, account, None).await;
        Self::new(Counted::new(ObjectBucket { name: name.root(), is_gcs: false, client }))
    }

    /// A container of an Azure that is described outright; the environment plays no part.
    pub async fn azure_with(container: &str, config: AzureConfig) -> Self {
        let client = open::azure(container, None, Some(config)).await;
        Self::new(Counted::new(ObjectBucket { name: format!("az://{container}"), is_gcs: false, client }))
    }

    async fn gcs_bucket(bucket: &str, config: Option<GcsConfig>) -> ObjectBucket {
        let client = open::gcs(bucket, config).await;
        ObjectBucket { name: format!("gs://{bucket}"), is_gcs: true, client }
    }
}

/// A bucket without retries: each call is one request, or one for each page of a listing.
pub struct ObjectBucket {
    name: String,
    /// GCS gives the end of an object whose length is not known, and lists from any key; Azure does neither.
    is_gcs: bool,
    /// Or what is wrong with the environment's description of it.
    client: Result<Client, String>,
}

impl fmt::Debug for ObjectBucket {
    // The client's own would show its whole configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectBucket({})", self.name)
    }
}

impl ObjectBucket {
    fn url(&self, key: &str) -> String {
        format!("{}/{key}", self.name)
    }

    fn client(&self, key: &str) -> Result<&Client, StorageError> {
        let unusable =
            |reason: &String| StorageError::Forbidden { key: self.url(key), reason: reason.clone() };
        self.client.as_ref().map_err(unusable)
    }

    fn asks_the_machine(&self) -> bool {
        self.client.as_ref().is_ok_and(|client| client.asks_the_machine)
    }

    fn path(&self, key: &str) -> Result<Path, StorageError> {
        path_of(key).ok_or_else(|| StorageError::Invalid {
            key: self.url(key),
            reason:
                "its name has an empty part, `.`, `..` or a control character, which this store's client \
                     cannot express"
                    .to_owned(),
        })
    }

    fn unread(&self, key: &str, unread: Unread, limit: u64) -> StorageError {
        match unread {
            Unread::TooLarge(size) => StorageError::TooLarge { key: self.url(key), size, limit },
            Unread::Trouble(trouble) => self.troubled(key, &trouble),
        }
    }

    /// Reads an object or a part of it; with an error comes the status that the store gave, if it gave one.
    async fn read(
        &self,
        key: &str,
        options: GetOptions,
        max_bytes: u64,
    ) -> Result<Object, (StorageError, Option<u16>)> {
        let before = |error| (error, None);
        let (client, path) = (self.client(key).map_err(before)?, self.path(key).map_err(before)?);
        let reading = async {
            let found = client.objects.get_opts(&path, options).await.map_err(Ok)?;
            let (size, etag) = (found.meta.size, unquoted(found.meta.e_tag.clone()));
            let length = found.range.end - found.range.start;
            // Dropping the answer closes its connection; the body is not read.
            let read = wire::read(found.into_stream(), Some(length), max_bytes).await;
            let bytes = read.map_err(|unread| Err(self.unread(key, unread, max_bytes)))?;
            Ok(Object { bytes, size, etag })
        };
        match Witness::watch(false, reading).await {
            (Ok(object), _) => Ok(object),
            (Err(Ok(error)), seen) => {
                let status = seen.answer.as_ref().map(|answer| answer.status);
                Err((self.failed(key, &seen, &error), status))
            }
            (Err(Err(error)), _) => Err((error, None)),
        }
    }

    async fn part(
        &self,
        key: &str,
        range: GetRange,
        if_match: Option<String>,
        max_bytes: u64,
    ) -> Result<Object, Part> {
        // Tags are written with quotes in headers.
        let if_match = if_match.map(|etag| format!("\"{etag}\""));
        let options = GetOptions { range: Some(range), if_match, ..GetOptions::default() };
        self.read(key, options, max_bytes).await.map_err(|(error, status)| match status {
            // A replaced object, where the tag was given, has another length too, perhaps. A good answer that is none to
            // the question (Azurite's, of a range behind the end) says as little.
            Some(412 | 416 | 200..=299) => Part::Unsatisfiable,
            _ => Part::Failed(error),
        })
    }

    async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        token: Option<&str>,
    ) -> Result<Listed, StorageError> {
        let client = self.client(prefix)?;
        let options = PaginatedListOptions {
            // A token says where to go on by itself.
            offset: after.filter(|_| token.is_none()).map(str::to_owned),
            max_keys: Some(PAGE_OBJECTS),
            page_token: token.map(str::to_owned),
            ..PaginatedListOptions::default()
        };
        let given = (!prefix.is_empty()).then_some(prefix);
        let (done, seen) = Witness::watch(true, client.lister.list_paginated(given, options)).await;
        // With the page at hand it does not matter what object_store made of it.
        let Seen { body: Some(body), .. } = seen else {
            return Err(match done {
                Err(error) => match self.failed(prefix, &seen, &error) {
                    StorageError::NotFound { .. } => StorageError::NoSuchStore { store: self.name.clone() },
                    other => other,
                },
                Ok(_) => self.other(prefix, "the listing came without its page"),
            });
        };
        let listed = listing::parse(&body, after).map_err(|error| self.other(prefix, error.to_string()))?;
        if token.is_some() && listed.next.as_deref() == token {
            return Err(self.other(prefix, "the store gives the same page of the listing again and again"));
        }
        Ok(listed)
    }

    async fn put_object(&self, key: &str, bytes: Bytes, mode: PutMode) -> Result<PutOutcome, StorageError> {
        let (client, path) = (self.client(key)?, self.path(key)?);
        let create = mode == PutMode::Create;
        let put = client.objects.put_opts(&path, PutPayload::from(bytes), PutOptions::from(mode));
        match Witness::watch(false, put).await {
            (Ok(_), _) => Ok(PutOutcome::Created),
            (Err(error), seen) => {
                let taken = seen.answer.as_ref().is_some_and(|answer| {
                    answer.status == 412 || (answer.status == 409 && answer.code == "BlobAlreadyExists")
                });
                if create && taken {
                    Ok(PutOutcome::AlreadyExists)
                } else {
                    Err(self.failed(key, &seen, &error))
                }
            }
        }
    }
}

fn unquoted(etag: Option<String>) -> Option<String> {
    etag.map(|etag| etag.trim_matches('"').to_owned())
}

/// Why there is no part of an object.
enum Part {
    /// It has no such part, or is another object by now.
    Unsatisfiable,
    Failed(StorageError),
}

/// A listing under way.
struct Pages {
    prefix: String,
    after: Option<String>,
    token: Option<String>,
    said: bool,
}

#[async_trait]
impl Storage for ObjectBucket {
    fn name(&self) -> &str {
        &self.name
    }

    fn list<'a>(
        &'a self,
        prefix: &str,
        start_after: Option<&str>,
    ) -> BoxStream<'a, Result<ListPage, StorageError>> {
        let after = start_after.map(str::to_owned);
        let begin = Pages { prefix: prefix.to_owned(), after, token: None, said: false };
        stream::unfold(Some(begin), move |pages| async move {
            let mut pages = pages?;
            loop {
                let Pages { prefix, after, token, .. } = &pages;
                let Listed { page, next, odd } =
                    match self.page(prefix, after.as_deref(), token.as_deref()).await {
                        Ok(listed) => listed,
                        Err(error) => return Some((Err(error), None)),
                    };
                if let (Some(odd), false) = (odd, pages.said) {
                    pages.said = true;
                    let key = self.url(&odd);
                    tracing::warn!(
                        key,
                        "keys like this one cannot be used and are left out; they are counted"
                    );
                }
                let empty = page == ListPage::default();
                match next {
                    // The one page of an empty listing is no page.
                    None if empty => return None,
                    None => return Some((Ok(page), None)),
                    Some(next) => pages.token = Some(next),
                }
                if !empty {
                    return Some((Ok(page), Some(pages)));
                }
            }
        })
        .boxed()
    }

    fn lists_from_any_key(&self) -> bool {
        self.is_gcs
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        self.read(key, GetOptions::default(), max_bytes).await.map_err(|(error, _)| error)
    }

    async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError> {
        if len > 0 && self.is_gcs {
            match self.part(key, GetRange::Suffix(len), None, len).await {
                // No range can be satisfied in an object without bytes.
                Err(Part::Unsatisfiable) => {}
                Err(Part::Failed(error)) => return Err(error),
                Ok(object) => return Ok(object),
            }
        }
        // A range of nothing cannot be written, and Azure knows no end without a length.
        let ObjectMeta { size, etag, .. } = self.head(key).await?;
        let begin = size.saturating_sub(len);
        if begin == size {
            return Ok(Object { bytes: Bytes::new(), size, etag });
        }
        match self.part(key, GetRange::Bounded(begin..size), etag, len).await {
            Ok(object) => Ok(object),
            Err(Part::Failed(error)) => Err(error),
            Err(Part::Unsatisfiable) => {
                Err(self.transient(key, Passing::Unavailable, "it was replaced while it was read"))
            }
        }
    }

    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Object, StorageError> {
        if len > 0 {
            match self.part(key, GetRange::Bounded(offset..offset.saturating_add(len)), None, len).await {
                Ok(object) => return Ok(object),
                Err(Part::Failed(error)) => return Err(error),
                // It begins at the end or behind it, or there is nothing at all.
                Err(Part::Unsatisfiable) => {}
            }
        }
        let ObjectMeta { size, etag, .. } = self.head(key).await?;
        if len > 0 && offset < size {
            return Err(self.other(key, format!("the store gives no bytes from {offset} on, of {size}")));
        }
        Ok(Object { bytes: Bytes::new(), size, etag })
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        let (client, path) = (self.client(key)?, self.path(key)?);
        match Witness::watch(false, client.objects.head(&path)).await {
            (Ok(meta), _) => {
                let modified = u64::try_from(meta.last_modified.timestamp()).ok();
                Ok(ObjectMeta { key: key.to_owned(), size: meta.size, etag: unquoted(meta.e_tag), modified })
            }
            (Err(error), seen) => Err(self.failed(key, &seen, &error)),
        }
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StorageError> {
        self.put_object(key, bytes, PutMode::Overwrite).await.map(drop)
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome, StorageError> {
        self.put_object(key, bytes, PutMode::Create).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let (client, path) = (self.client(key)?, self.path(key)?);
        let (done, seen) = Witness::watch(true, client.objects.delete(&path)).await;
        match done {
            Ok(()) => Ok(()),
            Err(error) => match self.failed(key, &seen_in_batch(seen), &error) {
                StorageError::NotFound { .. } => Ok(()),
                other => Err(other),
            },
        }
    }
}

/// Azure's deletions are batches of one: what was refused is in the body of a good answer.
fn seen_in_batch(mut seen: Seen) -> Seen {
    let status = seen.body.as_deref().and_then(|body| {
        let text = String::from_utf8_lossy(body);
        text.split_once("HTTP/1.1 ")?.1.get(..3)?.parse::<u16>().ok()
    });
    if let (Some(status), Some(answer)) = (status, seen.answer.as_mut()) {
        let text = String::from_utf8_lossy(seen.body.as_deref().unwrap_or_default()).into_owned();
        let code = text.split_once("x-ms-error-code:").and_then(|(_, rest)| rest.lines().next());
        answer.status = status;
        answer.code = code.unwrap_or_default().trim().chars().take(60).collect();
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::RetryPolicy;
    use std::time::{Duration, Instant};

    const AT_ONCE: RetryPolicy = RetryPolicy { max_elapsed: Duration::ZERO, ..RetryPolicy::STORAGE };

    #[tokio::test]
    async fn nobody_there_is_transient_and_names_no_secret() {
        // Nothing listens on port 1.
        let gcs = GcsConfig { base_url: "http://127.0.0.1:1".into(), token: Some("token-canary".into()) };
        let azure = AzureConfig {
            endpoint: "http://127.0.0.1:1/acct".into(),
            account: "acct".into(),
            key: "Y2FuYXJ5LWNhbmFyeQ==".into(),
        };
        assert!(!format!("{gcs:?} {azure:?}").contains("canary") && !format!("{azure:?}").contains("Y2Fu"));
        let stores = [ObjectStorage::gcs_with("b", gcs).await, ObjectStorage::azure_with("c", azure).await];
        for store in stores.map(|store| store.paced(AT_ONCE)) {
            let began = Instant::now();
            let errors = [
                store.get("k", 1).await.map(drop).unwrap_err(),
                store.put("k", Bytes::new()).await.unwrap_err(),
                store.delete("k").await.unwrap_err(),
                store.list("", None).next().await.expect("an answer").map(drop).unwrap_err(),
            ];
            for error in errors {
                assert!(error.is_transient(), "{error:?}");
                let text = format!("{error} {error:?} {store:?}");
                assert!(!text.contains("canary") && !text.contains("Y2Fu"), "{text}");
            }
            assert!(began.elapsed() < Duration::from_secs(20));
        }
    }

    #[tokio::test]
    async fn keys_that_cannot_be_expressed_are_refused_before_anything_is_sent() {
        let config = GcsConfig { base_url: "http://127.0.0.1:1".into(), token: None };
        let store = ObjectStorage::gcs_with("b", config).await.paced(AT_ONCE);
        for key in ["a//b", "/a", "a/", "a/./b", "..", "a\nb"] {
            let error = store.get(key, 1).await.unwrap_err();
            assert!(matches!(error, StorageError::Invalid { .. }), "{key}: {error:?}");
        }
    }

    #[test]
    fn a_refusal_inside_a_batch_is_found() {
        let body =
            "--x\r\nContent-ID: 0\r\n\r\nHTTP/1.1 503 Busy\r\nx-ms-error-code: ServerBusy\r\n\r\n--x--";
        let answer = Some(witness::Answer { status: 202, ..witness::Answer::default() });
        let seen = Seen { answer, body: Some(Bytes::from_static(body.as_bytes())), ..Seen::default() };
        let answer = seen_in_batch(seen).answer.unwrap();
        assert_eq!((answer.status, &*answer.code), (503, "ServerBusy"));
    }
}
