//! A directory with one writer at a time, which another process can take over while the writer hangs.
//!
//! The lock is one on the file `lock` in the directory. Who takes over puts a locked file of its own in that one's place:
//! the old holder keeps a lock on a file without a name, and sees that as soon as it looks.
//!
//! The old holder must look after each sync and before it tells anybody that something is durable; the new one takes over
//! first and reads afterwards. Then all that the old holder told was written before it looked, so before the takeover, so
//! the new one reads it.

use super::{Disk, DiskFile, FileIdentity, OpenMode};
use crate::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use uuid::Uuid;

const LOCK: &str = "lock";
const IDENTITY: &str = "id";
/// Ending of the names of unfinished files.
const UNFINISHED: &str = "new";

/// A directory that this handle alone may write. The lock goes with the handle, or with the process.
#[derive(Debug)]
pub(crate) struct LockedDirectory {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Open as long as the lock is held, so that no other file can get its identity.
    _lock: Box<dyn DiskFile>,
    lock_identity: FileIdentity,
}

impl LockedDirectory {
    /// Makes the directory if needed and locks it. [`Error::InUse`] when another handle has it.
    pub(crate) fn open(disk: &Arc<dyn Disk>, path: &Path) -> Result<Self, Error> {
        create_directory(&**disk, path)?;
        let lock_path = path.join(LOCK);
        match open_locked(&**disk, &lock_path, OpenMode::OpenOrCreate)? {
            Some(lock) => Self::new(disk, path, lock),
            None => Err(Error::InUse(path.to_owned())),
        }
    }

    /// Takes the directory over from a process that hangs. To be called only when it is known to hang: nothing here can
    /// tell, and of two that take over at once the later one has it.
    pub(crate) fn seize(disk: &Arc<dyn Disk>, path: &Path) -> Result<Self, Error> {
        create_directory(&**disk, path)?;
        let own_path = path.join(format!("{LOCK}.{}.{UNFINISHED}", Uuid::new_v4().simple()));
        let lock = disk.open(&own_path, OpenMode::CreateNew);
        let lock = lock.map_err(|e| Error::io("create the lock", &own_path, e))?;
        if !lock.try_lock().map_err(|e| Error::io("lock", &own_path, e))? {
            return Err(Error::InUse(path.to_owned()));
        }
        let held = Self::new(disk, path, lock)?;
        let lock_path = path.join(LOCK);
        disk.rename(&own_path, &lock_path).map_err(|e| Error::io("take over the lock", &lock_path, e))?;
        held.sync()?;
        Ok(held)
    }

    fn new(disk: &Arc<dyn Disk>, path: &Path, lock: Box<dyn DiskFile>) -> Result<Self, Error> {
        let lock_identity = lock.identity().map_err(|e| Error::io("look at the lock in", path, e))?;
        Ok(LockedDirectory { disk: disk.clone(), path: path.to_owned(), _lock: lock, lock_identity })
    }

    /// False once another process has taken the directory over, or the lock file is gone. One system call.
    pub(crate) fn still_held(&self) -> Result<bool, Error> {
        let lock_path = self.path.join(LOCK);
        is_at(&*self.disk, self.lock_identity, &lock_path)
    }

    /// [`Error::Seized`] when it is held no more.
    pub(crate) fn check_held(&self) -> Result<(), Error> {
        if self.still_held()? { Ok(()) } else { Err(Error::Seized(self.path.clone())) }
    }

    /// A number that no other journal has, from the file `id` in it, which is made when missing.
    pub(crate) fn identity(&self) -> Result<u64, Error> {
        let path = self.path.join(IDENTITY);
        match self.disk.read(&path) {
            Ok(bytes) => {
                let text = std::str::from_utf8(&bytes).ok();
                let number = text.and_then(|text| u64::from_str_radix(text.trim_end(), 16).ok());
                let number = number.filter(|number| *number != 0);
                return number
                    .ok_or_else(|| Error::corrupt(path.display().to_string(), "it is not the id of a journal"));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("read", &path, e)),
        }
        let (high, low) = Uuid::new_v4().as_u64_pair();
        let identity = (high ^ low).max(1);
        let unfinished = path.with_extension(UNFINISHED);
        let write = || {
            let file = self.disk.open(&unfinished, OpenMode::OpenOrCreate)?;
            file.set_len(0)?;
            file.write_all_at(format!("{identity:016x}\n").as_bytes(), 0)?;
            file.sync_all()
        };
        write().map_err(|e| Error::io("write", &unfinished, e))?;
        self.check_held()?;
        self.disk.rename(&unfinished, &path).map_err(|e| Error::io("name", &path, e))?;
        self.sync()?;
        Ok(identity)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Bytes that this process may still write on the disk that the directory is on.
    pub(crate) fn free_bytes(&self) -> Result<u64, Error> {
        self.disk.free_bytes(&self.path).map_err(|e| Error::io("ask for the room below", &self.path, e))
    }

    /// Makes the entries durable.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.disk.sync_directory(&self.path).map_err(|e| Error::io("sync the directory", &self.path, e))
    }
}

fn create_directory(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    disk.create_directory(path).map_err(|e| Error::io("create the directory", path, e))
}

/// Opens the file at `path` with its lock; `None` when another handle has that.
pub(crate) fn open_locked(disk: &dyn Disk, path: &Path, mode: OpenMode) -> Result<Option<Box<dyn DiskFile>>, Error> {
    loop {
        let file = disk.open(path, mode).map_err(|e| Error::io("open", path, e))?;
        if !file.try_lock().map_err(|e| Error::io("lock", path, e))? {
            return Ok(None);
        }
        // Between the two calls it may have been replaced: then the one that has the name now counts.
        if is_at(disk, file.identity().map_err(|e| Error::io("look at", path, e))?, path)? {
            return Ok(Some(file));
        }
    }
}

fn is_at(disk: &dyn Disk, identity: FileIdentity, path: &Path) -> Result<bool, Error> {
    match disk.identity(path) {
        Ok(found) => Ok(found == identity),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("look at", path, e)),
    }
}
