//! A key-value API in FoundationDB's shape: read at one version, commit with conflict detection.
//!
//! A [`Transaction`] reads a snapshot, and its own writes on top. What it read is remembered; [`Transaction::commit`] is
//! refused with a retryable [`Error::Conflict`] when another commit changed any of it since. In the embedded stores that
//! check is our own (`resolver`), so no engine's isolation is relied on, and FoundationDB's limits hold everywhere:
//! what passes on the default store passes on a cluster.
//!
//! - `operation`: what is asked of a store, as data; limits; atomic operations.
//! - `dispatch`: the [`Transaction`] that callers see, over that of the store at hand.
//! - `overlay`, `transaction`: an embedded transaction's own writes, and its life.
//! - `fdb`: a FoundationDB cluster.
//! - `unix`: an embedded store that another process serves; `source`: which of the two a transaction reads and commits to.
//! - `engine`, `resolver`, `watch`, `faults`: the embedded store over `memory` or `local`.

mod dispatch;
mod engine;
mod faults;
mod fdb;
mod local;
mod memory;
mod operation;
mod overlay;
mod resolver;
mod source;
mod transaction;
pub(crate) mod unix;
mod watch;

use crate::disk::{Disk, RealDisk};
use crate::error::Error;
pub use dispatch::{Transaction, Watch};
use engine::{Backend, Engine, RunningEngine};
pub use faults::{Fault, RandomFaults};
use fdb::FdbStore;
use local::LocalStore;
use memory::MemoryStore;
pub use operation::{
    Atomic, CommitRequest, Committed, ConflictKind, KEY_BYTES_MAX, KEYS_END, KeyRange, Mutation, Pair, RangeRead,
    TRANSACTION_BYTES_MAX, VALUE_BYTES_MAX, VERSIONSTAMP_BYTES, Versionstamp,
};
use source::Source;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use transaction::EmbeddedTransaction;
use unix::RemoteStore;
pub use unix::{ServerFacts, ServerStatus, StoreServer, serve, server_facts};
pub use vsekai_fdb::stop_network;
pub use watch::WATCHES_MAX;

/// How often [`Database::run`] tries before it gives the error to its caller.
const ATTEMPTS_MAX: u32 = 100;

/// What a store URL may be, for whoever has given another.
const ALLOWED: &str = "allowed are `local:DIR`, `unix:SOCKET`, `fdb:CLUSTER_FILE` and `mem:`";

/// Which store a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreUrl {
    Memory,
    Local(PathBuf),
    Unix(PathBuf),
    Fdb(PathBuf),
}

impl StoreUrl {
    pub(crate) fn parse(url: &str) -> Result<Self, Error> {
        match url.split_once(':') {
            Some(("mem", "")) => Ok(StoreUrl::Memory),
            Some(("mem", _)) => Err(Error::Config(format!("store `{url}` has a path, `mem:` takes none"))),
            Some(("local", "")) => Err(Error::Config(format!("store `{url}` names no directory; {ALLOWED}"))),
            Some(("local", path)) => Ok(StoreUrl::Local(path.into())),
            Some(("unix", "")) => Err(Error::Config(format!("store `{url}` names no socket; {ALLOWED}"))),
            Some(("unix", path)) => Ok(StoreUrl::Unix(path.into())),
            Some(("fdb", "")) => Err(Error::Config(format!("store `{url}` names no cluster file; {ALLOWED}"))),
            Some(("fdb", path)) => Ok(StoreUrl::Fdb(path.into())),
            _ => Err(Error::Config(format!("store `{url}` is of an unknown kind; {ALLOWED}"))),
        }
    }
}

/// A store, shared by all clones of the handle.
#[derive(Debug, Clone)]
pub struct Database(Arc<Store>);

#[derive(Debug)]
enum Store {
    Embedded(RunningEngine),
    Unix(Arc<RemoteStore>),
    Fdb(FdbStore),
}

impl Database {
    /// Opens the store that `url` names: `mem:`, empty and gone with its last handle, or `local:DIR`, one file in that
    /// directory, made if missing and held exclusively; `unix:SOCKET`, such a store in another process that serves it ([`serve`]); or `fdb:CLUSTER_FILE`,
    /// a FoundationDB cluster.
    pub fn open(url: &str) -> Result<Self, Error> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        Self::open_on_disk(url, &disk)
    }

    /// The same with the file of `local:` on that disk.
    pub fn open_on_disk(url: &str, disk: &Arc<dyn Disk>) -> Result<Self, Error> {
        match StoreUrl::parse(url)? {
            StoreUrl::Memory => Self::embedded(Backend::Memory(MemoryStore::default())),
            StoreUrl::Local(path) => Self::embedded(Backend::Local(LocalStore::open(disk, &path)?)),
            StoreUrl::Unix(socket) => Ok(Database(Arc::new(Store::Unix(RemoteStore::open(&socket)?)))),
            StoreUrl::Fdb(cluster_file) => Ok(Database(Arc::new(Store::Fdb(FdbStore::open(&cluster_file)?)))),
        }
    }

    /// A private copy of the store at `url` as it lies on disk, or `None` when there is none. Nothing is written there,
    /// not even the repair that a killed process makes necessary.
    pub(crate) fn open_copy(url: &str) -> Result<Option<Self>, Error> {
        match StoreUrl::parse(url)? {
            StoreUrl::Memory => Ok(None),
            // These are read as they are: reading writes nothing there.
            StoreUrl::Unix(_) | StoreUrl::Fdb(_) => Self::open(url).map(Some),
            StoreUrl::Local(path) => {
                LocalStore::open_copy(&RealDisk, &path)?.map(|store| Self::embedded(Backend::Local(store))).transpose()
            }
        }
    }

    fn embedded(backend: Backend) -> Result<Self, Error> {
        Ok(Database(Arc::new(Store::Embedded(RunningEngine::start(backend)?))))
    }

    /// True for a store that no other process can use while this handle lives.
    pub fn is_exclusive(&self) -> bool {
        matches!(&*self.0, Store::Embedded(_))
    }

    /// Begins a transaction. Its read version is that of its first read.
    pub fn begin(&self) -> Result<Transaction, Error> {
        match &*self.0 {
            Store::Embedded(running) => Ok(EmbeddedTransaction::new(Source::Engine(running.engine().clone())).into()),
            Store::Unix(store) => Ok(EmbeddedTransaction::new(Source::Remote(store.clone())).into()),
            Store::Fdb(store) => Ok(store.begin()?.into()),
        }
    }

    /// Runs `body` and commits, again from the start while that fails retryably: the one place where transactions are
    /// retried. `body` must have no effect but through the transaction. An unknown result comes back as it is.
    pub fn run<T>(&self, body: impl FnMut(&mut Transaction) -> Result<T, Error>) -> Result<T, Error> {
        self.run_while(body, Error::is_retryable)
    }

    /// The same for a `body` that does no harm when it runs again after it has happened: an unknown result is tried
    /// again, too.
    pub fn run_idempotent<T>(&self, body: impl FnMut(&mut Transaction) -> Result<T, Error>) -> Result<T, Error> {
        self.run_while(body, |error| error.is_retryable() || matches!(error, Error::CommitUnknownResult))
    }

    fn run_while<T>(
        &self,
        mut body: impl FnMut(&mut Transaction) -> Result<T, Error>,
        may_retry: impl Fn(&Error) -> bool,
    ) -> Result<T, Error> {
        let mut transaction = self.begin()?;
        for attempt in 1.. {
            match body(&mut transaction).and_then(|value| transaction.commit().map(|_| value)) {
                Err(error) if may_retry(&error) && attempt < ATTEMPTS_MAX => transaction.on_error(error)?,
                other => return other,
            }
        }
        unreachable!("the last attempt returns")
    }

    /// The engine of this process, if the store is one.
    fn engine(&self) -> Option<&Arc<Engine>> {
        match &*self.0 {
            Store::Embedded(running) => Some(running.engine()),
            Store::Unix(_) | Store::Fdb(_) => None,
        }
    }

    /// Breaks the connection of a `unix:` store, as if the server had hung up. Others ignore it.
    pub fn break_connection(&self) {
        if let Store::Unix(store) = &*self.0 {
            store.break_connection();
        }
    }

    /// What goes wrong with the next commits, one after the other. Embedded stores only, a cluster ignores it: those of a
    /// `unix:` handle strike what is done through that handle, those of the database that is served strike everybody.
    pub fn fail_next_commits(&self, faults: impl IntoIterator<Item = Fault>) {
        match &*self.0 {
            Store::Embedded(running) => running.engine().faults.next_commits(faults),
            Store::Unix(store) => store.faults.next_commits(faults),
            Store::Fdb(_) => {}
        }
    }

    /// What goes wrong with the next transactions' first reads, one after the other. Embedded stores only.
    pub fn fail_next_reads(&self, faults: impl IntoIterator<Item = Fault>) {
        match &*self.0 {
            Store::Embedded(running) => running.engine().faults.next_reads(faults),
            Store::Unix(store) => store.faults.next_reads(faults),
            Store::Fdb(_) => {}
        }
    }

    /// Lets faults strike at random from now on, or no more. Embedded stores only.
    pub fn fail_at_random(&self, faults: Option<RandomFaults>) {
        match &*self.0 {
            Store::Embedded(running) => running.engine().faults.random(faults),
            Store::Unix(store) => store.faults.random(faults),
            Store::Fdb(_) => {}
        }
    }

    /// Makes commits wait until they are let go again: a store that hangs. Embedded stores only.
    pub fn hold_commits(&self, held: bool) {
        match &*self.0 {
            Store::Embedded(running) => running.engine().faults.hold(held),
            Store::Unix(store) => store.faults.hold(held),
            Store::Fdb(_) => {}
        }
    }
}

/// The file in which `local:DIR` keeps everything.
pub(crate) fn store_file(directory: &Path) -> PathBuf {
    directory.join("store.redb")
}

#[cfg(test)]
mod tests;
