//! The manifest against a committed file, every way to damage it, and arbitrary ones.

use super::*;
use proptest::prelude::*;

/// Every kind of entry, two packs, a gap, a chunk that is not compressed, a repeated chunk.
fn example() -> Manifest {
    let id = |byte: u8| [byte; 32];
    Manifest {
        sizes: ChunkSizes { min: 256, avg: 1_024, max: 4_096 },
        keep: vec!["saves/**".into()],
        packs: vec![Pack { id: id(1), size: 5_000 }, Pack { id: id(2), size: 300 }],
        chunks: vec![
            Chunk { id: id(10), size: 4_096, pack: 0, offset: 0, stored: 2_000 },
            Chunk { id: id(11), size: 2_000, pack: 0, offset: 2_500, stored: 2_000 },
            Chunk { id: id(12), size: 700, pack: 1, offset: 0, stored: 300 },
        ],
        entries: vec![
            Entry {
                path: "bin/game".into(),
                kind: Kind::File { size: 6_096, executable: true, blake3: id(20), positions: 0..2 },
            },
            Entry { path: "bin/link".into(), kind: Kind::Link { target: "../data.pak".into() } },
            Entry {
                path: "data.pak".into(),
                kind: Kind::File { size: 5_496, executable: false, blake3: id(21), positions: 2..5 },
            },
            Entry { path: "empty".into(), kind: Kind::Folder },
            Entry {
                path: "nothing".into(),
                kind: Kind::File { size: 0, executable: false, blake3: id(22), positions: 5..5 },
            },
        ],
        positions: vec![0, 1, 2, 0, 2],
    }
}

const FIXTURE: &[u8] = include_bytes!("../../tests/fixtures/manifest-1.bin");

/// A shipped format is read for ever: this file was written by the first version that had it.
#[test]
fn the_committed_file_reads_and_is_written_the_same() {
    let mut expected = example();
    if let Kind::File { size, .. } = &mut expected.entries[2].kind {
        *size = 700 + 4_096 + 700;
    }
    assert_eq!(Manifest::decode(FIXTURE).expect("sound"), expected);
    assert_eq!(expected.encode(), FIXTURE);
}

#[test]
fn places_and_totals_are_those_of_the_files() {
    let manifest = Manifest::decode(FIXTURE).expect("sound");
    let places: Vec<(u32, u64)> = manifest.places().iter().map(|place| (place.entry, place.offset)).collect();
    assert_eq!(places, [(0, 0), (0, 4_096), (2, 0), (2, 700), (2, 4_796)]);
    assert_eq!(manifest.total_size(), 6_096 + 5_496);
    assert_eq!(manifest.entry("data.pak"), Some(2));
    assert_eq!(manifest.entry("data"), None);
}

#[test]
fn every_cut_and_every_trailing_byte_is_refused() {
    for length in 0..FIXTURE.len() {
        assert!(Manifest::decode(&FIXTURE[..length]).is_err(), "{length} bytes");
    }
    assert!(Manifest::decode(&[FIXTURE, b"\0"].concat()).is_err());
}

#[test]
fn every_changed_bit_is_refused_or_another_sound_manifest() {
    for bit in 0..FIXTURE.len() * 8 {
        let mut bytes = FIXTURE.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(manifest) = Manifest::decode(&bytes) {
            assert_eq!(manifest.encode(), bytes, "bit {bit}: one manifest, one form");
        }
    }
}

#[test]
fn hostile_manifests_are_refused_by_name() {
    let refused = |change: fn(&mut Manifest), why: &str| {
        let mut manifest = example();
        change(&mut manifest);
        let error = Manifest::decode(&manifest.encode()).expect_err(why).to_string();
        assert!(error.contains(why), "{error} does not say {why:?}");
    };
    refused(|m| m.entries[0].path = "../x".into(), ". or ..");
    refused(|m| m.entries[0].path = "/etc/passwd".into(), "empty");
    refused(|m| m.entries[0].path = "a\\b".into(), "'\\\\'");
    refused(|m| m.entries[0].path = "a\0b".into(), "'\\0'");
    refused(|m| m.entries[0].path = "bin/link".into(), "not after the path before it");
    refused(|m| m.entries[1].path = "bin/game".into(), "not after the path before it");
    refused(|m| m.entries[0].path = "DATA.PAK".into(), "upper and lower case");
    refused(|m| m.entries[0].path = "aux".into(), "device");
    refused(|m| m.entries[1].kind = Kind::Link { target: "../../x".into() }, "leaves the root");
    refused(|m| m.entries[1].kind = Kind::Link { target: "/etc".into() }, "leaves the root");
    refused(|m| m.entries[1].path = "bin/game/x".into(), "as a folder and as a file");
    refused(|m| m.chunks[2].size = 5_000, "size of a chunk");
    refused(|m| m.packs[1].size = 299, "beyond its pack");
    refused(|m| m.packs[0].size = PACK_SIZE_MAX + 1, "size of a pack");
    refused(|m| m.sizes.min = 0, "chunk sizes");
}

#[test]
fn counts_that_the_bytes_cannot_hold_allocate_nothing() {
    let mut bytes = FIXTURE[..8].to_vec();
    bytes.push(1);
    [256, 1_024, 4_096, 0].into_iter().for_each(|number| put_number(&mut bytes, number));
    put_number(&mut bytes, 1 << 19);
    let error = Manifest::decode(&bytes).expect_err("no packs follow").to_string();
    assert!(error.contains("number of packs"), "{error}");
    // A few bytes must not become millions of positions.
    let mut bytes = example().encode();
    bytes.truncate(bytes.len() - 1);
    let runs = 2_000_000usize;
    put_number(&mut bytes, runs as u64);
    for _ in 0..runs {
        put_number(&mut bytes, zigzag(-3));
        put_number(&mut bytes, 3);
    }
    let error = Manifest::decode(&bytes).expect_err("too many").to_string();
    assert!(error.contains("positions are allowed") || error.contains("outside"), "{error}");
}

fn manifests() -> impl Strategy<Value = Manifest> {
    let chunk = (1u32..4_096, 0u32..4_096, 0u32..100, any::<[u8; 32]>());
    let packs = prop::collection::vec(prop::collection::vec(chunk, 1..6), 1..4);
    let files = prop::collection::btree_map(
        "[a-m]{1,3}(/[n-z]{1,3})?",
        (any::<bool>(), prop::collection::vec(any::<prop::sample::Index>(), 0..8)),
        0..6,
    );
    (packs, files).prop_map(|(drawn, files)| {
        let (mut packs, mut chunks) = (vec![], vec![]);
        for (number, members) in drawn.into_iter().enumerate() {
            let mut end = 0;
            for (size, saved, gap, id) in members {
                let stored = size - saved.min(size - 1);
                chunks.push(Chunk { id, size, pack: number as u32, offset: end + gap, stored });
                end += gap + stored;
            }
            packs.push(Pack { id: [number as u8; 32], size: end });
        }
        let (mut entries, mut positions) = (vec![], vec![]);
        let folders: Vec<String> = files.keys().filter_map(|path| Some(path.split_once('/')?.0.to_owned())).collect();
        for (path, (executable, picks)) in files {
            if folders.contains(&path) {
                continue;
            }
            let begin = positions.len() as u32;
            positions.extend(picks.iter().map(|pick| pick.index(chunks.len()) as u32));
            let size = positions[begin as usize..].iter().map(|&chunk| u64::from(chunks[chunk as usize].size)).sum();
            entries.push(Entry {
                path,
                kind: Kind::File { size, executable, blake3: [9; 32], positions: begin..positions.len() as u32 },
            });
        }
        Manifest {
            sizes: ChunkSizes { min: 64, avg: 1_024, max: 4_096 },
            keep: vec![],
            packs,
            chunks,
            entries,
            positions,
        }
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(manifest in manifests()) {
        prop_assert_eq!(&Manifest::decode(&manifest.encode()).expect("sound"), &manifest);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
        prop_assert!(Manifest::decode(&bytes).is_err());
        let mut damaged = FIXTURE.to_vec();
        for (at, byte) in damage {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        if let Ok(manifest) = Manifest::decode(&damaged) {
            prop_assert_eq!(manifest.encode(), damaged);
        }
    }

    #[test]
    fn numbers_have_one_form(number: u64, signed: i64) {
        let mut bytes = vec![];
        put_number(&mut bytes, number);
        prop_assert_eq!(Reader::new(&bytes).number(), Ok(number));
        prop_assert_eq!(unzigzag(zigzag(signed)), signed);
        let last = bytes.len() - 1;
        bytes[last] |= 0x80;
        bytes.push(0);
        prop_assert!(Reader::new(&bytes).number().is_err());
    }
}
