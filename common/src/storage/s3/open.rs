//! Who we are to S3 and where it is: the client, from the environment or from what is given outright.
//!
//! When a store is first opened; nothing is sent. It must never put a secret into a text.

use super::{READ_TIMEOUT, S3Bucket, S3Storage};
use crate::{storage::counted::Counted, telemetry::Redacted};
use aws_config::{
    environment::EnvironmentVariableRegionProvider, meta::region::RegionProviderChain,
    profile::ProfileFileRegionProvider, retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig, timeout::TimeoutConfig,
};
use aws_sdk_s3::{
    Client, Config,
    config::{BehaviorVersion, Credentials, IdentityCache, Region, SharedHttpClient},
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use std::{env, fmt, time::Duration};

/// For the TCP and TLS handshakes. A store that takes longer is as good as away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A body that brings nothing for this long is given up. The SDK's 5 s are too short for a loaded store.
const STALL_GRACE: Duration = Duration::from_secs(20);

/// For finding credentials. The last place that is asked is the metadata service of an EC2 machine, which
/// elsewhere does not answer at all; without a bound of our own that is a minute of silence.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);

/// What S3 takes for a bucket that says nothing else; other stores do not care.
const DEFAULT_REGION: &str = "us-east-1";

/// Variables that switch signatures off, for public buckets: ours, and the one that readers of tables have.
const ANONYMOUS: [&str; 2] = ["TRAWL_S3_ANONYMOUS", "AWS_SKIP_SIGNATURE"];

/// Where the bucket stands in a request: `path` or `virtual` (in the host's name). The default is `path` for an endpoint
/// of one's own, as servers at an address have to have it.
const ADDRESSING: &str = "TRAWL_S3_ADDRESSING";

/// Where a store is and who we are, given outright instead of taken from the environment.
#[derive(Clone)]
pub struct S3Config {
    /// For example `http://127.0.0.1:9000`.
    pub endpoint: String,
    /// For example `us-east-1`.
    pub region: String,
    /// The id of the access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Config")
            .field("endpoint", &Redacted(&self.endpoint))
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

impl S3Storage {
    /// The bucket as the environment describes its store: `AWS_ENDPOINT_URL` (then with the bucket in the path, unless
    /// `TRAWL_S3_ADDRESSING` says otherwise), `AWS_REGION`, `AWS_PROFILE` and the files of the AWS tools, and their ways
    /// to find credentials, or none of them (`TRAWL_S3_ANONYMOUS`).
    /// Nothing is sent: the first request says whether bucket and credentials are good.
    pub async fn from_env(bucket: &str) -> Self {
        // Not the default chain for regions, which ends at the EC2 metadata service.
        let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
            .or_else(ProfileFileRegionProvider::new())
            .or_else(Region::from_static(DEFAULT_REGION));
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .region(region)
            .http_client(http_client())
            .timeout_config(timeouts(READ_TIMEOUT))
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(stall_protection())
            .identity_cache(IdentityCache::lazy().load_timeout(CREDENTIALS_TIMEOUT).build());
        if ANONYMOUS.iter().any(|name| is_on(env::var(name).ok().as_deref())) {
            loader = loader.no_credentials();
        }
        let shared = loader.load().await;
        let own_endpoint = shared.endpoint_url().is_some() || env::var_os("AWS_ENDPOINT_URL_S3").is_some();
        let path_style = match env::var(ADDRESSING).as_deref() {
            Ok("path") => true,
            Ok("virtual") => false,
            _ => own_endpoint,
        };
        let config = aws_sdk_s3::config::Builder::from(&shared).force_path_style(path_style).build();
        Self::new(Counted::new(S3Bucket::new(bucket, Client::from_conf(config))))
    }

    /// The bucket at a store that is described outright; the environment plays no part.
    pub fn with_config(bucket: &str, config: S3Config) -> Self {
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .endpoint_url(config.endpoint)
            .region(Region::new(config.region))
            .credentials_provider(Credentials::new(config.access_key, config.secret_key, None, None, "given"))
            .force_path_style(true)
            .http_client(http_client())
            .timeout_config(timeouts(READ_TIMEOUT))
            .retry_config(RetryConfig::disabled())
            .stalled_stream_protection(stall_protection())
            .build();
        Self::new(Counted::new(S3Bucket::new(bucket, Client::from_conf(config))))
    }
}

/// Whether a variable switches something on.
fn is_on(value: Option<&str>) -> bool {
    value.is_some_and(|value| {
        !matches!(value.to_ascii_lowercase().as_str(), "" | "0" | "false" | "no" | "off")
    })
}

pub(super) fn http_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

pub(super) fn timeouts(read: Duration) -> TimeoutConfig {
    TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).read_timeout(read).build()
}

fn stall_protection() -> StalledStreamProtectionConfig {
    StalledStreamProtectionConfig::enabled().grace_period(STALL_GRACE).build()
}
