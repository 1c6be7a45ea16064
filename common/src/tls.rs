//! One TLS implementation for every connection: rustls with ring.
//!
//! S3 names its provider itself; the clients of Redis and RabbitMQ take the process-wide one, which has to
//! be chosen before the first `rediss://` or `amqps://` connection.

/// Chooses ring for the whole process. Calling it again, or after somebody else chose, changes nothing.
pub fn install_crypto_provider() {
    // The error is the provider that is there already, which is what we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    #[test]
    fn can_be_called_twice() {
        super::install_crypto_provider();
        super::install_crypto_provider();
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }
}
