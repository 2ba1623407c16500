//! The update service: a repository's tree for clients, and an interface for studios to upload, publish and take away.
//!
//! To clients it is a static web server ([`files`]): whatever they download is proven by signatures and hashes, so they need not
//! trust it. It takes an upload only if they would take it, too ([`publish`]).
//!
//! - `uploads`: resumable uploads; `publish`: metadata, pruning; `records`: what is remembered in the store.
//! - `limits`, `proxies`, `metrics`, `problem`: how often, who, how many, and why not.

mod files;
mod limits;
mod metrics;
mod problem;
mod proxies;
mod publish;
mod records;
mod uploads;

use crate::auth::{Allowed, Denial, Verifier, VerifierConfig};
use crate::catalogue;
use crate::chunk_server::{self, ChunkServer};
use crate::error::{Exit, TaskError, one_line, shown};
use crate::trust::{self, KeyRing, Passphrase};
use crate::whole;
use axum::body::Body;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use limits::{Limiter, Rate};
use metrics::Metrics;
use problem::Problem;
pub use proxies::Network;
use records::{Gone, Published, Records};
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use vsekai_storage::kv::Database;

/// The largest upload of metadata, bytes: a catalogue of full length in base64.
const PUBLISH_BYTES_MAX: usize = 24 << 20;
/// The largest body of any other request but a file's, bytes.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Between two looks at what has expired.
const CHORES: Duration = Duration::from_secs(60);
/// How long requests may go on when the service is asked to stop.
const FAREWELL: Duration = Duration::from_secs(10);

/// What a service is made of.
#[derive(Debug)]
pub struct Config {
    /// The tree that is served and written.
    pub repository: PathBuf,
    /// Where it listens; port 0 for a free one.
    pub listen: SocketAddr,
    /// The project's store: `local:DIR`, `fdb:CLUSTER_FILE`, …
    pub store: String,
    /// Whom it believes.
    pub verifier: VerifierConfig,
    /// The root that uploads must be signed under; none if the repository has one already.
    pub root_file: Option<PathBuf>,
    /// Keys of snapshot and timestamp, if the service is to sign these itself.
    pub online_keys: Option<PathBuf>,
    /// For those.
    pub passphrase: Passphrase,
    /// How long files stay after they lost their last release.
    pub grace_seconds: u64,
    /// A casync store to serve under `/chunks`, and a folder of indexes for it.
    pub chunks: Option<(PathBuf, Option<PathBuf>)>,
    /// Requests a second that one address may make in the long run; ten times as many at once.
    pub requests_per_second: f64,
    /// Proxies whose `X-Forwarded-For` says who asks.
    pub trusted_proxies: Vec<Network>,
}

/// The running service.
#[derive(Debug)]
struct Service {
    repository: PathBuf,
    records: Records,
    verifier: Verifier,
    root: Vec<u8>,
    online_keys: Option<KeyRing>,
    grace_seconds: u64,
    reads: Limiter,
    writes: Limiter,
    trusted_proxies: Vec<Network>,
    metrics: Metrics,
    busy: Busy,
    begin_lock: Mutex<()>,
    publish_lock: Mutex<()>,
}

/// Uploads that a request is writing to.
#[derive(Debug, Default)]
struct Busy(Mutex<HashSet<String>>);

struct Entered<'a>(&'a Busy, String);

impl Busy {
    fn enter(&self, id: &str) -> Option<Entered<'_>> {
        let new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
        new.then(|| Entered(self, id.to_owned()))
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(Problem::internal("the service failed", error)))
}

/// Serves until the process is asked to stop (SIGTERM, SIGINT). `ready` is told the address.
pub fn run(config: Config, ready: impl FnOnce(SocketAddr)) -> Result<(), TaskError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| TaskError::because(Exit::Failed, "the service cannot start", error))?;
    let listen = config.listen;
    let chunks = config.chunks.clone();
    let service = Arc::new(open(config)?);
    runtime.block_on(async {
        let failed = |error| TaskError::because(Exit::Busy, format!("{listen}: cannot be listened on"), error);
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let at = listener.local_addr().map_err(failed)?;
        let chores = tokio::spawn(chores(service.clone()));
        let app = router(service, chunks).into_make_service_with_connect_info::<SocketAddr>();
        let stopped = stop_signal()?;
        ready(at);
        tracing::info!(%at, "serving");
        let (asked, was_asked) = tokio::sync::oneshot::channel();
        let serving = axum::serve(listener, app).with_graceful_shutdown(async move {
            stopped.await;
            // Nobody to tell: the server has failed.
            let _ = asked.send(());
        });
        let too_long = async {
            if was_asked.await.is_ok() {
                tokio::time::sleep(FAREWELL).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        let served = tokio::select! {
            served = serving.into_future() => served,
            () = too_long => Ok(()),
        };
        chores.abort();
        served.map_err(|error| TaskError::because(Exit::Failed, "the service failed", error))
    })
}

/// Comes when the process is asked to stop.
fn stop_signal() -> Result<impl Future<Output = ()>, TaskError> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error| TaskError::because(Exit::Failed, "signals cannot be received", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn open(config: Config) -> Result<Service, TaskError> {
    let repository = config.repository;
    let parts = uploads::folder(&repository);
    whole::make_folder(&repository, 0o755)
        .and_then(|()| whole::make_folder(&parts, 0o700))
        .map_err(|error| TaskError::unwritable(&repository, error))?;
    let published = repository.join(trust::METADATA).join("1.root.json");
    let root = match &config.root_file {
        Some(file) => whole::read(file, trust::ROOT_BYTES_MAX)?,
        None => whole::read(&published, trust::ROOT_BYTES_MAX)?,
    };
    let root = root.ok_or_else(|| {
        let why = format!(
            "no root to check uploads by: give --root_file (a studio's 1.root.json), since {} is not there",
            shown(&published)
        );
        TaskError::new(Exit::Usage, why)
    })?;
    let online_keys = config.online_keys.map(|folder| KeyRing::open(&folder, config.passphrase)).transpose()?;
    let database = Database::open(&config.store).map_err(|error| {
        TaskError::because(Exit::Unreadable, format!("{}: the store cannot be opened", config.store), error)
    })?;
    let rate = |per_second: f64| Limiter::new(Rate { per_second, burst: per_second * 10.0 });
    let reads = config.requests_per_second;
    if !(0.1..=1e6).contains(&reads) {
        return Err(TaskError::new(Exit::Usage, "--requests_per_second must be 0.1 to 1000000"));
    }
    Ok(Service {
        repository,
        records: Records(database),
        verifier: Verifier::new(config.verifier)?,
        root,
        online_keys,
        grace_seconds: config.grace_seconds,
        reads: rate(reads),
        writes: rate((reads / 4.0).max(0.1)),
        trusted_proxies: config.trusted_proxies,
        metrics: Metrics::default(),
        busy: Busy::default(),
        begin_lock: Mutex::default(),
        publish_lock: Mutex::default(),
    })
}

/// Renews the timestamp, forgets idle uploads and prunes, over and over.
async fn chores(service: Arc<Service>) {
    loop {
        let of = service.clone();
        let done = blocking(move || {
            publish::renew(&of)?;
            uploads::sweep(&of)?;
            let pruned = publish::prune(&of, of.grace_seconds)?;
            of.metrics.pruned_files.add(pruned.files);
            Ok(())
        });
        if let Err(problem) = done.await {
            tracing::warn!("a chore is left undone: {}", problem.message);
        }
        tokio::time::sleep(CHORES).await;
    }
}

fn router(service: Arc<Service>, chunks: Option<(PathBuf, Option<PathBuf>)>) -> Router {
    // Read only: whoever fills the store has other ways (`vsekai sync make`, `vsekai sync serve --writable`).
    let chunks = chunks.map(|(store, index_folder)| {
        chunk_server::router(ChunkServer { store, index_folder, writable: false, authorization: None })
    });
    let api = Router::new()
        .route("/builds", get(builds))
        .route("/builds/{client_id}", get(build))
        .route("/uploads", post(begin))
        .route("/uploads/{id}", get(standing).patch(append).delete(abort))
        .route("/publish", post(publish_files).layer(DefaultBodyLimit::max(PUBLISH_BYTES_MAX)))
        .route("/prune", post(prune))
        .fallback(async || Problem::not_found("no such call: see /openapi.json"));
    Router::new()
        .route("/", get(async || asset("text/html; charset=utf-8", include_str!("../../web/index.html"))))
        .route(
            "/versions.js",
            get(async || asset("text/javascript; charset=utf-8", include_str!("../../web/versions.js"))),
        )
        .route("/style.css", get(async || asset("text/css; charset=utf-8", include_str!("../../web/style.css"))))
        .route("/openapi.json", get(async || asset("application/json", include_str!("../../web/openapi.json"))))
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics_text))
        .nest("/api", api)
        .nest_service("/chunks", chunks.unwrap_or_default().fallback(async || Problem::not_found("no such chunk")))
        .fallback(file)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(service.clone(), guard))
        .with_state(service)
}

/// Every request: limits, figures, and headers that keep browsers careful.
async fn guard(
    State(service): State<Arc<Service>>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path();
    let route = match path.trim_start_matches('/').split('/').next() {
        Some("api") => "api",
        Some(of @ ("metadata" | "catalogue" | "manifests" | "packs" | "deltas" | "chunks" | "metrics" | "healthz")) => {
            match of {
                "metadata" => "metadata",
                "catalogue" => "catalogue",
                "manifests" => "manifests",
                "packs" => "packs",
                "deltas" => "deltas",
                "chunks" => "chunks",
                "metrics" => "metrics",
                _ => "healthz",
            }
        }
        _ => "other",
    };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let limiter = if reads { &service.reads } else { &service.writes };
    let asks = proxies::client(&service.trusted_proxies, from.ip(), request.headers());
    let mut response = match limiter.take(asks, Instant::now()) {
        Ok(()) => next.run(request).await,
        Err(wait) => {
            service.metrics.limited.add(1);
            let mut problem =
                Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many requests from this address");
            problem.retry_after = Some(wait.as_secs() + 1);
            problem.into_response()
        }
    };
    service.metrics.request(route, response.status().as_u16());
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    );
    response
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "public, max-age=300")], text).into_response()
}

/// Who asks: the bearer token's user.
async fn user(service: &Arc<Service>, headers: &HeaderMap) -> Result<Allowed, Problem> {
    let refused = |why: String| Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", why);
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token =
        token.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let (_, token) = token.ok_or_else(|| refused("log in: `vsekai auth login`".into()))?;
    let (of, token) = (service.clone(), token.trim().to_owned());
    blocking(move || {
        of.verifier.verify(&token).map_err(|denial| match denial {
            Denial::Refused(why) => refused(why),
            Denial::Unavailable(error) => {
                tracing::warn!("the login provider cannot be asked: {}", one_line(error));
                let mut problem = Problem::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "provider_unavailable",
                    "the login provider cannot be asked now",
                );
                problem.retry_after = Some(5);
                problem
            }
        })
    })
    .await
}

async fn user_with(service: &Arc<Service>, headers: &HeaderMap, scope: &str) -> Result<Allowed, Problem> {
    let user = user(service, headers).await?;
    if user.may_somewhere(scope) {
        return Ok(user);
    }
    Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", format!("{} has not the scope {scope}", user.user)))
}

async fn file(
    State(service): State<Arc<Service>>,
    method: Method,
    headers: HeaderMap,
    uri: axum::http::Uri,
) -> Result<Response, Problem> {
    if !matches!(method, Method::GET | Method::HEAD) {
        return Err(Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "files are read only; uploads go to /api/uploads",
        ));
    }
    files::serve(&service.repository, uri.path().trim_start_matches('/'), &method, &headers).await
}

async fn healthz(State(service): State<Arc<Service>>) -> Result<Response, Problem> {
    blocking(move || {
        service.records.get::<serde_json::Value>("healthz")?;
        std::fs::metadata(&service.repository)
            .map_err(|error| Problem::internal("the repository cannot be read", error))?;
        Ok(([(header::CACHE_CONTROL, "no-store")], "ok\n").into_response())
    })
    .await
    .map_err(|problem| Problem { status: StatusCode::SERVICE_UNAVAILABLE, ..problem })
}

async fn metrics_text(State(service): State<Arc<Service>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4"), (header::CACHE_CONTROL, "no-store")], service.metrics.text())
        .into_response()
}

async fn builds(State(service): State<Arc<Service>>) -> Result<Response, Problem> {
    let found = blocking(move || {
        let names = publish::builds(&service)?;
        names.iter().map(|client_id| describe(&service, client_id)).collect::<Result<Vec<_>, _>>()
    });
    Ok(fresh(&json!({ "builds": found.await? })))
}

async fn build(State(service): State<Arc<Service>>, Path(client_id): Path<String>) -> Result<Response, Problem> {
    if !catalogue::is_client_id(&client_id) {
        return Err(Problem::not_found("no such build"));
    }
    Ok(fresh(&blocking(move || describe(&service, &client_id)).await?))
}

fn fresh(value: &serde_json::Value) -> Response {
    ([(header::CACHE_CONTROL, "no-cache")], Json(value)).into_response()
}

/// A build as the page and `vsekai version list` show it.
fn describe(service: &Service, client_id: &str) -> Result<serde_json::Value, Problem> {
    let catalogue = publish::published(service, client_id)?.ok_or_else(|| Problem::not_found("no such build"))?;
    let by: BTreeMap<String, Published> = service.records.list(&format!("release/{client_id}/"))?.into_iter().collect();
    let gone = service.records.list::<Gone>(&format!("gone/{client_id}/"))?;
    let release = |release: &crate::release::Release| {
        json!({
            "version": release.version,
            "published": release.published,
            "notes": release.notes,
            "manifest": release.manifest,
            "deltas": release.deltas,
            "uploaded_by": by.get(&release.version).map(|by| &by.user),
            "uploaded_at": by.get(&release.version).map(|by| by.at),
        })
    };
    let gone: Vec<_> = gone
        .iter()
        .map(|(version, gone)| json!({ "version": version, "removed_by": gone.user, "files_stay_until": gone.at + service.grace_seconds }))
        .collect();
    Ok(json!({
        "client_id": client_id,
        "releases": catalogue.releases.iter().map(release).collect::<Vec<_>>(),
        "channels": catalogue.channels,
        "removed": gone,
    }))
}

/// A body of JSON, refused with what is wrong with it.
fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::bad(error.to_string()))
}

async fn begin(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Result<Response, Problem> {
    let user = user_with(&service, &headers, "release:write").await?;
    let wish = parse(&body)?;
    let standing = blocking(move || uploads::begin(&service, &user, wish)).await?;
    let status = if standing.complete { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(standing)).into_response())
}

async fn standing(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let user = user_with(&service, &headers, "release:write").await?;
    let (of, at) = blocking(move || uploads::find(&service, &user, &id)).await?;
    Ok(fresh(&json!({ "path": of.path, "size": of.size, "offset": at, "complete": false })))
}

async fn append(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let user = user_with(&service, &headers, "release:write").await?;
    let offset = headers.get("upload-offset").and_then(|value| value.to_str().ok()?.parse().ok());
    let offset = offset.ok_or_else(|| Problem::bad("the header `Upload-Offset` says where the body begins"))?;
    Ok(Json(uploads::append(&service, user, id, offset, body).await?).into_response())
}

async fn abort(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let user = user_with(&service, &headers, "release:write").await?;
    blocking(move || uploads::find(&service, &user, &id).and_then(|_| uploads::abort(&service, &id))).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn publish_files(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> Result<Response, Problem> {
    let user = user_with(&service, &headers, "release:write").await?;
    let upload = parse(&body)?;
    Ok(Json(blocking(move || publish::publish(&service, &user, upload)).await?).into_response())
}

async fn prune(State(service): State<Arc<Service>>, headers: HeaderMap) -> Result<Response, Problem> {
    let user = user(&service, &headers).await?;
    // For all builds: files are shared between them.
    if !user.scopes.iter().any(|scope| scope == "release:delete") {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!("{} has not the scope release:delete for all builds", user.user),
        ));
    }
    Ok(Json(blocking(move || publish::prune(&service, service.grace_seconds)).await?).into_response())
}
