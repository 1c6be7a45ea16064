//! Sends spans to the collector, over the HTTP client that the AWS SDK has brought into the tree.
//!
//! At the end of a span's life, on the exporter's thread; the requests themselves run on the process's runtime. Every
//! request has a time limit. The first one that fails is said in one warning, the others at debug level: a collector
//! that is away must not fill a log. What is sent, its headers and what is answered are never logged.

use crate::{
    telemetry::Redacted,
    tls::{self, TlsFiles},
};
use async_trait::async_trait;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Handle, time::timeout};

/// An answer says how many spans were refused, and why, in a line.
const MAX_ANSWER_BYTES: usize = 64 << 10;

type Client = legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// The client of the exporter.
pub(super) struct Collector {
    client: Client,
    runtime: Handle,
    patience: Duration,
    /// Without credentials.
    endpoint: String,
    /// Whether it was said that it does not work.
    said: Arc<AtomicBool>,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Collector {
    /// A client for `endpoint`, whose requests run on `runtime` and take no longer than `patience`. Connects to nothing.
    pub(super) fn new(endpoint: &str, runtime: Handle, patience: Duration) -> Result<Self, String> {
        // The system's certificates are read for those who need them.
        let tls = match endpoint.starts_with("https:") {
            true => TlsFiles::default().client_config()?,
            false => tls::trusting_nobody(),
        };
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let client = legacy::Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector);
        let (endpoint, said) = (Redacted(endpoint).to_string(), Arc::default());
        Ok(Self { client, runtime, patience, endpoint, said })
    }

    fn say(&self, reason: &str) {
        let endpoint = &self.endpoint;
        if self.said.swap(true, Ordering::Relaxed) {
            tracing::debug!(endpoint, reason, "traces were not sent");
        } else {
            tracing::warn!(
                endpoint,
                reason,
                "traces cannot be sent and are dropped while that lasts; the work goes on. Is the collector of \
                 OTEL_EXPORTER_OTLP_ENDPOINT running, and does it take OTLP over HTTP there (mostly port 4318)?"
            );
        }
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The exporter's thread has no runtime of its own.
        let (client, patience) = (self.client.clone(), self.patience);
        let sending = self.runtime.spawn(async move { timeout(patience, send(&client, request)).await });
        let failed = match sending.await {
            Ok(Ok(Ok(answer))) if answer.status().is_success() => return Ok(answer),
            Ok(Ok(Ok(answer))) => {
                self.say(&format!("it answered with status {}", answer.status().as_u16()));
                return Ok(answer);
            }
            Ok(Ok(Err(reason))) => reason,
            Ok(Err(_)) => format!("no answer within {patience:?}"),
            // The process is about to end.
            Err(_) => return Err("the runtime has ended".into()),
        };
        self.say(&failed);
        Err(failed.into())
    }
}

async fn send(client: &Client, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
    let answer =
        client.request(request.map(Full::new)).await.map_err(|error| crate::disposition::describe(&error))?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| error.to_string())?;
    Ok(Response::from_parts(head, body.to_bytes()))
}
