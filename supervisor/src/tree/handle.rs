//! The tree in service: one thread owns machine and store, everybody else has a [`TreeHandle`].
//!
//! Commands that wait together are committed together, with one sync; a reply is given only once its command is durable.
//! Reads are answered by the same thread between commits: they see what is durable, and every write that was answered.
//!
//! A watcher holds a cursor and nothing else: the changes lie once, in the change log. One that is too slow finds its
//! cursor compacted and is told so.

use super::change_log::Batch;
use super::command::{At, Command, Effect, Operation, Reply, Transaction, Write};
use super::error::{StoreError, TreeError};
use super::limits::Limits;
use super::machine::Machine;
use super::path::Pattern;
use super::store::{COMMIT_BYTES, TreeStore, bytes_of};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tracing::{debug, error, info};
use vsekai_storage::kv::Database;

/// Most commands that are made durable together.
const GROUP_MAX: usize = 256;
/// As long as the thread waits for requests when nothing is due.
const IDLE: Duration = Duration::from_secs(3600);

type Answer<T> = oneshot::Sender<Result<T, TreeError>>;
type Query = Box<dyn FnOnce(Result<&Machine, TreeError>) + Send>;

enum Request {
    Command(Box<Command>, Answer<Reply>),
    Query(Query),
    Close,
}

/// The tree, shared by all clones. The last to go closes it.
#[derive(Clone)]
pub struct TreeHandle(Arc<Shared>);

struct Shared {
    limits: Limits,
    requests: Option<SyncSender<Request>>,
    revision: watch::Receiver<u64>,
    watchers: Arc<Semaphore>,
    /// Exports and imports hold the whole tree in memory once more.
    bulk: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.requests = None;
        self.join();
    }
}

impl Shared {
    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            error!("the state tree's thread has panicked");
        }
    }
}

impl std::fmt::Debug for TreeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TreeHandle").field("revision", &*self.0.revision.borrow()).finish_non_exhaustive()
    }
}

impl TreeHandle {
    /// Opens the tree that lies in the store, made when missing. Sessions get their whole time anew: while the tree was
    /// closed nobody could renew them.
    ///
    /// # Errors
    /// When the store fails, or what is in it is damaged.
    pub fn open(database: Database, limits: Limits) -> Result<TreeHandle, StoreError> {
        let (store, machine) = TreeStore::load(database, limits)?;
        let facts = machine.facts();
        info!(revision = facts.revision, nodes = facts.node_count, sessions = facts.session_count, "state tree open");
        let (requests, waiting) = sync_channel(limits.queue_max);
        let (told, revision) = watch::channel(facts.revision);
        let mut owner = Owner { machine, store, clock: Clock::start(), told, failed: None };
        if facts.session_count > 0 {
            owner.serve(vec![(Command::RenewAllSessions, None)]);
        }
        let thread = std::thread::Builder::new()
            .name("tree".into())
            .spawn(move || owner.run(&waiting))
            .map_err(StoreError::Thread)?;
        Ok(TreeHandle(Arc::new(Shared {
            limits,
            requests: Some(requests),
            revision,
            watchers: Arc::new(Semaphore::new(limits.watchers_max)),
            bulk: Arc::new(Semaphore::new(1)),
            thread: Mutex::new(Some(thread)),
        })))
    }

    /// The bounds.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Has a command applied. The answer comes once it is durable.
    ///
    /// # Errors
    /// When it is refused, too much waits, or the tree has stopped.
    pub async fn apply(&self, command: Command) -> Result<Reply, TreeError> {
        self.send_command(command)?.await.map_err(|_| stopped())?
    }

    /// The same for threads outside of a runtime.
    ///
    /// # Errors
    /// As [`TreeHandle::apply`].
    pub fn apply_blocking(&self, command: Command) -> Result<Reply, TreeError> {
        self.send_command(command)?.blocking_recv().map_err(|_| stopped())?
    }

    /// Has one operation done.
    ///
    /// # Errors
    /// As [`TreeHandle::apply`].
    pub async fn operate(&self, operation: Operation) -> Result<Reply, TreeError> {
        self.apply(Command::Transaction(Transaction::from(operation))).await
    }

    /// Looks at the tree as it is after everything that was answered.
    ///
    /// # Errors
    /// When too much waits, or the tree has stopped.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Machine) -> T + Send + 'static,
    ) -> Result<T, TreeError> {
        self.send_query(look)?.await.map_err(|_| stopped())?
    }

    /// The same for threads outside of a runtime.
    ///
    /// # Errors
    /// As [`TreeHandle::read`].
    pub fn read_blocking<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Machine) -> T + Send + 'static,
    ) -> Result<T, TreeError> {
        self.send_query(look)?.blocking_recv().map_err(|_| stopped())?
    }

    /// Follows the changes of what the pattern means, after `cursor` or from now on.
    ///
    /// # Errors
    /// When the cursor can't be resumed from, or too many watch.
    pub async fn watch(&self, pattern: Pattern, cursor: Option<u64>) -> Result<Subscription, TreeError> {
        let limit = self.0.limits.watchers_max;
        let permit = self.0.watchers.clone().try_acquire_owned().map_err(|_| TreeError::TooManyWatchers { limit })?;
        let asked = pattern.clone();
        let cursor = self
            .read(move |machine| {
                let cursor = cursor.unwrap_or(machine.revision());
                machine.changes_after(cursor, &asked).map(|_| cursor)
            })
            .await??;
        let revision = self.0.revision.clone();
        Ok(Subscription { handle: self.clone(), pattern, cursor, revision, _permit: permit })
    }

    /// Finishes what waits and lets go of the store; who watches is told. Afterwards every handle answers that the tree has
    /// stopped. Blocks: not for a runtime's own threads.
    pub fn close(&self) {
        if let Some(requests) = &self.0.requests {
            // It may have ended already.
            let _ = requests.send(Request::Close);
        }
        self.0.join();
    }

    /// How many watch now.
    pub fn watcher_count(&self) -> usize {
        self.0.limits.watchers_max - self.0.watchers.available_permits()
    }

    /// Leave to hold the whole tree in memory once more; one at a time has it.
    pub(super) fn bulk_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.0.bulk.clone().try_acquire_owned().ok()
    }

    fn send_command(&self, command: Command) -> Result<oneshot::Receiver<Result<Reply, TreeError>>, TreeError> {
        let (answer, receiver) = oneshot::channel();
        self.send(Request::Command(Box::new(command), answer))?;
        Ok(receiver)
    }

    fn send_query<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Machine) -> T + Send + 'static,
    ) -> Result<oneshot::Receiver<Result<T, TreeError>>, TreeError> {
        let (answer, receiver) = oneshot::channel();
        // Who asked may have gone away.
        self.send(Request::Query(Box::new(move |machine| drop(answer.send(machine.map(look))))))?;
        Ok(receiver)
    }

    fn send(&self, request: Request) -> Result<(), TreeError> {
        let requests = self.0.requests.as_ref().ok_or_else(stopped)?;
        requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => TreeError::Busy { waiting: self.0.limits.queue_max },
            TrySendError::Disconnected(_) => stopped(),
        })
    }
}

fn stopped() -> TreeError {
    TreeError::Stopped("its thread has ended".into())
}

/// A watcher's place in the changes.
#[derive(Debug)]
pub struct Subscription {
    handle: TreeHandle,
    pattern: Pattern,
    cursor: u64,
    revision: watch::Receiver<u64>,
    _permit: OwnedSemaphorePermit,
}

impl Subscription {
    /// The revision that everything up to has been given. Moves on as well when nothing of what is watched changes.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The next changes; waits for them. Nothing is lost when it is no longer waited for.
    ///
    /// # Errors
    /// [`TreeError::Compacted`] when this watcher has fallen behind the change log.
    pub async fn next(&mut self) -> Result<Batch, TreeError> {
        loop {
            self.revision.borrow_and_update();
            let (cursor, pattern) = (self.cursor, self.pattern.clone());
            let batch = self.handle.read(move |machine| machine.changes_after(cursor, &pattern)).await??;
            self.cursor = batch.cursor;
            if !batch.revisions.is_empty() {
                return Ok(batch);
            }
            if !batch.more && self.revision.changed().await.is_err() {
                return Err(stopped());
            }
        }
    }
}

/// Milliseconds since 1970 that go on evenly, whatever happens to the machine's clock meanwhile: setting it must not end
/// sessions.
struct Clock {
    started: Instant,
    started_ms: u64,
}

impl Clock {
    fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { started: Instant::now(), started_ms: since_epoch.as_millis().try_into().unwrap_or(u64::MAX) }
    }

    fn now_ms(&self) -> u64 {
        self.started_ms.saturating_add(self.started.elapsed().as_millis().try_into().unwrap_or(u64::MAX))
    }
}

/// What the thread owns.
struct Owner {
    machine: Machine,
    store: TreeStore,
    clock: Clock,
    told: watch::Sender<u64>,
    failed: Option<String>,
}

type Pending = (Result<Reply, TreeError>, Option<Answer<Reply>>);

impl Owner {
    fn run(mut self, waiting: &Receiver<Request>) {
        loop {
            let first = match waiting.recv_timeout(self.until_due()) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut commands: Vec<(Command, Option<Answer<Reply>>)> = Vec::new();
            let mut queries = Vec::new();
            let mut is_last = false;
            if self.until_due().is_zero() {
                commands.push((Command::Expire, None));
            }
            for request in first.into_iter().chain(waiting.try_iter().take(GROUP_MAX - 1)) {
                match request {
                    Request::Command(command, answer) => commands.push((*command, Some(answer))),
                    Request::Query(query) => queries.push(query),
                    Request::Close => is_last = true,
                }
            }
            self.serve(commands);
            // They came together with the commands, so either order is right.
            for query in queries {
                query(self.failed.clone().map_or(Ok(&self.machine), |why| Err(TreeError::Stopped(why))));
            }
            if is_last {
                return;
            }
        }
    }

    fn until_due(&self) -> Duration {
        match self.machine.next_deadline() {
            Some(at) if self.failed.is_none() => {
                Duration::from_millis(at.saturating_sub(self.clock.now_ms())).min(IDLE)
            }
            _ => IDLE,
        }
    }

    /// Applies the commands in order, makes them durable together as far as they fit, and answers.
    fn serve(&mut self, commands: Vec<(Command, Option<Answer<Reply>>)>) {
        let mut writes: Vec<Write> = Vec::new();
        let mut bytes = 0;
        let mut pending: Vec<Pending> = Vec::new();
        for (command, answer) in commands {
            if let Some(why) = &self.failed {
                pending.push((Err(TreeError::Stopped(why.clone())), answer));
                continue;
            }
            let at = At { index: self.machine.revision() + 1, now_ms: self.clock.now_ms() };
            let outcome = self.machine.apply(at, command);
            if let Err(refusal) = &outcome.reply {
                debug!(%refusal, "command refused");
            }
            for effect in outcome.effects {
                let Effect::Persist(more) = effect else { continue };
                let more_bytes = bytes_of(&more);
                if bytes + more_bytes > COMMIT_BYTES && !writes.is_empty() {
                    self.commit(&mut writes, &mut pending);
                    bytes = 0;
                }
                writes.extend(more);
                bytes += more_bytes;
            }
            pending.push((outcome.reply.map_err(TreeError::Refused), answer));
        }
        self.commit(&mut writes, &mut pending);
    }

    fn commit(&mut self, writes: &mut Vec<Write>, pending: &mut Vec<Pending>) {
        if let (None, Err(error)) = (&self.failed, self.store.commit(writes)) {
            let why = format!("{:#}", anyhow::Error::new(error));
            error!(why, "the state tree has stopped: it must be opened anew");
            self.failed = Some(why);
        }
        writes.clear();
        for (reply, answer) in pending.drain(..) {
            let reply = self.failed.clone().map_or(reply, |why| Err(TreeError::Stopped(why)));
            if let Some(answer) = answer {
                // Who asked may have gone away.
                let _ = answer.send(reply);
            }
        }
        if self.failed.is_none() {
            let revision = self.machine.revision();
            self.told.send_if_modified(|told| std::mem::replace(told, revision) != revision);
        }
    }
}
