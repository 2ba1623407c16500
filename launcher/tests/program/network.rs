//! Servers that go away in the middle and come back, how many requests are made at a time, and https with authorities of one's own.

#![expect(clippy::unwrap_used, reason = "a test ends at its first surprise")]

use crate::support::Home;
use base64::Engine as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

fn noise(name: &str, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    blake3::Hasher::new().update(name.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// What a server counts.
#[derive(Default)]
struct Counts {
    /// Bytes of packs and deltas.
    sent: u64,
    /// It ends when so many were sent.
    sent_max: Option<u64>,
    /// Requests for packs, ever and under way.
    came: usize,
    open: usize,
    /// The most that were under way together.
    open_most: usize,
    /// It has ended.
    over: bool,
    streams: Vec<TcpStream>,
}

/// A web server on loopback that serves a folder.
struct Web {
    at: SocketAddr,
    counts: Arc<(Mutex<Counts>, Condvar)>,
    listening: Option<JoinHandle<()>>,
}

impl Web {
    /// `gather`: packs are sent when so many requests for them came. It ends, in the middle of a pack, after `sent_max` bytes of packs.
    fn start(at: &str, folder: PathBuf, gather: usize, sent_max: Option<u64>, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let at = listener.local_addr().unwrap();
        let counts = Arc::new((Mutex::new(Counts { sent_max, ..Counts::default() }), Condvar::new()));
        let shared = counts.clone();
        let listening = std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut held = shared.0.lock().unwrap();
                if held.over {
                    return;
                }
                held.streams.push(stream.try_clone().unwrap());
                drop(held);
                let (shared, folder, tls) = (shared.clone(), folder.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    None => answer(stream, &folder, gather, &shared, at),
                    Some(tls) => {
                        let connection = ServerConnection::new(tls).unwrap();
                        answer(StreamOwned::new(connection, stream), &folder, gather, &shared, at)
                    }
                });
            }
        });
        Self { at, counts, listening: Some(listening) }
    }

    fn sent(&self) -> u64 {
        self.counts.0.lock().unwrap().sent
    }

    /// Waits until it has ended by itself: nothing listens there any more. Gives the address to come back at.
    fn gone(mut self) -> String {
        self.listening.take().unwrap().join().unwrap();
        self.at.to_string()
    }
}

/// Nobody listens any more, and all connections end.
fn end(counts: &mut Counts, at: SocketAddr) {
    counts.over = true;
    for stream in counts.streams.drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
    // Wakes the listener, which sees that it is over.
    let _ = TcpStream::connect(at);
}

/// Answers one request and hangs up.
fn answer(
    mut stream: impl Read + Write,
    folder: &Path,
    gather: usize,
    shared: &(Mutex<Counts>, Condvar),
    at: SocketAddr,
) -> Option<()> {
    let (counts, changed) = shared;
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        request.push(byte[0]);
    }
    let text = String::from_utf8(request).ok()?.to_lowercase();
    let path = text.split(' ').nth(1)?.trim_start_matches('/').to_owned();
    let Ok(bytes) = fs::read(folder.join(&path)) else {
        return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok();
    };
    let range = text.lines().find_map(|line| line.strip_prefix("range: bytes=")?.split_once('-'));
    let (first, end_at, status) = match range {
        Some((first, last)) => (first.parse().ok()?, last.parse::<usize>().ok()? + 1, "206 Partial Content"),
        None => (0, bytes.len(), "200 OK"),
    };
    let body = &bytes[first..end_at.min(bytes.len())];
    let last = first + body.len().saturating_sub(1);
    let range = format!("content-range: bytes {first}-{last}/{}\r\n", bytes.len());
    let head = format!("HTTP/1.1 {status}\r\n{range}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    let is_counted = path.starts_with("packs/") || path.starts_with("deltas/");
    if is_counted {
        let mut held = counts.lock().unwrap();
        (held.came, held.open) = (held.came + 1, held.open + 1);
        held.open_most = held.open_most.max(held.open);
        changed.notify_all();
        drop(changed.wait_while(held, |held| held.came < gather).unwrap());
    }
    let mut sent = Some(());
    for piece in body.chunks(16 << 10) {
        sent = stream.write_all(piece).and_then(|()| stream.flush()).ok();
        if sent.is_none() {
            break;
        }
        let mut held = counts.lock().unwrap();
        held.sent += if is_counted { piece.len() as u64 } else { 0 };
        if held.over || held.sent_max.is_some_and(|max| held.sent >= max) {
            end(&mut held, at);
            sent = None;
            break;
        }
    }
    if is_counted {
        counts.lock().unwrap().open -= 1;
    }
    sent
}

/// An address of this machine that no other test uses: a server that comes back to its port must not find it taken.
fn lonely_address() -> String {
    static NUMBER: AtomicU8 = AtomicU8::new(1);
    let process = std::process::id();
    format!("127.{}.{}.{}:0", 1 + (process >> 8) % 250, process % 256, NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// A studio's repository with builds of 2 MB, and a player's commands.
struct Player {
    home: Home,
}

impl Player {
    fn new() -> Self {
        let player = Self { home: Home::new() };
        player.home.succeeds(&["keys", "generate", "--keys", "keys", "--repository", "repository"]);
        player
    }

    fn at(&self, path: &str) -> PathBuf {
        self.home.folder().join(path)
    }

    /// Publishes a build of these files, each of noise.
    fn publish(&self, version: &str, files: &[(&str, usize)]) {
        let build = self.at(&format!("build-{version}"));
        fs::create_dir_all(&build).unwrap();
        fs::write(build.join("version"), version).unwrap();
        for (name, size) in files {
            fs::write(build.join(name), noise(name, *size)).unwrap();
        }
        let pack = ["version", "pack", "--repository", "repository", "--client_id", "game", "--channel", "stable"];
        let source = build.to_str().unwrap();
        self.home.succeeds(&[&pack[..], &["--source", source, "--version", version, "--deltas", "0"]].concat());
        self.home.succeeds(&["version", "sign", "--repository", "repository", "--keys", "keys"]);
    }

    fn follow(&self, address: &str) {
        let root = self.at("installed");
        let root = root.to_str().unwrap();
        let add = ["profile", "add", "--profile_name", "game", "--client_id", "game", "--repository", address];
        self.home.succeeds(&[&add[..], &["--root", root, "--root_file", "repository/metadata/1.root.json"]].concat());
    }

    fn serve(&self, at: &str, sent_max: Option<u64>) -> Web {
        Web::start(at, self.at("repository"), 0, sent_max, None)
    }

    fn installed(&self) -> String {
        fs::read_to_string(self.at("installed/current/version")).unwrap_or_default()
    }

    /// Version 1 is here, version 2 is offered by a server that goes away after 1 MB of the 2 MB that it takes.
    fn halfway() -> (Self, Web) {
        let player = Self::new();
        player.publish("1", &[("old", 500_000)]);
        let address = {
            let web = player.serve(&lonely_address(), None);
            player.follow(&format!("http://{}", web.at));
            player.home.succeeds(&["system", "update"]);
            end(&mut web.counts.0.lock().unwrap(), web.at);
            web.gone()
        };
        player.publish("2", &[("old", 500_000), ("one", 1_000_000), ("two", 1_000_000)]);
        let web = player.serve(&address, Some(1_000_000));
        (player, web)
    }

    /// What was interrupted goes on where it was, as soon as the server is back.
    fn goes_on(&self, address: &str, task: &[&str]) {
        let web = self.serve(address, None);
        self.home.succeeds(task);
        assert_eq!(self.installed(), "2");
        self.home.succeeds(&["system", "verify"]);
        // What came before is not fetched again, but for what had come only in part.
        assert!(web.sent() < 1_200_000, "{} bytes were fetched again", web.sent());
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // The daemon that a test started, if it did.
        let _ = self.home.run(&["sync", "stop"]);
    }
}

#[track_caller]
fn fails(output: &Output, code: i32, why: &str) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.contains(why) && errors.lines().count() == 1, "{errors} does not say {why:?} on one line");
    errors
}

#[test]
fn an_update_whose_server_goes_away_ends_by_name_and_goes_on_later() {
    let (player, web) = Player::halfway();
    let lost = player.home.run(&["system", "update"]);
    let address = web.gone();
    fails(&lost, 6, "packs/");
    fails(&lost, 6, "tries)");
    assert_eq!(player.installed(), "1", "what was installed is no more");
    // Without a network the state is still told, and the installation whole.
    fails(&player.home.run(&["system", "check"]), 6, &address);
    let state = fs::read_to_string(player.at("installed/.vsekai/state.json")).unwrap();
    assert!(state.contains("\"target\":\"2\"") && state.contains("packs/"), "{state}");
    player.goes_on(&address, &["system", "update"]);
}

#[test]
fn a_job_whose_server_goes_away_fails_by_name_and_goes_on_later() {
    let (player, web) = Player::halfway();
    let lost = player.home.run(&["sync", "start", "--wait"]);
    let address = web.gone();
    fails(&lost, 6, "packs/");
    assert_eq!(player.installed(), "1", "what was installed is no more");
    let jobs: serde_json::Value =
        serde_json::from_str(&player.home.succeeds(&["--json", "sync", "check-status"])).unwrap();
    assert_eq!((&jobs[0]["status"], &jobs[0]["exit"]), (&"failed".into(), &6.into()), "{jobs}");
    player.goes_on(&address, &["sync", "start", "--wait"]);
}

#[test]
fn a_server_that_comes_back_in_time_is_not_even_missed() {
    let (player, web) = Player::halfway();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vsekai"));
    let mut update = player.home.environment(command.args(["system", "update"])).spawn().unwrap();
    let address = web.gone();
    let web = player.serve(&address, None);
    assert!(update.wait().unwrap().success());
    assert_eq!(player.installed(), "2");
    assert!(web.sent() < 1_200_000, "{} bytes were fetched again", web.sent());
}

#[test]
fn as_many_requests_are_made_at_a_time_as_the_setting_says() {
    let player = Player::new();
    let names: Vec<String> = (0..10).map(|number| format!("f{number}")).collect();
    let files: Vec<(&str, usize)> = names.iter().map(|name| (name.as_str(), 400_000)).collect();
    player.publish("1", &files);
    // What is left of the first pack lies too far apart for one request.
    let rest: Vec<_> = files.iter().filter(|(name, _)| !["f1", "f4", "f7"].contains(name)).copied().collect();
    player.publish("2", &rest);
    for connections in [3, 1] {
        let web = Web::start("127.0.0.1:0", player.at("repository"), connections, None, None);
        player.home.run(&["profile", "remove", "--profile_name", "game"]);
        player.follow(&format!("http://{}", web.at));
        player.home.succeeds(&["config", "set", "--key", "connections", "--value", &connections.to_string()]);
        player.home.succeeds(&["system", "update"]);
        assert_eq!(player.installed(), "2");
        let (came, most) = {
            let counts = web.counts.0.lock().unwrap();
            (counts.came, counts.open_most)
        };
        assert!(came >= 4, "only {came} requests: nothing is shown by them");
        assert_eq!(most, connections, "of {came} requests");
        fs::remove_dir_all(player.at("installed")).unwrap();
    }
}

/// A certificate for this name, and its key.
struct Certificate(rcgen::CertifiedKey<rcgen::KeyPair>);

impl Certificate {
    fn new(name: &str) -> Self {
        Self(rcgen::generate_simple_self_signed([name.to_owned()].to_vec()).unwrap())
    }

    fn der(&self) -> CertificateDer<'static> {
        self.0.cert.der().clone()
    }

    fn key(&self) -> Vec<u8> {
        self.0.signing_key.serialize_der()
    }

    fn pem(kind: &str, bytes: &[u8]) -> String {
        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
    }
}

/// What a server shows, and whose certificates it asks clients for.
fn tls(server: &Certificate, clients: Option<&Certificate>) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add(clients.der()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let key = PrivateKeyDer::try_from(server.key()).unwrap();
    Arc::new(config.with_single_cert(vec![server.der()], key).unwrap())
}

#[test]
fn https_believes_the_authorities_of_the_settings_and_shows_a_certificate() {
    let player = Player::new();
    player.publish("1", &[("one", 100_000)]);
    let (server, other, client) =
        (Certificate::new("127.0.0.1"), Certificate::new("127.0.0.1"), Certificate::new("me"));
    let serve = |config| Web::start("127.0.0.1:0", player.at("repository"), 0, None, Some(config));
    let set = |key: &str, file: &str, text: String| {
        fs::write(player.at(file), text).unwrap();
        let path = player.at(file);
        player.home.succeeds(&["config", "set", "--key", key, "--value", path.to_str().unwrap()]);
    };
    let update = |web: &Web| {
        let (address, root) = (format!("https://{}", web.at), player.at("installed"));
        let root = root.to_str().unwrap();
        let add = ["profile", "add", "--profile_name", "game", "--client_id", "game", "--repository", &address];
        player.home.run(&["profile", "remove", "--profile_name", "game"]);
        player.home.run(&[&add[..], &["--root", root, "--root_file", "repository/metadata/1.root.json"]].concat());
        player.home.run(&["system", "update", "--repository", &address, "--client_id", "game", "--root", root])
    };
    let web = serve(tls(&server, None));
    fails(&update(&web), 6, "UnknownIssuer");
    set("ca_file", "ca.pem", Certificate::pem("CERTIFICATE", &other.der()));
    fails(&update(&web), 6, "certificate");
    set("ca_file", "ca.pem", "no certificate".into());
    fails(&update(&web), 4, "has no certificate, as PEM");
    set("ca_file", "ca.pem", Certificate::pem("CERTIFICATE", &server.der()));
    let updated = update(&web);
    assert!(updated.status.success(), "{}", String::from_utf8_lossy(&updated.stderr));
    assert_eq!(player.installed(), "1");

    let web = serve(tls(&server, Some(&client)));
    fails(&update(&web), 6, "ertificate");
    let both = Certificate::pem("CERTIFICATE", &client.der()) + &Certificate::pem("PRIVATE KEY", &client.key());
    set("client_certificate", "me.pem", both);
    let updated = update(&web);
    assert!(updated.status.success(), "{}", String::from_utf8_lossy(&updated.stderr));
    set("client_certificate", "me.pem", Certificate::pem("CERTIFICATE", &client.der()));
    fails(&update(&web), 4, "must have a certificate and its private key");
}
