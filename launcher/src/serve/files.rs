//! The repository's tree, as a static web server would serve it: ranges, ETags, caching that lasts for what never changes.

use super::problem::Problem;
use crate::catalogue::{is_client_id, is_hash};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use futures_util::stream;
use std::io::SeekFrom;
use std::ops::Range;
use std::path::Path;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Bytes that are read and sent at a time.
const PIECE: usize = 64 << 10;

/// How a file of the repository is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Named by its content or its version: never changes.
    Immutable,
    /// `timestamp.json`, and catalogues by their plain names.
    Changing,
}

/// What kind of file this is; `None` if a repository has no such file. Nothing else is ever opened.
pub fn kind(path: &str) -> Option<Kind> {
    let (folder, name) = path.split_once('/')?;
    match folder {
        "manifests" | "packs" | "deltas" => is_hash(name).then_some(Kind::Immutable),
        "metadata" if name == "timestamp.json" => Some(Kind::Changing),
        "metadata" => {
            let (version, role) = name.split_once('.')?;
            let versioned = (1..=10).contains(&version.len())
                && version.bytes().all(|byte| byte.is_ascii_digit())
                && !version.starts_with('0');
            (versioned && ["root.json", "targets.json", "snapshot.json"].contains(&role)).then_some(Kind::Immutable)
        }
        "catalogue" => match name.strip_suffix(".json")?.split_once('.') {
            Some((hash, client_id)) => (is_hash(hash) && is_client_id(client_id)).then_some(Kind::Immutable),
            None => is_client_id(name.strip_suffix(".json")?).then_some(Kind::Changing),
        },
        _ => None,
    }
}

/// The one range that is asked for, within `size`. `Ok(None)`: the whole file. Several ranges, and what is no range, are answered by
/// the whole file (RFC 9110, 14.2); `Err`: nothing of it is there.
fn range(headers: &HeaderMap, size: u64) -> Result<Option<Range<u64>>, ()> {
    let Some(text) = headers.get(header::RANGE).and_then(|value| value.to_str().ok()?.strip_prefix("bytes=")) else {
        return Ok(None);
    };
    let Some((first, last)) = text.split_once('-') else { return Ok(None) };
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let asked = match (number(first), last) {
        (Some(first), "") => first..size,
        (Some(first), last) => match number(last) {
            Some(last) if last >= first => first..last.saturating_add(1).min(size),
            _ => return Ok(None),
        },
        (None, last) if first.is_empty() => match number(last) {
            Some(count) => size.saturating_sub(count)..size,
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    if asked.start >= asked.end { Err(()) } else { Ok(Some(asked)) }
}

/// Answers GET and HEAD of `path`.
pub async fn serve(repository: &Path, path: &str, method: &Method, headers: &HeaderMap) -> Result<Response, Problem> {
    let missing = || Problem::not_found(format!("{path}: not in this repository"));
    let kind = kind(path).ok_or_else(missing)?;
    let mut file = match File::open(repository.join(path)).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing()),
        other => other.map_err(|error| Problem::internal("a file cannot be opened", error))?,
    };
    let failed = |error| Problem::internal("a file cannot be read", error);
    let metadata = file.metadata().await.map_err(failed)?;
    if !metadata.is_file() {
        return Err(missing());
    }
    let size = metadata.len();
    let (etag, caching) = match kind {
        // The name says what is in it.
        Kind::Immutable => (format!("\"{}\"", path.replace('/', "-")), "public, max-age=31536000, immutable"),
        Kind::Changing => {
            use std::os::unix::fs::MetadataExt;
            // Replaced by renaming: another inode, time or size.
            let of = (metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), size);
            (format!("\"{:x}-{:x}-{:x}-{:x}\"", of.0, of.1, of.2, of.3), "public, max-age=0, must-revalidate")
        }
    };
    let json = path.ends_with(".json");
    let mut response = Response::builder()
        .header(header::ETAG, &etag)
        .header(header::CACHE_CONTROL, caching)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, if json { "application/json" } else { "application/octet-stream" });
    let same = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let listed = |text: &str| text.split(',').any(|of| of.trim().trim_start_matches("W/") == etag || of.trim() == "*");
    let built = |response: axum::http::response::Builder, body| {
        response.body(body).map_err(|error| Problem::internal("an answer", error))
    };
    if same(header::IF_NONE_MATCH).is_some_and(listed) {
        return built(response.status(StatusCode::NOT_MODIFIED), Body::empty());
    }
    // A range of another file than the one that the client has begun is of no use to it (RFC 9110, 13.1.5).
    let wanted = if same(header::IF_RANGE).is_none_or(|of| of == etag) { range(headers, size) } else { Ok(None) };
    let wanted = match wanted {
        Err(()) => {
            let response = response
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(header::CONTENT_RANGE, format!("bytes */{size}"));
            return built(response, Body::empty());
        }
        Ok(None) => 0..size,
        Ok(Some(wanted)) => {
            let last = wanted.end - 1;
            response = response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, format!("bytes {}-{last}/{size}", wanted.start));
            wanted
        }
    };
    response = response.header(header::CONTENT_LENGTH, wanted.end - wanted.start);
    if method == Method::HEAD {
        return built(response, Body::empty());
    }
    file.seek(SeekFrom::Start(wanted.start)).await.map_err(failed)?;
    let pieces = stream::try_unfold((file, wanted.end - wanted.start), |(mut file, left)| async move {
        if left == 0 {
            return Ok::<_, std::io::Error>(None);
        }
        let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
        file.read_exact(&mut piece).await?;
        let left = left - piece.len() as u64;
        Ok(Some((Bytes::from(piece), (file, left))))
    });
    built(response, Body::from_stream(pieces))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_a_repository_are_opened() {
        let hash = "0".repeat(64);
        for (path, expected) in [
            (format!("packs/{hash}"), Some(Kind::Immutable)),
            ("metadata/12.root.json".into(), Some(Kind::Immutable)),
            ("metadata/timestamp.json".into(), Some(Kind::Changing)),
            ("catalogue/game-2.json".into(), Some(Kind::Changing)),
            (format!("catalogue/{hash}.game.json"), Some(Kind::Immutable)),
        ] {
            assert_eq!(kind(&path), expected, "{path}");
        }
        for path in [
            "packs/../x",
            "packs/x",
            "packs",
            "",
            "../metadata/1.root.json",
            "metadata/0.root.json",
            "metadata/1.x.json",
            "metadata/../../etc/passwd",
            "catalogue/../x.json",
            "catalogue/.json",
            "catalogue/A.json",
            "metadata//timestamp.json",
            ".uploads/x",
        ] {
            assert_eq!(kind(path), None, "{path}");
        }
    }

    #[test]
    fn ranges_are_as_the_standard_says() {
        let of =
            |text: &str| range(&HeaderMap::from_iter([(header::RANGE, HeaderValue::from_str(text).unwrap())]), 100);
        assert_eq!(of("bytes=0-9"), Ok(Some(0..10)));
        assert_eq!(of("bytes=90-200"), Ok(Some(90..100)));
        assert_eq!(of("bytes=90-"), Ok(Some(90..100)));
        assert_eq!(of("bytes=-10"), Ok(Some(90..100)));
        assert_eq!(of("bytes=-200"), Ok(Some(0..100)));
        assert_eq!(of("bytes=0-18446744073709551615"), Ok(Some(0..100)));
        for unsatisfiable in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(of(unsatisfiable), Err(()), "{unsatisfiable}");
        }
        for ignored in ["bytes=9-0", "bytes=0-1,5-6", "lines=1-2", "bytes=a-b", "bytes=+1-2", "bytes=-"] {
            assert_eq!(of(ignored), Ok(None), "{ignored}");
        }
        assert_eq!(range(&HeaderMap::new(), 100), Ok(None));
    }
}
