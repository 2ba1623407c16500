//! What lies where in the store. Every key begins with the version of this format, so that another one can live beside
//! it while a store is migrated:
//! `1 "own/" region` · `1 "c/" region "/" morton` · `1 "e/" region "/" entity`, all numbers big-endian so that key order
//! is number order.

use crate::kv::VERSIONSTAMP_BYTES;
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

    /// The owner's sign of life.
    pub fn lease(self) -> Vec<u8> {
        [&[KEY_VERSION][..], b"ls/", &self.0.to_be_bytes()].concat()
    }

    /// The key of the next entry of the change log, and where its versionstamp goes.
    pub fn change_template(self) -> (Vec<u8>, u32) {
        let begin = self.changes().0;
        let offset = u32::try_from(begin.len()).unwrap_or(u32::MAX);
        ([begin, vec![0; VERSIONSTAMP_BYTES]].concat(), offset)
    }

    /// The change log, oldest first: first key, and the key behind the last.
    pub fn changes(self) -> (Vec<u8>, Vec<u8>) {
        self.range(b"cl/")
    }

    /// All chunks with their parts: first key, and the key behind the last.
    pub fn chunks(self) -> (Vec<u8>, Vec<u8>) {
        self.range(b"c/")
    }

    /// All entities kept by themselves, with their parts: first key, and the key behind the last.
    pub fn entities(self) -> (Vec<u8>, Vec<u8>) {
        self.range(b"e/")
    }

    /// What `key`, one of [`Region::chunks`] or [`Region::entities`], is the key of.
    pub fn home_key(self, key: &[u8]) -> Option<HomeKey> {
        let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
        let in_chunks = key.strip_prefix(&self.chunks().0[..]);
        let rest = in_chunks.or_else(|| key.strip_prefix(&self.entities().0[..]))?;
        let (code, rest) = rest.split_at_checked(8)?;
        let code = number(code)?;
        let home = if in_chunks.is_some() {
            HomeId::Chunk(ChunkKey::from_morton(code))
        } else {
            HomeId::Entity(EntityId(code))
        };
        let part = match rest.strip_prefix(b"/") {
            None if rest.is_empty() => None,
            Some(part) if part.len() == 12 => {
                Some((number(&part[..8])?, u32::from_be_bytes(part[8..].try_into().ok()?)))
            }
            _ => return None,
        };
        Some(HomeKey { home, part })
    }

    /// The key of a home's record.
    pub fn home(self, home: HomeId) -> Vec<u8> {
        match home {
            HomeId::Chunk(chunk) => self.chunk(chunk),
            HomeId::Entity(entity) => self.entity(entity),
        }
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

/// What an entity list belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HomeId {
    /// What stands still in one chunk.
    Chunk(ChunkKey),
    /// One entity that is kept by itself.
    Entity(EntityId),
}

impl std::fmt::Display for HomeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HomeId::Chunk(chunk) => write!(f, "chunk {},{}", chunk.x, chunk.z),
            HomeId::Entity(entity) => write!(f, "entity {entity}"),
        }
    }
}

/// A key of the space of homes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HomeKey {
    /// Whose it is.
    pub home: HomeId,
    /// Generation and index, when it is the key of a part.
    pub part: Option<(u64, u32)>,
}

/// The key of part `index` of a `generation` of the home under `home_key`. Parts lie right behind their home's record.
pub fn part(home_key: &[u8], generation: u64, index: u32) -> Vec<u8> {
    [home_key, b"/", &generation.to_be_bytes(), &index.to_be_bytes()].concat()
}

/// All parts of one `generation` of a home: first key, and the key behind the last.
pub fn parts_of(home_key: &[u8], generation: u64) -> (Vec<u8>, Vec<u8>) {
    let begin = [home_key, b"/", &generation.to_be_bytes()].concat();
    let end = [&begin[..], &[0xff; 5]].concat();
    (begin, end)
}

/// A key as an operator can read it: printable bytes as they are, others in hex.
pub(crate) fn readable(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn home() -> impl Strategy<Value = HomeId> {
        prop_oneof![
            any::<(i32, i32)>().prop_map(|(x, z)| HomeId::Chunk(ChunkKey { x, z })),
            any::<u64>().prop_map(|id| HomeId::Entity(EntityId(id))),
        ]
    }

    proptest! {
        #[test]
        fn home_keys_come_back_and_lie_in_the_range_of_their_region(
            region: u32, home in home(), generation: u64, index: u32,
        ) {
            let region = Region(region);
            let key = region.home(home);
            prop_assert_eq!(region.home_key(&key), Some(HomeKey { home, part: None }));
            let part_key = part(&key, generation, index);
            prop_assert_eq!(region.home_key(&part_key), Some(HomeKey { home, part: Some((generation, index)) }));
            let (begin, end) = parts_of(&key, generation);
            prop_assert!(key < begin && begin <= part_key && part_key < end);
            let (begin, end) = if matches!(home, HomeId::Chunk(_)) { region.chunks() } else { region.entities() };
            prop_assert!(begin <= key && part_key < end);
            let other = Region(region.0 ^ 1).home(home);
            prop_assert!(other < begin || end <= other);
            prop_assert_eq!(region.home_key(&key[..key.len() - 1]), None);
            prop_assert_eq!(region.home_key(&part_key[..part_key.len() - 1]), None);
        }

        #[test]
        fn a_home_lies_before_its_parts_and_those_before_the_next_home(a: u64, b: u64, generation: u64, index: u32) {
            let key = |id| Region::WHOLE.entity(EntityId(id));
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
            if a < b {
                prop_assert!(part(&key(a), generation, index) < key(b));
            }
        }
    }
}
