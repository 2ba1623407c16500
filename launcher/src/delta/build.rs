//! Making a delta: which runs, what stands before each, and the file.

use super::{Fixed, PREFIX_SIZE_MAX, Prefix, RUN_SIZE_MAX, Run, encode_list, run_size};
use crate::manifest::{Id, Kind, Manifest, Place};
use crate::pack::{self, ZstdError};
use rayon::prelude::*;
use std::io::{self, Write};

/// Old bytes beside a single matched neighbour, beyond as many as the run has.
const BESIDE_SIZE: u64 = 64 << 10;
/// Runs that are compressed at the same time: each needs its prefix, its bytes and zstd's tables.
const BATCH: usize = 4;

/// Reads bytes of a version.
pub(crate) trait Bytes: Sync {
    /// The bytes from `offset` of a file, exactly `size` of them.
    fn read(&self, entry: u32, offset: u64, size: u64) -> io::Result<Vec<u8>>;
}

/// Why there is no delta.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildError {
    #[error(transparent)]
    Zstd(#[from] ZstdError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where each chunk of a version is first, by the chunk's id.
pub(crate) struct Whereabouts<'a> {
    manifest: &'a Manifest,
    places: Vec<Place>,
    /// Positions, in the order of their chunks' ids, then of themselves.
    sorted: Vec<u32>,
}

impl<'a> Whereabouts<'a> {
    pub fn new(manifest: &'a Manifest) -> Self {
        let mut sorted: Vec<u32> = (0..manifest.positions.len() as u32).collect();
        sorted.sort_unstable_by(|&a, &b| (&manifest.chunk_at(a).id, a).cmp(&(&manifest.chunk_at(b).id, b)));
        Self { manifest, places: manifest.places(), sorted }
    }

    /// All positions with this chunk, rising.
    pub fn positions(&self, id: &Id) -> &[u32] {
        let begin = self.sorted.partition_point(|&position| self.manifest.chunk_at(position).id < *id);
        let rest = &self.sorted[begin..];
        let count = rest.iter().take_while(|&&position| self.manifest.chunk_at(position).id == *id).count();
        &rest[..count]
    }

    pub fn place(&self, position: u32) -> Place {
        self.places[position as usize]
    }

    pub fn has(&self, id: &Id) -> bool {
        !self.positions(id).is_empty()
    }
}

/// The runs of chunks that `from` does not have, each chunk once, with their prefixes; not compressed yet.
pub(crate) fn find_runs(from: &Manifest, to: &Manifest) -> Vec<Run> {
    let old = Whereabouts::new(from);
    let mut seen = vec![false; to.chunks.len()];
    let mut runs = vec![];
    for entry in &to.entries {
        let Kind::File { positions, .. } = &entry.kind else { continue };
        let same_path = from.entry(&entry.path).map(|number| number as u32);
        let mut position = positions.start;
        while position < positions.end {
            let begin = position;
            while position < positions.end {
                let chunk = to.positions[position as usize] as usize;
                if std::mem::replace(&mut seen[chunk], true) || old.has(&to.chunks[chunk].id) {
                    break;
                }
                position += 1;
            }
            if begin == position {
                position += 1;
                continue;
            }
            let end = position;
            let left = (begin > positions.start).then(|| begin - 1);
            let right = (end < positions.end).then_some(end);
            let size = run_size(to, begin, end - begin);
            let gap = gap(from, to, &old, same_path, left, right, size);
            cut(to, begin, end, gap, &mut runs);
        }
    }
    runs
}

/// The old bytes `(entry, begin, end)` between the matched neighbours of a run; a file's beginning and end match those of its old self.
fn gap(
    from: &Manifest,
    to: &Manifest,
    old: &Whereabouts<'_>,
    same_path: Option<u32>,
    left: Option<u32>,
    right: Option<u32>,
    size: u64,
) -> Option<(u32, u64, u64)> {
    let file_size = |entry: u32| match &from.entries[entry as usize].kind {
        Kind::File { size, .. } => *size,
        _ => 0,
    };
    // Of a chunk's places, the one in the file of the same path is the likeliest neighbour.
    let nearest = |position: u32| {
        let positions = old.positions(&to.chunk_at(position).id);
        let here = positions.iter().find(|&&position| Some(old.place(position).entry) == same_path);
        here.or(positions.first()).map(|&found| old.place(found))
    };
    let left_end = match left {
        None => same_path.map(|entry| (entry, 0)),
        Some(position) => {
            nearest(position).map(|place| (place.entry, place.offset + u64::from(to.chunk_at(position).size)))
        }
    };
    let right_begin = match right {
        None => left_end.or(same_path.map(|entry| (entry, 0))).map(|(entry, _)| (entry, file_size(entry))),
        Some(position) => nearest(position).map(|place| (place.entry, place.offset)),
    };
    let beside = size + BESIDE_SIZE;
    match (left_end, right_begin) {
        (Some((entry, begin)), Some((other, end))) if entry == other && begin <= end => Some((entry, begin, end)),
        (Some((entry, begin)), _) => Some((entry, begin, file_size(entry).min(begin + beside))),
        (None, Some((entry, end))) => Some((entry, end.saturating_sub(beside), end)),
        (None, None) => None,
    }
    .filter(|(_, begin, end)| begin < end)
}

/// Cuts a run to pieces that fit a client's memory. Of a gap that is too long, each piece gets the part that lies where it does.
fn cut(to: &Manifest, begin: u32, end: u32, gap: Option<(u32, u64, u64)>, runs: &mut Vec<Run>) {
    let whole = run_size(to, begin, end - begin);
    let (mut first, mut done) = (begin, 0);
    while first < end {
        let (mut count, mut size) = (0, 0);
        while first + count < end && (count == 0 || size + u64::from(to.chunk_at(first + count).size) <= RUN_SIZE_MAX) {
            size += u64::from(to.chunk_at(first + count).size);
            count += 1;
        }
        let prefix = gap.map(|(entry, begin, end)| {
            let length = end - begin;
            if length <= PREFIX_SIZE_MAX {
                return Prefix { entry, offset: begin, size: length };
            }
            let middle = (u128::from(length) * u128::from(done + size / 2) / u128::from(whole)) as u64;
            let offset = middle.saturating_sub(PREFIX_SIZE_MAX / 2).min(length - PREFIX_SIZE_MAX);
            Prefix { entry, offset: begin + offset, size: PREFIX_SIZE_MAX }
        });
        runs.push(Run { first, count, prefix, offset: 0, stored: 0 });
        first += count;
        done += size;
    }
}

/// Writes the delta's frames to `frames` and returns what stands before them.
pub(crate) fn build(
    from: (&Id, &Manifest, &dyn Bytes),
    to: (&Id, &Manifest, &dyn Bytes),
    level: i32,
    frames: &mut dyn Write,
) -> Result<Vec<u8>, BuildError> {
    let (from_id, from, old) = from;
    let (to_id, to, new) = to;
    let mut runs = find_runs(from, to);
    let places = to.places();
    for batch in runs.chunks_mut(BATCH) {
        let stored: Vec<Result<Vec<u8>, BuildError>> = batch
            .par_iter()
            .map(|run| {
                let prefix = match run.prefix {
                    None => vec![],
                    Some(prefix) => old.read(prefix.entry, prefix.offset, prefix.size)?,
                };
                let place = places[run.first as usize];
                let plain = new.read(place.entry, place.offset, run_size(to, run.first, run.count))?;
                Ok(pack::compress_after(&prefix, &plain, level)?)
            })
            .collect();
        for (run, stored) in batch.iter_mut().zip(stored) {
            let stored = stored?;
            run.stored = stored.len() as u32;
            frames.write_all(&stored)?;
        }
    }
    let list = encode_list(&runs);
    let patch = pack::compress_after(&from.encode(), &to.encode(), 9)?;
    let fixed = Fixed { from: *from_id, to: *to_id, patch_size: patch.len() as u32, list_size: list.len() as u32 };
    Ok([fixed.encode(), list, patch].concat())
}
