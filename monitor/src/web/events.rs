//! `GET /api/events`: what is new, told to an open page as it becomes known.
//!
//! Every stream takes the poller's last words; nothing is asked for it alone. Their number is bounded, and so is the
//! life of each: a browser comes back by itself. A page that does not read is not waited for.

use super::{
    answers::Refusal,
    api::{id, whole_overview},
    query::Query,
};
use crate::{
    Monitor, detail,
    watch::{
        JOBS_LISTED,
        topics::{Shared, Word},
    },
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header},
};
use bytes::Bytes;
use futures::stream;
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use trawl_common::job::JobId;

/// A line without meaning goes out so often, so that proxies see that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A stream ends after this time, and its page opens another: no place is held for ever by a browser that is gone.
const STREAM_LIFE: Duration = Duration::from_secs(3600);

/// Topics of one stream: a page needs four at most.
const MAX_TOPICS: usize = 8;

/// Events on their way to one page; with more it has stopped reading, and newer ones wait in the topic.
const MAX_UNSENT: usize = 4;

/// One topic of a stream.
struct Topic {
    event: &'static str,
    word: Word,
    overview: bool,
}

/// What a stream waits for.
enum Next {
    /// A new word on a topic.
    Word(usize),
    /// Nothing: it is time to say that.
    Nothing,
}

/// The handler.
pub async fn events(
    State(monitor): State<Arc<Monitor>>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response<Body>, Refusal> {
    let query = Query::of(&uri)?;
    let asked: Vec<&str> = query.text("topics").unwrap_or("overview").split(',').collect();
    if asked.len() > MAX_TOPICS {
        return Err(Refusal::bad_request(format!("a stream has at most {MAX_TOPICS} topics")));
    }
    let place = monitor.streams.clone().try_acquire_owned();
    let place = place.map_err(|_| {
        Refusal::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many event streams are open (--max-streams): poll instead",
        )
    })?;
    let mut topics = Vec::with_capacity(asked.len());
    for name in asked {
        topics.push(topic(&monitor, name).await?);
    }
    let csrf = monitor.sessions.csrf(&headers);
    let (send, receive) = mpsc::channel::<Bytes>(MAX_UNSENT);
    tokio::spawn(tell(monitor, topics, csrf, send, place));
    let lines = stream::unfold(receive, |mut receive| async move {
        receive.recv().await.map(|line| (Ok::<_, std::convert::Infallible>(line), receive))
    });
    let mut answer = Response::new(Body::from_stream(lines));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // For nginx, which would collect the events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(answer)
}

/// Listens to a topic, with a first word that is new.
async fn topic(monitor: &Monitor, name: &str) -> Result<Topic, Refusal> {
    if let Some(job) = name.strip_prefix("job:") {
        let job: JobId = id(job)?;
        let first = detail::job_json(monitor, &job).await?;
        let word = monitor.topics.listen_to_job(&job).ok_or_else(|| {
            Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many jobs are looked at one by one: poll instead",
            )
        })?;
        monitor.topics.say_of_job(&job, first.to_string().into());
        return Ok(Topic { event: "job", word, overview: false });
    }
    let shared = Shared::ALL.into_iter().find(|topic| topic.name() == name);
    let shared = shared.ok_or_else(|| {
        Refusal::bad_request("the topics are overview, jobs, job:ID, workers and queues, separated by commas")
    })?;
    let word = monitor.topics.listen(shared);
    let known = &monitor.known;
    let first = match shared {
        Shared::Overview => Value::Object(known.overview()),
        Shared::Jobs => known.jobs_json(JOBS_LISTED, None),
        Shared::Workers => known.workers_json(),
        Shared::Queues => known.queues_json(),
    };
    monitor.topics.say(shared, first.to_string().into());
    Ok(Topic { event: shared.name(), word, overview: shared == Shared::Overview })
}

/// Sends what is new until the page is gone, its time is over, or the monitor stops.
async fn tell(
    monitor: Arc<Monitor>,
    mut topics: Vec<Topic>,
    csrf: Option<String>,
    send: mpsc::Sender<Bytes>,
    _place: OwnedSemaphorePermit,
) {
    for topic in &mut topics {
        topic.word.mark_changed();
    }
    let end = Instant::now() + STREAM_LIFE;
    let mut keep_alive = interval(KEEP_ALIVE);
    keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        for topic in &mut topics {
            if topic.word.has_changed().unwrap_or(false) {
                let event = event(&monitor, topic, csrf.as_deref());
                if send.send(event).await.is_err() {
                    return;
                }
            }
        }
        let changed = topics.iter_mut().map(|topic| Box::pin(topic.word.changed()));
        let next = tokio::select! {
            biased;
            () = monitor.stop.cancelled() => return,
            () = send.closed() => return,
            () = sleep_until(end) => return,
            (_, which, _) = futures::future::select_all(changed) => Next::Word(which),
            _ = keep_alive.tick() => Next::Nothing,
        };
        match next {
            // Waiting has marked it as seen, and it is to be sent above.
            Next::Word(which) => topics[which].word.mark_changed(),
            Next::Nothing => {
                if send.send(Bytes::from_static(b": still here\n\n")).await.is_err() {
                    return;
                }
            }
        }
    }
}

fn event(monitor: &Monitor, topic: &mut Topic, csrf: Option<&str>) -> Bytes {
    let word = topic.word.borrow_and_update().clone();
    let own = topic.overview.then(|| serde_json::from_slice(&word).ok()).flatten();
    let own = own.map(|sums| whole_overview(monitor, sums, csrf).to_string());
    let word = own.map_or(word, Bytes::from);
    // JSON has no line breaks, so that it is one line of data.
    Bytes::from([b"event: ", topic.event.as_bytes(), b"\ndata: ", &word, b"\n\n"].concat())
}
