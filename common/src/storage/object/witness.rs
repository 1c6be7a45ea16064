//! Sees every request that object_store makes: how it was answered, in full.
//!
//! object_store folds statuses and codes into a few kinds of error, throws the good keys of a listing away with an odd
//! one, and brings an HTTP client of its own. Here it is given ours, and each call leaves what its store answered in a
//! [`Witness`] that belongs to the task. Requests for tokens are told from those to the store by their path, which
//! names the bucket. It must never keep a header of a request, or the body of an answer that holds a token.

use crate::storage::{
    Passing,
    wire::{Trouble, Wire},
};
use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Request, Response, Uri,
    header::{AUTHORIZATION, HeaderMap},
};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
        HttpService,
    },
};
use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::timeout;

/// An error's text has some hundreds of bytes.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// A page of 5,000 keys of a kilobyte each, escaped, with their properties.
const MAX_PAGE_BYTES: usize = 64 << 20;

/// For the body of an answer that is read whole here.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest code and message that are passed on.
const MAX_REASON_CHARS: usize = 400;

tokio::task_local! {
    static WITNESS: Arc<Witness>;
}

/// What an answer said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// HTTP's.
    pub(super) status: u16,
    /// The store's code, such as `NoSuchKey`; empty if there was none.
    pub(super) code: String,
    /// The first line of the store's message.
    pub(super) message: String,
}

/// What became of the requests of one call.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// The store's last answer.
    pub(super) answer: Option<Answer>,
    /// Why the store gave none.
    pub(super) trouble: Option<Trouble>,
    /// The store's body, where it was to be kept.
    pub(super) body: Option<Bytes>,
    /// Why there is no token: an answer of whoever gives them out, or none.
    pub(super) no_token: Option<Result<Answer, Trouble>>,
}

/// Watches one call.
#[derive(Debug)]
pub(super) struct Witness {
    keep_body: bool,
    seen: Mutex<Seen>,
}

impl Witness {
    /// Does `call` and says what was seen meanwhile. `keep_body` keeps the body of a good answer.
    pub(super) async fn watch<T>(keep_body: bool, call: impl Future<Output = T>) -> (T, Seen) {
        let witness = Arc::new(Self { keep_body, seen: Mutex::default() });
        let done = WITNESS.scope(witness.clone(), call).await;
        let seen = witness.seen.lock().expect("no panic while it is held").clone();
        (done, seen)
    }

    fn note(change: impl FnOnce(&mut Seen)) {
        // No call of ours is made outside `watch`.
        let _ =
            WITNESS.try_with(|witness| change(&mut witness.seen.lock().expect("no panic while it is held")));
    }

    fn keeps_body() -> bool {
        WITNESS.try_with(|witness| witness.keep_body).unwrap_or(false)
    }
}

/// Our HTTP client, as object_store wants it.
#[derive(Clone)]
pub(super) struct Connector {
    /// The client.
    pub(super) wire: Wire,
    /// The bucket or container whose name tells the store's requests from those for tokens.
    pub(super) bucket: String,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({})", self.bucket)
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let of_store = names(request.uri(), &self.bucket);
        let (mut head, body) = request.into_parts();
        if head.headers.get(AUTHORIZATION).is_some_and(|value| value.as_bytes().trim_ascii() == b"Bearer") {
            // Of nobody: a store refuses an empty token, and lets those without one read what is public.
            head.headers.remove(AUTHORIZATION);
        }
        let body = body.collect().await?.to_bytes();
        let length = body.len() as u64;
        let answer = match self.wire.send(Request::from_parts(head, Full::new(body)), length).await {
            Ok(answer) => answer,
            Err(trouble) => {
                let error = http_error(&trouble);
                Witness::note(|seen| match of_store {
                    true => seen.trouble = Some(trouble),
                    false => seen.no_token = Some(Err(trouble)),
                });
                return Err(error);
            }
        };
        let (head, body) = answer.into_parts();
        let good = head.status.is_success();
        if good && !(of_store && Witness::keeps_body()) {
            if of_store {
                let status = head.status.as_u16();
                Witness::note(|seen| seen.answer = Some(Answer { status, ..Answer::default() }));
            }
            let body = body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error));
            return Ok(Response::from_parts(head, HttpResponseBody::new(body)));
        }
        let limit = if good { MAX_PAGE_BYTES } else { MAX_ERROR_BYTES };
        let whole = match timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await {
            Ok(Ok(whole)) => whole.to_bytes(),
            // What an error says is nice to have.
            _ if !good => Bytes::new(),
            broken => {
                let (cause, reason) = match broken {
                    Ok(Err(error)) => (Passing::Unavailable, error.to_string()),
                    _ => (Passing::TimedOut, "the page did not end".to_owned()),
                };
                let trouble = Trouble::Passing(cause, format!("the body broke off: {reason}"));
                let error = http_error(&trouble);
                Witness::note(|seen| seen.trouble = Some(trouble));
                return Err(error);
            }
        };
        let said = if good {
            Answer { status: head.status.as_u16(), ..Answer::default() }
        } else {
            said(head.status.as_u16(), &head.headers, &whole)
        };
        Witness::note(|seen| match of_store {
            true => {
                seen.answer = Some(said);
                seen.body = good.then(|| whole.clone());
            }
            false => seen.no_token = Some(Ok(said)),
        });
        Ok(Response::from_parts(head, HttpResponseBody::from(whole)))
    }
}

fn http_error(trouble: &Trouble) -> HttpError {
    let (kind, reason) = match trouble {
        Trouble::Passing(Passing::TimedOut, reason) => (HttpErrorKind::Timeout, reason),
        Trouble::Passing(_, reason) | Trouble::NoHost(reason) => (HttpErrorKind::Connect, reason),
        Trouble::Lasting(reason) => (HttpErrorKind::Unknown, reason),
    };
    HttpError::new(kind, std::io::Error::other(reason.clone()))
}

/// Whether the path's first parts name the bucket; an emulator has the account before it.
fn names(uri: &Uri, bucket: &str) -> bool {
    let plain =
        |part: &str| part.replace("%2D", "-").replace("%5F", "_").replace("%2E", ".").replace("%24", "$");
    uri.path().split('/').skip(1).take(3).any(|part| plain(part) == bucket)
}

/// The store's words about a refusal. Only code and message: more of it may repeat the request's signature.
fn said(status: u16, headers: &HeaderMap, body: &[u8]) -> Answer {
    let body = String::from_utf8_lossy(body);
    let header = headers.get("x-ms-error-code").and_then(|code| code.to_str().ok());
    let code = header.map(str::to_owned).or_else(|| tag(&body, "Code")).or_else(|| json(&body));
    let short =
        |text: String| text.lines().next().unwrap_or_default().chars().take(MAX_REASON_CHARS).collect();
    Answer {
        status,
        code: code.map(short).unwrap_or_default(),
        message: tag(&body, "Message").map(short).unwrap_or_default(),
    }
}

fn tag(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = rest.split_once('<')?;
    Some(text.replace("&apos;", "'").replace("&quot;", "\"").replace("&lt;", "<").replace("&amp;", "&"))
}

/// `{"error": "invalid_grant"}`, as those say who give out tokens.
fn json(body: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(body).ok()?;
    value.get("error")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_to_the_store_are_told_from_those_for_tokens() {
        let at = |path: &str| names(&format!("https://h{path}").parse().unwrap(), "my-photos");
        for path in ["/my-photos", "/my%2Dphotos/x", "/my-photos?restype=container", "/account/my-photos/x"] {
            assert!(at(path), "{path}");
        }
        for path in
            ["/token", "/o/oauth2/token", "/computeMetadata/v1/instance/service-accounts/default/token"]
        {
            assert!(!at(path), "{path}");
        }
    }

    #[test]
    fn the_words_of_a_refusal_are_code_and_first_line() {
        let azure = "<?xml version=\"1.0\"?><Error><Code>AuthenticationFailed</Code><Message>Server failed.\n\
                     RequestId:1</Message><AuthenticationErrorDetail>The MAC signature 'canary'\
                     </AuthenticationErrorDetail></Error>";
        let answer = said(403, &HeaderMap::new(), azure.as_bytes());
        assert_eq!((&*answer.code, &*answer.message), ("AuthenticationFailed", "Server failed."));
        assert!(!format!("{answer:?}").contains("canary"));
        let token = said(400, &HeaderMap::new(), br#"{"error":"invalid_grant","access_token":"canary"}"#);
        assert_eq!((&*token.code, &*token.message), ("invalid_grant", ""));
        assert_eq!(said(500, &HeaderMap::new(), b"<html>").code, "");
    }
}
