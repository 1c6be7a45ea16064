//! Answers in JSON, and errors in it.

use crate::detail::NoJob;
use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use serde_json::{Value, json};

/// A refusal, in words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The status.
    pub status: StatusCode,
    /// What is wrong and what to do.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// Something that was asked for is not there.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// The request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A service that is needed is away.
    pub fn away(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        json_answer(self.status, &json!({ "error": self.message }))
    }
}

impl From<NoJob> for Refusal {
    fn from(none: NoJob) -> Self {
        match none {
            NoJob::Unknown => {
                Self::not_found("no such job: neither Redis nor an output that is known here has it")
            }
            NoJob::Away(reason) => {
                Self::away(format!("Redis, which may know the job, does not answer: {reason}"))
            }
        }
    }
}

/// JSON that is nobody's to keep.
pub fn json_answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut answer = Response::new(Body::from(value.to_string()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The answer to what is no route.
pub async fn no_such_page() -> Refusal {
    Refusal::not_found("there is no such page")
}
