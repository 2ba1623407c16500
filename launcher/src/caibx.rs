//! casync's chunk index, `.caibx` for a blob and `.caidx` for a directory tree: which chunks, in which order, make it up.
//!
//! Format (casync's `caformat.h`; all fields u64, little-endian):
//!
//! ```text
//!   0  48                     size of this element
//!   8  0x96824d9c7b129ff9     type: index
//!  16  feature flags          bit 61: ids are SHA-512/256, else SHA-256
//!  24  min, avg, max          chunk sizes the chunker kept to
//!  48  0xffffffffffffffff     size of this element: unknown when its writing began
//!  56  0xe75b9e112f17417d     type: table
//!  64  n × (end offset, 32 bytes of id)
//!      0, 0                   instead of an end offset
//!      48                     offset of the index element's end, where the table begins
//!      16 + 40 n + 40         size of the table
//!      0x4b4f050e5549ecd1     table tail
//! ```
//!
//! The reader takes a stream and the file's size, holds one entry at a time, and checks every field that can be checked;
//! ids, flags and chunk sizes within their bounds can only be checked against the chunks themselves. The writer writes what the
//! reader takes, and holds nothing but a number.

#[cfg(test)]
mod tests;

use crate::digest::Digest;
use crate::read;
use std::io::{self, Read, Write};

const INDEX_SIZE: u64 = 48;
const INDEX_TYPE: u64 = 0x9682_4d9c_7b12_9ff9;
const TABLE_SIZE_UNKNOWN: u64 = u64::MAX;
const TABLE_TYPE: u64 = 0xe75b_9e11_2f17_417d;
const TABLE_TAIL: u64 = 0x4b4f_050e_5549_ecd1;
const FLAG_SHA512_256: u64 = 1 << 61;
/// What casync writes for a blob, but for the digest's bit: files marked "no dump" or by an exclude file are left out.
const FLAGS_BLOB: u64 = 0x9000_0000_0000_0000;

const TABLE_HEADER_SIZE: u64 = 16;
const ENTRY_SIZE: u64 = 40;
const TAIL_SIZE: u64 = 40;
/// An index of no chunk: everything but the entries.
const FILE_SIZE_MIN: u64 = INDEX_SIZE + TABLE_HEADER_SIZE + TAIL_SIZE;

/// The largest chunk casync allows, 128 MiB.
pub const CHUNK_SIZE_MAX: u64 = 128 << 20;

/// What an index says of itself. `1 ≤ chunk_size_min ≤ chunk_size_avg ≤ chunk_size_max ≤` [`CHUNK_SIZE_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub digest: Digest,
    /// All of casync's feature flags, the digest's bit included.
    pub flags: u64,
    /// In bytes, as the next two.
    pub chunk_size_min: u64,
    pub chunk_size_avg: u64,
    pub chunk_size_max: u64,
    /// From the file's size; the chunks that [`IndexReader::next_chunk`] gives, if it does not fail.
    pub chunk_count: u64,
}

/// One piece of the blob or archive, `1 ≤ size ≤ chunk_size_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Where it begins in the whole; the end of the one before.
    pub offset: u64,
    pub size: u64,
    /// Digest of its plain bytes.
    pub id: [u8; 32],
}

/// Why an index is not one. The byte offset is that of the field at fault.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error("byte {offset}: {fault}")]
    Unsound { offset: u64, fault: Fault },
    #[error("byte {offset}: reading failed")]
    Read { offset: u64, source: io::Error },
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the file ends here, too short for an index: it has {size} bytes, the shortest index has 104")]
    TooShort { size: u64 },
    #[error("the file ends in the middle of an entry: {size} bytes are not 104 and a multiple of 40")]
    NotWhole { size: u64 },
    #[error("the file ends here, before its size of {size} bytes: it was changed while being read")]
    Shrunk { size: u64 },
    #[error("the file goes on after its size of {size} bytes: it was changed while being read")]
    Grown { size: u64 },
    #[error("{field} is {found:#x}, must be {wanted:#x}")]
    Wrong { field: &'static str, found: u64, wanted: u64 },
    #[error("smallest chunk size is 0, must be at least 1")]
    MinZero,
    #[error("average chunk size {avg} is less than the smallest, {min}")]
    AvgBelowMin { avg: u64, min: u64 },
    #[error("largest chunk size {max} is less than the average, {avg}")]
    MaxBelowAvg { max: u64, avg: u64 },
    #[error("largest chunk size {max} is more than 128 MiB, casync's limit")]
    MaxTooLarge { max: u64 },
    #[error("chunk {number} ends at {end}, must end after {begin}, where it begins")]
    NotRising { number: u64, end: u64, begin: u64 },
    #[error("chunk {number} has {size} bytes, more than the largest chunk size, {max}")]
    ChunkTooLarge { number: u64, size: u64, max: u64 },
}

/// Reads an index from front to back. After an error nothing more is to be expected of it.
pub struct IndexReader<R> {
    source: R,
    file_size: u64,
    /// Bytes read, that is, the offset of the next field.
    position: u64,
    header: Header,
    chunks_read: u64,
    /// Where the next chunk begins; the total size after the last.
    next_offset: u64,
    tail_checked: bool,
}

impl<R: Read> IndexReader<R> {
    /// Reads and checks everything before the entries. `source` is at byte 0 of a file of `file_size` bytes, and worth
    /// buffering: it is read a field at a time.
    pub fn new(source: R, file_size: u64) -> Result<Self, IndexError> {
        let chunk_count = file_size.checked_sub(FILE_SIZE_MIN).map(|entries| entries / ENTRY_SIZE);
        let header = Header {
            digest: Digest::Sha256,
            flags: 0,
            chunk_size_min: 0,
            chunk_size_avg: 0,
            chunk_size_max: 0,
            chunk_count: chunk_count.unwrap_or(0),
        };
        let mut reader =
            Self { source, file_size, position: 0, header, chunks_read: 0, next_offset: 0, tail_checked: false };

        // What the file is comes before how long it is: a picture is not a cut-off index.
        if file_size < INDEX_SIZE {
            return Err(unsound(file_size, Fault::TooShort { size: file_size }));
        }
        reader.constant("size of the index element", INDEX_SIZE)?;
        reader.constant("type of the index element", INDEX_TYPE)?;
        if file_size < FILE_SIZE_MIN {
            return Err(unsound(file_size, Fault::TooShort { size: file_size }));
        }
        if !(file_size - FILE_SIZE_MIN).is_multiple_of(ENTRY_SIZE) {
            return Err(unsound(file_size, Fault::NotWhole { size: file_size }));
        }

        let flags = reader.number()?;
        reader.header.flags = flags;
        reader.header.digest = if flags & FLAG_SHA512_256 == 0 { Digest::Sha256 } else { Digest::Sha512_256 };
        reader.chunk_sizes()?;
        reader.constant("size of the table", TABLE_SIZE_UNKNOWN)?;
        reader.constant("type of the table", TABLE_TYPE)?;
        Ok(reader)
    }

    pub fn header(&self) -> Header {
        self.header
    }

    /// Bytes of the chunks read so far together.
    pub fn total_size(&self) -> u64 {
        self.next_offset
    }

    /// The next chunk; `None` when all were read and the tail and the end of the file are as they must be.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, IndexError> {
        if self.chunks_read == self.header.chunk_count {
            self.tail()?;
            return Ok(None);
        }
        let (at, number, begin) = (self.position, self.chunks_read, self.next_offset);
        let end = self.number()?;
        if end <= begin {
            return Err(unsound(at, Fault::NotRising { number, end, begin }));
        }
        let (size, max) = (end - begin, self.header.chunk_size_max);
        if size > max {
            return Err(unsound(at, Fault::ChunkTooLarge { number, size, max }));
        }
        let id = self.bytes()?;
        self.chunks_read += 1;
        self.next_offset = end;
        Ok(Some(Chunk { offset: begin, size, id }))
    }

    fn chunk_sizes(&mut self) -> Result<(), IndexError> {
        let at = self.position;
        let (min, avg, max) = (self.number()?, self.number()?, self.number()?);
        if min == 0 {
            return Err(unsound(at, Fault::MinZero));
        }
        if avg < min {
            return Err(unsound(at + 8, Fault::AvgBelowMin { avg, min }));
        }
        if max < avg {
            return Err(unsound(at + 16, Fault::MaxBelowAvg { max, avg }));
        }
        if max > CHUNK_SIZE_MAX {
            return Err(unsound(at + 16, Fault::MaxTooLarge { max }));
        }
        (self.header.chunk_size_min, self.header.chunk_size_avg, self.header.chunk_size_max) = (min, avg, max);
        Ok(())
    }

    fn tail(&mut self) -> Result<(), IndexError> {
        if self.tail_checked {
            return Ok(());
        }
        self.constant("end of the entries", 0)?;
        self.constant("second word of the tail", 0)?;
        self.constant("offset of the table in the tail", INDEX_SIZE)?;
        self.constant("size of the table in the tail", self.file_size - INDEX_SIZE)?;
        self.constant("mark of the tail", TABLE_TAIL)?;
        self.end_of_file()?;
        self.tail_checked = true;
        Ok(())
    }

    fn constant(&mut self, field: &'static str, wanted: u64) -> Result<(), IndexError> {
        let at = self.position;
        let found = self.number()?;
        if found == wanted { Ok(()) } else { Err(unsound(at, Fault::Wrong { field, found, wanted })) }
    }

    fn number(&mut self) -> Result<u64, IndexError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], IndexError> {
        let mut bytes = [0; N];
        match self.most(&mut bytes)? {
            count if count == N => Ok(bytes),
            _ => Err(unsound(self.position, Fault::Shrunk { size: self.file_size })),
        }
    }

    fn end_of_file(&mut self) -> Result<(), IndexError> {
        let at = self.position;
        match self.most(&mut [0])? {
            0 => Ok(()),
            _ => Err(unsound(at, Fault::Grown { size: self.file_size })),
        }
    }

    fn most(&mut self, bytes: &mut [u8]) -> Result<usize, IndexError> {
        let count = read::most_at(&mut self.source, &mut self.position, bytes);
        count.map_err(|source| IndexError::Read { offset: self.position, source })
    }
}

/// The feature flags of an index: those of a blob, or `archive`'s own, with the digest's bit as `digest` has it.
pub fn flags(digest: Digest, archive: Option<u64>) -> u64 {
    let others = archive.unwrap_or(FLAGS_BLOB) & !FLAG_SHA512_256;
    match digest {
        Digest::Sha512_256 => others | FLAG_SHA512_256,
        Digest::Sha256 => others,
    }
}

/// Writes an index from front to back. Whoever uses it writes to a temporary file: before [`IndexWriter::finish`] it is no index.
pub struct IndexWriter<W> {
    sink: W,
    chunk_size_max: u64,
    chunk_count: u64,
    end: u64,
}

impl<W: Write> IndexWriter<W> {
    /// Writes everything before the entries. `header` must keep the bounds told at [`Header`]; its chunk count is not looked at. `sink`
    /// is worth buffering.
    ///
    /// # Panics
    /// When the chunk sizes are out of order or bounds: the chunker was made with the same.
    pub fn new(mut sink: W, header: &Header) -> io::Result<Self> {
        let Header { flags, chunk_size_min: min, chunk_size_avg: avg, chunk_size_max: max, .. } = *header;
        assert!(1 <= min && min <= avg && avg <= max && max <= CHUNK_SIZE_MAX, "{header:?}");
        for word in [INDEX_SIZE, INDEX_TYPE, flags, min, avg, max, TABLE_SIZE_UNKNOWN, TABLE_TYPE] {
            sink.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { sink, chunk_size_max: max, chunk_count: 0, end: 0 })
    }

    /// Adds the next chunk, of `1 ≤ size ≤ chunk_size_max` bytes.
    ///
    /// # Panics
    /// When `size` is not.
    pub fn add(&mut self, size: u64, id: &[u8; 32]) -> io::Result<()> {
        assert!(1 <= size && size <= self.chunk_size_max, "a chunk of {size} bytes");
        self.end += size;
        self.chunk_count += 1;
        self.sink.write_all(&self.end.to_le_bytes())?;
        self.sink.write_all(id)
    }

    /// Chunks so far, and their bytes together.
    pub fn written(&self) -> (u64, u64) {
        (self.chunk_count, self.end)
    }

    /// Writes the tail and gives the sink back, flushed.
    pub fn finish(mut self) -> io::Result<W> {
        let table_size = TABLE_HEADER_SIZE + ENTRY_SIZE * self.chunk_count + TAIL_SIZE;
        for word in [0, 0, INDEX_SIZE, table_size, TABLE_TAIL] {
            self.sink.write_all(&word.to_le_bytes())?;
        }
        self.sink.flush()?;
        Ok(self.sink)
    }
}

fn unsound(offset: u64, fault: Fault) -> IndexError {
    IndexError::Unsound { offset, fault }
}
