//! The HTTP API: how things stand, what happens, what is kept, and what operators ask for. `/openapi.json` describes it; the routes and
//! that document come from one table.

pub mod access;
mod listen;
mod metrics;
mod openapi;
mod page;
mod stream;
#[cfg(test)]
mod tests;

pub use listen::{read_token, serve};

use crate::engine::crash::{self, CrashReport};
use crate::engine::{Ask, Asked, Handle, Refused, logs_folder};
use crate::log::read::{LINES_MAX, tail};
use access::Access;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::{Semaphore, oneshot};

/// Most bytes of a request's body.
const BODY_BYTES_MAX: usize = 8 * 1_024;
/// Streams that may be open at once.
const STREAMS_MAX: usize = 48;
/// Crash reports in one answer.
const CRASHES_MAX: usize = 100;

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct Shared {
    engine: Handle,
    streams: Arc<Semaphore>,
}

/// One thing that can be asked.
struct Route {
    method: &'static str,
    path: &'static str,
    /// For people.
    summary: &'static str,
    /// Parameters of the query: name and what it is.
    query: &'static [(&'static str, &'static str)],
    /// The kind of its answer.
    answer: &'static str,
    handler: MethodRouter<Shared>,
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";
const EVENTS: &str = "text/event-stream";

fn routes() -> Vec<Route> {
    let read = |path, summary, query, answer, handler| Route { method: "get", path, summary, query, answer, handler };
    let order = |path, summary, handler| Route { method: "post", path, summary, query: &[], answer: JSON, handler };
    vec![
        read("/", "The page for operators", &[], "text/html", get(page::index)),
        read("/web/{file}", "The page's files", &[], "text/javascript", get(page::file)),
        read("/healthz", "Whether the supervisor itself is well: 200 or 503", &[], TEXT, get(metrics::health)),
        read("/metrics", "Metrics for Prometheus", &[], TEXT, get(metrics::metrics)),
        read("/openapi.json", "This document", &[], JSON, get(openapi_document)),
        read("/api/board", "How everything stands: supervisor, groups, children, newest events", &[], JSON, get(board)),
        read(
            "/api/events",
            "How everything stands and what happens, as events `board` and `happened`",
            &[],
            EVENTS,
            get(stream::events),
        ),
        read(
            "/api/store",
            "The store of this machine: whether it answers, its last error, how long commits take, what it does not have yet",
            &[],
            JSON,
            get(store),
        ),
        read("/api/children", "All children", &[], JSON, get(children)),
        read("/api/children/{name}", "One child", &[], JSON, get(child)),
        read("/api/children/{name}/history", "Its last three minutes, one point a second", &[], JSON, get(history)),
        read(
            "/api/children/{name}/logs",
            "Its last lines, oldest first",
            &[
                ("tail", "how many lines, 200 unless told"),
                ("before", "only lines with smaller numbers"),
                ("format", "json or text"),
            ],
            JSON,
            get(logs),
        ),
        read(
            "/api/children/{name}/follow",
            "Its lines as they come, as events `line`",
            &[("from", "number of the first line; those to come unless told")],
            EVENTS,
            get(stream::follow),
        ),
        read("/api/children/{name}/crashes", "Its crash reports, newest first", &[], JSON, get(child_crashes)),
        read("/api/crashes", "All crash reports without their lines, newest first", &[], JSON, get(crashes)),
        read("/api/crashes/{id}", "One crash report", &[], JSON, get(one_crash)),
        order("/api/children/{name}/start", "Start a child, also one in quarantine", post(start)),
        order("/api/children/{name}/stop", "Stop a child", post(stop)),
        order("/api/children/{name}/restart", "Stop and start a child", post(restart)),
        order("/api/children/{name}/drain", "Let a child finish by itself; then it stays down", post(drain)),
        order(
            "/api/children/{name}/upgrade",
            "Let a child finish by itself, then start the program named in the body ({\"program\": PATH}), or what the configuration says now",
            post(upgrade),
        ),
        order("/api/groups/{name}/maintain", "Drain all children of a group and hold them", post(maintain)),
        order("/api/groups/{name}/release", "End the maintenance of a group", post(release)),
        order("/api/reload", "Read the configuration again", post(reload)),
        order("/api/detach", "End the supervisor and leave the children running for the next one", post(detach)),
        order("/api/shutdown", "Stop everybody and end", post(shutdown)),
    ]
}

/// All routes, behind the check of who asks. What is mounted at `/api/tree` is behind it, too.
pub fn router(engine: Handle, access: Access, tree: Option<Router>) -> Router {
    let shared = Shared { engine, streams: Arc::new(Semaphore::new(STREAMS_MAX)) };
    let mut router = Router::new();
    for route in routes() {
        router = router.route(route.path, route.handler);
    }
    let mut router = router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(shared);
    if let Some(tree) = tree {
        router = router.nest("/api/tree", tree);
    }
    router.layer(axum::middleware::from_fn_with_state(Arc::new(access), access::check))
}

fn json_answer(value: &impl Serialize) -> Response {
    let headers = [(header::CONTENT_TYPE, JSON), (header::CACHE_CONTROL, "no-store")];
    match serde_json::to_string(value) {
        Ok(text) => (headers, format!("{text}\n")).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn refuse(status: StatusCode, text: &str) -> Response {
    (status, format!("{text}\n")).into_response()
}

async fn openapi_document() -> Response {
    json_answer(&openapi::document(&routes()))
}

async fn board(State(shared): State<Shared>) -> Response {
    let board = shared.engine.board.borrow().clone();
    json_answer(&*board)
}

async fn store(State(shared): State<Shared>) -> Response {
    let board = shared.engine.board.borrow().clone();
    match &board.store {
        Some(store) => json_answer(store),
        None => refuse(StatusCode::NOT_FOUND, "this supervisor has no [store]"),
    }
}

async fn children(State(shared): State<Shared>) -> Response {
    let board = shared.engine.board.borrow().clone();
    json_answer(&board.children)
}

async fn child(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    let board = shared.engine.board.borrow().clone();
    match board.children.iter().find(|child| child.name == name) {
        Some(child) => json_answer(child),
        None => unknown(&name),
    }
}

fn unknown(name: &str) -> Response {
    refuse(StatusCode::NOT_FOUND, &format!("there is no child {name}"))
}

fn busy() -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, "the supervisor is busy or stopping")
}

async fn history(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    let (sender, answer) = oneshot::channel();
    if shared.engine.asks.try_send(Asked::History(name.clone(), sender)).is_err() {
        return busy();
    }
    match answer.await {
        Ok(Some(history)) => json_answer(&history),
        Ok(None) => unknown(&name),
        Err(_) => busy(),
    }
}

impl Shared {
    fn folder(&self, name: &str) -> Result<PathBuf, Box<Response>> {
        self.engine.folders.get(name).cloned().ok_or_else(|| Box::new(unknown(name)))
    }

    async fn order(&self, ask: Ask) -> Response {
        let (sender, answer) = oneshot::channel();
        if self.engine.asks.try_send(Asked::Do(ask, sender)).is_err() {
            return busy();
        }
        match answer.await {
            Ok(Ok(done)) => json_answer(&json!({ "done": done })),
            Ok(Err(Refused::Unknown(text))) => refuse(StatusCode::NOT_FOUND, &text),
            Ok(Err(Refused::NotNow(text))) => refuse(StatusCode::CONFLICT, &text),
            Err(_) => busy(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    tail: Option<usize>,
    before: Option<u64>,
    format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum LogFormat {
    Json,
    Text,
}

async fn logs(State(shared): State<Shared>, Path(name): Path<String>, Query(query): Query<LogQuery>) -> Response {
    let folder = match shared.folder(&name) {
        Ok(folder) => folder,
        Err(answer) => return *answer,
    };
    let count = query.tail.unwrap_or(200);
    if count > LINES_MAX {
        return refuse(StatusCode::BAD_REQUEST, &format!("tail is {count}, it must be from 0 to {LINES_MAX}"));
    }
    let before = query.before.unwrap_or(u64::MAX);
    // A disk may be slow: not on the thread that serves everybody.
    let lines = tokio::task::spawn_blocking(move || tail(&logs_folder(&folder), count, before)).await;
    let Ok(lines) = lines else { return busy() };
    if query.format == Some(LogFormat::Text) {
        let text: String =
            lines.iter().map(|line| format!("{} {} {} {}\n", line.number, line.time, line.stream, line.text)).collect();
        return ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response();
    }
    json_answer(&lines)
}

async fn child_crashes(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    let folder = match shared.folder(&name) {
        Ok(folder) => folder,
        Err(answer) => return *answer,
    };
    match tokio::task::spawn_blocking(move || crash::list(&folder, CRASHES_MAX)).await {
        Ok(reports) => json_answer(&reports),
        Err(_) => busy(),
    }
}

async fn crashes(State(shared): State<Shared>) -> Response {
    let folders = shared.engine.folders.clone();
    let all = tokio::task::spawn_blocking(move || {
        let mut all: Vec<CrashReport> = Vec::new();
        for folder in folders.values() {
            let reports = crash::list(folder, CRASHES_MAX).into_iter();
            all.extend(reports.map(|report| CrashReport { lines: Vec::new(), backtrace: Vec::new(), ..report }));
            all.sort_unstable_by_key(|report| std::cmp::Reverse(report.at_unix_ms));
            all.truncate(CRASHES_MAX);
        }
        all
    });
    match all.await {
        Ok(reports) => json_answer(&reports),
        Err(_) => busy(),
    }
}

async fn one_crash(State(shared): State<Shared>, Path(id): Path<String>) -> Response {
    let missing = || refuse(StatusCode::NOT_FOUND, &format!("there is no crash report {id}"));
    let Some((name, run)) = id.rsplit_once('-').and_then(|(name, run)| Some((name, run.parse().ok()?))) else {
        return missing();
    };
    let Ok(folder) = shared.folder(name) else { return missing() };
    match tokio::task::spawn_blocking(move || crash::one(&folder, run)).await {
        Ok(Some(report)) => json_answer(&report),
        Ok(None) => missing(),
        Err(_) => busy(),
    }
}

async fn start(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    shared.order(Ask::Start(name)).await
}

async fn stop(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    shared.order(Ask::Stop(name)).await
}

async fn restart(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    shared.order(Ask::Restart(name)).await
}

async fn drain(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    shared.order(Ask::Drain(name)).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpgradeRequest {
    program: Option<String>,
}

async fn upgrade(State(shared): State<Shared>, Path(name): Path<String>, body: Bytes) -> Response {
    let program = if body.is_empty() {
        None
    } else {
        match Json::<UpgradeRequest>::from_bytes(&body) {
            Ok(Json(request)) => request.program,
            Err(rejection) => return refuse(StatusCode::BAD_REQUEST, &rejection.body_text()),
        }
    };
    shared.order(Ask::Upgrade(name, program)).await
}

async fn maintain(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    shared.order(Ask::Maintain(name)).await
}

async fn release(State(shared): State<Shared>, Path(name): Path<String>) -> Response {
    shared.order(Ask::Release(name)).await
}

async fn reload(State(shared): State<Shared>) -> Response {
    shared.order(Ask::Reload).await
}

async fn detach(State(shared): State<Shared>) -> Response {
    shared.order(Ask::Detach).await
}

async fn shutdown(State(shared): State<Shared>) -> Response {
    shared.order(Ask::Shutdown).await
}
