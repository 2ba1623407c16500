//! Writes records in groups, one sync each.

use super::record::{HEADER_BYTES, Header};
use super::scan::Scan;
use super::segments::{Segments, segment_path};
use crate::error::Error;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

/// The only writer of a journal. After an error it must not be used again.
#[derive(Debug)]
pub(crate) struct Appender {
    segments: Arc<Segments>,
    segment_bytes: u64,
    epoch: u64,
    next_lsn: u64,
    previous_crc: u32,
    /// `None` until the first append: a start of its own never writes into an old segment.
    active: Option<Active>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Active {
    file: File,
    path: PathBuf,
    offset: u64,
    capacity: u64,
}

impl Appender {
    /// Begins at `next_lsn`, behind the records that `scan` found, whose torn tail must be cut already.
    pub(crate) fn new(
        segments: Arc<Segments>,
        segment_bytes: u64,
        epoch: u64,
        next_lsn: u64,
        previous_crc: u32,
    ) -> Self {
        Appender { segments, segment_bytes, epoch, next_lsn, previous_crc, active: None, buffer: Vec::new() }
    }

    /// Writes `payloads` as the next records and syncs them. Returns the last lsn, which is durable then.
    pub(crate) fn append_group<'p>(&mut self, payloads: impl Iterator<Item = &'p [u8]>) -> Result<u64, Error> {
        let mut synced_lsn = self.next_lsn - 1;
        for payload in payloads {
            let needed = (HEADER_BYTES + payload.len()) as u64;
            let waiting = self.buffer.len() as u64;
            let fits = self.active.as_ref().is_some_and(|active| active.offset + waiting + needed <= active.capacity);
            if !fits {
                self.seal()?;
                synced_lsn = self.next_lsn - 1;
                self.active = Some(self.create_segment(needed)?);
            }
            let header = Header {
                length: 0,
                lsn: self.next_lsn,
                epoch: self.epoch,
                synced_lsn,
                previous_crc: self.previous_crc,
                crc: 0,
            };
            self.previous_crc = header.write(payload, &mut self.buffer);
            self.next_lsn += 1;
        }
        self.write_and_sync()?;
        Ok(self.next_lsn - 1)
    }

    fn write_and_sync(&mut self) -> Result<(), Error> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let write = active.file.write_all_at(&self.buffer, active.offset);
        write.map_err(|e| Error::io("write the segment", &active.path, e))?;
        active.file.sync_data().map_err(|e| Error::io("sync the segment", &active.path, e))?;
        active.offset += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(1 << 20);
        Ok(())
    }

    /// Makes the active segment whole before the next one exists.
    fn seal(&mut self) -> Result<(), Error> {
        self.write_and_sync()?;
        match self.active.take() {
            Some(active) => cut(&active.file, active.offset, &active.path),
            None => Ok(()),
        }
    }

    fn create_segment(&self, needed: u64) -> Result<Active, Error> {
        let capacity = self.segment_bytes.max(needed);
        let path = segment_path(self.segments.directory().path(), self.next_lsn);
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        let file = file.map_err(|e| Error::io("create the segment", &path, e))?;
        match fallocate(&file, FallocateFlags::empty(), 0, capacity) {
            Ok(()) => {}
            // Some file systems cannot: then the sync of each group writes the length, too.
            Err(Errno::OPNOTSUPP) => file.set_len(capacity).map_err(|e| Error::io("extend the segment", &path, e))?,
            Err(e) => return Err(Error::io("preallocate the segment", &path, e)),
        }
        file.sync_all().map_err(|e| Error::io("sync the segment", &path, e))?;
        self.segments.directory().sync()?;
        self.segments.push(self.next_lsn);
        Ok(Active { file, path, offset: 0, capacity })
    }
}

/// Cuts what lies behind the last whole record of a scanned journal, durably, so that no later scan sees it. Segments
/// without a record go away.
pub(crate) fn cut_tail(segments: &Segments, scan: &mut Scan) -> Result<(), Error> {
    let Some(&first_lsn) = scan.segments.last() else { return Ok(()) };
    if scan.last_segment_end == 0 {
        scan.segments.pop();
        return segments.remove(first_lsn);
    }
    let path = segment_path(segments.directory().path(), first_lsn);
    let file = OpenOptions::new().write(true).open(&path).map_err(|e| Error::io("open the segment", &path, e))?;
    cut(&file, scan.last_segment_end, &path)
}

fn cut(file: &File, length: u64, path: &std::path::Path) -> Result<(), Error> {
    file.set_len(length).and_then(|()| file.sync_all()).map_err(|e| Error::io("cut the segment", path, e))
}
