//! The tree over HTTP. Who may ask is decided by whoever nests this: everything here is for operators and servers.
//!
//! Versions stand in `ETag` as `"created.payload_version"`, and come back in `If-Match` and `If-None-Match`; there a
//! payload version alone will do, too. Every answer to a read has the revision in `Tree-Revision`.

use super::command::{
    Command, Operation, OperationResult, Put, Refusal, Reply, Revision, SessionView, Target, Transaction,
};
use super::condition::{Compare, Condition, Payload};
use super::error::TreeError;
use super::handle::{Subscription, TreeHandle};
use super::machine::Facts;
use super::path::{NodePath, Pattern};
use super::snapshot::read_export;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream::{self, Stream, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::mpsc;

/// The revision that an answer shows.
const TREE_REVISION: HeaderName = HeaderName::from_static("tree-revision");
/// Nodes of a list that does not say how many.
const LIST_COUNT: usize = 1_000;
/// A watcher hears something at least this often: a comment, or how far it is.
const BEAT: Duration = Duration::from_secs(15);

/// All routes, to be nested under `/api/tree`.
pub fn router(handle: TreeHandle) -> Router {
    let limits = *handle.limits();
    let import = post(import).layer(DefaultBodyLimit::max(limits.import_bytes_max));
    Router::new()
        .route("/node", get(read_root).put(put_root))
        .route("/node/", get(read_root).put(put_root))
        .route("/node/{*path}", get(read_node).put(put_node).delete(delete_node))
        .route("/transaction", post(transaction))
        .route("/list", get(list))
        .route("/count", get(count))
        .route("/watch", get(watch))
        .route("/session", get(sessions).post(open_session))
        .route("/session/{session}", post(renew_session).delete(close_session))
        .route("/export", get(export))
        .route("/status", get(status))
        .layer(DefaultBodyLimit::max(limits.body_bytes_max))
        .route("/import", import)
        .with_state(handle)
}

/// An answer that is an error: what, in words and as data.
struct Failure {
    status: StatusCode,
    body: serde_json::Value,
}

type Answer = Result<Response, Failure>;

impl Failure {
    fn bad(error: impl ToString) -> Self {
        Failure { status: StatusCode::BAD_REQUEST, body: json!({ "error": error.to_string() }) }
    }

    fn busy(text: &str) -> Self {
        Failure { status: StatusCode::SERVICE_UNAVAILABLE, body: json!({ "error": text }) }
    }
}

impl From<TreeError> for Failure {
    fn from(error: TreeError) -> Self {
        let text = error.to_string();
        match error {
            TreeError::Refused(refusal) => {
                let status = match &refusal {
                    Refusal::CheckFailed { .. } | Refusal::ConditionFailed { .. } => StatusCode::PRECONDITION_FAILED,
                    Refusal::Missing { .. } | Refusal::NoSession { .. } => StatusCode::NOT_FOUND,
                    Refusal::Exists { .. } | Refusal::KeepWhileUnmet { .. } => StatusCode::CONFLICT,
                    Refusal::Root | Refusal::TtlOutOfRange { .. } => StatusCode::BAD_REQUEST,
                    Refusal::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
                    Refusal::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
                    Refusal::BadImport { .. } => StatusCode::UNPROCESSABLE_ENTITY,
                    Refusal::IndexOrder { .. } => StatusCode::INTERNAL_SERVER_ERROR,
                };
                Failure { status, body: json!({ "error": text, "refusal": refusal }) }
            }
            TreeError::Compacted(compacted) => {
                Failure { status: StatusCode::GONE, body: json!({ "error": text, "compacted": compacted }) }
            }
            TreeError::Busy { .. } | TreeError::TooManyWatchers { .. } | TreeError::Stopped(_) => Failure::busy(&text),
        }
    }
}

impl From<BytesRejection> for Failure {
    fn from(rejection: BytesRejection) -> Self {
        Failure { status: rejection.status(), body: json!({ "error": rejection.body_text() }) }
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Failure::bad(rejection.body_text())
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Self {
        Failure::bad(rejection.body_text())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = json_response(self.status, &self.body);
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_string(body) {
        Ok(text) => {
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            (status, headers, text + "\n").into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn with(mut response: Response, name: HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

fn body_of<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(Failure::bad)
}

fn etag(created: u64, payload_version: u64) -> String {
    format!("\"{created}.{payload_version}\"")
}

fn path_of(rest: &str) -> Result<NodePath, Failure> {
    format!("/{rest}").parse().map_err(Failure::bad)
}

/// What `If-Match` and `If-None-Match` ask of a node.
fn preconditions(headers: &HeaderMap) -> Result<Option<Condition>, Failure> {
    let mut conditions = Vec::new();
    for (name, wanted) in [(header::IF_MATCH, true), (header::IF_NONE_MATCH, false)] {
        if let Some(value) = headers.get(&name) {
            let text = value.to_str().map_err(|_| Failure::bad(format!("{name} is no text")))?;
            let matching = match text.trim() {
                "*" => Condition::Exists(true),
                tags => Condition::Any(tags.split(',').map(tag).collect::<Result<_, _>>()?),
            };
            conditions.push(if wanted { matching } else { Condition::Not(Box::new(matching)) });
        }
    }
    Ok(match conditions.len() {
        0 => None,
        1 => conditions.pop(),
        _ => Some(Condition::All(conditions)),
    })
}

fn tag(tag: &str) -> Result<Condition, Failure> {
    let bad = || Failure::bad(format!("{tag} is no tag of a node: those are \"CREATED.VERSION\" or \"VERSION\""));
    let text = tag.trim().strip_prefix('"').and_then(|text| text.strip_suffix('"')).ok_or_else(bad)?;
    let number = |text: &str| text.parse().map(Compare::Eq).map_err(|_| bad());
    Ok(match text.split_once('.') {
        Some((created, version)) => {
            Condition::All(vec![Condition::Created(number(created)?), Condition::PayloadVersion(number(version)?)])
        }
        None => Condition::PayloadVersion(number(text)?),
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadQuery {
    /// The payload alone, as it is.
    #[serde(default)]
    raw: bool,
}

async fn read_root(
    state: State<TreeHandle>,
    query: Result<Query<ReadQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Answer {
    read(&state, NodePath::root(), &query?.0, &headers).await
}

async fn read_node(
    state: State<TreeHandle>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<ReadQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Answer {
    read(&state, path_of(&path?)?, &query?.0, &headers).await
}

async fn read(handle: &TreeHandle, path: NodePath, query: &ReadQuery, headers: &HeaderMap) -> Answer {
    let unless = preconditions(headers)?;
    let asked = path.clone();
    let (revision, node, is_wanted) = handle
        .read(move |machine| {
            let is_wanted = unless.is_none_or(|condition| machine.holds(&condition, &asked));
            (machine.revision(), machine.get(&asked), is_wanted)
        })
        .await?;
    let Some(node) = node else { return Err(TreeError::from(Refusal::Missing { path }).into()) };
    let tag = etag(node.created, node.payload_version);
    let response = if !is_wanted && headers.contains_key(header::IF_NONE_MATCH) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if !is_wanted {
        StatusCode::PRECONDITION_FAILED.into_response()
    } else if query.raw {
        let payload = node.payload.map_or_else(Bytes::new, |payload| Bytes::copy_from_slice(&payload.0));
        let headers = [
            (header::CONTENT_TYPE, "application/octet-stream"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::CACHE_CONTROL, "no-store"),
        ];
        (headers, payload).into_response()
    } else {
        json_response(StatusCode::OK, &node)
    };
    Ok(with(with(response, header::ETAG, &tag), TREE_REVISION, &revision.to_string()))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PutQuery {
    session: Option<u64>,
    ttl_ms: Option<u64>,
    /// A condition as JSON.
    keep_while: Option<String>,
    /// A node without a payload, whatever the body.
    #[serde(default)]
    no_payload: bool,
}

async fn put_root(
    state: State<TreeHandle>,
    query: Result<Query<PutQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    put(&state, NodePath::root(), query?.0, &headers, &body?).await
}

async fn put_node(
    state: State<TreeHandle>,
    path: Result<Path<String>, PathRejection>,
    query: Result<Query<PutQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    put(&state, path_of(&path?)?, query?.0, &headers, &body?).await
}

async fn put(handle: &TreeHandle, path: NodePath, query: PutQuery, headers: &HeaderMap, body: &[u8]) -> Answer {
    let keep_while = query.keep_while.map(|text| body_of(text.as_bytes())).transpose()?;
    let put = Put {
        path,
        payload: (!query.no_payload).then(|| Payload::from(body)),
        condition: preconditions(headers)?,
        keep_while,
        session: query.session,
        ttl_ms: query.ttl_ms,
    };
    let (revision, result) = operate(handle, Operation::Put(put)).await?;
    let OperationResult::Put { payload_version, created, is_new } = result else { return Err(unexpected()) };
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    let body = json!({
        "revision": revision, "payload_version": payload_version, "created": created, "is_new": is_new,
    });
    Ok(with(json_response(status, &body), header::ETAG, &etag(created, payload_version)))
}

async fn delete_node(
    State(handle): State<TreeHandle>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Answer {
    let path = path_of(&path?)?;
    let target = Target { path: path.clone(), condition: preconditions(&headers)? };
    let (revision, result) = operate(&handle, Operation::Delete(target)).await?;
    match result {
        OperationResult::Deleted { count: 0 } => Err(TreeError::from(Refusal::Missing { path }).into()),
        OperationResult::Deleted { count } => {
            Ok(json_response(StatusCode::OK, &json!({ "revision": revision, "count": count })))
        }
        _ => Err(unexpected()),
    }
}

async fn operate(handle: &TreeHandle, operation: Operation) -> Result<(u64, OperationResult), Failure> {
    match handle.operate(operation).await? {
        Reply::Transaction { revision, mut results } => Ok((revision, results.pop().ok_or_else(unexpected)?)),
        _ => Err(unexpected()),
    }
}

/// A reply of the wrong kind: a fault of this file.
fn unexpected() -> Failure {
    Failure { status: StatusCode::INTERNAL_SERVER_ERROR, body: json!({ "error": "the reply is of another kind" }) }
}

async fn transaction(State(handle): State<TreeHandle>, body: Result<Bytes, BytesRejection>) -> Answer {
    let transaction: Transaction = body_of(&body?)?;
    match handle.apply(Command::Transaction(transaction)).await? {
        Reply::Transaction { revision, results } => {
            Ok(json_response(StatusCode::OK, &json!({ "revision": revision, "results": results })))
        }
        _ => Err(unexpected()),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    pattern: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

fn pattern_of(text: Option<&str>) -> Result<Pattern, Failure> {
    text.map_or_else(|| Ok(Pattern::all()), |text| text.parse().map_err(Failure::bad))
}

async fn list(State(handle): State<TreeHandle>, query: Result<Query<ListQuery>, QueryRejection>) -> Answer {
    let Query(ListQuery { pattern, limit, after }) = query?;
    let pattern = pattern_of(pattern.as_deref())?;
    let after: Option<NodePath> = after.map(|after| after.parse().map_err(Failure::bad)).transpose()?;
    let limit = limit.unwrap_or(LIST_COUNT);
    let listing = handle.read(move |machine| machine.list(&pattern, after.as_ref(), limit)).await?;
    let revision = listing.revision.to_string();
    Ok(with(json_response(StatusCode::OK, &listing), TREE_REVISION, &revision))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CountQuery {
    pattern: Option<String>,
}

async fn count(State(handle): State<TreeHandle>, query: Result<Query<CountQuery>, QueryRejection>) -> Answer {
    let pattern = pattern_of(query?.pattern.as_deref())?;
    let (revision, count) = handle.read(move |machine| (machine.revision(), machine.count(&pattern))).await?;
    Ok(json_response(StatusCode::OK, &json!({ "revision": revision, "count": count })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WatchQuery {
    pattern: Option<String>,
    cursor: Option<u64>,
}

async fn watch(
    State(handle): State<TreeHandle>,
    query: Result<Query<WatchQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Answer {
    let Query(WatchQuery { pattern, cursor }) = query?;
    let pattern = pattern_of(pattern.as_deref())?;
    // A browser that reconnects repeats the first request's query: what it has seen since counts.
    let last_seen = match headers.get("last-event-id") {
        Some(value) => Some(
            value
                .to_str()
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| Failure::bad("Last-Event-ID is no cursor"))?,
        ),
        None => None,
    };
    let subscription = handle.watch(pattern, last_seen.or(cursor)).await?;
    let cursor = subscription.cursor();
    let started = vec![event("start", Some(cursor), &json!({ "cursor": cursor }))];
    let watching = Watching { subscription: Some(subscription), waiting: started.into_iter(), told: cursor };
    let events = stream::unfold(watching, |mut watching| async {
        let event = watching.next().await?;
        Some((Ok::<_, Infallible>(event), watching))
    });
    let events = taken_in_time(events, handle.limits().stall_ms_max, || None);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(BEAT)).into_response())
}

/// Gives what `source` gives, but lets go of it when nobody takes anything for so long: a connection that hangs must not
/// keep what others wait for. Then `cut_off` is the end.
fn taken_in_time<T: Send + 'static>(
    source: impl Stream<Item = T> + Send + 'static,
    stall_ms_max: u64,
    cut_off: fn() -> Option<T>,
) -> impl Stream<Item = T> + Send + 'static {
    // `None` says that it was all.
    let (sender, mut receiver) = mpsc::channel::<Option<T>>(1);
    tokio::spawn(async move {
        let mut source = Box::pin(source);
        loop {
            let item = tokio::select! {
                item = source.next() => item,
                () = sender.closed() => return,
            };
            let Some(item) = item else { break };
            let sent = tokio::time::timeout(Duration::from_millis(stall_ms_max), sender.send(Some(item))).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
        // Whoever has all of it may ask again at once.
        drop(source);
        // Nobody may be there to hear it.
        let _ = sender.send(None).await;
    });
    let mut is_over = false;
    stream::poll_fn(move |context| {
        if is_over {
            return Poll::Ready(None);
        }
        receiver.poll_recv(context).map(|item| {
            let item = item.unwrap_or_else(|| {
                is_over = true;
                cut_off()
            });
            is_over |= item.is_none();
            item
        })
    })
}

/// An event stream's place. Events are made when the connection has room for them.
struct Watching {
    /// `None` once the end was told.
    subscription: Option<Subscription>,
    waiting: std::vec::IntoIter<Event>,
    told: u64,
}

impl Watching {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.next() {
                return Some(event);
            }
            let subscription = self.subscription.as_mut()?;
            match tokio::time::timeout(BEAT, subscription.next()).await {
                Ok(Ok(batch)) => {
                    self.told = batch.revisions.last().map_or(self.told, |revision| revision.revision);
                    let events: Vec<Event> = batch.revisions.iter().map(revision_event).collect();
                    self.waiting = events.into_iter();
                }
                // Nothing for it for a while: its cursor must not grow old for that.
                Err(_) if subscription.cursor() != self.told => {
                    self.told = subscription.cursor();
                    return Some(event("progress", Some(self.told), &json!({ "cursor": self.told })));
                }
                Err(_) => {}
                Ok(Err(error)) => {
                    self.subscription = None;
                    return Some(match &error {
                        TreeError::Compacted(compacted) => event("compacted", None, compacted),
                        _ => event("stopped", None, &json!({ "error": error.to_string() })),
                    });
                }
            }
        }
    }
}

fn revision_event(revision: &Arc<Revision>) -> Event {
    event("revision", Some(revision.revision), &**revision)
}

fn event(kind: &str, id: Option<u64>, data: &impl Serialize) -> Event {
    let event = Event::default().event(kind).data(serde_json::to_string(data).unwrap_or_default());
    match id {
        Some(id) => event.id(id.to_string()),
        None => event,
    }
}

async fn sessions(State(handle): State<TreeHandle>) -> Answer {
    let sessions = handle.read(|machine| machine.sessions()).await?;
    Ok(json_response(StatusCode::OK, &json!({ "sessions": sessions })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenSession {
    ttl_ms: u64,
}

async fn open_session(State(handle): State<TreeHandle>, body: Result<Bytes, BytesRejection>) -> Answer {
    let OpenSession { ttl_ms } = body_of(&body?)?;
    let session = session_reply(handle.apply(Command::OpenSession { ttl_ms }).await?)?;
    Ok(json_response(StatusCode::CREATED, &session))
}

async fn renew_session(State(handle): State<TreeHandle>, session: Result<Path<u64>, PathRejection>) -> Answer {
    let session = session_reply(handle.apply(Command::RenewSession { session: session?.0 }).await?)?;
    Ok(json_response(StatusCode::OK, &session))
}

fn session_reply(reply: Reply) -> Result<SessionView, Failure> {
    match reply {
        Reply::Session(session) => Ok(session),
        _ => Err(unexpected()),
    }
}

async fn close_session(State(handle): State<TreeHandle>, session: Result<Path<u64>, PathRejection>) -> Answer {
    counted(handle.apply(Command::CloseSession { session: session?.0 }).await?)
}

fn counted(reply: Reply) -> Answer {
    match reply {
        Reply::Count { revision, count } => {
            Ok(json_response(StatusCode::OK, &json!({ "revision": revision, "count": count })))
        }
        _ => Err(unexpected()),
    }
}

async fn export(State(handle): State<TreeHandle>) -> Answer {
    let permit = handle.bulk_permit().ok_or_else(|| Failure::busy("another export or import is under way"))?;
    let snapshot = handle.read(|machine| machine.snapshot()).await?;
    let revision = snapshot.revision.to_string();
    let pieces = stream::iter(snapshot.into_pieces().map(move |piece| {
        // Held until the last piece is on its way.
        let _permit = &permit;
        Ok(piece)
    }));
    // An export that ends early must not look like a whole one.
    let cut_off = || Some(Err(io::Error::new(io::ErrorKind::TimedOut, "the export was not taken in time")));
    let pieces = taken_in_time(pieces, handle.limits().stall_ms_max, cut_off);
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    Ok(with((headers, Body::from_stream(pieces)).into_response(), TREE_REVISION, &revision))
}

async fn import(State(handle): State<TreeHandle>, request: axum::extract::Request) -> Answer {
    // Before the body is read, so that two of them are never in memory.
    let _permit = handle.bulk_permit().ok_or_else(|| Failure::busy("another export or import is under way"))?;
    let body = <Bytes as axum::extract::FromRequest<()>>::from_request(request, &()).await?;
    let contents = read_export(&body).map_err(|detail| TreeError::from(Refusal::BadImport { detail }))?;
    drop(body);
    counted(handle.apply(Command::Import(Box::new(contents))).await?)
}

#[derive(Serialize)]
struct Status {
    #[serde(flatten)]
    facts: Facts,
    hash: String,
    watchers: usize,
    limits: super::Limits,
}

async fn status(State(handle): State<TreeHandle>) -> Answer {
    let (facts, hash) = handle.read(|machine| (machine.facts(), machine.hash())).await?;
    let (watchers, limits) = (handle.watcher_count(), *handle.limits());
    Ok(json_response(StatusCode::OK, &Status { facts, hash: format!("{hash:032x}"), watchers, limits }))
}
