//! Builds object_store's clients from the clouds' own environment variables.
//!
//! When a store is first opened; nothing is sent. The files that the variables name are read here, off tokio's
//! threads. What is wrong with them is kept, and said by the first call, since opening a store cannot fail. It must
//! never put a value of a variable into that text.

use super::errors::without_values;
use super::witness::Connector;
use crate::{
    location::AzureAccount,
    storage::{s3, wire::Wire, wire::guard::Addresses},
};
use object_store::{
    ObjectStore, RetryConfig, StaticCredentialProvider,
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GcpCredential, GoogleCloudStorageBuilder, GoogleConfigKey},
    list::PaginatedListStore,
};
use std::{env, fmt, sync::Arc, time::Duration};

/// A store's client, both of its faces.
pub(super) struct Client {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) lister: Arc<dyn PaginatedListStore>,
    /// Whether the machine's metadata service is who gives out tokens: where there is none, there are no credentials.
    pub(super) asks_the_machine: bool,
}

/// Where a GCS is, given outright instead of taken from the environment.
#[derive(Clone)]
pub struct GcsConfig {
    /// For example `http://127.0.0.1:4443`.
    pub base_url: String,
    /// The bearer token; without one nothing is signed.
    pub token: Option<String>,
}

/// Where an Azure is and who we are, given outright instead of taken from the environment.
#[derive(Clone)]
pub struct AzureConfig {
    /// For example `http://127.0.0.1:10000/devstoreaccount1`.
    pub endpoint: String,
    /// The account.
    pub account: String,
    /// Its key, in base64.
    pub key: String,
}

impl fmt::Debug for GcsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcsConfig").field("token", &self.token.is_some()).finish_non_exhaustive()
    }
}

impl fmt::Debug for AzureConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureConfig").field("account", &self.account).finish_non_exhaustive()
    }
}

/// One request is one attempt; the policy of all stores is around it.
fn no_retries() -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() }
}

async fn connector(bucket: &str) -> Connector {
    Connector { wire: Wire::open(Addresses::Any).await, bucket: bucket.to_owned() }
}

/// A bucket of GCS.
pub(super) async fn gcs(bucket: &str, config: Option<GcsConfig>) -> Result<Client, String> {
    let connector = connector(bucket).await;
    let bucket = bucket.to_owned();
    crate::offload::offload(move || {
        let given = config.is_some();
        let builder = match config {
            Some(GcsConfig { base_url, token: Some(token) }) => {
                GoogleCloudStorageBuilder::new().with_base_url(&base_url).with_bearer_token(token)
            }
            Some(GcsConfig { base_url, token: None }) => {
                GoogleCloudStorageBuilder::new().with_base_url(&base_url).with_skip_signature(true)
            }
            None => gcs_from_env(),
        };
        let anonymous = builder.get_config_value(&GoogleConfigKey::SkipSignature);
        let builder = match anonymous.map(|value| value.to_ascii_lowercase()).as_deref() {
            // object_store asks for a token before it writes, even so.
            Some("true" | "1" | "on" | "yes" | "y") => {
                builder.with_credentials(Arc::new(StaticCredentialProvider::new(nobody())))
            }
            _ => builder,
        };
        let built = builder
            .with_bucket_name(bucket)
            .with_http_connector(connector)
            .with_retry(no_retries())
            .build()
            .map_err(|error| said(&error))?;
        let store = Arc::new(built);
        let named =
            ["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_KEY"];
        let asks_the_machine = !given && named.iter().all(|name| env::var_os(name).is_none());
        Ok(Client { objects: store.clone(), lister: store, asks_the_machine })
    })
    .await
}

fn nobody() -> GcpCredential {
    GcpCredential { bearer: String::new() }
}

fn gcs_from_env() -> GoogleCloudStorageBuilder {
    let builder = GoogleCloudStorageBuilder::from_env();
    // The variable of Google's own libraries; object_store has another for the address, and asks for a token there too.
    match env::var("STORAGE_EMULATOR_HOST") {
        Ok(host) if !host.is_empty() && env::var_os("GOOGLE_BASE_URL").is_none() => {
            let url = if host.contains("://") { host } else { format!("http://{host}") };
            builder.with_base_url(url.trim_end_matches('/')).with_skip_signature(true)
        }
        _ => builder,
    }
}

/// A container of Azure.
pub(super) async fn azure(
    container: &str,
    account: Option<AzureAccount>,
    config: Option<AzureConfig>,
) -> Result<Client, String> {
    let connector = connector(container).await;
    let container = container.to_owned();
    crate::offload::offload(move || {
        let given = config.is_some();
        let builder = match config {
            Some(AzureConfig { endpoint, account, key }) => MicrosoftAzureBuilder::new()
                .with_endpoint(endpoint)
                .with_account(account)
                .with_access_key(key)
                .with_allow_http(true),
            None => azure_from_env(account)?,
        };
        let key = |key| builder.get_config_value(&key).is_some();
        let asks_the_machine =
            !given && !key(AzureConfigKey::ClientSecret) && !key(AzureConfigKey::FederatedTokenFile);
        let built = builder
            .with_container_name(container)
            .with_http_connector(connector)
            .with_retry(no_retries())
            .build()
            .map_err(|error| said(&error))?;
        let store = Arc::new(built);
        Ok(Client { objects: store.clone(), lister: store, asks_the_machine })
    })
    .await
}

fn azure_from_env(account: Option<AzureAccount>) -> Result<MicrosoftAzureBuilder, String> {
    let mut builder = MicrosoftAzureBuilder::from_env();
    if env::var_os("AZURE_STORAGE_USE_EMULATOR").is_none()
        && env::var_os("AZURITE_BLOB_STORAGE_URL").is_some()
    {
        builder = builder.with_use_emulator(true);
    }
    if let Ok(text) = env::var("AZURE_STORAGE_CONNECTION_STRING") {
        builder = connection_string(builder, &text)?;
    }
    match account {
        None => Ok(builder),
        Some(AzureAccount { name, cloud }) => {
            let builder = match cloud.as_str() {
                "core.windows.net" => builder,
                _ => builder.with_endpoint(format!("https://{name}.blob.{cloud}")),
            };
            Ok(builder.with_account(name))
        }
    }
}

/// What Azure's portal gives to copy. Single variables that are set as well go first.
fn connection_string(
    mut builder: MicrosoftAzureBuilder,
    text: &str,
) -> Result<MicrosoftAzureBuilder, String> {
    let mut suffix = "core.windows.net";
    let mut protocol = "https";
    for part in text.split(';').filter(|part| !part.trim().is_empty()) {
        let Some((name, value)) = part.split_once('=') else {
            return Err("AZURE_STORAGE_CONNECTION_STRING is not of the form Name=value;Name=value".to_owned());
        };
        let key = match name.trim() {
            "AccountName" => AzureConfigKey::AccountName,
            "AccountKey" => AzureConfigKey::AccessKey,
            "SharedAccessSignature" => AzureConfigKey::SasKey,
            "BlobEndpoint" => AzureConfigKey::Endpoint,
            "EndpointSuffix" => {
                suffix = value;
                continue;
            }
            "DefaultEndpointsProtocol" => {
                protocol = value;
                continue;
            }
            // The other services of the account.
            _ => continue,
        };
        if builder.get_config_value(&key).is_none() {
            builder = builder.with_config(key, value);
        }
    }
    if protocol == "http" {
        builder = builder.with_allow_http(true);
    }
    let account = builder.get_config_value(&AzureConfigKey::AccountName);
    if let (Some(account), None) = (account, builder.get_config_value(&AzureConfigKey::Endpoint)) {
        builder = builder.with_endpoint(format!("{protocol}://{account}.blob.{suffix}"));
    }
    Ok(builder)
}

/// What is wrong with the variables, and which they are.
fn said(error: &object_store::Error) -> String {
    let text = s3::chain(error);
    if text.contains("Account must be specified") {
        return "which account? Set AZURE_STORAGE_ACCOUNT_NAME, or write \
                abfss://container@account.dfs.core.windows.net/path"
            .to_owned();
    }
    without_values(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_is_read() {
        let text = "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=a2V5PQ==;EndpointSuffix=core.chinacloudapi.cn";
        let read = connection_string(MicrosoftAzureBuilder::new(), text).unwrap();
        let value = |key| read.get_config_value(&key);
        assert_eq!(value(AzureConfigKey::AccountName).as_deref(), Some("acct"));
        assert_eq!(value(AzureConfigKey::AccessKey).as_deref(), Some("a2V5PQ=="));
        let endpoint = value(AzureConfigKey::Endpoint);
        assert_eq!(endpoint.as_deref(), Some("https://acct.blob.core.chinacloudapi.cn"));
        let text = "BlobEndpoint=http://127.0.0.1:1/acct;AccountName=other;DefaultEndpointsProtocol=http;";
        let read = connection_string(MicrosoftAzureBuilder::new().with_account("mine"), text).unwrap();
        assert_eq!(read.get_config_value(&AzureConfigKey::AccountName).as_deref(), Some("mine"));
        let endpoint = read.get_config_value(&AzureConfigKey::Endpoint);
        assert_eq!(endpoint.as_deref(), Some("http://127.0.0.1:1/acct"));
        let error = connection_string(MicrosoftAzureBuilder::new(), "canary").unwrap_err();
        assert!(!error.contains("canary") && error.contains("AZURE_STORAGE_CONNECTION_STRING"), "{error}");
    }
}
