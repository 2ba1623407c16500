//! casync's chunk store, `.castr`: `<first four digits of the id>/<id>.cacnk`, one zstd frame each, in a folder or behind HTTP.
//!
//! Nothing that a store holds is believed: a chunk is unpacked into a buffer of exactly the size that the index gives, and its digest
//! is taken before anybody sees it. Chunks are written beside their place and renamed into it; [`LocalStore::sync`] brings
//! all of them to the disk at once, before an index that names them is written. A chunk file of no bytes (what a crash without it may leave)
//! counts as missing.

pub mod http;
#[cfg(test)]
mod tests;

use crate::caibx::CHUNK_SIZE_MAX;
use crate::digest::{Digest, Id};
use crate::error::TaskError;
use crate::hex::{hex, unhex};
use http::HttpStore;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use zstd::bulk::{Compressor, Decompressor};

/// Any reader takes any level. Beside level 3, chunks of programs become 1.4 % larger, and packing costs a quarter to a third less.
pub const COMPRESSION_LEVEL: i32 = 2;
const SUFFIX: &str = ".cacnk";
const TEMPORARY: &str = ".tmp-cacnk";
/// A chunk that is reused is touched when it is older: what prunes with a grace time then knows that it is wanted.
const TOUCH_AFTER: Duration = Duration::from_secs(600);

/// What can go wrong with one chunk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("chunk {id}: not in {store}")]
    Missing { id: String, store: String },
    #[error("chunk {id} in {store}: {why}")]
    Damaged { id: String, store: String, why: String },
    #[error("chunk {id}: {file} cannot be read")]
    Read { id: String, file: String, source: io::Error },
    #[error("chunk {id}: {file} cannot be written")]
    Write { id: String, file: String, source: io::Error },
    #[error("{what}: {why}")]
    Network { what: String, why: String },
    #[error("{what}: refused by the server: {why}")]
    Denied { what: String, why: String },
}

/// The most bytes that a chunk of `size` can have when packed: what zstd itself needs for what cannot be packed, and room for
/// other packers.
pub fn packed_max(size: u64) -> u64 {
    size + size / 64 + (16 << 10)
}

/// A store, wherever it is.
#[derive(Debug)]
pub enum Store {
    Local(LocalStore),
    Http(HttpStore),
}

impl Store {
    /// `http://…` and `https://…` are servers, anything else a folder.
    pub fn at(location: &str, authorization: Option<&str>) -> Result<Self, TaskError> {
        Ok(if http::is_url(location) {
            Self::Http(HttpStore::new(location, authorization)?)
        } else {
            Self::Local(LocalStore::new(Path::new(location)))
        })
    }

    /// Reads the chunk as it is packed into `packed`, which is emptied first; refuses more than `max` bytes.
    fn read(&self, id: &Id, max: u64, packed: &mut Vec<u8>) -> Result<(), StoreError> {
        match self {
            Self::Local(store) => store.read(id, max, packed),
            Self::Http(store) => store.read(id, max, packed),
        }
    }

    /// Whether the chunk is there; of a server, by asking.
    pub fn has(&self, id: &Id) -> Result<bool, StoreError> {
        match self {
            Self::Local(store) => Ok(store.has(id)),
            Self::Http(store) => store.has(id),
        }
    }

    /// Adds a packed chunk.
    pub fn write(&self, id: &Id, packed: &[u8]) -> Result<(), StoreError> {
        match self {
            Self::Local(store) => store.write(id, packed),
            Self::Http(store) => store.write(id, packed),
        }
    }

    /// Brings everything written to the disk; a server sees to that itself.
    pub fn sync(&self) -> io::Result<()> {
        match self {
            Self::Local(store) => store.sync(),
            Self::Http(_) => Ok(()),
        }
    }

    /// For people.
    pub fn name(&self) -> String {
        match self {
            Self::Local(store) => store.root.display().to_string(),
            Self::Http(store) => store.name().to_owned(),
        }
    }

    /// How many threads are worth having at it: a server is waited for, a folder is not.
    pub fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(2, usize::from).min(16);
        match self {
            Self::Local(_) => cores,
            Self::Http(_) => cores.max(10),
        }
    }
}

/// A store in a folder.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    /// Numbers temporary files.
    temporary: AtomicU64,
}

impl LocalStore {
    /// The folder need not exist before something is written.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), temporary: AtomicU64::new(0) }
    }

    /// Where the chunk is or would be.
    pub fn path(&self, id: &Id) -> PathBuf {
        let name = hex(id);
        let mut path = self.root.join(&name[..4]);
        path.push(name + SUFFIX);
        path
    }

    /// Whether the chunk is there, without reading it. One that is about to be old is made young again.
    pub fn has(&self, id: &Id) -> bool {
        let path = self.path(id);
        let Ok(metadata) = fs::metadata(&path) else { return false };
        if !metadata.is_file() || metadata.len() == 0 {
            return false;
        }
        let old = metadata.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age > TOUCH_AFTER);
        if old && let Ok(file) = File::open(&path) {
            // Where that is forbidden nobody prunes either.
            let _ = file.set_modified(SystemTime::now());
        }
        true
    }

    /// The chunk as it is packed.
    pub fn read(&self, id: &Id, max: u64, packed: &mut Vec<u8>) -> Result<(), StoreError> {
        let path = self.path(id);
        let failed = |source| StoreError::Read { id: hex(id), file: path.display().to_string(), source };
        let missing = || StoreError::Missing { id: hex(id), store: self.root.display().to_string() };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
            Err(error) => return Err(failed(error)),
        };
        packed.clear();
        // What is appended is cut off one byte after the limit.
        file.take(max + 1).read_to_end(packed).map_err(failed)?;
        if packed.is_empty() {
            return Err(missing());
        }
        if packed.len() as u64 > max {
            let why = format!("the packed chunk has more than {max} bytes");
            return Err(StoreError::Damaged { id: hex(id), store: self.root.display().to_string(), why });
        }
        Ok(())
    }

    /// Adds a chunk: beside its place, then into it.
    pub fn write(&self, id: &Id, packed: &[u8]) -> Result<(), StoreError> {
        let path = self.path(id);
        let failed = |source| StoreError::Write { id: hex(id), file: path.display().to_string(), source };
        let folder = path.parent().expect("a chunk has a folder");
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let beside = folder.join(format!("{TEMPORARY}-{}-{number}", std::process::id()));
        let write = || fs::write(&beside, packed);
        let written = write().or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => fs::create_dir_all(folder).and_then(|()| write()),
            _ => Err(error),
        });
        written.and_then(|()| fs::rename(&beside, &path)).map_err(|error| {
            // It is of no use, and would only lie there until the next pruning.
            let _ = fs::remove_file(&beside);
            failed(error)
        })
    }

    /// Brings all that was written to the disk.
    pub fn sync(&self) -> io::Result<()> {
        match File::open(&self.root) {
            Ok(folder) => Ok(rustix::fs::syncfs(&folder)?),
            // Nothing was written.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Gives every file of the store to `each`, in no order; folders and files that no store has are passed over.
    pub fn each(&self, mut each: impl FnMut(&Path, Entry) -> io::Result<()>) -> io::Result<()> {
        for folder in fs::read_dir(&self.root)? {
            let folder = folder?;
            let prefix = folder.file_name();
            let Some(prefix) = prefix.to_str().filter(|name| name.len() == 4) else { continue };
            if !folder.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                let name = file.file_name();
                let Some(name) = name.to_str() else { continue };
                if name.starts_with(TEMPORARY) {
                    each(&file.path(), Entry::Temporary)?;
                } else if let Some(id) = name.strip_suffix(SUFFIX).and_then(unhex)
                    && name.starts_with(prefix)
                {
                    each(&file.path(), Entry::Chunk(id))?;
                }
            }
        }
        Ok(())
    }
}

/// What lies in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Chunk(Id),
    /// Being written, or left behind.
    Temporary,
}

/// Packs chunks; one for each thread.
pub struct Packer {
    compressor: Compressor<'static>,
    packed: Vec<u8>,
}

impl Packer {
    pub fn new(level: i32) -> io::Result<Self> {
        Ok(Self { compressor: Compressor::new(level)?, packed: Vec::new() })
    }

    /// The chunk as one zstd frame, valid until the next call.
    pub fn pack(&mut self, chunk: &[u8]) -> io::Result<&[u8]> {
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(chunk.len()));
        self.compressor.compress_to_buffer(chunk, &mut self.packed)?;
        Ok(&self.packed)
    }
}

/// Fetches chunks and believes none of them; one for each thread.
pub struct ChunkReader {
    decompressor: Decompressor<'static>,
    packed: Vec<u8>,
}

impl ChunkReader {
    pub fn new() -> io::Result<Self> {
        Ok(Self { decompressor: Decompressor::new()?, packed: Vec::new() })
    }

    /// Fills `chunk`, whose length is the chunk's, from the first of `stores` that has it whole. Gives the bytes that were
    /// fetched for it.
    ///
    /// # Errors
    /// [`StoreError::Missing`] when none has it; else the first other failure.
    pub fn read(&mut self, stores: &[Store], digest: Digest, id: &Id, chunk: &mut [u8]) -> Result<u64, StoreError> {
        let mut first = None;
        for store in stores {
            let found = store.read(id, packed_max(chunk.len() as u64), &mut self.packed);
            match found.and_then(|()| self.unpack(digest, id, chunk, || store.name())) {
                Ok(()) => return Ok(self.packed.len() as u64),
                Err(error) => match first {
                    Some(StoreError::Missing { .. }) | None => first = Some(error),
                    Some(_) => {}
                },
            }
        }
        Err(first.unwrap_or_else(|| StoreError::Missing { id: hex(id), store: "any store: none was named".into() }))
    }

    fn unpack(
        &mut self,
        digest: Digest,
        id: &Id,
        chunk: &mut [u8],
        store: impl Fn() -> String,
    ) -> Result<(), StoreError> {
        let damaged = |why: String| StoreError::Damaged { id: hex(id), store: store(), why };
        let size = self.decompressor.decompress_to_buffer(&self.packed, chunk).map_err(|error| {
            damaged(format!("it cannot be unpacked into the {} bytes of the index: {error}", chunk.len()))
        })?;
        if size != chunk.len() {
            return Err(damaged(format!("it has {size} bytes, the index says {}", chunk.len())));
        }
        let found = digest.of(chunk);
        if found != *id {
            return Err(damaged(format!("its {} is {}", digest.name(), hex(&found))));
        }
        Ok(())
    }
}

/// Checks a packed chunk against nothing but its id, in little memory: a window of at most 8 MiB, and no more than `max` bytes are
/// unpacked. Gives its plain size and the digest that fits, or says what is wrong.
pub fn check_packed(packed: &[u8], id: &Id, first: Digest, max: u64) -> Result<(u64, Digest), String> {
    let mut found = None;
    for digest in [first, first.other()] {
        let (size, computed) = running_digest(packed, digest, max.min(CHUNK_SIZE_MAX))?;
        if computed == *id {
            return Ok((size, digest));
        }
        found = found.or(Some(computed));
    }
    Err(format!("its {} is {}", first.name(), hex(&found.expect("two digests were taken"))))
}

fn running_digest(packed: &[u8], digest: Digest, max: u64) -> Result<(u64, Id), String> {
    let unpack = |error: io::Error| format!("it cannot be unpacked: {error}");
    let mut decoder = zstd::stream::read::Decoder::with_buffer(packed).map_err(unpack)?;
    decoder.window_log_max(23).map_err(unpack)?;
    let mut running = digest.begin();
    let (mut size, mut piece) = (0, vec![0; 64 << 10]);
    loop {
        let count = decoder.read(&mut piece).map_err(unpack)?;
        if count == 0 {
            return Ok((size, running.finish()));
        }
        size += count as u64;
        if size > max {
            return Err(format!("it unpacks to more than {max} bytes"));
        }
        running.add(&piece[..count]);
    }
}
