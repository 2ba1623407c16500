//! The `own` register of a region: fence, upload cursor and id reservation in one value, so that one conflict covers all.

use crate::codec::{DecodeError, Reader};
use serde::{Deserialize, Serialize};

/// The version this build writes.
pub const OWN_VERSION: u8 = 1;

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
    /// Number of the flush that wrote this value: tells an unknown commit result apart.
    pub last_commit_id: u64,
}

impl OwnRecord {
    /// The stored form: version byte, then postcard.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![OWN_VERSION];
        crate::codec::write_postcard(&mut out, self);
        out
    }

    /// Reads the stored form; an unknown version is refused by name.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let version = reader.byte()?;
        if version != OWN_VERSION {
            return Err(DecodeError::UnknownVersion {
                what: "own record".into(),
                found: version.into(),
                newest: OWN_VERSION.into(),
            });
        }
        crate::codec::from_bytes(reader.rest())
    }
}
