//! A web server of the tests: files, ranges, redirects, and what a bad server does.
//!
//! On a free port of the loopback address and a thread of its own. Every request is kept, with its headers, so that a
//! test can tell what was sent, and that nothing was.

use crate::{
    background::{self, Background, Ear},
    gcs::part,
};
use futures::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What is behind a path.
#[derive(Debug, Clone)]
pub enum Page {
    /// Bytes, with ranges.
    File(Bytes),
    /// Bytes, whole only, and only by GET.
    Plain(Bytes),
    /// Bytes without end and without a length.
    Endless,
    /// On to another URL.
    Redirect(u16, String),
    /// Nothing but a status.
    Status(u16),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
}

#[derive(Default)]
struct State {
    pages: BTreeMap<String, Page>,
    asked: Vec<Asked>,
}

/// A running server; dropping it ends it.
pub struct WebFiles {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _server: Background<()>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WebFiles {
    /// An empty one.
    ///
    /// # Panics
    /// If there is no port or no thread to be had.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket of ours");
        let address = listener.local_addr().expect("a bound socket");
        let state = Arc::<Mutex<State>>::default();
        let told = state.clone();
        let server = Background::start("web files", (), move |ear| serve(listener, ear, told));
        Self { address, state, _server: server }
    }

    /// Puts a page at a path (with its query), which begins with a slash.
    pub fn set(&self, path: &str, page: Page) {
        lock(&self.state).pages.insert(path.to_owned(), page);
    }

    /// The URL of a path, by the server's address.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.state).asked.clone()
    }
}

async fn serve(listener: std::net::TcpListener, ear: Ear<()>, state: Arc<Mutex<State>>) {
    background::accept(listener, ear, |client, _| {
        let state = state.clone();
        let service = service_fn(move |request| {
            let answer = answer(&request, &state);
            async move { Ok::<_, Infallible>(answer) }
        });
        Some(http1::Builder::new().serve_connection(TokioIo::new(client), service))
    })
    .await;
}

type Body = BoxBody<Bytes, Infallible>;

fn answer(request: &Request<Incoming>, state: &Mutex<State>) -> Response<Body> {
    let mut state = lock(state);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let (method, headers) = (request.method().clone(), request.headers().clone());
    state.asked.push(Asked { method: method.clone(), path: path.clone(), headers: headers.clone() });
    let builder = Response::builder();
    let empty = || Full::default().boxed();
    let built = match state.pages.get(&path) {
        None => builder.status(StatusCode::NOT_FOUND).body(empty()),
        Some(Page::Status(status)) => builder.status(*status).body(empty()),
        Some(Page::Redirect(status, target)) => {
            builder.status(*status).header(header::LOCATION, target).body(empty())
        }
        Some(Page::Endless) => {
            let chunk = || Ok(Frame::data(Bytes::from_static(&[0x5a; 4096])));
            builder.body(BodyExt::boxed(StreamBody::new(stream::repeat_with(chunk))))
        }
        Some(Page::Plain(_)) if method != Method::GET => {
            builder.status(StatusCode::METHOD_NOT_ALLOWED).body(empty())
        }
        Some(Page::Plain(bytes)) => builder.body(Full::new(bytes.clone()).boxed()),
        Some(Page::File(bytes)) => {
            let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
            let builder = builder
                .header(header::ETAG, "W/\"tag\"")
                .header(header::LAST_MODIFIED, "Mon, 27 Jan 2014 22:48:29 GMT");
            match range.map(|range| part(range, bytes.len())) {
                None => builder.body(Full::new(bytes.clone()).boxed()),
                Some(None) => builder.status(StatusCode::RANGE_NOT_SATISFIABLE).body(empty()),
                Some(Some((begin, end))) => builder
                    .status(StatusCode::PARTIAL_CONTENT)
                    .header(header::CONTENT_RANGE, format!("bytes {begin}-{}/{}", end - 1, bytes.len()))
                    .body(Full::new(bytes.slice(begin..end)).boxed()),
            }
        }
    };
    built.expect("a good answer")
}
