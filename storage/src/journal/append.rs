//! Writes records in groups, one sync each.

use super::record::{HEADER_BYTES, Header};
use super::scan::Scan;
use super::segments::{Segments, segment_path};
use super::synced::SyncedMark;
use crate::disk::{DiskFile, OpenMode};
use crate::error::Error;
use crate::planted::{Bug, is_planted};
use std::io;
use std::path::{Path, PathBuf};
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
    /// `None` until then, too.
    mark: Option<SyncedMark>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Active {
    file: Box<dyn DiskFile>,
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
        Appender {
            segments,
            segment_bytes,
            epoch,
            next_lsn,
            previous_crc,
            active: None,
            mark: None,
            buffer: Vec::new(),
        }
    }

    /// Writes `payloads` as the next records and syncs them. Returns the last lsn, which is durable then, and may be told to
    /// anybody: [`Error::Seized`] if another process has taken the journal over and might not have seen these records.
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
        // After the sync and before anybody is told (`disk::lock`).
        if !is_planted(Bug::SeizureIgnored) {
            self.segments.directory().check_held()?;
        }
        let last_lsn = self.next_lsn - 1;
        if let Some(mark) = &mut self.mark {
            mark.write(last_lsn)?;
        }
        Ok(last_lsn)
    }

    fn write_and_sync(&mut self) -> Result<(), Error> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let write = active.file.write_all_at(&self.buffer, active.offset);
        write.map_err(|e| Error::io("write the segment", &active.path, e))?;
        if !is_planted(Bug::JournalSyncSkipped) {
            active.file.sync_data().map_err(|e| Error::io("sync the segment", &active.path, e))?;
        }
        active.offset += self.buffer.len() as u64;
        self.buffer.clear();
        self.buffer.shrink_to(1 << 20);
        Ok(())
    }

    /// Makes the active segment whole before the next one exists.
    fn seal(&mut self) -> Result<(), Error> {
        self.write_and_sync()?;
        match self.active.take() {
            Some(active) => cut(&*active.file, active.offset, &active.path),
            None => Ok(()),
        }
    }

    fn create_segment(&mut self, needed: u64) -> Result<Active, Error> {
        let capacity = self.segment_bytes.max(needed);
        let directory = self.segments.directory();
        let path = segment_path(directory.path(), self.next_lsn);
        let create = || directory.disk().open(&path, OpenMode::CreateNew);
        let file = create().or_else(|e| {
            if e.kind() != io::ErrorKind::AlreadyExists {
                return Err(Error::io("create the segment", &path, e));
            }
            // Whoever holds the journal has removed all that was there: this one was made since by a process that had been
            // stopped and taken over. It reports nothing of what it writes there.
            directory.check_held()?;
            directory.disk().remove(&path).map_err(|e| Error::io("remove a stray segment", &path, e))?;
            create().map_err(|e| Error::io("create the segment", &path, e))
        })?;
        file.preallocate(capacity).map_err(|e| Error::io("preallocate the segment", &path, e))?;
        file.sync_all().map_err(|e| Error::io("sync the segment", &path, e))?;
        if self.mark.is_none() {
            self.mark = Some(SyncedMark::open(directory.disk(), directory.path())?);
        }
        directory.sync()?;
        self.segments.push(self.next_lsn);
        Ok(Active { file, path, offset: 0, capacity })
    }
}

/// Cuts what lies behind the last whole record of a scanned journal, durably, so that no later scan sees it. Segments
/// without a record, and strays, go away.
pub(crate) fn cut_tail(segments: &Segments, scan: &mut Scan) -> Result<(), Error> {
    // What was scanned is this process's to change only if nobody had taken over when the scan ended: then none of these
    // segments is of the one who did.
    segments.directory().check_held()?;
    for stray in std::mem::take(&mut scan.strays) {
        tracing::warn!(
            first_lsn = stray,
            "a segment was written after its process had lost the journal; it is removed"
        );
        segments.remove(stray)?;
    }
    let Some(&first_lsn) = scan.segments.last() else { return Ok(()) };
    if scan.last_segment_end == 0 {
        scan.segments.pop();
        return segments.remove(first_lsn);
    }
    let directory = segments.directory();
    let path = segment_path(directory.path(), first_lsn);
    let file = directory.disk().open(&path, OpenMode::Existing).map_err(|e| Error::io("open the segment", &path, e))?;
    cut(&*file, scan.last_segment_end, &path)
}

fn cut(file: &dyn DiskFile, length: u64, path: &Path) -> Result<(), Error> {
    file.set_len(length).and_then(|()| file.sync_all()).map_err(|e| Error::io("cut the segment", path, e))
}
