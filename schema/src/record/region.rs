//! What is kept per region beside its homes and its `own` register. Each record is a version byte, then postcard.

use super::own::unknown;
use crate::codec::{DecodeError, Reader, from_bytes, write_postcard};
use serde::{Deserialize, Serialize};

/// The version of [`LeaseRecord`] and [`ChangeRecord`] that this build writes.
pub const REGION_VERSION: u8 = 1;

/// A sign of life of the region's owner. It says when a takeover may be tried; that it is safe is up to the epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// The owner's epoch.
    pub epoch: u64,
    /// Raised with every beat. Only that it changes matters: no clock is compared with another.
    pub beat: u64,
    /// Without a new beat for so long, milliseconds, the owner counts as gone; 0 when it has left by itself.
    pub ttl_ms: u64,
    /// Who it is, for people.
    pub holder: String,
}

/// What one flush changed: the store's change feed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// The first frame that the flush took in.
    pub first_frame: u64,
    /// The last one.
    pub last_frame: u64,
    /// Hash of the whole state after it.
    pub state_hash: u64,
    /// Morton codes of the chunks it rewrote, rising.
    pub chunks: Vec<u64>,
    /// The entities kept by themselves that it rewrote, rising.
    pub entities: Vec<u64>,
    /// False when it changed too much to be listed: then anything may have changed.
    pub complete: bool,
}

macro_rules! stored {
    ($record:ty, $name:literal) => {
        impl $record {
            /// The stored form.
            pub fn encode(&self) -> Vec<u8> {
                let mut out = vec![REGION_VERSION];
                write_postcard(&mut out, self);
                out
            }

            /// Reads the stored form; an unknown version is refused by name.
            pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                let mut reader = Reader::new(bytes);
                match reader.byte()? {
                    REGION_VERSION => from_bytes(reader.rest()),
                    found => Err(unknown($name, found, REGION_VERSION)),
                }
            }
        }
    };
}

stored!(LeaseRecord, "lease record");
stored!(ChangeRecord, "change record");
