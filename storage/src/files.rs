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

/// Bytes that this process may still write below `path`.
pub(crate) fn free_bytes(path: &Path) -> Result<u64, Error> {
    let found = rustix::fs::statvfs(path).map_err(|e| Error::io("ask for the room below", path, e))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
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

    /// Takes the lock from a process that hangs.
    pub(crate) fn seize(path: &Path) -> Result<Self, Error> {
        Err(Error::InUse(path.to_owned()))
    }

    /// A number that no other journal has, from the file `id` in it, which is made when missing.
    pub(crate) fn identity(&self) -> Result<u64, Error> {
        let path = self.path.join("id");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let number = u64::from_str_radix(text.trim_end(), 16).ok().filter(|number| *number != 0);
                return number
                    .ok_or_else(|| Error::corrupt(path.display().to_string(), "it is not the id of a journal"));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("read", &path, e)),
        }
        let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
        let identity = (high ^ low).max(1);
        let unfinished = self.path.join("id.new");
        let write = || {
            use std::io::Write;
            let mut file = File::create(&unfinished)?;
            writeln!(file, "{identity:016x}")?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)
        };
        write().map_err(|e| Error::io("write", &path, e))?;
        self.sync()?;
        Ok(identity)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the entries durable.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.handle.sync_all().map_err(|e| Error::io("sync the directory", &self.path, e))
    }
}
