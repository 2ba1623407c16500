//! The shard's HTTP side: page, signalling, status, metrics, and for operators exports.

use crate::access::{self, TokenRates};
use crate::bans::Bans;
use crate::config::{IceServer, TokenConfig};
use crate::heartbeat::TickNumber;
use crate::shard::Mailbox;
use crate::status::Status;
use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use vsekai_net::porter::Porter;
use vsekai_net::webrtc::{WebRtcServer, upgrade};
use vsekai_storage::tools::ExportSummary;

/// A shard that has published no status for this long is not well; it does so every second.
const UNHEALTHY_AFTER: Duration = Duration::from_secs(5);

/// What the handlers share.
#[derive(Clone)]
pub struct Shared {
    /// The newest status; the tick loop replaces it about once a second.
    pub status: Arc<RwLock<Arc<Status>>>,
    /// Whom signalling introduces players to.
    pub webrtc: WebRtcServer,
    /// Where the tick loop finds what is asked of it.
    pub mailbox: Arc<Mutex<Mailbox>>,
    /// When the shard's clock was zero.
    pub started: Instant,
    /// Who may come in.
    pub porter: Arc<Porter>,
    /// Who may not.
    pub bans: Arc<Bans>,
    /// How tokens are issued, if at all.
    pub tokens: TokenConfig,
    /// How many each address had.
    pub token_rates: Arc<Mutex<TokenRates>>,
    /// STUN and TURN servers.
    pub ice_servers: Arc<Vec<IceServer>>,
    /// Counts the loop's ticks.
    pub turns: TickNumber,
    /// Most motion that one client is told.
    pub motion_kbit_s: u32,
    /// Another for each start of the shard: a session goes on within one run only.
    pub run: Arc<str>,
}

/// What several threads share, whatever became of one that held it.
pub fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file that an export was written to, or why there is none.
pub type ExportAnswer = Result<(PathBuf, ExportSummary), String>;

/// What a proxy or a browser adds to a request, and an operator's own tool does not.
const NOT_FROM_OPERATORS: [&str; 4] = ["forwarded", "x-forwarded-for", "origin", "sec-fetch-site"];

impl Shared {
    fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// All routes. Must be served with connect info, since signalling counts connections per address.
pub fn router(shared: Shared) -> Router {
    Router::new()
        .route("/", get(page_or_signalling))
        .route("/{room}", get(signalling_only))
        .route("/web/{file}", get(web_file))
        .route("/api/status", get(status))
        .route("/api/export", post(export))
        .route("/api/token", post(access::issue))
        .route("/api/connect", get(access::connect))
        .route("/api/players", get(access::players))
        .route("/api/kick", post(access::kick))
        .route("/api/drain", post(access::drain))
        .route("/api/ban", post(access::ban))
        .route("/api/ban/{player}", delete(access::unban))
        .route("/api/bans", get(access::bans))
        .layer(DefaultBodyLimit::max(access::BODY_BYTES_MAX))
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .with_state(shared)
}

type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

async fn page_or_signalling(
    socket: Upgrade,
    address: ConnectInfo<SocketAddr>,
    uri: Uri,
    headers: HeaderMap,
    State(shared): State<Shared>,
) -> Response {
    match socket {
        Ok(socket) => let_in(socket, address, &uri, &headers, shared).await,
        Err(_) => web_file(Path("index.html".into())).await,
    }
}

async fn signalling_only(
    socket: Upgrade,
    address: ConnectInfo<SocketAddr>,
    uri: Uri,
    headers: HeaderMap,
    Path(room): Path<String>,
    State(shared): State<Shared>,
) -> Response {
    match socket {
        Ok(socket) => let_in(socket, address, &uri, &headers, shared).await,
        Err(_) => (StatusCode::NOT_FOUND, format!("there is no page /{room}; the game is at /\n")).into_response(),
    }
}

/// Upgrades to a WebSocket for whoever shows a good token or a session that can be resumed.
async fn let_in(
    socket: WebSocketUpgrade,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    uri: &Uri,
    headers: &HeaderMap,
    shared: Shared,
) -> Response {
    match shared.porter.look(shared.started.elapsed(), access::shown(uri, headers)) {
        Ok(ticket) => upgrade(socket, address.ip(), Some(ticket), shared.webrtc).await,
        Err(turned) => access::turned_away(&turned),
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
    if let Some(reason) = &status.standing {
        let text = format!("the world stands still at tick {}: {reason}\n", status.tick);
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    }
    format!("ok, tick {}, turn {}\n", status.tick, shared.turns.load(Ordering::Relaxed)).into_response()
}

/// Has the world written into a file on this machine. For operators on this machine only: it costs disk and time, so players
/// must not reach it, nor pages that an operator's browser happens to show.
async fn export(
    ConnectInfo(address): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    State(shared): State<Shared>,
) -> Response {
    if !is_operator(address, &headers) {
        let text = "exports are made for this machine's operators only, not through a proxy or a browser\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let (sender, answer) = oneshot::channel();
    {
        let mut mailbox = shared.mailbox.lock().unwrap_or_else(PoisonError::into_inner);
        if mailbox.export.is_some() {
            return (StatusCode::CONFLICT, "an export is about to start already\n").into_response();
        }
        mailbox.export = Some(sender);
    }
    match answer.await {
        Ok(Ok((file, summary))) => {
            let body = json!({
                "file": file,
                "frame": summary.frame,
                "state_hash": format!("{:016x}", summary.state_hash),
                "entities": summary.entities,
                "bytes": summary.file_bytes,
                "digest": format!("{:032x}", summary.digest),
            });
            ([(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
        }
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the shard is stopping\n").into_response(),
    }
}

/// Is this an operator on this machine?
pub fn is_operator(address: SocketAddr, headers: &HeaderMap) -> bool {
    address.ip().to_canonical().is_loopback() && !NOT_FROM_OPERATORS.iter().any(|name| headers.contains_key(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_for_operators_on_this_machine() {
        let is = |address: &str, name: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert("user-agent", HeaderValue::from_static("curl"));
            headers.extend(name.map(|name| (name.parse().ok(), HeaderValue::from_static("x"))));
            is_operator(address.parse().unwrap(), &headers)
        };
        for address in ["127.0.0.1:5000", "127.8.8.8:1", "[::1]:5000", "[::ffff:127.0.0.1]:5000"] {
            assert!(is(address, None), "{address}");
            for name in NOT_FROM_OPERATORS {
                assert!(!is(address, Some(name)), "{address} with {name}");
            }
        }
        for address in ["192.168.0.7:80", "[::2]:80", "0.0.0.0:80", "[::ffff:10.0.0.1]:80"] {
            assert!(!is(address, None), "{address}");
        }
    }
}
