//! RabbitMQ's management API: what AMQP does not tell, above all the messages that workers hold.
//!
//! One GET every few seconds, within a bound of time and of bytes, over a connection of its own. The URL carries user
//! and password: it is neither shown nor part of an error.

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::{fmt, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use trawl_common::{services::ServiceUrl, telemetry::printable, tls::TlsFiles};

/// For an answer; RabbitMQ gathers the figures of some hundred queues in milliseconds.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A longer answer is not read: a queue's line has a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Queues asked for: 500 is the most that RabbitMQ gives in a page; each lane has two.
const MAX_QUEUES: usize = 500;

/// What the API says of one queue.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct QueueFigures {
    /// The broker's name of it.
    pub name: String,
    /// Waiting for a consumer.
    pub ready: u64,
    /// With a consumer that has not settled them.
    pub unacked: u64,
    /// Consumers attached.
    pub consumers: u64,
    /// Messages a second that come in; `None` where nothing was ever published.
    pub publish_rate: Option<f64>,
    /// That are handed out.
    pub deliver_rate: Option<f64>,
    /// That are settled.
    pub ack_rate: Option<f64>,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    /// No connection, or none that lasted.
    #[error(
        "the management API at {place} is not reachable: {reason}; is the plugin enabled, and is TRAWL_MANAGEMENT_URL right?"
    )]
    Unreachable {
        /// Host and port, never the credentials.
        place: String,
        /// What happened.
        reason: String,
    },
    /// It refuses our credentials.
    #[error(
        "the management API at {place} refuses access ({status}): the user of TRAWL_MANAGEMENT_URL needs the tag \
         `monitoring` and a right to the vhost"
    )]
    Refused {
        /// Host and port.
        place: String,
        /// The status.
        status: u16,
    },
    /// It answered something else.
    #[error("the management API at {place} gave an answer that is of no use: {reason}")]
    Odd {
        /// Host and port.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The URL is not one.
    #[error(
        "the URL of the management API is not usable: {0}; it looks like http://user:password@host:15672"
    )]
    BadUrl(&'static str),
}

/// Whoever knows the queues' figures.
#[async_trait]
pub trait Management: Send + Sync {
    /// Every queue of the vhost whose name begins with `trawl.`.
    async fn queues(&self) -> Result<Vec<QueueFigures>, ManagementError>;
}

/// The API over HTTP.
pub struct HttpManagement {
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    path: String,
    authorization: String,
}

impl fmt::Debug for HttpManagement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpManagement({})", self.place())
    }
}

/// A URL in its pieces.
struct Pieces<'a> {
    https: bool,
    user: String,
    password: String,
    host: &'a str,
    port: u16,
    prefix: &'a str,
}

impl HttpManagement {
    /// For the queues of `vhost`; nothing is asked yet.
    ///
    /// # Errors
    /// [`ManagementError::BadUrl`], which never repeats the URL.
    pub fn new(service: &ServiceUrl, vhost: &str) -> Result<Self, ManagementError> {
        let pieces = pieces(&service.url)?;
        let tls = pieces.https.then(|| client(&service.tls)).transpose()?;
        let vhost: String =
            form_urlencoded::byte_serialize(vhost.as_bytes()).collect::<String>().replace('+', "%20");
        let path = format!(
            "{}/api/queues/{vhost}?page=1&page_size={MAX_QUEUES}&name=%5Etrawl%5C.&use_regex=true&columns=name,\
             messages_ready,messages_unacknowledged,consumers,message_stats.publish_details.rate,\
             message_stats.deliver_get_details.rate,message_stats.ack_details.rate",
            pieces.prefix
        );
        let login = base64(format!("{}:{}", pieces.user, pieces.password).as_bytes());
        Ok(Self {
            host: pieces.host.to_owned(),
            port: pieces.port,
            tls,
            path,
            authorization: format!("Basic {login}"),
        })
    }

    fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn unreachable(&self, reason: &dyn fmt::Display) -> ManagementError {
        ManagementError::Unreachable { place: self.place(), reason: printable(&reason.to_string()) }
    }

    async fn ask(&self) -> Result<Bytes, ManagementError> {
        let host = self.host.trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, self.port)).await.map_err(|e| self.unreachable(&e))?;
        match &self.tls {
            None => self.ask_over(stream).await,
            Some(tls) => {
                let name = rustls::pki_types::ServerName::try_from(host.to_owned());
                let name =
                    name.map_err(|_| ManagementError::BadUrl("its host is no name for a certificate"))?;
                let stream = tls.connect(name, stream).await.map_err(|e| self.unreachable(&e))?;
                self.ask_over(stream).await
            }
        }
    }

    async fn ask_over(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Bytes, ManagementError> {
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| self.unreachable(&e))?;
        let mut driver = tokio::task::JoinSet::new();
        // Ends with this function, whatever becomes of the question.
        driver.spawn(connection);
        let request = Request::get(&self.path)
            .header(header::HOST, self.place())
            .header(header::AUTHORIZATION, &self.authorization)
            .header(header::ACCEPT, "application/json")
            .body(Empty::<Bytes>::new())
            .map_err(|_| ManagementError::BadUrl("its host or path cannot be written into a request"))?;
        let answer = sender.send_request(request).await.map_err(|e| self.unreachable(&e))?;
        match answer.status() {
            StatusCode::OK => {}
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(ManagementError::Refused { place: self.place(), status: status.as_u16() });
            }
            status => return Err(self.odd(format!("status {}", status.as_u16()))),
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok(body.map_err(|e| self.odd(printable(&e.to_string())))?.to_bytes())
    }

    fn odd(&self, reason: String) -> ManagementError {
        ManagementError::Odd { place: self.place(), reason }
    }
}

#[async_trait]
impl Management for HttpManagement {
    async fn queues(&self) -> Result<Vec<QueueFigures>, ManagementError> {
        let asked = tokio::time::timeout(TIMEOUT, self.ask()).await;
        let json =
            asked.map_err(|_| self.unreachable(&format!("no answer within {} s", TIMEOUT.as_secs())))??;
        // The parser's words may quote the answer, which is the broker's and not a secret; it is cut all the same.
        read(&json).map_err(|error| self.odd(printable(&error.to_string()).chars().take(200).collect()))
    }
}

/// Reads a page of queues.
fn read(json: &[u8]) -> serde_json::Result<Vec<QueueFigures>> {
    #[derive(Deserialize)]
    struct Page {
        items: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        name: String,
        #[serde(default)]
        messages_ready: u64,
        #[serde(default)]
        messages_unacknowledged: u64,
        #[serde(default)]
        consumers: u64,
        #[serde(default)]
        message_stats: Option<Stats>,
    }
    #[derive(Deserialize, Default)]
    struct Stats {
        publish_details: Option<Rate>,
        deliver_get_details: Option<Rate>,
        ack_details: Option<Rate>,
    }
    #[derive(Deserialize)]
    struct Rate {
        rate: f64,
    }
    let page: Page = serde_json::from_slice(json)?;
    let figures = |item: Item| {
        let stats = item.message_stats.unwrap_or_default();
        let rate = |rate: Option<Rate>| rate.map(|rate| rate.rate);
        QueueFigures {
            name: item.name,
            ready: item.messages_ready,
            unacked: item.messages_unacknowledged,
            consumers: item.consumers,
            publish_rate: rate(stats.publish_details),
            deliver_rate: rate(stats.deliver_get_details),
            ack_rate: rate(stats.ack_details),
        }
    };
    Ok(page.items.into_iter().map(figures).collect())
}

fn pieces(url: &str) -> Result<Pieces<'_>, ManagementError> {
    let bad = |reason| Err(ManagementError::BadUrl(reason));
    let Some((scheme, rest)) = url.split_once("://") else { return bad("it has no scheme") };
    let https = match scheme.to_ascii_lowercase().as_str() {
        "http" => false,
        "https" => true,
        _ => return bad("it begins with neither http:// nor https://"),
    };
    let (authority, prefix) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if prefix.contains(['@', '?', '#']) {
        return bad(
            "there is an `@`, `?` or `#` after the host: write those in user and password as %40, %3F and %23",
        );
    }
    let Some((login, host)) = authority.rsplit_once('@') else { return bad("it has no user and password") };
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (host, port) = match host.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((host, port)) => match port.parse() {
            Ok(port) => (host, port),
            Err(_) => return bad("its port is no number"),
        },
        None => (host, if https { 15671 } else { 15672 }),
    };
    if host.is_empty() {
        return bad("it has no host");
    }
    let plain = |text: &str| percent_decoded(text);
    let (Some(user), Some(password)) = (plain(user), plain(password)) else {
        return bad("its user or password is not percent-encoded UTF-8");
    };
    Ok(Pieces { https, user, password, host, port, prefix: prefix.trim_end_matches('/') })
}

/// The vhost that an AMQP URL names.
pub fn vhost_of(amqp_url: &str) -> String {
    let rest = amqp_url.split_once("://").map_or("", |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let vhost = path.split(['?', '#']).next().unwrap_or_default();
    match percent_decoded(vhost) {
        Some(vhost) if !vhost.is_empty() => vhost,
        _ => "/".to_owned(),
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    // A `+` is a space in forms, and itself in a URL.
    let as_form = format!("x={}", text.replace('+', "%2B").replace('&', "%26"));
    let (_, value) = form_urlencoded::parse(as_form.as_bytes()).next()?;
    (!value.contains('\u{fffd}')).then(|| value.into_owned())
}

fn client(tls: &TlsFiles) -> Result<TlsConnector, ManagementError> {
    let config =
        tls.client_config().map_err(|_| ManagementError::BadUrl("no certificate authority is known here"))?;
    Ok(TlsConnector::from(Arc::new(config)))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let three = [chunk[0], chunk.get(1).copied().unwrap_or(0), chunk.get(2).copied().unwrap_or(0)];
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() { DIGITS[index as usize] as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(url: &str) -> ServiceUrl {
        ServiceUrl { url: url.to_owned(), tls: TlsFiles::default() }
    }

    #[test]
    fn urls_are_read_and_never_repeated() {
        let api = HttpManagement::new(&service("http://u%40x:can%2Fary@host:8080/rabbit/"), "a/b c").unwrap();
        assert_eq!((api.place().as_str(), api.tls.is_none()), ("host:8080", true));
        assert!(api.path.starts_with("/rabbit/api/queues/a%2Fb%20c?"), "{}", api.path);
        assert_eq!(api.authorization, format!("Basic {}", base64(b"u@x:can/ary")));
        assert!(!format!("{api:?}").contains("can"));
        assert_eq!(HttpManagement::new(&service("http://u:p@[::1]"), "/").unwrap().place(), "[::1]:15672");
        for bad in [
            "canary",
            "ftp://u:canary@h",
            "http://host:1",
            "http://u:canary@",
            "http://u:canary@h:port",
            "http://u:can/ary@h",
            "http://u:can%ffary@h",
            "http://u:canary@h/?x=1",
        ] {
            let error = HttpManagement::new(&service(bad), "/").unwrap_err();
            assert!(matches!(error, ManagementError::BadUrl(_)), "{bad}");
            assert!(!format!("{error} {error:?}").contains("ary"), "{error}");
        }
    }

    #[test]
    fn the_vhost_is_the_amqp_urls() {
        for (url, vhost) in [
            ("amqp://u:p@h:1", "/"),
            ("amqp://h/", "/"),
            ("amqp://h/%2f", "/"),
            ("amqp://h/lane?heartbeat=5", "lane"),
            ("amqp://h/a%20b+c", "a b+c"),
        ] {
            assert_eq!(vhost_of(url), vhost, "{url}");
        }
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn a_page_of_queues_is_read_with_what_it_lacks() {
        let json =
            br#"{"items":[{"name":"trawl.a","messages_ready":3,"messages_unacknowledged":2,"consumers":1,
            "message_stats":{"ack_details":{"rate":1.5}}},{"name":"trawl.dead"}],"page":1}"#;
        let queues = read(json).unwrap();
        assert_eq!((queues[0].unacked, queues[0].ack_rate, queues[0].publish_rate), (2, Some(1.5), None));
        assert_eq!(queues[1], QueueFigures { name: "trawl.dead".into(), ..QueueFigures::default() });
        assert!(read(b"[]").is_err());
    }

    #[tokio::test]
    async fn a_dead_port_is_named_without_the_password() {
        let api = HttpManagement::new(&service("http://u:canary@127.0.0.1:1"), "/").unwrap();
        let error = api.queues().await.unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains("127.0.0.1:1") && !text.contains("canary"), "{text}");
    }
}
