//! What a shard tells its storage.

use crate::error::Error;
use crate::kv::StoreUrl;
use std::ops::RangeInclusive;
use std::path::PathBuf;

const FLUSH_INTERVAL_MS: RangeInclusive<u64> = 1..=3_600_000;
const SEGMENT_BYTES: RangeInclusive<u64> = 4 << 10..=1 << 30;
const BACKLOG_BYTES: RangeInclusive<u64> = 4 << 10..=1 << 44;
const LEASE_TTL_MS: RangeInclusive<u64> = 100..=600_000;
const TRANSACTION_BYTES: RangeInclusive<u64> = 4 << 10..=9_000_000;
const FLUSH_THREADS: RangeInclusive<u64> = 1..=64;

/// Where the world is kept, and how much may wait on its way there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The store: `local:DIR` (one file in that directory), `unix:SOCKET` (served by another process), `fdb:CLUSTER_FILE`
    /// (FoundationDB) or `mem:` (nothing survives the process).
    pub store_url: String,
    /// The directory that holds the journal's segments and nothing else; made when missing.
    pub journal_dir: PathBuf,
    /// How long changes wait before they are folded into the store, 1 to 3,600,000 ms.
    pub flush_interval_ms: u64,
    /// Size to which a journal segment is preallocated, 4 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// How many bytes of frames may wait in the queue and in the journal until the store has them, 4 KiB to 16 TiB.
    /// Beyond it [`crate::Storage::append`] refuses.
    pub backlog_bytes_max: u64,
    /// With less room than this on the journal's disk no more frames are taken until there is more again, bytes; 0 never
    /// looks.
    pub min_free_bytes: u64,
    /// In a store that several processes use: without a sign of life for so long the owner of a region counts as hung, and
    /// another shard may take over, 100 to 600,000 ms.
    pub lease_ttl_ms: u64,
    /// For how many frames the store keeps its log of changes; 0 keeps none.
    pub change_log_frames: u64,
    /// Most bytes of keys and values in one transaction of the store, 4,096 to 9,000,000; what is larger takes several and a
    /// flip (FoundationDB: "over 1 MB, modify your design").
    pub transaction_bytes: u64,
    /// How many threads fold a large flush, 1 to 64.
    pub flush_threads: u64,
    /// Open a world although the journal that may hold its last frames is not the one at hand: they are lost then.
    pub abandon_journal: bool,
}

impl Config {
    /// The usual values for a store and a journal directory: flush every 2 s on one thread, 16 MiB segments, 4 GiB of
    /// backlog, 256 MiB free on the disk, a lease of 2 s, a change log of an hour at 60 Hz.
    pub fn new(store_url: impl Into<String>, journal_dir: impl Into<PathBuf>) -> Self {
        Config {
            store_url: store_url.into(),
            journal_dir: journal_dir.into(),
            flush_interval_ms: 2_000,
            segment_bytes: 16 << 20,
            backlog_bytes_max: 4 << 30,
            min_free_bytes: 256 << 20,
            lease_ttl_ms: 2_000,
            change_log_frames: 216_000,
            transaction_bytes: 900_000,
            flush_threads: 1,
            abandon_journal: false,
        }
    }

    pub(crate) fn transaction_bytes(&self) -> usize {
        usize::try_from(self.transaction_bytes).unwrap_or(usize::MAX)
    }

    /// Refuses values out of range, naming the key and what is allowed.
    pub fn validate(&self) -> Result<(), Error> {
        StoreUrl::parse(&self.store_url)?;
        if self.journal_dir.as_os_str().is_empty() {
            return Err(Error::Config("journal_dir is empty, it must name a directory".into()));
        }
        in_range("flush_interval_ms", self.flush_interval_ms, FLUSH_INTERVAL_MS)?;
        in_range("segment_bytes", self.segment_bytes, SEGMENT_BYTES)?;
        in_range("lease_ttl_ms", self.lease_ttl_ms, LEASE_TTL_MS)?;
        in_range("transaction_bytes", self.transaction_bytes, TRANSACTION_BYTES)?;
        in_range("flush_threads", self.flush_threads, FLUSH_THREADS)?;
        in_range("backlog_bytes_max", self.backlog_bytes_max, BACKLOG_BYTES)
    }
}

fn in_range(key: &str, value: u64, allowed: RangeInclusive<u64>) -> Result<(), Error> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(Error::Config(format!("{key} is {value}, it must be {} to {}", allowed.start(), allowed.end())))
}
