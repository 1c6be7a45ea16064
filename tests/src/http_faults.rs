//! A front for an S3 server that answers as a store does on a bad day.
//!
//! It speaks HTTP/1.1: requests reach the server with method, path, headers and body as they came (the Host
//! header is signed), unless a rule says otherwise. Rules are tried in their order, by a seeded dice. Bodies are
//! held whole, so that a lost reply is lost entirely and a put that is forwarded has happened.

use crate::background::{self, Background, Dice, Ear};
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    client, header, server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::net::TcpStream;

/// The largest body held: four times the largest object of a test.
const MAX_BODY_BYTES: usize = 64 << 20;

/// Connections at once; more are closed. A worker opens a few dozen.
const MAX_CONNECTIONS: usize = 1024;

/// What a store says that wants to be asked more slowly.
const SLOW_DOWN: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>SlowDown</Code>\
                         <Message>Please reduce your request rate.</Message></Error>";

/// What an S3 server says of a mistake of its own.
const INTERNAL_ERROR: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>InternalError</Code>\
                              <Message>We encountered an internal error. Please try again.</Message></Error>";

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misdeed {
    /// 503 SlowDown; the server never sees it.
    SlowDown,
    /// The server does it; the client sees its connection close instead of the answer.
    LoseReply,
    /// The server does it; the client is told 500.
    FalseError,
    /// The server gets it so much later.
    Delay(Duration),
    /// The answer's length is announced in full, and its body ends in the middle.
    Truncate,
}

/// Which requests meet with what.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    misdeed: Misdeed,
    share: f64,
    methods: Vec<&'static str>,
    path: String,
    times: u64,
}

impl Rule {
    /// Every request, every time.
    pub fn new(misdeed: Misdeed) -> Self {
        Self { misdeed, share: 1.0, methods: Vec::new(), path: String::new(), times: u64::MAX }
    }

    /// Only this share of them, from 0 to 1, by the seed.
    #[must_use]
    pub fn share(self, share: f64) -> Self {
        Self { share, ..self }
    }

    /// Only these methods, as `PUT`.
    #[must_use]
    pub fn methods(self, methods: &[&'static str]) -> Self {
        Self { methods: methods.to_vec(), ..self }
    }

    /// Only paths that hold this text. The bucket is the path's first part.
    #[must_use]
    pub fn path(self, text: &str) -> Self {
        Self { path: text.to_owned(), ..self }
    }

    /// Only the first so many of them.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        Self { times, ..self }
    }

    fn is_about(&self, method: &Method, path: &str) -> bool {
        (self.methods.is_empty() || self.methods.contains(&method.as_str())) && path.contains(&self.path)
    }
}

/// A running front; dropping it closes its connections and its port.
pub struct HttpFaults {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    _server: Background<()>,
}

struct State {
    rules: Vec<Rule>,
    dice: Dice,
    done: BTreeMap<Misdeed, u64>,
    requests: u64,
    /// Reads of such paths are counted when their whole answer went out.
    watched: Option<String>,
    delivered: u64,
}

impl HttpFaults {
    /// Fronts the server of `endpoint`, `http://127.0.0.1:PORT`, without faults.
    ///
    /// # Panics
    /// If the endpoint is something else, or there is no port or no thread to be had.
    pub fn before(endpoint: &str, seed: u64) -> Self {
        let host = endpoint.strip_prefix("http://").unwrap_or_else(|| panic!("`{endpoint}` is not http"));
        let upstream = host.trim_end_matches('/').parse().unwrap_or_else(|e| panic!("`{host}`: {e}"));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket of ours");
        let address = listener.local_addr().expect("a bound socket");
        let state = State {
            rules: Vec::new(),
            dice: Dice::new(seed),
            done: BTreeMap::new(),
            requests: 0,
            watched: None,
            delivered: 0,
        };
        let state = Arc::new(Mutex::new(state));
        let front = Front { upstream, state: state.clone() };
        let server = Background::start("http-faults", (), move |ear| front.serve(listener, ear));
        Self { address, state, _server: server }
    }

    /// The endpoint's URL, through the front.
    ///
    /// # Panics
    /// If it is no URL.
    pub fn url(&self, original: &str) -> String {
        background::redirected(original, self.address)
    }

    /// Replaces the rules; requests that are under way go by the old ones.
    pub fn set(&self, rules: impl IntoIterator<Item = Rule>) {
        lock(&self.state).rules = rules.into_iter().collect();
    }

    /// No faults any more.
    pub fn heal(&self) {
        self.set([]);
    }

    /// How often a rule of this kind has struck.
    pub fn struck(&self, misdeed: Misdeed) -> u64 {
        lock(&self.state).done.get(&misdeed).copied().unwrap_or(0)
    }

    /// Counts, from now on, the objects that were read whole and whose path holds this text.
    pub fn watch(&self, path: &str) {
        let mut state = lock(&self.state);
        (state.watched, state.delivered) = (Some(path.to_owned()), 0);
    }

    /// How many there were.
    pub fn delivered(&self) -> u64 {
        lock(&self.state).delivered
    }

    /// Requests since the start.
    pub fn requests(&self) -> u64 {
        lock(&self.state).requests
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// What becomes of this request.
    fn verdict(&mut self, method: &Method, path: &str) -> Option<Misdeed> {
        self.requests += 1;
        let Self { rules, dice, .. } = self;
        let mut about = rules.iter_mut().filter(|rule| rule.times > 0 && rule.is_about(method, path));
        let struck = about.find(|rule| dice.roll() < rule.share)?;
        struck.times -= 1;
        let misdeed = struck.misdeed;
        *self.done.entry(misdeed).or_default() += 1;
        Some(misdeed)
    }
}

impl State {
    fn went_out(&mut self, method: &Method, path: &str) {
        if method == Method::GET && self.watched.as_ref().is_some_and(|watched| path.contains(watched)) {
            self.delivered += 1;
        }
    }
}

type Answer = Response<BoxBody<Bytes, io::Error>>;

/// The front on its own thread.
#[derive(Clone)]
struct Front {
    upstream: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Front {
    async fn serve(self, listener: std::net::TcpListener, ear: Ear<()>) {
        background::accept(listener, ear, |client, open| {
            (open < MAX_CONNECTIONS).then(|| self.clone().connection(client))
        })
        .await;
    }

    /// All requests of one connection, one after the other.
    async fn connection(self, client: TcpStream) {
        let _ = client.set_nodelay(true);
        // An error of the service closes the connection without an answer: that is the lost reply.
        let service = service_fn(|request| {
            let front = self.clone();
            async move { front.answer(request).await }
        });
        let _closed =
            server::conn::http1::Builder::new().serve_connection(TokioIo::new(client), service).await;
    }

    async fn answer(&self, request: Request<Incoming>) -> io::Result<Answer> {
        let verdict = lock(&self.state).verdict(request.method(), request.uri().path());
        let (head, body) = request.into_parts();
        // Read even if it is not forwarded, as a server that reads before it thinks; this also sends the
        // `100 Continue` that the client may wait for.
        let body = whole(body).await?;
        match verdict {
            Some(Misdeed::SlowDown) => return Ok(error(StatusCode::SERVICE_UNAVAILABLE, SLOW_DOWN)),
            Some(Misdeed::Delay(delay)) => tokio::time::sleep(delay).await,
            Some(Misdeed::LoseReply | Misdeed::FalseError | Misdeed::Truncate) | None => {}
        }
        let (method, path) = (head.method.clone(), head.uri.path().to_owned());
        let answer = self.forward(Request::from_parts(head, Full::new(body))).await?;
        if matches!(verdict, None | Some(Misdeed::Delay(_))) && answer.status().is_success() {
            lock(&self.state).went_out(&method, &path);
        }
        match verdict {
            Some(Misdeed::LoseReply) => Err(io::Error::other("the reply is lost")),
            Some(Misdeed::FalseError) => Ok(error(StatusCode::INTERNAL_SERVER_ERROR, INTERNAL_ERROR)),
            Some(Misdeed::Truncate) => Ok(truncated(answer)),
            Some(Misdeed::SlowDown | Misdeed::Delay(_)) | None => {
                Ok(answer.map(|body| Full::new(body).map_err(|never| match never {}).boxed()))
            }
        }
    }

    /// The server's answer, with its whole body.
    async fn forward(&self, mut request: Request<Full<Bytes>>) -> io::Result<Response<Bytes>> {
        // The body is here, so nobody has to be asked whether it is wanted, and its length is known.
        request.headers_mut().remove(header::EXPECT);
        request.headers_mut().remove(header::TRANSFER_ENCODING);
        let stream = TcpStream::connect(self.upstream).await?;
        let (mut sender, connection) =
            client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let asked = async {
            let answer = sender.send_request(request).await.map_err(io::Error::other)?;
            let (head, body) = answer.into_parts();
            Ok::<_, io::Error>(Response::from_parts(head, whole(body).await?))
        };
        tokio::pin!(asked);
        let mut connection = std::pin::pin!(connection);
        let mut answer = tokio::select! {
            answer = &mut asked => answer,
            // The server has closed; what it sent before is still to be read.
            _ = &mut connection => asked.await,
        }?;
        // Whole now, whatever it was sent as; a HEAD's length is the object's.
        answer.headers_mut().remove(header::TRANSFER_ENCODING);
        answer.headers_mut().remove(header::CONNECTION);
        Ok(answer)
    }
}

async fn whole(body: Incoming) -> io::Result<Bytes> {
    Ok(Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(io::Error::other)?.to_bytes())
}

fn error(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::from(text).map_err(|never| match never {}).boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/xml"));
    answer
}

/// The first half of the body, and then the connection's end.
fn truncated(answer: Response<Bytes>) -> Answer {
    let (mut head, body) = answer.into_parts();
    if !body.is_empty() {
        head.headers.insert(header::CONTENT_LENGTH, body.len().into());
    }
    let half = body.slice(..body.len() / 2);
    let cut = async {
        // Headers and half go out when the body makes hyper wait; an error at once would discard them.
        tokio::task::yield_now().await;
        Err(io::Error::other("the body is cut off"))
    };
    let frames = stream::iter([Ok(Frame::data(half))]).chain(stream::once(cut));
    Response::from_parts(head, BodyExt::boxed(StreamBody::new(Box::pin(frames))))
}
