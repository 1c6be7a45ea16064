//! A collector of traces: takes OTLP over HTTP as the standard has it, and keeps every span for the test.
//!
//! On a free port and a thread of its own. A silent one takes connections and requests and never answers.

use crate::background::{self, Background, Ear};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span as Sent, span::SpanKind},
};
use prost::Message;
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The largest request: 512 spans of a kilobyte, many times over.
const MAX_REQUEST_BYTES: usize = 16 << 20;

/// A span as it was sent, ids in hex.
#[derive(Debug, Clone)]
pub struct Span {
    /// Who sent it.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: SpanKind,
    /// The trace that it belongs to.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// The id of the span it is a child of; empty for a root.
    pub parent: String,
    /// Trace and span ids of those it is linked to.
    pub links: Vec<(String, String)>,
    /// Its attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Whether its work failed.
    pub failed: bool,
    /// Nanoseconds since 1970.
    pub began: u64,
    /// The same.
    pub ended: u64,
}

impl Span {
    /// An attribute; empty if it has none of that name.
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

#[derive(Default)]
struct Kept {
    connections: usize,
    spans: Vec<Span>,
    /// The headers of all requests, by name.
    headers: BTreeMap<String, String>,
}

/// The collector; dropping it ends it.
pub struct Collector {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    _server: Background<()>,
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector {
    /// One that answers.
    ///
    /// # Panics
    /// If there is no port or no thread to be had.
    pub fn start() -> Self {
        Self::with(false)
    }

    /// One that takes everything and never answers.
    ///
    /// # Panics
    /// If there is no port or no thread to be had.
    pub fn silent() -> Self {
        Self::with(true)
    }

    fn with(silent: bool) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket of ours");
        let address = listener.local_addr().expect("a bound socket");
        let kept = Arc::<Mutex<Kept>>::default();
        let told = kept.clone();
        let server = Background::start("collector", (), move |ear| serve(listener, ear, told, silent));
        Self { address, kept, _server: server }
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is set to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Connections since the start.
    pub fn connections(&self) -> usize {
        lock(&self.kept).connections
    }

    /// The spans so far.
    pub fn spans(&self) -> Vec<Span> {
        lock(&self.kept).spans.clone()
    }

    /// A header of the latest request that had it.
    pub fn header(&self, name: &str) -> Option<String> {
        lock(&self.kept).headers.get(name).cloned()
    }
}

async fn serve(listener: std::net::TcpListener, ear: Ear<()>, kept: Arc<Mutex<Kept>>, silent: bool) {
    background::accept(listener, ear, |client, _| {
        lock(&kept).connections += 1;
        let kept = kept.clone();
        let service = service_fn(move |request| answer(request, kept.clone(), silent));
        Some(http1::Builder::new().serve_connection(TokioIo::new(client), service))
    })
    .await;
}

async fn answer(
    request: Request<Incoming>,
    kept: Arc<Mutex<Kept>>,
    silent: bool,
) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_REQUEST_BYTES).collect().await.map_err(io::Error::other)?.to_bytes();
    if silent {
        std::future::pending::<()>().await;
    }
    assert_eq!((&head.method, head.uri.path()), (&Method::POST, "/v1/traces"));
    assert_eq!(head.headers[header::CONTENT_TYPE], "application/x-protobuf");
    let request = ExportTraceServiceRequest::decode(body).map_err(io::Error::other)?;
    let mut kept = lock(&kept);
    let text = |value: &header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    kept.headers.extend(head.headers.iter().map(|(name, value)| (name.to_string(), text(value))));
    for of_resource in request.resource_spans {
        let resource = texts(of_resource.resource.map(|resource| resource.attributes).unwrap_or_default());
        let service = resource.get("service.name").cloned().unwrap_or_default();
        let sent = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
        kept.spans.extend(sent.map(|span| read(span, service.clone())));
    }
    // An empty message says that all was taken.
    Ok(Response::new(Full::default()))
}

fn read(span: Sent, service: String) -> Span {
    Span {
        service,
        kind: span.kind(),
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        attributes: texts(span.attributes),
        // 2 is `STATUS_CODE_ERROR`.
        failed: span.status.is_some_and(|status| status.code == 2),
        began: span.start_time_unix_nano,
        ended: span.end_time_unix_nano,
        name: span.name,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(n)) => n.to_string(),
        Some(Value::DoubleValue(n)) => n.to_string(),
        Some(Value::BoolValue(yes)) => yes.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}
