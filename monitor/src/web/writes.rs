//! Everything that changes something: the only such place in the monitor.
//!
//! Each asks [`super::session::Sessions::authorize`] first and leaves a line in the log, allowed or not. What it does is
//! what the `trawl` command does.

use super::{
    answers::{Refusal, json_answer},
    api::id,
    guard::Peer,
    session::{Sessions, Who},
};
use crate::{
    Monitor,
    seams::{ASK_TIMEOUT, within},
    watch::job::Source,
};
use axum::{
    Extension,
    body::{Body, to_bytes},
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use serde::Deserialize;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;
use trawl_common::{
    broker::Verdict,
    dead::{self, Selection},
    job::JobId,
    planning::{
        cancellation::Hold,
        hold::{self, HoldError},
    },
};

/// The longest body: a token in JSON.
const MAX_BODY_BYTES: usize = 16 << 10;

/// For holding a job, the mark in its output included.
const HOLD_TIMEOUT: Duration = Duration::from_secs(20);

/// For queueing what a paused job has left; more than that goes on by itself.
const RESUME_TIMEOUT: Duration = Duration::from_secs(10);

/// For going through the dead letters, thousands at most.
const LETTERS_TIMEOUT: Duration = Duration::from_secs(15);

/// Letters of a job that one request sends back.
const MAX_LETTERS: u32 = 5000;

type Shared = State<Arc<Monitor>>;
type Answer = Result<Response<Body>, Refusal>;

/// `POST /api/login`.
pub async fn login(
    State(monitor): Shared,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    #[derive(Deserialize)]
    struct Login {
        token: String,
    }
    let body = to_bytes(body, MAX_BODY_BYTES).await;
    let body = body.map_err(|_| Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"))?;
    let login: Login = serde_json::from_slice(&body)
        .map_err(|_| Refusal::bad_request("the body is {\"token\": \"...\"}"))?;
    let opened = monitor.sessions.login(&login.token, &headers, peer)?;
    tracing::info!(action = "login", %peer, "signed in");
    let mut answer = json_answer(StatusCode::OK, &json!({ "csrf": opened.csrf }));
    set_cookie(&mut answer, &Sessions::set_cookie(&opened, monitor.guard.https))?;
    Ok(answer)
}

/// `POST /api/logout`.
pub async fn logout(
    State(monitor): Shared,
    Extension(Peer(peer)): Extension<Peer>,
    headers: HeaderMap,
) -> Answer {
    monitor.sessions.authorize(&headers, peer)?;
    monitor.sessions.logout(&headers);
    tracing::info!(action = "logout", %peer, "signed out");
    let mut answer = json_answer(StatusCode::OK, &json!({ "ok": true }));
    set_cookie(&mut answer, &Sessions::clear_cookie(monitor.guard.https))?;
    Ok(answer)
}

fn set_cookie(answer: &mut Response<Body>, line: &str) -> Result<(), Refusal> {
    let line = HeaderValue::from_str(line).map_err(|_| Refusal::away("the session has no cookie"))?;
    answer.headers_mut().insert(header::SET_COOKIE, line);
    Ok(())
}

/// One change: who may make it, and its line in the log.
struct Change {
    action: &'static str,
    job: JobId,
    peer: std::net::IpAddr,
    who: Who,
}

impl Change {
    fn begin(
        monitor: &Monitor,
        action: &'static str,
        job: &str,
        peer: Peer,
        headers: &HeaderMap,
    ) -> Result<Self, Refusal> {
        let peer = peer.0;
        match monitor.sessions.authorize(headers, peer) {
            Ok(who) => Ok(Self { action, job: id(job)?, peer, who }),
            Err(refusal) => {
                // The job's name is whatever somebody wrote into a path; only one that is an id is repeated.
                let job: Option<JobId> = job.parse().ok();
                tracing::warn!(
                    action, job.id = job.as_ref().map(JobId::as_str), %peer, reason = refusal.message,
                    "a change was refused"
                );
                Err(refusal)
            }
        }
    }

    fn end(&self, done: Result<serde_json::Value, Refusal>) -> Answer {
        let (action, job, peer, who) = (self.action, &self.job, self.peer, self.who);
        match &done {
            Ok(done) => tracing::info!(action, job.id = %job, %peer, ?who, %done, "a change was made"),
            Err(refusal) => {
                tracing::warn!(action, job.id = %job, %peer, ?who, reason = refusal.message, "a change failed");
            }
        }
        done.map(|done| json_answer(StatusCode::OK, &done))
    }
}

/// `POST /api/jobs/{job}/pause`.
pub async fn pause(
    State(monitor): Shared,
    Path(job): Path<String>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Answer {
    let change = Change::begin(&monitor, "pause", &job, peer, &headers)?;
    change.end(hold_back(&monitor, &change.job, Hold::Paused).await)
}

/// `POST /api/jobs/{job}/resume`.
pub async fn resume(
    State(monitor): Shared,
    Path(job): Path<String>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Answer {
    let change = Change::begin(&monitor, "resume", &job, peer, &headers)?;
    change.end(go_on(&monitor, &change.job).await)
}

/// `POST /api/jobs/{job}/cancel`.
pub async fn cancel(
    State(monitor): Shared,
    Path(job): Path<String>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Answer {
    let change = Change::begin(&monitor, "cancel", &job, peer, &headers)?;
    change.end(hold_back(&monitor, &change.job, Hold::Cancelled).await)
}

/// Cancels or pauses a job, as `trawl` does.
async fn hold_back(monitor: &Monitor, job: &JobId, hold: Hold) -> Result<serde_json::Value, Refusal> {
    let (stores, ledger) = (&monitor.seams.stores, &*monitor.seams.ledger);
    let held = tokio::time::timeout(HOLD_TIMEOUT, hold::hold(stores, ledger, job, hold)).await;
    let marked =
        held.map_err(|_| Refusal::away("Redis does not answer"))?.map_err(|error| refusal(&error))?;
    if let Err(reason) = &marked {
        tracing::warn!(job.id = %job, reason, "the output of a held job could not be marked");
    }
    if let Ok(Some(progress)) = within(ASK_TIMEOUT, ledger.progress(job)).await {
        monitor.known.tell(progress, Source::Redis);
    }
    Ok(json!({ "ok": true, "state": hold.state(), "marked": marked.is_ok() }))
}

/// Takes a paused job up again, as `trawl` does. What takes longer than somebody waits goes on without them.
async fn go_on(monitor: &Arc<Monitor>, job: &JobId) -> Result<serde_json::Value, Refusal> {
    let away = |reason: String| Refusal::away(format!("RabbitMQ does not answer: {reason}"));
    let broker = within(LETTERS_TIMEOUT, monitor.seams.broker.get()).await.map_err(away)?;
    let resuming = {
        let (monitor, job) = (monitor.clone(), job.clone());
        tokio::spawn(async move {
            let (stores, ledger) = (&monitor.seams.stores, &*monitor.seams.ledger);
            let (never, mut quiet) = (CancellationToken::new(), |_: &_| {});
            let resumed = hold::resume(stores, &*broker, ledger, &job, &mut quiet, &never).await;
            if let Err(error) = &resumed {
                let reason = trawl_common::disposition::describe(error);
                tracing::warn!(job.id = %job, reason, "a paused job was not taken up again");
            }
            resumed
        })
    };
    match tokio::time::timeout(RESUME_TIMEOUT, resuming).await {
        Ok(Ok(Ok(planned))) => Ok(json!({ "ok": true, "state": "running", "queued": planned.published })),
        Ok(Ok(Err(error))) => Err(refusal(&error)),
        Ok(Err(_panicked)) => Err(Refusal::away("the job was not taken up again; the log says why")),
        Err(_) => Ok(json!({ "ok": true, "state": "running", "queued": null })),
    }
}

fn refusal(error: &HoldError) -> Refusal {
    match error {
        HoldError::Unknown(_) => Refusal::not_found("Redis does not know the job"),
        HoldError::Nothing { .. } | HoldError::OtherOutput { .. } => {
            Refusal::new(StatusCode::CONFLICT, error.to_string())
        }
        HoldError::Plan(_) | HoldError::Ledger(_) => {
            Refusal::away(trawl_common::disposition::describe(error))
        }
    }
}

/// `POST /api/jobs/{job}/dead/retry`.
pub async fn retry_all(
    State(monitor): Shared,
    Path(job): Path<String>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Answer {
    let change = Change::begin(&monitor, "retry all dead letters", &job, peer, &headers)?;
    change.end(judge(&monitor, &change.job, None, Verdict::Retry).await)
}

/// `POST /api/jobs/{job}/dead/{id}/retry`.
pub async fn retry(
    State(monitor): Shared,
    Path((job, letter)): Path<(String, String)>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Answer {
    let change = Change::begin(&monitor, "retry a dead letter", &job, peer, &headers)?;
    change.end(judge(&monitor, &change.job, Some(letter), Verdict::Retry).await)
}

/// `POST /api/jobs/{job}/dead/{id}/drop`.
pub async fn drop_letter(
    State(monitor): Shared,
    Path((job, letter)): Path<(String, String)>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
) -> Answer {
    let change = Change::begin(&monitor, "drop a dead letter", &job, peer, &headers)?;
    change.end(judge(&monitor, &change.job, Some(letter), Verdict::Drop).await)
}

async fn judge(
    monitor: &Monitor,
    job: &JobId,
    letter: Option<String>,
    verdict: Verdict,
) -> Result<serde_json::Value, Refusal> {
    let away = |reason: String| Refusal::away(format!("RabbitMQ does not answer: {reason}"));
    let limit = if letter.is_some() { 1 } else { MAX_LETTERS };
    let one = letter.is_some();
    let selection = Selection { job: Some(job.clone()), id: letter, limit, ..Selection::default() };
    // Letters that somebody else looks at at this moment are not seen.
    let _alone = monitor.known.judging.lock().await;
    let broker = within(LETTERS_TIMEOUT, monitor.seams.broker.get()).await.map_err(away)?;
    let judged = within(LETTERS_TIMEOUT, dead::judge(&*broker, &selection, verdict)).await.map_err(away)?;
    monitor.known.dead.forget();
    let done = judged.iter().filter(|(_, done)| *done == verdict).count();
    match (done, judged.len()) {
        (0, 0) if one => Err(Refusal::not_found("there is no such dead letter any more")),
        (0, 1..) => {
            Err(Refusal::new(StatusCode::CONFLICT, "nothing says which lane the letter is of: it stayed"))
        }
        (done, all) => Ok(json!({ "ok": true, "done": done, "kept": all - done })),
    }
}
