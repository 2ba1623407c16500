//! How far the journal was synced, beside it: the file `synced`.
//!
//! Each record says how far the journal was synced before it, so that damage can be told from a torn write; for the records
//! of the last group nobody says so. This file does. It is written after each group's sync, and never synced itself: that
//! would double the cost of a group, and what it says is true whenever it reaches the disk. After a killed process it is
//! always up to date. After a power failure it is at least as old as the last time the operating system has written it
//! back, some seconds, and then a last group that rotted can't be told from one that was torn.
//!
//! Two slots of one sector each, written by turns, so that one is always whole; the larger number counts. A slot, all
//! numbers little-endian: `magic "VJS1" · lsn u64 · crc32c of those u32`, zeros to the sector's end.

use crate::disk::{Disk, DiskFile, OpenMode, SECTOR_BYTES};
use crate::error::Error;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const MAGIC: [u8; 4] = *b"VJS1";
const SLOTS: u64 = 2;
const SLOT_BYTES: usize = 16;

/// The file, open to write.
#[derive(Debug)]
pub(crate) struct SyncedMark {
    file: Box<dyn DiskFile>,
    path: PathBuf,
    next_slot: u64,
}

impl SyncedMark {
    /// Opens the file, or makes it; its entry is durable once the directory is synced.
    pub(crate) fn open(disk: &dyn Disk, directory: &Path) -> Result<Self, Error> {
        let path = path_in(directory);
        let file = disk.open(&path, OpenMode::OpenOrCreate).map_err(|e| Error::io("open", &path, e))?;
        Ok(SyncedMark { file, path, next_slot: 0 })
    }

    /// Says that the journal is synced up to `lsn`, which must be so already.
    pub(crate) fn write(&mut self, lsn: u64) -> Result<(), Error> {
        let mut slot = [0; SECTOR_BYTES as usize];
        slot[..4].copy_from_slice(&MAGIC);
        slot[4..12].copy_from_slice(&lsn.to_le_bytes());
        let crc = crc32c::crc32c(&slot[..12]);
        slot[12..SLOT_BYTES].copy_from_slice(&crc.to_le_bytes());
        let written = self.file.write_all_at(&slot, self.next_slot * SECTOR_BYTES);
        written.map_err(|e| Error::io("write", &self.path, e))?;
        self.next_slot = (self.next_slot + 1) % SLOTS;
        Ok(())
    }
}

/// How far the journal in `directory` is known to have been synced; 0 when that is not known. A damaged slot says nothing.
pub(crate) fn synced_lsn(disk: &dyn Disk, directory: &Path) -> Result<u64, Error> {
    let path = path_in(directory);
    let bytes = match disk.read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(Error::io("read", &path, e)),
    };
    let slots = bytes.chunks(SECTOR_BYTES as usize).take(SLOTS as usize);
    Ok(slots.filter_map(slot_lsn).max().unwrap_or(0))
}

fn slot_lsn(slot: &[u8]) -> Option<u64> {
    let (fields, crc) = slot.get(..SLOT_BYTES)?.split_at(12);
    let (magic, lsn) = fields.split_at(4);
    let is_whole = magic == MAGIC && crc32c::crc32c(fields).to_le_bytes() == crc;
    is_whole.then_some(u64::from_le_bytes(lsn.try_into().ok()?))
}

fn path_in(directory: &Path) -> PathBuf {
    directory.join("synced")
}
