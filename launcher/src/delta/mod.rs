//! Gap deltas: from one version's manifest to a later one's in few bytes and requests.
//!
//! Chunks that the old version does not have form runs. Each run is one zstd frame, made with the old bytes between its matched neighbours as
//! a prefix, so that an insertion costs the inserted bytes and not the chunks around it. In front stand the runs' places and the patch from
//! the old manifest's bytes to the new one's. `docs/formats.md` has the bytes.
//!
//! Nothing in a delta is trusted: a run's bytes count only if they are the chunks that the (signed) manifest names.

pub(crate) mod build;
#[cfg(test)]
mod tests;

use crate::manifest::codec::{FormatError, Reader, put_number};
use crate::manifest::{CHUNK_SIZE_MAX, Id, Kind, MANIFEST_SIZE_MAX, Manifest};

const MAGIC: &[u8; 8] = b"VSKDEL01";
/// Before the list of runs: magic, two manifests' ids, bytes of patch and of list.
pub(crate) const FIXED_SIZE: usize = 8 + 32 + 32 + 4 + 4;
/// Largest list of runs, bytes.
const LIST_SIZE_MAX: u32 = 8 << 20;
/// Most plain bytes of one run; a longer one is cut. One chunk at least is in each.
pub(crate) const RUN_SIZE_MAX: u64 = 2 << 20;
/// Most old bytes before one run.
pub(crate) const PREFIX_SIZE_MAX: u64 = 8 << 20;

/// The beginning of a delta file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fixed {
    /// Of the manifest it starts from.
    pub from: Id,
    /// Of the manifest it leads to.
    pub to: Id,
    /// Bytes of the patch, which follows the list.
    pub patch_size: u32,
    /// Bytes of the list, which follows this.
    pub list_size: u32,
}

impl Fixed {
    pub fn encode(&self) -> Vec<u8> {
        [&MAGIC[..], &self.from, &self.to, &self.patch_size.to_le_bytes(), &self.list_size.to_le_bytes()].concat()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        if reader.bytes(MAGIC.len())? != MAGIC {
            return reader.fault(0, "not a delta, or one of a later version of vsekai");
        }
        let (from, to) = (reader.id()?, reader.id()?);
        let at = reader.position();
        let mut size = || Ok(u32::from_le_bytes(reader.bytes(4)?.try_into().expect("four bytes")));
        let (patch_size, list_size) = (size()?, size()?);
        if u64::from(patch_size) > MANIFEST_SIZE_MAX || list_size > LIST_SIZE_MAX {
            return reader
                .fault(at, format!("patch of {patch_size} and list of {list_size} bytes are more than allowed"));
        }
        Ok(Self { from, to, patch_size, list_size })
    }

    /// Bytes before the first run's frame.
    pub fn head_size(&self) -> u64 {
        FIXED_SIZE as u64 + u64::from(self.list_size) + u64::from(self.patch_size)
    }
}

/// The old bytes that stand before a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// Which entry of the old manifest.
    pub entry: u32,
    pub offset: u64,
    /// 1 to [`PREFIX_SIZE_MAX`].
    pub size: u64,
}

/// Chunks that follow each other in a file of the new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The first of the new manifest's positions.
    pub first: u32,
    /// How many, at least one.
    pub count: u32,
    /// What its frame was made after.
    pub prefix: Option<Prefix>,
    /// Where the frame begins in the file.
    pub offset: u64,
    /// Bytes of the frame.
    pub stored: u32,
}

/// Plain bytes of a run.
pub(crate) fn run_size(to: &Manifest, first: u32, count: u32) -> u64 {
    (first..first + count).map(|position| u64::from(to.chunk_at(position).size)).sum()
}

pub(crate) fn encode_list(runs: &[Run]) -> Vec<u8> {
    let mut bytes = vec![];
    put_number(&mut bytes, runs.len() as u64);
    let mut next = 0;
    for run in runs {
        put_number(&mut bytes, u64::from(run.first - next));
        put_number(&mut bytes, u64::from(run.count));
        match run.prefix {
            None => put_number(&mut bytes, 0),
            Some(prefix) => {
                put_number(&mut bytes, prefix.size);
                put_number(&mut bytes, u64::from(prefix.entry));
                put_number(&mut bytes, prefix.offset);
            }
        }
        put_number(&mut bytes, u64::from(run.stored));
        next = run.first + run.count;
    }
    bytes
}

/// Reads the list of runs of a delta file of `file_size` bytes, and checks it against the two manifests.
pub(crate) fn decode_list(
    bytes: &[u8],
    fixed: &Fixed,
    file_size: u64,
    from: &Manifest,
    to: &Manifest,
) -> Result<Vec<Run>, FormatError> {
    let mut reader = Reader::new(bytes);
    let mut runs = vec![];
    let (mut next, mut offset) = (0u32, fixed.head_size());
    let positions = to.positions.len() as u32;
    let ends: Vec<u32> = file_ends(to);
    for _ in 0..reader.count("number of runs", to.positions.len(), 4)? {
        let at = reader.position();
        let first = next + reader.small("gap before a run", positions - next)?;
        let count = reader.small("length of a run", positions - first)?;
        let end = ends[ends.partition_point(|&end| end <= first).min(ends.len() - 1)];
        if count == 0 || first + count > end {
            return reader.fault(at, "run of no chunks, or beyond its file");
        }
        let size = run_size(to, first, count);
        if size > RUN_SIZE_MAX + u64::from(CHUNK_SIZE_MAX) {
            return reader.fault(at, format!("run of {size} bytes is more than allowed"));
        }
        let at = reader.position();
        let prefix = match reader.number_to("size of a prefix", PREFIX_SIZE_MAX)? {
            0 => None,
            size => {
                let entry = reader.small("file of a prefix", from.entries.len().saturating_sub(1) as u32)?;
                let offset = reader.number()?;
                let room = match from.entries.get(entry as usize).map(|entry| &entry.kind) {
                    Some(Kind::File { size, .. }) => size.checked_sub(offset),
                    _ => None,
                };
                if room.is_none_or(|room| room < size) {
                    return reader.fault(at, "prefix is not in the old version");
                }
                Some(Prefix { entry, offset, size })
            }
        };
        // A frame of what cannot be compressed is a little longer than that.
        let stored = reader.small("size of a frame", (size + size / 128 + 1_024) as u32)?;
        if u64::from(stored) > file_size.saturating_sub(offset) {
            return reader.fault(at, "frame goes beyond the file");
        }
        runs.push(Run { first, count, prefix, offset, stored });
        offset += u64::from(stored);
        next = first + count;
    }
    reader.end()?;
    if offset != file_size {
        return reader.fault(reader.position(), format!("the frames end at {offset}, the file at {file_size}"));
    }
    Ok(runs)
}

/// The positions at which files end, rising.
fn file_ends(manifest: &Manifest) -> Vec<u32> {
    let ends = manifest.entries.iter().filter_map(|entry| match &entry.kind {
        Kind::File { positions, .. } if !positions.is_empty() => Some(positions.end),
        _ => None,
    });
    ends.collect()
}
