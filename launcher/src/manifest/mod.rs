//! The native manifest: which files a version has, of which chunks they are made, and where in which pack each chunk lies.
//!
//! `docs/formats.md` has the bytes. A manifest is not compressed: nearly all of it are digests, and so the patch from one manifest to the
//! next, which every delta carries, is exact whatever compressor made it.

pub(crate) mod codec;
pub(crate) mod paths;
#[cfg(test)]
mod tests;

pub use codec::FormatError;
use codec::{Reader, put_number, put_text, unzigzag, zigzag};
use paths::Paths;
use std::ops::Range;

/// Digest (BLAKE3) of a chunk, file, pack or manifest.
pub type Id = [u8; 32];

const MAGIC: &[u8; 8] = b"VSKMAN01";
/// FastCDC of 2020, normalisation level 1, no seed.
const ALGORITHM_FASTCDC_2020: u8 = 1;

/// Largest manifest, bytes; some 400,000 chunks. Bigger builds take bigger chunks.
pub const MANIFEST_SIZE_MAX: u64 = 16 << 20;
/// Largest chunk, bytes.
pub const CHUNK_SIZE_MAX: u32 = 1 << 20;
/// Largest pack, bytes.
pub const PACK_SIZE_MAX: u32 = 64 << 20;
/// Most positions of chunks in all files together: a chunk may be repeated, but not so that the list alone fills the memory.
const POSITIONS_MAX: usize = 2_000_000;
const ENTRIES_MAX: usize = 500_000;
const KEEP_MAX: usize = 256;

/// The chunk sizes that the chunker kept to, bytes. `64 ≤ min ≤ avg ≤ max ≤` [`CHUNK_SIZE_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSizes {
    /// Only the last chunk of a file may be smaller.
    pub min: u32,
    /// About.
    pub avg: u32,
    /// No chunk is larger.
    pub max: u32,
}

impl ChunkSizes {
    /// 16 KiB on average: least bytes per update for an index of 0.2 % (`docs/formats.md` has the figures).
    pub const USUAL: Self = Self { min: 4 << 10, avg: 16 << 10, max: 64 << 10 };

    /// What is wrong with them, if anything.
    pub fn check(self) -> Result<Self, String> {
        let Self { min, avg, max } = self;
        if min < 64 || avg < 256 || max < 1_024 || min > avg || avg > max || max > CHUNK_SIZE_MAX {
            return Err(format!(
                "chunk sizes {min}:{avg}:{max}: must be min:avg:max with 64 ≤ min ≤ avg ≤ max ≤ {CHUNK_SIZE_MAX}, avg ≥ 256, max ≥ 1024"
            ));
        }
        Ok(self)
    }
}

/// A pack that the version needs something of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// Of the whole file, and its name.
    pub id: Id,
    /// Bytes of the whole file, at most [`PACK_SIZE_MAX`].
    pub size: u32,
}

/// A chunk and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Of its plain bytes.
    pub id: Id,
    /// Plain, 1 to [`CHUNK_SIZE_MAX`] bytes.
    pub size: u32,
    /// Which of the manifest's packs it is in.
    pub pack: u32,
    /// Where it begins in the pack.
    pub offset: u32,
    /// Bytes in the pack: a zstd frame if fewer than `size`, else plain.
    pub stored: u32,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A folder; only empty ones need an entry.
    Folder,
    /// A regular file.
    File {
        /// Bytes.
        size: u64,
        /// Whether its user may execute it.
        executable: bool,
        /// Of all of it.
        blake3: Id,
        /// Which positions of [`Manifest::positions`] make it up.
        positions: Range<u32>,
    },
    /// A symbolic link inside the root.
    Link {
        /// Relative to the link's folder.
        target: String,
    },
}

/// One path of the version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// `/` between the names; unique, even if upper and lower case are one.
    pub path: String,
    /// What it is.
    pub kind: Kind,
}

/// Where a position is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which of the entries, a file.
    pub entry: u32,
    /// Bytes from its beginning.
    pub offset: u64,
}

/// A whole version. Made by decoding, all of it has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// How files were cut.
    pub sizes: ChunkSizes,
    /// Globs of what belongs to the player (saves, mods): never damage, never deleted.
    pub keep: Vec<String>,
    /// In the order in which the version is installed.
    pub packs: Vec<Pack>,
    /// In the order of packs and offsets.
    pub chunks: Vec<Chunk>,
    /// In strictly rising order of the paths' bytes.
    pub entries: Vec<Entry>,
    /// For every position in every file, in the order of entries: which of `chunks` it is.
    pub positions: Vec<u32>,
}

impl Manifest {
    /// Bytes of all files.
    pub fn total_size(&self) -> u64 {
        self.entries.iter().map(|entry| if let Kind::File { size, .. } = entry.kind { size } else { 0 }).sum()
    }

    /// The entry of this path.
    pub fn entry(&self, path: &str) -> Option<usize> {
        self.entries.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok()
    }

    /// For each position, which file it is in and where.
    pub fn places(&self) -> Vec<Place> {
        let mut places = Vec::with_capacity(self.positions.len());
        for (number, entry) in self.entries.iter().enumerate() {
            if let Kind::File { positions, .. } = &entry.kind {
                let mut offset = 0;
                for position in positions.clone() {
                    places.push(Place { entry: number as u32, offset });
                    offset += u64::from(self.chunk_at(position).size);
                }
            }
        }
        places
    }

    /// The chunk at a position.
    pub fn chunk_at(&self, position: u32) -> &Chunk {
        &self.chunks[self.positions[position as usize] as usize]
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.push(ALGORITHM_FASTCDC_2020);
        for size in [self.sizes.min, self.sizes.avg, self.sizes.max] {
            put_number(&mut bytes, u64::from(size));
        }
        put_number(&mut bytes, self.keep.len() as u64);
        self.keep.iter().for_each(|glob| put_text(&mut bytes, glob));
        put_number(&mut bytes, self.packs.len() as u64);
        let mut next = 0;
        for (number, pack) in self.packs.iter().enumerate() {
            let end = next + self.chunks[next..].iter().take_while(|chunk| chunk.pack as usize == number).count();
            bytes.extend_from_slice(&pack.id);
            put_number(&mut bytes, u64::from(pack.size));
            put_number(&mut bytes, (end - next) as u64);
            let mut position = 0;
            for chunk in &self.chunks[next..end] {
                put_number(&mut bytes, u64::from(chunk.offset - position));
                put_number(&mut bytes, u64::from(chunk.size));
                put_number(&mut bytes, u64::from(chunk.size - chunk.stored));
                bytes.extend_from_slice(&chunk.id);
                position = chunk.offset + chunk.stored;
            }
            next = end;
        }
        put_number(&mut bytes, self.entries.len() as u64);
        let mut expected = 0;
        for Entry { path, kind } in &self.entries {
            bytes.push(match kind {
                Kind::Folder => 0,
                Kind::File { executable: false, .. } => 1,
                Kind::File { executable: true, .. } => 2,
                Kind::Link { .. } => 3,
            });
            put_text(&mut bytes, path);
            match kind {
                Kind::Folder => {}
                Kind::Link { target } => put_text(&mut bytes, target),
                Kind::File { blake3, positions, .. } => {
                    bytes.extend_from_slice(blake3);
                    let runs = runs(&self.positions[positions.start as usize..positions.end as usize]);
                    put_number(&mut bytes, runs.len() as u64);
                    for run in runs {
                        put_number(&mut bytes, zigzag(i64::from(run.start) - i64::from(expected)));
                        put_number(&mut bytes, u64::from(run.end - run.start));
                        expected = run.end;
                    }
                }
            }
        }
        bytes
    }

    /// Reads and checks the bytes of a file: every size before anything is made of it, every path and link (see `paths`).
    ///
    /// # Errors
    /// Names the byte and what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        if bytes.len() as u64 > MANIFEST_SIZE_MAX {
            return reader.fault(0, format!("{} bytes, at most {MANIFEST_SIZE_MAX} are allowed", bytes.len()));
        }
        if reader.bytes(MAGIC.len())? != MAGIC {
            return reader.fault(0, "not a manifest, or one of a later version of vsekai");
        }
        let at = reader.position();
        let algorithm = reader.byte()?;
        if algorithm != ALGORITHM_FASTCDC_2020 {
            return reader.fault(at, format!("chunker {algorithm} is not known"));
        }
        let at = reader.position();
        let mut size = || reader.small("chunk size", CHUNK_SIZE_MAX);
        let sizes = ChunkSizes { min: size()?, avg: size()?, max: size()? };
        let sizes = sizes.check().or_else(|why| reader.fault(at, why))?;
        let mut keep = vec![];
        for _ in 0..reader.count("number of globs", KEEP_MAX, 1)? {
            keep.push(reader.text("glob", paths::PATH_MAX)?);
        }
        let (packs, chunks) = decode_packs(&mut reader, sizes)?;
        let (entries, positions) = decode_entries(&mut reader, &chunks)?;
        reader.end()?;
        Ok(Self { sizes, keep, packs, chunks, entries, positions })
    }
}

fn decode_packs(reader: &mut Reader<'_>, sizes: ChunkSizes) -> Result<(Vec<Pack>, Vec<Chunk>), FormatError> {
    let (mut packs, mut chunks) = (vec![], vec![]);
    for number in 0..reader.count("number of packs", 1 << 20, 34)? {
        let pack = Pack { id: reader.id()?, size: reader.small("size of a pack", PACK_SIZE_MAX)? };
        let count = reader.count("number of chunks", 1 << 24, 35)?;
        chunks.reserve(count);
        let mut position = 0;
        for _ in 0..count {
            let offset = position + reader.small("gap in a pack", pack.size - position)?;
            let at = reader.position();
            let size = reader.small("size of a chunk", sizes.max)?;
            if size == 0 {
                return reader.fault(at, "chunk of no bytes");
            }
            let at = reader.position();
            let stored = size - reader.small("saving by compression", size - 1)?;
            if stored > pack.size - offset {
                return reader.fault(at, "chunk goes beyond its pack");
            }
            chunks.push(Chunk { id: reader.id()?, size, pack: number as u32, offset, stored });
            position = offset + stored;
        }
        packs.push(pack);
    }
    Ok((packs, chunks))
}

fn decode_entries(reader: &mut Reader<'_>, chunks: &[Chunk]) -> Result<(Vec<Entry>, Vec<u32>), FormatError> {
    let (mut entries, mut positions) = (Vec::<Entry>::new(), vec![]);
    let (mut paths, mut expected) = (Paths::default(), 0u32);
    for _ in 0..reader.count("number of entries", ENTRIES_MAX, 3)? {
        let at = reader.position();
        let kind = reader.byte()?;
        let path = reader.text("path", paths::PATH_MAX)?;
        if entries.last().is_some_and(|before| before.path >= path) {
            return reader.fault(at, format!("{path:?} is not after the path before it"));
        }
        let sound = if kind == 0 { paths.folder(&path) } else { paths.leaf(&path) };
        sound.or_else(|why| reader.fault(at, why))?;
        let kind = match kind {
            0 => Kind::Folder,
            1 | 2 => {
                let blake3 = reader.id()?;
                let begin = positions.len() as u32;
                let mut size = 0;
                for _ in 0..reader.count("number of runs", POSITIONS_MAX, 2)? {
                    let at = reader.position();
                    let gap = unzigzag(reader.number()?);
                    if gap == 0 && size > 0 {
                        return reader.fault(at, "run goes on where the one before ends");
                    }
                    let first = i64::from(expected).checked_add(gap);
                    let first = first
                        .and_then(|first| u32::try_from(first).ok())
                        .filter(|&first| first as usize <= chunks.len());
                    let Some(first) = first else { return reader.fault(at, "run begins outside the list of chunks") };
                    let at = reader.position();
                    let count = reader.small("length of a run", (chunks.len() - first as usize) as u32)?;
                    if count == 0 || positions.len() + count as usize > POSITIONS_MAX {
                        return reader.fault(
                            at,
                            format!("run of {count} chunks; at most {POSITIONS_MAX} positions are allowed"),
                        );
                    }
                    expected = first + count;
                    positions.extend(first..expected);
                    size += chunks[first as usize..expected as usize]
                        .iter()
                        .map(|chunk| u64::from(chunk.size))
                        .sum::<u64>();
                }
                Kind::File { size, executable: kind == 2, blake3, positions: begin..positions.len() as u32 }
            }
            3 => {
                let at = reader.position();
                let target = reader.text("target", paths::PATH_MAX)?;
                paths::check_link(&path, &target).or_else(|why| reader.fault(at, why))?;
                Kind::Link { target }
            }
            other => return reader.fault(at, format!("{path:?} is of kind {other}, which is not known")),
        };
        entries.push(Entry { path, kind });
    }
    Ok((entries, positions))
}

/// Numbers that follow each other, as ranges.
fn runs(numbers: &[u32]) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = vec![];
    for &number in numbers {
        match runs.last_mut() {
            Some(run) if run.end == number => run.end += 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}
