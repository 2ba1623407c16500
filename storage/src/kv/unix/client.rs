//! The client's end: one connection per database handle, shared by all its threads.
//!
//! Requests carry numbers, so that many are in flight at once; a thread of the connection's own gives each answer to the
//! thread that waits for it.
//!
//! **A commit whose connection breaks** may have happened or not, or may be about to happen. [`Error::CommitUnknownResult`]
//! promises that the last is over, so it is given only when one of these is certain:
//! - the server, over a new connection, has ended the old one and seen its last commit through (`EndSession`);
//! - another server answers at the socket: it could lock the socket's lock file, so the old one has let go of it, which it
//!   does only by dying or after the last commit;
//! - nobody holds that lock.
//!
//! Until then the commit waits, without a limit: while the server hangs nothing of this can be told, and a caller that were
//! told "unknown" too early could find its commit undone and see it happen afterwards.

use super::protocol::{
    Answer, ClientHello, Instance, PROTOCOL_VERSION, Request, SERVER_HELLO_BYTES, ServerHello, Session, Verdict,
    check_items, read_message,
};
use super::socket::{connect, is_dead, sign_of_life};
use super::{COMMIT_BYTES_IN_FLIGHT_MAX, COMMITS_IN_FLIGHT_MAX};
use crate::error::Error;
use crate::kv::faults::Faults;
use crate::kv::operation::{CommitRequest, Committed, Pair, key_behind};
use crate::kv::watch::{WatchLink, WatchState};
use crate::sync::locked;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// How long a read may take, a connection that has to be made again included.
const DEADLINE: Duration = Duration::from_secs(5);
/// The pauses between two attempts to connect, doubling.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// So many snapshots may have been dropped before the server is told; usually the next request tells it.
const RELEASES_MAX: usize = 64;
/// How often a commit is sent anew because the connection was lost before anything of it was written.
const SENDS_MAX: usize = 8;
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// A store in another process.
#[derive(Debug)]
pub(in crate::kv) struct RemoteStore {
    path: PathBuf,
    deadline: Duration,
    link: Mutex<Arc<Connection>>,
    /// What goes wrong on this handle alone.
    pub(in crate::kv) faults: Faults,
}

/// The store at one version, held by the server.
#[derive(Debug)]
pub(in crate::kv) struct RemoteSnapshot {
    store: Arc<RemoteStore>,
    version: u64,
    pin: Mutex<Pin>,
}

/// Where a snapshot is held, and under which number.
#[derive(Debug, Clone)]
struct Pin {
    connection: Arc<Connection>,
    number: u64,
}

/// What a store server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// The URL of the store that it owns.
    pub store: String,
    /// Its process id.
    pub process: u32,
    /// The version of its program, and that of the protocol.
    pub version: String,
}

/// Asks the store server at `socket` what it serves.
///
/// # Errors
/// [`Error::Unavailable`] when none answers.
pub fn server_facts(socket: &Path) -> Result<ServerFacts, Error> {
    let store = RemoteStore::open(socket)?;
    match store.ask(&Request::Facts)? {
        Answer::Facts(facts) => {
            Ok(ServerFacts { store: facts.store, process: facts.process, version: facts.program_version })
        }
        other => Err(unexpected(&other)),
    }
}

impl RemoteStore {
    /// Connects; one attempt, so that a server that is not there is told of at once.
    pub(in crate::kv) fn open(path: &Path) -> Result<Arc<Self>, Error> {
        Self::open_with(path, DEADLINE)
    }

    /// The same with another limit for reads.
    pub(super) fn open_with(path: &Path, deadline: Duration) -> Result<Arc<Self>, Error> {
        let connection = Connection::open(path, deadline)?;
        Ok(Arc::new(RemoteStore {
            path: path.to_owned(),
            deadline,
            link: Mutex::new(connection),
            faults: Faults::default(),
        }))
    }

    /// The newest version.
    pub(in crate::kv) fn snapshot(self: &Arc<Self>) -> Result<RemoteSnapshot, Error> {
        self.faults.on_read()?;
        self.pinned(&Request::Begin)
    }

    /// The store as it was at `version`, if somebody still holds it.
    pub(in crate::kv) fn snapshot_at(self: &Arc<Self>, version: u64) -> Result<RemoteSnapshot, Error> {
        self.pinned(&Request::BeginAt { version })
    }

    fn pinned(self: &Arc<Self>, request: &Request) -> Result<RemoteSnapshot, Error> {
        let deadline = Instant::now() + self.deadline;
        let (pin, version) = self.again(deadline, |connection| connection.pin(request, deadline))?;
        Ok(RemoteSnapshot { store: self.clone(), version, pin: Mutex::new(pin) })
    }

    /// Asks something that may be asked twice.
    fn ask(&self, request: &Request) -> Result<Answer, Error> {
        let deadline = Instant::now() + self.deadline;
        self.again(deadline, |connection| connection.ask(request, Some(deadline)))
    }

    /// Does `attempt`, and once more on a new connection when the first was lost.
    fn again<T>(
        &self,
        deadline: Instant,
        mut attempt: impl FnMut(&Arc<Connection>) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        match attempt(&self.connection(deadline)?) {
            Err(Failure::Lost(_)) => attempt(&self.connection(deadline)?),
            other => other,
        }
        .map_err(|failure| failure.into_error(&self.path))
    }

    /// The connection, made anew if it was lost. At least one attempt is made, whatever the deadline.
    fn connection(&self, deadline: Instant) -> Result<Arc<Connection>, Error> {
        let mut link = locked(&self.link);
        let mut pause = PAUSE_MIN;
        while link.is_lost() {
            let left = deadline.saturating_duration_since(Instant::now());
            match Connection::open(&self.path, left.max(PAUSE_MAX)) {
                Ok(connection) => *link = connection,
                Err(error) if left <= pause => return Err(error),
                Err(_) => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
        Ok(link.clone())
    }

    /// Decides on a transaction that read `snapshot`. Never given up: what is known about it is certain when this returns.
    ///
    /// # Errors
    /// [`Error::CommitUnknownResult`] when the connection broke; the commit is not in flight any more.
    /// [`Error::Unavailable`] when it could not be sent: it has not happened.
    pub(in crate::kv) fn commit(&self, snapshot: &RemoteSnapshot, request: CommitRequest) -> Result<Committed, Error> {
        check_items(&request)?;
        let request = Request::Commit(request);
        let instance = locked(&snapshot.pin).connection.instance;
        self.faults.around_commit(|| {
            for _ in 0..SENDS_MAX {
                let connection = self.connection(Instant::now() + self.deadline)?;
                if connection.instance != instance {
                    // Another server knows nothing of what was read: of a `mem:` store it does not even have it.
                    return Err(Error::TooOld);
                }
                match connection.commit(&request) {
                    Ok(Answer::Committed(committed)) => return Ok(committed),
                    Ok(Answer::Failed(error)) => return Err(error),
                    Ok(other) => return Err(unexpected(&other)),
                    Err(CommitFailure::Unsent) => {}
                    Err(CommitFailure::Refused(error)) => return Err(error),
                    Err(CommitFailure::Unknown) => {
                        self.settle(&connection);
                        return Err(Error::CommitUnknownResult);
                    }
                }
            }
            let place = self.path.display();
            Err(Error::Unavailable(format!("the store server at {place} hangs up on every connection")))
        })
    }

    /// Returns when no commit of `lost` is in flight any more: see the head of this file.
    fn settle(&self, lost: &Connection) {
        let mut settled = locked(&lost.settled);
        let mut pause = PAUSE_MIN;
        while !*settled {
            *settled = match self.connection(Instant::now()) {
                Ok(connection) if connection.instance != lost.instance => true,
                Ok(connection) => {
                    let end = Request::EndSession { session: lost.session };
                    matches!(connection.ask(&end, None), Ok(Answer::Done))
                }
                Err(_) => lost.sign_of_life.as_ref().is_some_and(is_dead),
            };
            if !*settled {
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }

    /// Begins a watch. One that can't begin says so to whoever waits for it: the transaction is committed by now.
    pub(in crate::kv) fn watch(&self, key: Vec<u8>, state: &Arc<WatchState>) {
        match self.connection(Instant::now() + self.deadline) {
            Ok(connection) => connection.watch(key, state),
            Err(error) => state.fire(Err(error.chain())),
        }
    }

    /// Breaks the connection, as a fault.
    pub(in crate::kv) fn break_connection(&self) {
        // If it is broken already there is nothing to break.
        let _ = locked(&self.link).stream.shutdown(Shutdown::Both);
    }
}

impl Drop for RemoteStore {
    fn drop(&mut self) {
        locked(&self.link).lose("the handle was closed");
    }
}

impl RemoteSnapshot {
    pub(in crate::kv) fn version(&self) -> u64 {
        self.version
    }

    pub(in crate::kv) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match self.ask(|snapshot| Request::Get { snapshot, key: key.to_owned() })? {
            Answer::Value(value) => Ok(value),
            other => Err(unexpected(&other)),
        }
    }

    /// Up to `limit` pairs of `begin..end`; fewer only when there are no more.
    pub(in crate::kv) fn range(
        &self,
        begin: &[u8],
        end: &[u8],
        limit: usize,
        reverse: bool,
    ) -> Result<Vec<Pair>, Error> {
        let (mut begin, mut end) = (begin.to_owned(), end.to_owned());
        let mut found: Vec<Pair> = Vec::new();
        loop {
            let left = (limit - found.len()) as u64;
            let request =
                |snapshot| Request::Range { snapshot, begin: begin.clone(), end: end.clone(), limit: left, reverse };
            match self.ask(request)? {
                Answer::Pairs { pairs, more } => {
                    let is_empty = pairs.is_empty();
                    found.extend(pairs);
                    // A server that promises more and gives nothing would be asked for ever.
                    if !more || is_empty || found.len() >= limit {
                        found.truncate(limit);
                        return Ok(found);
                    }
                }
                other => return Err(unexpected(&other)),
            }
            if let Some((last, _)) = found.last() {
                if reverse {
                    end.clone_from(last);
                } else {
                    begin = key_behind(last);
                }
            }
        }
    }

    /// Asks the server that holds the snapshot. After a lost connection the snapshot is taken again, at the same version
    /// and of the same server; if nobody there holds that version any more, the transaction is too old.
    fn ask(&self, request: impl Fn(u64) -> Request) -> Result<Answer, Error> {
        let deadline = Instant::now() + self.store.deadline;
        let path = &self.store.path;
        let pin = locked(&self.pin).clone();
        match pin.connection.ask(&request(pin.number), Some(deadline)) {
            Err(Failure::Lost(_)) => {}
            other => return other.map_err(|failure| failure.into_error(path)),
        }
        let connection = self.store.connection(deadline)?;
        if connection.instance != pin.connection.instance {
            return Err(Error::TooOld);
        }
        let pinned = connection.pin(&Request::BeginAt { version: self.version }, deadline);
        let (pin, _) = pinned.map_err(|failure| failure.into_error(path))?;
        let before = std::mem::replace(&mut *locked(&self.pin), pin.clone());
        before.connection.release(before.number);
        pin.connection.ask(&request(pin.number), Some(deadline)).map_err(|failure| failure.into_error(path))
    }
}

impl Drop for RemoteSnapshot {
    fn drop(&mut self) {
        let pin = locked(&self.pin);
        pin.connection.release(pin.number);
    }
}

/// The server's end of a watch. Dropped, the server forgets the watch.
#[derive(Debug)]
pub(in crate::kv) struct RemoteWatch {
    connection: Weak<Connection>,
    watch: u64,
}

impl Drop for RemoteWatch {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.upgrade() {
            connection.unwatch(self.watch);
        }
    }
}

/// Why a request has no answer.
enum Failure {
    Lost(String),
    LateBy(Duration),
    Refused(Error),
}

impl Failure {
    fn into_error(self, path: &Path) -> Error {
        let place = path.display();
        match self {
            Failure::Lost(reason) => Error::Unavailable(format!("the store server at {place} is lost: {reason}")),
            Failure::LateBy(limit) => {
                Error::Unavailable(format!("the store server at {place} has not answered in {limit:?}"))
            }
            Failure::Refused(error) => error,
        }
    }
}

/// Why a commit has no answer.
enum CommitFailure {
    /// Nothing of it was sent.
    Unsent,
    /// It never will be.
    Refused(Error),
    /// It may have been sent.
    Unknown,
}

fn unexpected(answer: &Answer) -> Error {
    Error::Unavailable(format!("the store server gave an answer that does not fit: {answer:?}"))
}

/// One connection. Once lost it stays lost.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    session: Session,
    instance: Instance,
    /// The server's lock file.
    sign_of_life: Option<File>,
    /// Held while a message is written.
    writing: Mutex<()>,
    state: Mutex<State>,
    /// Tells that a commit was answered.
    answered: Condvar,
    /// Whether it is certain that no commit of the lost connection is in flight. Held by the thread that finds out.
    settled: Mutex<bool>,
}

#[derive(Debug, Default)]
struct State {
    next_number: u64,
    waiting: BTreeMap<u64, Arc<Slot>>,
    watches: BTreeMap<u64, Weak<WatchState>>,
    /// Snapshots and watches that were dropped, of which the server has not been told.
    released: Vec<Request>,
    commits: usize,
    commit_bytes: usize,
    lost: Option<String>,
}

/// Where one thread waits for one answer.
#[derive(Debug, Default)]
struct Slot {
    answer: Mutex<Option<Result<Answer, String>>>,
    ready: Condvar,
}

impl Slot {
    fn put(&self, answer: Result<Answer, String>) {
        *locked(&self.answer) = Some(answer);
        self.ready.notify_one();
    }

    /// `None` when the deadline went by.
    fn wait(&self, deadline: Option<Instant>) -> Option<Result<Answer, String>> {
        let mut answer = locked(&self.answer);
        loop {
            if let Some(answer) = answer.take() {
                return Some(answer);
            }
            answer = match deadline {
                None => self.ready.wait(answer).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.ready.wait_timeout(answer, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

impl Connection {
    fn open(path: &Path, timeout: Duration) -> Result<Arc<Self>, Error> {
        let place = path.display();
        let refused = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::Unavailable(format!(
                "no store server is at {place}: start one with `vsekai-supervisor store --store local:DIR --socket {place}`"
            )),
            _ => Error::io("connect to the store server at", path, e),
        };
        let mut stream = connect(path, timeout).map_err(refused)?;
        // It lives: it has not said hello yet, and will have done so after this.
        let sign_of_life = sign_of_life(path);
        let session = Uuid::new_v4().into_bytes();
        let silent = |e: io::Error| {
            let reason =
                if e.kind() == io::ErrorKind::WouldBlock { "it seems to hang".to_owned() } else { e.to_string() };
            Error::Unavailable(format!("the store server at {place} does not say hello: {reason}"))
        };
        let hello = ClientHello { version: PROTOCOL_VERSION, session };
        // One that refuses without listening has hung up by now, but its answer is there to be read.
        let said = stream.write_all(&hello.encode());
        let mut bytes = [0; SERVER_HELLO_BYTES];
        stream.read_exact(&mut bytes).map_err(|e| silent(said.err().unwrap_or(e)))?;
        let hello = ServerHello::decode(&bytes)
            .map_err(|e| Error::Unavailable(format!("what answers at {place} is no store server: its hello {e}")))?;
        match hello.verdict {
            Verdict::Accepted if hello.version == PROTOCOL_VERSION => {}
            Verdict::Accepted | Verdict::OtherVersion => {
                return Err(Error::Unavailable(format!(
                    "the store server at {place} speaks version {} of the protocol, this program version \
                     {PROTOCOL_VERSION}: update the older one",
                    hello.version
                )));
            }
            Verdict::TooMany => {
                return Err(Error::Unavailable(format!("the store server at {place} has no room for another client")));
            }
        }
        // From here on a thread reads whenever something comes.
        stream.set_read_timeout(None).map_err(silent)?;
        stream.set_write_timeout(Some(DEADLINE)).map_err(silent)?;
        let connection = Arc::new(Connection {
            stream,
            session,
            instance: hello.instance,
            sign_of_life,
            writing: Mutex::new(()),
            state: Mutex::default(),
            answered: Condvar::new(),
            settled: Mutex::new(false),
        });
        let for_thread = connection.clone();
        let reader = std::thread::Builder::new().name("store-answers".into());
        reader.spawn(move || for_thread.read_answers()).map_err(|e| Error::io("read from", path, e))?;
        Ok(connection)
    }

    fn is_lost(&self) -> bool {
        locked(&self.state).lost.is_some()
    }

    fn read_answers(&self) {
        let mut stream = BufReader::with_capacity(RECEIVE_BUFFER_BYTES, &self.stream);
        let mut message = Vec::new();
        let reason = loop {
            match read_message(&mut stream, &mut message) {
                Ok(true) => {}
                Ok(false) => break "it hung up".to_owned(),
                Err(error) => break error.to_string(),
            }
            match Answer::decode(&message) {
                Ok((number, answer)) => self.deliver(number, answer),
                Err(error) => break format!("an answer {error}"),
            }
        };
        self.lose(&reason);
    }

    /// An answer that nobody waits for any more is dropped.
    fn deliver(&self, number: u64, answer: Answer) {
        if let Answer::Fired(outcome) = answer {
            let watch = locked(&self.state).watches.remove(&number);
            if let Some(watch) = watch.and_then(|watch| watch.upgrade()) {
                watch.fire(outcome);
            }
        } else {
            let slot = locked(&self.state).waiting.remove(&number);
            if let Some(slot) = slot {
                slot.put(Ok(answer));
            }
        }
    }

    /// Tells everybody who waits that no answer will come.
    fn lose(&self, reason: &str) {
        let (waiting, watches) = {
            let mut state = locked(&self.state);
            state.lost.get_or_insert_with(|| reason.to_owned());
            (std::mem::take(&mut state.waiting), std::mem::take(&mut state.watches))
        };
        // The server must see the end, too. It may be over already.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.answered.notify_all();
        waiting.values().for_each(|slot| slot.put(Err(reason.to_owned())));
        for watch in watches.values().filter_map(Weak::upgrade) {
            watch.fire(Err(format!("the connection to the store server was lost: {reason}")));
        }
    }

    /// Sends the request and waits for its answer.
    fn ask(&self, request: &Request, deadline: Option<Instant>) -> Result<Answer, Failure> {
        let began = Instant::now();
        let (number, slot) = self.send(request)?;
        match slot.wait(deadline) {
            Some(Ok(Answer::Failed(error))) => Err(Failure::Refused(error)),
            Some(Ok(answer)) => Ok(answer),
            Some(Err(reason)) => Err(Failure::Lost(reason)),
            None => {
                locked(&self.state).waiting.remove(&number);
                Err(Failure::LateBy(began.elapsed()))
            }
        }
    }

    fn pin(self: &Arc<Self>, request: &Request, deadline: Instant) -> Result<(Pin, u64), Failure> {
        let (number, slot) = self.send(request)?;
        match slot.wait(Some(deadline)) {
            Some(Ok(Answer::Version(version))) => Ok((Pin { connection: self.clone(), number }, version)),
            Some(Ok(Answer::Failed(error))) => Err(Failure::Refused(error)),
            Some(Ok(other)) => Err(Failure::Refused(unexpected(&other))),
            Some(Err(reason)) => Err(Failure::Lost(reason)),
            None => {
                locked(&self.state).waiting.remove(&number);
                self.release(number);
                Err(Failure::LateBy(DEADLINE))
            }
        }
    }

    fn send(&self, request: &Request) -> Result<(u64, Arc<Slot>), Failure> {
        let slot = Arc::new(Slot::default());
        let (number, messages) = {
            let mut state = locked(&self.state);
            if let Some(reason) = &state.lost {
                return Err(Failure::Lost(reason.clone()));
            }
            let number = state.number();
            let messages = state.messages(number, request).map_err(Failure::Refused)?;
            state.waiting.insert(number, slot.clone());
            (number, messages)
        };
        self.write(&messages);
        Ok((number, slot))
    }

    /// Whatever could not be written is lost, and whoever waits for its answer is told.
    fn write(&self, messages: &[u8]) {
        let writing = locked(&self.writing);
        let written = (&self.stream).write_all(messages);
        drop(writing);
        if let Err(error) = written {
            self.lose(&error.to_string());
        }
    }

    fn commit(&self, request: &Request) -> Result<Answer, CommitFailure> {
        let slot = Arc::new(Slot::default());
        // Encoded without a lock; the number stands in it at a fixed place.
        let mut message = request.encode(0).map_err(CommitFailure::Refused)?;
        let bytes = message.len();
        let messages = {
            let mut state = locked(&self.state);
            // The server would stop reading, reads of other threads included: better to wait here.
            while state.lost.is_none() && !state.has_room(bytes) {
                state = self.answered.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.lost.is_some() {
                return Err(CommitFailure::Unsent);
            }
            let number = state.number();
            message[4..12].copy_from_slice(&number.to_le_bytes());
            let mut messages = state.take_released();
            messages.append(&mut message);
            state.waiting.insert(number, slot.clone());
            state.commits += 1;
            state.commit_bytes += bytes;
            messages
        };
        self.write(&messages);
        drop(messages);
        // Without a deadline: a commit that was given up could still happen.
        let answer = slot.wait(None);
        let mut state = locked(&self.state);
        state.commits -= 1;
        state.commit_bytes -= bytes;
        drop(state);
        self.answered.notify_all();
        match answer {
            Some(Ok(answer)) => Ok(answer),
            _ => Err(CommitFailure::Unknown),
        }
    }

    /// Returns when the server watches, or when that can't be told.
    fn watch(self: &Arc<Self>, key: Vec<u8>, watch: &Arc<WatchState>) {
        let request = Request::Watch { key, value: watch.value().map(<[u8]>::to_vec) };
        let slot = Arc::new(Slot::default());
        let begun = {
            let mut state = locked(&self.state);
            match state.lost.clone() {
                Some(reason) => Err(reason),
                None => {
                    let number = state.number();
                    state.waiting.insert(number, slot.clone());
                    state.watches.insert(number, Arc::downgrade(watch));
                    state.messages(number, &request).map(|messages| (number, messages)).map_err(|error| error.chain())
                }
            }
        };
        match begun {
            Ok((number, messages)) => {
                self.write(&messages);
                watch.link(WatchLink::ToServer(RemoteWatch { connection: Arc::downgrade(self), watch: number }));
                // What goes wrong now, the watch itself is told of.
                let _ = slot.wait(Some(Instant::now() + DEADLINE));
            }
            Err(reason) => watch.fire(Err(reason)),
        }
    }

    fn unwatch(&self, watch: u64) {
        let mut state = locked(&self.state);
        // One that has fired is forgotten already.
        let is_known = state.watches.remove(&watch).is_some();
        if is_known {
            state.released.push(Request::Unwatch { watch });
        }
        self.tell_released(state);
    }

    fn release(&self, snapshot: u64) {
        let mut state = locked(&self.state);
        state.released.push(Request::Release { snapshot });
        self.tell_released(state);
    }

    /// Tells the server of what was dropped, if it is much: otherwise the next request does.
    fn tell_released(&self, mut state: std::sync::MutexGuard<'_, State>) {
        if state.lost.is_some() {
            state.released.clear();
        } else if state.released.len() >= RELEASES_MAX {
            let messages = state.take_released();
            drop(state);
            self.write(&messages);
        }
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn has_room(&self, bytes: usize) -> bool {
        let fits = self.commit_bytes.saturating_add(bytes) <= COMMIT_BYTES_IN_FLIGHT_MAX;
        self.commits == 0 || (self.commits < COMMITS_IN_FLIGHT_MAX && fits)
    }

    /// The request, behind what is yet to be told.
    fn messages(&mut self, number: u64, request: &Request) -> Result<Vec<u8>, Error> {
        let mut message = request.encode(number)?;
        let mut messages = self.take_released();
        messages.append(&mut message);
        Ok(messages)
    }

    fn take_released(&mut self) -> Vec<u8> {
        // These are a few bytes each: none is too long.
        self.released.drain(..).filter_map(|request| request.encode(0).ok()).flatten().collect()
    }
}
