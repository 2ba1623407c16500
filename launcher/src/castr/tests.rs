use super::*;
use crate::chunker::tests::noise;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;

fn packed(bytes: &[u8]) -> Vec<u8> {
    Packer::new(COMPRESSION_LEVEL).expect("zstd").pack(bytes).expect("zstd").to_vec()
}

struct Fixture {
    folder: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::at(folder.path().to_str().expect("text"), None).expect("a folder");
        Self { folder, store }
    }

    fn local(&self) -> LocalStore {
        LocalStore::new(self.folder.path())
    }

    /// Adds a chunk of these bytes under the id of others.
    fn add_as(&self, id: &Id, frame: &[u8]) {
        self.store.write(id, frame).expect("written");
    }

    fn read(&self, id: &Id, size: usize) -> Result<Vec<u8>, StoreError> {
        let mut chunk = vec![0; size];
        let stores = std::slice::from_ref(&self.store);
        ChunkReader::new().expect("zstd").read(stores, Digest::Sha512_256, id, &mut chunk).map(|_| chunk)
    }

    #[track_caller]
    fn assert_damaged(&self, id: &Id, size: usize, wanted: &str) {
        match self.read(id, size) {
            Err(StoreError::Damaged { why, .. }) => assert!(why.contains(wanted), "{why}"),
            other => panic!("not refused: {other:?}"),
        }
    }
}

#[test]
fn a_chunk_lies_where_casync_puts_it() {
    let fixture = Fixture::new();
    let bytes = noise(100_000, 1);
    let id = Digest::Sha512_256.of(&bytes);
    assert!(!fixture.store.has(&id).expect("local"));
    assert!(matches!(fixture.read(&id, bytes.len()), Err(StoreError::Missing { .. })));
    fixture.add_as(&id, &packed(&bytes));
    let name = hex(&id);
    let file = fixture.folder.path().join(&name[..4]).join(format!("{name}.cacnk"));
    assert_eq!(zstd::decode_all(&fs::read(&file).expect("there")[..]).expect("zstd"), bytes);
    assert_eq!(fs::read_dir(file.parent().expect("a folder")).expect("a folder").count(), 1);
    assert!(fixture.store.has(&id).expect("local"));
    assert_eq!(fixture.read(&id, bytes.len()).expect("whole"), bytes);
    let mut found = Vec::new();
    fixture
        .local()
        .each(|path, entry| {
            found.push((path.to_owned(), entry));
            Ok(())
        })
        .expect("a store");
    assert_eq!(found, [(file, Entry::Chunk(id))]);
}

#[test]
fn what_is_not_the_chunk_is_refused() {
    let fixture = Fixture::new();
    let bytes = noise(100_000, 2);
    let id = Digest::Sha512_256.of(&bytes);
    let mut other = bytes.clone();
    other[50_000] ^= 1;
    fixture.add_as(&id, &packed(&other));
    fixture.assert_damaged(&id, bytes.len(), "its SHA-512/256 is");
    fixture.add_as(&id, &packed(&bytes[1..]));
    fixture.assert_damaged(&id, bytes.len(), "it has 99999 bytes");
    let whole = packed(&bytes);
    fixture.add_as(&id, &whole[..whole.len() - 1]);
    fixture.assert_damaged(&id, bytes.len(), "cannot be unpacked");
    fixture.add_as(&id, b"no zstd");
    fixture.assert_damaged(&id, bytes.len(), "cannot be unpacked");
    // A file without bytes is what a crash leaves: it counts as missing, and is written anew.
    fixture.add_as(&id, b"");
    assert!(matches!(fixture.read(&id, bytes.len()), Err(StoreError::Missing { .. })));
    assert!(!fixture.store.has(&id).expect("local"));
    fixture.add_as(&id, &whole);
    assert_eq!(fixture.read(&id, bytes.len()).expect("whole"), bytes);
}

/// 94 KB that unpack to 3 GB take no memory: the buffer has the size of the index.
#[test]
fn a_bomb_stays_packed() {
    let fixture = Fixture::new();
    let mut bomb = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("zstd");
    let zeros = vec![0; 1 << 20];
    for _ in 0..3 << 10 {
        io::Write::write_all(&mut bomb, &zeros).expect("memory");
    }
    let bomb = bomb.finish().expect("memory");
    assert!(bomb.len() < 400_000, "{} bytes", bomb.len());
    let id = Digest::Sha512_256.of(&zeros[..1_000]);
    fixture.add_as(&id, &bomb);
    fixture.assert_damaged(&id, 1_000_000, "cannot be unpacked");
    let why = check_packed(&bomb, &id, Digest::Sha512_256, CHUNK_SIZE_MAX).expect_err("a bomb");
    assert_eq!(why, "it unpacks to more than 134217728 bytes");
}

#[test]
fn a_packed_chunk_that_is_too_large_is_not_read() {
    let fixture = Fixture::new();
    let id = Digest::Sha512_256.of(b"small");
    fixture.add_as(&id, &noise(100_000, 3));
    fixture.assert_damaged(&id, 5, "more than");
}

#[test]
fn the_next_store_is_asked_when_one_fails() {
    let (first, second) = (Fixture::new(), Fixture::new());
    let bytes = noise(1_000, 4);
    let id = Digest::Sha512_256.of(&bytes);
    second.add_as(&id, &packed(&bytes));
    let stores = [first.store, second.store];
    let mut reader = ChunkReader::new().expect("zstd");
    let mut chunk = vec![0; 1_000];
    assert_eq!(reader.read(&stores, Digest::Sha512_256, &id, &mut chunk).expect("second"), packed(&bytes).len() as u64);
    assert_eq!(chunk, bytes);
    // Damage is told rather than that the other has nothing.
    let other = Digest::Sha512_256.of(b"other");
    stores[0].write(&other, b"damaged").expect("written");
    let error = reader.read(&stores, Digest::Sha512_256, &other, &mut chunk[..5]).expect_err("damaged");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

#[test]
fn both_digests_are_recognised() {
    let bytes = noise(10_000, 5);
    for digest in [Digest::Sha256, Digest::Sha512_256] {
        for first in [Digest::Sha256, Digest::Sha512_256] {
            assert_eq!(check_packed(&packed(&bytes), &digest.of(&bytes), first, 1 << 20), Ok((10_000, digest)));
        }
    }
    assert!(check_packed(&packed(&bytes), &[0; 32], Digest::Sha256, 1 << 20).is_err());
    assert!(check_packed(&packed(&bytes), &Digest::Sha256.of(&bytes), Digest::Sha256, 9_999).is_err());
}

#[test]
fn a_reused_chunk_is_made_young() {
    let fixture = Fixture::new();
    let id = Digest::Sha512_256.of(b"old");
    fixture.add_as(&id, &packed(b"old"));
    let path = fixture.local().path(&id);
    let age =
        || fs::metadata(&path).and_then(|metadata| metadata.modified()).expect("there").elapsed().unwrap_or_default();
    let long_ago = SystemTime::now() - Duration::from_secs(100_000);
    File::options().write(true).open(&path).and_then(|file| file.set_modified(long_ago)).expect("set");
    assert!(age() > Duration::from_secs(90_000));
    assert!(fixture.store.has(&id).expect("local"));
    assert!(age() < Duration::from_secs(50_000));
}

#[test]
fn a_failed_write_leaves_nothing_behind() {
    let fixture = Fixture::new();
    let id = Digest::Sha512_256.of(b"here");
    let path = fixture.local().path(&id);
    fs::create_dir_all(path.join("in the way")).expect("a folder");
    assert!(matches!(fixture.store.write(&id, b"packed"), Err(StoreError::Write { .. })));
    let left = fs::read_dir(path.parent().expect("a folder")).expect("a folder").count();
    assert_eq!(left, 1, "only what was in the way");
    let mode = fs::metadata(fixture.folder.path()).expect("there").permissions().mode();
    assert_ne!(mode, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever bit of a packed chunk is turned, it is refused or still the same chunk.
    #[test]
    fn damage_is_never_believed(seed: u64, length in 1usize..3_000, at: prop::sample::Index, bit in 0u8..8) {
        let fixture = Fixture::new();
        let bytes = noise(length, seed);
        let id = Digest::Sha512_256.of(&bytes);
        let mut frame = packed(&bytes);
        let at = at.index(frame.len());
        frame[at] ^= 1 << bit;
        fixture.add_as(&id, &frame);
        match fixture.read(&id, length) {
            Ok(read) => prop_assert_eq!(read, bytes),
            Err(error) => prop_assert!(matches!(error, StoreError::Damaged { .. }), "{}", error),
        }
    }
}
