//! From the flags that say where RabbitMQ and Redis are to what a connection is made with.
//!
//! Before anything connects: reads URLs from files where they are given so, reads the certificates, and refuses
//! a plain connection that leaves the machine, since the password would go in the clear. Nothing here may
//! print a URL, nor the part of one that may be a password.

use crate::{
    config::ServiceArgs,
    tls::{TlsFileError, TlsFiles},
};
use std::{io, net::IpAddr, path::Path, path::PathBuf};

/// A longer text is no URL.
const MAX_URL_BYTES: usize = 16 << 10;

/// Where one service is, and whom to trust there. Neither `Debug` nor `Display`: it holds the password.
pub struct ServiceUrl {
    /// The URL with its credentials.
    pub url: String,
    /// The certificates.
    pub tls: TlsFiles,
}

/// Why no connection may be tried.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A plain connection to another machine.
    #[error(
        "the connection to `{host}` would be plain, and the password readable on the way: use {scheme}s://, or \
         --insecure (TRAWL_INSECURE=true) if the network in between is yours"
    )]
    Plain {
        /// The host.
        host: String,
        /// The scheme of the URL.
        scheme: String,
    },
    /// A URL in which the password cannot be told from the host.
    #[error(
        "the {scheme}:// URL has an `@` after the host: write `/`, `?`, `#` and `@` in user and password as %2F, \
         %3F, %23 and %40"
    )]
    Doubtful {
        /// The scheme of the URL.
        scheme: String,
    },
    /// The file that should hold a URL.
    #[error("{variable} names `{}`, which holds no URL", path.display())]
    UrlFile {
        /// The flag or variable that names it.
        variable: &'static str,
        /// The file.
        path: PathBuf,
        /// Why, if it could not be read.
        source: Option<io::Error>,
    },
    /// A certificate file.
    #[error(transparent)]
    Tls(#[from] TlsFileError),
}

impl ServiceArgs {
    /// Where RabbitMQ is. Cancel safe.
    ///
    /// # Errors
    /// [`ServiceError`]; all of them are wrong usage.
    pub async fn amqp(&self) -> Result<ServiceUrl, ServiceError> {
        self.service(&self.amqp_url, self.amqp_url_file.as_deref(), "TRAWL_AMQP_URL_FILE").await
    }

    /// Where Redis is. Cancel safe.
    ///
    /// # Errors
    /// [`ServiceError`]; all of them are wrong usage.
    pub async fn redis(&self) -> Result<ServiceUrl, ServiceError> {
        self.service(&self.redis_url, self.redis_url_file.as_deref(), "TRAWL_REDIS_URL_FILE").await
    }

    /// Where another service is, that one program alone asks: by the same rules, from its `url` or from the file
    /// that `variable` names. `None` if neither is given. Cancel safe.
    ///
    /// # Errors
    /// [`ServiceError`]; all of them are wrong usage.
    pub async fn other(
        &self,
        url: Option<&str>,
        file: Option<&Path>,
        variable: &'static str,
    ) -> Result<Option<ServiceUrl>, ServiceError> {
        match (url, file) {
            (None, None) => Ok(None),
            _ => self.service(url.unwrap_or_default(), file, variable).await.map(Some),
        }
    }

    async fn service(
        &self,
        url: &str,
        file: Option<&Path>,
        variable: &'static str,
    ) -> Result<ServiceUrl, ServiceError> {
        let url = match file {
            None => url.to_owned(),
            Some(path) => {
                let none = |source| ServiceError::UrlFile { variable, path: path.to_owned(), source };
                let text = tokio::fs::read_to_string(path).await.map_err(|error| none(Some(error)))?;
                let url = text.trim();
                if url.is_empty() || url.len() > MAX_URL_BYTES || url.contains(char::is_control) {
                    return Err(none(None));
                }
                url.to_owned()
            }
        };
        if !self.insecure {
            refuse_plain(&url)?;
        }
        let tls =
            TlsFiles::read(self.tls_ca.as_deref(), self.tls_cert.as_deref(), self.tls_key.as_deref()).await?;
        Ok(ServiceUrl { url, tls })
    }
}

/// Refuses `amqp://`, `redis://` (or `valkey://`) and `http://` to a host that is not this one. What is no such URL is left
/// to the client that reads it.
pub(crate) fn refuse_plain(url: &str) -> Result<(), ServiceError> {
    let Some((scheme, rest)) = url.split_once("://") else { return Ok(()) };
    let scheme = scheme.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "amqp" | "redis" | "valkey" | "http") {
        return Ok(());
    }
    let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if tail.contains('@') {
        return Err(ServiceError::Doubtful { scheme });
    }
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((ipv6, _)) => ipv6,
        None => host.split(':').next().unwrap_or_default(),
    };
    let local = match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().is_loopback(),
        // Without a host the clients take this machine.
        Err(_) => host.is_empty() || host.eq_ignore_ascii_case("localhost"),
    };
    if local { Ok(()) } else { Err(ServiceError::Plain { host: host.to_owned(), scheme }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_connections_stay_on_this_machine() {
        for local in [
            "amqp://guest:guest@127.0.0.1:5672",
            "amqp://localhost/v",
            "AMQP://u:p@LocalHost",
            "redis://:p@127.9.9.9:1/0",
            "redis://[::1]:6379",
            "redis://[::ffff:127.0.0.1]",
            "amqp:///vhost",
            "amqps://u:p@rabbit",
            "rediss://:p@redis.example:6380",
            "unix:///run/redis.sock",
            "redis+unix:///run/redis.sock",
            "no url at all",
        ] {
            assert!(refuse_plain(local).is_ok(), "{local}");
        }
        for (away, host) in [
            ("amqp://u:canary@rabbit:5672/v", "rabbit"),
            ("redis://:canary@10.0.0.7", "10.0.0.7"),
            ("http://u:canary@rabbit:15672", "rabbit"),
            ("valkey://:canary@cache", "cache"),
            ("redis://0.0.0.0", "0.0.0.0"),
            ("amqp://u:canary@[fe80::1]:5672", "fe80::1"),
            ("amqp://u:canary@127.0.0.1.example.com", "127.0.0.1.example.com"),
            ("amqp://localhost:canary@rabbit", "rabbit"),
            ("amqp://u:can@ary@localhost.example", "localhost.example"),
        ] {
            let text = refuse_plain(away).expect_err(away).to_string();
            assert!(text.contains(&format!("`{host}`")) && text.contains("--insecure"), "{text}");
            assert!(!text.contains("canary") && !text.contains("ary@"), "{text}");
        }
        for doubtful in ["redis://can/ary@rabbit", "amqp://u:can#ary@rabbit", "amqp://u:can?ary@localhost"] {
            let text = refuse_plain(doubtful).expect_err(doubtful).to_string();
            assert!(!text.contains("can/") && !text.contains("ary") && text.contains("%23"), "{text}");
        }
    }
}
