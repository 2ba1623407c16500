//! The layer between this crate and the disk, so that every promise of durability can be tried against a disk that fails.
//!
//! - [`RealDisk`]: the operating system's files.
//! - [`SimulatedDisk`]: files in memory that lose what was not synced, tear writes, fill up and rot, as a test says.
//! - [`RedbBackend`]: a file of either as the storage of redb.
//! - `lock`: a directory with one writer at a time, which another process can take over.
//!
//! What POSIX promises, and no more, is what callers may rely on: a write is on disk once a sync of its file returned, the
//! creation, renaming or removal of a file once a sync of its directory returned; a rename is atomic.

mod lock;
mod real;
mod redb_backend;
mod simulated;
#[cfg(test)]
mod tests;

pub(crate) use lock::{LockedDirectory, open_locked};
pub use real::RealDisk;
pub use redb_backend::RedbBackend;
pub(crate) use redb_backend::ScratchBackend;
pub use simulated::{CrashChoice, Moment, SECTOR_BYTES, SimulatedDisk};

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// To read; it must be there.
    Read,
    /// To read and write; it must be there.
    Existing,
    /// To read and write; it must not be there yet.
    CreateNew,
    /// To read and write; made when missing, otherwise left as it is.
    OpenOrCreate,
}

/// Which file something is, whatever its name: two are equal when they are the same file. Valid while one of them is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    /// The device (file system).
    pub device: u64,
    /// The inode on it.
    pub inode: u64,
}

/// Files by path. Errors are the operating system's, also those of a simulation.
pub trait Disk: Send + Sync + Debug {
    /// Makes `path` and its missing parents, durably. Nothing happens when it is there.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Opens a file. Its entry in the directory, when new, is durable only after [`Disk::sync_directory`].
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name in the same directory, in place of the file that has it, atomically. Durable after
    /// [`Disk::sync_directory`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name. Durable after [`Disk::sync_directory`].
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The paths of all that is in a directory, in no order.
    fn list(&self, directory: &Path) -> io::Result<Vec<PathBuf>>;

    /// True when something has that name.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// A whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Makes the entries of a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Which file has that name now.
    fn identity(&self, path: &Path) -> io::Result<FileIdentity>;

    /// Bytes that this process may still write below `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// An open file. It can be used from several threads at once; offsets are given with each call.
pub trait DiskFile: Send + Sync + Debug {
    /// Fills `bytes` from `offset` on; [`io::ErrorKind::UnexpectedEof`] when the file ends before.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`; the file grows as needed.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes content and length durable. After an error nothing is known of what was written since the last sync, and a
    /// second sync that returns `Ok` says nothing about it either.
    fn sync_data(&self) -> io::Result<()>;

    /// The same, and the file's other properties.
    fn sync_all(&self) -> io::Result<()>;

    /// Cuts the file, or extends it by zeros.
    fn set_len(&self, length: u64) -> io::Result<()>;

    /// The file's length.
    fn len(&self) -> io::Result<u64>;

    /// True when the file's length is 0.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Extends the file to `length` by zeros and takes the room for them now, so that writing there can't find the disk
    /// full. Where the file system can't, it only extends.
    fn preallocate(&self, length: u64) -> io::Result<()>;

    /// Locks the file for this handle alone, or says that another one, of this or another process, has it locked. The lock
    /// goes with the handle, or with the process. Locks bind only those who ask for them.
    fn try_lock(&self) -> io::Result<bool>;

    /// Gives the lock back.
    fn unlock(&self) -> io::Result<()>;

    /// Which file this is.
    fn identity(&self) -> io::Result<FileIdentity>;
}
