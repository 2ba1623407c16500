//! Small files that are there whole or not at all: written beside their place, synced, renamed into it.

use crate::error::TaskError;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// For what only its owner may read: keys, tokens, settings.
pub const PRIVATE: u32 = 0o600;
/// For what a web server serves.
pub const PUBLIC: u32 = 0o644;

/// How names end of what is not in its place yet.
pub const LEFTOVER: &str = ".tmp";

/// Replaces `file` by `bytes`, with these permission bits, and makes its folder (0700 if the file is private, else 0755).
/// After a crash the old or the new content is there.
pub fn write(file: &Path, bytes: &[u8], mode: u32) -> Result<(), TaskError> {
    write_io(file, bytes, mode).map_err(|source| TaskError::unwritable(file, source))
}

/// The same, for those who say themselves what cannot be written.
pub fn write_io(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(folder, if mode == PRIVATE { 0o700 } else { 0o755 })?;
    let beside = beside(file);
    let written = (|| {
        let mut opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        opened.write_all(bytes)?;
        opened.sync_all()?;
        fs::rename(&beside, file)
    })();
    if written.is_err() {
        // Whatever is left of it helps nobody; the failure itself is what is told.
        let _ = fs::remove_file(&beside);
    }
    written?;
    File::open(folder)?.sync_all()
}

/// A name in the same folder that nobody else uses.
fn beside(file: &Path) -> PathBuf {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    file.with_file_name(format!(".{name}.{}.{:08x}{LEFTOVER}", std::process::id(), rand::random::<u32>()))
}

/// Removes from a folder what killed processes left beside its files. Whoever calls it is alone in writing there.
pub fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for item in fs::read_dir(folder)? {
        let item = item?;
        let name = item.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(LEFTOVER) {
            fs::remove_file(item.path())?;
        }
    }
    Ok(())
}

/// Makes a folder and those above it.
pub fn make_folder(folder: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(folder)
}

/// The file, at most `max` bytes of it, or `None` when there is none. A longer one is refused.
pub fn read(file: &Path, max: u64) -> Result<Option<Vec<u8>>, TaskError> {
    let opened = match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|source| TaskError::unreadable(file, source))?,
    };
    let mut bytes = Vec::new();
    opened.take(max + 1).read_to_end(&mut bytes).map_err(|source| TaskError::unreadable(file, source))?;
    if bytes.len() as u64 > max {
        let why = io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than the {max} bytes allowed"));
        return Err(TaskError::unreadable(file, why));
    }
    Ok(Some(bytes))
}

/// Holds `file` (made if missing) locked until the result is dropped; waits for whoever holds it.
pub fn lock(file: &Path) -> Result<File, TaskError> {
    let opened = open_lock(file).map_err(|source| TaskError::unwritable(file, source))?;
    opened.lock().map_err(|source| TaskError::unwritable(file, source))?;
    Ok(opened)
}

/// The same without waiting: `None` when another process holds it.
pub fn try_lock(file: &Path) -> io::Result<Option<File>> {
    let opened = open_lock(file)?;
    match opened.try_lock() {
        Ok(()) => Ok(Some(opened)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn open_lock(file: &Path) -> io::Result<File> {
    if let Some(folder) = file.parent() {
        make_folder(folder, 0o700)?;
    }
    OpenOptions::new().create(true).truncate(false).write(true).mode(PRIVATE).open(file)
}
