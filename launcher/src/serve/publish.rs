//! Publishing: new catalogues and metadata are taken only if a client that trusts the pinned root would take them, and only if all that
//! they name is there. And pruning, with a grace time for clients in flight.

use super::problem::Problem;
use super::records::{Gone, Published};
use super::{Service, files};
use crate::auth::Allowed;
use crate::catalogue;
use crate::error::TaskError;
use crate::fetch::{Fetch, FetchError};
use crate::hex::hex;
use crate::manifest::{MANIFEST_SIZE_MAX, Manifest, Pack};
use crate::release::{Blob, Catalogue};
use crate::trust::{self, Lifetimes, METADATA};
use crate::whole;
use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::Path;

/// Files of one upload of metadata.
const FILES_MAX: usize = 128;

/// Metadata and catalogues, to be published together.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// By path in the repository; the bytes in base64.
    pub files: BTreeMap<String, String>,
}

/// What was published.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// `BUILD/VERSION` of releases that are new.
    pub added: Vec<String>,
    /// `BUILD/VERSION` of releases that are gone; their files stay for the grace time.
    pub removed: Vec<String>,
}

/// The repository with the upload on top.
struct Overlay<'a> {
    repository: &'a Path,
    staged: &'a BTreeMap<String, Vec<u8>>,
}

impl Fetch for Overlay<'_> {
    fn whole(&self, path: &str, max: u64) -> Result<Vec<u8>, FetchError> {
        let missing = || FetchError::NotFound { path: path.into() };
        let bytes = match self.staged.get(path) {
            Some(bytes) if bytes.len() as u64 > max => return Err(FetchError::TooLong { path: path.into(), max }),
            Some(bytes) => Some(bytes.clone()),
            None => whole::read(&self.repository.join(path), max)
                .map_err(|error| FetchError::Network { path: path.into(), why: crate::error::one_line(error) })?,
        };
        bytes.ok_or_else(missing)
    }

    fn range(&self, path: &str, _: Range<u64>, _: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), FetchError> {
        Err(FetchError::Network { path: path.into(), why: "metadata is read whole".into() })
    }
}

/// Checks and publishes an upload of metadata by this user.
pub fn publish(service: &Service, user: &Allowed, upload: Publish) -> Result<Report, Problem> {
    let _held = service.publish_lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut staged = decode(service, upload)?;
    let scratch = tempfile::tempdir_in(super::uploads::folder(&service.repository))
        .map_err(|error| Problem::internal("no room to check", error))?;
    let signs_itself = staged.contains_key("metadata/timestamp.json");
    if let Some(ring) = service.online_keys.as_ref().filter(|_| !signs_itself) {
        sign_online(service, ring, &mut staged, &scratch.path().join("repository"))?;
    }
    let state = scratch.path().join("state");
    trusted_now(service, &state)?;
    let overlay = Overlay { repository: &service.repository, staged: &staged };
    let catalogues = trust::check_upload(&overlay, &state, trust::now())?;
    let report = compare(service, user, &catalogues)?;

    // The plain names are for people and for signing; they are what was signed.
    let mut plain = Vec::new();
    for client_id in catalogues.keys() {
        let bytes = whole::read(&state.join(format!("{client_id}.catalogue.json")), catalogue::BYTES_MAX)?;
        plain.extend(bytes.map(|bytes| (format!("catalogue/{client_id}.json"), bytes)));
    }
    staged.retain(|path, _| files::kind(path) == Some(files::Kind::Immutable) || path == "metadata/timestamp.json");
    record(service, user, &report)?;
    // The timestamp comes last: until then, no client sees any of it.
    let (last, first): (Vec<_>, Vec<_>) = staged.into_iter().partition(|(path, _)| path == "metadata/timestamp.json");
    for (path, bytes) in first.into_iter().chain(plain).chain(last) {
        whole::write(&service.repository.join(&path), &bytes, whole::PUBLIC)?;
    }
    service.metrics.publishes.add(1);
    tracing::info!(user = user.user, added = ?report.added, removed = ?report.removed, "published");
    Ok(report)
}

fn decode(service: &Service, upload: Publish) -> Result<BTreeMap<String, Vec<u8>>, Problem> {
    if upload.files.len() > FILES_MAX {
        return Err(Problem::bad(format!("{} files; at most {FILES_MAX}", upload.files.len())));
    }
    let mut staged = BTreeMap::new();
    for (path, encoded) in upload.files {
        let metadata = path.starts_with("metadata/") || path.starts_with("catalogue/");
        let kind = files::kind(&path)
            .filter(|_| metadata)
            .ok_or_else(|| Problem::bad(format!("{path:?} is no metadata and no catalogue")))?;
        let bytes = STANDARD.decode(encoded).map_err(|error| Problem::bad(format!("{path}: {error}")))?;
        let there = whole::read(&service.repository.join(&path), catalogue::BYTES_MAX)?;
        match there {
            Some(there) if there == bytes => continue,
            Some(_) if kind == files::Kind::Immutable => {
                let why =
                    format!("{path} is published already, and is another: sign anew on top of what the service has");
                return Err(Problem::new(StatusCode::CONFLICT, "outdated", why));
            }
            _ => {}
        }
        staged.insert(path, bytes);
    }
    Ok(staged)
}

/// What clients trust now: the service believes nothing that they would not.
fn trusted_now(service: &Service, state: &Path) -> Result<(), Problem> {
    let keep = |name: &str, bytes: &[u8]| whole::write(&state.join(name), bytes, whole::PRIVATE);
    keep("root.json", &service.root)?;
    for name in ["timestamp.json", "snapshot.json"] {
        let file = match name {
            "timestamp.json" => name.to_owned(),
            _ => format!("{}.snapshot.json", trust::latest_version(&service.repository, name)?),
        };
        if let Some(bytes) = whole::read(&service.repository.join(METADATA).join(file), trust::SNAPSHOT_BYTES_MAX)? {
            keep(name, &bytes)?;
        }
    }
    Ok(())
}

/// Signs snapshot and timestamp over what is published with the upload on top, in a scratch folder.
fn sign_online(
    service: &Service,
    ring: &trust::KeyRing,
    staged: &mut BTreeMap<String, Vec<u8>>,
    scratch: &Path,
) -> Result<(), Problem> {
    let metadata = service.repository.join(METADATA);
    let folder = scratch.join(METADATA);
    whole::make_folder(&folder, 0o700).map_err(|error| Problem::internal("no room to sign", error))?;
    let mut names: BTreeSet<String> = BTreeSet::from(["timestamp.json".into()]);
    for role in ["root.json", "targets.json", "snapshot.json"] {
        names.insert(format!("{}.{role}", trust::latest_version(&service.repository, role)?));
    }
    for name in &names {
        if let Some(bytes) = whole::read(&metadata.join(name), trust::TARGETS_BYTES_MAX)? {
            whole::write(&folder.join(name), &bytes, whole::PRIVATE)?;
        }
    }
    for (path, bytes) in staged.iter() {
        if let Some(name) = path.strip_prefix("metadata/") {
            whole::write(&folder.join(name), bytes, whole::PRIVATE)?;
        }
    }
    let signed = trust::sign_online(scratch, ring, Lifetimes::default(), trust::now())?;
    for name in [format!("{}.snapshot.json", signed.snapshot), "timestamp.json".into()] {
        if let Some(bytes) = whole::read(&folder.join(&name), trust::SNAPSHOT_BYTES_MAX)? {
            staged.insert(format!("{METADATA}/{name}"), bytes);
        }
    }
    Ok(())
}

/// The catalogue of a build as it is published.
pub fn published(service: &Service, client_id: &str) -> Result<Option<Catalogue>, Problem> {
    let file = service.repository.join("catalogue").join(format!("{client_id}.json"));
    let bytes = whole::read(&file, catalogue::BYTES_MAX)?;
    bytes
        .map(|bytes| catalogue::parse(&bytes).map_err(|why| Problem::internal("a catalogue is damaged", why)))
        .transpose()
}

/// All builds that are published.
pub fn builds(service: &Service) -> Result<Vec<String>, Problem> {
    let entries = match std::fs::read_dir(service.repository.join("catalogue")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| Problem::internal("the catalogues cannot be listed", error))?,
    };
    let name =
        |entry: io::Result<std::fs::DirEntry>| entry.ok().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut found: Vec<String> = entries
        .filter_map(name)
        .filter_map(|name| name.strip_suffix(".json").filter(|of| catalogue::is_client_id(of)).map(str::to_owned))
        .collect();
    found.sort();
    Ok(found)
}

/// Finds what is new and what is gone, and refuses what this user may not do, what changes a release, and what is not there.
fn compare(service: &Service, user: &Allowed, catalogues: &BTreeMap<String, Catalogue>) -> Result<Report, Problem> {
    let mut report = Report::default();
    let forbidden = |scope: &str, client_id: &str| {
        Problem::new(
            StatusCode::FORBIDDEN,
            "forbidden",
            format!("{scope} is not allowed to {} for {client_id}", user.user),
        )
    };
    let empty = Catalogue::default();
    if let Some(client_id) = builds(service)?.iter().find(|client_id| !catalogues.contains_key(*client_id)) {
        return Err(Problem::bad(format!(
            "the build {client_id} is published, but not in this upload: sign all catalogues together"
        )));
    }
    for (client_id, new) in catalogues {
        let old = published(service, client_id)?;
        let old = old.as_ref().unwrap_or(&empty);
        if old == new {
            continue;
        }
        if !user.may("release:write", client_id) {
            return Err(forbidden("release:write", client_id));
        }
        for release in &new.releases {
            match old.release(&release.version) {
                Some(before) if before.manifest != release.manifest => {
                    let why = format!(
                        "{client_id} {} is published already, and is another: versions never change",
                        release.version
                    );
                    return Err(Problem::new(StatusCode::CONFLICT, "version_exists", why));
                }
                Some(before) if before == release => {}
                before => {
                    let deltas = release.deltas.iter().map(|delta| ("deltas", &delta.pack));
                    for (folder, blob) in [("manifests", &release.manifest)].into_iter().chain(deltas) {
                        has(service, folder, blob)?;
                    }
                    for pack in packs_of(service, &release.manifest)? {
                        has(service, "packs", &pack)?;
                    }
                    if before.is_none() {
                        report.added.push(format!("{client_id}/{}", release.version));
                    }
                }
            }
        }
        for release in old.releases.iter().filter(|release| new.release(&release.version).is_none()) {
            if !user.may("release:delete", client_id) {
                return Err(forbidden("release:delete", client_id));
            }
            report.removed.push(format!("{client_id}/{}", release.version));
        }
    }
    Ok(report)
}

fn has(service: &Service, folder: &str, blob: &Blob) -> Result<(), Problem> {
    let path = format!("{folder}/{}", blob.blake3);
    let there = std::fs::metadata(service.repository.join(&path)).ok().map(|there| there.len());
    if there == Some(blob.size) {
        return Ok(());
    }
    let why = match there {
        None => format!("{path} is named, but not there: upload it first"),
        Some(there) => format!("{path} has {there} bytes, but {} are named", blob.size),
    };
    Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "incomplete", why))
}

fn record(service: &Service, user: &Allowed, report: &Report) -> Result<(), Problem> {
    let mut set = Vec::new();
    let mut clear = Vec::new();
    for name in &report.added {
        set.push((format!("release/{name}"), json!(Published { user: user.user.clone(), at: trust::now() })));
        clear.push(format!("gone/{name}"));
    }
    for name in &report.removed {
        let Some((client_id, version)) = name.split_once('/') else { continue };
        let Some(release) = published(service, client_id)?.and_then(|old| old.release(version).cloned()) else {
            continue;
        };
        let gone = Gone {
            user: user.user.clone(),
            at: trust::now(),
            manifest: release.manifest.blake3,
            deltas: release.deltas.into_iter().map(|delta| delta.pack.blake3).collect(),
        };
        set.push((format!("gone/{name}"), json!(gone)));
        clear.push(format!("release/{name}"));
    }
    service.records.write(&set, &clear)
}

/// What was pruned.
#[derive(Debug, Default, Serialize)]
pub struct Pruned {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
    /// Files that are unused but within the grace time.
    pub waiting: u64,
}

/// Removes files that no published release names, `grace_seconds` after they lost their last one (or were uploaded), and metadata that was
/// replaced so long ago.
pub fn prune(service: &Service, grace_seconds: u64) -> Result<Pruned, Problem> {
    let _held = service.publish_lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (mut live, mut waiting) = (BTreeSet::new(), BTreeSet::new());
    let hold =
        |set: &mut BTreeSet<String>, manifest: &str, deltas: &mut dyn Iterator<Item = &str>| -> Result<(), Problem> {
            set.insert(format!("manifests/{manifest}"));
            set.extend(deltas.map(|delta| format!("deltas/{delta}")));
            let size =
                std::fs::metadata(service.repository.join("manifests").join(manifest)).map_or(0, |there| there.len());
            let packs = packs_of(service, &Blob { blake3: manifest.to_owned(), size })?;
            set.extend(packs.into_iter().map(|pack| format!("packs/{}", pack.blake3)));
            Ok(())
        };
    for client_id in builds(service)? {
        for release in published(service, &client_id)?.unwrap_or_default().releases {
            // Without it, nobody knows which packs are needed.
            has(service, "manifests", &release.manifest)?;
            hold(
                &mut live,
                &release.manifest.blake3,
                &mut release.deltas.iter().map(|delta| delta.pack.blake3.as_str()),
            )?;
        }
    }
    let mut forgotten = Vec::new();
    for (name, gone) in service.records.list::<Gone>("gone/")? {
        if gone.at + grace_seconds > trust::now() {
            hold(&mut waiting, &gone.manifest, &mut gone.deltas.iter().map(String::as_str))?;
        } else {
            forgotten.push(format!("gone/{name}"));
        }
    }
    let mut pruned = Pruned::default();
    for folder in ["deltas", "packs", "manifests"] {
        let at = service.repository.join(folder);
        let entries = match std::fs::read_dir(&at) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(|error| Problem::internal("the repository cannot be listed", error))?,
        };
        for entry in entries {
            let failed = |error| Problem::internal("the repository cannot be pruned", error);
            let entry = entry.map_err(failed)?;
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if live.contains(&path) || files::kind(&path).is_none() {
                continue;
            }
            let metadata = entry.metadata().map_err(failed)?;
            let changed = metadata
                .modified()
                .ok()
                .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok())
                .map_or(0, |at| at.as_secs());
            // What was just uploaded waits for being published.
            if waiting.contains(&path) || changed + grace_seconds > trust::now() {
                pruned.waiting += 1;
                continue;
            }
            std::fs::remove_file(entry.path()).map_err(failed)?;
            pruned.files += 1;
            pruned.bytes += metadata.len();
        }
    }
    service.records.write(&[], &forgotten)?;
    let (files, bytes) = trust::remove_old(&service.repository, grace_seconds, trust::now())?;
    pruned.files += files;
    pruned.bytes += bytes;
    tracing::info!(files = pruned.files, bytes = pruned.bytes, "pruned");
    Ok(pruned)
}

/// Signs snapshot and timestamp anew, if the service has the keys and half of the timestamp's time is over. True if it did.
pub fn renew(service: &Service) -> Result<bool, TaskError> {
    let Some(ring) = &service.online_keys else { return Ok(false) };
    let _held = service.publish_lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(bytes) =
        whole::read(&service.repository.join(METADATA).join("timestamp.json"), trust::TIMESTAMP_BYTES_MAX)?
    else {
        return Ok(false);
    };
    let expires = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
    let expires = expires.and_then(|of| trust::time::parse(of.get("signed")?.get("expires")?.as_str()?)).unwrap_or(0);
    let lifetimes = Lifetimes::default();
    if expires > trust::now() + lifetimes.timestamp * 86_400 / 2 {
        return Ok(false);
    }
    trust::sign_online(&service.repository, ring, lifetimes, trust::now())?;
    tracing::info!("timestamp renewed");
    Ok(true)
}

/// The packs that a manifest names; none if it is not there.
fn packs_of(service: &Service, manifest: &Blob) -> Result<Vec<Blob>, Problem> {
    let file = service.repository.join("manifests").join(&manifest.blake3);
    let Some(bytes) = whole::read(&file, MANIFEST_SIZE_MAX)? else { return Ok(Vec::new()) };
    let decoded = Manifest::decode(&bytes).map_err(|error| {
        let why = format!("manifests/{} is none that clients would read: {error}", manifest.blake3);
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "damaged", why)
    })?;
    let blob = |pack: Pack| Blob { blake3: hex(&pack.id), size: u64::from(pack.size) };
    Ok(decoded.packs.into_iter().map(blob).collect())
}
