//! Objects on web servers, by GET and HEAD: reading only.
//!
//! For lists of URLs, which are somebody else's text: what may be connected to is checked at every address and every
//! redirect (`wire/guard.rs`), redirects are few, bodies are bounded while they come, and no credentials are ever sent,
//! so none can follow a redirect to another host. A server's refusal of one URL is about that URL and no reason to stop
//! a job, so 401 and 403 are not `Forbidden` here. It must never name the target of a redirect in full: that may be a
//! signed URL.

use super::{
    ListPage, Object, ObjectMeta, Passing, PutOutcome, Storage, StorageError,
    counted::Counted,
    retry::RetryingStorage,
    wire::{
        self, Trouble, Unread, Wire,
        guard::{Addresses, PrivateAddress},
    },
};
use crate::retry::RetryPolicy;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};
use http_body_util::{BodyDataStream, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, header};
use std::{net::IpAddr, time::Duration};
use url::{Host, Url};

/// A URL may lead on so often; browsers go to 20, images seldom need one.
const MAX_REDIRECTS: usize = 5;

/// A list has dead and slow hosts in it, and each must not cost its batch the minute and a half of a bucket.
const PATIENCE: RetryPolicy = RetryPolicy { max_elapsed: Duration::from_secs(15), ..RetryPolicy::STORAGE };

/// A web server, with retries, each of which is counted.
pub type WebStorage = RetryingStorage<Counted<WebServer>>;

/// The client of all web servers of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WebClient {
    wire: Wire,
    addresses: Addresses,
}

impl WebClient {
    /// A client that connects to public addresses only, unless `private_addresses`. Connects to nothing.
    pub async fn new(private_addresses: bool) -> Self {
        let addresses = if private_addresses { Addresses::Any } else { Addresses::Public };
        Self { wire: Wire::open(addresses).await, addresses }
    }
}

impl WebStorage {
    /// The server of an origin such as `https://example.com`. Nothing is sent.
    pub fn at(origin: &str, client: WebClient) -> Self {
        Self::new(Counted::new(WebServer { origin: origin.to_owned(), client })).paced(PATIENCE)
    }
}

/// A web server without retries. Its keys are paths with their queries.
#[derive(Debug)]
pub struct WebServer {
    origin: String,
    client: WebClient,
}

impl WebServer {
    fn url(&self, key: &str) -> String {
        format!("{}/{key}", self.origin)
    }

    fn other(&self, key: &str, reason: impl Into<String>) -> StorageError {
        StorageError::Other { store: self.origin.clone(), key: self.url(key), reason: reason.into() }
    }

    fn transient(&self, key: &str, cause: Passing, reason: impl Into<String>) -> StorageError {
        StorageError::Transient {
            store: self.origin.clone(),
            key: self.url(key),
            cause,
            reason: reason.into(),
        }
    }

    fn troubled(&self, key: &str, trouble: Trouble) -> StorageError {
        match trouble {
            Trouble::Passing(cause, reason) => self.transient(key, cause, reason),
            Trouble::NoHost(reason) | Trouble::Lasting(reason) => self.other(key, reason),
        }
    }

    fn read_only(&self, key: &str) -> StorageError {
        StorageError::Invalid {
            key: self.url(key),
            reason: "a web server can only be read; results go to a folder or a bucket (s3://, gs://, az://)"
                .to_owned(),
        }
    }

    /// Asks, follows redirects, and gives the answer if it is a good one.
    async fn ask(
        &self,
        method: &Method,
        key: &str,
        range: Option<String>,
    ) -> Result<Response<Incoming>, StorageError> {
        let mut url = Url::parse(&self.url(key))
            .map_err(|error| StorageError::Invalid { key: self.url(key), reason: error.to_string() })?;
        for _ in 0..=MAX_REDIRECTS {
            url.set_fragment(None);
            self.allowed(key, &url)?;
            let mut request = Request::builder()
                .method(method.clone())
                .uri(url.as_str())
                // A body that was packed on the way would have another length.
                .header(header::ACCEPT_ENCODING, "identity");
            if let Some(range) = &range {
                request = request.header(header::RANGE, range);
            }
            let request = request
                .body(Full::default())
                .map_err(|_| self.other(key, "the URL cannot be written into a request"))?;
            let answer = self.client.wire.send(request, 0).await;
            let answer = answer.map_err(|trouble| self.troubled(key, trouble))?;
            match answer.status() {
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => url = self.redirected(key, &url, &answer)?,
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(answer),
                status => return Err(self.refused(key, status)),
            }
        }
        Err(self.other(key, format!("it leads on more than {MAX_REDIRECTS} times")))
    }

    /// Checks a URL before anything is sent to it. Addresses behind names are checked when they are known.
    fn allowed(&self, key: &str, url: &Url) -> Result<(), StorageError> {
        let host = url.host().ok_or_else(|| self.other(key, "it names no host"))?;
        let address = match host {
            Host::Ipv4(address) => IpAddr::V4(address),
            Host::Ipv6(address) => IpAddr::V6(address),
            Host::Domain(_) => return Ok(()),
        };
        if self.client.addresses.allow(address) {
            return Ok(());
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        Err(self.other(key, PrivateAddress { host, address }.to_string()))
    }

    /// Where an answer leads on to.
    fn redirected(&self, key: &str, from: &Url, answer: &Response<Incoming>) -> Result<Url, StorageError> {
        let target = answer.headers().get(header::LOCATION).and_then(|target| target.to_str().ok());
        let target = target.and_then(|target| from.join(target).ok());
        let target = target.ok_or_else(|| self.other(key, "it leads on to nowhere"))?;
        let host = target.host_str().unwrap_or_default();
        if !matches!(target.scheme(), "http" | "https") {
            return Err(self.other(key, format!("it leads on to `{}://`", target.scheme())));
        }
        if from.scheme() == "https" && target.scheme() == "http" {
            return Err(self.other(key, format!("it leads from https to plain http at `{host}`")));
        }
        if !target.username().is_empty() || target.password().is_some() {
            return Err(self.other(key, format!("it leads on to a URL with credentials at `{host}`")));
        }
        Ok(target)
    }

    fn refused(&self, key: &str, status: StatusCode) -> StorageError {
        let reason = format!("HTTP {}", status.as_u16());
        match status.as_u16() {
            404 | 410 => StorageError::NotFound { key: self.url(key) },
            429 => self.transient(key, Passing::Throttled, reason),
            408 | 504 => self.transient(key, Passing::TimedOut, reason),
            425 | 500 | 502 | 503 | 506..=599 => self.transient(key, Passing::Unavailable, reason),
            401 | 403 => self.other(key, format!("{reason}: the server does not give it to everybody")),
            _ => self.other(key, reason),
        }
    }

    async fn read(
        &self,
        key: &str,
        answer: Response<Incoming>,
        max_bytes: u64,
    ) -> Result<(Bytes, Option<String>), StorageError> {
        let (announced, etag) = (length(&answer), etag(&answer));
        let body = BodyDataStream::new(answer.into_body());
        match wire::read(body, announced, max_bytes).await {
            Ok(bytes) => Ok((bytes, etag)),
            Err(Unread::TooLarge(size)) => {
                Err(StorageError::TooLarge { key: self.url(key), size, limit: max_bytes })
            }
            Err(Unread::Trouble(trouble)) => Err(self.troubled(key, trouble)),
        }
    }
}

impl WebServer {
    /// What a request of no bytes tells: a range of nothing cannot be written.
    async fn nothing_of(&self, key: &str) -> Result<Object, StorageError> {
        let meta = self.head(key).await?;
        Ok(Object { bytes: Bytes::new(), size: meta.size, etag: meta.etag })
    }

    /// The part that `range` names, of at most `len` bytes, and of `expected` in an object of the size that it is
    /// given (`None`: it begins behind the end).
    async fn part(
        &self,
        key: &str,
        range: String,
        len: u64,
        expected: impl Fn(u64) -> Option<u64> + Send,
    ) -> Result<Object, StorageError> {
        let answer = match self.ask(&Method::GET, key, Some(range.clone())).await {
            // Nothing of it: the object has no bytes, or ends before.
            Err(StorageError::Other { reason, .. }) if reason == "HTTP 416" => {
                let nothing = self.nothing_of(key).await?;
                return match expected(nothing.size) {
                    None | Some(0) => Ok(nothing),
                    Some(_) => Err(self.other(key, reason)),
                };
            }
            other => other?,
        };
        if answer.status() == StatusCode::PARTIAL_CONTENT {
            let size = total(&answer)
                .ok_or_else(|| self.other(key, "the server does not say how long the whole is"))?;
            let (bytes, etag) = self.read(key, answer, len).await?;
            if Some(bytes.len() as u64) != expected(size) {
                let reason = format!("{} bytes came of {size} where {range} was asked for", bytes.len());
                return Err(self.other(key, reason));
            }
            return Ok(Object { bytes, size, etag });
        }
        // The whole, as servers answer that know no ranges. Good enough if that is what was asked for.
        match self.read(key, answer, len).await {
            Ok((bytes, etag)) if expected(bytes.len() as u64).unwrap_or(0) == bytes.len() as u64 => {
                Ok(Object { size: bytes.len() as u64, bytes, etag })
            }
            Ok(_) | Err(StorageError::TooLarge { .. }) => {
                Err(self
                    .other(key, "the server gives whole objects only, and a part of this one is asked for"))
            }
            Err(error) => Err(error),
        }
    }
}

fn number(answer: &Response<Incoming>, name: header::HeaderName) -> Option<u64> {
    answer.headers().get(name)?.to_str().ok()?.trim().parse().ok()
}

fn length(answer: &Response<Incoming>) -> Option<u64> {
    number(answer, header::CONTENT_LENGTH)
}

/// The tag without its quotes; a weak one is one as well.
fn etag(answer: &Response<Incoming>) -> Option<String> {
    let tag = answer.headers().get(header::ETAG)?.to_str().ok()?;
    Some(tag.trim_start_matches("W/").trim_matches('"').to_owned())
}

/// The whole size in `bytes 5-9/10`.
fn total(answer: &Response<Incoming>) -> Option<u64> {
    answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?.rsplit_once('/')?.1.parse().ok()
}

#[async_trait]
impl Storage for WebServer {
    fn name(&self) -> &str {
        &self.origin
    }

    fn list<'a>(&'a self, prefix: &str, _: Option<&str>) -> BoxStream<'a, Result<ListPage, StorageError>> {
        let refusal = StorageError::Invalid {
            key: self.url(prefix),
            reason: "a web server cannot be listed: give a list of URLs (a manifest) as the source instead"
                .to_owned(),
        };
        stream::iter([Err(refusal)]).boxed()
    }

    async fn get(&self, key: &str, max_bytes: u64) -> Result<Object, StorageError> {
        let answer = self.ask(&Method::GET, key, None).await?;
        let (bytes, etag) = self.read(key, answer, max_bytes).await?;
        Ok(Object { size: bytes.len() as u64, bytes, etag })
    }

    async fn get_suffix(&self, key: &str, len: u64) -> Result<Object, StorageError> {
        if len == 0 {
            return self.nothing_of(key).await;
        }
        self.part(key, format!("bytes=-{len}"), len, |size| Some(len.min(size))).await
    }

    async fn get_range(&self, key: &str, offset: u64, len: u64) -> Result<Object, StorageError> {
        if len == 0 {
            return self.nothing_of(key).await;
        }
        let last = offset.saturating_add(len - 1);
        let expected = |size: u64| (offset < size).then(|| len.min(size - offset));
        self.part(key, format!("bytes={offset}-{last}"), len, expected).await
    }

    async fn head(&self, key: &str) -> Result<ObjectMeta, StorageError> {
        let asked = self.ask(&Method::HEAD, key, None).await;
        let get_alone = |error: &StorageError| matches!(error, StorageError::Other { reason, .. } if reason == "HTTP 405" || reason == "HTTP 501");
        let answer = match asked {
            Ok(answer) if length(&answer).is_some() => answer,
            Err(error) if !get_alone(&error) => return Err(error),
            // Servers that know GET alone, or say no length: the range of the first byte tells it.
            _ => match self.ask(&Method::GET, key, Some("bytes=0-0".to_owned())).await {
                Err(StorageError::Other { reason, .. }) if reason == "HTTP 416" => {
                    return Ok(ObjectMeta { key: key.to_owned(), size: 0, etag: None, modified: None });
                }
                other => other?,
            },
        };
        let size = total(&answer).or_else(|| length(&answer));
        let size = size.ok_or_else(|| self.other(key, "the server does not say how long it is"))?;
        let modified =
            answer.headers().get(header::LAST_MODIFIED).and_then(|date| wire::seconds(date.to_str().ok()?));
        Ok(ObjectMeta { key: key.to_owned(), size, etag: etag(&answer), modified })
    }

    async fn put(&self, key: &str, _: Bytes) -> Result<(), StorageError> {
        Err(self.read_only(key))
    }

    async fn put_if_absent(&self, key: &str, _: Bytes) -> Result<PutOutcome, StorageError> {
        Err(self.read_only(key))
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        Err(self.read_only(key))
    }
}
