//! S3 and what speaks its language: with its folder the only code that names aws-sdk-s3.
//!
//! Endpoint, region, credentials and profiles come from where the AWS tools look for them. One request is
//! one attempt here; [`RetryingStorage`] around it tries again. It must never put a secret into an error,
//! and never read a body before it knows that the caller wants that many bytes.
//!
//! Listings come in the order of the store, which is byte order on S3. SeaweedFS compares folder by folder
//! (`a/b/2.jpg` before `a/b.jpg`); its `start_after` follows that order, so whoever goes on behind the last
//! key that it was given misses nothing there either.

mod errors;
mod open;

pub(super) use errors::chain;
pub use open::S3Config;

use super::{
    ListPage, Object, ObjectMeta, Passing, PutOutcome, Storage, StorageError, counted::Counted,
    retry::RetryingStorage,
};
use async_trait::async_trait;
use aws_sdk_s3::{
    Client, Config, operation::list_objects_v2::ListObjectsV2Output, primitives::ByteStream,
    types::EncodingType,
};
use bytes::{Bytes, BytesMut};
use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use open::timeouts;
use std::{fmt, time::Duration};

/// From sending a request to the first byte of its answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The same for a put of more than [`LARGE_PUT_BYTES`], whose answer begins only when all is sent: a model
/// of a few gigabytes at 2 MB a second.
const LARGE_PUT_TIMEOUT: Duration = Duration::from_secs(1800);

/// Above this a put gets [`LARGE_PUT_TIMEOUT`]. Two values and not a formula, since the client keeps one pool
/// of connections for each value.
const LARGE_PUT_BYTES: usize = 32 << 20;

/// A body may take [`READ_TIMEOUT`] and what its length takes at this pace, so that one that trickles ends.
const MIN_BYTES_PER_SECOND: u64 = 100_000;

/// The most that S3 gives in one page.
const PAGE_OBJECTS: i32 = 1000;

/// A bucket, with retries, each of which is counted.
pub type S3Storage = RetryingStorage<Counted<S3Bucket>>;

/// A bucket without retries: each call is one request, or one for each page of a listing.
pub struct S3Bucket {
    client: Client,
    bucket: String,
    name: String,
}

impl fmt::Debug for S3Bucket {
    // The client's own would show its whole configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Bucket({})", self.name)
    }
}

impl S3Bucket {
    fn new(bucket: &str, client: Client) -> Self {
        Self { client, bucket: bucket.to_owned(), name: format!("s3://{bucket}") }
    }

    fn url(&self, key: &str) -> String {
        format!("{}/{key}", self.name)
    }

    fn transient(&self, key: &str, cause: Passing, reason: impl Into<String>) -> StorageError {
        StorageError::Transient { store: self.name.clone(), key: self.url(key), cause, reason: reason.into() }
    }

    fn other(&self, key: &str, reason: impl Into<String>) -> StorageError {
        StorageError::Other { store: self.name.clone(), key: self.url(key), reason: reason.into() }
    }

    /// Reads exactly `length` bytes.
    async fn read(&self, key: &str, body: ByteStream, length: u64) -> Result<Bytes, StorageError> {
        let allowed = READ_TIMEOUT + Duration::from_secs(length / MIN_BYTES_PER_SECOND);
        let reading = self.read_unbounded(key, body, length);
        match tokio::time::timeout(allowed, reading).await {
            Ok(result) => result,
            Err(_) => {
                let reason = format!("{length} bytes took longer than {} s", allowed.as_secs());
                Err(self.transient(key, Passing::TimedOut, reason))
            }
        }
    }

    async fn read_unbounded(
        &self,
        key: &str,
        mut body: ByteStream,
        length: u64,
    ) -> Result<Bytes, StorageError> {
        let capacity = usize::try_from(length).map_err(|_| self.other(key, "it does not fit into memory"))?;
        let mut bytes = BytesMut::with_capacity(capacity);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|e| self.transient(key, Passing::Unavailable, errors::chain(&e)))?;
            if bytes.len() + chunk.len() > capacity {
                let reason = format!("the body has more than the {length} bytes announced");
                return Err(self.transient(key, Passing::Unavailable, reason));
            }
            if chunk.len() == capacity {
                // The whole body in one piece, as small objects come: nothing to copy.
                bytes = BytesMut::from(chunk);
            } else {
                bytes.extend_from_slice(&chunk);
            }
        }
        if bytes.len() == capacity {
            return Ok(bytes.freeze());
        }
        let reason = format!("the body ended after {} of {length} bytes", bytes.len());
        Err(self.transient(key, Passing::Unavailable, reason))
    }

    /// A length that a store announced; none at all is no answer of an S3.
    fn length(&self, key: &str, announced: Option<i64>) -> Result<u64, StorageError> {
        let length = announced.and_then(|length| u64::try_from(length).ok());
        length.ok_or_else(|| self.other(key, "the store does not say how long the object is"))
    }

    async fn page(
        &self,
        prefix: &str,
        start_after: Option<&str>,
        token: Option<&str>,
    ) -> Result<(ListPage, Option<String>), StorageError> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            // A token says where to go on by itself.
            .set_start_after(start_after.filter(|_| token.is_none()).map(str::to_owned))
            .set_continuation_token(token.map(str::to_owned))
            // Without it a key with a control character makes the page's XML unreadable.
            .encoding_type(EncodingType::Url)
            .max_keys(PAGE_OBJECTS);
        let output = request.send().await.map_err(|e| self.failed(prefix, &e))?;
        let next = match (output.is_truncated(), output.next_continuation_token()) {
            (Some(true), Some(next)) if Some(next) == token => {
                return Err(
                    self.other(prefix, "the store gives the same page of the listing again and again")
                );
            }
            (Some(true), None) => {
                return Err(self.other(prefix, "the listing is cut off without a way to go on"));
            }
            (Some(true), Some(next)) => Some(next.to_owned()),
            _ => None,
        };
        Ok((to_page(output), next))
    }
}

fn to_page(output: ListObjectsV2Output) -> ListPage {
    let encoded = output.encoding_type == Some(EncodingType::Url);
    let mut page = ListPage::default();
    for object in output.contents.unwrap_or_default() {
        let key = object.key.unwrap_or_default();
        match if encoded { url_decoded(&key) } else { Some(key) } {
            Some(key) => {
                let size = object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                let modified = object.last_modified.and_then(|at| u64::try_from(at.secs()).ok());
                page.objects.push(ObjectMeta { key, size, etag: unquoted(object.e_tag), modified });
            }
            None => page.unlistable += 1,
        }
    }
    page
}

/// Undoes the URL encoding of keys in listings; `None` if the bytes are no UTF-8.
fn url_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match (first, tail) {
            (b'%', [high, low, after @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |c: &u8| (*c as char).to_digit(16).unwrap_or(0) as u8;
                bytes.push(digit(high) << 4 | digit(low));
                rest = after;
            }
            (b'+', _) => bytes.push(b' '),
            (&byte, _) => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

fn unquoted(etag: Option<String>) -> Option<String> {
    etag.map(|etag| etag.trim_matches('"').to_owned())
}

/// The whole size in `bytes 5-9/10`.
fn total_of(content_range: &str) -> Option<u64> {
    content_range.rsplit_once('/')?.1.parse().ok()
}

impl S3Bucket {
    /// What a request of no bytes tells: a range of nothing cannot be written.
    async fn nothing_of(&self, key: &str) -> Result<Object, StorageError> {
        let meta = self.head(key).await?;
        Ok(Object { bytes: Bytes::new(), size: meta.size, etag: meta.etag })
    }

    /// The part of an object that `range` names, which has `expected` bytes of an object of the size that it is given
    /// (`None`: it begins behind the end).
    async fn part(
        &self,
        key: &str,
        range: String,
        expected: impl Fn(u64) -> Option<u64>,
    ) -> Result<Object, StorageError> {
        let request = self.client.get_object().bucket(&self.bucket).key(key).range(&range);
        let output = match request.send().await {
            Ok(output) => output,
            // Nothing of it: the object has no bytes, or ends before.
            Err(error) if errors::status(&error) == Some(416) => {
                let nothing = self.nothing_of(key).await?;
                return match expected(nothing.size) {
                    None | Some(0) => Ok(nothing),
                    Some(_) => Err(self.failed(key, &error)),
                };
            }
            Err(error) => return Err(self.failed(key, &error)),
        };
        let length = self.length(key, output.content_length())?;
        let size = match output.content_range() {
            Some(range) => {
                total_of(range).ok_or_else(|| self.other(key, format!("`{range}` is no content range")))?
            }
            // The whole object, as some stores answer when it is small.
            None => length,
        };
        if Some(length) != expected(size) {
            let reason = format!("{length} bytes came of {size} where {range} was asked for");
            return Err(self.other(key, reason));
        }
        Ok(Object { bytes: self.read(key, output.body, length).await?, size, etag: unquoted(output.e_tag) })
    }
}

#[async_trait]
impl Storage for S3Bucket {
    fn name(&self) -> &str {
        &self.name
    }

    fn list<'a>(
        &'a self,
        prefix: &str,
        start_after: Option<&str>,
    ) -> BoxStream<'a, Result<ListPage, StorageError>> {
        let begin = Some((prefix.to_owned(), start_after.map(str::to_owned), None::<String>));
        stream::unfold(begin, move |state| async move {
            let (prefix, start_after, token) = state?;
            match self.page(&prefix, start_after.as_deref(), token.as_deref()).await {
                Ok((page, next)) => {
                    let next = next.map(|token| (prefix, start_after, Some(token)));
                    // The one page of an empty listing is no page.
                    let empty = page == ListPage::default() && next.is_none();
                    if empty { None } else { Some((Ok(page), next)) }
                }
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    fn lists_from_any_key(&self) -> bool {
        true
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        let request = self.client.get_object().bucket(&self.bucket).key(key);
        let output = request.send().await.map_err(|e| self.failed(key, &e))?;
        let size = self.length(key, output.content_length())?;
        if size > max_bytes {
            // Dropping the answer closes its connection; the body is not read.
            return Err(StorageError::TooLarge { key: self.url(key), size, limit: max_bytes });
        }
        Ok(Object { bytes: self.read(key, output.body, size).await?, size, etag: unquoted(output.e_tag) })
    }

    async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError> {
        if len == 0 {
            return self.nothing_of(key).await;
        }
        self.part(key, format!("bytes=-{len}"), |size| Some(len.min(size))).await
    }

    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Object, StorageError> {
        let Some(last) = offset.checked_add(len).filter(|_| len > 0).map(|end| end - 1) else {
            return self.nothing_of(key).await;
        };
        self.part(key, format!("bytes={offset}-{last}"), |size| Some(len.min(size.checked_sub(offset)?)))
            .await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        let request = self.client.head_object().bucket(&self.bucket).key(key);
        let output = request.send().await.map_err(|e| self.failed(key, &e))?;
        let size = self.length(key, output.content_length())?;
        let modified = output.last_modified.and_then(|at| u64::try_from(at.secs()).ok());
        Ok(ObjectMeta { key: key.to_owned(), size, etag: unquoted(output.e_tag), modified })
    }

    async fn put(&self, key: &str, bytes: Bytes) -> Result<(), StorageError> {
        self.put_object(key, bytes, None).await.map(drop)
    }

    async fn put_if_absent(&self, key: &str, bytes: Bytes) -> Result<PutOutcome, StorageError> {
        self.put_object(key, bytes, Some("*")).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(key);
        match request.send().await.map_err(|e| self.failed(key, &e)) {
            Ok(_) | Err(StorageError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl S3Bucket {
    async fn put_object(
        &self,
        key: &str,
        bytes: Bytes,
        if_none_match: Option<&str>,
    ) -> Result<PutOutcome, StorageError> {
        let large = bytes.len() > LARGE_PUT_BYTES;
        let put = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .set_if_none_match(if_none_match.map(str::to_owned))
            .body(ByteStream::from(bytes));
        // Not for every put: the client would put its configuration together anew.
        let sent = match large {
            false => put.send().await,
            true => {
                let patient = Config::builder().timeout_config(timeouts(LARGE_PUT_TIMEOUT));
                put.customize().config_override(patient).send().await
            }
        };
        match sent {
            Ok(_) => Ok(PutOutcome::Created),
            Err(error) if errors::status(&error) == Some(412) => Ok(PutOutcome::AlreadyExists),
            Err(error) => Err(self.failed(key, &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_keys_are_decoded() {
        for (encoded, key) in [
            ("a/b.jpg", Some("a/b.jpg")),
            ("two+words%20x%2By", Some("two words x+y")),
            ("%E6%97%A5", Some("日")),
            ("100%", Some("100%")),
            ("%zz%4", Some("%zz%4")),
            ("%FF", None),
        ] {
            assert_eq!(url_decoded(encoded).as_deref(), key, "{encoded}");
        }
    }

    #[test]
    fn tags_and_ranges() {
        assert_eq!(unquoted(Some("\"abc-1\"".into())).as_deref(), Some("abc-1"));
        assert_eq!(total_of("bytes 5-9/10"), Some(10));
        assert_eq!(total_of("bytes 5-9/*"), None);
    }

    #[test]
    fn no_secret_is_shown() {
        let config = S3Config {
            endpoint: "http://127.0.0.1:1".into(),
            region: "r".into(),
            access_key: "id-canary".into(),
            secret_key: "secret-canary".into(),
        };
        let store = S3Storage::with_config("bucket", config.clone());
        assert!(!format!("{config:?} {store:?}").contains("canary"));
    }
}
