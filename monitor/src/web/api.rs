//! What can be read, as JSON.
//!
//! From what is known; only a job's own page asks a server something, within a bound. All text is raw: whoever shows it
//! must escape it.

use super::{
    answers::{Refusal, json_answer},
    query::Query,
};
use crate::{
    Monitor, detail,
    output::{
        gallery,
        index::{Cursor, Filter, MAX_PAGE, Order, Page, Row},
        thumbnail::{self, NoThumbnail},
    },
    watch::{JOBS_LISTED, job::Job},
};
use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, header},
};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use trawl_common::{config::unix_ms, job::JobId};

/// The rows of a gallery's page where nobody says how many.
const GALLERY_PAGE: usize = 60;

/// The failures of a page where nobody says how many.
const FAILURES_PAGE: usize = 100;

type Shared = State<Arc<Monitor>>;
type Answer = Result<Response<Body>, Refusal>;

/// `GET /api/overview`.
pub async fn overview(State(monitor): Shared, headers: HeaderMap) -> Response<Body> {
    monitor.view();
    let overview =
        whole_overview(&monitor, monitor.known.overview(), monitor.sessions.csrf(&headers).as_deref());
    json_answer(StatusCode::OK, &overview)
}

/// The sums with what depends on who asks and when.
pub fn whole_overview(monitor: &Monitor, mut sums: Map<String, Value>, csrf: Option<&str>) -> Value {
    sums.insert("now_unix_ms".into(), json!(unix_ms()));
    sums.insert("read_only".into(), json!(monitor.sessions.is_read_only()));
    sums.insert("csrf".into(), json!(csrf));
    Value::Object(sums)
}

/// `GET /api/jobs`.
pub async fn jobs(State(monitor): Shared, uri: Uri) -> Answer {
    monitor.view();
    let query = Query::of(&uri)?;
    let limit = query.parsed("limit")?.unwrap_or(JOBS_LISTED);
    Ok(json_answer(StatusCode::OK, &monitor.known.jobs_json(limit, query.parsed("before")?)))
}

/// `GET /api/jobs/{job}`.
pub async fn job(State(monitor): Shared, Path(job): Path<String>) -> Answer {
    monitor.view();
    let job = id(&job)?;
    Ok(json_answer(StatusCode::OK, &detail::job_json(&monitor, &job).await?))
}

/// `GET /api/workers`.
pub async fn workers(State(monitor): Shared) -> Response<Body> {
    monitor.view();
    json_answer(StatusCode::OK, &monitor.known.workers_json())
}

/// `GET /api/queues`.
pub async fn queues(State(monitor): Shared) -> Response<Body> {
    monitor.view();
    json_answer(StatusCode::OK, &monitor.known.queues_json())
}

/// `GET /api/jobs/{job}/failures`.
pub async fn failures(State(monitor): Shared, Path(job): Path<String>, uri: Uri) -> Answer {
    let query = Query::of(&uri)?;
    let job = find(&monitor, &job).await?;
    let rows = gallery::rows(&monitor, &job.progress).await;
    if let Some(reason) = rows.failure.filter(|_| rows.index.is_empty()) {
        return Err(Refusal::away(format!("the job's rows cannot be read: {reason}")));
    }
    let limit = query.parsed("limit")?.unwrap_or(FAILURES_PAGE).min(MAX_PAGE);
    let page = rows.index.page_of_failures(query.text("code"), cursor(&query)?, limit);
    let row = |row: &Arc<Row>| {
        let brief = &row.brief;
        json!({"key": brief.key, "code": brief.code, "message": brief.message, "batch": row.batch, "row": row.row})
    };
    Ok(json_answer(StatusCode::OK, &page_json(&page, row)))
}

/// `GET /api/jobs/{job}/gallery`.
pub async fn gallery(State(monitor): Shared, Path(job): Path<String>, uri: Uri) -> Answer {
    let query = Query::of(&uri)?;
    let job = find(&monitor, &job).await?;
    let order = match query.text("order") {
        None | Some("confidence") => Order::Unsure,
        Some("-confidence") => Order::Sure,
        Some("plan") => Order::Plan,
        Some(_) => return Err(Refusal::bad_request("`order` is confidence, -confidence or plan")),
    };
    let ok = match query.text("status") {
        None => None,
        Some("ok") => Some(true),
        Some("error") => Some(false),
        Some(_) => return Err(Refusal::bad_request("`status` is ok or error")),
    };
    let (label, code) = (query.text("label").map(str::to_owned), query.text("code").map(str::to_owned));
    let filter = Filter { label, code, ok, min: query.parsed("min")?, max: query.parsed("max")? };
    let limit = query.parsed("limit")?.unwrap_or(GALLERY_PAGE);
    let after = cursor(&query)?;
    let rows = gallery::rows(&monitor, &job.progress).await;
    if let Some(reason) = rows.failure.filter(|_| rows.index.is_empty()) {
        return Err(Refusal::away(format!("the job's rows cannot be read: {reason}")));
    }
    let index = rows.index;
    let total = job.progress.images_ok + job.progress.images_failed;
    let page = index.page(order, &filter, after, limit);
    let mut json = page_json(&page, |row| gallery_row(row));
    json["indexed_rows"] = json!(index.len());
    json["total_rows"] = json!(total.max(index.len() as u64));
    json["complete"] = json!(index.len() as u64 >= total);
    Ok(json_answer(StatusCode::OK, &json))
}

fn gallery_row(row: &Row) -> Value {
    let brief = &row.brief;
    let topk: Vec<Value> =
        brief.classes.iter().map(|(label, prob)| json!({"label": label, "prob": prob})).collect();
    json!({
        "batch": row.batch, "row": row.row, "key": brief.key, "width": brief.width, "height": brief.height,
        "status": if brief.ok { "ok" } else { "error" }, "code": brief.code, "message": brief.message,
        "label": row.label(), "confidence": row.confidence(), "topk": topk,
    })
}

/// `GET /api/jobs/{job}/thumbnail/{batch}/{row}`.
pub async fn thumbnail(
    State(monitor): Shared,
    Path((job, batch, row)): Path<(String, u64, u32)>,
    uri: Uri,
) -> Answer {
    let size = Query::of(&uri)?.parsed("size")?.unwrap_or(thumbnail::DEFAULT_SIZE);
    let job = find(&monitor, &job).await?;
    let jpeg = thumbnail::thumbnail(&monitor, &job.progress, batch, row, size).await.map_err(|none| {
        let status = match &none {
            NoThumbnail::Gone(_) => StatusCode::NOT_FOUND,
            NoThumbnail::Unreadable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            NoThumbnail::Busy => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refusal::new(status, none.to_string())
    })?;
    let mut answer = Response::new(Body::from(jpeg));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("image/jpeg"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=3600"));
    Ok(answer)
}

async fn find(monitor: &Monitor, job: &str) -> Result<Job, Refusal> {
    monitor.view();
    Ok(detail::find(monitor, &id(job)?).await?)
}

/// A job's id out of a path.
///
/// # Errors
/// Not found: a text that is no id names no job.
pub fn id(text: &str) -> Result<JobId, Refusal> {
    text.parse().map_err(|_| Refusal::not_found("no such job: this is no job's id"))
}

fn cursor(query: &Query<'_>) -> Result<Option<Cursor>, Refusal> {
    let bad = |()| Refusal::bad_request("`cursor` is none that was given out here");
    query.text("cursor").map(|text| text.parse().map_err(bad)).transpose()
}

fn page_json(page: &Page, row: impl Fn(&Arc<Row>) -> Value) -> Value {
    let rows: Vec<Value> = page.rows.iter().map(row).collect();
    json!({ "rows": rows, "cursor": page.next.map(|cursor| cursor.to_string()) })
}
