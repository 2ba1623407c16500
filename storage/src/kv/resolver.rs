//! Which transactions conflict: optimistic, by comparing what one read with what later ones wrote.
//! (H. T. Kung, J. T. Robinson, "On Optimistic Methods for Concurrency Control", 1981, backward validation.)

use crate::error::Error;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;

/// How many commits are remembered. A transaction that began before the oldest of them is too old.
const COMMITS_MAX: usize = 4096;
/// How many bytes of keys are remembered, whatever the number of commits.
const KEY_BYTES_MAX: usize = 32 << 20;

type Range = (Vec<u8>, Vec<u8>);

/// What a transaction has read.
#[derive(Debug, Default)]
pub(super) struct ReadSet {
    keys: BTreeSet<Vec<u8>>,
    ranges: Vec<Range>,
}

impl ReadSet {
    pub(super) fn add_key(&mut self, key: &[u8]) {
        self.keys.insert(key.to_owned());
    }

    pub(super) fn add_range(&mut self, begin: &[u8], end: &[u8]) {
        self.ranges.push((begin.to_owned(), end.to_owned()));
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_empty()
    }

    fn overlaps(&self, writes: &WriteSet) -> bool {
        let key_was_read =
            |key: &Vec<u8>| self.keys.contains(key) || self.ranges.iter().any(|(begin, end)| begin <= key && key < end);
        let range_was_read = |(begin, end): &Range| {
            self.keys.range::<[u8], _>((Bound::Included(&begin[..]), Bound::Excluded(&end[..]))).next().is_some()
                || self.ranges.iter().any(|(read_begin, read_end)| begin < read_end && read_begin < end)
        };
        writes.keys.iter().any(key_was_read) || writes.ranges.iter().any(range_was_read)
    }
}

/// What a commit has changed.
#[derive(Debug)]
pub(super) struct WriteSet {
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) ranges: Vec<Range>,
}

impl WriteSet {
    fn key_bytes(&self) -> usize {
        let keys: usize = self.keys.iter().map(Vec::len).sum();
        keys + self.ranges.iter().map(|(begin, end)| begin.len() + end.len()).sum::<usize>()
    }
}

/// The write sets of the latest commits. The newest has the version `version`, those before count down.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    version: u64,
    recent: VecDeque<WriteSet>,
    key_bytes: usize,
}

impl Resolver {
    /// Refuses a transaction that read at `read_version` when something of it was changed since.
    pub(super) fn check(&self, read_version: u64, reads: &ReadSet) -> Result<(), Error> {
        if reads.is_empty() {
            return Ok(());
        }
        let newer = usize::try_from(self.version - read_version).unwrap_or(usize::MAX);
        if newer > self.recent.len() {
            return Err(Error::TooOld);
        }
        if self.recent.iter().rev().take(newer).any(|writes| reads.overlaps(writes)) {
            return Err(Error::Conflict);
        }
        Ok(())
    }

    /// Remembers a commit and gives it its version.
    pub(super) fn record(&mut self, writes: WriteSet) -> u64 {
        self.version += 1;
        self.key_bytes += writes.key_bytes();
        self.recent.push_back(writes);
        while self.recent.len() > COMMITS_MAX || self.key_bytes > KEY_BYTES_MAX {
            let Some(oldest) = self.recent.pop_front() else { break };
            self.key_bytes -= oldest.key_bytes();
        }
        self.version
    }
}
