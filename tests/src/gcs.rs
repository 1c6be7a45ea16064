//! A Google Cloud Storage of the tests: the XML API, in memory, as far as trawl uses it.
//!
//! No emulator that can be installed here speaks that API (they have the JSON one), so this is ours, and it is held to
//! the same contract as every store: create-only puts by `x-goog-if-generation-match: 0`, ranges, pages of a listing
//! with prefix, start and token, tags, dates and codes as Google's pages describe them. What Google does beyond them it
//! does not show. Keys are bytes of text and nothing else: `a//b` is one.

use crate::background::{self, Background, Ear};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The largest object: four times the largest of a test.
const MAX_OBJECT_BYTES: usize = 64 << 20;

/// The most that a page of a listing has, as Google's.
const MAX_KEYS: usize = 1000;

/// Any date will do; it must be one.
const MODIFIED: (&str, &str) = ("Mon, 27 Jan 2014 22:48:29 GMT", "2014-01-27T22:48:29.250Z");

#[derive(Clone)]
struct Stored {
    bytes: Bytes,
    generation: u64,
}

impl Stored {
    fn etag(&self) -> String {
        format!("\"{:032x}\"", self.generation)
    }
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Stored>,
    generation: u64,
    requests: u64,
}

/// A running stub with one bucket; dropping it ends it.
pub struct Gcs {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _server: Background<()>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gcs {
    /// The bucket that it has.
    pub const BUCKET: &'static str = "trawl-photos";

    /// One that anybody may use.
    ///
    /// # Panics
    /// If there is no port or no thread to be had.
    pub fn start() -> Self {
        Self::with(None)
    }

    /// One that wants this bearer token.
    ///
    /// # Panics
    /// If there is no port or no thread to be had.
    pub fn wanting(token: &str) -> Self {
        Self::with(Some(format!("Bearer {token}")))
    }

    fn with(authorization: Option<String>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket of ours");
        let address = listener.local_addr().expect("a bound socket");
        let state = Arc::<Mutex<State>>::default();
        let told = state.clone();
        let server = Background::start("gcs", (), move |ear| serve(listener, ear, told, authorization));
        Self { address, state, _server: server }
    }

    /// Where it is, for `GOOGLE_BASE_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The variables by which `trawl` finds it.
    pub fn env(&self) -> [(&'static str, String); 2] {
        [("GOOGLE_BASE_URL", self.url()), ("GOOGLE_SKIP_SIGNATURE", "true".to_owned())]
    }

    /// Puts an object past the API, under any key.
    pub fn insert(&self, key: &str, bytes: impl Into<Bytes>) {
        let mut state = lock(&self.state);
        state.generation += 1;
        let stored = Stored { bytes: bytes.into(), generation: state.generation };
        state.objects.insert(key.to_owned(), stored);
    }

    /// An object, read past the API.
    pub fn object(&self, key: &str) -> Option<Bytes> {
        lock(&self.state).objects.get(key).map(|stored| stored.bytes.clone())
    }

    /// All keys, in order.
    pub fn keys(&self) -> Vec<String> {
        lock(&self.state).objects.keys().cloned().collect()
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        lock(&self.state).requests
    }
}

async fn serve(
    listener: std::net::TcpListener,
    ear: Ear<()>,
    state: Arc<Mutex<State>>,
    authorization: Option<String>,
) {
    background::accept(listener, ear, |client, _| {
        let (state, authorization) = (state.clone(), authorization.clone());
        let service = service_fn(move |request| answer(request, state.clone(), authorization.clone()));
        Some(http1::Builder::new().serve_connection(TokioIo::new(client), service))
    })
    .await;
}

type Answer = Response<Full<Bytes>>;

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
    authorization: Option<String>,
) -> io::Result<Answer> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_OBJECT_BYTES).collect().await.map_err(io::Error::other)?.to_bytes();
    let mut state = lock(&state);
    state.requests += 1;
    let given = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(wanted) = authorization
        && given != Some(&wanted)
    {
        return Ok(match given {
            None => refusal(StatusCode::FORBIDDEN, "AccessDenied", "Access denied."),
            Some(_) => {
                refusal(StatusCode::UNAUTHORIZED, "AuthenticationRequired", "Authentication required.")
            }
        });
    }
    let path = head.uri.path().trim_start_matches('/');
    let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
    let (bucket, key) = (decoded(bucket), decoded(key));
    if bucket != Gcs::BUCKET {
        return Ok(refusal(StatusCode::NOT_FOUND, "NoSuchBucket", "The specified bucket does not exist."));
    }
    if key.is_empty() {
        return Ok(list(&state, head.uri.query().unwrap_or_default()));
    }
    Ok(match head.method {
        Method::PUT => put(&mut state, key, body, &head.headers),
        Method::GET | Method::HEAD => get(&state, &key, &head.headers),
        Method::DELETE => match state.objects.remove(&key) {
            Some(_) => empty(StatusCode::NO_CONTENT),
            None => no_key(),
        },
        _ => refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "Not here."),
    })
}

fn put(state: &mut State, key: String, bytes: Bytes, headers: &HeaderMap) -> Answer {
    if let Some(wanted) = headers.get("x-goog-if-generation-match") {
        let found = state.objects.get(&key).map_or(0, |stored| stored.generation);
        if wanted.to_str().ok().and_then(|wanted| wanted.parse().ok()) != Some(found) {
            return refusal(
                StatusCode::PRECONDITION_FAILED,
                "PreconditionFailed",
                "At least one did not hold.",
            );
        }
    }
    state.generation += 1;
    let stored = Stored { bytes, generation: state.generation };
    let answer = Response::builder()
        .header(header::ETAG, stored.etag())
        .header("x-goog-generation", stored.generation)
        .body(Full::default());
    state.objects.insert(key, stored);
    answer.expect("a good answer")
}

fn get(state: &State, key: &str, headers: &HeaderMap) -> Answer {
    let Some(stored) = state.objects.get(key) else { return no_key() };
    let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    if text(header::IF_MATCH).is_some_and(|wanted| wanted != stored.etag()) {
        return refusal(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", "It has another tag.");
    }
    let size = stored.bytes.len();
    let builder = Response::builder()
        .header(header::ETAG, stored.etag())
        .header(header::LAST_MODIFIED, MODIFIED.0)
        .header("x-goog-generation", stored.generation);
    let built = match text(header::RANGE) {
        // Written out, since an answer to HEAD about no bytes would have none.
        None => builder.header(header::CONTENT_LENGTH, size).body(Full::new(stored.bytes.clone())),
        Some(range) => match part(range, size) {
            None => {
                return refusal(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "InvalidRange",
                    "The range cannot be had.",
                );
            }
            Some((begin, end)) => builder
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, format!("bytes {begin}-{}/{size}", end - 1))
                .body(Full::new(stored.bytes.slice(begin..end))),
        },
    };
    built.expect("a good answer")
}

/// Begin and end of `bytes=3-5`, `bytes=3-` or `bytes=-5` in so many bytes.
pub(crate) fn part(range: &str, size: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (begin, end) = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) => (first, last.saturating_add(1).min(size)),
        (Ok(first), Err(_)) => (first, size),
        (Err(_), Ok(length)) => (size.saturating_sub(length), size),
        (Err(_), Err(_)) => return None,
    };
    (begin < end).then_some((begin, end))
}

fn list(state: &State, query: &str) -> Answer {
    let parameters: BTreeMap<String, String> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(&value.replace('+', " "))))
        .collect();
    let get = |name: &str| parameters.get(name).map_or("", String::as_str);
    assert_eq!(get("list-type"), "2", "only the second form of a listing is known here");
    let prefix = get("prefix");
    // The token is the last key of the page before, which Google's is not: nobody may read it.
    let after = match get("continuation-token") {
        "" => get("start-after").to_owned(),
        token => String::from_utf8(unhex(token)).expect("a token of ours"),
    };
    let most = get("max-keys").parse().unwrap_or(MAX_KEYS).min(MAX_KEYS);
    let from = if after.is_empty() { Bound::Unbounded } else { Bound::Excluded(after) };
    let mut found = state.objects.range((from, Bound::Unbounded)).filter(|(key, _)| key.starts_with(prefix));
    let page: Vec<_> = found.by_ref().take(most).collect();
    let mut xml = format!(
        "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult \
         xmlns='http://doc.s3.amazonaws.com/2006-03-01'><Name>{}</Name><Prefix>{}</Prefix>",
        Gcs::BUCKET,
        escaped(prefix)
    );
    for (key, stored) in &page {
        xml += &format!(
            "<Contents><Key>{}</Key><Generation>{}</Generation><LastModified>{}</LastModified>\
             <ETag>{}</ETag><Size>{}</Size></Contents>",
            escaped(key),
            stored.generation,
            MODIFIED.1,
            escaped(&stored.etag()),
            stored.bytes.len()
        );
    }
    let more = found.next().is_some();
    xml += &format!("<IsTruncated>{more}</IsTruncated>");
    if let (true, Some((last, _))) = (more, page.last()) {
        xml += &format!("<NextContinuationToken>{}</NextContinuationToken>", hex(last.as_bytes()));
    }
    xml += "</ListBucketResult>";
    Response::builder()
        .header(header::CONTENT_TYPE, "application/xml; charset=UTF-8")
        .body(Full::new(xml.into()))
        .expect("a good answer")
}

fn no_key() -> Answer {
    refusal(StatusCode::NOT_FOUND, "NoSuchKey", "The specified key does not exist.")
}

fn empty(status: StatusCode) -> Answer {
    Response::builder().status(status).body(Full::default()).expect("a good answer")
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Answer {
    let xml = format!(
        "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    Response::builder().status(status).body(Full::new(xml.into())).expect("a good answer")
}

/// Escaped for XML; a control character becomes a reference, as Google writes it.
fn escaped(text: &str) -> String {
    let mut xml = String::new();
    for character in text.chars() {
        match character {
            '&' => xml += "&amp;",
            '<' => xml += "&lt;",
            '>' => xml += "&gt;",
            '"' => xml += "&quot;",
            control if control.is_ascii_control() => xml += &format!("&#{};", u32::from(control)),
            other => xml.push(other),
        }
    }
    xml
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).filter_map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()).collect()
}

/// Undoes percent-encoding.
pub(crate) fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let code = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(plain).expect("keys are text")
}
