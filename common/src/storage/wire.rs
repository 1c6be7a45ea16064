//! HTTP for the stores that bring no client of their own: GCS, Azure and web servers.
//!
//! One request is one attempt; who calls tries again. It is the hyper client that the AWS SDK has brought into the
//! tree, with the same rustls and ring as everything else. Every wait has an end: for a connection, for the first byte
//! of an answer, and for a body at a pace. It must never put a URL or a header into an error, both may be secret.

pub(super) mod guard;

use super::Passing;
use crate::{disposition::describe, tls};
use bytes::{Bytes, BytesMut};
use chrono::DateTime;
use futures::{Stream, StreamExt};
use guard::{Addresses, PrivateAddress, Resolver};
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::ClientConfig;
use std::{error::Error, fmt::Display, time::Duration};
use tokio::{
    sync::OnceCell,
    time::{Instant, timeout, timeout_at},
};

/// For the TCP handshake. A store that takes longer is as good as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// From sending a request to the first byte of its answer.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// The same for a request with a body of more than [`LARGE_BYTES`], whose answer begins only when all is sent: a
/// model of a few gigabytes at 2 MB a second.
const LARGE_TIMEOUT: Duration = Duration::from_secs(1800);

/// Above this a request gets [`LARGE_TIMEOUT`].
const LARGE_BYTES: u64 = 32 << 20;

/// A body may take [`READ_TIMEOUT`] and what its length takes at this pace, so that one that trickles ends.
const MIN_BYTES_PER_SECOND: u64 = 100_000;

/// Connections kept for the next request to the same host.
const IDLE_CONNECTIONS: usize = 64;

/// A connection that nobody used for so long is closed: servers close theirs after one to four minutes, and one that
/// closes while a request is on its way costs a retry.
const IDLE: Duration = Duration::from_secs(50);

/// More memory than this is taken only as the bytes arrive: the length is the server's word.
const MAX_ANNOUNCED_BYTES: u64 = 8 << 20;

/// The longest text of a failed request that is passed on.
const MAX_REASON_CHARS: usize = 300;

/// Who asks, as web servers want to know.
const USER_AGENT: &str = concat!("trawl/", env!("CARGO_PKG_VERSION"));

type Client = legacy::Client<HttpsConnector<HttpConnector<Resolver>>, Full<Bytes>>;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Trying again may help.
    Passing(Passing, String),
    /// The name has no address. Of a URL in a list that will stay so; of a cloud's store it passes.
    NoHost(String),
    /// It does not: a certificate that is not trusted, an address that is not allowed.
    Lasting(String),
}

/// Why a body was not read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unread {
    /// It has more bytes than allowed: at least so many.
    TooLarge(u64),
    /// It broke off or took too long.
    Trouble(Trouble),
}

/// A client with its pool of connections.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    client: Client,
}

impl Wire {
    /// A client that connects to what `addresses` allow. Reads the system's certificates the first time; connects to
    /// nothing.
    pub(super) async fn open(addresses: Addresses) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Resolver::new(addresses));
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls_config().await)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        Self { client }
    }

    /// Sends a request and waits for the head of the answer, whatever its status. Cancel safe: the connection is closed.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        body_bytes: u64,
    ) -> Result<Response<Incoming>, Trouble> {
        let agent = header::HeaderValue::from_static(USER_AGENT);
        request.headers_mut().entry(header::USER_AGENT).or_insert(agent);
        let patience = if body_bytes > LARGE_BYTES { LARGE_TIMEOUT } else { READ_TIMEOUT };
        match timeout(patience, self.client.request(request)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(trouble(&error)),
            Err(_) => {
                Err(Trouble::Passing(Passing::TimedOut, format!("no answer within {} s", patience.as_secs())))
            }
        }
    }
}

/// Reads a body of at most `max` bytes, and of exactly `announced` if the answer said so.
pub(super) async fn read<S, E>(mut chunks: S, announced: Option<u64>, max: u64) -> Result<Bytes, Unread>
where
    S: Stream<Item = Result<Bytes, E>> + Unpin,
    E: Display,
{
    if let Some(size) = announced.filter(|size| *size > max) {
        return Err(Unread::TooLarge(size));
    }
    let began = Instant::now();
    let first = announced.unwrap_or(0).min(MAX_ANNOUNCED_BYTES);
    let mut bytes = BytesMut::with_capacity(usize::try_from(first).unwrap_or(0));
    loop {
        let got = bytes.len() as u64;
        let deadline = began + READ_TIMEOUT + Duration::from_secs(got / MIN_BYTES_PER_SECOND);
        let chunk = match timeout_at(deadline, chunks.next()).await {
            Err(_) => {
                let reason = format!("{got} bytes took longer than {} s", began.elapsed().as_secs());
                return Err(Unread::Trouble(Trouble::Passing(Passing::TimedOut, reason)));
            }
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                let reason = format!("the body broke off after {got} bytes: {error}");
                return Err(Unread::Trouble(Trouble::Passing(Passing::Unavailable, reason)));
            }
            Ok(Some(Ok(chunk))) => chunk,
        };
        let so_far = got + chunk.len() as u64;
        if so_far > announced.unwrap_or(max) {
            return Err(match announced {
                None => Unread::TooLarge(so_far),
                Some(size) => broken(format!("the body has more than the {size} bytes announced")),
            });
        }
        if announced == Some(chunk.len() as u64) {
            // The whole body in one piece, as small objects come: nothing to copy.
            bytes = BytesMut::from(chunk);
        } else {
            bytes.extend_from_slice(&chunk);
        }
    }
    match announced {
        Some(size) if size != bytes.len() as u64 => {
            Err(broken(format!("the body ended after {} of {size} bytes", bytes.len())))
        }
        _ => Ok(bytes.freeze()),
    }
}

/// Seconds since 1970, from a date as headers have it or as listings do (RFC 3339).
pub(super) fn seconds(date: &str) -> Option<u64> {
    let parsed = DateTime::parse_from_rfc2822(date).or_else(|_| DateTime::parse_from_rfc3339(date));
    u64::try_from(parsed.ok()?.timestamp()).ok()
}

fn broken(reason: String) -> Unread {
    Unread::Trouble(Trouble::Passing(Passing::Unavailable, reason))
}

/// The system's certificates, read once.
async fn tls_config() -> ClientConfig {
    static CONFIG: OnceCell<ClientConfig> = OnceCell::const_new();
    let read = || async {
        // A system without certificates can still speak plain HTTP, to an emulator.
        let system = crate::offload::offload(|| tls::TlsFiles::default().client_config()).await;
        system.unwrap_or_else(|_| tls::trusting_nobody())
    };
    CONFIG.get_or_init(read).await.clone()
}

fn trouble(error: &legacy::Error) -> Trouble {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(private) = cause.downcast_ref::<PrivateAddress>() {
            return Trouble::Lasting(private.to_string());
        }
        // An io::Error keeps what it wraps to itself.
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(private) = inner.and_then(|inner| inner.downcast_ref::<PrivateAddress>()) {
            return Trouble::Lasting(private.to_string());
        }
        next = cause.source();
    }
    let reason: String = describe(error).chars().take(MAX_REASON_CHARS).collect();
    let has = |signs: &[&str]| signs.iter().any(|sign| reason.contains(sign));
    if has(&["UnknownIssuer", "CaUsedAsEndEntity"]) {
        return Trouble::Lasting(format!(
            "{reason} (its CA is not trusted here: name the CA's certificate with SSL_CERT_FILE)"
        ));
    }
    if has(&["invalid peer certificate", "InvalidCertificate", "HandshakeFailure"]) {
        return Trouble::Lasting(reason);
    }
    // The C library's words for "there is no such host", as against "the name server is away".
    if has(&["Name or service not known", "No address associated with hostname"]) {
        return Trouble::NoHost(format!("there is no such host ({reason})"));
    }
    let timed_out = has(&["timed out", "deadline has elapsed"]);
    Trouble::Passing(if timed_out { Passing::TimedOut } else { Passing::Unavailable }, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    async fn read_all(chunks: &[&'static str], announced: Option<u64>, max: u64) -> Result<Bytes, Unread> {
        let chunks = chunks.iter().map(|chunk| Ok::<_, String>(Bytes::from_static(chunk.as_bytes())));
        read(stream::iter(chunks), announced, max).await
    }

    #[tokio::test]
    async fn a_body_is_as_long_as_it_says_and_no_longer_than_allowed() {
        assert_eq!(read_all(&["abc", "de"], Some(5), 5).await.unwrap(), "abcde");
        assert_eq!(read_all(&["abcde"], Some(5), 9).await.unwrap(), "abcde");
        assert_eq!(read_all(&["abc", "de"], None, 5).await.unwrap(), "abcde");
        assert_eq!(read_all(&[], Some(0), 0).await.unwrap(), "");
        assert_eq!(read_all(&["abc"], Some(10), 9).await, Err(Unread::TooLarge(10)));
        assert_eq!(read_all(&["abc", "def"], None, 5).await, Err(Unread::TooLarge(6)));
        for chunks in [&["abc"][..], &["abc", "defg"]] {
            let broken = read_all(chunks, Some(5), 9).await;
            assert!(matches!(broken, Err(Unread::Trouble(Trouble::Passing(..)))), "{broken:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_ends() {
        let began = Instant::now();
        let drops = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            Some((Ok::<_, String>(Bytes::from_static(b"x")), ()))
        });
        let ended = read(drops.boxed(), None, 1 << 30).await;
        assert!(matches!(ended, Err(Unread::Trouble(Trouble::Passing(Passing::TimedOut, _)))), "{ended:?}");
        assert!(began.elapsed() < 2 * READ_TIMEOUT);
    }
}
