//! Deltas: the list of runs against a committed file and against damage, and which runs are found.

use super::build::{Bytes, build, find_runs};
use super::*;
use crate::manifest::{Chunk, ChunkSizes, Entry, Pack};
use crate::pack::digest;
use proptest::prelude::*;
use std::io;

/// A version with one file that is made of these chunks.
struct Version(Vec<Vec<u8>>, Manifest);

fn version(chunks: &[&str]) -> Version {
    let plain: Vec<Vec<u8>> = chunks.iter().map(|text| blake3::hash(text.as_bytes()).as_bytes().repeat(30)).collect();
    let mut table: Vec<Chunk> = vec![];
    let mut positions = vec![];
    for bytes in &plain {
        let id = digest(bytes);
        let number = table.iter().position(|chunk| chunk.id == id).unwrap_or_else(|| {
            let offset = table.len() as u32 * 960;
            table.push(Chunk { id, size: 960, pack: 0, offset, stored: 960 });
            table.len() - 1
        });
        positions.push(number as u32);
    }
    let size = plain.len() as u64 * 960;
    let kind =
        Kind::File { size, executable: false, blake3: digest(&plain.concat()), positions: 0..positions.len() as u32 };
    let manifest = Manifest {
        sizes: ChunkSizes { min: 64, avg: 256, max: 1_024 },
        keep: vec![],
        packs: vec![Pack { id: [1; 32], size: table.len() as u32 * 960 }],
        chunks: table,
        entries: vec![Entry { path: "file".into(), kind }],
        positions,
    };
    Version(plain, manifest)
}

impl Bytes for Version {
    fn read(&self, _: u32, offset: u64, size: u64) -> io::Result<Vec<u8>> {
        Ok(self.0.concat()[offset as usize..(offset + size) as usize].to_vec())
    }
}

fn runs(old: &[&str], new: &[&str]) -> Vec<(u32, u32, Option<(u64, u64)>)> {
    let runs = find_runs(&version(old).1, &version(new).1);
    runs.iter()
        .map(|run| (run.first, run.count, run.prefix.map(|prefix| (prefix.offset / 960, prefix.size / 960))))
        .collect()
}

#[test]
fn a_run_stands_after_the_old_bytes_between_its_neighbours() {
    let old = ["a", "b", "c", "d"];
    assert_eq!(runs(&old, &["a", "b", "c", "d"]), []);
    assert_eq!(runs(&old, &["a", "X", "c", "d"]), [(1, 1, Some((1, 1)))]);
    assert_eq!(runs(&old, &["a", "X", "Y", "d"]), [(1, 2, Some((1, 2)))]);
    // At the edges the file's old beginning and end are the neighbours.
    assert_eq!(runs(&old, &["X", "b", "c", "Y"]), [(0, 1, Some((0, 1))), (3, 1, Some((3, 1)))]);
    // Nothing stood between: nothing stands before.
    assert_eq!(runs(&old, &["a", "X", "b", "c", "d"]), [(1, 1, None)]);
    // A chunk that is repeated is brought once.
    assert_eq!(runs(&old, &["a", "X", "c", "X"]), [(1, 1, Some((1, 1)))]);
    // Moved ones are not new; a run between neighbours in the wrong order has the bytes after the left one.
    assert_eq!(runs(&old, &["c", "X", "a"]), [(1, 1, Some((3, 1)))]);
}

fn delta(old: &Version, new: &Version) -> (Vec<u8>, Fixed) {
    let mut frames = vec![];
    let head = build((&[1; 32], &old.1, old), (&[2; 32], &new.1, new), 3, &mut frames).expect("builds");
    let fixed = Fixed::decode(&head).expect("reads");
    assert_eq!(fixed.head_size(), head.len() as u64);
    ([head, frames].concat(), fixed)
}

fn list<'a>(file: &'a [u8], fixed: &Fixed) -> &'a [u8] {
    &file[FIXED_SIZE..FIXED_SIZE + fixed.list_size as usize]
}

#[test]
fn a_delta_brings_the_new_chunks_and_the_manifest() {
    let (old, new) = (version(&["a", "b", "c", "d"]), version(&["a", "X", "Y", "d", "Z"]));
    let (file, fixed) = delta(&old, &new);
    let runs = decode_list(list(&file, &fixed), &fixed, file.len() as u64, &old.1, &new.1).expect("reads");
    let mut plain = vec![];
    let mut brought = vec![];
    for run in &runs {
        let prefix = run.prefix.map_or(vec![], |prefix| old.read(0, prefix.offset, prefix.size).expect("reads"));
        let stored = &file[run.offset as usize..][..run.stored as usize];
        crate::pack::decompress_after(&prefix, stored, run_size(&new.1, run.first, run.count) as usize, &mut plain)
            .expect("sound");
        brought.extend_from_slice(&plain);
    }
    assert!(brought == [&new.0[1][..], &new.0[2], &new.0[4]].concat());
    let patch = &file[FIXED_SIZE + fixed.list_size as usize..][..fixed.patch_size as usize];
    let size = new.1.encode().len();
    crate::pack::decompress_after(&old.1.encode(), patch, size, &mut plain).expect("sound");
    assert_eq!(Manifest::decode(&plain).expect("a manifest"), new.1);
}

const FIXTURE: &[u8] = include_bytes!("../../tests/fixtures/delta-1.bin");

#[test]
fn the_committed_list_reads_and_is_written_the_same() {
    let (old, new) = (version(&["a", "b", "c", "d"]), version(&["a", "X", "Y", "d", "Z"]));
    let fixed = Fixed::decode(FIXTURE).expect("reads");
    assert_eq!((fixed.from, fixed.to), ([1; 32], [2; 32]));
    assert_eq!(fixed.encode(), &FIXTURE[..FIXED_SIZE]);
    let runs = decode_list(list(FIXTURE, &fixed), &fixed, FIXTURE.len() as u64, &old.1, &new.1).expect("reads");
    assert_eq!(runs.iter().map(|run| (run.first, run.count)).collect::<Vec<_>>(), [(1, 2), (4, 1)]);
    assert_eq!(encode_list(&runs), list(FIXTURE, &fixed));
}

#[test]
fn what_is_not_a_delta_is_refused() {
    for length in 0..FIXED_SIZE {
        assert!(Fixed::decode(&FIXTURE[..length]).is_err());
    }
    let mut bytes = FIXTURE.to_vec();
    bytes[FIXED_SIZE - 1] = 0xff;
    assert!(Fixed::decode(&bytes).is_err(), "a list of 4 GB");
    bytes[0] = b'X';
    assert!(Fixed::decode(&bytes).is_err());
}

proptest! {
    /// No list makes a reader leave the file, the old version, or its memory.
    #[test]
    fn damaged_lists_never_panic(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut: prop::sample::Index) {
        let (old, new) = (version(&["a", "b", "c", "d"]), version(&["a", "X", "Y", "d", "Z"]));
        let fixed = Fixed::decode(FIXTURE).expect("reads");
        let mut bytes = list(FIXTURE, &fixed).to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let size = FIXTURE.len() as u64;
        if let Ok(runs) = decode_list(&bytes, &fixed, size, &old.1, &new.1) {
            for run in runs {
                prop_assert!(run.offset + u64::from(run.stored) <= size);
                prop_assert!(run.first + run.count <= 5 && run.count > 0);
                if let Some(prefix) = run.prefix {
                    prop_assert!(prefix.entry == 0 && prefix.offset + prefix.size <= 4 * 960);
                }
            }
        }
        let cut = cut.index(bytes.len());
        prop_assert!(decode_list(&bytes[..cut], &fixed, size, &old.1, &new.1).is_err());
    }
}
