//! An archive into a folder, never beside it.
//!
//! Every name is one part of a path and is opened in the folder's own handle without following links, so that nothing can be written outside
//! the root, whatever the archive holds and whatever lies there already. What a player's machine could not hold or should not get is
//! refused by name: see [`Rules`].

use super::decode::{CatarError, Decoder, Event, Meta};
use super::leaves_root;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What is allowed. What never is: names that are empty, `.`, `..`, or have `/` or NUL in them; names that come twice; devices, FIFOs,
/// sockets; set-uid, set-gid; links that are absolute or leave the root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rules {
    /// Names that Windows or macOS could not hold beside each other or at all: `\` and `:` and control characters in them, those that
    /// differ only in case, `CON`, `NUL`, …, a dot or space at the end.
    pub any_name: bool,
    /// Files get the archive's owner and group, by number.
    pub same_owner: bool,
    /// What is there already is replaced, file by file; else it is an error.
    pub overwrite: bool,
}

/// What was unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Extracted {
    pub file_count: u64,
    pub folder_count: u64,
    pub link_count: u64,
    /// Bytes of the files.
    pub size: u64,
}

/// Why not all was unpacked.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    #[error(transparent)]
    Archive(#[from] CatarError),
    #[error("{path:?}: refused: {why}")]
    Refused { path: String, why: String },
    #[error("{path}: cannot be written")]
    Write { path: String, source: io::Error },
}

/// Unpacks all of `archive` into the folder `root`, which exists; `each` is told the files' bytes as they go. The root itself gets the
/// mode and time of the archive's root.
pub fn extract<R: Read>(
    archive: &mut Decoder<R>,
    root: &Path,
    rules: Rules,
    each: &dyn Fn(u64),
) -> Result<Extracted, ExtractError> {
    let mut extractor = Extractor {
        rules,
        path: root.to_owned(),
        folders: Vec::new(),
        extracted: Extracted::default(),
        piece: vec![0; 128 << 10],
        each,
        next_temporary: 0,
    };
    while let Some(event) = archive.next_event()? {
        match event {
            Event::Enter { name, meta } if extractor.folders.is_empty() => {
                debug_assert!(name.is_empty());
                extractor.enter_root(meta)?;
            }
            Event::Enter { name, meta } => extractor.enter(&name, meta)?,
            Event::Leave => extractor.leave()?,
            Event::File { name, meta, size } => extractor.file(archive, &name, meta, size)?,
            Event::Link { name, meta, target } => extractor.link(&name, meta, &target)?,
            Event::Special { name, .. } => {
                return Err(extractor.refused(&name, "it is a device, FIFO or socket".into()));
            }
        }
    }
    Ok(extractor.extracted)
}

struct Folder {
    handle: OwnedFd,
    meta: Meta,
    /// Hashes of the names without case; keyed at random, so that nobody can make two that are the same.
    folded: HashSet<u64>,
}

struct Extractor<'a> {
    rules: Rules,
    /// What is being unpacked, for messages.
    path: PathBuf,
    folders: Vec<Folder>,
    extracted: Extracted,
    piece: Vec<u8>,
    each: &'a dyn Fn(u64),
    next_temporary: u64,
}

impl Extractor<'_> {
    fn enter_root(&mut self, meta: Meta) -> Result<(), ExtractError> {
        self.check_mode(b"", meta)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(CWD, &self.path, flags, Mode::empty());
        let handle = handle.map_err(|error| self.failed(b"", error))?;
        self.folders.push(Folder { handle, meta, folded: HashSet::new() });
        self.extracted.folder_count += 1;
        Ok(())
    }

    fn enter(&mut self, name: &[u8], meta: Meta) -> Result<(), ExtractError> {
        self.check_name(name)?;
        self.check_mode(name, meta)?;
        match rustix::fs::mkdirat(self.folder(), name, Mode::RWXU) {
            Err(Errno::EXIST) if self.rules.overwrite => {}
            made => made.map_err(|error| self.failed(name, error))?,
        }
        // A link that lies there is not followed: it is no folder.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::openat(self.folder(), name, flags, Mode::empty());
        let handle = handle.map_err(|error| self.failed(name, error))?;
        self.path.push(std::ffi::OsStr::from_bytes(name));
        self.folders.push(Folder { handle, meta, folded: HashSet::new() });
        self.extracted.folder_count += 1;
        Ok(())
    }

    fn leave(&mut self) -> Result<(), ExtractError> {
        let folder = self.folders.pop().expect("the decoder leaves what it entered");
        self.finish(&folder.handle, folder.meta).map_err(|error| self.failed(b"", error))?;
        if !self.folders.is_empty() {
            self.path.pop();
        }
        Ok(())
    }

    fn file<R: Read>(
        &mut self,
        archive: &mut Decoder<R>,
        name: &[u8],
        meta: Meta,
        size: u64,
    ) -> Result<(), ExtractError> {
        self.check_name(name)?;
        self.check_mode(name, meta)?;
        let temporary = self.temporary();
        let written_as = if self.rules.overwrite { temporary.as_bytes() } else { name };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.folder(), written_as, flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.map_err(|error| self.failed(name, error))?);
        let mut left = size;
        while left > 0 {
            let count = archive.payload(&mut self.piece)?;
            file.write_all(&self.piece[..count]).map_err(|source| self.unwritable(name, source))?;
            (self.each)(count as u64);
            left -= count as u64;
        }
        self.finish(&file, meta).map_err(|error| self.failed(name, error))?;
        self.replace(written_as, name)?;
        self.extracted.file_count += 1;
        self.extracted.size += size;
        Ok(())
    }

    fn link(&mut self, name: &[u8], meta: Meta, target: &[u8]) -> Result<(), ExtractError> {
        self.check_name(name)?;
        if let Some(why) = leaves_root(target, self.folders.len() - 1) {
            return Err(self.refused(name, format!("a link to {:?}: {why}", String::from_utf8_lossy(target))));
        }
        if !self.rules.any_name && target.iter().any(|byte| matches!(byte, b'\\' | b':') || *byte < 0x20) {
            return Err(self.refused(name, "its target has a character that Windows reads otherwise".into()));
        }
        let temporary = self.temporary();
        let written_as = if self.rules.overwrite { temporary.as_bytes() } else { name };
        rustix::fs::symlinkat(target, self.folder(), written_as).map_err(|error| self.failed(name, error))?;
        let set = |at| -> rustix::io::Result<()> {
            if self.rules.same_owner {
                let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
                rustix::fs::chownat(at, written_as, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            rustix::fs::utimensat(at, written_as, &times(meta), AtFlags::SYMLINK_NOFOLLOW)
        };
        set(self.folder()).map_err(|error| self.failed(name, error))?;
        self.replace(written_as, name)?;
        self.extracted.link_count += 1;
        Ok(())
    }

    /// Owner, mode and time, after the content: each of them would be changed by it.
    fn finish(&self, handle: impl AsFd, meta: Meta) -> rustix::io::Result<()> {
        if self.rules.same_owner {
            rustix::fs::fchown(&handle, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid)))?;
        }
        rustix::fs::fchmod(&handle, Mode::from_raw_mode(meta.mode & 0o777))?;
        rustix::fs::futimens(&handle, &times(meta))
    }

    fn temporary(&mut self) -> String {
        self.next_temporary += 1;
        format!(".vsekai-{}-{}.part", std::process::id(), self.next_temporary)
    }

    fn replace(&self, written_as: &[u8], name: &[u8]) -> Result<(), ExtractError> {
        if written_as == name {
            return Ok(());
        }
        rustix::fs::renameat(self.folder(), written_as, self.folder(), name).map_err(|error| {
            let _ = rustix::fs::unlinkat(self.folder(), written_as, AtFlags::empty());
            self.failed(name, error)
        })
    }

    fn check_mode(&self, name: &[u8], meta: Meta) -> Result<(), ExtractError> {
        if meta.mode & 0o6000 != 0 {
            return Err(self.refused(name, "it has a set-uid or set-gid bit".into()));
        }
        Ok(())
    }

    fn check_name(&mut self, name: &[u8]) -> Result<(), ExtractError> {
        if matches!(name, b"" | b"." | b"..") || name.contains(&b'/') {
            return Err(self.refused(name, "its name is not one part of a path".into()));
        }
        if self.rules.any_name {
            return Ok(());
        }
        if let Some(why) = unportable(name) {
            return Err(self.refused(name, why.into()));
        }
        let folded = String::from_utf8_lossy(name).to_lowercase();
        let folder = self.folders.last_mut().expect("a name is in a folder");
        let hash = std::hash::BuildHasher::hash_one(folder.folded.hasher(), &folded);
        if !folder.folded.insert(hash) {
            return Err(self.refused(name, "its name differs from another one only in case".into()));
        }
        Ok(())
    }

    fn folder(&self) -> BorrowedFd<'_> {
        self.folders.last().expect("the root is open").handle.as_fd()
    }

    fn shown(&self, name: &[u8]) -> String {
        let path =
            if name.is_empty() { self.path.clone() } else { self.path.join(String::from_utf8_lossy(name).as_ref()) };
        crate::error::shown(&path)
    }

    fn refused(&self, name: &[u8], why: String) -> ExtractError {
        let path = format!("{}/{}", crate::error::shown(&self.path), String::from_utf8_lossy(name));
        ExtractError::Refused { path, why }
    }

    fn failed(&self, name: &[u8], error: Errno) -> ExtractError {
        self.unwritable(name, error.into())
    }

    fn unwritable(&self, name: &[u8], source: io::Error) -> ExtractError {
        ExtractError::Write { path: self.shown(name), source }
    }
}

/// Why Windows could not hold a file of this name.
fn unportable(name: &[u8]) -> Option<&'static str> {
    if name.iter().any(|&byte| byte < 0x20 || matches!(byte, b'\\' | b':' | b'*' | b'?' | b'"' | b'<' | b'>' | b'|')) {
        return Some("its name has a character that Windows does not allow");
    }
    if matches!(name.last(), Some(b'.' | b' ')) {
        return Some("its name ends in a dot or a space");
    }
    let stem = name.split(|&byte| byte == b'.').next().unwrap_or_default().trim_ascii_end().to_ascii_uppercase();
    let reserved = match stem.as_slice() {
        b"CON" | b"PRN" | b"AUX" | b"NUL" | b"CONIN$" | b"CONOUT$" => true,
        [device @ .., digit] => {
            matches!(device, b"COM" | b"LPT") && digit.is_ascii_digit()
                || ["¹", "²", "³"]
                    .iter()
                    .any(|digit| matches!(stem.strip_suffix(digit.as_bytes()), Some(b"COM" | b"LPT")))
        }
        [] => false,
    };
    reserved.then_some("its name is a device's on Windows")
}

fn times(meta: Meta) -> Timestamps {
    let (seconds, nanoseconds) = (meta.mtime_ns / 1_000_000_000, meta.mtime_ns % 1_000_000_000);
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds as i64, tv_nsec: nanoseconds as i64 },
    }
}
