//! The shard's HTTP side: page, signalling, status, metrics.

use crate::status::Status;
use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use vsekai_net::webrtc::{WebRtcServer, upgrade};

/// A shard that has published no status for this long is not well; it does so every second.
const UNHEALTHY_AFTER: Duration = Duration::from_secs(5);

/// What the handlers share.
#[derive(Clone)]
pub struct Shared {
    /// The newest status; the tick loop replaces it about once a second.
    pub status: Arc<RwLock<Arc<Status>>>,
    /// Whom signalling introduces players to.
    pub webrtc: WebRtcServer,
}

impl Shared {
    fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status.read().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

/// All routes. Must be served with connect info, since signalling counts connections per address.
pub fn router(shared: Shared) -> Router {
    Router::new()
        .route("/", get(page_or_signalling))
        .route("/{room}", get(signalling_only))
        .route("/web/{file}", get(web_file))
        .route("/api/status", get(status))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(shared)
}

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

async fn page_or_signalling(
    socket: Upgrade,
    address: ConnectInfo<SocketAddr>,
    State(shared): State<Shared>,
) -> Response {
    match socket {
        Ok(socket) => upgrade(socket, address, State(shared.webrtc)).await,
        Err(_) => web_file(Path("index.html".into())).await,
    }
}

async fn signalling_only(
    socket: Upgrade,
    address: ConnectInfo<SocketAddr>,
    Path(room): Path<String>,
    State(shared): State<Shared>,
) -> Response {
    match socket {
        Ok(socket) => upgrade(socket, address, State(shared.webrtc)).await,
        Err(_) => (StatusCode::NOT_FOUND, format!("there is no page /{room}; the game is at /\n")).into_response(),
    }
}

async fn web_file(Path(name): Path<String>) -> Response {
    let Some((bytes, kind)) = vsekai_net::web::file(&name) else {
        return (StatusCode::NOT_FOUND, format!("there is no file {name}\n")).into_response();
    };
    // The files change with the program, which says nothing about its age: ask each time.
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, bytes).into_response()
}

async fn status(State(shared): State<Shared>) -> Response {
    let body = serde_json::to_string(&*shared.status()).unwrap_or_default();
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (headers, body).into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], shared.status().prometheus()).into_response()
}

async fn health(State(shared): State<Shared>) -> Response {
    let status = shared.status();
    let age = status.published.map_or(Duration::MAX, |at| at.elapsed());
    if age > UNHEALTHY_AFTER {
        let text = format!("tick {} was {:.1} s ago\n", status.tick, age.as_secs_f64());
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    format!("ok, tick {}\n", status.tick).into_response()
}
