//! What lies where in the store. Every key begins with the version of this format, so that another one can live beside
//! it while a store is migrated:
//! `1 "own/" region` · `1 "c/" region "/" morton` · `1 "e/" region "/" entity`, all numbers big-endian so that key order
//! is number order.

use vsekai_schema::id::EntityId;
use vsekai_schema::units::ChunkKey;

/// The key format this build writes.
pub const KEY_VERSION: u8 = 1;

/// A rectangle of chunks owned by one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(pub u32);

impl Region {
    /// The only region of a world that has one shard.
    pub const WHOLE: Region = Region(0);

    /// The register that says who owns the region and how far its store is.
    pub fn own(self) -> Vec<u8> {
        [&[KEY_VERSION][..], b"own/", &self.0.to_be_bytes()].concat()
    }

    /// The entities that stand still in one chunk.
    pub fn chunk(self, chunk: ChunkKey) -> Vec<u8> {
        self.numbered(b"c/", chunk.morton())
    }

    /// An entity that is kept by itself.
    pub fn entity(self, entity: EntityId) -> Vec<u8> {
        self.numbered(b"e/", entity.0)
    }

    /// All chunks: first key, and the key behind the last.
    pub fn chunks(self) -> (Vec<u8>, Vec<u8>) {
        self.range(b"c/")
    }

    /// All entities kept by themselves: first key, and the key behind the last.
    pub fn entities(self) -> (Vec<u8>, Vec<u8>) {
        self.range(b"e/")
    }

    /// The chunk that [`Region::chunk`] made `key` of.
    pub fn chunk_of(self, key: &[u8]) -> Option<ChunkKey> {
        let (begin, _) = self.chunks();
        let code = key.strip_prefix(&begin[..])?;
        Some(ChunkKey::from_morton(u64::from_be_bytes(code.try_into().ok()?)))
    }

    fn numbered(self, kind: &[u8], number: u64) -> Vec<u8> {
        [&[KEY_VERSION][..], kind, &self.0.to_be_bytes(), b"/", &number.to_be_bytes()].concat()
    }

    /// `'0'` is the byte behind `'/'`.
    fn range(self, kind: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let with = |last: &[u8]| [&[KEY_VERSION][..], kind, &self.0.to_be_bytes(), last].concat();
        (with(b"/"), with(b"0"))
    }
}

/// A key as an operator can read it: printable bytes as they are, others in hex.
pub(crate) fn readable(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn chunk_keys_come_back_and_lie_in_the_range_of_their_region(region: u32, x: i32, z: i32) {
            let region = Region(region);
            let key = region.chunk(ChunkKey { x, z });
            prop_assert_eq!(region.chunk_of(&key), Some(ChunkKey { x, z }));
            let (begin, end) = region.chunks();
            prop_assert!(begin <= key && key < end);
            let other = Region(region.0 ^ 1).chunk(ChunkKey { x, z });
            prop_assert!(other < begin || end <= other);
        }

        #[test]
        fn entity_keys_are_in_the_order_of_their_ids(a: u64, b: u64) {
            let key = |id| Region::WHOLE.entity(EntityId(id));
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
        }
    }
}
