//! As much of RabbitMQ's management API as the checks need: to break connections and look at messages.
//!
//! Talks HTTP/1.0 over a plain socket, since the crate has no HTTP client. For tests against a private server
//! only; it must never be used on a broker that somebody else works with.

use serde_json::Value;
use std::{fmt::Write as _, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The API of one broker.
pub(super) struct Management {
    host: String,
    authorization: String,
}

impl Management {
    /// Reads `http://user:password@host:port`.
    pub(super) fn new(url: &str) -> Self {
        let rest = url.strip_prefix("http://").expect("a management URL begins with http://");
        let (login, host) = rest.rsplit_once('@').expect("a management URL has user and password");
        Self { host: host.trim_end_matches('/').to_owned(), authorization: base64(login.as_bytes()) }
    }

    /// One request; the answer's JSON, `null` for an empty one.
    pub(super) async fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = timeout(REQUEST_TIMEOUT, self.exchange(method, path, body)).await;
        let answer =
            answer.expect("the management API answers in time").expect("the management API can be reached");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        assert!(
            head.split(' ').nth(1).is_some_and(|code| code.starts_with('2')),
            "{method} {path}: {answer}"
        );
        if body.is_empty() { Value::Null } else { serde_json::from_str(body).expect("JSON") }
    }

    async fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<String> {
        let body = body.map_or_else(String::new, Value::to_string);
        let mut socket = TcpStream::connect(&self.host).await?;
        let request = format!(
            "{method} /api/{path} HTTP/1.0\r\nhost: {}\r\nauthorization: Basic {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.host,
            self.authorization,
            body.len()
        );
        socket.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// Closes every connection whose name has `part` in it, and says how many.
    pub(super) async fn close_connections(&self, part: &str) -> usize {
        let mut closed = 0;
        for connection in self.ask("GET", "connections", None).await.as_array().into_iter().flatten() {
            let ours = connection["user_provided_name"].as_str().is_some_and(|name| name.contains(part));
            if let (true, Some(name)) = (ours, connection["name"].as_str()) {
                self.ask("DELETE", &format!("connections/{}", percent(name)), None).await;
                closed += 1;
            }
        }
        closed
    }
}

/// Percent-encodes everything but letters and digits.
pub(super) fn percent(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a string");
        }
    }
    encoded
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for position in 0..4 {
            let sextet = (word >> (18 - 6 * position)) & 63;
            text.push(if position <= chunk.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_the_usual_ones() {
        assert_eq!(base64(b"user:pass"), "dXNlcjpwYXNz");
        assert_eq!(base64(b"a"), "YQ==");
        assert_eq!(base64(b"ab"), "YWI=");
        assert_eq!(percent("a b->c"), "a%20b%2D%3Ec");
    }
}
