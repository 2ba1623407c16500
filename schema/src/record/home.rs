//! The value under the key of a home (a chunk, or an entity kept by itself). Layout of version 2:
//! `2 u8 · packing u8 · generation varint · parts varint · length varint · stored varint · hash u64 le · frame varint ·
//! stored bytes, when parts is 0`. The stored bytes are an entity list, as it is or packed; `length` and `hash` (XXH3-64) are
//! those of the list, `stored` counts what is stored of it. When there are parts, they lie under keys of their own.
//!
//! Version 1 had no such head: the value was the entity list itself, whose first byte is 1. It is still read, and replaced
//! when the home is written next.

use super::own::unknown;
use crate::codec::{DecodeError, Reader, write_varint};

/// The version this build writes.
pub const HOME_VERSION: u8 = 2;

/// Longest payload, bytes: far above what a chunk may hold, low enough that a wrong length can't fill the memory.
pub const PAYLOAD_BYTES_MAX: u64 = 64 << 20;

/// How the stored bytes of an entity list came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Packing {
    /// They are the list.
    Plain = 0,
    /// One LZ4 block (the LZ4 block format, without a length in front).
    Lz4 = 1,
}

/// What every home says of its entity list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HomeHead {
    /// How it is stored.
    pub packing: Packing,
    /// Its length, bytes.
    pub length: u64,
    /// Its XXH3-64.
    pub hash: u64,
    /// The last frame folded into it.
    pub frame: u64,
}

/// What the store says about one home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HomeRecord<'a> {
    /// The entity list as version 1 kept it.
    Version1(&'a [u8]),
    /// The stored bytes stand here.
    Whole {
        /// About the list.
        head: HomeHead,
        /// The stored bytes.
        stored: &'a [u8],
    },
    /// The stored bytes lie in `parts` values of a generation.
    Parts {
        /// About the list.
        head: HomeHead,
        /// Which generation.
        generation: u64,
        /// How many parts there are, 1 or more.
        parts: u32,
        /// Stored bytes of all together.
        stored: u64,
    },
}

impl<'a> HomeRecord<'a> {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let (head, generation, parts, stored, bytes) = match *self {
            HomeRecord::Version1(payload) => return payload.to_vec(),
            HomeRecord::Whole { head, stored } => (head, 0, 0, stored.len() as u64, stored),
            HomeRecord::Parts { head, generation, parts, stored } => (head, generation, parts, stored, &[][..]),
        };
        let mut out = Vec::with_capacity(32 + bytes.len());
        out.extend([HOME_VERSION, head.packing as u8]);
        write_varint(&mut out, generation);
        write_varint(&mut out, parts.into());
        write_varint(&mut out, head.length);
        write_varint(&mut out, stored);
        out.extend_from_slice(&head.hash.to_le_bytes());
        write_varint(&mut out, head.frame);
        out.extend_from_slice(bytes);
        out
    }

    /// Reads the stored form of any version; an unknown one is refused by name.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        match reader.byte()? {
            1 => return Ok(HomeRecord::Version1(bytes)),
            HOME_VERSION => {}
            found => return Err(unknown("home record", found, HOME_VERSION)),
        }
        let packing = match reader.byte()? {
            0 => Packing::Plain,
            1 => Packing::Lz4,
            _ => return Err(DecodeError::Invalid("packing")),
        };
        let generation = reader.varint()?;
        let parts = u32::try_from(reader.varint()?).map_err(|_| DecodeError::IntegerRange)?;
        let length = limited("payload length", reader.varint()?)?;
        let stored = limited("stored length", reader.varint()?)?;
        let head = HomeHead { packing, length, hash: reader.u64_le()?, frame: reader.varint()? };
        if packing == Packing::Plain && stored != length {
            return Err(DecodeError::Invalid("stored length"));
        }
        if parts == 0 {
            let bytes = reader.rest();
            if bytes.len() as u64 != stored {
                return Err(DecodeError::Invalid("stored length"));
            }
            return Ok(HomeRecord::Whole { head, stored: bytes });
        }
        if u64::from(parts) > stored {
            return Err(DecodeError::Invalid("count of parts"));
        }
        reader.finish()?;
        Ok(HomeRecord::Parts { head, generation, parts, stored })
    }
}

fn limited(what: &'static str, found: u64) -> Result<u64, DecodeError> {
    if found > PAYLOAD_BYTES_MAX {
        return Err(DecodeError::TooLarge { what, found, limit: PAYLOAD_BYTES_MAX });
    }
    Ok(found)
}
