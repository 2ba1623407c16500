//! A folder into an archive, as a stream.

use super::goodbye::{self, Item};
use super::{
    DEPTH_MAX, ENTRY, ENTRY_SIZE, FILENAME, FLAGS, HEADER_SIZE, NAME_MAX, OPEN_ENTRIES_MAX, PAYLOAD, SYMLINK,
    TARGET_MAX,
};
use crate::digest::Digest;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What is kept of that which is not content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Modification times; else all are 0.
    pub times: bool,
    /// Numbers of owner and group; else both are 0.
    pub owners: bool,
}

impl Default for Keep {
    fn default() -> Self {
        Self { times: true, owners: true }
    }
}

/// What went into the archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Encoded {
    pub file_count: u64,
    pub folder_count: u64,
    pub link_count: u64,
    /// Bytes of the archive.
    pub size: u64,
}

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("{path}: cannot be read")]
    Read { path: String, source: io::Error },
    #[error("{path}: {why}; it cannot be archived")]
    Refused { path: String, why: &'static str },
    #[error("the archive cannot be written")]
    Write(#[source] io::Error),
}

/// Writes all of `folder` to `sink`; `each` is told the bytes as they go. Of the files themselves nothing is written, not even their
/// access time. Links are kept as they are.
///
/// # Errors
/// Whatever is neither file, folder nor link, and whatever has a set-uid or set-gid bit, is refused by name: it could not be unpacked.
pub fn encode(
    folder: &Path,
    keep: Keep,
    digest: Digest,
    sink: &mut dyn Write,
    each: &dyn Fn(u64),
) -> Result<Encoded, EncodeError> {
    let flags = crate::caibx::flags(digest, Some(FLAGS));
    let mut encoder =
        Encoder { sink, position: 0, flags, keep, each, encoded: Encoded::default(), path: folder.to_owned(), open: 0 };
    // The root may be named through a link, nothing below it.
    let opened = open_folder(CWD, &c_string(folder.as_os_str()), OFlags::empty())
        .map_err(|error| encoder.unreadable(error.into()))?;
    let stat = rustix::fs::fstat(&opened).map_err(|error| encoder.unreadable(error.into()))?;
    encoder.folder(opened, &stat, 0)?;
    encoder.sink.flush().map_err(EncodeError::Write)?;
    encoder.encoded.size = encoder.position;
    Ok(encoder.encoded)
}

struct Encoder<'a> {
    sink: &'a mut dyn Write,
    position: u64,
    flags: u64,
    keep: Keep,
    each: &'a dyn Fn(u64),
    encoded: Encoded,
    /// What is being archived, for messages.
    path: PathBuf,
    /// Entries of the folders that are open.
    open: usize,
}

impl Encoder<'_> {
    fn folder(&mut self, folder: OwnedFd, stat: &Stat, depth: usize) -> Result<(), EncodeError> {
        if depth > DEPTH_MAX {
            return Err(self.refused("folders are nested more than 200 deep"));
        }
        self.encoded.folder_count += 1;
        let begin = self.position;
        self.entry(stat)?;
        let names = self.names(&folder)?;
        self.open += names.len();
        if self.open > OPEN_ENTRIES_MAX {
            return Err(self.refused("folders of more than a million entries are above it"));
        }
        let mut items = Vec::with_capacity(names.len());
        for name in &names {
            let filename = self.position;
            self.path.push(OsStr::from_bytes(name.to_bytes()));
            self.text(FILENAME, name.to_bytes())?;
            self.archive(&folder, name, depth + 1)?;
            self.path.pop();
            items.push(Item { begin: filename, end: self.position, hash: goodbye::hash(name.to_bytes()) });
        }
        self.open -= names.len();
        let element = goodbye::element(&mut items, begin, self.position);
        self.put(&element)
    }

    /// All names of the folder, in the order of their bytes.
    fn names(&self, folder: &OwnedFd) -> Result<Vec<CString>, EncodeError> {
        let read = || -> rustix::io::Result<Vec<CString>> {
            let mut names = Vec::new();
            for entry in rustix::fs::Dir::read_from(folder)? {
                let entry = entry?;
                if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    names.push(entry.file_name().to_owned());
                }
            }
            Ok(names)
        };
        let mut names = read().map_err(|error| self.unreadable(error.into()))?;
        names.sort_unstable();
        Ok(names)
    }

    fn archive(&mut self, folder: &OwnedFd, name: &CStr, depth: usize) -> Result<(), EncodeError> {
        if name.to_bytes().len() > NAME_MAX {
            return Err(self.refused("its name is longer than 255 bytes"));
        }
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| self.unreadable(error.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = open_folder(folder.as_fd(), name, OFlags::NOFOLLOW)
                    .map_err(|error| self.unreadable(error.into()))?;
                let stat = rustix::fs::fstat(&inner).map_err(|error| self.unreadable(error.into()))?;
                self.folder(inner, &stat, depth)
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let file = rustix::fs::openat(folder, name, flags, Mode::empty())
                    .map_err(|error| self.unreadable(error.into()))?;
                let stat = rustix::fs::fstat(&file).map_err(|error| self.unreadable(error.into()))?;
                self.file(File::from(file), &stat)
            }
            FileType::Symlink => {
                let target =
                    rustix::fs::readlinkat(folder, name, Vec::new()).map_err(|error| self.unreadable(error.into()))?;
                if target.to_bytes().len() > TARGET_MAX {
                    return Err(self.refused("its target is longer than 4095 bytes"));
                }
                self.encoded.link_count += 1;
                self.entry(&stat)?;
                self.text(SYMLINK, target.to_bytes())
            }
            _ => Err(self.refused("it is neither file, folder nor link")),
        }
    }

    fn file(&mut self, file: File, stat: &Stat) -> Result<(), EncodeError> {
        self.encoded.file_count += 1;
        self.entry(stat)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.words(&[HEADER_SIZE + size, PAYLOAD])?;
        let mut file = file.take(size);
        let mut piece = vec![0; usize::try_from(size.min(256 << 10)).expect("at most 256 KiB")];
        let mut left = size;
        while left > 0 {
            let count = match file.read(&mut piece) {
                Ok(0) => return Err(self.refused("it became shorter while it was read")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.unreadable(error)),
            };
            self.put(&piece[..count])?;
            left -= count as u64;
        }
        Ok(())
    }

    fn entry(&mut self, stat: &Stat) -> Result<(), EncodeError> {
        if stat.st_mode & 0o6000 != 0 {
            return Err(self.refused("it has a set-uid or set-gid bit"));
        }
        // Times before 1970 have no place in the format.
        let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
        let time = seconds.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec);
        let (uid, gid) = if self.keep.owners { (stat.st_uid, stat.st_gid) } else { (0, 0) };
        let time = if self.keep.times { time } else { 0 };
        let mode = u64::from(stat.st_mode);
        self.words(&[ENTRY_SIZE, ENTRY, self.flags, mode, 0, u64::from(uid), u64::from(gid), time])
    }

    fn text(&mut self, kind: u64, text: &[u8]) -> Result<(), EncodeError> {
        self.words(&[HEADER_SIZE + text.len() as u64 + 1, kind])?;
        self.put(text)?;
        self.put(&[0])
    }

    fn words(&mut self, words: &[u64]) -> Result<(), EncodeError> {
        let mut bytes = [0; 64];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        self.put(&bytes[..8 * words.len()])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.sink.write_all(bytes).map_err(EncodeError::Write)?;
        self.position += bytes.len() as u64;
        (self.each)(bytes.len() as u64);
        Ok(())
    }

    fn unreadable(&self, source: io::Error) -> EncodeError {
        EncodeError::Read { path: crate::error::shown(&self.path), source }
    }

    fn refused(&self, why: &'static str) -> EncodeError {
        EncodeError::Refused { path: crate::error::shown(&self.path), why }
    }
}

fn open_folder(above: rustix::fd::BorrowedFd<'_>, name: &CStr, more: OFlags) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(above, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | more, Mode::empty())
}

fn c_string(name: &OsStr) -> CString {
    // A path from the command line has no NUL in it; an empty one is refused by the system.
    CString::new(name.as_bytes()).unwrap_or_default()
}
