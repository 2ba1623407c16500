//! Reads and checks a whole journal, changing nothing, and says where a torn tail begins.

use super::record::{HEADER_BYTES, Header, MAGIC, NoRecord, record_at};
use super::segments::{list, segment_path};
use super::synced::synced_lsn;
use crate::disk::{Disk, OpenMode};
use crate::error::Error;
use std::io;
use std::path::{Path, PathBuf};

/// What a journal holds.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// First lsns of all segments, rising.
    pub(crate) segments: Vec<u64>,
    /// First lsns of segments that are not part of the journal, and may go: what a process has written after another one
    /// had taken the journal over.
    pub(crate) strays: Vec<u64>,
    /// The last whole record.
    pub(crate) last: Option<Last>,
    /// Where the records end in the last segment.
    pub(crate) last_segment_end: u64,
    /// True when behind that end there is something else than the zeros of preallocation.
    pub(crate) torn: bool,
    /// Up to here the journal was synced once, as far as it is known.
    pub(crate) synced_lsn: u64,
    /// Where the next record would stand, for people.
    end: String,
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

    /// The lsn of the last whole record; 0 when there is none.
    pub(crate) fn last_lsn(&self) -> u64 {
        self.last.as_ref().map_or(0, |last| last.header.lsn)
    }

    /// Refuses a journal that has lost records at its end which had been synced, unless the store has them: it ends at the
    /// record `stored_lsn`.
    pub(crate) fn check_end(&self, stored_lsn: u64) -> Result<(), Error> {
        if self.synced_lsn <= self.last_lsn().max(stored_lsn) {
            return Ok(());
        }
        let detail = format!("it is missing or damaged, but records up to {} had been synced", self.synced_lsn);
        Err(Error::corrupt(format!("record {} at {}", self.last_lsn() + 1, self.end), detail))
    }
}

/// Scans the journal in `directory`. `visit` sees each record's header, in order.
///
/// Only the tail of the last segment may be torn. A bad record is damage, and an error that names segment and offset,
/// when it is not in the last segment, or when a later record was written after the bad one had been synced.
///
/// Of the last group nobody has written that it was synced, but the mark beside the segments: [`Scan::check_end`] looks at
/// that, and is to be asked before anything is changed.
pub(crate) fn scan(
    disk: &dyn Disk,
    directory: &Path,
    mut visit: impl FnMut(&Header) -> Result<(), Error>,
) -> Result<Scan, Error> {
    // Before the segments, so that it is not ahead of them when somebody appends meanwhile.
    let synced_lsn = synced_lsn(disk, directory)?;
    let (segments, strays) = without_strays(disk, directory, list(disk, directory)?)?;
    let end = format!("the end of {}", directory.display());
    let mut scan = Scan { segments, strays, synced_lsn, end, ..Scan::default() };
    for (index, &first_lsn) in scan.segments.iter().enumerate() {
        let next_segment = scan.segments.get(index + 1).copied();
        let path = segment_path(directory, first_lsn);
        let bytes = disk.read(&path).map_err(|e| Error::io("read the segment", &path, e))?;
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
                scan.end = format!("offset {} of {}", segment.offset, segment.path.display());
                scan.torn = bytes[segment.offset..].iter().any(|byte| *byte != 0);
            }
        }
    }
    Ok(scan)
}

/// Tells the segments of the journal from strays.
///
/// A process that is stopped while it writes a group may, when it goes on, make one more segment before it finds out that
/// another has taken the journal over, and dies. That segment begins in the middle of what the other writes, under an epoch
/// that had passed, or never got a record. Nothing in it was reported: that takes a look at the lock.
fn without_strays(disk: &dyn Disk, directory: &Path, all: Vec<u64>) -> Result<(Vec<u64>, Vec<u64>), Error> {
    let last = all.last().copied();
    let mut highest_epoch = 0;
    let (mut segments, mut strays) = (Vec::new(), Vec::new());
    for first_lsn in all {
        let is_stray = match first_record(disk, &segment_path(directory, first_lsn))? {
            First::Epoch(epoch) => {
                let has_passed = epoch < highest_epoch;
                highest_epoch = highest_epoch.max(epoch);
                has_passed
            }
            First::Never => Some(first_lsn) != last && !segments.is_empty(),
            First::Bad => false,
        };
        if is_stray { strays.push(first_lsn) } else { segments.push(first_lsn) }
    }
    Ok((segments, strays))
}

/// What stands at the beginning of a segment.
enum First {
    /// A whole record of that epoch. All others in the segment are of the same.
    Epoch(u64),
    /// Nothing, in the whole segment.
    Never,
    Bad,
}

fn first_record(disk: &dyn Disk, path: &Path) -> Result<First, Error> {
    let read = || -> io::Result<First> {
        let file = disk.open(path, OpenMode::Read)?;
        let length = file.len()?;
        let mut head = [0; HEADER_BYTES];
        if length >= HEADER_BYTES as u64 {
            file.read_exact_at(&mut head, 0)?;
        }
        if head == [0; HEADER_BYTES] {
            let is_empty = disk.read(path)?.iter().all(|byte| *byte == 0);
            return Ok(if is_empty { First::Never } else { First::Bad });
        }
        let Ok(header) = Header::read(&head) else { return Ok(First::Bad) };
        if (HEADER_BYTES as u64) + u64::from(header.length) > length {
            return Ok(First::Bad);
        }
        let mut payload = vec![0; header.length as usize];
        file.read_exact_at(&mut payload, HEADER_BYTES as u64)?;
        Ok(if header.matches(&head, &payload) { First::Epoch(header.epoch) } else { First::Bad })
    };
    read().map_err(|e| Error::io("read the segment", path, e))
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
