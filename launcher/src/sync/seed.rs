//! Files at hand from which chunks are taken instead of from a store. Nothing taken is believed: its digest is checked.

use crate::caibx::{Chunk, Header, IndexError, IndexReader};
use crate::chunker::{Algorithm, ChunkSizes, Chunker};
use crate::digest::{Digest, Id};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A file and where its chunks lie.
#[derive(Debug)]
pub struct Seed {
    file: File,
    /// The first 8 bytes of the id, offset, size; sorted.
    chunks: Vec<(u64, u64, u32)>,
}

/// Why a seed is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    #[error("its index is damaged")]
    Index(#[from] IndexError),
    #[error("its index has ids by {found}, {wanted} are wanted")]
    OtherDigest { found: &'static str, wanted: &'static str },
    #[error("{0}")]
    Sizes(String),
}

/// More chunks than this are not remembered, 24 bytes each; the rest comes from a store.
const CHUNKS_MAX: usize = 1 << 20;

impl Seed {
    /// A file with its index, which was made with `digest`. That the index tells the truth is checked with each chunk.
    pub fn indexed(file: &Path, index: &Path, digest: Digest) -> Result<Self, SeedError> {
        let file = File::open(file)?;
        let index = File::open(index)?;
        let size = index.metadata()?.len();
        let mut index = IndexReader::new(BufReader::new(index), size)?;
        let found = index.header().digest;
        if found != digest {
            return Err(SeedError::OtherDigest { found: found.name(), wanted: digest.name() });
        }
        let mut chunks = Vec::new();
        while let Some(chunk) = index.next_chunk()?
            && chunks.len() < CHUNKS_MAX
        {
            chunks.push((key(&chunk.id), chunk.offset, chunk.size as u32));
        }
        Ok(Self::sorted(file, chunks))
    }

    /// A file without an index: cut as `algorithm` does with the sizes of the index that is wanted.
    pub fn cut(file: &Path, wanted: &Header, algorithm: Algorithm) -> Result<Self, SeedError> {
        let size = |size: u64| usize::try_from(size).expect("at most 128 MiB");
        let sizes = ChunkSizes {
            min: size(wanted.chunk_size_min),
            avg: size(wanted.chunk_size_avg),
            max: size(wanted.chunk_size_max),
        };
        let chunker = Chunker::new(algorithm, sizes).map_err(SeedError::Sizes)?;
        let mut file = File::open(file)?;
        let mut chunks = Vec::new();
        let mut buffer = vec![0; (2 * sizes.max).max(1 << 20)];
        let (mut filled, mut offset, mut last) = (0, 0, false);
        while !last && chunks.len() < CHUNKS_MAX {
            while filled < buffer.len() && !last {
                match file.read(&mut buffer[filled..]) {
                    Ok(0) => last = true,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let mut cut = 0;
            while let Some(size) = chunker.cut(&buffer[cut..filled], last) {
                let id = wanted.digest.of(&buffer[cut..cut + size]);
                chunks.push((key(&id), offset + cut as u64, size as u32));
                cut += size;
            }
            buffer.copy_within(cut..filled, 0);
            filled -= cut;
            offset += cut as u64;
        }
        Ok(Self::sorted(file, chunks))
    }

    fn sorted(file: File, mut chunks: Vec<(u64, u64, u32)>) -> Self {
        chunks.sort_unstable();
        Self { file, chunks }
    }

    /// Fills `into`, of the chunk's size, if the chunk is here and whole.
    pub fn read(&self, chunk: &Chunk, digest: Digest, into: &mut [u8]) -> bool {
        let key = key(&chunk.id);
        let begin = self.chunks.partition_point(|&(other, ..)| other < key);
        // One place is as good as another, and a few that are not keep an attacker's index from costing much.
        self.chunks[begin..]
            .iter()
            .take_while(|&&(other, ..)| other == key)
            .filter(|&&(.., size)| u64::from(size) == chunk.size)
            .take(2)
            .any(|&(_, offset, _)| verified(&self.file, offset, chunk, digest, into))
    }
}

/// Fills `into` from `file` at `offset`, and says whether that is the chunk.
pub fn verified(file: &File, offset: u64, chunk: &Chunk, digest: Digest, into: &mut [u8]) -> bool {
    file.read_exact_at(into, offset).is_ok() && digest.of(into) == chunk.id
}

fn key(id: &Id) -> u64 {
    u64::from_be_bytes(id[..8].try_into().expect("eight bytes"))
}
