//! Where the broker is and how a connection to it is made.
//!
//! Every connection of the seam (one for publishing, one for each consumer) is made here, in bounded time.
//! Errors name host and port; the URL with its password must never get into a text.

use crate::{
    broker::{BrokerError, reconnects::Lost},
    tls::{self, TlsFiles},
};
use lapin::{
    Connection, ConnectionProperties, ErrorKind,
    protocol::AMQPErrorKind,
    tcp::{AMQPUriTcpExt, AsyncTcpStream, OwnedIdentity, OwnedTLSConfig, RustlsConnector},
    uri::{AMQPScheme, AMQPUri},
};
use std::{
    future::Future,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::timeout;

/// How long name resolution, TCP, TLS and the AMQP handshake may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Seconds of silence that the broker and we suffer from each other, twice, unless the URL has `heartbeat=`. RabbitMQ's
/// guide takes 5 to 20 for best; its default of 60 would leave what a dead host had in hand there for two minutes.
const HEARTBEAT_SECONDS: u16 = 15;

/// How long the broker may take to answer a request on a connection that stands; a quorum queue may have to
/// elect a leader first.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The first wait before a lost connection is made again.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// The longest such wait: a broker that is back is found within this time.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

const ACCESS_REFUSED: u16 = 403;
const NOT_FOUND: u16 = 404;
const RESOURCE_LOCKED: u16 = 405;
const PRECONDITION_FAILED: u16 = 406;
const NOT_ALLOWED: u16 = 530;

/// A broker's address with the credentials for it. Neither `Debug` nor `Display`: it holds the password.
pub(super) struct Endpoint {
    uri: AMQPUri,
    address: String,
    limit: Duration,
    tls: TlsFiles,
}

impl Endpoint {
    /// Reads `amqp://` and `amqps://` URLs. A missing or empty vhost is `/`.
    pub(super) fn parse(url: &str) -> Result<Self, BrokerError> {
        let bad = |reason: &str| BrokerError::BadUrl(reason.to_owned());
        let (_, rest) = url
            .split_once("://")
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("amqp") || scheme.eq_ignore_ascii_case("amqps"))
            .ok_or_else(|| bad("it does not begin with amqp:// or amqps://"))?;
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        // A password with one of these in it would be cut there, and its half be printed as host or vhost.
        if tail.contains(['@', '#']) {
            return Err(bad(
                "there is an `@` or `#` after the host: write those in user and password as %40 and %23, `/` as %2F",
            ));
        }
        // What follows the parser's colon is a piece of the URL.
        let mut uri: AMQPUri =
            url.parse().map_err(|reason: String| bad(reason.split(':').next().unwrap_or_default()))?;
        // The parser takes an IPv6 host for none at all and puts localhost in its place.
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        if let Some((ipv6, _)) = host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            ipv6.to_owned().clone_into(&mut uri.authority.host);
        }
        if uri.vhost.is_empty() {
            "/".clone_into(&mut uri.vhost);
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        let limit = uri.query.connection_timeout.map_or(CONNECT_TIMEOUT, Duration::from_millis);
        let address = match uri.authority.host.as_str() {
            host if host.contains(':') => format!("[{host}]:{}", uri.authority.port),
            host => format!("{host}:{}", uri.authority.port),
        };
        Ok(Self { uri, address, limit, tls: TlsFiles::default() })
    }

    /// The same endpoint, with whom to trust there.
    pub(super) fn over(self, tls: TlsFiles) -> Self {
        Self { tls, ..self }
    }

    /// Makes a connection; `purpose` is what the broker shows as its name. Dropping the future closes it.
    pub(super) async fn connect(&self, purpose: &str) -> Result<Connection, BrokerError> {
        let runtime = lapin::runtime::default_runtime().map_err(|error| self.error(&error))?;
        let name = format!("trawl {purpose}, pid {}", std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let mut guard = HandshakeGuard::default();
        let (slot, limit) = (guard.slot.clone(), self.limit);
        let (own_ca, system) = self.security()?;
        let connecting = Connection::connector(
            self.uri.clone(),
            runtime,
            async move |uri: AMQPUri, runtime| {
                let opening = async {
                    let Some(connector) = &own_ca else {
                        return uri.connect_with_config_async(system.as_ref(), &runtime).await;
                    };
                    let plain = AMQPUri { scheme: AMQPScheme::AMQP, ..uri.clone() };
                    let stream = plain.connect_with_config_async(system.as_ref(), &runtime).await?;
                    stream.into_rustls(connector, &uri.authority.host).await
                };
                // Without a limit here the thread outlives us by the minutes that TCP tries a silent address.
                let stream = match timeout(limit, opening).await {
                    Ok(stream) => stream?,
                    Err(_) => return Err(io::Error::from(io::ErrorKind::TimedOut).into()),
                };
                match &stream {
                    AsyncTcpStream::Plain(plain) => keep(&slot, plain.get_ref())?,
                    AsyncTcpStream::Rustls(tls) => keep(&slot, tls.get_ref().0.get_ref())?,
                    // Other TLS libraries are not compiled in.
                    _ => {}
                }
                Ok(stream)
            },
            properties,
        );
        let connection = match timeout(self.limit, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(self.error(&error)),
            Err(_) => return Err(self.unreachable(format!("no AMQP connection within {:?}", self.limit))),
        };
        guard.done = true;
        Ok(connection)
    }

    /// How TLS is done. With a CA of its own by a connector of ours, since the system's certificates must then
    /// count for nothing, and need not be there; else by the client library.
    fn security(&self) -> Result<(Option<RustlsConnector>, OwnedTLSConfig), BrokerError> {
        let identity = self.tls.identity();
        let identity = identity.map(|(pem, key)| OwnedIdentity::PKCS8 { pem: pem.into(), key: key.into() });
        let system = OwnedTLSConfig { identity, cert_chain: None };
        let own_ca = self.tls.private_ca().filter(|_| matches!(self.uri.scheme, AMQPScheme::AMQPS));
        match own_ca.transpose() {
            Ok(config) => Ok((config.map(RustlsConnector::from), system)),
            Err(reason) => Err(BrokerError::BadUrl(reason)),
        }
    }

    /// Waits for an answer of the broker's, in bounded time.
    pub(super) async fn request<T>(
        &self,
        asking: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        self.answer(asking).await?.map_err(|error| self.error(&error))
    }

    /// Like [`Endpoint::request`], for requests that name a queue.
    pub(super) async fn queue_request<T>(
        &self,
        queue: &str,
        asking: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BrokerError> {
        self.answer(asking).await?.map_err(|error| self.queue_error(queue, &error))
    }

    /// Like [`Endpoint::request`], with `None` where the broker says that there is no such thing.
    pub(super) async fn lookup<T>(
        &self,
        asking: impl Future<Output = lapin::Result<T>>,
    ) -> Result<Option<T>, BrokerError> {
        match self.answer(asking).await? {
            Ok(found) => Ok(Some(found)),
            Err(error) if code(&error) == Some(NOT_FOUND) => Ok(None),
            Err(error) => Err(self.error(&error)),
        }
    }

    async fn answer<T>(
        &self,
        asking: impl Future<Output = lapin::Result<T>>,
    ) -> Result<lapin::Result<T>, BrokerError> {
        timeout(REQUEST_TIMEOUT, asking)
            .await
            .map_err(|_| self.unreachable(format!("no answer within {REQUEST_TIMEOUT:?}")))
    }

    /// What an error of the client library means for the caller.
    pub(super) fn error(&self, error: &lapin::Error) -> BrokerError {
        let reason = tls::with_remedy(words(error));
        let refused = match error.kind() {
            ErrorKind::AuthProviderError(_) => true,
            // A vhost that is still starting is refused with the same code.
            _ => match code(error) {
                Some(ACCESS_REFUSED) => true,
                Some(NOT_ALLOWED) => !reason.contains("down"),
                _ => false,
            },
        };
        if refused {
            BrokerError::AccessRefused { broker: self.address.clone(), reason }
        } else {
            self.unreachable(reason)
        }
    }

    /// The same for a request that names a queue.
    pub(super) fn queue_error(&self, queue: &str, error: &lapin::Error) -> BrokerError {
        match code(error) {
            Some(PRECONDITION_FAILED | RESOURCE_LOCKED) => BrokerError::Precondition {
                queue: queue.to_owned(),
                reason: format!(
                    "{}; use another queue name, or delete this queue at the broker (its messages are lost, \
                     `trawl repair` queues them again)",
                    words(error)
                ),
            },
            _ => self.error(error),
        }
    }

    /// A transient failure.
    pub(super) fn unreachable(&self, reason: impl Into<String>) -> BrokerError {
        BrokerError::Unreachable { broker: self.address.clone(), reason: reason.into() }
    }
}

/// Whether the broker says that the thing asked for is not there.
pub(super) fn is_not_found(error: &lapin::Error) -> bool {
    code(error) == Some(NOT_FOUND)
}

/// The broker's reply code, if the broker spoke.
fn code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(error) => Some(match error.kind() {
            AMQPErrorKind::Soft(soft) => soft.get_id(),
            AMQPErrorKind::Hard(hard) => hard.get_id(),
        }),
        _ => None,
    }
}

/// The broker's own words where there are some, else the library's.
pub(super) fn words(error: &lapin::Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => error.get_message().to_string(),
        ErrorKind::IOError(error) => error.to_string(),
        _ => error.to_string(),
    }
}

/// What such an error of a connection that stood tells of its end.
pub(super) fn lost(error: &lapin::Error) -> Lost {
    match error.kind() {
        ErrorKind::MissingHeartbeatError => Lost::Heartbeat,
        _ if error.is_io_error() => Lost::Io,
        _ if error.is_amqp_hard_error() => Lost::Closed,
        _ if error.is_amqp_soft_error() => Lost::Channel,
        _ => Lost::Other,
    }
}

/// Where the connecting thread leaves a copy of its socket.
type SocketSlot = Arc<Mutex<HandshakeSocket>>;

#[derive(Default)]
enum HandshakeSocket {
    #[default]
    NotYet,
    Open(TcpStream),
    GivenUp,
}

/// Ends a handshake that is given up. lapin goes on with it in a thread of its own, for ever if the peer says
/// nothing; shutting the socket down ends that thread.
#[derive(Default)]
struct HandshakeGuard {
    slot: SocketSlot,
    done: bool,
}

impl Drop for HandshakeGuard {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let HandshakeSocket::Open(socket) = std::mem::replace(&mut *slot, HandshakeSocket::GivenUp) {
            // Fails only on a socket that is closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Keeps a copy of the socket for the guard, or shuts it down if the guard is gone.
fn keep(slot: &SocketSlot, socket: &impl AsFd) -> io::Result<()> {
    let copy = TcpStream::from(socket.as_fd().try_clone_to_owned()?);
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(*slot, HandshakeSocket::GivenUp) {
        return copy.shutdown(Shutdown::Both);
    }
    *slot = HandshakeSocket::Open(copy);
    Ok(())
}

/// Growing, jittered waits between attempts, so that a fleet does not come back in step.
pub(super) struct Waits {
    next: Duration,
}

impl Waits {
    /// Begins with the shortest wait.
    pub(super) fn new() -> Self {
        Self { next: FIRST_WAIT }
    }

    /// Half to all of a wait that doubles up to [`LONGEST_WAIT`].
    pub(super) fn next(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(LONGEST_WAIT);
        // The standard library's randomly keyed hasher is all the randomness that jitter needs.
        let share = f64::from(RandomState::new().build_hasher().finish() as u32) / f64::from(u32::MAX);
        whole.mul_f64(0.5 + share / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(url: &str) -> String {
        match Endpoint::parse(url) {
            Err(error @ BrokerError::BadUrl(_)) => error.to_string(),
            Err(error) => panic!("{error}"),
            Ok(endpoint) => panic!("taken for {}", endpoint.address),
        }
    }

    #[test]
    fn urls_are_read_with_the_defaults_people_expect() {
        let parse = |url| Endpoint::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        for (url, address, vhost, heartbeat) in [
            ("amqp://h", "h:5672", "/", 15),
            ("amqp://u:p@h:1/", "h:1", "/", 15),
            ("amqps://u:p%40%2F@h/%2f?heartbeat=7", "h:5671", "/", 7),
            ("amqp://u:p@10.0.0.1/a", "10.0.0.1:5672", "a", 15),
            ("AMQP://u:p@[::1]:9/a", "[::1]:9", "a", 15),
        ] {
            let endpoint = parse(url);
            assert_eq!(endpoint.address, address);
            assert_eq!((endpoint.uri.vhost.as_str(), endpoint.uri.query.heartbeat), (vhost, Some(heartbeat)));
        }
        assert_eq!(parse("amqp://u:p%40%2F@h").uri.authority.userinfo.password, "p@/");
        assert_eq!(parse("amqp://u:p@[::1]").uri.authority.host, "::1");
    }

    #[test]
    fn bad_urls_are_refused_without_showing_the_password() {
        for url in [
            "",
            "h:5672",
            "user:hunter2@h:5672",
            "http://user:hunter2@h",
            "amqp://user:hunter2/x@h",
            "amqp://user:1#hunter2@h",
            "amqp://user:1?hunter2@h",
            "amqp://user:hunter2@h:port",
            "amqp://user:hunter2@h?heartbeat=often",
            "amqp://user:x@h?heartbeat=hunter2",
            "amqp://user:x@h?auth_mechanism=hunter2",
        ] {
            let text = bad(url);
            assert!(!text.contains("hunter2"), "{text}");
            assert!(text.contains("it looks like amqp://"), "{text}");
        }
    }

    #[test]
    fn waits_grow_with_jitter_up_to_the_longest() {
        let mut waits = Waits::new();
        let mut whole = FIRST_WAIT;
        for _ in 0..20 {
            let wait = waits.next();
            assert!(wait >= whole / 2 && wait <= whole, "{wait:?} of {whole:?}");
            whole = (whole * 2).min(LONGEST_WAIT);
        }
        assert_eq!(whole, LONGEST_WAIT);
    }

    #[tokio::test]
    async fn nobody_listening_is_unreachable_and_named() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let endpoint = Endpoint::parse(&format!("amqp://u:hunter2@127.0.0.1:{port}")).unwrap();
        let error = endpoint.connect("test").await.unwrap_err();
        assert!(matches!(error, BrokerError::Unreachable { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[tokio::test]
    async fn a_mute_peer_is_given_up_and_its_socket_closed() {
        use tokio::io::AsyncReadExt;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoint = Endpoint::parse(&format!("amqp://127.0.0.1:{port}/?connection_timeout=300")).unwrap();
        let (error, mut socket) =
            tokio::join!(endpoint.connect("test"), async { listener.accept().await.unwrap().0 });
        assert!(matches!(error, Err(BrokerError::Unreachable { .. })));
        // The protocol header, and then the end: nobody holds the connection open any more.
        let mut said = Vec::new();
        timeout(Duration::from_secs(10), socket.read_to_end(&mut said))
            .await
            .expect("the socket stays open")
            .unwrap();
        assert!(said.starts_with(b"AMQP"), "{said:?}");
    }

    #[tokio::test]
    async fn tls_to_a_peer_without_it_is_an_error_and_no_panic() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoint =
            Endpoint::parse(&format!("amqps://127.0.0.1:{port}/?connection_timeout=20000")).unwrap();
        let hang_up = async { drop(listener.accept().await.unwrap()) };
        let (error, ()) = tokio::join!(endpoint.connect("test"), hang_up);
        let error = error.expect_err("nobody speaks TLS here").to_string();
        assert!(!error.contains("no AMQP connection within"), "the connecting thread died silently: {error}");
    }
}
