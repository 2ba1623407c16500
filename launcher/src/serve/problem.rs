//! What is answered when something is not done: a status, a word for programs, a sentence for people.

use crate::error::{Exit, TaskError, one_line};
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// A request that is refused or failed.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// For programs; listed in the OpenAPI document.
    pub code: &'static str,
    pub message: String,
    /// Where an upload stands, if that is the problem.
    pub offset: Option<u64>,
    /// Seconds after which to ask again.
    pub retry_after: Option<u64>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), offset: None, retry_after: None }
    }

    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", what)
    }

    pub fn bad(what: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", what)
    }

    /// The service's own fault: logged whole, told without its paths.
    pub fn internal(what: &str, error: impl std::fmt::Display) -> Self {
        tracing::error!("{what}: {error}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("{what}: see the service's log"))
    }
}

impl From<TaskError> for Problem {
    fn from(error: TaskError) -> Self {
        let (status, code) = match error.exit {
            Exit::Untrusted => (StatusCode::UNPROCESSABLE_ENTITY, "untrusted"),
            Exit::Damaged | Exit::Usage => (StatusCode::UNPROCESSABLE_ENTITY, "damaged"),
            Exit::NotFound => (StatusCode::UNPROCESSABLE_ENTITY, "incomplete"),
            Exit::Denied => (StatusCode::FORBIDDEN, "forbidden"),
            Exit::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "no_space"),
            _ => return Self::internal("the service failed", one_line(error)),
        };
        Self::new(status, code, one_line(error))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({ "error": self.code, "message": self.message, "offset": self.offset });
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(offset) = self.offset {
            headers.insert("upload-offset", HeaderValue::from(offset));
        }
        response
    }
}
