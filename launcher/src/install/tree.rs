//! The files of a version on the disk: looked at, read, written, linked.

use super::beneath::Folder;
use super::keep::Keep;
use super::root::Record;
use crate::manifest::{Chunk, Entry, Id, Kind, Manifest};
use crate::pack::digest;
use rayon::prelude::*;
use rustix::fs::{FileType, Stat};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Mutex;

/// How unchanged files come from the old version into the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Links {
    /// Reflinks where the file system has them; else hard links to files that cannot be written, unless the user is root, whom that does not
    /// stop; else copies.
    Auto,
    /// Hard links: no bytes twice, but a program that writes to a file in spite of its mode damages both versions.
    Hard,
    /// Copies that share their bytes until one is written to, or plain copies.
    Copy,
}

/// What is decided in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    Reflink,
    Hard,
    Copy,
}

impl Links {
    /// Finds out what the file system of the installation can do.
    pub(crate) fn decide(self, root: &Folder) -> Link {
        let reflinks = || -> io::Result<()> {
            use std::io::Write;
            let (from, to) = (".vsekai/probe.a", ".vsekai/probe.b");
            let mut file = root.write(from)?;
            file.write_all(&[1; 4_096])?;
            let cloned = rustix::fs::ioctl_ficlone(root.write(to)?, &file);
            root.remove(from)?;
            root.remove(to)?;
            Ok(cloned?)
        };
        match self {
            Self::Hard => Link::Hard,
            _ if reflinks().is_ok() => Link::Reflink,
            Self::Auto if !rustix::process::geteuid().is_root() => Link::Hard,
            _ => Link::Copy,
        }
    }
}

/// The mode of a file that the installation owns: nobody may write to it, so that a hard link is one file only for readers.
pub(crate) fn mode(executable: bool, kept: bool) -> u32 {
    match (executable, kept) {
        (false, false) => 0o444,
        (true, false) => 0o555,
        (false, true) => 0o644,
        (true, true) => 0o755,
    }
}

pub(crate) fn modified_ns(stat: &Stat) -> i64 {
    stat.st_mtime.wrapping_mul(1_000_000_000).wrapping_add(stat.st_mtime_nsec as i64)
}

/// Size and time of the last change, as records have them.
pub(crate) fn stats(folder: &Folder, manifest: &Manifest) -> io::Result<Vec<(u64, i64)>> {
    let stat = |entry: &Entry| match entry.kind {
        Kind::File { .. } => {
            Ok(folder.stat(&entry.path)?.map_or((0, 0), |stat| (stat.st_size as u64, modified_ns(&stat))))
        }
        _ => Ok((0, 0)),
    };
    manifest.entries.iter().map(stat).collect()
}

/// The entries that are not as the record says, without reading a file. What belongs to the player is as it should be.
pub(crate) fn changed(folder: &Folder, manifest: &Manifest, record: &Record, keep: &Keep) -> io::Result<Vec<u32>> {
    if record.files.len() != manifest.entries.len() {
        return Ok((0..manifest.entries.len() as u32).collect());
    }
    let mut changed = vec![];
    for (number, entry) in manifest.entries.iter().enumerate() {
        let sound = match (&entry.kind, folder.stat(&entry.path)?) {
            _ if keep.has(&entry.path) => true,
            (_, None) => false,
            (Kind::Folder, Some(stat)) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
            (Kind::Link { target }, Some(_)) => folder.link_target(&entry.path)?.as_ref() == Some(target),
            (Kind::File { size, executable, .. }, Some(stat)) => {
                FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                    && (stat.st_size as u64, modified_ns(&stat)) == record.files[number]
                    && stat.st_size as u64 == *size
                    && (stat.st_mode & 0o100 != 0) == *executable
            }
        };
        if !sound {
            changed.push(number as u32);
        }
    }
    Ok(changed)
}

/// The entries whose bytes are not what the manifest says: every file is read. What belongs to the player is as it should be.
pub(crate) fn damaged(
    folder: &Folder,
    manifest: &Manifest,
    keep: &Keep,
    advance: &(dyn Fn(u64) + Sync),
) -> io::Result<Vec<u32>> {
    let sound = |entry: &Entry| -> io::Result<bool> {
        if keep.has(&entry.path) {
            return Ok(true);
        }
        let Some(stat) = folder.stat(&entry.path)? else { return Ok(false) };
        match &entry.kind {
            Kind::Folder => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
            Kind::Link { target } => Ok(folder.link_target(&entry.path)?.as_ref() == Some(target)),
            Kind::File { size, executable, blake3, .. } => {
                let plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
                if !plain || stat.st_size as u64 != *size || (stat.st_mode & 0o100 != 0) != *executable {
                    return Ok(false);
                }
                Ok(file_digest(folder.read(&entry.path)?, advance)? == *blake3)
            }
        }
    };
    // What cannot be read is damaged: a bad sector must not keep the rest from being looked at.
    let bad = manifest.entries.par_iter().enumerate().filter(|(_, entry)| !sound(entry).unwrap_or(false));
    Ok(bad.map(|(number, _)| number as u32).collect())
}

/// BLAKE3 of a file.
pub(crate) fn file_digest(mut file: File, advance: &(dyn Fn(u64) + Sync)) -> io::Result<Id> {
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; 256 << 10];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hasher.finalize().into()),
            Ok(count) => {
                hasher.update(&piece[..count]);
                advance(count as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Paths beneath that are in no manifest and do not belong to the player.
pub(crate) fn extra(folder: &Folder, manifest: &Manifest, keep: &Keep) -> io::Result<Vec<String>> {
    let mut extra = vec![];
    folder.walk(&mut |path, kind| {
        if kind != FileType::Directory && manifest.entry(path).is_none() && !keep.has(path) {
            extra.push(path.to_owned());
        }
        Ok(())
    })?;
    extra.sort();
    Ok(extra)
}

/// Which of a file's chunks are where they should be. A file of another size is read as far as it goes.
pub(crate) fn sound_chunks<'a>(file: &File, chunks: impl Iterator<Item = &'a Chunk>) -> Vec<bool> {
    let (mut offset, mut buffer) = (0, vec![]);
    chunks
        .map(|chunk| {
            buffer.resize(chunk.size as usize, 0);
            let sound = file.read_exact_at(&mut buffer, offset).is_ok() && digest(&buffer) == chunk.id;
            offset += u64::from(chunk.size);
            sound
        })
        .collect()
}

/// Copies a file's bytes, sharing them where the file system can.
pub(crate) fn copy(from: &Folder, from_path: &str, to: &Folder, to_path: &str, reflink: bool) -> io::Result<u64> {
    let mut source = from.read(from_path)?;
    to.remove(to_path)?;
    to.make_folders_above(to_path)?;
    let mut target = to.write(to_path)?;
    if reflink && rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(source.metadata()?.len());
    }
    io::copy(&mut source, &mut target)
}

/// Copies what belongs to the player as it is: bytes, mode, time, links.
pub(crate) fn copy_kept(
    from: &Folder,
    to: &Folder,
    path: &str,
    kind: FileType,
    through: Option<&str>,
) -> io::Result<()> {
    let place = through.unwrap_or(path);
    match kind {
        FileType::Directory => to.make_folders(path),
        FileType::Symlink => {
            let Some(target) = from.link_target(path)? else { return Ok(()) };
            to.make_folders_above(path)?;
            to.remove(path)?;
            to.symlink(path, &target)
        }
        FileType::RegularFile => {
            copy(from, path, to, place, true)?;
            let (source, target) = (from.read(path)?.metadata()?, to.read(place)?);
            let mode = source.permissions().mode() & 0o777 | 0o600;
            target.set_permissions(std::fs::Permissions::from_mode(mode))?;
            target.set_modified(source.modified()?)
        }
        // Sockets and pipes are not saves.
        _ => Ok(()),
    }
}

/// The files of a version that is being built, written by several threads at any place.
pub(crate) struct Staging<'a> {
    pub folder: &'a Folder,
    pub manifest: &'a Manifest,
    /// For each entry: whether it is put together here.
    assembled: Vec<bool>,
    /// Files opened last: what comes together lies together.
    open: Mutex<Vec<(u32, std::sync::Arc<File>)>>,
}

const OPEN_MAX: usize = 16;

impl<'a> Staging<'a> {
    pub fn new(folder: &'a Folder, manifest: &'a Manifest, assembled: Vec<bool>) -> Self {
        Self { folder, manifest, assembled, open: Mutex::new(vec![]) }
    }

    pub fn assembled(&self, entry: u32) -> bool {
        self.assembled[entry as usize]
    }

    pub fn file(&self, entry: u32) -> io::Result<std::sync::Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(at) = open.iter().position(|(number, _)| *number == entry) {
            return Ok(open[at].1.clone());
        }
        let file = std::sync::Arc::new(self.folder.write(&self.manifest.entries[entry as usize].path)?);
        if open.len() == OPEN_MAX {
            open.remove(0);
        }
        open.push((entry, file.clone()));
        Ok(file)
    }

    pub fn write(&self, entry: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(entry)?.write_all_at(bytes, offset)
    }
}
