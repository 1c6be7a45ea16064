//! TLS for every connection: rustls with ring, and the files of a private CA and of a client certificate.
//!
//! S3 names its provider itself; the clients of Redis and RabbitMQ take the process-wide one, which has to
//! be chosen before the first `rediss://` or `amqps://` connection. The files are read once, at the start, so
//! that a wrong one is an error of the command line and not of a reconnect. A private key must never get into
//! a text: `Debug` shows nothing.

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// A larger file is no certificate: the bundle of all public CAs has 200 KiB.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Chooses ring for the whole process. Calling it again, or after somebody else chose, changes nothing.
pub fn install_crypto_provider() {
    // The error is the provider that is there already, which is what we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A certificate file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// It cannot be read.
    #[error("{flag} `{}` cannot be read", path.display())]
    Unreadable {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error("{flag} `{}` is of no use: {reason}; it must be PEM", path.display())]
    Unusable {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never its content.
        reason: String,
    },
    /// A certificate without its key, or the other way round.
    #[error("--tls-cert and --tls-key go together: give both (TRAWL_TLS_CERT, TRAWL_TLS_KEY) or neither")]
    Half,
}

/// Whom to trust and who we are, for `amqps://` and `rediss://`. The default trusts the system's certificates
/// and shows none. Cheap to clone.
#[derive(Clone, Default)]
pub struct TlsFiles {
    ca: Option<Arc<[u8]>>,
    identity: Option<Arc<Identity>>,
}

/// A client certificate with its key, both PEM.
struct Identity {
    chain: Vec<u8>,
    key: Vec<u8>,
}

type ParsedIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsFiles")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

impl TlsFiles {
    /// Reads PEM files: the CA's certificates, which then are the only ones that are trusted, and the client's
    /// certificate chain with its key. Cancel safe.
    ///
    /// # Errors
    /// [`TlsFileError`] if one is unreadable, holds no certificate or key, or certificate and key do not match.
    pub async fn read(
        ca: Option<&Path>,
        cert: Option<&Path>,
        key: Option<&Path>,
    ) -> Result<Self, TlsFileError> {
        let mut files = Self::default();
        if let Some(path) = ca {
            let pem = read("--tls-ca", path).await?;
            roots(&pem).map_err(|reason| unusable("--tls-ca", path, reason))?;
            files.ca = Some(pem.into());
        }
        match (cert, key) {
            (None, None) => {}
            (Some(cert), Some(key)) => {
                let identity =
                    Identity { chain: read("--tls-cert", cert).await?, key: read("--tls-key", key).await? };
                certificates(&identity.chain).map_err(|reason| unusable("--tls-cert", cert, reason))?;
                // Building a configuration is what compares the two.
                identity
                    .parsed()
                    .and_then(|parsed| client(RootCertStore::empty(), Some(parsed)))
                    .map_err(|reason| unusable("--tls-key", key, reason))?;
                files.identity = Some(Arc::new(identity));
            }
            _ => return Err(TlsFileError::Half),
        }
        Ok(files)
    }

    /// Whether nothing was given.
    pub(crate) fn is_empty(&self) -> bool {
        self.ca.is_none() && self.identity.is_none()
    }

    /// A configuration that trusts the given CA alone; `None` if none was given.
    pub(crate) fn private_ca(&self) -> Option<Result<ClientConfig, String>> {
        let ca = self.ca.as_ref()?;
        let identity = self.identity.as_ref().map(|identity| identity.parsed()).transpose();
        Some(roots(ca).and_then(|roots| client(roots, identity?)))
    }

    /// A configuration that trusts the given CA, or the system's certificates if none was given.
    ///
    /// # Errors
    /// In words, if the files do not fit together or the system has no certificates.
    pub fn client_config(&self) -> Result<ClientConfig, String> {
        if let Some(private) = self.private_ca() {
            return private;
        }
        let mut roots = RootCertStore::empty();
        // Certificates that are not readable are passed over, as the clients of the other services do.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err("the system has no certificates; give the CA's with --tls-ca".to_owned());
        }
        client(roots, self.identity.as_ref().map(|identity| identity.parsed()).transpose()?)
    }

    /// Certificate chain and key of the client, both PEM.
    pub(crate) fn identity(&self) -> Option<(&[u8], &[u8])> {
        self.identity.as_ref().map(|identity| (identity.chain.as_slice(), identity.key.as_slice()))
    }

    /// Certificates of the CA, PEM.
    pub(crate) fn ca(&self) -> Option<&[u8]> {
        self.ca.as_deref()
    }
}

impl Identity {
    fn parsed(&self) -> Result<ParsedIdentity, String> {
        let key = PrivateKeyDer::from_pem_slice(&self.key);
        Ok((certificates(&self.chain)?, key.map_err(|_| "it holds no private key".to_owned())?))
    }
}

/// What a failed handshake asks for, behind the library's own words.
pub(crate) fn with_remedy(reason: String) -> String {
    // Both clients hand on rustls's words: its errors have no type that survives the way here.
    let remedies = [
        ("UnknownIssuer", "its CA is not trusted here, give the CA's certificate with --tls-ca"),
        ("CaUsedAsEndEntity", "its CA is not trusted here, give the CA's certificate with --tls-ca"),
        ("NotValidForName", "the server's certificate is for another host name"),
        ("not valid for name", "the server's certificate is for another host name"),
        ("certificate expired", "the server's certificate must be renewed"),
        ("CertificateRequired", "the server asks for a client certificate, give --tls-cert and --tls-key"),
        ("UnknownCA", "the server does not trust the client certificate of --tls-cert"),
        ("HandshakeFailure", "if the server asks for a client certificate, give --tls-cert and --tls-key"),
    ];
    match remedies.iter().find(|(sign, _)| reason.contains(sign)) {
        Some((_, remedy)) => format!("{reason} ({remedy})"),
        None => reason,
    }
}

async fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, TlsFileError> {
    use tokio::io::AsyncReadExt;
    let failed = |source| TlsFileError::Unreadable { flag, path: path.to_owned(), source };
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).await.map_err(failed)?;
    Ok(bytes)
}

fn unusable(flag: &'static str, path: &Path, reason: String) -> TlsFileError {
    TlsFileError::Unusable { flag, path: path.to_owned(), reason }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("it holds no certificate".to_owned()),
        Err(_) => Err("it is broken".to_owned()),
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(pem)? {
        store.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(store)
}

/// A client's configuration for plain connections: no certificate is good enough for it.
pub(crate) fn trusting_nobody() -> ClientConfig {
    client(RootCertStore::empty(), None).expect("ring speaks TLS 1.2 and 1.3")
}

/// A client's configuration with ring, whatever the process has chosen.
fn client(roots: RootCertStore, identity: Option<ParsedIdentity>) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    match identity {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| format!("it does not fit the certificate: {error}")),
        None => Ok(builder.with_no_client_auth()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn can_be_called_twice() {
        install_crypto_provider();
        install_crypto_provider();
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }

    #[tokio::test]
    async fn wrong_files_are_named_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let junk = dir.path().join("junk.pem");
        std::fs::write(&junk, "-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n").unwrap();
        let missing = dir.path().join("missing.pem");
        let told = async |ca, cert, key| {
            let error = TlsFiles::read(ca, cert, key).await.expect_err("no certificates");
            let text = format!("{error} {error:?}");
            assert!(!text.contains("canary"), "{text}");
            text
        };
        assert!(told(Some(missing.as_path()), None, None).await.contains("missing.pem"));
        assert!(told(Some(junk.as_path()), None, None).await.contains("no certificate"));
        assert!(told(None, Some(junk.as_path()), Some(junk.as_path())).await.contains("--tls-cert"));
        assert!(told(None, Some(junk.as_path()), None).await.contains("go together"));
        assert!(TlsFiles::read(None, None, None).await.unwrap().is_empty());
    }

    #[test]
    fn a_failed_handshake_says_what_to_give() {
        let told = with_remedy("invalid peer certificate: UnknownIssuer".to_owned());
        assert!(told.contains("--tls-ca"), "{told}");
        assert_eq!(with_remedy("Connection refused".to_owned()), "Connection refused");
    }
}
