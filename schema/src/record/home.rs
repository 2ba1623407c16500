//! The value under the key of a home (a chunk, or an entity kept by itself). Layout of version 2:
//! `2 u8 · generation varint · parts varint · length varint · hash u64 le · frame varint · payload, when parts is 0`.
//! The payload is an entity list, and `hash` its XXH3-64. A payload in parts lies under keys of its own, by generation.
//!
//! Version 1 had no such head: the value was the entity list itself, whose first byte is 1. It is still read, and replaced
//! when the home is written next.

use super::own::unknown;
use crate::codec::{DecodeError, Reader, write_varint};

/// The version this build writes.
pub const HOME_VERSION: u8 = 2;

/// Longest payload, bytes: far above what a chunk may hold, low enough that a wrong length can't fill the memory.
pub const PAYLOAD_BYTES_MAX: u64 = 64 << 20;

/// What the store says about one home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HomeRecord<'a> {
    /// The entity list as version 1 kept it.
    Version1(&'a [u8]),
    /// The entity list itself.
    Whole {
        /// Its XXH3-64.
        hash: u64,
        /// The last frame folded into it.
        frame: u64,
        /// The entity list.
        payload: &'a [u8],
    },
    /// The entity list lies in `parts` values of a generation.
    Parts {
        /// Which.
        generation: u64,
        /// How many there are, 1 or more.
        parts: u32,
        /// Length of all together, bytes.
        length: u64,
        /// XXH3-64 of all together.
        hash: u64,
        /// The last frame folded into it.
        frame: u64,
    },
}

impl<'a> HomeRecord<'a> {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let head = |generation: u64, parts: u32, length: u64, hash: u64, frame: u64, room: usize| {
            let mut out = Vec::with_capacity(32 + room);
            out.push(HOME_VERSION);
            write_varint(&mut out, generation);
            write_varint(&mut out, parts.into());
            write_varint(&mut out, length);
            out.extend_from_slice(&hash.to_le_bytes());
            write_varint(&mut out, frame);
            out
        };
        match *self {
            HomeRecord::Version1(payload) => payload.to_vec(),
            HomeRecord::Whole { hash, frame, payload } => {
                let mut out = head(0, 0, payload.len() as u64, hash, frame, payload.len());
                out.extend_from_slice(payload);
                out
            }
            HomeRecord::Parts { generation, parts, length, hash, frame } => {
                head(generation, parts, length, hash, frame, 0)
            }
        }
    }

    /// Reads the stored form of any version; an unknown one is refused by name.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.byte()? {
            1 => return Ok(HomeRecord::Version1(bytes)),
            HOME_VERSION => {}
            found => return Err(unknown("home record", found, HOME_VERSION)),
        }
        let generation = reader.varint()?;
        let parts = u32::try_from(reader.varint()?).map_err(|_| DecodeError::IntegerRange)?;
        let length = reader.varint()?;
        if length > PAYLOAD_BYTES_MAX {
            return Err(DecodeError::TooLarge { what: "payload length", found: length, limit: PAYLOAD_BYTES_MAX });
        }
        let hash = reader.u64_le()?;
        let frame = reader.varint()?;
        if parts > 0 {
            if u64::from(parts) > length {
                return Err(DecodeError::Invalid("count of parts"));
            }
            reader.finish()?;
            return Ok(HomeRecord::Parts { generation, parts, length, hash, frame });
        }
        let payload = reader.rest();
        if payload.len() as u64 != length {
            return Err(DecodeError::Invalid("payload length"));
        }
        Ok(HomeRecord::Whole { hash, frame, payload })
    }
}
