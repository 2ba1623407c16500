//! A build's folder as entries, and its files as chunks.

use crate::error::{Exit, TaskError, shown};
use crate::manifest::paths::{Paths, check_link};
use crate::manifest::{ChunkSizes, Id};
use crate::pack::digest;
use crate::read;
use fastcdc::v2020::{FastCDC, Normalization};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Files are read in pieces of this and a chunk's largest size.
const READ_SIZE: usize = 1 << 20;

/// What stands at a path of a build's folder.
pub(crate) enum Found {
    Folder,
    File { executable: bool, size: u64 },
    Link { target: String },
}

/// All paths below a folder, in the order of their bytes. Folders are listed if they are empty.
pub(crate) fn list(source: &Path) -> Result<Vec<(String, Found)>, TaskError> {
    let mut found = vec![];
    walk(source, "", &mut found)?;
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let mut paths = Paths::default();
    for (path, what) in &found {
        let sound = match what {
            Found::Folder => paths.folder(path),
            Found::File { .. } => paths.leaf(path),
            Found::Link { target } => paths.leaf(path).and_then(|()| check_link(path, target)),
        };
        sound.map_err(|why| TaskError::new(Exit::Damaged, format!("{}: cannot be published: {why}", shown(source))))?;
    }
    Ok(found)
}

fn walk(folder: &Path, above: &str, found: &mut Vec<(String, Found)>) -> Result<(), TaskError> {
    let unreadable = |source| TaskError::unreadable(folder, source);
    let mut empty = true;
    for item in std::fs::read_dir(folder).map_err(unreadable)? {
        let item = item.map_err(unreadable)?;
        let full = item.path();
        empty = false;
        let Some(name) = item.file_name().to_str().map(str::to_owned) else {
            return Err(TaskError::new(Exit::Damaged, format!("{}: the name is not Unicode", shown(&full))));
        };
        let path = if above.is_empty() { name } else { format!("{above}/{name}") };
        let unreadable = |source| TaskError::unreadable(&full, source);
        let metadata = item.metadata().map_err(unreadable)?;
        if metadata.is_dir() {
            walk(&full, &path, found)?;
        } else if metadata.is_file() {
            let executable = metadata.permissions().mode() & 0o100 != 0;
            found.push((path, Found::File { executable, size: metadata.len() }));
        } else if metadata.is_symlink() {
            let target = std::fs::read_link(&full).map_err(unreadable)?;
            let Some(target) = target.to_str().map(str::to_owned) else {
                return Err(TaskError::new(
                    Exit::Damaged,
                    format!("{}: the link's target is not Unicode", shown(&full)),
                ));
            };
            found.push((path, Found::Link { target }));
        } else {
            return Err(TaskError::new(Exit::Damaged, format!("{}: neither file, folder nor link", shown(&full))));
        }
    }
    if empty && !above.is_empty() {
        found.push((above.to_owned(), Found::Folder));
    }
    Ok(())
}

/// A file cut into chunks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub blake3: Id,
    /// Id and size of each.
    pub chunks: Vec<(Id, u32)>,
}

/// Cuts a file into chunks; its bytes are read once and not kept.
pub(crate) fn scan(mut file: impl Read, sizes: ChunkSizes) -> std::io::Result<Scanned> {
    let max = sizes.max as usize;
    let mut buffer = vec![0; READ_SIZE + max];
    let (mut begin, mut end, mut at_end) = (0, 0, false);
    let mut whole = blake3::Hasher::new();
    let mut chunks = vec![];
    loop {
        if !at_end && end - begin < max {
            buffer.copy_within(begin..end, 0);
            (begin, end) = (0, end - begin);
            let count = read::most(&mut file, &mut buffer[end..])?;
            whole.update(&buffer[end..end + count]);
            end += count;
            at_end = end < buffer.len();
        }
        if begin == end {
            return Ok(Scanned { blake3: whole.finalize().into(), chunks });
        }
        let window = &buffer[begin..end];
        let cutter = FastCDC::with_level(window, sizes.min as usize, sizes.avg as usize, max, Normalization::Level1);
        let mut from = 0;
        while from < window.len() && (at_end || window.len() - from >= max) {
            let (_, to) = cutter.cut(from, window.len() - from);
            chunks.push((digest(&window[from..to]), (to - from) as u32));
            from = to;
        }
        begin += from;
    }
}

/// The same of a file by name.
pub(crate) fn scan_file(path: &Path, sizes: ChunkSizes) -> std::io::Result<Scanned> {
    scan(File::open(path)?, sizes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        blake3::Hasher::new().update(b"noise").finalize_xof().fill(&mut bytes);
        bytes
    }

    /// Boundaries are part of the format: a crate that cuts otherwise would make every update a full download.
    #[test]
    fn boundaries_stay_where_they_are() {
        let scanned = scan(&noise(300_000)[..], ChunkSizes::USUAL).expect("reads");
        let sizes: Vec<u32> = scanned.chunks.iter().map(|chunk| chunk.1).collect();
        assert_eq!(sizes, GOLDEN_SIZES);
        assert_eq!(scanned.blake3, digest(&noise(300_000)));
    }

    const GOLDEN_SIZES: &[u32] = &[
        10930, 4527, 18623, 6065, 9589, 24342, 12035, 4699, 12277, 19227, 9052, 24050, 19333, 20211, 13220, 19095,
        29331, 20056, 18827, 4511,
    ];

    struct Dribble<'a>(&'a [u8], usize);
    impl Read for Dribble<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let count = self.1.min(self.0.len()).min(into.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Chunks are the file, whatever pieces it was read in, and as large as they may be.
        #[test]
        fn chunks_are_the_file(size in 0usize..200_000, step in 1usize..100_000) {
            let bytes = noise(size);
            let sizes = ChunkSizes { min: 256, avg: 1_024, max: 4_096 };
            let scanned = scan(Dribble(&bytes, step), sizes).expect("reads");
            prop_assert_eq!(&scanned, &scan(&bytes[..], sizes).expect("reads"));
            let mut begin = 0;
            for (number, (id, size)) in scanned.chunks.iter().enumerate() {
                let last = number + 1 == scanned.chunks.len();
                prop_assert!(*size <= 4_096 && (*size >= 256 || last));
                prop_assert_eq!(*id, digest(&bytes[begin..begin + *size as usize]));
                begin += *size as usize;
            }
            prop_assert_eq!(begin, size);
        }
    }
}
