//! One client, as the server sees it: its snapshots, its watches, its commits in flight, and what waits to be sent to it.
//!
//! Nothing that a client does or leaves undone costs more than its own connection: everything held for it is bounded, and
//! only its own two threads ever wait for it.

use super::protocol::{Answer, Facts, PROTOCOL_VERSION, RANGE_BYTES_MAX, Request, Session, check_commit, read_message};
use super::server::{CommitJob, Shared, WatchJob};
use super::{COMMIT_BYTES_IN_FLIGHT_MAX, COMMITS_IN_FLIGHT_MAX};
use crate::error::Error;
use crate::kv::engine::{Snapshot, TRANSACTION_AGE_MAX};
use crate::kv::operation::{CommitRequest, Committed, Pair, check_bound, check_key, key_behind};
use crate::kv::watch::{WATCHES_MAX, WatchLink, WatchState};
use crate::sync::locked;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::collections::BTreeMap;
use std::io::BufReader;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Most snapshots of one connection. Beyond it a client is told to try again.
const SNAPSHOTS_MAX: usize = 4_096;
/// With more than this unsent, no more requests are read.
const UNSENT_BYTES_MAX: usize = 1 << 20;
/// Pairs asked of the engine at a time, so that 100 kB values don't add up before anybody looks.
const RANGE_BATCH: usize = 128;
/// Most requests that wait for one connection to end. One client has one.
const ENDINGS_MAX: usize = 64;
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// Why a connection is over.
#[derive(Debug)]
pub(super) enum Ending {
    /// The client hung up, or the server did.
    HungUp,
    /// The client sent what no client of this protocol sends.
    Fault(String),
}

/// One client.
#[derive(Debug)]
pub(super) struct Connection {
    stream: UnixStream,
    session: Session,
    snapshots: Mutex<BTreeMap<u64, Pinned>>,
    watches: Mutex<BTreeMap<u64, Arc<WatchState>>>,
    flight: Mutex<Flight>,
    /// Tells that a commit has landed, or that no more may start.
    landed: Condvar,
    outgoing: Mutex<Outgoing>,
    /// Tells that there is something to send, that something was sent, or that nothing will be.
    moved: Condvar,
}

#[derive(Debug)]
struct Pinned {
    snapshot: Arc<Snapshot>,
    at: Instant,
}

/// Commits that the engine has not answered.
#[derive(Debug, Default)]
struct Flight {
    commits: usize,
    bytes: usize,
    /// No commit starts any more.
    ended: bool,
    /// Who asked to be told when there are none: connections, and the numbers of their requests.
    waiting: Vec<(Arc<Connection>, u64)>,
}

#[derive(Debug, Default)]
struct Outgoing {
    unsent: Vec<u8>,
    closed: bool,
    bytes_sent: u64,
}

/// Whether a commit may start.
enum Start {
    Go,
    Stopping,
    Ended,
}

/// The client that a watch of the engine belongs to.
#[derive(Debug)]
pub(in crate::kv) struct ClientWatch {
    connection: Weak<Connection>,
    watch: u64,
}

impl ClientWatch {
    /// Tells the client. Never waits for it.
    pub(in crate::kv) fn tell(&self, outcome: &Result<(), String>) {
        if let Some(connection) = self.connection.upgrade() {
            locked(&connection.watches).remove(&self.watch);
            connection.send(self.watch, &Answer::Fired(outcome.clone()));
        }
    }
}

impl Connection {
    pub(super) fn new(stream: UnixStream, session: Session) -> Self {
        Connection {
            stream,
            session,
            snapshots: Mutex::default(),
            watches: Mutex::default(),
            flight: Mutex::default(),
            landed: Condvar::new(),
            outgoing: Mutex::default(),
            moved: Condvar::new(),
        }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(super) fn snapshot_count(&self) -> usize {
        locked(&self.snapshots).len()
    }

    pub(super) fn watch_count(&self) -> usize {
        locked(&self.watches).len()
    }

    /// Answers requests until the connection is over. Commits may be in flight then: [`Self::leave`].
    pub(super) fn serve(self: &Arc<Self>, shared: &Shared) -> Ending {
        std::thread::scope(|scope| {
            let writer = std::thread::Builder::new().name("store-client-send".into());
            if let Err(error) = writer.spawn_scoped(scope, || self.send_what_waits()) {
                return Ending::Fault(format!("no thread to send with: {error}"));
            }
            let ending = self.read_requests(shared);
            self.hang_up();
            ending
        })
    }

    fn read_requests(self: &Arc<Self>, shared: &Shared) -> Ending {
        let mut stream = BufReader::with_capacity(RECEIVE_BUFFER_BYTES, &self.stream);
        let mut message = Vec::new();
        let mut bytes_sent = 0;
        loop {
            match read_message(&mut stream, &mut message) {
                Ok(true) => {}
                Ok(false) => return Ending::HungUp,
                Err(error) => return Ending::Fault(error.to_string()),
            }
            let counters = &shared.counters;
            counters.requests.fetch_add(1, Ordering::Relaxed);
            counters.bytes_received.fetch_add(message.len() as u64 + 4, Ordering::Relaxed);
            let (number, request) = match Request::decode(&message) {
                Ok(request) => request,
                Err(error) => return Ending::Fault(format!("a request {error}")),
            };
            if let Err(ending) = self.answer(shared, number, message.len(), request) {
                return ending;
            }
            let Some(sent) = self.wait_until_sent(UNSENT_BYTES_MAX) else { return Ending::HungUp };
            counters.bytes_sent.fetch_add(sent - bytes_sent, Ordering::Relaxed);
            bytes_sent = sent;
        }
    }

    fn answer(
        self: &Arc<Self>,
        shared: &Shared,
        number: u64,
        message_bytes: usize,
        request: Request,
    ) -> Result<(), Ending> {
        let answer = match request {
            Request::Begin => self.pin(number, || shared.engine.snapshot())?,
            Request::BeginAt { version } => self.pin(number, || shared.engine.snapshot_at(version))?,
            Request::Release { snapshot } => {
                locked(&self.snapshots).remove(&snapshot);
                return Ok(());
            }
            Request::Get { snapshot, key } => self.read(snapshot, |snapshot| {
                check_key(&key)?;
                Ok(Answer::Value(snapshot.get(&key)?))
            }),
            Request::Range { snapshot, begin, end, limit, reverse } => self.read(snapshot, |snapshot| {
                check_bound(&begin)?;
                check_bound(&end)?;
                let limit = usize::try_from(limit).unwrap_or(usize::MAX);
                let (pairs, more) = cut_range(snapshot, begin, end, limit, reverse)?;
                Ok(Answer::Pairs { pairs, more })
            }),
            Request::Commit(commit) => match self.commit(shared, number, message_bytes, commit)? {
                Some(refused) => Answer::Failed(refused),
                None => return Ok(()),
            },
            Request::Watch { key, value } => {
                self.watch(shared, number, key, value);
                return Ok(());
            }
            Request::Unwatch { watch } => {
                locked(&self.watches).remove(&watch);
                return Ok(());
            }
            Request::EndSession { session } => {
                self.end_session(shared, number, session);
                return Ok(());
            }
            Request::Ping => Answer::Done,
            Request::Facts => Answer::Facts(Facts {
                store: shared.store.clone(),
                process: std::process::id(),
                program_version: format!("{} (protocol {PROTOCOL_VERSION})", env!("CARGO_PKG_VERSION")),
            }),
        };
        self.send(number, &answer);
        Ok(())
    }

    fn pin(&self, number: u64, take: impl FnOnce() -> Result<Arc<Snapshot>, Error>) -> Result<Answer, Ending> {
        if locked(&self.snapshots).len() >= SNAPSHOTS_MAX {
            return Ok(Answer::Failed(Error::ProcessBehind));
        }
        let snapshot = match take() {
            Ok(snapshot) => snapshot,
            Err(error) => return Ok(Answer::Failed(error)),
        };
        let version = snapshot.version;
        match locked(&self.snapshots).insert(number, Pinned { snapshot, at: Instant::now() }) {
            None => Ok(Answer::Version(version)),
            Some(_) => Err(Ending::Fault("a request has the number of a snapshot".into())),
        }
    }

    fn read(&self, snapshot: u64, read: impl FnOnce(&Snapshot) -> Result<Answer, Error>) -> Answer {
        let found = locked(&self.snapshots).get(&snapshot).map(|pinned| pinned.snapshot.clone());
        // Unknown is one that was let go after its time.
        found.ok_or(Error::TooOld).and_then(|snapshot| read(&snapshot)).unwrap_or_else(Answer::Failed)
    }

    /// Lets go what no transaction may read any more.
    pub(super) fn drop_old_snapshots(&self) {
        let old: Vec<Pinned> = locked(&self.snapshots)
            .extract_if(.., |_, pinned| pinned.at.elapsed() > TRANSACTION_AGE_MAX)
            .map(|(_, old)| old)
            .collect();
        // Dropped outside of the lock: the store may have work with it.
        drop(old);
    }

    fn commit(
        self: &Arc<Self>,
        shared: &Shared,
        number: u64,
        bytes: usize,
        request: CommitRequest,
    ) -> Result<Option<Error>, Ending> {
        if let Err(error) = check_commit(&request) {
            return Ok(Some(error));
        }
        match self.start_commit(shared, bytes) {
            Start::Go => shared.commits.add(CommitJob { connection: self.clone(), number, bytes, request }),
            Start::Stopping => return Ok(Some(Error::Unavailable("the store server is stopping".into()))),
            Start::Ended => return Err(Ending::HungUp),
        }
        Ok(None)
    }

    fn start_commit(&self, shared: &Shared, bytes: usize) -> Start {
        let mut flight = locked(&self.flight);
        loop {
            if flight.ended {
                return Start::Ended;
            }
            // Looked at under the lock that `wait_until_landed` takes afterwards: it sees this commit, or this sees it.
            if shared.is_stopping() {
                return Start::Stopping;
            }
            let has_room = flight.commits < COMMITS_IN_FLIGHT_MAX
                && flight.bytes.saturating_add(bytes) <= COMMIT_BYTES_IN_FLIGHT_MAX;
            if flight.commits == 0 || has_room {
                flight.commits += 1;
                flight.bytes += bytes;
                return Start::Go;
            }
            flight = self.landed.wait(flight).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A commit has its answer.
    pub(super) fn land(&self, shared: &Shared, number: u64, bytes: usize, outcome: Result<Committed, Error>) {
        self.send(number, &outcome.map_or_else(Answer::Failed, Answer::Committed));
        let mut flight = locked(&self.flight);
        flight.commits -= 1;
        flight.bytes -= bytes;
        self.landed.notify_all();
        self.retire_if_over(shared, flight);
    }

    /// The connection's thread is done with it.
    pub(super) fn leave(&self, shared: &Shared) {
        self.hang_up();
        locked(&self.snapshots).clear();
        let watches = std::mem::take(&mut *locked(&self.watches));
        drop(watches);
        let mut flight = locked(&self.flight);
        flight.ended = true;
        self.retire_if_over(shared, flight);
    }

    fn retire_if_over(&self, shared: &Shared, mut flight: std::sync::MutexGuard<'_, Flight>) {
        if !flight.ended || flight.commits > 0 {
            return;
        }
        let waiting = std::mem::take(&mut flight.waiting);
        drop(flight);
        shared.retire(&self.session);
        for (connection, number) in waiting {
            connection.send(number, &Answer::Done);
        }
    }

    /// Answers once no commit of `session` is in flight and none can start. What of it was never read is never done.
    fn end_session(self: &Arc<Self>, shared: &Shared, number: u64, session: Session) {
        // A connection that can't be found has retired: it was known before its client was told that it is.
        if let Some(other) = shared.connection(&session).filter(|other| !Arc::ptr_eq(other, self)) {
            other.hang_up();
            let mut flight = locked(&other.flight);
            flight.ended = true;
            other.landed.notify_all();
            if flight.waiting.len() >= ENDINGS_MAX {
                drop(flight);
                return self.send(number, &Answer::Failed(Error::ProcessBehind));
            }
            if flight.commits > 0 {
                flight.waiting.push((self.clone(), number));
                return;
            }
        }
        self.send(number, &Answer::Done);
    }

    /// Waits until no commit is in flight; while the server is stopping none starts.
    pub(super) fn wait_until_landed(&self) {
        let mut flight = locked(&self.flight);
        self.landed.notify_all();
        while flight.commits > 0 {
            flight = self.landed.wait(flight).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn watch(self: &Arc<Self>, shared: &Shared, number: u64, key: Vec<u8>, value: Option<Vec<u8>>) {
        let link = WatchLink::ToClient(ClientWatch { connection: Arc::downgrade(self), watch: number });
        let state = Arc::new(WatchState::linked(value, link));
        let refused = match check_key(&key) {
            Err(error) => Some(error.chain()),
            Ok(()) if self.watch_count() >= WATCHES_MAX => Some(format!("there are {WATCHES_MAX} watches already")),
            Ok(()) => None,
        };
        if let Some(reason) = refused {
            state.fire(Err(reason));
            return self.watch_begun(number);
        }
        locked(&self.watches).insert(number, state.clone());
        shared.watches.add(WatchJob { connection: self.clone(), number, key, state });
    }

    /// Behind what the watch may have told already.
    pub(super) fn watch_begun(&self, number: u64) {
        self.send(number, &Answer::Done);
    }

    /// Sends what the socket takes at once and leaves the rest to the sending thread.
    fn send(&self, number: u64, answer: &Answer) {
        let message = answer.encode(number);
        let mut outgoing = locked(&self.outgoing);
        if outgoing.closed {
            return;
        }
        let sent = if outgoing.unsent.is_empty() { self.send_some(&mut outgoing, &message) } else { 0 };
        if sent < message.len() {
            outgoing.unsent.extend_from_slice(&message[sent..]);
            self.moved.notify_all();
        }
    }

    /// Never waits. An error ends the connection.
    fn send_some(&self, outgoing: &mut Outgoing, bytes: &[u8]) -> usize {
        match rustix::net::send(&self.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => {
                outgoing.bytes_sent += sent as u64;
                sent
            }
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => {
                outgoing.closed = true;
                // The reading thread finds the end, and does the rest.
                let _ = self.stream.shutdown(Shutdown::Both);
                self.moved.notify_all();
                0
            }
        }
    }

    fn send_what_waits(&self) {
        let mut outgoing = locked(&self.outgoing);
        loop {
            if outgoing.closed {
                return;
            }
            if outgoing.unsent.is_empty() {
                outgoing = self.moved.wait(outgoing).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(outgoing);
            // Over, too, when the stream is shut down. Whatever it is, the next attempt tells.
            let _ = poll(&mut [PollFd::new(&self.stream, PollFlags::OUT)], None);
            outgoing = locked(&self.outgoing);
            let unsent = std::mem::take(&mut outgoing.unsent);
            let sent = self.send_some(&mut outgoing, &unsent);
            outgoing.unsent = unsent;
            outgoing.unsent.drain(..sent);
            self.moved.notify_all();
        }
    }

    /// Waits until no more than `most` bytes are unsent; then how many were sent ever. `None` when the connection is over.
    fn wait_until_sent(&self, most: usize) -> Option<u64> {
        let mut outgoing = locked(&self.outgoing);
        while !outgoing.closed && outgoing.unsent.len() > most {
            outgoing = self.moved.wait(outgoing).unwrap_or_else(PoisonError::into_inner);
        }
        (!outgoing.closed).then_some(outgoing.bytes_sent)
    }

    /// Waits so long for the client to take its last answers.
    pub(super) fn flush_within(&self, patience: Duration) {
        let outgoing = locked(&self.outgoing);
        let is_waiting = |outgoing: &mut Outgoing| !outgoing.closed && !outgoing.unsent.is_empty();
        drop(self.moved.wait_timeout_while(outgoing, patience, is_waiting));
    }

    /// Ends reading and sending, from whichever thread.
    pub(super) fn hang_up(&self) {
        locked(&self.outgoing).closed = true;
        self.moved.notify_all();
        // It may be over already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// The pairs from one end of `begin..end` on, and whether there may be more.
fn cut_range(
    snapshot: &Snapshot,
    mut begin: Vec<u8>,
    mut end: Vec<u8>,
    limit: usize,
    reverse: bool,
) -> Result<(Vec<Pair>, bool), Error> {
    let (mut pairs, mut bytes) = (Vec::new(), 0);
    while begin < end && pairs.len() < limit {
        let wanted = (limit - pairs.len()).min(RANGE_BATCH);
        let batch = snapshot.range(&begin, &end, wanted, reverse)?;
        let is_last = batch.len() < wanted;
        if let Some((last, _)) = batch.last() {
            if reverse {
                end.clone_from(last);
            } else {
                begin = key_behind(last);
            }
        }
        for pair in batch {
            if bytes >= RANGE_BYTES_MAX {
                return Ok((pairs, true));
            }
            bytes += pair.0.len() + pair.1.len();
            pairs.push(pair);
        }
        if is_last {
            return Ok((pairs, false));
        }
        if bytes >= RANGE_BYTES_MAX {
            return Ok((pairs, true));
        }
    }
    Ok((pairs, false))
}
