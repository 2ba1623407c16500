use super::*;
use crate::caibx::{Header, IndexWriter, flags};
use crate::digest::Digest;
use crate::hex::hex;
use proptest::prelude::*;

/// Bytes that nothing is repeated in: splitmix64 from `seed`.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn ends(chunker: &Chunker, bytes: &[u8]) -> Vec<usize> {
    let (mut ends, mut end) = (Vec::new(), 0);
    while let Some(size) = chunker.cut(&bytes[end..], true) {
        end += size;
        ends.push(end);
    }
    ends
}

/// The same blob was given to casync 2 (Debian 12): `casync make --chunk-size=MIN:AVG:MAX`. Its indexes have these ends, and this
/// SHA-256; so cuts, ids and the index as it is written are the same.
#[test]
fn buzhash_cuts_as_casync_does() {
    let blob = noise(1_000_003, 7);
    assert_eq!(hex(&Digest::Sha256.of(&blob[..8])), hex(&Digest::Sha256.of(&noise(8, 7))));
    for (sizes, first, count, sum) in [
        (
            (16_384, 65_536, 262_144),
            [35_247, 52_601, 91_478, 168_002, 208_322, 259_233],
            18,
            "69ed0c726452ab21998a215de4375d2b9235ecf35e859115c6fbb35f8085533a",
        ),
        (
            (1_024, 4_096, 16_384),
            [3_875, 4_998, 7_002, 11_021, 12_122, 14_077],
            258,
            "1324350c5d5753978dc1f138f79df843a68bfd48267e47548f3232614c43f602",
        ),
        (
            (2_048, 2_500, 9_000),
            [2_144, 7_058, 9_366, 12_529, 14_926, 18_079],
            252,
            "07fc923eb3f1a48c88ceccb4953b1d3bbe0a105a3492fcdb0209f187acffbf5b",
        ),
    ] {
        let (min, avg, max) = sizes;
        let chunker = Chunker::new(Algorithm::Buzhash, ChunkSizes { min, avg, max }).expect("sizes");
        let ends = ends(&chunker, &blob);
        assert_eq!((&ends[..6], ends.len()), (&first[..], count));
        let header = Header {
            digest: Digest::Sha512_256,
            flags: flags(Digest::Sha512_256, None),
            chunk_size_min: min as u64,
            chunk_size_avg: avg as u64,
            chunk_size_max: max as u64,
            chunk_count: 0,
        };
        let mut index = IndexWriter::new(Vec::new(), &header).expect("memory");
        let mut begin = 0;
        for end in ends {
            index.add((end - begin) as u64, &Digest::Sha512_256.of(&blob[begin..end])).expect("memory");
            begin = end;
        }
        assert_eq!(hex(&Digest::Sha256.of(&index.finish().expect("memory"))), sum);
    }
}

/// What was cut once must be cut so for ever: stores out there are full of it.
#[test]
fn fastcdc_cuts_as_it_always_did() {
    let blob = noise(1_000_003, 7);
    let chunker = Chunker::new(Algorithm::Fastcdc, ChunkSizes::DEFAULT).expect("sizes");
    assert_eq!(ends(&chunker, &blob), FASTCDC_ENDS);
}

const FASTCDC_ENDS: [usize; 14] = [
    31_171, 69_978, 198_478, 277_996, 437_005, 482_872, 561_066, 590_547, 614_333, 679_044, 792_243, 911_791, 987_738,
    1_000_003,
];

#[test]
fn nothing_and_too_little_are_not_cut() {
    for algorithm in [Algorithm::Fastcdc, Algorithm::Buzhash] {
        let chunker = Chunker::new(algorithm, ChunkSizes::DEFAULT).expect("sizes");
        let bytes = noise(262_144, 1);
        assert_eq!(chunker.cut(&[], true), None);
        assert_eq!(chunker.cut(&bytes[..262_143], false), None);
        assert_eq!(chunker.cut(&bytes[..16_384], true), Some(16_384));
        assert!(chunker.cut(&bytes, false).is_some());
        // All the same byte: no cut before the largest size.
        assert_eq!(chunker.cut(&[0; 300_000], true), Some(262_144));
    }
}

#[test]
fn sizes_are_read_as_desync_writes_them() {
    let sizes = |text: &str| text.parse::<ChunkSizes>();
    assert_eq!(sizes("16:64:256"), Ok(ChunkSizes::DEFAULT));
    assert_eq!(sizes("16384b:64k:256K"), Ok(ChunkSizes::DEFAULT));
    assert_eq!(sizes("1:2:3m").expect("sizes").max, 3 << 20);
    assert_eq!(ChunkSizes::DEFAULT.to_string().parse(), Ok(ChunkSizes::DEFAULT));
    for bad in [
        "",
        "16",
        "16:64",
        "16:64:256:1",
        "64:16:256",
        "1:2:129m",
        "a:b:c",
        ":::",
        "1:2:-3",
        "1:2:4294967296",
        "1:2:9999999m",
    ] {
        assert!(sizes(bad).is_err(), "{bad}");
    }
}

#[test]
fn sizes_that_an_algorithm_cannot_keep_are_refused() {
    let new = |algorithm, min, avg, max| Chunker::new(algorithm, ChunkSizes { min, avg, max });
    for (min, avg, max) in
        [(62, 256, 1_024), (64, 255, 1_024), (65, 256, 1_024), (64, 256, 1_023), (64, 8 << 20, 16 << 20)]
    {
        assert!(new(Algorithm::Fastcdc, min, avg, max).is_err(), "{min}:{avg}:{max}");
    }
    assert!(new(Algorithm::Fastcdc, 64, 256, 1_024).is_ok());
    for (min, avg, max) in [(47, 256, 1_024), (48, 5 << 20, 16 << 20), (48, 256, (128 << 20) + 1), (256, 48, 1_024)] {
        assert!(new(Algorithm::Buzhash, min, avg, max).is_err(), "{min}:{avg}:{max}");
    }
    assert!(new(Algorithm::Buzhash, 48, 48, 48).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn chunks_are_all_of_it_within_bounds_and_the_same_from_a_stream(
        length in 0usize..60_000,
        seed: u64,
        buzhash: bool,
        min in 24usize..500,
        more in 50usize..1_000,
        piece in 1usize..9_000,
    ) {
        let algorithm = if buzhash { Algorithm::Buzhash } else { Algorithm::Fastcdc };
        let sizes = ChunkSizes { min: (2 * min).max(64), avg: 2 * min + 2 * more + 200, max: 4 * min + 8 * more + 600 };
        let chunker = Chunker::new(algorithm, sizes).map_err(TestCaseError::fail)?;
        let bytes = noise(length, seed);
        let whole = ends(&chunker, &bytes);
        prop_assert_eq!(whole.last().copied().unwrap_or(0), length);
        let mut begin = 0;
        for (number, &end) in whole.iter().enumerate() {
            let size = end - begin;
            prop_assert!(size <= sizes.max && (size >= sizes.min || number + 1 == whole.len()), "{} bytes", size);
            begin = end;
        }
        // As a stream that grows by pieces.
        let (mut streamed, mut cut, mut filled) = (Vec::new(), 0, 0);
        loop {
            while let Some(size) = chunker.cut(&bytes[cut..filled], filled == length) {
                cut += size;
                streamed.push(cut);
            }
            if filled == length {
                break;
            }
            filled = length.min(filled + piece);
        }
        prop_assert_eq!(streamed, whole);
    }

    /// The quick test for divisibility against the division itself.
    #[test]
    fn a_boundary_is_where_the_division_says(avg in 48usize..4_194_304, hash: u32, near in 0u32..3) {
        let buzhash = Buzhash::new(ChunkSizes { min: 48, avg, max: 1 << 23 });
        let discriminator = buzhash.discriminator();
        for hash in [hash, (hash - hash % discriminator).wrapping_sub(near), u32::MAX - near] {
            prop_assert_eq!(buzhash.is_boundary(hash), hash % discriminator == discriminator - 1);
        }
    }
}
