//! The `own` register of a region: fence, upload cursor and id reservation in one value, so that one conflict covers all.

use crate::codec::{DecodeError, Reader};
use serde::{Deserialize, Serialize};

/// The version this build writes. Version 1 ended with `last_commit_id`.
pub const OWN_VERSION: u8 = 2;

/// Entity ids `next..end` may be handed out; the store already holds that they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdBlock {
    /// The first id that is free.
    pub next: u64,
    /// One behind the last id of the block.
    pub end: u64,
}

/// Who owns a region, and how far its store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnRecord {
    /// Raised by one at every takeover. A writer that finds another epoch is fenced and stops.
    pub epoch: u64,
    /// The last frame whose changes are all in the store.
    pub last_frame: u64,
    /// Journal sequence number of that frame's record.
    pub last_lsn: u64,
    /// Hash of the whole state after that frame.
    pub state_hash: u64,
    /// Every id below this one was reserved by some epoch. Only grows.
    pub ids_reserved_to: u64,
    /// Number of the transaction that wrote this value: tells an unknown commit result apart.
    pub last_commit_id: u64,
    /// Identity of the journal that may hold frames which the store does not have; 0 when there are none. Only a journal
    /// with this identity can bring the region up to its last acknowledged frame.
    pub journal: u64,
    /// Where that journal is, for people: `host:path`.
    pub journal_place: String,
}

/// [`OwnRecord`] as version 1 had it.
#[derive(Deserialize)]
struct OwnRecordV1 {
    epoch: u64,
    last_frame: u64,
    last_lsn: u64,
    state_hash: u64,
    ids_reserved_to: u64,
    last_commit_id: u64,
}

impl From<OwnRecordV1> for OwnRecord {
    /// Version 1 did not say which journal was in front of the store: any may be.
    fn from(old: OwnRecordV1) -> Self {
        OwnRecord {
            epoch: old.epoch,
            last_frame: old.last_frame,
            last_lsn: old.last_lsn,
            state_hash: old.state_hash,
            ids_reserved_to: old.ids_reserved_to,
            last_commit_id: old.last_commit_id,
            journal: 0,
            journal_place: String::new(),
        }
    }
}

impl OwnRecord {
    /// The stored form: version byte, then postcard.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![OWN_VERSION];
        crate::codec::write_postcard(&mut out, self);
        out
    }

    /// Reads the stored form of any version; an unknown one is refused by name.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.byte()? {
            1 => crate::codec::from_bytes::<OwnRecordV1>(reader.rest()).map(OwnRecord::from),
            OWN_VERSION => crate::codec::from_bytes(reader.rest()),
            found => Err(unknown("own record", found, OWN_VERSION)),
        }
    }
}

/// A record of a version that this build does not know.
pub(super) fn unknown(what: &str, found: u8, newest: u8) -> DecodeError {
    DecodeError::UnknownVersion { what: what.into(), found: found.into(), newest: newest.into() }
}
