//! The attacks of the TUF specification, one after the other, against a studio's repository; each by name, and honest updates go on.

use super::metadata::{Envelope, Hashes, Head, Listed, Listing, RoleKeys, Root, Targets};
use super::*;
use crate::error::{Exit, TaskError};
use crate::fetch::{Fetch, FetchError};
use crate::release::{Blob, Catalogue, Release};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;

const DAY: u64 = 86_400;
const NOW: u64 = 1_800_000_000;

/// What the hostile server does with a file.
enum Instead {
    Bytes(Vec<u8>),
    Fails,
    Missing,
}

/// A studio with its keys and repository, a server that can be made hostile, and one installation.
struct World {
    folder: tempfile::TempDir,
    ring: KeyRing,
    instead: Mutex<BTreeMap<String, Instead>>,
    requests: Mutex<Vec<String>>,
}

impl World {
    /// Version 1.0 is published; the root asks for two of three keys.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ring = KeyRing::open(&folder.path().join("keys"), Passphrase(None)).unwrap();
        let mut world = Self { folder, ring, instead: Mutex::default(), requests: Mutex::default() };
        world.catalogue(&["1.0"]);
        let repository = world.repository();
        let thresholds = Thresholds { root_count: 3, root: 2, targets_count: 1, targets: 1 };
        create(&repository, &mut world.ring, thresholds, Lifetimes::default(), NOW).unwrap();
        world
    }

    /// The same with its root pinned and 1.0 seen.
    fn installed() -> Self {
        let world = Self::new();
        pin(&world, &world.state(), Pin::FirstUse).unwrap();
        assert_eq!(world.versions(NOW), ["1.0"]);
        world
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn catalogue(&self, versions: &[&str]) {
        let release = |version: &&str| Release {
            version: (*version).into(),
            published: NOW,
            notes: String::new(),
            manifest: Blob { blake3: "0".repeat(64), size: 1 },
            deltas: Vec::new(),
        };
        let catalogue = Catalogue { releases: versions.iter().map(release).collect(), channels: Vec::new() };
        let file = self.repository().join("catalogue/game.json");
        whole_write(&file, &serde_json::to_vec(&catalogue).unwrap());
    }

    fn publish(&self, versions: &[&str]) -> SignedMetadata {
        self.catalogue(versions);
        sign(&self.repository(), &self.ring, Lifetimes::default(), NOW).unwrap()
    }

    fn refresh(&self, now: u64) -> Result<Catalogue, TaskError> {
        self.requests.lock().unwrap().clear();
        refresh(self, &self.state(), "game", now)
    }

    fn versions(&self, now: u64) -> Vec<String> {
        self.refresh(now).unwrap().releases.into_iter().map(|release| release.version).collect()
    }

    /// The repository's file as it is.
    fn file(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.repository().join("metadata").join(name)).unwrap()
    }

    fn serve(&self, name: &str, bytes: Vec<u8>) {
        self.instead.lock().unwrap().insert(format!("metadata/{name}"), Instead::Bytes(bytes));
    }

    fn honest(&self) {
        self.instead.lock().unwrap().clear();
    }

    /// Signs as if all keys were stolen.
    fn forged(&self, role: Role, of: &impl serde::Serialize) -> Vec<u8> {
        let ids: Vec<String> = self.ring.of(role).into_iter().map(|(id, _)| id).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        serde_json::to_vec(&self.ring.sign(serde_json::to_value(of).unwrap(), &ids).unwrap()).unwrap()
    }

    fn listing(&self, role: Role, version: u64, of: &str, listed: (u64, &[u8])) -> Listing {
        let listed =
            Listed { version: listed.0, length: Some(listed.1.len() as u64), hashes: Some(Hashes::of(listed.1)) };
        Listing { head: Head::new(role, version, NOW + DAY), meta: BTreeMap::from([(of.into(), listed)]) }
    }

    /// The next refresh is refused with this message's part, and afterwards an honest server is believed again.
    fn refused(&self, says: &str) {
        self.refused_at(NOW, says);
    }

    fn refused_at(&self, now: u64, says: &str) {
        let error = self.refresh(now).expect_err(says);
        assert_eq!(error.exit, Exit::Untrusted, "{}", error.what);
        assert!(error.what.contains(says), "not {says:?}: {}", error.what);
    }
}

fn whole_write(file: &std::path::Path, bytes: &[u8]) {
    crate::whole::write(file, bytes, crate::whole::PUBLIC).unwrap();
}

impl Fetch for World {
    fn whole(&self, path: &str, max: u64) -> Result<Vec<u8>, FetchError> {
        self.requests.lock().unwrap().push(path.into());
        let bytes = match self.instead.lock().unwrap().get(path) {
            Some(Instead::Bytes(bytes)) => Ok(bytes.clone()),
            Some(Instead::Fails) => return Err(FetchError::Network { path: path.into(), why: "reset".into() }),
            Some(Instead::Missing) => Err(io::Error::from(io::ErrorKind::NotFound)),
            None => std::fs::read(self.repository().join(path)),
        };
        let bytes = bytes.map_err(|_| FetchError::NotFound { path: path.into() })?;
        if bytes.len() as u64 > max {
            return Err(FetchError::TooLong { path: path.into(), max });
        }
        Ok(bytes)
    }

    fn range(&self, _: &str, _: Range<u64>, _: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), FetchError> {
        unreachable!("metadata is read whole")
    }
}

#[test]
fn honest_updates_arrive_and_nothing_new_costs_two_requests() {
    let world = World::installed();
    assert_eq!(
        world.publish(&["1.0", "2.0"]),
        SignedMetadata { root: 1, targets: 2, snapshot: 2, timestamp: 2, expires: time::format(NOW + 7 * DAY) }
    );
    assert_eq!(world.versions(NOW), ["1.0", "2.0"]);
    assert_eq!(world.versions(NOW + DAY), ["1.0", "2.0"]);
    assert_eq!(*world.requests.lock().unwrap(), ["metadata/2.root.json", "metadata/timestamp.json"]);
    assert_eq!(refresh(&world, &world.state(), "other", NOW + DAY).unwrap_err().exit, Exit::NotFound);
    assert_eq!(refresh(&world, &world.state(), "../x", NOW + DAY).unwrap_err().exit, Exit::Usage);
}

#[test]
fn arbitrary_software_is_refused() {
    let world = World::installed();
    let stranger = World::new();
    stranger.publish(&["6.6.6"]);
    for name in ["timestamp.json", "2.root.json"] {
        let foreign = if name == "2.root.json" { stranger.file("1.root.json") } else { stranger.file(name) };
        world.serve(name, foreign);
        world.refused("arbitrary software: 0 of the");
        world.honest();
    }
    // With a stolen timestamp key alone, a stranger's snapshot does not pass; nor do targets with the snapshot key, too.
    let snapshot = stranger.file("2.snapshot.json");
    world.serve("2.snapshot.json", snapshot.clone());
    world.serve(
        "timestamp.json",
        world.forged(Role::Timestamp, &world.listing(Role::Timestamp, 2, "snapshot.json", (2, &snapshot))),
    );
    world.refused("2.snapshot.json: arbitrary software: 0 of the 1 signatures that `snapshot` needs are valid");

    let world = World::installed();
    let targets = stranger.file("2.targets.json");
    let snapshot = world.forged(Role::Snapshot, &world.listing(Role::Snapshot, 2, "targets.json", (2, &targets)));
    world.serve("2.targets.json", targets);
    world.serve(
        "timestamp.json",
        world.forged(Role::Timestamp, &world.listing(Role::Timestamp, 2, "snapshot.json", (2, &snapshot))),
    );
    world.serve("2.snapshot.json", snapshot);
    world.refused("2.targets.json: arbitrary software");
}

#[test]
fn a_changed_byte_or_a_missing_signature_is_refused() {
    let world = World::installed();
    let changed = String::from_utf8(world.file("timestamp.json")).unwrap().replace("\"version\":1", "\"version\":7");
    world.serve("timestamp.json", changed.into_bytes());
    world.refused("timestamp.json: arbitrary software");
    world.honest();

    // The root needs two: one, and one that is there twice, are too few.
    let mut next: Envelope = serde_json::from_slice(&world.file("1.root.json")).unwrap();
    let mut root: Root = serde_json::from_value(next.signed.clone()).unwrap();
    root.head.version = 2;
    let keys: Vec<String> = world.ring.of(Role::Root).into_iter().map(|(id, _)| id).collect();
    next = world.ring.sign(serde_json::to_value(&root).unwrap(), &[&keys[0]]).unwrap();
    world.serve("2.root.json", serde_json::to_vec(&next).unwrap());
    world.refused("2.root.json: arbitrary software: 1 of the 2 signatures");
    next.signatures.push(next.signatures[0].clone());
    world.serve("2.root.json", serde_json::to_vec(&next).unwrap());
    world.refused("2.root.json: arbitrary software: 1 of the 2 signatures");
    // One key under two names is still one.
    let twin = keys[0].chars().rev().collect::<String>();
    root.keys.insert(twin.clone(), root.keys[&keys[0]].clone());
    root.roles.insert("root".into(), RoleKeys { keyids: vec![keys[0].clone(), twin.clone()], threshold: 2 });
    let mut next = world.ring.sign(serde_json::to_value(&root).unwrap(), &[&keys[0], &keys[1]]).unwrap();
    let mut second = next.signatures[0].clone();
    second.keyid = twin;
    next.signatures.push(second);
    world.serve("2.root.json", serde_json::to_vec(&next).unwrap());
    world.refused("2.root.json: arbitrary software: 1 of the 2 signatures");
    world.honest();
    assert_eq!(world.versions(NOW), ["1.0"]);
}

#[test]
fn rollback_is_refused() {
    let world = World::installed();
    let old = world.file("timestamp.json");
    world.publish(&["1.0", "2.0"]);
    world.versions(NOW);
    world.serve("timestamp.json", old);
    world.refused("timestamp.json: rollback: version 1 of itself, but version 2 was there before");
    world.honest();
    // A stolen timestamp key makes a newer timestamp of an older snapshot; a stolen snapshot key leaves the targets out or takes them back.
    let snapshot = world.file("1.snapshot.json");
    world.serve(
        "timestamp.json",
        world.forged(Role::Timestamp, &world.listing(Role::Timestamp, 3, "snapshot.json", (1, &snapshot))),
    );
    world.refused("timestamp.json: rollback: version 1 of snapshot.json, but version 2");
    for (name, version, says) in [
        ("targets.json", 1, "rollback: version 1 of targets.json, but version 2"),
        ("x", 9, "rollback: it does not list targets.json"),
    ] {
        let snapshot = world
            .forged(Role::Snapshot, &world.listing(Role::Snapshot, 3, name, (version, &world.file("1.targets.json"))));
        world.serve(
            "timestamp.json",
            world.forged(Role::Timestamp, &world.listing(Role::Timestamp, 3, "snapshot.json", (3, &snapshot))),
        );
        world.serve("3.snapshot.json", snapshot);
        world.refused(says);
    }
}

#[test]
fn a_freeze_is_refused_role_by_role() {
    let world = World::installed();
    world.refused_at(NOW + 7 * DAY, "timestamp.json: freeze: expired at");
    let renew = |lifetimes: Lifetimes| {
        sign(&world.repository(), &world.ring, lifetimes, NOW).unwrap();
    };
    renew(Lifetimes { root: 0, targets: 90, snapshot: 5, timestamp: 400 });
    world.refused_at(NOW + 5 * DAY, "2.snapshot.json: freeze");
    renew(Lifetimes { root: 0, targets: 6, snapshot: 400, timestamp: 400 });
    world.refused_at(NOW + 6 * DAY, "3.targets.json: freeze");
    renew(Lifetimes { root: 0, targets: 400, snapshot: 400, timestamp: 400 });
    assert_eq!(world.versions(NOW + 364 * DAY), ["1.0"]);
    world.refused_at(NOW + 365 * DAY, "1.root.json: freeze");
}

#[test]
fn a_fast_forward_is_refused_or_undone_by_new_keys() {
    let mut world = World::installed();
    let snapshot = world.file("1.snapshot.json");
    let forward = |version| {
        world.forged(Role::Timestamp, &world.listing(Role::Timestamp, version, "snapshot.json", (1, &snapshot)))
    };
    world.serve("timestamp.json", forward(u64::MAX));
    world.refused("timestamp.json: fast-forward: version 18446744073709551615");
    // One that the studio could reach is believed, and locks the honest ones out …
    world.serve("timestamp.json", forward(1 << 30));
    assert_eq!(world.versions(NOW), ["1.0"]);
    world.honest();
    world.refused("rollback: version 1 of itself, but version 1073741824 was there before");
    // … until the studio rotates the stolen keys.
    let repository = world.repository();
    rotate(&repository, &mut world.ring, &[Role::Timestamp], Lifetimes::default(), NOW).unwrap();
    assert_eq!(world.versions(NOW), ["1.0"]);
    assert_eq!(world.requests.lock().unwrap().first().map(String::as_str), Some("metadata/2.root.json"));
}

#[test]
fn files_that_do_not_belong_together_are_refused() {
    let world = World::installed();
    let (snapshot, targets) = (world.file("1.snapshot.json"), world.file("1.targets.json"));
    world.publish(&["1.0", "2.0"]);
    for (name, old) in [("2.snapshot.json", snapshot), ("2.targets.json", targets)] {
        world.serve(name, old);
        world.refused(&format!("{name}: mix-and-match: "));
        world.honest();
    }
    let catalogue = world.repository().join("catalogue");
    let bytes = std::fs::read(catalogue.join("game.json")).unwrap();
    let hashed = catalogue.join(format!("{}.game.json", Hashes::of(&bytes).sha256));
    let mut changed = bytes.clone();
    changed[0] ^= 1;
    whole_write(&hashed, &changed);
    world.refused(".game.json: mix-and-match: another SHA-256");
    whole_write(&hashed, &bytes[1..]);
    world.refused(".game.json: mix-and-match: ");
    whole_write(&hashed, &bytes);
    assert_eq!(world.versions(NOW), ["1.0", "2.0"]);
}

#[test]
fn endless_data_is_cut_in_every_file() {
    let world = World::installed();
    world.publish(&["1.0", "2.0"]);
    for name in ["2.root.json", "timestamp.json", "2.snapshot.json", "2.targets.json"] {
        world.serve(name, vec![b' '; 2 << 20]);
        world.refused(&format!("metadata/{name}: endless data: longer than the"));
        world.honest();
    }
    let target = Targets {
        head: Head::new(Role::Targets, 3, NOW + DAY),
        targets: BTreeMap::from([(
            "catalogue/game.json".into(),
            metadata::Target { length: u64::MAX, hashes: Hashes::of(b"") },
        )]),
    };
    let targets = world.forged(Role::Targets, &target);
    let snapshot = world.forged(Role::Snapshot, &world.listing(Role::Snapshot, 3, "targets.json", (3, &targets)));
    world.serve(
        "timestamp.json",
        world.forged(Role::Timestamp, &world.listing(Role::Timestamp, 3, "snapshot.json", (3, &snapshot))),
    );
    world.serve("3.snapshot.json", snapshot);
    world.serve("3.targets.json", targets);
    world.refused("catalogue/game.json: endless data: 18446744073709551615 bytes");
}

#[test]
fn keys_rotate_and_stolen_ones_are_worthless() {
    let mut world = World::installed();
    let repository = world.repository();
    let thief = KeyRing::open(&world.folder.path().join("keys"), Passphrase(None)).unwrap();
    let all = [Role::Root, Role::Targets, Role::Snapshot, Role::Timestamp];
    let signed = rotate(&repository, &mut world.ring, &all, Lifetimes::default(), NOW).unwrap();
    assert_eq!((signed.root, signed.targets), (2, 2));
    assert_eq!(world.versions(NOW), ["1.0"]);
    // The old keys are in no one's way any more.
    world.catalogue(&["1.0", "6.6.6"]);
    assert_eq!(sign(&repository, &thief, Lifetimes::default(), NOW).unwrap_err().exit, Exit::Denied);
    let ids: Vec<String> = thief.of(Role::Timestamp).into_iter().map(|(id, _)| id).collect();
    let listing = world.listing(Role::Timestamp, 9, "snapshot.json", (2, &world.file("2.snapshot.json")));
    let forged = thief.sign(serde_json::to_value(&listing).unwrap(), &[&ids[0]]).unwrap();
    world.serve("timestamp.json", serde_json::to_vec(&forged).unwrap());
    world.refused("timestamp.json: arbitrary software: 0 of the 1");
    world.honest();
    // A new root by the new keys alone, and one that leaves a version out, are none.
    let mut root: Root = serde_json::from_slice::<Envelope>(&world.file("2.root.json"))
        .map(|of| serde_json::from_value(of.signed).unwrap())
        .unwrap();
    root.head.version = 4;
    world.serve("3.root.json", world.forged(Role::Root, &root));
    world.refused("3.root.json: rollback: version 4, where 3 must stand");
    let other = World::new();
    let mut alone: Root = serde_json::from_slice::<Envelope>(&other.file("1.root.json"))
        .map(|of| serde_json::from_value(of.signed).unwrap())
        .unwrap();
    alone.head.version = 3;
    world.serve("3.root.json", other.forged(Role::Root, &alone));
    world.refused("3.root.json: arbitrary software: 0 of the 2");
    world.honest();
    // An installation from before follows the chain from the first root.
    std::fs::remove_dir_all(world.state()).unwrap();
    pin(&world, &world.state(), Pin::File(&world.file("1.root.json"))).unwrap();
    world.publish(&["1.0", "2.0"]);
    assert_eq!(world.versions(NOW), ["1.0", "2.0"]);
}

#[test]
fn a_held_back_root_is_a_network_failure_and_not_the_newest_one() {
    let world = World::installed();
    for name in ["2.root.json", "timestamp.json"] {
        world.instead.lock().unwrap().insert(format!("metadata/{name}"), Instead::Fails);
        assert_eq!(world.refresh(NOW).unwrap_err().exit, Exit::Network, "{name}");
        world.honest();
    }
    world.publish(&["1.0", "2.0"]);
    world.instead.lock().unwrap().insert("metadata/2.snapshot.json".into(), Instead::Missing);
    assert_eq!(world.refresh(NOW).unwrap_err().exit, Exit::NotFound);
    world.honest();
    assert_eq!(world.versions(NOW), ["1.0", "2.0"]);
}

#[test]
fn a_clock_that_is_set_back_is_refused_by_name() {
    let world = World::installed();
    world.versions(NOW + 3 * DAY);
    world.versions(NOW + 3 * DAY - 299);
    world.refused_at(NOW + 2 * DAY, "this machine's clock: clock set back: it says");
    world.versions(NOW + 3 * DAY);
}

#[test]
fn trust_begins_with_a_pinned_root_only() {
    let world = World::new();
    world.refused("no trusted root: pin one");
    let key = world.ring.of(Role::Root)[1].0.clone();
    let targets_key = world.ring.of(Role::Targets)[0].0.clone();
    let state = world.state();
    assert_eq!(pin(&world, &state, Pin::Key(&targets_key)).unwrap_err().exit, Exit::Untrusted);
    assert_eq!(pin(&world, &state, Pin::Key("abc")).unwrap_err().exit, Exit::Usage);
    assert_eq!(pin(&world, &state, Pin::File(&world.file("1.snapshot.json"))).unwrap_err().exit, Exit::Untrusted);
    assert!(!pinned(&state));
    pin(&world, &state, Pin::Key(&key)).unwrap();
    assert_eq!(world.versions(NOW), ["1.0"]);
    assert_eq!(pin(&world, &state, Pin::FirstUse).unwrap_err().exit, Exit::Usage);

    // Who means another root later is told so.
    let other = World::new();
    let (own, foreign) = (world.file("1.root.json"), other.file("1.root.json"));
    let foreign_key = other.ring.of(Role::Root)[0].0.clone();
    let pins = [Pin::File(&own), Pin::Key(&key), Pin::FirstUse, Pin::File(&foreign), Pin::Key(&foreign_key)];
    assert_eq!(pins.map(|pin| agrees(&state, pin).unwrap()), [true, true, true, false, false]);
}

#[test]
fn keys_are_private_and_open_with_their_passphrase_only() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let sealed = |word: Option<&str>| KeyRing::open(folder.path(), Passphrase(word.map(str::to_owned)));
    let id = sealed(Some("correct horse")).unwrap().generate(Role::Root).unwrap();
    let listed = KeyRing::list(folder.path()).unwrap();
    assert_eq!((listed[0].role, &listed[0].key_id, listed[0].sealed), ("root", &id, true));
    assert_eq!(std::fs::metadata(&listed[0].file).unwrap().permissions().mode() & 0o777, 0o600);
    for wrong in [None, Some("wrong")] {
        assert_eq!(sealed(wrong).unwrap_err().exit, Exit::Denied, "{wrong:?}");
    }
    let ring = sealed(Some("correct horse")).unwrap();
    let envelope = ring.sign(serde_json::json!({ "a": 1 }), &[&id]).unwrap();
    assert_eq!((envelope.signatures.len(), &envelope.signatures[0].keyid), (1, &id));
    let mut stored: serde_json::Value = serde_json::from_slice(&std::fs::read(&listed[0].file).unwrap()).unwrap();
    stored["secret"]["sealed"]["rounds"] = 4_000_000_000_u32.into();
    std::fs::write(&listed[0].file, serde_json::to_vec(&stored).unwrap()).unwrap();
    assert_eq!(sealed(Some("correct horse")).unwrap_err().exit, Exit::Damaged);
}
