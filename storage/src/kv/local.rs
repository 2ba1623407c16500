//! `local:DIR`: redb as an ordered index in one file, with our own checksum on every value (redb returns a byte that
//! rotted after a clean close as it is).
//!
//! redb checks its pages only after a crash. So each opening here walks the whole file with
//! [`redb::Database::check_integrity`], on a scratch copy: a damaged page must not hide keys. (A damaged commit root is no
//! such case: redb goes back to the commit before, and a clean close writes one without changes, so that both say the same.)

use super::operation::{KeyRange, Pair};
use super::store_file;
use crate::disk::{Disk, DiskFile, OpenMode, RedbBackend, ScratchBackend, open_locked};
use crate::error::Error;
use crate::keys::readable;
use redb::{
    Builder, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, StorageBackend, Table, TableDefinition,
};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use xxhash_rust::xxh3::Xxh3;

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("kv");
/// What is kept about the store itself: the version of the last commit, under `version`.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const VERSION: &str = "version";
const CACHE_BYTES: usize = 64 << 20;
const CHECKSUM_BYTES: usize = 8;
/// How every redb file begins (redb `src/tree_store/page_store/header.rs`).
const MAGIC: [u8; 9] = [b'r', b'e', b'd', b'b', 0x1A, 0x0A, 0xA9, 0x0D, 0x0A];
/// The open file.
#[derive(Debug)]
pub(super) struct LocalStore {
    database: redb::Database,
    path: PathBuf,
    /// Holds the lock, and is the last to go. `None` for a copy.
    _lock: Option<Box<dyn DiskFile>>,
}

/// The store as it was when the snapshot was taken.
pub(super) struct LocalSnapshot {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    path: PathBuf,
}

impl std::fmt::Debug for LocalSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalSnapshot").field("path", &self.path).finish_non_exhaustive()
    }
}

impl LocalStore {
    /// Opens the store in `directory`, made if missing, and holds it exclusively.
    pub(super) fn open(disk: &Arc<dyn Disk>, directory: &Path) -> Result<Self, Error> {
        disk.create_directory(directory).map_err(|e| Error::io("create the directory", directory, e))?;
        let path = store_file(directory);
        let lock = open_or_make(&**disk, directory, &path)?;
        check(&**disk, &path)?;
        let database = guarded(&path, || database_on(RedbBackend::new(disk.open(&path, OpenMode::Existing)?)))?;
        let store = LocalStore { database, path, _lock: Some(lock) };
        store.create_table()?;
        Ok(store)
    }

    /// A private copy of the store in `directory`, or `None` when there is none. What is written to it is lost.
    pub(super) fn open_copy(disk: &dyn Disk, directory: &Path) -> Result<Option<Self>, Error> {
        let path = store_file(directory);
        if !disk.exists(&path).map_err(|e| Error::io("look for the store", &path, e))? {
            return Ok(None);
        }
        check(disk, &path)?;
        let database = guarded(&path, || database_on(scratch(disk, &path)?))?;
        let store = LocalStore { database, path, _lock: None };
        store.create_table()?;
        Ok(Some(store))
    }

    /// So that a snapshot always finds its tables.
    fn create_table(&self) -> Result<(), Error> {
        guarded(&self.path, || {
            if self.database.begin_read()?.list_tables()?.count() < 2 {
                let transaction = self.database.begin_write()?;
                transaction.open_table(TABLE)?;
                transaction.open_table(META)?;
                transaction.commit()?;
            }
            Ok(())
        })
    }

    /// Where the file lies.
    pub(super) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// The version of the last commit; 0 when there was none, or none that counted.
    pub(super) fn version(&self) -> Result<u64, Error> {
        guarded(&self.path, || {
            let version = self.database.begin_read()?.open_table(META)?.get(VERSION)?;
            Ok(version.map_or(0, |version| version.value()))
        })
    }

    pub(super) fn snapshot(&self) -> Result<LocalSnapshot, Error> {
        let table = guarded(&self.path, || Ok(self.database.begin_read()?.open_table(TABLE)?))?;
        Ok(LocalSnapshot { table, path: self.path.clone() })
    }

    /// Makes what `body` writes durable as `version`, all at once: one sync.
    pub(super) fn write<T>(
        &self,
        version: u64,
        body: impl FnOnce(&mut LocalWriter<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // The outer result is the engine's, the inner one ours: an error of either leaves the store as it was.
        guarded(&self.path, || {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            let done = {
                let table = transaction.open_table(TABLE)?;
                body(&mut LocalWriter { table, path: &self.path, stored: Vec::new() })
            };
            if done.is_err() {
                transaction.abort()?;
                return Ok(done);
            }
            transaction.open_table(META)?.insert(VERSION, version)?;
            transaction.commit()?;
            Ok(done)
        })?
    }

    /// Writes down which pages are free, so that the next start need not walk the whole file if this process is killed.
    /// Costs two syncs: for a quiet moment.
    pub(super) fn checkpoint(&self) -> Result<(), Error> {
        guarded(&self.path, || {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            transaction.set_quick_repair(true);
            transaction.commit()?;
            Ok(())
        })
    }
}

/// The changes of one commit.
pub(super) struct LocalWriter<'t> {
    table: Table<'t, &'static [u8], &'static [u8]>,
    path: &'t Path,
    stored: Vec<u8>,
}

impl LocalWriter<'_> {
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let stored = self.table.get(key).map_err(|e| translated(self.path, e.into()))?;
        stored.map(|stored| verified(self.path, key, stored.value()).map(<[u8]>::to_vec)).transpose()
    }

    pub(super) fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        match value {
            Some(value) => {
                self.stored.clear();
                self.stored.extend_from_slice(&checksum(key, value));
                self.stored.extend_from_slice(value);
                self.table.insert(key, self.stored.as_slice()).map(drop)
            }
            None => self.table.remove(key).map(drop),
        }
        .map_err(|e| translated(self.path, e.into()))
    }

    pub(super) fn clear(&mut self, range: &KeyRange) -> Result<(), Error> {
        let keys = range.0.as_slice()..range.1.as_slice();
        self.table.retain_in(keys, |_, _| false).map_err(|e| translated(self.path, e.into()))
    }
}

impl LocalSnapshot {
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let stored = guarded(&self.path, || Ok(self.table.get(key)?.map(|guard| guard.value().to_vec())))?;
        let Some(mut stored) = stored else { return Ok(None) };
        verified(&self.path, key, &stored)?;
        stored.drain(..CHECKSUM_BYTES);
        Ok(Some(stored))
    }

    pub(super) fn range(&self, begin: &[u8], end: &[u8], limit: usize, reverse: bool) -> Result<Vec<Pair>, Error> {
        // The outer result is the engine's, the inner one ours.
        guarded(&self.path, || {
            let mut stored = self.table.range::<&[u8]>(begin..end)?;
            let mut pairs = Vec::new();
            while pairs.len() < limit {
                let Some(pair) = (if reverse { stored.next_back() } else { stored.next() }) else { break };
                let (key, value) = pair?;
                match verified(&self.path, key.value(), value.value()) {
                    Ok(value) => pairs.push((key.value().to_owned(), value.to_owned())),
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(pairs))
        })?
    }
}

/// Runs an engine call; a panic in it (some damaged files make redb panic) comes out as an error, too.
fn guarded<T>(path: &Path, call: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(translated(path, error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(Error::corrupt(path.display().to_string(), text.unwrap_or_else(|| "the engine panicked".into())))
        }
    }
}

fn translated(path: &Path, error: redb::Error) -> Error {
    match error {
        redb::Error::DatabaseAlreadyOpen => Error::InUse(path.to_owned()),
        redb::Error::Corrupted(detail) => Error::corrupt(path.display().to_string(), detail),
        redb::Error::Io(source)
            if matches!(source.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            Error::corrupt(path.display().to_string(), source.to_string())
        }
        redb::Error::Io(source) => Error::io("use the store", path, source),
        other => Error::Store { path: path.to_owned(), source: Box::new(other) },
    }
}

/// Opens the store's file with its lock. A store that is not there yet is made under another name first: one that is
/// there was made whole, also when the disk was full in the middle of it.
fn open_or_make(disk: &dyn Disk, directory: &Path, path: &Path) -> Result<Box<dyn DiskFile>, Error> {
    let exists = || disk.exists(path).map_err(|e| Error::io("look for the store", path, e));
    let unfinished = path.with_extension("redb.new");
    loop {
        if exists()? {
            return open_locked(disk, path, OpenMode::Existing)?.ok_or_else(|| Error::InUse(path.to_owned()));
        }
        let file =
            open_locked(disk, &unfinished, OpenMode::OpenOrCreate)?.ok_or_else(|| Error::InUse(path.to_owned()))?;
        let made = if exists()? { Ok(false) } else { make(disk, directory, path, &unfinished, &*file).map(|()| true) };
        match made {
            Ok(true) => return Ok(file),
            // Another process was faster, or what is left is of no use, and may be what fills the disk.
            Ok(false) | Err(_) => drop(disk.remove(&unfinished)),
        }
        made?;
    }
}

fn make(disk: &dyn Disk, directory: &Path, path: &Path, unfinished: &Path, file: &dyn DiskFile) -> Result<(), Error> {
    file.set_len(0).map_err(|e| Error::io("empty", unfinished, e))?;
    let database = guarded(unfinished, || database_on(RedbBackend::new(disk.open(unfinished, OpenMode::Existing)?)))?;
    let store = LocalStore { database, path: unfinished.to_owned(), _lock: None };
    store.create_table()?;
    drop(store);
    file.sync_all().map_err(|e| Error::io("sync", unfinished, e))?;
    disk.rename(unfinished, path).map_err(|e| Error::io("name the new store", path, e))?;
    disk.sync_directory(directory).map_err(|e| Error::io("sync the directory", directory, e))
}

fn database_on(backend: impl StorageBackend) -> Result<redb::Database, redb::Error> {
    Ok(Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend)?)
}

fn scratch(disk: &dyn Disk, path: &Path) -> io::Result<ScratchBackend> {
    ScratchBackend::new(disk.open(path, OpenMode::Read)?)
}

/// Refuses a file that is not as it was written, before anything is changed.
fn check(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    let corrupt = |detail: &str| Err(Error::corrupt(path.display().to_string(), detail));
    let mut start = [0; MAGIC.len()];
    match disk.open(path, OpenMode::Read).and_then(|file| file.read_exact_at(&mut start, 0)) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return corrupt("it is too short to be a store"),
        other => other.map_err(|e| Error::io("read the store", path, e))?,
    }
    if start != MAGIC {
        return corrupt("it does not begin as a store does");
    }
    if guarded(path, || Ok(database_on(scratch(disk, path)?)?.check_integrity()?))? {
        return Ok(());
    }
    corrupt("a page does not match its checksum")
}

/// Over key and value, so that a value under another's key is found, too.
fn checksum(key: &[u8], value: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hash = Xxh3::new();
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(value);
    hash.digest().to_le_bytes()
}

fn verified<'v>(path: &Path, key: &[u8], stored: &'v [u8]) -> Result<&'v [u8], Error> {
    match stored.split_at_checked(CHECKSUM_BYTES) {
        Some((sum, value)) if sum == checksum(key, value) => Ok(value),
        _ => Err(Error::corrupt(
            format!("key {} of {}", readable(key), path.display()),
            "its value does not match its checksum",
        )),
    }
}
