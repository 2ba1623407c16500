//! Reads durable records in order, while others are appended behind them.

use super::record::{HEADER_BYTES, Header};
use super::segments::{Segments, segment_path};
use crate::disk::{DiskFile, OpenMode};
use crate::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

/// A place in the journal.
#[derive(Debug)]
pub(crate) struct Tail {
    segments: Arc<Segments>,
    next_lsn: u64,
    open: Option<OpenSegment>,
}

#[derive(Debug)]
struct OpenSegment {
    first_lsn: u64,
    file: Box<dyn DiskFile>,
    path: PathBuf,
    offset: u64,
}

/// One record as it was read.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) lsn: u64,
    pub(crate) epoch: u64,
    pub(crate) payload: Vec<u8>,
}

impl Tail {
    /// Begins at the record `next_lsn`.
    pub(crate) fn new(segments: Arc<Segments>, next_lsn: u64) -> Self {
        Tail { segments, next_lsn, open: None }
    }

    /// The lsn of the next record.
    #[cfg(test)]
    pub(crate) fn next_lsn(&self) -> u64 {
        self.next_lsn
    }

    /// The next records, up to `durable_lsn`, and no more than `bytes_max` of payload unless the first alone has more.
    pub(crate) fn read_batch(&mut self, durable_lsn: u64, bytes_max: usize) -> Result<Vec<Record>, Error> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while self.next_lsn <= durable_lsn && bytes < bytes_max {
            let record = self.read_next()?;
            bytes += record.payload.len();
            batch.push(record);
        }
        Ok(batch)
    }

    fn read_next(&mut self) -> Result<Record, Error> {
        let lsn = self.next_lsn;
        let Some(first_lsn) = self.segments.holding(lsn) else {
            let directory = self.segments.directory().path().display().to_string();
            return Err(Error::corrupt(directory, format!("the segment that holds record {lsn} is missing")));
        };
        let mut open = match self.open.take() {
            Some(open) if open.first_lsn == first_lsn => open,
            _ => self.open_at(first_lsn, lsn)?,
        };
        let (header, payload) = open.read()?;
        if header.lsn != lsn {
            return Err(open.corrupt(lsn, format!("its number is {}", header.lsn)));
        }
        open.offset += (HEADER_BYTES + payload.len()) as u64;
        self.open = Some(open);
        self.next_lsn += 1;
        Ok(Record { lsn, epoch: header.epoch, payload })
    }

    /// Opens the segment and goes to `lsn` in it.
    fn open_at(&self, first_lsn: u64, lsn: u64) -> Result<OpenSegment, Error> {
        let directory = self.segments.directory();
        let path = segment_path(directory.path(), first_lsn);
        let file = directory.disk().open(&path, OpenMode::Read).map_err(|e| Error::io("open the segment", &path, e))?;
        let mut open = OpenSegment { first_lsn, file, path, offset: 0 };
        for _ in first_lsn..lsn {
            let (header, _) = open.read_header()?;
            open.offset += HEADER_BYTES as u64 + u64::from(header.length);
        }
        Ok(open)
    }
}

impl OpenSegment {
    fn read_header(&self) -> Result<(Header, [u8; HEADER_BYTES]), Error> {
        let mut head = [0; HEADER_BYTES];
        let read = self.file.read_exact_at(&mut head, self.offset);
        read.map_err(|e| Error::io("read the segment", &self.path, e))?;
        let header = Header::read(&head).map_err(|_| self.corrupt(0, "it is damaged".into()))?;
        Ok((header, head))
    }

    fn read(&self) -> Result<(Header, Vec<u8>), Error> {
        let (header, head) = self.read_header()?;
        let mut payload = vec![0; header.length as usize];
        let read = self.file.read_exact_at(&mut payload, self.offset + HEADER_BYTES as u64);
        read.map_err(|e| Error::io("read the segment", &self.path, e))?;
        if !header.matches(&head, &payload) {
            return Err(self.corrupt(header.lsn, "it is damaged".into()));
        }
        Ok((header, payload))
    }

    fn corrupt(&self, lsn: u64, detail: String) -> Error {
        Error::corrupt(format!("record {lsn} at offset {} of {}", self.offset, self.path.display()), detail)
    }
}
