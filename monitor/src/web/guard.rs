//! What every request and every answer goes through.
//!
//! A page of somebody else's that has its own name point at this machine must not read what is served here: only known
//! names are answered. Answers say what a browser may do with them, which is next to nothing. Every request has an end.

use super::answers::Refusal;
use crate::Monitor;
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, uri::Authority},
    middleware::Next,
    response::IntoResponse,
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// For an answer to begin: the slowest is a thumbnail of a large image from a slow store.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Scripts, styles, images and questions from here alone; no frames, no forms, nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// The names by which the pages may be asked for.
#[derive(Debug, Clone)]
pub struct Guard {
    listen: SocketAddr,
    names: Vec<String>,
    /// Whether browsers come over https.
    pub https: bool,
}

/// Who is at the other end of the connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

impl Guard {
    /// For a monitor that listens at `listen`; `names` are allowed besides, with any port or with their own.
    pub fn new(listen: SocketAddr, names: &[String], https: bool) -> Self {
        Self { listen, names: names.iter().map(|name| name.trim().to_ascii_lowercase()).collect(), https }
    }

    /// Whether a request for `host` may be answered. Probes and scrapers ask by address, which no foreign page can.
    fn admits(&self, host: &str, path: &str) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        let name = authority.host().to_ascii_lowercase();
        let address: Option<IpAddr> = name.trim_matches(['[', ']']).parse().ok();
        let loopback =
            name == "localhost" || address.is_some_and(|address| address.to_canonical().is_loopback());
        let own = address == Some(self.listen.ip());
        let named = self.names.iter().any(|known| *known == name || *known == host.to_ascii_lowercase());
        let by_machine = matches!(path, "/metrics" | "/livez" | "/readyz") && address.is_some();
        loopback || own || named || by_machine
    }
}

/// The name that was asked for.
pub fn host(headers: &HeaderMap) -> Option<&str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next()?.to_str().ok()?;
    hosts.next().is_none().then_some(host)
}

/// The layer.
pub async fn guard(State(monitor): State<Arc<Monitor>>, request: Request, next: Next) -> Response<Body> {
    let admitted = host(request.headers()).map(|host| monitor.guard.admits(host, request.uri().path()));
    let mut answer = match admitted {
        None => Refusal::bad_request("the request names no host").into_response(),
        Some(false) => Refusal::new(
            StatusCode::FORBIDDEN,
            "these pages are not served under this name: start trawl-monitor with --allow-host NAME if they should be",
        )
        .into_response(),
        Some(true) => match tokio::time::timeout(ANSWER_TIMEOUT, next.run(request)).await {
            Ok(answer) => answer,
            Err(_) => Refusal::new(StatusCode::GATEWAY_TIMEOUT, "the answer took too long").into_response(),
        },
    };
    protect(answer.headers_mut(), monitor.guard.https);
    answer
}

fn protect(headers: &mut HeaderMap, https: bool) {
    let fixed: [(HeaderName, &'static str); 6] = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if https {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_names_are_answered() {
        let guard = Guard::new(
            "10.0.0.7:8265".parse().unwrap(),
            &["Trawl.example".into(), "proxy:443".into()],
            false,
        );
        for host in [
            "localhost",
            "localhost:8265",
            "LOCALHOST:1",
            "127.0.0.1:8265",
            "127.0.0.9",
            "[::1]:8265",
            "10.0.0.7:8265",
            "trawl.example",
            "trawl.EXAMPLE:8443",
            "proxy:443",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(guard.admits(host, "/api/jobs"), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.8",
            "proxy",
            "a b",
            "@",
            "trawl.example.evil",
            "169.254.169.254",
        ] {
            assert!(!guard.admits(host, "/api/jobs"), "{host}");
        }
        for path in ["/livez", "/readyz", "/metrics"] {
            assert!(guard.admits("10.1.2.3:8265", path), "a probe asks by the pod's address");
            assert!(!guard.admits("evil.example", path));
        }
    }

    #[test]
    fn two_hosts_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(host(&headers), None);
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        assert_eq!(host(&headers), Some("localhost"));
        headers.append(header::HOST, HeaderValue::from_static("evil.example"));
        assert_eq!(host(&headers), None);
    }
}
