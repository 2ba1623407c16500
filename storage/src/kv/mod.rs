//! A small key-value API in FoundationDB's shape: read at one version, commit with conflict detection.
//!
//! A [`Transaction`] reads a snapshot, and its own writes on top. What it read is remembered; [`Transaction::commit`] is
//! refused with a retryable [`Error::Conflict`] when another commit changed any of it since. That check is our own
//! (`resolver`), so no engine's isolation is relied on, and every store behaves the same.

mod local;
mod memory;
mod resolver;

use crate::error::Error;
use crate::sync::locked;
use local::{LocalSnapshot, LocalStore};
use memory::{MemorySnapshot, MemoryStore};
use resolver::{ReadSet, Resolver, WriteSet};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Longest key in bytes, as in FoundationDB.
pub const KEY_BYTES_MAX: usize = 10_000;

/// How often [`Database::run`] tries before it gives the conflict to its caller.
const ATTEMPTS_MAX: u32 = 100;

/// One key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Which store a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreUrl {
    Memory,
    Local(PathBuf),
}

impl StoreUrl {
    pub(crate) fn parse(url: &str) -> Result<Self, Error> {
        const ALLOWED: &str = "allowed are `local:DIR` and `mem:`";
        match url.split_once(':') {
            Some(("mem", "")) => Ok(StoreUrl::Memory),
            Some(("mem", _)) => Err(Error::Config(format!("store `{url}` has a path, `mem:` takes none"))),
            Some(("local", "")) => Err(Error::Config(format!("store `{url}` names no directory; {ALLOWED}"))),
            Some(("local", path)) => Ok(StoreUrl::Local(path.into())),
            _ => Err(Error::Config(format!("store `{url}` is of an unknown kind; {ALLOWED}"))),
        }
    }
}

/// A store, shared by all clones of the handle.
#[derive(Debug, Clone)]
pub struct Database(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    engine: Engine,
    /// Held through a whole commit: one writer at a time.
    resolver: Mutex<Resolver>,
    /// The last version whose write set the resolver knows. A transaction takes it *before* its snapshot: the snapshot
    /// can only be newer than its label, which costs a needless conflict at worst and never misses one.
    version: AtomicU64,
}

#[derive(Debug)]
enum Engine {
    Memory(MemoryStore),
    Local(LocalStore),
}

enum Snapshot {
    Memory(MemorySnapshot),
    Local(LocalSnapshot),
}

impl Database {
    /// Opens the store that `url` names: `mem:`, empty and gone with its last handle, or `local:DIR`, one file in that
    /// directory, made if missing and held exclusively.
    pub fn open(url: &str) -> Result<Self, Error> {
        Ok(Self::with(match StoreUrl::parse(url)? {
            StoreUrl::Memory => Engine::Memory(MemoryStore::default()),
            StoreUrl::Local(path) => Engine::Local(LocalStore::open(&path)?),
        }))
    }

    /// A private copy of the store at `url` as it lies on disk, or `None` when there is none. Nothing is written there,
    /// not even the repair that a killed process makes necessary.
    pub(crate) fn open_copy(url: &str) -> Result<Option<Self>, Error> {
        Ok(match StoreUrl::parse(url)? {
            StoreUrl::Memory => None,
            StoreUrl::Local(path) => LocalStore::open_copy(&path)?.map(|store| Self::with(Engine::Local(store))),
        })
    }

    fn with(engine: Engine) -> Self {
        let resolver = Mutex::new(Resolver::default());
        Database(Arc::new(Shared { engine, resolver, version: AtomicU64::new(0) }))
    }

    /// Begins a transaction at the version of now.
    pub fn begin(&self) -> Result<Transaction, Error> {
        let read_version = self.0.version.load(Ordering::Acquire);
        let snapshot = match &self.0.engine {
            Engine::Memory(store) => Snapshot::Memory(store.snapshot()),
            Engine::Local(store) => Snapshot::Local(store.snapshot()?),
        };
        Ok(Transaction {
            database: self.clone(),
            read_version,
            snapshot,
            reads: ReadSet::default(),
            cleared: Vec::new(),
            writes: BTreeMap::new(),
        })
    }

    /// Runs `body` and commits, again from the start while that conflicts: the one place where transactions are retried.
    /// `body` must have no effect but through the transaction.
    pub fn run<T>(&self, mut body: impl FnMut(&mut Transaction) -> Result<T, Error>) -> Result<T, Error> {
        for attempt in 1.. {
            let mut transaction = self.begin()?;
            let done = body(&mut transaction).and_then(|value| transaction.commit().map(|_| value));
            match done {
                Err(error) if error.is_retryable() && attempt < ATTEMPTS_MAX => {}
                other => return other,
            }
        }
        unreachable!("the last attempt returns")
    }
}

/// Reads at one version and writes that happen all at once, or not at all when dropped.
pub struct Transaction {
    database: Database,
    read_version: u64,
    snapshot: Snapshot,
    reads: ReadSet,
    /// Ranges cleared, before `writes`.
    cleared: Vec<(Vec<u8>, Vec<u8>)>,
    /// `None` is a clear.
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Transaction {
    /// The value of `key`.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        if let Some(written) = self.writes.get(key) {
            return Ok(written.clone());
        }
        if self.is_cleared(key) {
            return Ok(None);
        }
        self.reads.add_key(key);
        match &self.snapshot {
            Snapshot::Memory(snapshot) => Ok(snapshot.get(key)),
            Snapshot::Local(snapshot) => snapshot.get(key),
        }
    }

    /// The first `limit` pairs of `begin..end` in key order. What lies behind the last one returned is not counted as read.
    pub fn get_range(&mut self, begin: &[u8], end: &[u8], limit: usize) -> Result<Vec<Pair>, Error> {
        if begin >= end || limit == 0 {
            return Ok(Vec::new());
        }
        let mut pairs = Vec::new();
        let mut written =
            self.writes.range::<[u8], _>((std::ops::Bound::Included(begin), std::ops::Bound::Excluded(end)));
        let mut next_written = written.next();
        let mut visit = |key: &[u8], value: &[u8]| {
            // Own writes come in between, and take the place of what is stored under the same key.
            while let Some((own_key, own_value)) = next_written {
                if pairs.len() == limit || own_key.as_slice() > key {
                    break;
                }
                next_written = written.next();
                if let Some(own_value) = own_value {
                    pairs.push((own_key.clone(), own_value.clone()));
                }
            }
            if pairs.len() < limit && !self.writes.contains_key(key) && !self.is_cleared(key) {
                pairs.push((key.to_owned(), value.to_owned()));
            }
            pairs.len() < limit
        };
        match &self.snapshot {
            Snapshot::Memory(snapshot) => snapshot.range(begin, end, &mut visit),
            Snapshot::Local(snapshot) => snapshot.range(begin, end, &mut visit)?,
        }
        while let Some((own_key, own_value)) = next_written {
            if pairs.len() == limit {
                break;
            }
            next_written = written.next();
            if let Some(own_value) = own_value {
                pairs.push((own_key.clone(), own_value.clone()));
            }
        }
        match pairs.last() {
            Some((last, _)) if pairs.len() == limit => {
                let behind = [last, &[0][..]].concat();
                self.reads.add_range(begin, &behind);
            }
            _ => self.reads.add_range(begin, end),
        }
        Ok(pairs)
    }

    /// Gives `key` a value.
    pub fn set(&mut self, key: &[u8], value: impl Into<Vec<u8>>) {
        self.writes.insert(key.to_owned(), Some(value.into()));
    }

    /// Takes `key` away.
    pub fn clear(&mut self, key: &[u8]) {
        self.writes.insert(key.to_owned(), None);
    }

    /// Takes all keys of `begin..end` away.
    pub fn clear_range(&mut self, begin: &[u8], end: &[u8]) {
        if begin < end {
            self.writes.retain(|key, _| key.as_slice() < begin || key.as_slice() >= end);
            self.cleared.push((begin.to_owned(), end.to_owned()));
        }
    }

    /// Makes the writes durable, all at once, and returns their version. Without writes nothing is checked.
    pub fn commit(self) -> Result<u64, Error> {
        if self.writes.is_empty() && self.cleared.is_empty() {
            return Ok(self.read_version);
        }
        if let Some(key) = self.writes.keys().find(|key| key.len() > KEY_BYTES_MAX) {
            return Err(Error::TooLarge { what: "key", found: key.len(), limit: KEY_BYTES_MAX });
        }
        let shared = &self.database.0;
        let mut resolver = locked(&shared.resolver);
        resolver.check(self.read_version, &self.reads)?;
        match &shared.engine {
            Engine::Memory(store) => store.apply(&self.cleared, &self.writes),
            Engine::Local(store) => store.apply(&self.cleared, &self.writes)?,
        }
        let version = resolver.record(WriteSet { keys: self.writes.into_keys().collect(), ranges: self.cleared });
        shared.version.store(version, Ordering::Release);
        Ok(version)
    }

    fn is_cleared(&self, key: &[u8]) -> bool {
        self.cleared.iter().any(|(begin, end)| begin.as_slice() <= key && key < end.as_slice())
    }
}

/// The file in which `local:DIR` keeps everything.
pub(crate) fn store_file(directory: &Path) -> PathBuf {
    directory.join("store.redb")
}

#[cfg(test)]
mod tests;
