//! One journal record, all numbers little-endian:
//! `magic "VJR1" · payload length u32 · lsn u64 · epoch u64 · synced lsn u64 · crc of the record before u32 · crc32c u32 ·
//! payload`. The crc covers everything before it and the payload.
//!
//! *synced lsn* is how far the journal was synced when the record was written. It tells the two cases of "a bad record
//! before a good one" apart: if the good one was written after the bad one had been synced, something was damaged; if not,
//! both belong to one group that the machine's death tore, of which nothing was reported.

/// How a record begins; the digit is the version of the format.
pub(crate) const MAGIC: [u8; 4] = *b"VJR1";
/// Size of what stands before the payload.
pub(crate) const HEADER_BYTES: usize = 40;
/// Largest payload: one frame of the largest world that one shard can hold.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 64 << 20;

const CRC_AT: usize = 36;

/// What stands before the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) length: u32,
    pub(crate) lsn: u64,
    pub(crate) epoch: u64,
    pub(crate) synced_lsn: u64,
    pub(crate) previous_crc: u32,
    pub(crate) crc: u32,
}

/// Why there is no record at some place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRecord {
    /// Nothing, part of a record, or a damaged one.
    Bad,
    /// One of a version that this build does not know.
    NewerVersion(char),
}

impl Header {
    /// Appends a whole record to `out` and returns its crc.
    pub(crate) fn write(mut self, payload: &[u8], out: &mut Vec<u8>) -> u32 {
        self.length = u32::try_from(payload.len()).expect("payloads are capped far below 4 GiB");
        let start = out.len();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.length.to_le_bytes());
        out.extend_from_slice(&self.lsn.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.synced_lsn.to_le_bytes());
        out.extend_from_slice(&self.previous_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out[start..]), payload);
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(payload);
        crc
    }

    /// Reads the fields; the payload is not yet checked.
    pub(crate) fn read(bytes: &[u8; HEADER_BYTES]) -> Result<Self, NoRecord> {
        if bytes[..4] != MAGIC {
            let newer = bytes[..3] == MAGIC[..3] && (b'2'..=b'9').contains(&bytes[3]);
            return Err(if newer { NoRecord::NewerVersion(char::from(bytes[3])) } else { NoRecord::Bad });
        }
        let u32_at = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let header = Header {
            length: u32_at(4),
            lsn: u64_at(8),
            epoch: u64_at(16),
            synced_lsn: u64_at(24),
            previous_crc: u32_at(32),
            crc: u32_at(CRC_AT),
        };
        if header.length as usize > PAYLOAD_BYTES_MAX { Err(NoRecord::Bad) } else { Ok(header) }
    }

    /// True when the crc in `head`, the header's bytes, is that of the record.
    pub(crate) fn matches(&self, head: &[u8; HEADER_BYTES], payload: &[u8]) -> bool {
        crc32c::crc32c_append(crc32c::crc32c(&head[..CRC_AT]), payload) == self.crc
    }
}

/// The record that begins at `offset`, and whose bytes are all there and unharmed.
pub(crate) fn record_at(bytes: &[u8], offset: usize) -> Result<(Header, &[u8]), NoRecord> {
    let rest = bytes.get(offset..).unwrap_or_default();
    let (head, rest) = rest.split_first_chunk::<HEADER_BYTES>().ok_or(NoRecord::Bad)?;
    let header = Header::read(head)?;
    let payload = rest.get(..header.length as usize).ok_or(NoRecord::Bad)?;
    if header.matches(head, payload) { Ok((header, payload)) } else { Err(NoRecord::Bad) }
}
