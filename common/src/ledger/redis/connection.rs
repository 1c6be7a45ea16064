//! The connection to Redis: made lazily, replaced when it goes silent, and asked within bounds.
//!
//! Under every command of the ledger. Tells what may pass from what will not, and how the server treats its memory.
//! No command waits without a bound, and the password must never reach an error.

use super::{RedisLedger, query};
use crate::{
    ledger::LedgerError,
    retry::{RetryPolicy, retry},
    tls::{self, TlsFiles},
};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ErrorKind, RedisError, RedisResult, TlsCertificates,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

/// For a connection and for each command; Redis answers in less than a millisecond or something is wrong.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts of one reconnect inside the client. Few: [`RetryPolicy::LEDGER`] is around it.
const RECONNECT_ATTEMPTS: usize = 1;

/// The longest pause before such an attempt.
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// The connection in use, numbered so that of many who find it dead one replaces it.
pub(super) struct Connection {
    generation: u64,
    link: ConnectionManager,
}

impl fmt::Debug for RedisLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisLedger({})", self.address)
    }
}

impl RedisLedger {
    /// Connects to `redis://`, `rediss://` (TLS) or `unix://` and asks for an answer, all within five seconds.
    ///
    /// # Errors
    /// `BadUrl`; `AccessRefused` for a wrong or missing password; `Unreachable` for everything that may
    /// get better.
    pub async fn connect(url: &str) -> Result<Self, LedgerError> {
        Self::connect_over(url, &TlsFiles::default()).await
    }

    /// The same with a private CA or a client certificate, which count for `rediss://` only.
    ///
    /// # Errors
    /// As [`RedisLedger::connect`].
    pub async fn connect_over(url: &str, files: &TlsFiles) -> Result<Self, LedgerError> {
        let ledger = Self::lazily(url, files)?;
        let ping = |mut link: ConnectionManager| async move {
            redis::cmd("PING").query_async::<String>(&mut link).await
        };
        ledger.attempt(&ping).await?;
        Ok(ledger)
    }

    /// The same without asking: the first command connects. For who must start with Redis away. Must be called within
    /// a tokio runtime.
    ///
    /// # Errors
    /// `BadUrl`.
    pub fn lazily(url: &str, files: &TlsFiles) -> Result<Self, LedgerError> {
        tls::install_crypto_provider();
        let plain = Client::open(url).map_err(|e| bad_url(&e))?;
        let client = match plain.get_connection_info().addr() {
            ConnectionAddr::TcpTls { .. } if !files.is_empty() => {
                Client::build_with_tls(url, certificates(files)).map_err(|e| bad_url(&e))?
            }
            _ => plain,
        };
        let address: Arc<str> = address(client.get_connection_info().addr()).into();
        let link = lazy_connection(&client).map_err(|e| failed(&address, &e))?;
        let connection = Arc::new(Mutex::new(Connection { generation: 0, link }));
        Ok(Self { client, address, connection })
    }

    /// Runs `command` until it is answered, as far as [`RetryPolicy::LEDGER`] goes.
    pub(super) async fn run<T, Command, Answer>(&self, command: Command) -> Result<T, LedgerError>
    where
        Command: Fn(ConnectionManager) -> Answer,
        Answer: Future<Output = RedisResult<T>>,
    {
        retry(RetryPolicy::LEDGER, LedgerError::is_transient, || self.attempt(&command)).await
    }

    /// Runs `command` once, for what is asked again soon anyway.
    pub(crate) async fn once<T, Command, Answer>(&self, command: &Command) -> Result<T, LedgerError>
    where
        Command: Fn(ConnectionManager) -> Answer,
        Answer: Future<Output = RedisResult<T>>,
    {
        self.attempt(command).await
    }

    async fn attempt<T, Command, Answer>(&self, command: &Command) -> Result<T, LedgerError>
    where
        Command: Fn(ConnectionManager) -> Answer,
        Answer: Future<Output = RedisResult<T>>,
    {
        let (generation, link) = {
            let connection = self.connection.lock().expect("no panic while the connection is held");
            (connection.generation, connection.link.clone())
        };
        match tokio::time::timeout(RESPONSE_TIMEOUT, command(link)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if error.is_timeout() {
                    self.replace(generation);
                }
                Err(failed(&self.address, &error))
            }
            Err(_) => {
                self.replace(generation);
                let reason = format!("no answer within {} s", RESPONSE_TIMEOUT.as_secs());
                Err(LedgerError::Unreachable { ledger: self.address.to_string(), reason })
            }
        }
    }

    /// Puts a new connection in the place of one that went silent. The client itself replaces only those that
    /// break, so after a network split it would wait for the kernel to give up, for many minutes.
    fn replace(&self, generation: u64) {
        let mut connection = self.connection.lock().expect("no panic while the connection is held");
        if connection.generation == generation {
            match lazy_connection(&self.client) {
                Ok(link) => *connection = Connection { generation: generation + 1, link },
                Err(error) => tracing::warn!(%error, ledger = %self.address, "cannot replace the connection"),
            }
        }
    }

    /// How the server treats keys when its memory is full.
    ///
    /// # Errors
    /// As for every command; a server that tells neither by `CONFIG` nor by `INFO` is `Other`.
    pub async fn eviction_policy(&self) -> Result<EvictionPolicy, LedgerError> {
        let asked: Result<HashMap<String, String>, LedgerError> = self
            .run(|link| {
                let mut get = redis::cmd("CONFIG");
                get.arg("GET").arg("maxmemory*");
                query(link, get)
            })
            .await;
        let settings = match asked {
            Ok(settings) => settings,
            Err(error) if error.is_transient() => return Err(error),
            // Managed services keep CONFIG to themselves, and tell the same in INFO.
            Err(_) => {
                let info: String = self
                    .run(|link| {
                        let mut info = redis::cmd("INFO");
                        info.arg("memory");
                        query(link, info)
                    })
                    .await?;
                let pair = |line: &str| {
                    let (name, value) = line.trim().split_once(':')?;
                    Some((name.replace('_', "-"), value.to_owned()))
                };
                info.lines().filter_map(pair).collect()
            }
        };
        EvictionPolicy::of(&settings).ok_or_else(|| self.other("it does not tell its maxmemory-policy"))
    }

    /// Logs a warning if the server evicts keys without being asked; silent if it does not tell.
    pub async fn warn_if_evicting(&self) {
        match self.eviction_policy().await {
            Ok(policy) if policy.evicts_ours() => {
                tracing::warn!(ledger = %self.address, "{}", policy.remedy());
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "whether Redis evicts keys is not known"),
        }
    }

    pub(super) fn other(&self, reason: impl Into<String>) -> LedgerError {
        LedgerError::Other { ledger: self.address.to_string(), reason: reason.into() }
    }
}

/// What a full server does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvictionPolicy {
    /// `maxmemory-policy`: `noeviction`, `allkeys-lru`, `volatile-ttl`, ...
    pub policy: String,
    /// `maxmemory` in bytes; 0 is no limit.
    pub max_bytes: u64,
}

impl EvictionPolicy {
    fn of(settings: &HashMap<String, String>) -> Option<Self> {
        let value = |name: &str| settings.get(name).map(|value| value.trim());
        let max_bytes = value("maxmemory").and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        Some(Self { policy: value("maxmemory-policy")?.to_owned(), max_bytes })
    }

    /// Whether keys of ours can vanish. `volatile-*` takes only keys with a time to live, and ours have none; without
    /// a limit nothing is taken.
    pub fn evicts_ours(&self) -> bool {
        self.policy.starts_with("allkeys-") && self.max_bytes > 0
    }

    /// What to do about it, in a sentence.
    pub fn remedy(&self) -> String {
        format!(
            "Redis evicts keys when its {} bytes are full (maxmemory-policy {}): jobs would be forgotten and rebuilt \
             again and again; `redis-cli CONFIG SET maxmemory-policy noeviction`, or give trawl a Redis of its own",
            self.max_bytes, self.policy
        )
    }
}

fn lazy_connection(client: &Client) -> RedisResult<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(RESPONSE_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_number_of_retries(RECONNECT_ATTEMPTS)
        .set_max_delay(RECONNECT_PAUSE);
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

/// Host and port, or the socket's path: all of a URL that may be shown.
fn address(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
            format!("{host}:{port}")
        }
        ConnectionAddr::Unix(path) => format!("unix:{}", path.display()),
        _ => "an address of an unknown kind".into(),
    }
}

fn certificates(files: &TlsFiles) -> TlsCertificates {
    let identity = |(chain, key): (&[u8], &[u8])| ClientTlsConfig {
        client_cert: chain.to_vec(),
        client_key: key.to_vec(),
    };
    TlsCertificates { client_tls: files.identity().map(identity), root_cert: files.ca().map(<[u8]>::to_vec) }
}

/// Says what is wrong without repeating the URL, in which a password may stand anywhere.
fn bad_url(error: &RedisError) -> LedgerError {
    LedgerError::BadUrl(error.category().to_owned())
}

fn failed(address: &str, error: &RedisError) -> LedgerError {
    let (ledger, reason) = (address.to_owned(), tls::with_remedy(error.to_string()));
    let code = error.code().unwrap_or_default();
    let refused =
        error.kind() == ErrorKind::AuthenticationFailed || matches!(code, "WRONGPASS" | "NOAUTH" | "NOPERM");
    // States of a server that pass: starting, failing over, full, too many clients.
    let passing = [
        "LOADING",
        "MASTERDOWN",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "READONLY",
        "BUSY",
        "OOM",
        "MISCONF",
        "NOREPLICAS",
    ]
    .contains(&code)
        || reason.contains("max number of clients");
    if refused && !passing {
        LedgerError::AccessRefused { ledger, reason }
    } else if passing || error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
        LedgerError::Unreachable { ledger, reason }
    } else {
        LedgerError::Other { ledger, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bad_urls_and_dead_ports_are_told_apart_and_no_password_is_shown() {
        for url in
            ["canary", "http://:canary@host", "redis://:canary@host:notaport", "redis://:canary@host/nodb"]
        {
            let error = RedisLedger::connect(url).await.unwrap_err();
            assert!(matches!(error, LedgerError::BadUrl(_)), "{url}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        }
        // Nothing listens on port 1.
        for url in [
            "redis://:canary@127.0.0.1:1",
            "rediss://u:canary@127.0.0.1:1/3",
            "unix:///nowhere/s?pass=canary",
        ] {
            let error = RedisLedger::connect(url).await.unwrap_err();
            assert!(error.is_transient(), "{url}: {error:?}");
            assert!(
                error.to_string().contains("127.0.0.1:1") || error.to_string().contains("unix:/nowhere/s"),
                "{error}"
            );
            assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_mute_server_is_given_up_in_time() {
        // The kernel takes the connection, nobody answers.
        let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let begin = tokio::time::Instant::now();
        let url = format!("redis://{}", mute.local_addr().unwrap());
        let error = RedisLedger::connect(&url).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        assert!(begin.elapsed() < RESPONSE_TIMEOUT * 2, "it took {:?}", begin.elapsed());
    }

    #[test]
    fn states_of_a_server_that_pass_are_transient() {
        let said = |code: &str, detail: &str| {
            failed("h:1", &redis::make_extension_error(code.to_owned(), Some(detail.to_owned())))
        };
        for code in ["MISCONF", "OOM", "BUSY"] {
            assert!(said(code, "later").is_transient(), "{code}");
        }
        for code in ["NOAUTH", "WRONGPASS"] {
            assert!(matches!(said(code, "who?"), LedgerError::AccessRefused { .. }), "{code}");
        }
        assert!(matches!(said("WRONGTYPE", "a list"), LedgerError::Other { .. }));
    }

    #[test]
    fn only_a_full_server_that_may_take_any_key_evicts_ours() {
        let of = |policy: &str, max: &str| {
            let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            let settings = [pair("maxmemory", max), pair("maxmemory-policy", policy)];
            EvictionPolicy::of(&settings.into()).unwrap()
        };
        assert!(of("allkeys-lru", "1000").evicts_ours());
        assert!(!of("allkeys-lfu", "0").evicts_ours());
        assert!(!of("volatile-lru", "1000").evicts_ours());
        assert!(!of("noeviction\r", "1000").evicts_ours());
        assert_eq!(EvictionPolicy::of(&HashMap::new()), None);
    }
}
