//! The chunk and index protocol over HTTP, the server's side: what casync's and desync's clients speak, and our own.
//!
//! ```text
//! GET HEAD PUT  /<first four digits>/<id>.cacnk    a chunk, as it is packed
//! GET HEAD PUT  /<name>.caibx, /<name>.caidx        an index
//! ```
//!
//! A chunk that is missing is 404, an upload where uploads are off 400, a wrong or missing `Authorization` 401, any other method
//! 405. Uploads are checked before they are stored: a chunk's digest, an index from end to end. What a chunk's address names never changes, and
//! is told so to caches; an index may change, and caches must ask.

use crate::caibx::{CHUNK_SIZE_MAX, IndexReader};
use crate::castr::{LocalStore, StoreError, check_packed, packed_max};
use crate::digest::{Digest, Id};
use crate::hex::{hex, unhex};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// An upload of a chunk may have this many bytes: a packed chunk of 16 MiB, the largest that fastcdc cuts.
const CHUNK_UPLOAD_MAX: u64 = 16 << 20;
/// An upload of an index may have this many: 1.6 million chunks.
const INDEX_UPLOAD_MAX: usize = 64 << 20;
/// Requests that touch the disk at the same time; others wait.
const AT_ONCE: usize = 64;
/// Uploads that are checked at the same time: each takes a core, and memory for its body.
const UPLOADS_AT_ONCE: usize = 4;

/// What is served.
#[derive(Debug, Clone)]
pub struct ChunkServer {
    /// A `.castr` folder.
    pub store: PathBuf,
    /// A folder of indexes; none are served without.
    pub index_folder: Option<PathBuf>,
    /// Whether uploads are taken.
    pub writable: bool,
    /// What the `Authorization` header must be, byte for byte; anybody may read (and write, if that is on) without.
    pub authorization: Option<String>,
}

struct Shared {
    store: LocalStore,
    index_folder: Option<PathBuf>,
    writable: bool,
    authorization: Option<String>,
    at_once: Semaphore,
    uploads: Semaphore,
}

/// The routes, to be served alone or nested in others.
pub fn router(server: ChunkServer) -> Router {
    let shared = Arc::new(Shared {
        store: LocalStore::new(&server.store),
        index_folder: server.index_folder,
        writable: server.writable,
        authorization: server.authorization,
        at_once: Semaphore::new(AT_ONCE),
        uploads: Semaphore::new(UPLOADS_AT_ONCE),
    });
    let chunk_limit = DefaultBodyLimit::max(packed_max(CHUNK_UPLOAD_MAX) as usize);
    Router::new()
        .route("/{prefix}/{name}", get(read_chunk).put(write_chunk).layer(chunk_limit))
        .route("/{name}", get(read_index).put(write_index).layer(DefaultBodyLimit::max(INDEX_UPLOAD_MAX)))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), authorized))
        .with_state(shared)
}

/// Why a request is not answered with what it asks for.
enum Refusal {
    NotFound,
    NotWritable,
    Bad(String),
    Failed,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "not there\n").into_response(),
            Self::NotWritable => (StatusCode::BAD_REQUEST, "uploads are off\n").into_response(),
            Self::Bad(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
            Self::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "the store failed\n").into_response(),
        }
    }
}

async fn authorized(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    if let Some(wanted) = &shared.authorization {
        let given = request.headers().get(header::AUTHORIZATION).map_or(&b""[..], HeaderValue::as_bytes);
        // In a time that tells nothing of where they differ: digests are compared instead.
        if Digest::Sha256.of(given) != Digest::Sha256.of(wanted.as_bytes()) {
            return (StatusCode::UNAUTHORIZED, "the Authorization header is not the right one\n").into_response();
        }
    }
    next.run(request).await
}

fn chunk_id(prefix: &str, name: &str) -> Result<Id, Refusal> {
    let id = name.strip_suffix(".cacnk").and_then(unhex).filter(|_| name.get(..4) == Some(prefix));
    id.ok_or(Refusal::NotFound)
}

async fn read_chunk(
    State(shared): State<Arc<Shared>>,
    Path((prefix, name)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let id = chunk_id(&prefix, &name)?;
    let tag = format!("\"{}\"", hex(&id));
    if matches(&headers, &tag) && on_disk(&shared, move |shared| Ok(shared.store.has(&id))).await? {
        return Ok(with_caching(StatusCode::NOT_MODIFIED.into_response(), &tag, true));
    }
    // To a HEAD axum sends the same without its body.
    let packed = on_disk(&shared, move |shared| {
        let mut packed = Vec::new();
        match shared.store.read(&id, packed_max(CHUNK_SIZE_MAX), &mut packed) {
            Ok(()) => Ok(packed),
            Err(StoreError::Missing { .. }) => Err(Refusal::NotFound),
            Err(_) => Err(Refusal::Failed),
        }
    })
    .await?;
    let mut response = Body::from(packed).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/zstd"));
    Ok(with_caching(response, &tag, true))
}

async fn write_chunk(
    State(shared): State<Arc<Shared>>,
    Path((prefix, name)): Path<(String, String)>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let id = chunk_id(&prefix, &name)?;
    let packed = body(&shared, request, packed_max(CHUNK_UPLOAD_MAX) as usize).await?;
    on_disk(&shared, move |shared| {
        check_packed(&packed, &id, Digest::Sha512_256, CHUNK_SIZE_MAX)
            .map_err(|why| Refusal::Bad(format!("chunk {}: {why}", hex(&id))))?;
        shared.store.write(&id, &packed).map_err(|_| Refusal::Failed)
    })
    .await?;
    Ok(StatusCode::OK)
}

/// A name that is one part of a path, and an index's.
fn index_path(shared: &Shared, name: &str) -> Result<PathBuf, Refusal> {
    let folder = shared.index_folder.as_ref().ok_or(Refusal::NotFound)?;
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._+- ".contains(&byte));
    let is_index = name.ends_with(".caibx") || name.ends_with(".caidx");
    if plain && is_index && !name.starts_with('.') && name.len() <= 200 {
        Ok(folder.join(name))
    } else {
        Err(Refusal::NotFound)
    }
}

async fn read_index(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let path = index_path(&shared, &name)?;
    let (file, size) = on_disk(&shared, move |_| {
        let file = std::fs::File::open(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Refusal::NotFound,
            _ => Refusal::Failed,
        })?;
        let metadata = file.metadata().map_err(|_| Refusal::Failed)?;
        if metadata.is_file() { Ok((file, metadata)) } else { Err(Refusal::NotFound) }
    })
    .await
    .map(|(file, metadata)| (file, metadata.len()))?;
    if size > INDEX_UPLOAD_MAX as u64 {
        return Err(Refusal::Failed);
    }
    let bytes = on_disk(&shared, move |_| {
        let mut bytes = Vec::with_capacity(size as usize);
        let mut file = std::io::Read::take(file, INDEX_UPLOAD_MAX as u64);
        std::io::Read::read_to_end(&mut file, &mut bytes).map_err(|_| Refusal::Failed)?;
        Ok(bytes)
    })
    .await?;
    let tag = format!("\"{}\"", blake3::hash(&bytes).to_hex());
    if matches(&headers, &tag) {
        return Ok(with_caching(StatusCode::NOT_MODIFIED.into_response(), &tag, false));
    }
    Ok(with_caching(Body::from(bytes).into_response(), &tag, false))
}

async fn write_index(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let path = index_path(&shared, &name)?;
    let bytes = body(&shared, request, INDEX_UPLOAD_MAX).await?;
    on_disk(&shared, move |shared| {
        let unsound = |error| Refusal::Bad(format!("{name}: {error}"));
        let mut reader = IndexReader::new(&bytes[..], bytes.len() as u64).map_err(unsound)?;
        while reader.next_chunk().map_err(unsound)?.is_some() {}
        // The index is to be on the disk only after its chunks are.
        shared.store.sync().map_err(|_| Refusal::Failed)?;
        let write = || -> std::io::Result<()> {
            let folder = path.parent().expect("it was joined");
            let mut file = tempfile::Builder::new()
                .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
                .tempfile_in(folder)?;
            file.write_all(&bytes)?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            std::fs::File::open(folder)?.sync_all()
        };
        write().map_err(|_| Refusal::Failed)
    })
    .await?;
    Ok(StatusCode::OK)
}

/// The whole body of an upload, if uploads are on.
async fn body(shared: &Shared, request: Request, max: usize) -> Result<Bytes, Refusal> {
    if !shared.writable {
        return Err(Refusal::NotWritable);
    }
    let _one_of_few = shared.uploads.acquire().await.map_err(|_| Refusal::Failed)?;
    axum::body::to_bytes(request.into_body(), max)
        .await
        .map_err(|_| Refusal::Bad(format!("the upload broke off, or has more than {max} bytes")))
}

async fn on_disk<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let _one_of_many = shared.at_once.acquire().await.map_err(|_| Refusal::Failed)?;
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || work(&shared)).await.map_err(|_| Refusal::Failed)?
}

fn matches(headers: &HeaderMap, tag: &str) -> bool {
    headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|value| {
        value.split(',').any(|one| matches!(one.trim(), "*") || one.trim().trim_start_matches("W/") == tag)
    })
}

fn with_caching(mut response: Response, tag: &str, never_changes: bool) -> Response {
    let caching = if never_changes { "public, max-age=31536000, immutable" } else { "no-cache" };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
