//! An installation and a hostile server: every attack of the list in `docs/trust.md` is refused by name; what is installed stays and
//! starts, nothing is written beside it, and memory stays below 64 MB. `cargo xtask prove hostile-updates` runs this, too.
//!
//! Attacks on the metadata are made as a mirror could make them. Attacks on the content are signed with the studio's own keys, as if these were
//! stolen: signatures are not what stops a path from leaving the root. `VSEKAI_HOSTILE_SEED` replays the random ones.

#![expect(clippy::unwrap_used, reason = "a test ends at its first surprise")]

use crate::support::Home;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vsekai_launcher::manifest::{Entry, Kind, Manifest};
use vsekai_launcher::release::{Blob, Catalogue};
use vsekai_launcher::trust::{self, KeyRing, Lifetimes, Passphrase};

const MEMORY_MAX_KIB: u64 = 64 << 10;
/// So much an endless answer has, unless the client hangs up: far more than any client should take.
const ENDLESS_BYTES: u64 = 4 << 30;

#[derive(Clone)]
enum Instead {
    Bytes(Vec<u8>),
    Endless,
    CutOff,
}

/// A web server on loopback that serves a folder, and lies about the files in `instead`.
struct Hostile {
    address: String,
    instead: Arc<Mutex<BTreeMap<String, Instead>>>,
    sent: Arc<AtomicU64>,
}

impl Hostile {
    fn start(folder: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (instead, sent) = (Arc::<Mutex<BTreeMap<String, Instead>>>::default(), Arc::<AtomicU64>::default());
        let (lies, count) = (instead.clone(), sent.clone());
        // Both end with the test's process: they have nothing to lose.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (folder, lies, count) = (folder.clone(), lies.clone(), count.clone());
                std::thread::spawn(move || answer(stream, &folder, &lies, &count));
            }
        });
        Self { address, instead, sent }
    }

    fn lies(&self, path: &str, instead: Instead) {
        self.instead.lock().unwrap().insert(path.into(), instead);
    }
}

/// Answers one request and hangs up.
fn answer(
    mut stream: TcpStream,
    folder: &Path,
    lies: &Mutex<BTreeMap<String, Instead>>,
    sent: &AtomicU64,
) -> Option<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        request.push(byte[0]);
    }
    let text = String::from_utf8(request).ok()?.to_lowercase();
    let path = text.split(' ').nth(1)?.trim_start_matches('/').to_owned();
    let range = text.lines().find_map(|line| line.strip_prefix("range: bytes=")?.split_once('-'));
    let lie = lies.lock().unwrap().get(&path).cloned();
    let bytes = match &lie {
        Some(Instead::Endless) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").ok()?;
            let piece = vec![b' '; 256 << 10];
            for _ in 0..ENDLESS_BYTES / piece.len() as u64 {
                stream.write_all(&piece).ok()?;
                sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            return None;
        }
        Some(Instead::Bytes(bytes)) => Some(bytes.clone()),
        Some(Instead::CutOff) | None => fs::read(folder.join(&path)).ok(),
    };
    let Some(bytes) = bytes else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok();
    };
    let (first, last) = match range {
        Some((first, last)) => (first.parse().ok()?, last.parse::<usize>().ok()?.min(bytes.len().checked_sub(1)?)),
        None => (0, bytes.len().wrapping_sub(1)),
    };
    let body = bytes.get(first..last.wrapping_add(1))?;
    let head = match range {
        Some(_) => format!("HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {first}-{last}/{}\r\n", bytes.len()),
        None => "HTTP/1.1 200 OK\r\n".into(),
    };
    let body_sent = if matches!(lie, Some(Instead::CutOff)) { &body[..body.len() / 2] } else { body };
    let head = format!("{head}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body_sent).ok()
}

/// A studio with 1.0 published, and a player who has it.
struct World {
    home: Home,
    server: Hostile,
    ring: KeyRing,
    /// The most that any command took, KiB.
    peak_kib: u64,
    refused: u32,
}

impl World {
    fn new() -> Self {
        let home = Home::new();
        let at = |name: &str| home.folder().join(name);
        for version in ["1", "2"] {
            let build = at(&format!("build-{version}"));
            fs::create_dir_all(build.join("data")).unwrap();
            fs::write(build.join("game"), format!("version {version}")).unwrap();
            fs::write(build.join("data/level"), version.repeat(40_000)).unwrap();
        }
        // One file: whatever it is called, it is in order.
        fs::create_dir_all(at("build-3")).unwrap();
        fs::write(at("build-3/game"), "version 3").unwrap();
        home.succeeds(&["keys", "generate", "--keys", "keys", "--repository", "repository"]);
        let server = Hostile::start(at("repository"));
        let ring = KeyRing::open(&at("keys"), Passphrase(None)).unwrap();
        let mut world = Self { home, server, ring, peak_kib: 0, refused: 0 };
        world.pack("1");
        world.sign();
        let address = world.server.address.clone();
        let add = [
            "profile",
            "add",
            "--profile_name",
            "game",
            "--client_id",
            "game",
            "--root",
            "installed",
            "--trust_on_first_use",
        ];
        world.home.succeeds(&[&add[..], &["--repository", &address]].concat());
        let (code, said) = world.update();
        assert_eq!(code, Some(0), "{said}");
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        self.home.folder().join(name)
    }

    fn pack(&self, version: &str) {
        let (source, name) = (format!("build-{version}"), format!("{version}.0"));
        let pack = [
            "version",
            "pack",
            "--repository",
            "repository",
            "--client_id",
            "game",
            "--channel",
            "stable",
            "--deltas",
            "0",
        ];
        self.home.succeeds(&[&pack[..], &["--source", &source, "--version", &name]].concat());
    }

    fn sign(&self) {
        trust::sign(&self.at("repository"), &self.ring, Lifetimes::default(), trust::now()).unwrap();
    }

    fn metadata(&self, name: &str) -> Vec<u8> {
        fs::read(self.at("repository/metadata").join(name)).unwrap()
    }

    fn catalogue(&self) -> Catalogue {
        serde_json::from_slice(&fs::read(self.at("repository/catalogue/game.json")).unwrap()).unwrap()
    }

    /// Runs `system update` and watches its memory.
    fn update(&mut self) -> (Option<i32>, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vsekai"));
        command.args([
            "system",
            "update",
            "--repository",
            &self.server.address,
            "--client_id",
            "game",
            "--root",
            "installed",
        ]);
        let command = self.home.environment(&mut command).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let status = PathBuf::from(format!("/proc/{}/status", child.id()));
        let code = loop {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let peak =
                text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
            self.peak_kib = self.peak_kib.max(peak.unwrap_or(0));
            if let Some(code) = child.try_wait().unwrap() {
                break code.code();
            }
            // Between two looks at its memory; what is waited for is its end.
            std::thread::park_timeout(Duration::from_millis(2));
        };
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (code, said)
    }

    /// Everything but the installation and the launcher's own tree, with its bytes.
    fn outside(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        fn walk(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
            for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    walk(&entry.path(), found);
                }
                let bytes = if kind.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
                found.insert(entry.path(), bytes);
            }
        }
        let mut found = BTreeMap::new();
        walk(self.home.folder(), &mut found);
        let (installed, own) = (self.at("installed"), self.at("home"));
        found.retain(|path, _| !path.starts_with(&installed) && !path.starts_with(&own));
        found
    }

    /// The update must end with one of these codes and say this; 1.0 stays, and nothing is written beside it.
    fn refused(&mut self, attack: &str, codes: &[i32], says: &str) {
        let before = self.outside();
        let (code, said) = self.update();
        assert!(code.is_some_and(|code| codes.contains(&code)), "{attack}: ends with {code:?}: {said}");
        assert!(said.contains(says), "{attack}: does not say {says:?}: {said}");
        assert!(self.outside() == before, "{attack}: something was written outside the root");
        self.still_whole(attack);
        self.refused += 1;
        println!("refused: {attack}: {}", said.trim());
    }

    fn still_whole(&self, attack: &str) {
        let game = fs::read_to_string(self.at("installed/current/game"));
        assert_eq!(game.ok().as_deref(), Some("version 1"), "{attack}: what was installed is no more");
    }

    fn honest(&self) {
        self.server.instead.lock().unwrap().clear();
    }

    /// Publishes `manifest` as what `stable` stands for, signed by the studio.
    fn publish(&self, version: &str, manifest: &[u8]) {
        let id = blake3::hash(manifest).to_hex().to_string();
        fs::write(self.at("repository/manifests").join(&id), manifest).unwrap();
        let mut catalogue = self.catalogue();
        let mut release = catalogue.releases.last().unwrap().clone();
        release.version = version.into();
        release.deltas.clear();
        release.manifest = Blob { blake3: id, size: manifest.len() as u64 };
        catalogue.releases.retain(|release| release.version != version);
        catalogue.releases.push(release);
        catalogue.channels[0].version = version.into();
        fs::write(self.at("repository/catalogue/game.json"), serde_json::to_vec(&catalogue).unwrap()).unwrap();
        self.sign();
    }

    fn manifest(&self, version: &str) -> Manifest {
        let id = self.catalogue().release(version).unwrap().manifest.blake3.clone();
        Manifest::decode(&fs::read(self.at("repository/manifests").join(id)).unwrap()).unwrap()
    }
}

fn metadata_attacks(world: &mut World) {
    let old = world.metadata("timestamp.json");
    let old_snapshot = world.metadata("2.snapshot.json");
    let old_targets = world.metadata("2.targets.json");
    world.pack("2");
    world.sign();
    // The client sees version 3 of the metadata, but cannot install: the manifest does not come.
    let manifest = format!("manifests/{}", world.catalogue().release("2.0").unwrap().manifest.blake3);
    world.server.lies(&manifest, Instead::Bytes(b"no manifest".to_vec()));
    world.refused("another file under a manifest's name", &[4], "manifest");
    world.honest();

    world.server.lies("metadata/timestamp.json", Instead::Bytes(old));
    world.refused("rollback", &[7], "rollback");
    world.honest();
    world.sign();
    world.server.lies("metadata/4.snapshot.json", Instead::Bytes(old_snapshot));
    world.refused("mix-and-match of snapshots", &[7], "mix-and-match");
    world.honest();
    world.server.lies("metadata/4.targets.json", Instead::Bytes(old_targets));
    world.refused("mix-and-match of targets", &[7], "mix-and-match");
    world.honest();

    let stranger = KeyRing::open(&world.at("stranger/keys"), Passphrase(None));
    let thresholds = trust::Thresholds { root_count: 1, root: 1, targets_count: 1, targets: 1 };
    let folder = world.at("stranger/repository");
    fs::create_dir_all(folder.join("catalogue")).unwrap();
    fs::copy(world.at("repository/catalogue/game.json"), folder.join("catalogue/game.json")).unwrap();
    trust::create(&folder, &mut stranger.unwrap(), thresholds, Lifetimes::default(), trust::now()).unwrap();
    for (name, foreign) in [("2.root.json", "1.root.json"), ("timestamp.json", "timestamp.json")] {
        let bytes = fs::read(folder.join("metadata").join(foreign)).unwrap();
        world.server.lies(&format!("metadata/{name}"), Instead::Bytes(bytes));
        world.refused(&format!("arbitrary software: a stranger's {name}"), &[7], "arbitrary software");
        world.honest();
    }
    let text = String::from_utf8(world.metadata("timestamp.json")).unwrap();
    let ahead = text.replace("\"version\":4", "\"version\":4294967296");
    world.server.lies("metadata/timestamp.json", Instead::Bytes(ahead.into_bytes()));
    world.refused("fast-forward", &[7], "fast-forward");
    world.honest();

    let month_ago = trust::now() - 30 * 86_400;
    let kept = world.metadata("timestamp.json");
    trust::sign_online(
        &world.at("repository"),
        &world.ring,
        Lifetimes { snapshot: 90, ..Lifetimes::default() },
        month_ago,
    )
    .unwrap();
    world.refused("freeze: signed a month ago", &[7], "freeze");
    fs::write(world.at("repository/metadata/timestamp.json"), kept).unwrap();
    world.sign();

    for name in ["metadata/2.root.json", "metadata/timestamp.json"] {
        world.server.lies(name, Instead::Endless);
        world.refused(&format!("endless data: {name}"), &[7], "endless data");
        world.honest();
    }
    let clock = walk_to(&world.at("home/state/trust"), "clock");
    let right = fs::read(&clock).unwrap();
    fs::write(&clock, "2100-01-01T00:00:00Z").unwrap();
    world.refused("clock set back", &[7], "clock set back");
    fs::write(&clock, right).unwrap();
}

/// The file of this name in one of the folder's folders.
fn walk_to(folder: &Path, name: &str) -> PathBuf {
    let mut within = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path().join(name));
    within.find(|file| file.exists()).unwrap()
}

fn download_attacks(world: &mut World) {
    let release = world.catalogue().release("2.0").unwrap().clone();
    let manifest = world.manifest("2.0");
    let old: Vec<_> = world.manifest("1.0").packs.iter().map(|pack| pack.id).collect();
    let new = manifest.packs.iter().find(|pack| !old.contains(&pack.id)).unwrap();
    let id: String = new.id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (manifest, pack) = (format!("manifests/{}", release.manifest.blake3), format!("packs/{id}"));
    world.server.lies(&manifest, Instead::Endless);
    world.refused("endless data: a manifest", &[4, 6], "");
    world.honest();
    world.server.lies(&pack, Instead::Endless);
    world.refused("endless data: a pack", &[4, 6], "");
    world.honest();
    let mut bytes = fs::read(world.at("repository").join(&pack)).unwrap();
    for byte in &mut bytes {
        *byte ^= 0x55;
    }
    world.server.lies(&pack, Instead::Bytes(bytes));
    world.refused("damaged pack", &[4], "");
    world.honest();
    let sent = world.server.sent.load(Ordering::Relaxed);
    assert!(sent < ENDLESS_BYTES / 8, "{sent} bytes of endless answers were taken");
    world.server.lies(&pack, Instead::CutOff);
    world.refused("a network that breaks off", &[6], "");
    world.honest();
}

fn content_attacks(world: &mut World, seed: u64, mutations: u32) {
    let good = world.manifest("2.0");
    let outside = world.at("evil").display().to_string();
    let deep = "a/".repeat(200) + "b";
    let names = [
        "../evil",
        "data/../../evil",
        outside.as_str(),
        "..",
        ".",
        "",
        "data//x",
        "a\\..\\evil",
        "x\0y",
        "x\ny",
        "CON",
        "nul.txt",
        "data/LPT1",
        "com9.bin",
        "C:evil",
        "trailing.",
        "trailing ",
        &deep,
    ];
    let file = good.entries.iter().find(|entry| entry.path == "game").unwrap().kind.clone();
    let mut number = 0;
    world.pack("3");
    let alone = world.manifest("3.0");
    let mut publish_as = |world: &mut World, attack: &str, manifest: Manifest, says: &str| {
        number += 1;
        world.publish(&format!("evil-{number}"), &manifest.encode());
        world.refused(attack, &[4], says);
    };
    for name in names {
        let mut manifest = alone.clone();
        manifest.entries[0].path = name.into();
        // By its name, but for those that are too long or too short to be shown.
        let says = if name.is_empty() || name.len() > 255 { "manifests/".to_owned() } else { format!("{name:?}") };
        publish_as(world, &format!("path {name:?}"), manifest, &says);
    }
    let mut publish = |world: &mut World, attack: &str, entries: Vec<Entry>| {
        publish_as(world, attack, Manifest { entries, ..good.clone() }, "manifests/");
    };
    let with = |more: Entry| [good.entries.clone(), vec![more]].concat();
    publish(world, "the same path twice", with(Entry { path: "game".into(), kind: file.clone() }));
    publish(
        world,
        "upper and lower case",
        with(Entry { path: "zGAME".into(), kind: file.clone() })
            .into_iter()
            .chain([Entry { path: "zgame".into(), kind: file.clone() }])
            .collect(),
    );
    for target in ["../outside", "/etc/passwd", "data/../../x", "..", "", "a\\b", &*outside] {
        let link = Entry { path: "zlink".into(), kind: Kind::Link { target: target.into() } };
        publish(world, &format!("link to {target:?}"), with(link));
    }
    let through = vec![
        Entry { path: "zlink".into(), kind: Kind::Link { target: "data".into() } },
        Entry { path: "zlink/evil".into(), kind: file.clone() },
    ];
    publish(world, "a file beneath a link", [good.entries.clone(), through].concat());

    // A manifest has no form for modes, devices, FIFOs and sockets: there are four kinds of entries.
    let bytes = alone.encode();
    let kind = bytes.windows(5).position(|window| window == b"\x04game").unwrap() - 1;
    for number in [4, 6, 0o20, 0o60, 0x80, 0xff] {
        let mut manifest = bytes.clone();
        manifest[kind] = number;
        world.publish("evil-kind", &manifest);
        world.refused(&format!("an entry of kind {number}"), &[4], &format!("is of kind {number}, which is not known"));
    }

    // A frame of 256 MiB of zeros where 100 bytes are promised.
    let bomb = zstd::bulk::compress(&vec![0; 256 << 20], 19).unwrap();
    let id = blake3::hash(&bomb);
    fs::write(world.at("repository/packs").join(id.to_hex().as_str()), &bomb).unwrap();
    let mut manifest = good.clone();
    manifest.packs.push(vsekai_launcher::manifest::Pack { id: *id.as_bytes(), size: bomb.len() as u32 });
    let last = manifest.chunks.last_mut().unwrap();
    (last.pack, last.offset, last.stored) =
        (manifest.packs.len() as u32 - 1, 0, bomb.len().min(last.size as usize - 1) as u32);
    world.publish("bomb", &manifest.encode());
    world.refused("decompression bomb", &[4], "");

    // Any byte of a manifest changed, with the right hash and signature.
    let bytes = good.encode();
    let mut state = seed;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..mutations {
        let mut changed = bytes.clone();
        for _ in 0..=random(3) {
            let at = random(changed.len());
            changed[at] ^= 1 << random(8);
        }
        let before = {
            world.publish("mutated", &changed);
            world.outside()
        };
        let (code, said) = world.update();
        // A pack that does not exist, or more room than there is, are other words for it. A change may do no harm (a bit of the keep list, say): then it is installed, and gone back from.
        assert!(matches!(code, Some(0 | 4 | 9 | 10)), "seed {seed}: {code:?}: {said}");
        assert!(world.outside() == before, "seed {seed}: something was written outside the root");
        if code == Some(0) {
            fs::remove_dir_all(world.at("installed")).unwrap();
            let mut catalogue = world.catalogue();
            catalogue.channels[0].version = "1.0".into();
            fs::write(world.at("repository/catalogue/game.json"), serde_json::to_vec(&catalogue).unwrap()).unwrap();
            world.sign();
            assert_eq!(world.update().0, Some(0), "seed {seed}");
        }
        world.still_whole(&format!("seed {seed}"));
    }
}

/// An archive of casync's with one entry `evil` of this mode and what follows it.
fn archive(mode: u64, body: &[(u64, &[u8])]) -> Vec<u8> {
    const ENTRY: u64 = 0x1396_fabc_ea5b_bb51;
    const FILENAME: u64 = 0x6dbb_6ebc_b316_1f0b;
    fn element(bytes: &mut Vec<u8>, kind: u64, body: &[u8]) {
        bytes.extend((16 + body.len() as u64).to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(body);
    }
    let entry = |mode: u64| {
        [0x9000_0000_1000_1f22, mode, 0, 0, 0, 0].into_iter().flat_map(u64::to_le_bytes).collect::<Vec<_>>()
    };
    let mut bytes = Vec::new();
    element(&mut bytes, ENTRY, &entry(0o040_755));
    element(&mut bytes, FILENAME, b"evil\0");
    element(&mut bytes, ENTRY, &entry(mode));
    for (kind, body) in body {
        element(&mut bytes, *kind, body);
    }
    // Where a table of contents belongs: what is refused is refused before it.
    element(&mut bytes, FILENAME, b"zebra\0");
    element(&mut bytes, ENTRY, &entry(0o100_644));
    bytes
}

/// What casync's archives can hold and no player's machine should get: `sync untar` refuses it by name, whatever it is told to allow.
fn archive_attacks(world: &mut World) {
    const PAYLOAD: u64 = 0x8b9e_1d93_d6dc_ffc9;
    const DEVICE: u64 = 0xac3d_ace3_69df_e643;
    const SYMLINK: u64 = 0x664a_6fb6_830e_0d6c;
    let payload: &[(u64, &[u8])] = &[(PAYLOAD, b"x")];
    let device: &[(u64, &[u8])] = &[(DEVICE, &[1; 16])];
    let attacks: [(&str, u64, &[(u64, &[u8])], &str); 9] = [
        ("a character device", 0o020_666, device, "device, FIFO or socket"),
        ("a block device", 0o060_666, device, "device, FIFO or socket"),
        ("a FIFO", 0o010_666, &[], "device, FIFO or socket"),
        ("a socket", 0o140_666, &[], "device, FIFO or socket"),
        ("a set-uid file", 0o104_755, payload, "set-uid or set-gid"),
        ("a set-gid file", 0o102_755, payload, "set-uid or set-gid"),
        ("a set-uid and set-gid file", 0o106_755, payload, "set-uid or set-gid"),
        ("a link out of the root", 0o120_777, &[(SYMLINK, b"../../etc/passwd\0")], "evil"),
        ("an absolute link", 0o120_777, &[(SYMLINK, b"/etc/passwd\0")], "evil"),
    ];
    for (attack, mode, body, says) in attacks {
        fs::write(world.at("evil.catar"), archive(mode, body)).unwrap();
        let before = world.outside();
        let untar = ["sync", "untar", "--catar", "evil.catar", "--destination", "unpacked", "--any_name"];
        let output = world.home.run(&untar);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{attack}: {said}");
        assert!(said.contains("evil\"") && said.contains(says), "{attack}: does not say {says:?}: {said}");
        assert!(world.outside() == before, "{attack}: something was written");
        world.refused += 1;
        println!("refused: {attack} in an archive: {}", said.trim());
    }
    fs::remove_file(world.at("evil.catar")).unwrap();
}

#[test]
fn every_attack_is_refused_by_name() {
    let seed = std::env::var("VSEKAI_HOSTILE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mutations = std::env::var("VSEKAI_HOSTILE_MUTATIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(15);
    let mut world = World::new();
    metadata_attacks(&mut world);
    download_attacks(&mut world);
    content_attacks(&mut world, seed, mutations);
    archive_attacks(&mut world);
    // After all of it, an honest update still comes.
    let mut catalogue = world.catalogue();
    catalogue.channels[0].version = "2.0".into();
    fs::write(world.at("repository/catalogue/game.json"), serde_json::to_vec(&catalogue).unwrap()).unwrap();
    world.sign();
    let (code, said) = world.update();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(fs::read_to_string(world.at("installed/current/game")).unwrap(), "version 2");
    assert!(world.peak_kib > 1_000 && world.peak_kib < MEMORY_MAX_KIB, "{} KiB of memory", world.peak_kib);
    println!(
        "figures: {} attacks refused, {mutations} mutated manifests, seed {seed}, at most {} KiB of memory",
        world.refused, world.peak_kib
    );
}
