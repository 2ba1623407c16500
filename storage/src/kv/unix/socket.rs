//! The socket's file, and who may serve at it.
//!
//! A server holds the lock on the file `SOCKET.lock` for as long as any commit of its clients may be in flight. So who
//! can have that lock knows that the server is dead or has finished, and who can't knows that it lives, though it may hang.

use crate::error::Error;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fs::{self, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How many clients may wait to be accepted.
const BACKLOG: i32 = 128;
/// A client that looks whether a server lives takes the lock for a moment: a starting server tries again for so long.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The right to serve at one path. Dropping it removes the socket and lets another server in.
#[derive(Debug)]
pub(super) struct Claim {
    path: PathBuf,
    socket: FileId,
    lock: File,
}

/// Device and inode.
type FileId = (u64, u64);

impl Claim {
    /// Binds a socket that only this user can connect to. The socket of a dead server is replaced; where a live one
    /// serves, this is [`Error::InUse`].
    pub(super) fn take(path: &Path) -> Result<(Self, UnixListener), Error> {
        let lock = lock(path)?;
        remove_stale(path)?;
        let failed = |action| move |e: rustix::io::Errno| Error::io(action, path, e);
        let address = SocketAddrUnix::new(path).map_err(failed("use as the name of a socket (at most 107 bytes)"))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(failed("make a socket for"))?;
        rustix::net::bind(&socket, &address).map_err(failed("make the socket"))?;
        // Nobody can connect before `listen`, so nobody can before the mode is right.
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(|e| Error::io("protect", path, e))?;
        rustix::net::listen(&socket, BACKLOG).map_err(failed("listen at"))?;
        let socket_id = fs::symlink_metadata(path).map_err(|e| Error::io("look at", path, e))?;
        Ok((Claim { path: path.to_owned(), socket: id_of(&socket_id), lock }, socket.into()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // What now has another's name is another's. A file that can't be removed is replaced by the next server.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| id_of(&found) == self.socket) {
            let _ = fs::remove_file(&self.path);
        }
        let lock_path = lock_path(&self.path);
        if is_at(&self.lock, &lock_path) {
            let _ = fs::remove_file(&lock_path);
        }
    }
}

fn lock(path: &Path) -> Result<File, Error> {
    let lock_path = lock_path(path);
    let began = Instant::now();
    loop {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let file = file.map_err(|e| Error::io("open", &lock_path, e))?;
        match file.try_lock() {
            // It may have been removed by who had it before: then the one that has the name now counts.
            Ok(()) if is_at(&file, &lock_path) => return Ok(file),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) if began.elapsed() > LOCK_PATIENCE => return Err(Error::InUse(path.into())),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(e)) => return Err(Error::io("lock", &lock_path, e)),
        }
    }
}

/// Makes room for a new socket. Nothing but the socket of a dead server is removed.
fn remove_stale(path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("look at", path, e)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Error::Config(format!("{} is there and no socket: choose another path", path.display())));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        // A server of another kind: one of ours would hold the lock.
        Ok(_) => Err(Error::InUse(path.to_owned())),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|e| Error::io("remove the stale socket", path, e))
        }
        Err(e) => Err(Error::io("connect to", path, e)),
    }
}

/// Connects, waiting no longer than `timeout` for a place in the server's queue. Reads and writes have that timeout, too.
pub(super) fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(timeout))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(timeout))?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket.into())
}

/// The lock file of the server at `path`, to see later whether it still lives. To be opened while it is known to live.
pub(super) fn sign_of_life(path: &Path) -> Option<File> {
    File::open(lock_path(path)).ok()
}

/// True when nobody holds that lock any more: the server is dead, or has stopped after the last commit.
pub(super) fn is_dead(sign_of_life: &File) -> bool {
    let is_free = sign_of_life.try_lock_shared().is_ok();
    if is_free {
        // Closing the file would do it, too: then it would be held for the rest of the connection's life.
        let _ = sign_of_life.unlock();
    }
    is_free
}

fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}

fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(held), Ok(found)) => id_of(&held) == id_of(&found),
        _ => false,
    }
}

fn id_of(metadata: &fs::Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}
