//! `vsekai-supervisor store` with real processes: stopped, killed, and hung at the worst moment.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should panic where it stands")]

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use vsekai_storage::Error;
use vsekai_storage::kv::{Committed, Database, server_facts};

/// Longer than anything takes that is expected.
const LONG: Duration = Duration::from_secs(30);
/// As long as it is watched that something does not happen.
const SHORT: Duration = Duration::from_millis(300);

/// A server of the store in a directory. Dropped, it is killed.
struct Server {
    process: Child,
    socket: PathBuf,
}

fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vsekai-supervisor"));
    command.arg("store").arg("--store").arg(format!("local:{}", directory.join("store").display()));
    command.arg("--socket").arg(directory.join("socket")).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Server {
    fn start(directory: &Path) -> Self {
        let mut process = command(directory).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let socket = directory.join("socket");
        assert_eq!(line, format!("Serving local:{} as unix:{}\n", directory.join("store").display(), socket.display()));
        Server { process, socket }
    }

    fn client(&self) -> Database {
        Database::open(&format!("unix:{}", self.socket.display())).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// Sends the signal and waits for the end: exit code, or number of the signal.
    fn end(mut self, signal: Signal) -> (Option<i32>, Option<i32>) {
        self.signal(signal);
        let status = self.process.wait().unwrap();
        (status.code(), status.signal())
    }

    /// Stops the process where it is: a server that hangs.
    fn hang(&self) {
        self.signal(Signal::STOP);
        let stat = format!("/proc/{}/stat", self.process.id());
        let began = Instant::now();
        while !fs::read_to_string(&stat).unwrap().contains(") T ") {
            assert!(began.elapsed() < LONG, "it does not stop");
            std::thread::yield_now();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn put(database: &Database, key: &str) {
    database
        .run(|transaction| {
            transaction.set(key.as_bytes(), "1");
            Ok(())
        })
        .unwrap();
}

fn is_there(database: &Database, key: &str) -> bool {
    database.begin().unwrap().get(key.as_bytes()).unwrap().is_some()
}

/// Commits a write in another thread while the server hangs.
fn commit_into_hung(server: &Server, client: &Database, key: &str) -> Receiver<Result<Committed, Error>> {
    let mut transaction = client.begin().unwrap();
    transaction.read_version().unwrap();
    transaction.set(key.as_bytes(), "1");
    server.hang();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(transaction.commit()));
    assert!(receiver.recv_timeout(SHORT).is_err(), "a hung server has answered");
    receiver
}

#[test]
fn it_serves_until_it_is_told_to_stop() {
    let directory = TempDir::new().unwrap();
    for (signal, key) in [(Signal::TERM, "a"), (Signal::INT, "b")] {
        let server = Server::start(directory.path());
        let client = server.client();
        put(&client, key);
        let facts = server_facts(&server.socket).unwrap();
        assert_eq!(facts.process, server.process.id());
        assert_eq!(facts.store, format!("local:{}", directory.path().join("store").display()));
        let socket = server.socket.clone();
        assert_eq!(server.end(signal), (Some(0), None));
        assert!(!socket.exists() && !socket.with_file_name("socket.lock").exists());
    }
    let server = Server::start(directory.path());
    assert!(["a", "b"].iter().all(|key| is_there(&server.client(), key)));
}

#[test]
fn a_killed_server_is_replaced_and_its_clients_go_on() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let client = server.client();
    put(&client, "a");
    assert_eq!(server.end(Signal::KILL), (None, Some(Signal::KILL.as_raw())));
    assert!(directory.path().join("socket").exists(), "nobody was there to remove it");
    let server = Server::start(directory.path());
    assert!(is_there(&client, "a"));
    put(&client, "b");
    assert!(is_there(&server.client(), "b"));
}

#[test]
fn a_commit_waits_for_a_server_that_hangs() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let client = server.client();
    let outcome = commit_into_hung(&server, &client, "a");
    server.signal(Signal::CONT);
    assert!(outcome.recv_timeout(LONG).unwrap().is_ok());
    assert!(is_there(&client, "a"));
}

#[test]
fn an_unknown_result_waits_until_the_hung_server_has_ended_the_connection() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let client = server.client();
    let outcome = commit_into_hung(&server, &client, "a");
    client.break_connection();
    assert!(outcome.recv_timeout(SHORT).is_err(), "the server may yet read the commit");
    server.signal(Signal::CONT);
    let outcome = outcome.recv_timeout(LONG).unwrap();
    assert!(matches!(outcome, Err(Error::CommitUnknownResult)), "{outcome:?}");
    let found = is_there(&client, "a");
    // Whichever it is, it stays so.
    assert_eq!(is_there(&server.client(), "a"), found);
    assert_eq!(server.end(Signal::TERM), (Some(0), None));
    assert_eq!(is_there(&Server::start(directory.path()).client(), "a"), found);
}

#[test]
fn an_unknown_result_comes_once_the_hung_server_is_dead() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let client = server.client();
    let outcome = commit_into_hung(&server, &client, "a");
    assert_eq!(server.end(Signal::KILL), (None, Some(Signal::KILL.as_raw())));
    // No server need come back for that.
    let outcome = outcome.recv_timeout(LONG).unwrap();
    assert!(matches!(outcome, Err(Error::CommitUnknownResult)), "{outcome:?}");
    let server = Server::start(directory.path());
    assert!(!is_there(&server.client(), "a"), "a dead server has committed");
}

#[test]
fn a_socket_and_a_store_have_one_server() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(directory.path());
    let refused = |command: &mut Command| {
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(5), "{text}");
        assert!(output.stdout.is_empty());
        text
    };
    let text = refused(&mut command(directory.path()));
    assert!(text.contains("store is already in use") || text.contains("store.redb is already in use"), "{text}");
    let other = TempDir::new().unwrap();
    let mut same_socket = Command::new(env!("CARGO_BIN_EXE_vsekai-supervisor"));
    same_socket.args(["store", "--store", "mem:", "--socket"]).arg(&server.socket);
    let text = refused(&mut same_socket);
    assert!(text.contains("socket is already in use"), "{text}");
    let mut no_store = Command::new(env!("CARGO_BIN_EXE_vsekai-supervisor"));
    no_store.args(["store", "--store", "redis:x", "--socket"]).arg(other.path().join("socket"));
    let text = refused(&mut no_store);
    assert!(text.contains("`unix:SOCKET`"), "{text}");
    put(&server.client(), "a");
}

#[test]
fn its_log_says_what_it_served() {
    let directory = TempDir::new().unwrap();
    let mut server = Server::start(directory.path());
    put(&server.client(), "a");
    let mut log = server.process.stderr.take().unwrap();
    assert_eq!(server.end(Signal::TERM), (Some(0), None));
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert!(text.contains("serving") && text.contains("commits=1"), "{text}");
}
