//! Directories and files whose existence itself is made durable.

use crate::error::Error;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// Makes `path` and its missing parents, durably.
pub(crate) fn create_directory(path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(|e| Error::io("create the directory", path, e))?;
    // Which of the parents is new is not known: all are synced, up to the first that refuses.
    let absolute = path.canonicalize().map_err(|e| Error::io("open the directory", path, e))?;
    for parent in absolute.ancestors() {
        if File::open(parent).and_then(|directory| directory.sync_all()).is_err() {
            break;
        }
    }
    Ok(())
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|e| Error::io("sync the directory", path, e))
}

/// A directory that this handle alone may write. The lock goes with the handle, or with the process.
#[derive(Debug)]
pub(crate) struct LockedDirectory {
    path: PathBuf,
    handle: File,
}

impl LockedDirectory {
    /// Makes the directory if needed and locks it (`flock`).
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        create_directory(path)?;
        let handle = File::open(path).map_err(|e| Error::io("open the directory", path, e))?;
        match handle.try_lock() {
            Ok(()) => Ok(LockedDirectory { path: path.to_owned(), handle }),
            Err(TryLockError::WouldBlock) => Err(Error::InUse(path.to_owned())),
            Err(TryLockError::Error(e)) => Err(Error::io("lock the directory", path, e)),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the entries durable.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.handle.sync_all().map_err(|e| Error::io("sync the directory", &self.path, e))
    }
}
