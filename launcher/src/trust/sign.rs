//! The studio's side: makes a repository's signed metadata, and renews it.
//!
//! Only `timestamp.json` is ever overwritten (and the catalogues' plain names, which no client reads): whatever a client is
//! reading stays as it is, on a static host, too. It is written last.

use super::keys::KeyRing;
use super::metadata::{Envelope, Hashes, Head, Listed, Listing, Role, RoleKeys, Root, Target, Targets};
use super::time;
use super::{METADATA, ROOT_BYTES_MAX, SNAPSHOT_BYTES_MAX, TARGETS_BYTES_MAX, TIMESTAMP_BYTES_MAX};
use crate::catalogue;
use crate::error::{Exit, TaskError, shown};
use crate::whole;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const DAY: u64 = 86_400;

/// For how long each role's metadata is valid, days.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Renewed with the root keys.
    pub root: u64,
    /// Renewed with every release, at the latest after this.
    pub targets: u64,
    /// Renewed by whoever has the online keys.
    pub snapshot: u64,
    /// So long can an attacker at most hold out an old state.
    pub timestamp: u64,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { root: 365, targets: 90, snapshot: 30, timestamp: 7 }
    }
}

/// How many keys each offline role has, and how many must sign. The online roles have one.
#[derive(Debug, Clone, Copy)]
pub struct Thresholds {
    /// Root keys that are made.
    pub root_count: u64,
    /// Root keys that must sign.
    pub root: u64,
    /// Targets keys that are made.
    pub targets_count: u64,
    /// Targets keys that must sign.
    pub targets: u64,
}

/// What was signed: versions of the metadata now in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignedMetadata {
    /// Of `N.root.json`.
    pub root: u64,
    /// Of `N.targets.json`.
    pub targets: u64,
    /// Of `N.snapshot.json`.
    pub snapshot: u64,
    /// Of `timestamp.json`.
    pub timestamp: u64,
    /// When the first of them expires.
    pub expires: String,
}

/// Makes keys for all roles and a repository's first metadata. Refused when it has some already.
pub fn create(
    repository: &Path,
    ring: &mut KeyRing,
    thresholds: Thresholds,
    lifetimes: Lifetimes,
    now: u64,
) -> Result<SignedMetadata, TaskError> {
    let first = repository.join(METADATA).join("1.root.json");
    if first.exists() {
        return Err(TaskError::new(
            Exit::Usage,
            format!("{}: this repository has keys already; see `vsekai keys rotate`", shown(&first)),
        ));
    }
    let counts = [
        (Role::Root, thresholds.root_count, thresholds.root),
        (Role::Targets, thresholds.targets_count, thresholds.targets),
        (Role::Snapshot, 1, 1),
        (Role::Timestamp, 1, 1),
    ];
    if counts.iter().any(|&(_, count, threshold)| !(1..=16).contains(&count) || !(1..=count).contains(&threshold)) {
        return Err(TaskError::new(
            Exit::Usage,
            "1 to 16 keys a role, of which at least one and at most all must sign",
        ));
    }
    let head = Head::new(Role::Root, 1, now + lifetimes.root * DAY);
    let mut root = Root { head, consistent_snapshot: true, keys: BTreeMap::new(), roles: BTreeMap::new() };
    for (role, count, threshold) in counts {
        for _ in 0..count {
            ring.generate(role)?;
        }
        let keys = ring.of(role);
        // Keys of a ring that had some before count, too: the studio put them there.
        root.roles.insert(
            role.name().into(),
            RoleKeys { keyids: keys.iter().map(|(id, _)| id.clone()).collect(), threshold },
        );
        root.keys.extend(keys);
    }
    write_root(repository, ring, &root, None)?;
    sign(repository, ring, lifetimes, now)
}

/// Replaces the keys of `roles` by new ones, as many as before, and signs all that hangs on them. The new root is signed by the
/// old root keys, too. Old keys' files go to `retired`, to be destroyed once no client needs the new root any more.
pub fn rotate(
    repository: &Path,
    ring: &mut KeyRing,
    roles: &[Role],
    lifetimes: Lifetimes,
    now: u64,
) -> Result<SignedMetadata, TaskError> {
    let old = latest_root(repository)?;
    let mut root = old.clone();
    root.head = Head::new(Role::Root, old.head.version + 1, now + lifetimes.root * DAY);
    let mut retired = Vec::new();
    for role in roles {
        let Some(of_role) = root.roles.get_mut(role.name()) else { continue };
        let mut fresh = Vec::new();
        for _ in 0..of_role.keyids.len() {
            fresh.push(ring.generate(*role)?);
        }
        retired.extend(std::mem::replace(&mut of_role.keyids, fresh));
        root.keys.extend(ring.of(*role));
    }
    let used: Vec<&String> = root.roles.values().flat_map(|of| &of.keyids).collect();
    let keys =
        root.keys.iter().filter(|(id, _)| used.contains(id)).map(|(id, key)| (id.clone(), key.clone())).collect();
    root.keys = keys;
    write_root(repository, ring, &root, Some(&old))?;
    let signed = sign(repository, ring, lifetimes, now)?;
    for id in retired {
        ring.retire(&id)?;
    }
    Ok(signed)
}

/// Signs the catalogues as they lie in the repository: targets, snapshot and timestamp.
pub fn sign(repository: &Path, ring: &KeyRing, lifetimes: Lifetimes, now: u64) -> Result<SignedMetadata, TaskError> {
    sign_targets(repository, ring, lifetimes, now)?;
    sign_online(repository, ring, lifetimes, now)
}

/// Signs the list of catalogues as they lie in the repository; whoever has the online keys does the rest. Gives its version.
pub fn sign_targets(repository: &Path, ring: &KeyRing, lifetimes: Lifetimes, now: u64) -> Result<u64, TaskError> {
    let root = latest_root(repository)?;
    let mut targets = BTreeMap::new();
    let folder = repository.join("catalogue");
    for (client_id, bytes) in catalogues(&folder)? {
        let file = folder.join(format!("{client_id}.json"));
        let broken = |why: String| TaskError::new(Exit::Damaged, format!("{}: {why}", shown(&file)));
        catalogue::parse(&bytes).map_err(broken)?;
        let hashes = Hashes::of(&bytes);
        whole::write(&folder.join(format!("{}.{client_id}.json", hashes.sha256)), &bytes, whole::PUBLIC)?;
        let target = Target { length: bytes.len() as u64, hashes };
        targets.insert(format!("catalogue/{client_id}.json"), target);
    }
    let version = latest_version(repository, "targets.json")? + 1;
    let targets = Targets { head: Head::new(Role::Targets, version, now + lifetimes.targets * DAY), targets };
    let bytes = signed_by(ring, &root, Role::Targets, &targets)?;
    write_metadata(repository, &format!("{version}.targets.json"), &bytes, TARGETS_BYTES_MAX)?;
    if let Err(error) = remove_old(repository, GRACE_SECONDS, now) {
        // It is signed all the same; the next time may do better.
        tracing::warn!("replaced metadata stays: {}", error.what);
    }
    Ok(version)
}

/// Signs snapshot and timestamp anew over the newest targets: all that the online keys can do.
pub fn sign_online(
    repository: &Path,
    ring: &KeyRing,
    lifetimes: Lifetimes,
    now: u64,
) -> Result<SignedMetadata, TaskError> {
    let root = latest_root(repository)?;
    let targets_version = latest_version(repository, "targets.json")?;
    let bytes = metadata(repository, &format!("{targets_version}.targets.json"), TARGETS_BYTES_MAX)?;
    let listed =
        |version, bytes: &[u8]| Listed { version, length: Some(bytes.len() as u64), hashes: Some(Hashes::of(bytes)) };

    let snapshot_version = latest_version(repository, "snapshot.json")? + 1;
    let snapshot = Listing {
        head: Head::new(Role::Snapshot, snapshot_version, now + lifetimes.snapshot * DAY),
        meta: BTreeMap::from([("targets.json".into(), listed(targets_version, &bytes))]),
    };
    let bytes = signed_by(ring, &root, Role::Snapshot, &snapshot)?;
    write_metadata(repository, &format!("{snapshot_version}.snapshot.json"), &bytes, SNAPSHOT_BYTES_MAX)?;

    let before = read_metadata(repository, "timestamp.json", TIMESTAMP_BYTES_MAX)?;
    let before =
        before.map(|bytes| Envelope::parse::<Listing>("timestamp.json", Role::Timestamp, &bytes)).transpose()?;
    let timestamp_version = before.map_or(0, |(_, head, _)| head.version) + 1;
    let timestamp = Listing {
        head: Head::new(Role::Timestamp, timestamp_version, now + lifetimes.timestamp * DAY),
        meta: BTreeMap::from([("snapshot.json".into(), listed(snapshot_version, &bytes))]),
    };
    let bytes = signed_by(ring, &root, Role::Timestamp, &timestamp)?;
    write_metadata(repository, "timestamp.json", &bytes, TIMESTAMP_BYTES_MAX)?;

    let soonest = [lifetimes.targets, lifetimes.snapshot, lifetimes.timestamp].into_iter().min().unwrap_or(0);
    let root_expires = time::parse(&root.head.expires).unwrap_or(0);
    Ok(SignedMetadata {
        root: root.head.version,
        targets: targets_version,
        snapshot: snapshot_version,
        timestamp: timestamp_version,
        expires: time::format(root_expires.min(now + soonest * DAY)),
    })
}

/// The build and bytes of every catalogue under its plain name.
fn catalogues(folder: &Path) -> Result<Vec<(String, Vec<u8>)>, TaskError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| TaskError::unreadable(folder, error))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| TaskError::unreadable(folder, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // `HASH.BUILD.json` has a dot more than a build's name may have.
        if let Some(client_id) = name.strip_suffix(".json").filter(|client_id| catalogue::is_client_id(client_id))
            && let Some(bytes) = whole::read(&entry.path(), catalogue::BYTES_MAX)?
        {
            found.push((client_id.to_owned(), bytes));
        }
    }
    found.sort();
    Ok(found)
}

/// The metadata of this role, signed by as many of its keys as it needs.
fn signed_by(ring: &KeyRing, root: &Root, role: Role, metadata: &impl Serialize) -> Result<Vec<u8>, TaskError> {
    let ids: Vec<&str> = root.keys_of(role).into_iter().collect();
    let envelope = ring.sign(value(metadata)?, &ids)?;
    enough(root, role, &envelope)?;
    text(&envelope)
}

fn enough(root: &Root, role: Role, envelope: &Envelope) -> Result<(), TaskError> {
    root.verify(role.name(), role, envelope).map_err(|refusal| {
        let why = format!("the key folder has too few of the keys for `{}`: {refusal}", role.name());
        TaskError::new(Exit::Denied, why)
    })
}

fn write_root(repository: &Path, ring: &KeyRing, root: &Root, old: Option<&Root>) -> Result<(), TaskError> {
    let ids: Vec<&str> = old.into_iter().chain([root]).flat_map(|root| root.keys_of(Role::Root)).collect();
    let envelope = ring.sign(value(root)?, &ids)?;
    for by in old.into_iter().chain([root]) {
        enough(by, Role::Root, &envelope)?;
    }
    let file = format!("{}.root.json", root.head.version);
    write_metadata(repository, &file, &text(&envelope)?, ROOT_BYTES_MAX)
}

fn value(of: &impl Serialize) -> Result<serde_json::Value, TaskError> {
    serde_json::to_value(of)
        .map_err(|error| TaskError::because(Exit::Failed, "metadata cannot be written as JSON", error))
}

fn text(envelope: &Envelope) -> Result<Vec<u8>, TaskError> {
    serde_json::to_vec(envelope)
        .map_err(|error| TaskError::because(Exit::Failed, "metadata cannot be written as JSON", error))
}

fn write_metadata(repository: &Path, name: &str, bytes: &[u8], max: u64) -> Result<(), TaskError> {
    if bytes.len() as u64 > max {
        return Err(TaskError::new(
            Exit::Usage,
            format!("{name} would have {} bytes; clients read at most {max}", bytes.len()),
        ));
    }
    whole::write(&repository.join(METADATA).join(name), bytes, whole::PUBLIC)
}

fn read_metadata(repository: &Path, name: &str, max: u64) -> Result<Option<Vec<u8>>, TaskError> {
    whole::read(&repository.join(METADATA).join(name), max)
}

fn metadata(repository: &Path, name: &str, max: u64) -> Result<Vec<u8>, TaskError> {
    read_metadata(repository, name, max)?.ok_or_else(|| {
        let file = repository.join(METADATA).join(name);
        TaskError::new(
            Exit::NotFound,
            format!("{}: not there; `vsekai keys generate` makes a repository's first metadata", shown(&file)),
        )
    })
}

/// The highest N of `N.NAME` among the metadata; 0 when there is none.
pub(crate) fn latest_version(repository: &Path, name: &str) -> Result<u64, TaskError> {
    let folder = repository.join(METADATA);
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        other => other.map_err(|error| TaskError::unreadable(&folder, error))?,
    };
    let mut latest = 0;
    for entry in entries {
        let file = entry.map_err(|error| TaskError::unreadable(&folder, error))?.file_name();
        let version = file.to_string_lossy().strip_suffix(name).and_then(|rest| rest.strip_suffix('.')?.parse().ok());
        latest = latest.max(version.unwrap_or(0));
    }
    Ok(latest)
}

fn latest_root(repository: &Path) -> Result<Root, TaskError> {
    let version = latest_version(repository, "root.json")?.max(1);
    let file = format!("{version}.root.json");
    let bytes = metadata(repository, &file, ROOT_BYTES_MAX)?;
    let (envelope, _, root) = Envelope::parse::<Root>(&file, Role::Root, &bytes)?;
    root.verify(&file, Role::Root, &envelope)?;
    Ok(root)
}

/// How long a state that was replaced stays, seconds: clients that have its timestamp fetch the rest of it.
const GRACE_SECONDS: u64 = 24 * 3_600;

/// Removes lists of catalogues, snapshots and catalogues that no state is made of any more, `grace_seconds` after they were replaced. Roots stay:
/// clients go through all of them. Gives how many files and bytes are gone.
pub(crate) fn remove_old(repository: &Path, grace_seconds: u64, now: u64) -> Result<(u64, u64), TaskError> {
    let unwritable = |file: &Path| {
        let file = file.to_owned();
        move |error| TaskError::unwritable(&file, error)
    };
    let (mut files, mut bytes) = (0, 0);
    let mut remove = |file: &Path, size: u64| -> Result<(), TaskError> {
        std::fs::remove_file(file).map_err(unwritable(file))?;
        (files, bytes) = (files + 1, bytes + size);
        Ok(())
    };
    let folder = repository.join(METADATA);
    // What the timestamp leads to is what clients fetch, whatever lies beside it.
    let version_in = |name: &str, of: &str| -> Result<Option<u64>, TaskError> {
        let bytes = read_metadata(repository, name, SNAPSHOT_BYTES_MAX)?;
        let value = bytes.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
        Ok(value.and_then(|value| value.get("signed")?.get("meta")?.get(of)?.get("version")?.as_u64()))
    };
    let Some(snapshot) = version_in("timestamp.json", "snapshot.json")? else { return Ok((0, 0)) };
    let Some(targets) = version_in(&format!("{snapshot}.snapshot.json"), "targets.json")? else { return Ok((0, 0)) };
    let is_old = |changed: u64| changed.saturating_add(grace_seconds) <= now;
    let mut needed = BTreeSet::new();
    for (role, current) in [("targets.json", targets), ("snapshot.json", snapshot)] {
        let mut versions: Vec<(u64, Found)> = Vec::new();
        for found in list(&folder)? {
            let version = found.name.strip_suffix(role).and_then(|rest| rest.strip_suffix('.')?.parse().ok());
            versions.extend(version.map(|version| (version, found)));
        }
        versions.sort_by_key(|(version, _)| *version);
        for (number, (version, found)) in versions.iter().enumerate() {
            let file = folder.join(&found.name);
            // It was the newest until the next one came.
            if *version < current && versions.get(number + 1).is_some_and(|(_, next)| is_old(next.changed)) {
                remove(&file, found.size)?;
            } else if role == "targets.json" {
                let bytes = whole::read(&file, TARGETS_BYTES_MAX)?.unwrap_or_default();
                let (_, _, targets) = Envelope::parse::<Targets>(&found.name, Role::Targets, &bytes)?;
                needed.extend(targets.targets.into_values().map(|target| target.hashes.sha256));
            }
        }
    }
    let folder = repository.join("catalogue");
    for found in list(&folder)? {
        let hash = found.name.split_once('.').map(|(hash, _)| hash).filter(|hash| catalogue::is_hash(hash));
        if hash.is_some_and(|hash| !needed.contains(hash)) && is_old(found.changed) {
            remove(&folder.join(&found.name), found.size)?;
        }
    }
    Ok((files, bytes))
}

/// A file of a folder.
struct Found {
    name: String,
    /// Seconds since 1970.
    changed: u64,
    size: u64,
}

fn list(folder: &Path) -> Result<Vec<Found>, TaskError> {
    let unreadable = |error| TaskError::unreadable(folder, error);
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(unreadable)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let metadata = entry.metadata().map_err(unreadable)?;
        let changed = metadata.modified().ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        let changed = changed.map_or(u64::MAX, |at| at.as_secs());
        found.push(Found { name: entry.file_name().to_string_lossy().into_owned(), changed, size: metadata.len() });
    }
    Ok(found)
}
