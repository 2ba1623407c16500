//! The page for operators: files of this program, nothing from elsewhere.

use super::refuse;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

const FILES: &[(&str, &str, &str)] = &[
    ("index.html", "text/html; charset=utf-8", include_str!("../../web/index.html")),
    ("style.css", "text/css", include_str!("../../web/style.css")),
    ("main.js", "text/javascript", include_str!("../../web/main.js")),
    ("server.js", "text/javascript", include_str!("../../web/server.js")),
    ("format.js", "text/javascript", include_str!("../../web/format.js")),
    ("spark.js", "text/javascript", include_str!("../../web/spark.js")),
    ("logs.js", "text/javascript", include_str!("../../web/logs.js")),
];
/// Nothing from elsewhere, and nobody may frame it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// `GET /`.
pub async fn index() -> Response {
    file(Path("index.html".to_owned())).await
}

/// `GET /web/{file}`.
pub async fn file(Path(name): Path<String>) -> Response {
    let Some((_, kind, text)) = FILES.iter().find(|(file, ..)| *file == name) else {
        return refuse(StatusCode::NOT_FOUND, &format!("there is no file {name}"));
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (headers, *text).into_response()
}
