//! Resumable uploads of files that are named by their content. An upload is a record and a part file, whose length is how far it is;
//! what it becomes is renamed into the repository only after its BLAKE3 has been found right.

use super::problem::Problem;
use super::records::Upload;
use super::{Service, blocking};
use crate::auth::Allowed;
use crate::catalogue::{self, is_hash};
use crate::manifest::{MANIFEST_SIZE_MAX, PACK_SIZE_MAX};
use crate::trust::now;
use crate::whole;
use axum::body::Body;
use axum::http::StatusCode;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Uploads that one user may have under way.
const OPEN_MAX: usize = 64;
/// A sender that is silent for so long is hung up on; it may come back.
const SILENCE: Duration = Duration::from_secs(30);
/// An upload that nobody goes on with is forgotten after so many seconds.
pub const IDLE_SECONDS: u64 = 86_400;
/// So much of the disk stays free.
const RESERVE_BYTES: u64 = 64 << 20;

/// The folder of part files.
pub fn folder(repository: &Path) -> PathBuf {
    repository.join(".uploads")
}

/// The largest file of each folder, bytes.
fn size_max(folder: &str) -> Option<u64> {
    match folder {
        "manifests" => Some(MANIFEST_SIZE_MAX),
        "packs" => Some(PACK_SIZE_MAX.into()),
        "deltas" => Some(catalogue::DELTA_BYTES_MAX),
        _ => None,
    }
}

/// A wish to upload.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Begin {
    /// `manifests/HASH`, `packs/HASH` or `deltas/HASH`.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

/// How far an upload is.
#[derive(Debug, Serialize)]
pub struct Standing {
    /// For `/api/uploads/ID`; none when there is nothing to send.
    pub id: Option<String>,
    /// Bytes that have come.
    pub offset: u64,
    /// True when the file is in the repository.
    pub complete: bool,
}

/// Begins an upload, or says how far it is.
pub fn begin(service: &Service, user: &Allowed, begin: Begin) -> Result<Standing, Problem> {
    let split = begin.path.split_once('/').filter(|(_, name)| is_hash(name));
    let most = split.and_then(|(folder, _)| size_max(folder));
    let most = most.ok_or_else(|| {
        Problem::bad("`path` must be manifests/, packs/ or deltas/ and 64 lower-case hexadecimal digits")
    })?;
    if begin.size == 0 || begin.size > most {
        return Err(Problem::bad(format!("`size` is {}; 1 to {most} bytes are allowed there", begin.size)));
    }
    match std::fs::metadata(service.repository.join(&begin.path)) {
        Ok(there) if there.len() == begin.size => return Ok(Standing { id: None, offset: begin.size, complete: true }),
        Ok(there) => return Err(Problem::bad(format!("{} is there with {} bytes", begin.path, there.len()))),
        Err(_) => {}
    }
    let _held = service.begin_lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let open = service.records.list::<Upload>("upload/")?;
    let mut of_user = open.iter().filter(|(_, upload)| upload.user == user.user);
    if let Some((id, _)) = of_user.clone().find(|(_, upload)| upload.path == begin.path && upload.size == begin.size) {
        let offset = std::fs::metadata(folder(&service.repository).join(id)).map_or(0, |part| part.len());
        return Ok(Standing { id: Some(id.clone()), offset, complete: false });
    }
    if of_user.nth(OPEN_MAX - 1).is_some() {
        let why = format!("{OPEN_MAX} uploads are under way: finish or abort some");
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_uploads", why));
    }
    let promised: u64 = open.iter().map(|(_, upload)| upload.size).sum();
    let disk = rustix::fs::statvfs(&service.repository)
        .map_err(|error| Problem::internal("the disk cannot be asked", error))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < promised.saturating_add(begin.size).saturating_add(RESERVE_BYTES) {
        return Err(Problem::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "no_space",
            format!("{} bytes are more than the disk has left", begin.size),
        ));
    }
    let id = format!("{:032x}", rand::random::<u128>());
    let upload = Upload { path: begin.path, size: begin.size, user: user.user.clone(), begun: now() };
    let failed = |error| Problem::internal("an upload cannot begin", error);
    let value = serde_json::to_value(&upload).map_err(|error| Problem::internal("an upload cannot begin", error))?;
    whole::make_folder(&folder(&service.repository), 0o700).map_err(failed)?;
    std::fs::File::create_new(folder(&service.repository).join(&id)).map_err(failed)?;
    service.records.write(&[(format!("upload/{id}"), value)], &[])?;
    Ok(Standing { id: Some(id), offset: 0, complete: false })
}

/// The upload of this id, if it is this user's.
pub fn find(service: &Service, user: &Allowed, id: &str) -> Result<(Upload, u64), Problem> {
    let gone = || Problem::not_found("no such upload: begin it anew");
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(gone());
    }
    let upload = service
        .records
        .get::<Upload>(&format!("upload/{id}"))?
        .filter(|upload| upload.user == user.user)
        .ok_or_else(gone)?;
    let part = std::fs::metadata(folder(&service.repository).join(id)).map_err(|_| gone())?;
    Ok((upload, part.len()))
}

/// Forgets an upload.
pub fn abort(service: &Service, id: &str) -> Result<(), Problem> {
    service.records.write(&[], &[format!("upload/{id}")])?;
    match std::fs::remove_file(folder(&service.repository).join(id)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Problem::internal("an upload cannot be removed", error))
        }
        _ => Ok(()),
    }
}

/// Appends `body` at `offset`. Ends with the file in the repository when all of it has come and its hash is right.
pub async fn append(
    service: &Arc<Service>,
    user: Allowed,
    id: String,
    offset: u64,
    body: Body,
) -> Result<Standing, Problem> {
    // One request at a time: two would write into each other.
    let Some(_busy) = service.busy.enter(&id) else {
        return Err(Problem::new(StatusCode::CONFLICT, "busy", "another request is writing to this upload"));
    };
    let ((upload, there), part) = {
        let (of, user, id) = (service.clone(), user.clone(), id.clone());
        let part = folder(&service.repository).join(&id);
        (blocking(move || find(&of, &user, &id)).await?, part)
    };
    if offset != there {
        let mut problem =
            Problem::new(StatusCode::CONFLICT, "wrong_offset", format!("it is at {there}, not at {offset}"));
        problem.offset = Some(there);
        return Err(problem);
    }
    let failed = |error| Problem::internal("an upload cannot be written", error);
    let mut file = tokio::fs::OpenOptions::new().append(true).open(&part).await.map_err(failed)?;
    let mut at = there;
    let mut pieces = body.into_data_stream();
    let broke_off = loop {
        match tokio::time::timeout(SILENCE, pieces.next()).await {
            Err(_) => break true,
            Ok(None) => break false,
            Ok(Some(Err(_))) => break true,
            Ok(Some(Ok(piece))) => {
                if piece.len() as u64 > upload.size - at {
                    file.flush().await.map_err(failed)?;
                    drop(file);
                    let (of, id) = (service.clone(), id.clone());
                    blocking(move || abort(&of, &id)).await?;
                    return Err(Problem::new(
                        StatusCode::PAYLOAD_TOO_LARGE,
                        "too_long",
                        format!("more than the {} bytes announced", upload.size),
                    ));
                }
                file.write_all(&piece).await.map_err(failed)?;
                at += piece.len() as u64;
                service.metrics.uploaded_bytes.add(piece.len() as u64);
            }
        }
    };
    file.flush().await.map_err(failed)?;
    file.sync_all().await.map_err(failed)?;
    drop(file);
    if at < upload.size {
        if broke_off {
            tracing::debug!(id, at, "an upload broke off");
        }
        return Ok(Standing { id: Some(id), offset: at, complete: false });
    }
    let of = service.clone();
    blocking(move || finish(&of, &upload, &id)).await
}

/// Looks at what has come, and takes it into the repository.
fn finish(service: &Service, upload: &Upload, id: &str) -> Result<Standing, Problem> {
    let failed = |error| Problem::internal("an upload cannot be finished", error);
    let part = folder(&service.repository).join(id);
    let mut hasher = blake3::Hasher::new();
    let mut file = std::fs::File::open(&part).map_err(failed)?;
    std::io::copy(&mut file, &mut hasher).map_err(failed)?;
    let found = hasher.finalize().to_hex();
    if upload.path.split_once('/').map(|(_, name)| name) != Some(found.as_str()) {
        abort(service, id)?;
        let why = format!("what came has the BLAKE3 {found}, so it is not {}", upload.path);
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "wrong_hash", why));
    }
    let place = service.repository.join(&upload.path);
    let of = place.parent().unwrap_or(Path::new("."));
    whole::make_folder(of, 0o755).map_err(failed)?;
    rustix::fs::chmod(&part, rustix::fs::Mode::from_raw_mode(whole::PUBLIC)).map_err(|error| failed(error.into()))?;
    std::fs::rename(&part, &place).map_err(failed)?;
    std::fs::File::open(of).and_then(|of| of.sync_all()).map_err(failed)?;
    service.records.write(&[], &[format!("upload/{id}")])?;
    Ok(Standing { id: None, offset: upload.size, complete: true })
}

/// Forgets uploads that nobody goes on with. Gives how many.
pub fn sweep(service: &Service) -> Result<usize, Problem> {
    let mut swept = 0;
    for (id, upload) in service.records.list::<Upload>("upload/")? {
        let part = std::fs::metadata(folder(&service.repository).join(&id)).and_then(|part| part.modified());
        let touched = part
            .ok()
            .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok())
            .map_or(upload.begun, |at| at.as_secs());
        if touched + IDLE_SECONDS < now() {
            abort(service, &id)?;
            swept += 1;
        }
    }
    Ok(swept)
}
