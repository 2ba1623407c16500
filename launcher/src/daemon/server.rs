//! The daemon's API over HTTP, on loopback.

use super::job::{Job, Jobs, Order};
use super::{Reach, lock, state_folder};
use crate::error::{Exit, TaskError};
use crate::whole;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::stream::{self, Stream};
use rand::RngExt;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often a watcher is told, if anything changed.
const EVENT_INTERVAL: Duration = Duration::from_millis(200);

struct Shared {
    jobs: Jobs,
    token: String,
    stop: watch::Sender<bool>,
}

/// Serves until it is asked to stop; at once if another daemon runs.
pub(crate) fn serve() -> Result<(), TaskError> {
    // A terminal that closes takes only its own session along. One that leads its group already has no terminal to lose.
    let _ = rustix::process::setsid();
    let folder = state_folder()?;
    let Some(_lock) = lock(&folder)? else { return Ok(()) };
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source: std::io::Error| TaskError::because(Exit::Failed, what, source)
    };
    let token: [u8; 32] = rand::rng().random();
    let shared =
        Arc::new(Shared { jobs: Jobs::load(&folder), token: crate::hex::hex(&token), stop: watch::Sender::new(false) });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("the daemon cannot start"))?;
    let worker = {
        let shared = shared.clone();
        std::thread::spawn(move || shared.jobs.work())
    };
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.map_err(failed("no port of 127.0.0.1"))?;
        let port = listener.local_addr().map_err(failed("no port of 127.0.0.1"))?.port();
        let path = folder.join("daemon.json");
        let reach = Reach { port, token: shared.token.clone(), pid: std::process::id() };
        whole::write(&path, &serde_json::to_vec(&reach).expect("an address is JSON"), whole::PRIVATE)?;
        let mut stopped = shared.stop.subscribe();
        let signals = shared.clone();
        tokio::spawn(async move {
            use tokio::signal::unix::{SignalKind, signal};
            if let (Ok(mut term), Ok(mut interrupt)) =
                (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
            {
                tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} }
                signals.stop.send_replace(true);
            }
        });
        let service = router(shared.clone());
        let served = axum::serve(listener, service).with_graceful_shutdown(async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        });
        let served = served.await.map_err(failed("the daemon's API failed"));
        let _ = std::fs::remove_file(&path);
        served
    })?;
    shared.jobs.stop();
    worker.join().map_err(|_| TaskError::new(Exit::Failed, "the daemon's worker panicked"))
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/jobs", get(list).post(begin))
        .route("/v1/jobs/{id}/pause", post(pause_one))
        .route("/v1/jobs/{id}/resume", post(resume_one))
        .route("/v1/pause", post(pause_all))
        .route("/v1/resume", post(resume_all))
        .route("/v1/events", get(events))
        .route("/v1/stop", post(stop))
        .layer(middleware::from_fn_with_state(shared.clone(), only_with_token))
        .layer(DefaultBodyLimit::max(64 << 10))
        .with_state(shared)
}

/// Every answer is for who has the token: other users of the machine and web pages have not.
async fn only_with_token(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let given =
        request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    // Digests are compared, so that how far the texts agree takes no time that tells it.
    if given.is_some_and(|given| blake3::hash(given.as_bytes()) == blake3::hash(shared.token.as_bytes())) {
        next.run(request).await
    } else {
        (StatusCode::UNAUTHORIZED, "the token of daemon.json is needed").into_response()
    }
}

fn answer<T: serde::Serialize>(result: Result<T, TaskError>) -> Response {
    match result {
        Ok(value) => Json(value).into_response(),
        Err(error) => {
            let status = match error.exit {
                Exit::NotFound => StatusCode::NOT_FOUND,
                Exit::Usage => StatusCode::BAD_REQUEST,
                Exit::Busy => StatusCode::CONFLICT,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, crate::error::one_line(error)).into_response()
        }
    }
}

async fn list(State(shared): State<Arc<Shared>>) -> Json<Vec<Job>> {
    Json(shared.jobs.list())
}

async fn begin(State(shared): State<Arc<Shared>>, Json(order): Json<Order>) -> Response {
    answer(shared.jobs.begin(order))
}

async fn pause_one(State(shared): State<Arc<Shared>>, Path(id): Path<u64>) -> Response {
    answer(shared.jobs.pause(Some(id)))
}

async fn resume_one(State(shared): State<Arc<Shared>>, Path(id): Path<u64>) -> Response {
    answer(shared.jobs.resume(Some(id)))
}

async fn pause_all(State(shared): State<Arc<Shared>>) -> Response {
    answer(shared.jobs.pause(None))
}

async fn resume_all(State(shared): State<Arc<Shared>>) -> Response {
    answer(shared.jobs.resume(None))
}

async fn stop(State(shared): State<Arc<Shared>>) -> Json<Vec<Job>> {
    shared.stop.send_replace(true);
    Json(shared.jobs.list())
}

/// The list of jobs whenever it changes, at most five times a second.
async fn events(State(shared): State<Arc<Shared>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let stopped = shared.stop.subscribe();
    let stream = stream::unfold((shared, stopped, None::<Vec<Job>>), |(shared, mut stopped, before)| async move {
        loop {
            if *stopped.borrow() {
                return None;
            }
            let jobs = shared.jobs.list();
            if before.as_ref() != Some(&jobs) {
                let event = Event::default().event("jobs").json_data(&jobs).unwrap_or_default();
                return Some((Ok(event), (shared, stopped, Some(jobs))));
            }
            let _ = tokio::time::timeout(EVENT_INTERVAL, stopped.changed()).await;
        }
    });
    Sse::new(stream).keep_alive(KeepAlive::default())
}
