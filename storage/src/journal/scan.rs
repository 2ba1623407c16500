//! Reads and checks a whole journal, changing nothing, and says where a torn tail begins.

use super::record::{HEADER_BYTES, Header, MAGIC, NoRecord, record_at};
use super::segments::{list, segment_path};
use crate::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// What a journal holds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// First lsns of all segments, rising.
    pub(crate) segments: Vec<u64>,
    /// The last whole record.
    pub(crate) last: Option<Last>,
    /// Where the records end in the last segment.
    pub(crate) last_segment_end: u64,
    /// True when behind that end there is something else than the zeros of preallocation.
    pub(crate) torn: bool,
}

/// The last whole record of a journal.
#[derive(Debug)]
pub(crate) struct Last {
    pub(crate) header: Header,
    pub(crate) payload: Vec<u8>,
}

impl Scan {
    /// The lsn of the first record, whether it was written yet or not.
    pub(crate) fn first_lsn(&self) -> Option<u64> {
        self.segments.first().copied()
    }
}

/// Scans the journal in `directory`. `visit` sees each record's header, in order.
///
/// Only the tail of the last segment may be torn. A bad record is damage, and an error that names segment and offset,
/// when it is not in the last segment, or when a later record was written after the bad one had been synced.
pub(crate) fn scan(directory: &Path, mut visit: impl FnMut(&Header) -> Result<(), Error>) -> Result<Scan, Error> {
    let segments = list(directory)?;
    let mut scan = Scan { segments, ..Scan::default() };
    for (index, &first_lsn) in scan.segments.iter().enumerate() {
        let next_segment = scan.segments.get(index + 1).copied();
        let path = segment_path(directory, first_lsn);
        let bytes = fs::read(&path).map_err(|e| Error::io("read the segment", &path, e))?;
        let mut segment = Segment { path, bytes: &bytes, offset: 0, next_lsn: first_lsn };
        let mut last = None;
        while next_segment != Some(segment.next_lsn) {
            let Some((header, payload)) = segment.next(next_segment.is_none())? else { break };
            segment
                .check_link(&header, last.map(|(header, _)| header).or(scan.last.as_ref().map(|last| last.header)))?;
            visit(&header)?;
            segment.offset += HEADER_BYTES + payload.len();
            segment.next_lsn += 1;
            last = Some((header, payload));
        }
        if let Some((header, payload)) = last {
            scan.last = Some(Last { header, payload: payload.to_owned() });
        }
        match next_segment {
            Some(next) if segment.next_lsn < next => {
                let missing = format!("records {} to {} behind it are missing", segment.next_lsn, next - 1);
                return Err(Error::corrupt(segment.path.display().to_string(), missing));
            }
            Some(_) => {}
            None => {
                scan.last_segment_end = segment.offset as u64;
                scan.torn = bytes[segment.offset..].iter().any(|byte| *byte != 0);
            }
        }
    }
    Ok(scan)
}

struct Segment<'b> {
    path: PathBuf,
    bytes: &'b [u8],
    offset: usize,
    next_lsn: u64,
}

impl<'b> Segment<'b> {
    /// The next record, or `None` where the file ends or its tail may be cut.
    fn next(&self, is_last: bool) -> Result<Option<(Header, &'b [u8])>, Error> {
        if self.offset == self.bytes.len() {
            return Ok(None);
        }
        match record_at(self.bytes, self.offset) {
            Ok(record) => Ok(Some(record)),
            Err(NoRecord::NewerVersion(version)) => {
                Err(self.corrupt(format!("it has format version {version}, this build knows 1")))
            }
            Err(NoRecord::Bad) if !is_last => Err(self.corrupt("it is damaged, and later segments exist".into())),
            Err(NoRecord::Bad) => match self.synced_after() {
                Some(later) => Err(self.corrupt(format!("it is damaged, but record {later} behind it is whole"))),
                None => Ok(None),
            },
        }
    }

    /// The record must be the one that follows the one before.
    fn check_link(&self, header: &Header, before: Option<Header>) -> Result<(), Error> {
        if header.lsn != self.next_lsn {
            return Err(self.corrupt(format!("its number is {}", header.lsn)));
        }
        match before {
            Some(before) if before.crc != header.previous_crc => Err(self.corrupt("it follows another record".into())),
            Some(before) if before.epoch > header.epoch => {
                Err(self.corrupt(format!("its epoch {} is a past one", header.epoch)))
            }
            _ => Ok(()),
        }
    }

    /// The lsn of a whole record somewhere behind that was written when the one expected here had been synced.
    fn synced_after(&self) -> Option<u64> {
        let plausible = 0..=(self.bytes.len() / HEADER_BYTES) as u64;
        let mut at = self.offset + 1;
        while let Some(found) = self.bytes.get(at..)?.iter().position(|byte| *byte == MAGIC[0]) {
            at += found;
            // The cheap checks first: a payload may hold the magic many times.
            let head = self.bytes.get(at..at + HEADER_BYTES).and_then(|head| head.first_chunk());
            if let Some(Ok(header)) = head.map(Header::read)
                && header.lsn >= self.next_lsn
                && plausible.contains(&(header.lsn - self.next_lsn))
                && header.synced_lsn >= self.next_lsn
                && record_at(self.bytes, at).is_ok()
            {
                return Some(header.lsn);
            }
            at += 1;
        }
        None
    }

    fn corrupt(&self, detail: String) -> Error {
        let place = format!("record {} at offset {} of {}", self.next_lsn, self.offset, self.path.display());
        Error::corrupt(place, detail)
    }
}
