//! `local:DIR`: redb as an ordered index in one file, with our own checksum on every value (redb returns a byte that
//! rotted after a clean close as it is).

use super::store_file;
use crate::error::Error;
use crate::files::{create_directory, sync_directory};
use crate::keys::readable;
use redb::{
    Builder, Durability, ReadOnlyTable, ReadableDatabase, StorageBackend, TableDefinition, backends::InMemoryBackend,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("kv");
const CACHE_BYTES: usize = 64 << 20;
const CHECKSUM_BYTES: usize = 8;
/// How every redb file begins (redb `src/tree_store/page_store/header.rs`).
const MAGIC: [u8; 9] = [b'r', b'e', b'd', b'b', 0x1A, 0x0A, 0xA9, 0x0D, 0x0A];

/// The open file.
#[derive(Debug)]
pub(super) struct LocalStore {
    database: redb::Database,
    path: PathBuf,
}

/// The store as it was when the snapshot was taken.
pub(super) struct LocalSnapshot {
    table: ReadOnlyTable<&'static [u8], &'static [u8]>,
    path: PathBuf,
}

impl LocalStore {
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        create_directory(directory)?;
        let path = store_file(directory);
        if !path.try_exists().map_err(|e| Error::io("look for the store", &path, e))? {
            Self::create(directory, &path)?;
        }
        check_magic(&path)?;
        let database = guarded(&path, || Ok(Builder::new().set_cache_size(CACHE_BYTES).create(&path)?))?;
        let store = LocalStore { database, path };
        store.create_table()?;
        Ok(store)
    }

    /// Makes an empty store under another name and then gives it its own: a store that is there was made whole, also when the
    /// disk was full in the middle of it.
    fn create(directory: &Path, path: &Path) -> Result<(), Error> {
        let unfinished = path.with_extension("redb.new");
        match std::fs::remove_file(&unfinished) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove the unfinished store", &unfinished, e));
            }
            _ => {}
        }
        let made = guarded(&unfinished, || Ok(Builder::new().set_cache_size(CACHE_BYTES).create(&unfinished)?))
            .and_then(|database| LocalStore { database, path: unfinished.clone() }.create_table());
        if let Err(error) = made {
            // What is left of it is of no use, and may be what fills the disk.
            let _ = std::fs::remove_file(&unfinished);
            return Err(error);
        }
        std::fs::rename(&unfinished, path).map_err(|e| Error::io("name the new store", path, e))?;
        sync_directory(directory)
    }

    pub(super) fn open_copy(directory: &Path) -> Result<Option<Self>, Error> {
        let path = store_file(directory);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read the store", &path, e)),
        };
        check_magic(&path)?;
        let database = guarded(&path, || {
            let backend = InMemoryBackend::new();
            backend.set_len(bytes.len() as u64)?;
            backend.write(0, &bytes)?;
            Ok(Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend)?)
        })?;
        let store = LocalStore { database, path };
        store.create_table()?;
        Ok(Some(store))
    }

    /// So that a snapshot always finds the table.
    fn create_table(&self) -> Result<(), Error> {
        guarded(&self.path, || {
            let missing = self.database.begin_read()?.list_tables()?.next().is_none();
            if missing {
                let transaction = self.database.begin_write()?;
                transaction.open_table(TABLE)?;
                transaction.commit()?;
            }
            Ok(())
        })
    }

    pub(super) fn snapshot(&self) -> Result<LocalSnapshot, Error> {
        let table = guarded(&self.path, || Ok(self.database.begin_read()?.open_table(TABLE)?))?;
        Ok(LocalSnapshot { table, path: self.path.clone() })
    }

    pub(super) fn apply(
        &self,
        cleared: &[(Vec<u8>, Vec<u8>)],
        writes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    ) -> Result<(), Error> {
        guarded(&self.path, || {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            // Reopening after a kill then walks nothing; the price is a second fsync per commit, off the tick's path.
            transaction.set_quick_repair(true);
            {
                let mut table = transaction.open_table(TABLE)?;
                for (begin, end) in cleared {
                    table.retain_in(begin.as_slice()..end.as_slice(), |_, _| false)?;
                }
                let mut stored = Vec::new();
                for (key, value) in writes {
                    match value {
                        Some(value) => {
                            stored.clear();
                            stored.extend_from_slice(&checksum(key, value));
                            stored.extend_from_slice(value);
                            table.insert(key.as_slice(), stored.as_slice())?;
                        }
                        None => {
                            table.remove(key.as_slice())?;
                        }
                    }
                }
            }
            transaction.commit()?;
            Ok(())
        })
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

    /// Calls `visit` for each pair in order until it returns false.
    pub(super) fn range(
        &self,
        begin: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), Error> {
        // The outer result is the engine's, the inner one ours.
        guarded(&self.path, || {
            for pair in self.table.range::<&[u8]>(begin..end)? {
                let (key, stored) = pair?;
                match verified(&self.path, key.value(), stored.value()) {
                    Ok(value) if visit(key.value(), value) => {}
                    Ok(_) => break,
                    Err(error) => return Ok(Err(error)),
                }
            }
            Ok(Ok(()))
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

/// Refuses a file that redb did not make, before redb sees it. No file, or an empty one, is a new store.
fn check_magic(path: &Path) -> Result<(), Error> {
    use io::Read;
    let mut start = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MAGIC.len() as u64).read_to_end(&mut start).map_err(|e| Error::io("read", path, e))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("open the store", path, e)),
    };
    if start.is_empty() || start == MAGIC {
        return Ok(());
    }
    Err(Error::corrupt(path.display().to_string(), "it does not begin as a store does"))
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
