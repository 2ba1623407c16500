//! What redb keeps its file in.

use super::DiskFile;
use crate::sync::locked;
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

const BLOCK_BYTES: usize = 4096;

/// A file of a [`super::Disk`]. Locking it is left to whoever opens it: the lock must outlive redb's last write.
#[derive(Debug)]
pub struct RedbBackend(Box<dyn DiskFile>);

impl RedbBackend {
    /// Takes a file that is open to read and write; an empty one becomes a new database.
    pub fn new(file: Box<dyn DiskFile>) -> Self {
        RedbBackend(file)
    }
}

impl StorageBackend for RedbBackend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// A file that is only read: what redb writes stays in memory and goes with the handle.
#[derive(Debug)]
pub(crate) struct ScratchBackend {
    file: Box<dyn DiskFile>,
    changed: Mutex<Changed>,
}

#[derive(Debug)]
struct Changed {
    len: u64,
    /// How far the file's own bytes count.
    base_len: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK_BYTES]>>,
}

impl ScratchBackend {
    pub(crate) fn new(file: Box<dyn DiskFile>) -> io::Result<Self> {
        let len = file.len()?;
        Ok(ScratchBackend { file, changed: Mutex::new(Changed { len, base_len: len, blocks: BTreeMap::new() }) })
    }
}

impl Changed {
    /// Block `index` as the file has it.
    fn base(&self, file: &dyn DiskFile, index: u64) -> io::Result<Box<[u8; BLOCK_BYTES]>> {
        let mut block = Box::new([0; BLOCK_BYTES]);
        let start = index * BLOCK_BYTES as u64;
        let there = self.base_len.saturating_sub(start).min(BLOCK_BYTES as u64) as usize;
        file.read_exact_at(&mut block[..there], start)?;
        Ok(block)
    }
}

/// The pieces of `length` bytes from `offset` on: block, place in it, place in the bytes.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % BLOCK_BYTES as u64) as usize;
        let piece = (length - done).min(BLOCK_BYTES - within);
        let part = done..done + piece;
        done += piece;
        (piece > 0).then(|| (at / BLOCK_BYTES as u64, within..within + piece, part))
    })
}

impl StorageBackend for ScratchBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(locked(&self.changed).len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changed = locked(&self.changed);
        if offset + out.len() as u64 > changed.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (index, within, part) in pieces(offset, out.len()) {
            match changed.blocks.get(&index) {
                Some(block) => out[part].copy_from_slice(&block[within]),
                None => out[part].copy_from_slice(&changed.base(&*self.file, index)?[within]),
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changed = locked(&self.changed);
        if len < changed.len {
            changed.base_len = changed.base_len.min(len);
            changed.blocks.retain(|index, _| index * BLOCK_BYTES as u64 <= len);
            if let Some(block) = changed.blocks.get_mut(&(len / BLOCK_BYTES as u64)) {
                block[(len % BLOCK_BYTES as u64) as usize..].fill(0);
            }
        }
        changed.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changed = locked(&self.changed);
        changed.len = changed.len.max(offset + data.len() as u64);
        for (index, within, part) in pieces(offset, data.len()) {
            if !changed.blocks.contains_key(&index) {
                let block = changed.base(&*self.file, index)?;
                changed.blocks.insert(index, block);
            }
            if let Some(block) = changed.blocks.get_mut(&index) {
                block[within].copy_from_slice(&data[part]);
            }
        }
        Ok(())
    }
}
