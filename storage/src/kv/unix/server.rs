//! The server's end: accepts connections, commits for all of them, stops in order.
//!
//! One thread per connection reads requests and answers reads itself. Commits of all connections go to one thread that
//! gives the engine all that are waiting at once: they become one group with one sync, however many clients there are.
//! Watches go to another, since beginning one waits for the group at hand. Neither ever waits for a client.

use super::COMMITS_IN_FLIGHT_MAX;
use super::connection::{Connection, Ending};
use super::protocol::{CLIENT_HELLO_BYTES, ClientHello, Instance, PROTOCOL_VERSION, ServerHello, Session, Verdict};
use super::socket::Claim;
use crate::error::Error;
use crate::kv::Database;
use crate::kv::engine::Engine;
use crate::kv::operation::CommitRequest;
use crate::kv::watch::WatchState;
use crate::sync::locked;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Most connections at once: each costs two threads.
const CONNECTIONS_MAX: usize = 128;
/// Who has connected must say hello within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is looked for snapshots that are too old.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);
/// The pause after the system refused a new connection: there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a stopping server waits for a client to read its last answers.
const FLUSH_PATIENCE: Duration = Duration::from_secs(2);
/// Most jobs that wait for one thread: more than all commits that may be in flight.
const JOBS_MAX: usize = 2 * CONNECTIONS_MAX * COMMITS_IN_FLIGHT_MAX;
/// How many commits' durations are remembered.
const RECENT_MAX: usize = 256;
/// Most commits handed to the engine at once.
const COMMITS_AT_ONCE: usize = 4_096;

/// Serves the store of `database` at the Unix socket `socket` until it is stopped or dropped.
///
/// Only this user and root can connect. The socket of a dead server is replaced.
///
/// # Errors
/// [`Error::InUse`] where a live server serves; [`Error::Config`] when `database` is not `local:` or `mem:`;
/// [`Error::Io`] when the system refuses the socket.
pub fn serve(database: Database, socket: &Path) -> Result<StoreServer, Error> {
    let Some(engine) = database.engine().cloned() else {
        return Err(Error::Config("only a `local:` or `mem:` store can be served".into()));
    };
    let (claim, listener) = Claim::take(socket)?;
    let failed = |e| Error::io("serve at", socket, e);
    let (wake, waker) = UnixStream::pair().map_err(failed)?;
    let shared = Arc::new(Shared {
        _database: database,
        store: engine.name(),
        engine,
        instance: Uuid::new_v4().into_bytes(),
        connections: Mutex::default(),
        open: AtomicUsize::new(0),
        stopping: AtomicBool::new(false),
        commits: Work::default(),
        watches: Work::default(),
        counters: Counters::default(),
        threads: Mutex::default(),
    });
    let mut server = StoreServer { shared, path: socket.to_owned(), claim: Some(claim), waker, threads: Vec::new() };
    // If one of the threads can't be had, dropping the server ends the others.
    server.start("store-commits", |shared| commit_all(&shared)).map_err(failed)?;
    server.start("store-watches", |shared| begin_watches(&shared)).map_err(failed)?;
    server.start("store-accept", move |shared| accept(&shared, &listener, &wake)).map_err(failed)?;
    Ok(server)
}

/// A store being served. Dropping it stops it.
#[derive(Debug)]
pub struct StoreServer {
    shared: Arc<Shared>,
    path: PathBuf,
    claim: Option<Claim>,
    /// Closed, it wakes the accepting thread.
    waker: UnixStream,
    threads: Vec<JoinHandle<()>>,
}

/// What a server has done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerStatus {
    /// Connections now.
    pub connections: usize,
    /// Connections that were made.
    pub connections_total: u64,
    /// Requests of all kinds.
    pub requests: u64,
    /// Commits that were answered, with whatever outcome.
    pub commits: u64,
    /// Groups that the commits were given to the engine in.
    pub commit_groups: u64,
    /// Bytes of requests.
    pub bytes_received: u64,
    /// Bytes of answers.
    pub bytes_sent: u64,
    /// How long the engine took for the last group of commits, microseconds.
    pub last_commit_micros: u64,
    /// The 99th percentile of that over the last 256 groups.
    pub p99_commit_micros: u64,
    /// Why the engine takes no commits any more, if so: it has to be opened anew.
    pub poisoned: Option<String>,
    /// Snapshots held now.
    pub snapshots: usize,
    /// Watches held now.
    pub watches: usize,
}

impl StoreServer {
    /// Where it serves.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it has done, and holds.
    pub fn status(&self) -> ServerStatus {
        let connections: Vec<Arc<Connection>> = locked(&self.shared.connections).values().cloned().collect();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        let (last_commit_micros, p99_commit_micros) = {
            let recent = locked(&counters.commit_micros);
            (recent.last(), recent.p99())
        };
        ServerStatus {
            connections: connections.len(),
            connections_total: count(&counters.connections),
            requests: count(&counters.requests),
            commits: count(&counters.commits),
            commit_groups: count(&counters.commit_groups),
            bytes_received: count(&counters.bytes_received),
            bytes_sent: count(&counters.bytes_sent),
            last_commit_micros,
            p99_commit_micros,
            poisoned: locked(&counters.poisoned).clone(),
            snapshots: connections.iter().map(|connection| connection.snapshot_count()).sum(),
            watches: connections.iter().map(|connection| connection.watch_count()).sum(),
        }
    }

    /// Takes no more connections and commits, finishes those in flight however long that takes, then hangs up and removes
    /// the socket. The store itself is closed with the last handle of its [`Database`].
    pub fn stop(mut self) {
        self.stop_serving();
    }

    fn start(&mut self, name: &str, body: impl FnOnce(Arc<Shared>) + Send + 'static) -> std::io::Result<()> {
        let shared = self.shared.clone();
        self.threads.push(std::thread::Builder::new().name(name.into()).spawn(move || body(shared))?);
        Ok(())
    }

    fn stop_serving(&mut self) {
        let Some(claim) = self.claim.take() else { return };
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Nothing to do about a waker that is gone.
        let _ = self.waker.shutdown(std::net::Shutdown::Both);
        let connections = || locked(&self.shared.connections).values().cloned().collect::<Vec<_>>();
        for connection in connections() {
            connection.wait_until_landed();
        }
        self.shared.commits.close();
        self.shared.watches.close();
        for connection in connections() {
            connection.flush_within(FLUSH_PATIENCE);
            connection.hang_up();
        }
        for thread in self.threads.drain(..) {
            // A panic was printed where it happened.
            let _ = thread.join();
        }
        // One that was accepted last may have come after the look above.
        connections().iter().for_each(|connection| connection.hang_up());
        for thread in std::mem::take(&mut *locked(&self.shared.threads)) {
            let _ = thread.join();
        }
        drop(claim);
    }
}

impl Drop for StoreServer {
    fn drop(&mut self) {
        self.stop_serving();
    }
}

/// What the server's threads share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Keeps the engine running.
    _database: Database,
    pub(super) store: String,
    pub(super) engine: Arc<Engine>,
    instance: Instance,
    /// Those that have said hello, until they have ended and none of their commits is in flight.
    connections: Mutex<BTreeMap<Session, Arc<Connection>>>,
    /// Threads that serve a connection.
    open: AtomicUsize,
    stopping: AtomicBool,
    pub(super) commits: Work<CommitJob>,
    pub(super) watches: Work<WatchJob>,
    pub(super) counters: Counters,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    connections: AtomicU64,
    pub(super) requests: AtomicU64,
    commits: AtomicU64,
    commit_groups: AtomicU64,
    pub(super) bytes_received: AtomicU64,
    pub(super) bytes_sent: AtomicU64,
    commit_micros: Mutex<Recent>,
    poisoned: Mutex<Option<String>>,
}

/// The durations of the last commits, a ring.
#[derive(Debug, Default)]
struct Recent {
    micros: Vec<u64>,
    next: usize,
}

impl Recent {
    fn note(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        if self.micros.len() < RECENT_MAX {
            self.micros.push(micros);
        } else {
            self.micros[self.next] = micros;
        }
        self.next = (self.next + 1) % RECENT_MAX;
    }

    fn last(&self) -> u64 {
        let newest = (self.next + RECENT_MAX - 1) % RECENT_MAX;
        self.micros.get(newest).copied().unwrap_or(0)
    }

    fn p99(&self) -> u64 {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len().saturating_sub(1) * 99 / 100).copied().unwrap_or(0)
    }
}

/// One commit on its way to the engine.
#[derive(Debug)]
pub(super) struct CommitJob {
    pub(super) connection: Arc<Connection>,
    pub(super) number: u64,
    /// Of its message.
    pub(super) bytes: usize,
    pub(super) request: CommitRequest,
}

/// One watch on its way to the engine.
#[derive(Debug)]
pub(super) struct WatchJob {
    pub(super) connection: Arc<Connection>,
    pub(super) number: u64,
    pub(super) key: Vec<u8>,
    pub(super) state: Arc<WatchState>,
}

impl Shared {
    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub(super) fn connection(&self, session: &Session) -> Option<Arc<Connection>> {
        locked(&self.connections).get(session).cloned()
    }

    /// Forgets a connection of which nothing is in flight any more.
    pub(super) fn retire(&self, session: &Session) {
        locked(&self.connections).remove(session);
    }
}

/// Jobs for one thread.
#[derive(Debug)]
pub(super) struct Work<T> {
    jobs: Mutex<(Vec<T>, bool)>,
    changed: Condvar,
}

impl<T> Default for Work<T> {
    fn default() -> Self {
        Work { jobs: Mutex::new((Vec::new(), false)), changed: Condvar::new() }
    }
}

impl<T> Work<T> {
    /// Waits while there are too many.
    pub(super) fn add(&self, job: T) {
        let mut jobs = locked(&self.jobs);
        while jobs.0.len() >= JOBS_MAX && !jobs.1 {
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
        jobs.0.push(job);
        self.changed.notify_all();
    }

    /// Up to `count` jobs in order, waiting for one; `None` when there are none and will be none.
    fn take(&self, count: usize) -> Option<Vec<T>> {
        let mut jobs = locked(&self.jobs);
        while jobs.0.is_empty() {
            if jobs.1 {
                return None;
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
        let count = jobs.0.len().min(count);
        if jobs.0.len() >= JOBS_MAX {
            self.changed.notify_all();
        }
        Some(jobs.0.drain(..count).collect())
    }

    fn close(&self) {
        locked(&self.jobs).1 = true;
        self.changed.notify_all();
    }
}

fn commit_all(shared: &Shared) {
    while let Some(jobs) = shared.commits.take(COMMITS_AT_ONCE) {
        let mut requests = Vec::with_capacity(jobs.len());
        let mut flights = Vec::with_capacity(jobs.len());
        for CommitJob { connection, number, bytes, request } in jobs {
            requests.push(request);
            flights.push((connection, number, bytes));
        }
        shared.counters.commit_groups.fetch_add(1, Ordering::Relaxed);
        shared.counters.commits.fetch_add(flights.len() as u64, Ordering::Relaxed);
        let began = Instant::now();
        let outcomes = shared.engine.commit_all(requests);
        locked(&shared.counters.commit_micros).note(began.elapsed());
        for ((connection, number, bytes), outcome) in flights.into_iter().zip(outcomes) {
            if let Err(Error::Poisoned(reason)) = &outcome {
                locked(&shared.counters.poisoned).get_or_insert_with(|| reason.clone());
            }
            connection.land(shared, number, bytes, outcome);
        }
    }
}

fn begin_watches(shared: &Shared) {
    while let Some(jobs) = shared.watches.take(1) {
        for WatchJob { connection, number, key, state } in jobs {
            shared.engine.watch(key, &state);
            connection.watch_begun(number);
        }
    }
}

/// Accepts until the waker is closed, and lets old snapshots go meanwhile.
fn accept(shared: &Arc<Shared>, listener: &UnixListener, wake: &UnixStream) {
    let as_timespec = |time: Duration| Timespec::try_from(time).ok();
    while !shared.is_stopping() {
        let mut fds = [PollFd::new(wake, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        // An interrupted wait is as good as one that is over.
        let _ = poll(&mut fds, as_timespec(SWEEP_INTERVAL).as_ref());
        let has_caller = !fds[1].revents().is_empty();
        let connections: Vec<Arc<Connection>> = locked(&shared.connections).values().cloned().collect();
        connections.iter().for_each(|connection| connection.drop_old_snapshots());
        if !has_caller || shared.is_stopping() {
            continue;
        }
        match listener.accept() {
            Ok((stream, _)) => welcome(shared, stream),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                let _ = poll(&mut [PollFd::new(wake, PollFlags::IN)], as_timespec(ACCEPT_PAUSE).as_ref());
            }
        }
    }
}

/// Gives the connection a thread, or refuses it.
fn welcome(shared: &Arc<Shared>, mut stream: UnixStream) {
    let mut threads = locked(&shared.threads);
    threads.retain(|thread| !thread.is_finished());
    if shared.open.load(Ordering::SeqCst) >= CONNECTIONS_MAX {
        tracing::warn!("a connection was refused: there are {CONNECTIONS_MAX}");
        // A fresh socket takes these few bytes without waiting; who has gone by then needs none.
        let _ = stream.write_all(&hello(shared, Verdict::TooMany));
        return;
    }
    shared.open.fetch_add(1, Ordering::SeqCst);
    let for_thread = shared.clone();
    let run = move || {
        greet(&for_thread, stream);
        for_thread.open.fetch_sub(1, Ordering::SeqCst);
    };
    match std::thread::Builder::new().name("store-client".into()).spawn(run) {
        Ok(thread) => threads.push(thread),
        Err(error) => {
            shared.open.fetch_sub(1, Ordering::SeqCst);
            tracing::warn!(%error, "no thread for a connection");
        }
    }
}

fn hello(shared: &Shared, verdict: Verdict) -> Vec<u8> {
    ServerHello { version: PROTOCOL_VERSION, verdict, instance: shared.instance }.encode().to_vec()
}

/// Says hello, and serves the connection to its end.
fn greet(shared: &Arc<Shared>, stream: UnixStream) {
    let session = match introduced(shared, &stream) {
        Ok(session) => session,
        // Anybody can cause it: nothing to log above debug.
        Err(reason) => return tracing::debug!(reason, "a connection was refused"),
    };
    let connection = Arc::new(Connection::new(stream, session));
    {
        let mut connections = locked(&shared.connections);
        if shared.is_stopping() || connections.contains_key(&session) {
            return;
        }
        connections.insert(session, connection.clone());
    }
    shared.counters.connections.fetch_add(1, Ordering::Relaxed);
    // Only now may the client believe that its session is known.
    if connection.stream().write_all(&hello(shared, Verdict::Accepted)).is_ok() {
        let ending = connection.serve(shared);
        if let Ending::Fault(reason) = ending {
            tracing::debug!(reason, "a client was cut off");
        }
    }
    connection.leave(shared);
}

fn introduced(shared: &Shared, mut stream: &UnixStream) -> Result<Session, String> {
    let peer = rustix::net::sockopt::socket_peercred(stream).map_err(|e| e.to_string())?;
    if peer.uid != rustix::process::geteuid() && !peer.uid.is_root() {
        return Err(format!("user {} is neither ours nor root", peer.uid.as_raw()));
    }
    stream.set_read_timeout(Some(HELLO_TIMEOUT)).map_err(|e| e.to_string())?;
    let mut bytes = [0; CLIENT_HELLO_BYTES];
    stream.read_exact(&mut bytes).map_err(|e| e.to_string())?;
    let client = ClientHello::decode(&bytes).map_err(|e| format!("the hello {e}"))?;
    if client.version != PROTOCOL_VERSION {
        // Both sides know then: this is for the client's user to solve.
        let _ = stream.write_all(&hello(shared, Verdict::OtherVersion));
        return Err(format!("it speaks version {} of the protocol", client.version));
    }
    stream.set_read_timeout(None).map_err(|e| e.to_string())?;
    Ok(client.session)
}
