//! The reader against a file written down byte by byte, every way to damage it, and arbitrary bytes.

use super::*;
use proptest::prelude::*;

/// An index of three chunks (16, 64 and 5 bytes; sizes 16/32/64), as the format description gives it. Not made by any
/// encoder: each line is one field.
#[rustfmt::skip]
const GOLDEN: [u8; 224] = *b"\
\x30\x00\x00\x00\x00\x00\x00\x00\
\xf9\x9f\x12\x7b\x9c\x4d\x82\x96\
\x00\x00\x00\x00\x00\x00\x00\xb0\
\x10\x00\x00\x00\x00\x00\x00\x00\
\x20\x00\x00\x00\x00\x00\x00\x00\
\x40\x00\x00\x00\x00\x00\x00\x00\
\xff\xff\xff\xff\xff\xff\xff\xff\
\x7d\x41\x17\x2f\x11\x9e\x5b\xe7\
\x10\x00\x00\x00\x00\x00\x00\x00\
\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\
\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\
\x50\x00\x00\x00\x00\x00\x00\x00\
\xa0\xa1\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xab\xac\xad\xae\xaf\
\xb0\xb1\xb2\xb3\xb4\xb5\xb6\xb7\xb8\xb9\xba\xbb\xbc\xbd\xbe\xbf\
\x55\x00\x00\x00\x00\x00\x00\x00\
\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\
\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\
\x00\x00\x00\x00\x00\x00\x00\x00\
\x00\x00\x00\x00\x00\x00\x00\x00\
\x30\x00\x00\x00\x00\x00\x00\x00\
\xb0\x00\x00\x00\x00\x00\x00\x00\
\xd1\xec\x49\x55\x0e\x05\x4f\x4b";

const ENTRIES: usize = 64;
const TAIL: usize = 184;

fn read(bytes: &[u8]) -> Result<(Header, Vec<Chunk>), IndexError> {
    read_sized(bytes, bytes.len() as u64)
}

fn read_sized(bytes: &[u8], file_size: u64) -> Result<(Header, Vec<Chunk>), IndexError> {
    let mut reader = IndexReader::new(bytes, file_size)?;
    let mut chunks = vec![];
    while let Some(chunk) = reader.next_chunk()? {
        chunks.push(chunk);
    }
    assert_eq!(reader.total_size(), chunks.iter().map(|chunk| chunk.size).sum::<u64>());
    assert_eq!(reader.header().chunk_count, chunks.len() as u64);
    assert_eq!(reader.next_chunk().expect("the end stays the end"), None);
    Ok((reader.header(), chunks))
}

/// The golden file with the u64 at `offset` replaced.
fn with(offset: usize, value: u64) -> Vec<u8> {
    let mut bytes = GOLDEN.to_vec();
    bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    bytes
}

#[track_caller]
fn assert_fault(bytes: &[u8], offset: u64, fault: Fault) {
    match read(bytes) {
        Err(IndexError::Unsound { offset: found_offset, fault: found }) => {
            assert_eq!((found_offset, found), (offset, fault));
        }
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn golden_file_reads_as_described() {
    let (header, chunks) = read(&GOLDEN).expect("sound");
    assert_eq!(
        header,
        Header {
            digest: Digest::Sha512_256,
            flags: 0xb000_0000_0000_0000,
            chunk_size_min: 16,
            chunk_size_avg: 32,
            chunk_size_max: 64,
            chunk_count: 3,
        }
    );
    let id = |first: u8| std::array::from_fn(|byte| first + byte as u8);
    assert_eq!(
        chunks,
        [
            Chunk { offset: 0, size: 16, id: id(0) },
            Chunk { offset: 16, size: 64, id: id(0xa0) },
            Chunk { offset: 80, size: 5, id: [0xff; 32] },
        ]
    );
}

#[test]
fn digest_is_bit_61_alone() {
    for (flags, digest) in [
        (0, Digest::Sha256),
        (0x9000_0000_0000_0000, Digest::Sha256),
        (!(1 << 61), Digest::Sha256),
        (0xa000_0000_0000_0000, Digest::Sha512_256),
        (0xb000_0000_1000_1f22, Digest::Sha512_256),
    ] {
        let (header, _) = read(&with(16, flags)).expect("sound");
        assert_eq!((header.digest, header.flags), (digest, flags));
    }
}

#[test]
fn an_index_of_nothing_is_sound() {
    let mut bytes = [&GOLDEN[..ENTRIES], &GOLDEN[TAIL..]].concat();
    bytes[88] = 56;
    assert_eq!(bytes.len(), 104);
    assert_eq!(read(&bytes).expect("sound").1, []);
}

#[test]
fn every_truncation_is_refused() {
    for length in 0..GOLDEN.len() {
        let error = read(&GOLDEN[..length]).expect_err("cut off");
        assert!(matches!(error, IndexError::Unsound { .. }), "{length}: {error}");
        // And when the file is found shorter than it was said to be, whatever was said.
        for said in [GOLDEN.len(), length + 40] {
            assert!(read_sized(&GOLDEN[..length], said as u64).is_err(), "{length} of {said}");
        }
    }
}

#[test]
fn cuts_are_named_by_where_they_are() {
    assert_fault(b"", 0, Fault::TooShort { size: 0 });
    assert_fault(&GOLDEN[..103], 103, Fault::TooShort { size: 103 });
    assert_fault(&GOLDEN[..223], 223, Fault::NotWhole { size: 223 });
    // A cut of a whole entry leaves the size possible, but an entry where the tail should be.
    let wrong = Fault::Wrong { field: "end of the entries", found: 0x55, wanted: 0 };
    assert_fault(&GOLDEN[..184], 144, wrong);
    // Another kind of file is told so, however long it is.
    let wrong = Fault::Wrong { field: "size of the index element", found: 0x2020_2020_2020_2020, wanted: 48 };
    assert_fault(&[b' '; 1001], 0, wrong);
}

#[test]
fn trailing_bytes_are_refused() {
    for count in 1..=80 {
        let bytes = [&GOLDEN[..], &vec![0; count]].concat();
        assert!(read(&bytes).is_err(), "{count} more bytes");
        let error = read_sized(&bytes, GOLDEN.len() as u64).expect_err("grown");
        assert!(
            matches!(error, IndexError::Unsound { offset: 224, fault: Fault::Grown { size: 224 } }),
            "{count}: {error}"
        );
    }
}

#[test]
fn every_changed_bit_of_a_constant_is_refused_where_it_is() {
    let constants = [0, 8, 48, 56].into_iter().chain((TAIL..GOLDEN.len()).step_by(8));
    for field in constants {
        for bit in 0..64 {
            let mut bytes = GOLDEN;
            bytes[field + bit / 8] ^= 1 << (bit % 8);
            match read(&bytes) {
                Err(IndexError::Unsound { offset, fault: Fault::Wrong { .. } }) => {
                    assert_eq!(offset, field as u64, "bit {bit}");
                }
                other => panic!("bit {bit} of the field at {field}: {other:?}"),
            }
        }
    }
}

/// Flags, sizes and ids that are changed into others as good cannot be told from the file; everything else is.
#[test]
fn a_changed_bit_is_refused_or_keeps_all_rules() {
    for bit in 0..GOLDEN.len() * 8 {
        let mut bytes = GOLDEN;
        bytes[bit / 8] ^= 1 << (bit % 8);
        let Ok((header, chunks)) = read(&bytes) else { continue };
        let is_id = (ENTRIES..TAIL).contains(&(bit / 8)) && (bit / 8 - ENTRIES) % 40 >= 8;
        let is_end = (ENTRIES..TAIL).contains(&(bit / 8)) && !is_id;
        assert!(is_id || is_end || (16..48).contains(&(bit / 8)), "bit {bit} was not checked");
        assert_sound(header, &chunks);
    }
}

fn assert_sound(header: Header, chunks: &[Chunk]) {
    assert!(1 <= header.chunk_size_min && header.chunk_size_min <= header.chunk_size_avg);
    assert!(header.chunk_size_avg <= header.chunk_size_max && header.chunk_size_max <= CHUNK_SIZE_MAX);
    let mut end = 0;
    for chunk in chunks {
        assert_eq!(chunk.offset, end);
        assert!(1 <= chunk.size && chunk.size <= header.chunk_size_max);
        end += chunk.size;
    }
}

#[test]
fn chunk_sizes_keep_their_order_and_limit() {
    assert_fault(&with(24, 0), 24, Fault::MinZero);
    assert_fault(&with(24, 33), 32, Fault::AvgBelowMin { avg: 32, min: 33 });
    assert_fault(&with(32, 65), 40, Fault::MaxBelowAvg { max: 64, avg: 65 });
    assert_fault(&with(40, CHUNK_SIZE_MAX + 1), 40, Fault::MaxTooLarge { max: CHUNK_SIZE_MAX + 1 });
    assert_fault(&with(40, u64::MAX), 40, Fault::MaxTooLarge { max: u64::MAX });
    assert!(read(&with(40, CHUNK_SIZE_MAX)).is_ok());
    assert!(read(&with(24, 32)).is_ok());
    assert!(read(&with(32, 64)).is_ok());
}

#[test]
fn chunks_rise_and_are_not_too_large() {
    let second = (ENTRIES + 40) as u64;
    assert_fault(&with(ENTRIES, 0), 64, Fault::NotRising { number: 0, end: 0, begin: 0 });
    assert_fault(&with(ENTRIES, 65), 64, Fault::ChunkTooLarge { number: 0, size: 65, max: 64 });
    assert_fault(&with(ENTRIES + 40, 16), second, Fault::NotRising { number: 1, end: 16, begin: 16 });
    assert_fault(&with(ENTRIES + 40, 15), second, Fault::NotRising { number: 1, end: 15, begin: 16 });
    assert_fault(&with(ENTRIES + 40, 81), second, Fault::ChunkTooLarge { number: 1, size: 65, max: 64 });
    let size = u64::MAX - 16;
    assert_fault(&with(ENTRIES + 40, u64::MAX), second, Fault::ChunkTooLarge { number: 1, size, max: 64 });
}

#[test]
fn a_failing_disk_is_not_a_bad_index() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("bad sector"))
        }
    }
    let error = IndexReader::new(GOLDEN[..100].chain(Failing), 224).and_then(|mut reader| {
        while reader.next_chunk()?.is_some() {}
        Ok(())
    });
    assert!(matches!(error, Err(IndexError::Read { offset: 100, .. })), "{error:?}");
}

#[test]
fn messages_name_the_byte() {
    let error = read(&with(ENTRIES + 40, 16)).expect_err("not rising");
    assert_eq!(error.to_string(), "byte 104: chunk 1 ends at 16, must end after 16, where it begins");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512), said: u64) {
        prop_assert!(read(&bytes).is_err());
        prop_assert!(read_sized(&bytes, said).is_err());
    }

    /// Damage that leaves the beginning and the size as they were goes deeper than arbitrary bytes do.
    #[test]
    fn damaged_files_never_panic_nor_break_a_rule(
        entries in prop::collection::vec((0u64..100, any::<[u8; 32]>()), 0..20),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = GOLDEN[..ENTRIES].to_vec();
        let (mut end, mut sound) = (0, true);
        for (size, id) in &entries {
            sound &= (1..=64).contains(size);
            end += size;
            bytes.extend(end.to_le_bytes());
            bytes.extend(id);
        }
        bytes.extend(&GOLDEN[TAIL..]);
        let table_size = bytes.len() as u64 - 48;
        let at = bytes.len() - 16;
        bytes[at..at + 8].copy_from_slice(&table_size.to_le_bytes());
        prop_assert_eq!(read(&bytes).is_ok(), sound);

        for (index, byte) in damage {
            let at = index.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok((header, chunks)) = read(&bytes) {
            assert_sound(header, &chunks);
        }
    }
}

fn written(header: &Header, chunks: &[Chunk]) -> Vec<u8> {
    let mut writer = IndexWriter::new(Vec::new(), header).expect("memory");
    for chunk in chunks {
        writer.add(chunk.size, &chunk.id).expect("memory");
    }
    assert_eq!(writer.written(), (chunks.len() as u64, chunks.iter().map(|chunk| chunk.size).sum()));
    writer.finish().expect("memory")
}

#[test]
fn the_writer_writes_the_golden_file() {
    let (header, chunks) = read(&GOLDEN).expect("sound");
    assert_eq!(written(&header, &chunks), GOLDEN);
}

#[test]
fn flags_are_those_of_casync_and_the_digest_s_bit() {
    assert_eq!(flags(Digest::Sha512_256, None), 0xb000_0000_0000_0000);
    assert_eq!(flags(Digest::Sha256, None), 0x9000_0000_0000_0000);
    assert_eq!(flags(Digest::Sha512_256, Some(0x9000_0000_1000_1f22)), 0xb000_0000_1000_1f22);
    assert_eq!(flags(Digest::Sha256, Some(0xb000_0000_1000_1f22)), 0x9000_0000_1000_1f22);
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        sizes in prop::collection::vec((1u64..=1_000, any::<[u8; 32]>()), 0..50),
        flags: u64,
        min in 1u64..=50,
        avg in 50u64..=100,
        max in 1_000u64..=CHUNK_SIZE_MAX,
    ) {
        let mut chunks = Vec::new();
        let mut offset = 0;
        for &(size, id) in &sizes {
            chunks.push(Chunk { offset, size, id });
            offset += size;
        }
        let digest = if flags & FLAG_SHA512_256 == 0 { Digest::Sha256 } else { Digest::Sha512_256 };
        let header = Header {
            digest,
            flags,
            chunk_size_min: min,
            chunk_size_avg: avg,
            chunk_size_max: max,
            chunk_count: chunks.len() as u64,
        };
        let bytes = written(&header, &chunks);
        prop_assert_eq!(bytes.len(), 104 + 40 * chunks.len());
        prop_assert_eq!(read(&bytes).expect("sound"), (header, chunks));
    }
}
