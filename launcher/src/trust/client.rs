//! The client workflow of the TUF specification, section 5, step by step. Its numbers stand at what follows them.
//!
//! Every step's result is written before the next one begins, each file whole or not at all, so that a kill at any point
//! takes back no protection.

use super::metadata::{Envelope, Hashes, Head, Listing, Role, Root, Targets, check_expiry};
use super::refusal::{Attack, Refusal};
use super::{METADATA, ROOT_BYTES_MAX, SNAPSHOT_BYTES_MAX, TARGETS_BYTES_MAX, TIMESTAMP_BYTES_MAX, time};
use crate::catalogue;
use crate::error::{Exit, TaskError, shown};
use crate::fetch::{Fetch, FetchError};
use crate::release::Catalogue;
use crate::whole;
use std::collections::BTreeMap;
use std::path::Path;

/// Roots that are followed at a time. A longer chain goes on at the next refresh.
const ROOT_UPDATES_MAX: u64 = 256;
/// Roots that are looked at for one that a given key has signed.
const ROOT_SEARCH_MAX: u64 = 1_024;
/// How far the clock may go back: two machines' clocks, or one that was corrected, differ by so much.
const CLOCK_TOLERANCE_SECONDS: u64 = 300;

/// Where the first trusted root comes from.
#[derive(Debug, Clone, Copy)]
pub enum Pin<'a> {
    /// A `root.json` that came on a trusted way.
    File(&'a [u8]),
    /// The id of a root key, 64 hexadecimal digits, which came on a trusted way: the repository's oldest root that it has signed.
    Key(&'a str),
    /// Whatever the repository has. Safe only if nobody stands between at this moment.
    FirstUse,
}

/// Pins the repository's root of trust in `state`. Refused when another one is pinned there already.
pub fn pin(fetch: &dyn Fetch, state: &Path, pin: Pin<'_>) -> Result<(), TaskError> {
    let _held = whole::lock(&state.join("lock"))?;
    let root = match pin {
        Pin::File(bytes) => {
            own_signed("root.json", bytes)?.1?;
            bytes.to_vec()
        }
        Pin::FirstUse => {
            let (file, bytes) = repository_root(fetch, 1)?.ok_or_else(|| {
                TaskError::new(Exit::NotFound, format!("{METADATA}/1.root.json: the repository is not signed"))
            })?;
            own_signed(&file, &bytes)?.1?;
            bytes
        }
        Pin::Key(key) => root_signed_by(fetch, key)?,
    };
    let place = state.join("root.json");
    match whole::read(&place, ROOT_BYTES_MAX)? {
        None => whole::write(&place, &root, whole::PRIVATE),
        Some(_) => {
            let why = format!("{}: a root is pinned already; remove that folder to trust anew", shown(state));
            Err(TaskError::new(Exit::Usage, why))
        }
    }
}

/// Is the root that is pinned in `state` the one that `pin` means? A root file agrees if it has a root key in common with what is
/// trusted now (the root may have been rotated since), a key if it is one of the trusted root's.
pub fn agrees(state: &Path, pin: Pin<'_>) -> Result<bool, TaskError> {
    let place = state.join("root.json");
    let Some(bytes) = whole::read(&place, ROOT_BYTES_MAX)? else { return Ok(false) };
    let trusted = own_signed("root.json", &bytes)?.1?;
    let trusted = trusted.keys_of(Role::Root);
    Ok(match pin {
        Pin::File(given) => !own_signed("root.json", given)?.1?.keys_of(Role::Root).is_disjoint(&trusted),
        Pin::Key(key) => trusted.contains(key),
        Pin::FirstUse => true,
    })
}

/// True when a root is pinned in `state`.
pub fn pinned(state: &Path) -> bool {
    state.join("root.json").exists()
}

/// A root, and whether it is signed by its own keys.
fn own_signed(file: &str, bytes: &[u8]) -> Result<(Envelope, Result<Root, Refusal>), Refusal> {
    let (envelope, _, root) = Envelope::parse::<Root>(file, Role::Root, bytes)?;
    let verified = root.verify(file, Role::Root, &envelope).map(|()| root);
    Ok((envelope, verified))
}

fn root_signed_by(fetch: &dyn Fetch, key: &str) -> Result<Vec<u8>, TaskError> {
    if !catalogue::is_hash(key) {
        return Err(TaskError::new(Exit::Usage, format!("{key:?} is no key id: it must be 64 hexadecimal digits")));
    }
    for version in 1..=ROOT_SEARCH_MAX {
        let Some((file, bytes)) = repository_root(fetch, version)? else { break };
        let (envelope, verified) = own_signed(&file, &bytes)?;
        let Ok(mut root) = verified else { continue };
        // Signed by that key, as if it alone were asked for.
        if let Some(of_root) = root.roles.get_mut(Role::Root.name())
            && of_root.keyids.iter().any(|id| id == key)
        {
            of_root.keyids = vec![key.to_owned()];
            of_root.threshold = 1;
            if root.verify(&file, Role::Root, &envelope).is_ok() {
                return Ok(bytes);
            }
        }
    }
    let why = format!("none of the repository's roots is signed by the key {key}");
    Err(Refusal::new("root.json", Attack::Signature, why).into())
}

fn repository_root(fetch: &dyn Fetch, version: u64) -> Result<Option<(String, Vec<u8>)>, TaskError> {
    let file = format!("{METADATA}/{version}.root.json");
    match fetch.whole(&file, ROOT_BYTES_MAX) {
        Ok(bytes) => Ok(Some((file, bytes))),
        Err(FetchError::NotFound { .. }) => Ok(None),
        // Not taken for the end of the chain: who can hold a request up could hold back the news that a key is stolen.
        Err(error) => Err(failed(error)),
    }
}

/// What a failed request means.
fn failed(error: FetchError) -> TaskError {
    match error {
        FetchError::TooLong { path, max } => {
            Refusal::new(&path, Attack::EndlessData, format!("longer than the {max} bytes it may have")).into()
        }
        FetchError::NotFound { path } => {
            TaskError::new(Exit::NotFound, format!("{path}: the repository has no such file"))
        }
        other => TaskError::because(Exit::Network, "the repository's metadata cannot be fetched", other),
    }
}

/// Brings the trusted metadata in `state` up to date and gives what the studio signed for this build. `now` is in seconds since
/// 1970. [`Exit::Untrusted`] names the attack; [`Exit::NotFound`]: the repository has no such build; [`Exit::Network`]: not reached, what
/// was trusted before stays as it is.
pub fn refresh(fetch: &dyn Fetch, state: &Path, client_id: &str, now: u64) -> Result<Catalogue, TaskError> {
    if !catalogue::is_client_id(client_id) {
        return Err(TaskError::new(Exit::Usage, format!("{client_id:?} is no build: 1 to 64 of a-z, 0-9 and -")));
    }
    let _held = whole::lock(&state.join("lock"))?;
    let refresh = Refresh { fetch, state, now };
    refresh.check_clock()?;
    let root = refresh.root()?;
    let timestamp = refresh.timestamp(&root)?;
    let snapshot = refresh.snapshot(&root, &timestamp)?;
    let targets = refresh.targets(&root, &snapshot)?;
    let found = refresh.catalogue(&targets, client_id)?;
    // Only now: a clock that is wrong enough for everything to have expired leaves no trace.
    whole::write(&state.join("clock"), time::format(now).as_bytes(), whole::PRIVATE)?;
    Ok(found)
}

/// The same for every build that the metadata lists: what the update service does with an upload before it publishes it.
/// `state` is a scratch folder with what is published now.
pub(crate) fn check_upload(
    fetch: &dyn Fetch,
    state: &Path,
    now: u64,
) -> Result<BTreeMap<String, Catalogue>, TaskError> {
    let refresh = Refresh { fetch, state, now };
    let root = refresh.root()?;
    let timestamp = refresh.timestamp(&root)?;
    let snapshot = refresh.snapshot(&root, &timestamp)?;
    let targets = refresh.targets(&root, &snapshot)?;
    let mut found = BTreeMap::new();
    for path in targets.targets.keys() {
        let client_id = path.strip_prefix("catalogue/").and_then(|name| name.strip_suffix(".json"));
        let client_id = client_id.filter(|client_id| catalogue::is_client_id(client_id)).ok_or_else(|| {
            let why = format!("{path:?} is listed, but only catalogue/BUILD.json may be");
            TaskError::from(Refusal::new("targets.json", Attack::Malformed, why))
        })?;
        found.insert(client_id.to_owned(), refresh.catalogue(&targets, client_id)?);
    }
    Ok(found)
}

struct Refresh<'a> {
    fetch: &'a dyn Fetch,
    state: &'a Path,
    now: u64,
}

impl Refresh<'_> {
    fn kept(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, TaskError> {
        whole::read(&self.state.join(name), max)
    }

    fn keep(&self, name: &str, bytes: &[u8]) -> Result<(), TaskError> {
        whole::write(&self.state.join(name), bytes, whole::PRIVATE)
    }

    fn forget(&self, name: &str) -> Result<(), TaskError> {
        let file = self.state.join(name);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(TaskError::unwritable(&file, error)),
            _ => Ok(()),
        }
    }

    /// Not in the specification: without it, a clock that is set back brings expired metadata to life.
    fn check_clock(&self) -> Result<(), TaskError> {
        let kept = self.kept("clock", 64)?.and_then(|bytes| String::from_utf8(bytes).ok());
        let Some(latest) = kept.as_deref().and_then(time::parse) else { return Ok(()) };
        if self.now + CLOCK_TOLERANCE_SECONDS < latest {
            let why =
                format!("it says {}, but it was {} before: set it right", time::format(self.now), time::format(latest));
            return Err(Refusal::new("this machine's clock", Attack::Clock, why).into());
        }
        Ok(())
    }

    /// 5.2 and 5.3: the newest root that the pinned one leads to.
    fn root(&self) -> Result<Root, TaskError> {
        let Some(pinned) = self.kept("root.json", ROOT_BYTES_MAX)? else {
            let why = "pin one with `vsekai profile add --root_file FILE` or `--root_key KEY_ID`";
            return Err(Refusal::new(&shown(self.state), Attack::NoRoot, why).into());
        };
        let (_, verified) = own_signed("root.json", &pinned)?;
        let mut root = verified?;
        let first = root.head.version + 1;
        for version in first..first + ROOT_UPDATES_MAX {
            let Some((file, bytes)) = repository_root(self.fetch, version)? else { break };
            let (envelope, head, next) = Envelope::parse::<Root>(&file, Role::Root, &bytes)?;
            // 5.3.4: by the keys of the old root and by its own.
            root.verify(&file, Role::Root, &envelope)?;
            next.verify(&file, Role::Root, &envelope)?;
            // 5.3.5.
            if head.version != version {
                let why = format!("version {}, where {version} must stand", head.version);
                return Err(Refusal::new(&file, Attack::Rollback, why).into());
            }
            // 5.3.11, before the new root is kept: a kill in between must not keep what a stolen key signed.
            let changed = |role| root.keys_of(role) != next.keys_of(role);
            if changed(Role::Timestamp) || changed(Role::Snapshot) {
                self.forget("timestamp.json")?;
                self.forget("snapshot.json")?;
            }
            self.keep("root.json", &bytes)?;
            root = next;
        }
        // 5.3.10.
        check_expiry(&format!("{METADATA}/{}.root.json", root.head.version), &root.head, self.now)?;
        Ok(root)
    }

    /// What was trusted before, as far as the present root still vouches for it.
    fn trusted(&self, name: &str, max: u64, role: Role, root: &Root) -> Result<Option<Listing>, TaskError> {
        let Some(bytes) = self.kept(name, max)? else { return Ok(None) };
        let Ok((envelope, _, listing)) = Envelope::parse::<Listing>(name, role, &bytes) else { return Ok(None) };
        Ok(root.verify(name, role, &envelope).is_ok().then_some(listing))
    }

    /// 5.4: which snapshot is the newest.
    fn timestamp(&self, root: &Root) -> Result<Listing, TaskError> {
        let file = format!("{METADATA}/timestamp.json");
        let bytes = self.fetch.whole(&file, TIMESTAMP_BYTES_MAX).map_err(failed)?;
        let (envelope, head, new) = Envelope::parse::<Listing>(&file, Role::Timestamp, &bytes)?;
        root.verify(&file, Role::Timestamp, &envelope)?;
        let of_snapshot = listed(&file, &new, "snapshot.json")?.version;
        if let Some(old) = self.trusted("timestamp.json", TIMESTAMP_BYTES_MAX, Role::Timestamp, root)? {
            // 5.4.3.1 and 5.4.3.2.
            no_rollback(&file, "itself", head.version, old.head.version)?;
            if let Some(old) = old.meta.get("snapshot.json") {
                no_rollback(&file, "snapshot.json", of_snapshot, old.version)?;
            }
        }
        check_expiry(&file, &head, self.now)?;
        self.keep("timestamp.json", &bytes)?;
        Ok(new)
    }

    /// 5.5: which metadata belongs together.
    fn snapshot(&self, root: &Root, timestamp: &Listing) -> Result<Listing, TaskError> {
        let wanted = listed("timestamp.json", timestamp, "snapshot.json")?;
        let file = format!("{METADATA}/{}.snapshot.json", wanted.version);
        let most = wanted.length.unwrap_or(SNAPSHOT_BYTES_MAX).min(SNAPSHOT_BYTES_MAX);
        let bytes = self.kept_or_fetched("snapshot.json", &file, most, wanted.hashes.as_ref())?;
        belongs(&file, &bytes, wanted.length, wanted.hashes.as_ref())?;
        let (envelope, head, new) = Envelope::parse::<Listing>(&file, Role::Snapshot, &bytes)?;
        root.verify(&file, Role::Snapshot, &envelope)?;
        same_version(&file, &head, wanted.version)?;
        if let Some(old) = self.trusted("snapshot.json", SNAPSHOT_BYTES_MAX, Role::Snapshot, root)? {
            // 5.5.5: nothing that was listed may vanish or go back.
            for (name, old) in &old.meta {
                no_rollback(&file, name, listed(&file, &new, name)?.version, old.version)?;
            }
        }
        check_expiry(&file, &head, self.now)?;
        self.keep("snapshot.json", &bytes)?;
        Ok(new)
    }

    /// 5.6: which catalogues there are.
    fn targets(&self, root: &Root, snapshot: &Listing) -> Result<Targets, TaskError> {
        let wanted = listed("snapshot.json", snapshot, "targets.json")?;
        let file = format!("{METADATA}/{}.targets.json", wanted.version);
        let most = wanted.length.unwrap_or(TARGETS_BYTES_MAX).min(TARGETS_BYTES_MAX);
        let bytes = self.kept_or_fetched("targets.json", &file, most, wanted.hashes.as_ref())?;
        belongs(&file, &bytes, wanted.length, wanted.hashes.as_ref())?;
        let (envelope, head, new) = Envelope::parse::<Targets>(&file, Role::Targets, &bytes)?;
        root.verify(&file, Role::Targets, &envelope)?;
        same_version(&file, &head, wanted.version)?;
        check_expiry(&file, &head, self.now)?;
        self.keep("targets.json", &bytes)?;
        Ok(new)
    }

    /// 5.7: the catalogue itself, under the name that begins with its hash.
    fn catalogue(&self, targets: &Targets, client_id: &str) -> Result<Catalogue, TaskError> {
        let path = format!("catalogue/{client_id}.json");
        let Some(target) = targets.targets.get(&path) else {
            return Err(TaskError::new(Exit::NotFound, format!("{path}: the studio has signed no build of this name")));
        };
        if target.length > catalogue::BYTES_MAX {
            let why = format!("{} bytes; at most {}", target.length, catalogue::BYTES_MAX);
            return Err(Refusal::new(&path, Attack::EndlessData, why).into());
        }
        if !catalogue::is_hash(&target.hashes.sha256) {
            return Err(Refusal::new(&path, Attack::Malformed, "its SHA-256 is none").into());
        }
        let file = format!("catalogue/{}.{client_id}.json", target.hashes.sha256);
        let kept = format!("{client_id}.catalogue.json");
        let bytes = self.kept_or_fetched(&kept, &file, target.length, Some(&target.hashes))?;
        belongs(&file, &bytes, Some(target.length), Some(&target.hashes))?;
        let broken = |why: String| TaskError::new(Exit::Damaged, format!("{file}: {why}"));
        let found = catalogue::parse(&bytes).map_err(broken)?;
        self.keep(&kept, &bytes)?;
        Ok(found)
    }

    /// What is kept, if it is that very file: nothing new costs no request.
    fn kept_or_fetched(&self, name: &str, file: &str, max: u64, hashes: Option<&Hashes>) -> Result<Vec<u8>, TaskError> {
        // A kept file that has grown, or cannot be read, is worth no more than none.
        if let (Some(hashes), Ok(Some(bytes))) = (hashes, self.kept(name, max))
            && Hashes::of(&bytes) == *hashes
        {
            return Ok(bytes);
        }
        self.fetch.whole(file, max).map_err(failed)
    }
}

fn listed<'a>(file: &str, listing: &'a Listing, name: &str) -> Result<&'a super::metadata::Listed, Refusal> {
    listing.meta.get(name).ok_or_else(|| Refusal::new(file, Attack::Rollback, format!("it does not list {name}")))
}

fn no_rollback(file: &str, of: &str, new: u64, old: u64) -> Result<(), Refusal> {
    if new >= old {
        return Ok(());
    }
    Err(Refusal::new(file, Attack::Rollback, format!("version {new} of {of}, but version {old} was there before")))
}

fn same_version(file: &str, head: &Head, wanted: u64) -> Result<(), Refusal> {
    if head.version == wanted {
        return Ok(());
    }
    let why = format!("version {}, where version {wanted} is listed", head.version);
    Err(Refusal::new(file, Attack::MixAndMatch, why))
}

fn belongs(file: &str, bytes: &[u8], length: Option<u64>, hashes: Option<&Hashes>) -> Result<(), Refusal> {
    let refuse = |why: String| Err(Refusal::new(file, Attack::MixAndMatch, why));
    match (length, hashes) {
        (Some(length), _) if bytes.len() as u64 != length => {
            refuse(format!("{} bytes, where {length} are listed", bytes.len()))
        }
        (_, Some(hashes)) if Hashes::of(bytes) != *hashes => refuse("another SHA-256 than the one listed".into()),
        _ => Ok(()),
    }
}
