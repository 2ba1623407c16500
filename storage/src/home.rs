//! The entity list of one home in the store: whole under the home's key, or in parts behind it.
//!
//! A large flush writes parts under a new generation that nothing refers to yet, and then all home records in one
//! transaction (the *flip*): readers follow the records only, so they never see half of a flush.

use crate::error::Error;
use crate::keys::{HomeId, HomeKey, Region, part, parts_of, readable};
use crate::kv::{RangeRead, Transaction};
use vsekai_schema::record::{HomeHead, HomeRecord, Packing};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of one part, and of the longest list kept whole. FoundationDB likes values below 10 kB; just under 8 KiB also fills
/// the pages of redb best, which come in powers of two.
pub(crate) const PART_BYTES: usize = 8_000;

/// Lists shorter than this are not worth packing.
const PACKED_BYTES_MIN: usize = 128;

/// An entity list as it will be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded {
    head: HomeHead,
    stored: Vec<u8>,
}

impl Encoded {
    /// Packs `list`, the state after `frame`, when that saves an eighth or more.
    pub(crate) fn new(list: &[u8], frame: u64) -> Self {
        let (mut packing, mut stored) = (Packing::Plain, Vec::new());
        if list.len() >= PACKED_BYTES_MIN {
            stored = lz4_flex::block::compress(list);
            if stored.len() < list.len() / 8 * 7 {
                packing = Packing::Lz4;
            }
        }
        if packing == Packing::Plain {
            stored.clear();
            stored.extend_from_slice(list);
        }
        let head = HomeHead { packing, length: list.len() as u64, hash: xxh3_64(list), frame };
        Encoded { head, stored }
    }

    /// Stored bytes, without keys and heads.
    pub(crate) fn bytes(&self) -> usize {
        self.stored.len()
    }

    /// The home's record that holds the whole list.
    pub(crate) fn whole(&self) -> Vec<u8> {
        HomeRecord::Whole { head: self.head, stored: &self.stored }.encode()
    }

    /// The home's record that refers to [`Encoded::parts`] of `generation`.
    pub(crate) fn reference(&self, generation: u64) -> Vec<u8> {
        let parts = u32::try_from(self.stored.len().div_ceil(PART_BYTES)).unwrap_or(u32::MAX);
        HomeRecord::Parts { head: self.head, generation, parts, stored: self.stored.len() as u64 }.encode()
    }

    /// Keys and values of the parts.
    pub(crate) fn parts<'e>(
        &'e self,
        home_key: &'e [u8],
        generation: u64,
    ) -> impl Iterator<Item = (Vec<u8>, &'e [u8])> {
        (0u32..)
            .zip(self.stored.chunks(PART_BYTES))
            .map(move |(index, bytes)| (part(home_key, generation, index), bytes))
    }
}

/// A home as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) list: Vec<u8>,
    /// The generation of its parts, if it has any.
    pub(crate) generation: Option<u64>,
}

/// Reads one home: its entity list, or `None` when the store holds nothing of it. Its hash is checked.
pub fn read_home(transaction: &mut Transaction, region: Region, home: HomeId) -> Result<Option<Vec<u8>>, Error> {
    Ok(read(transaction, &region.home(home))?.map(|stored| stored.list))
}

/// Reads the home under `key`. Snapshot reads: the register decides on conflicts for all homes of its region.
pub(crate) fn read(transaction: &mut Transaction, key: &[u8]) -> Result<Option<Stored>, Error> {
    let Some(value) = transaction.get_snapshot(key)? else { return Ok(None) };
    match decode(key, &value)? {
        HomeRecord::Parts { head, generation, parts, stored } => {
            let (begin, end) = parts_of(key, generation);
            let found = transaction.get_range(&RangeRead::new(&begin, &end).snapshot())?;
            let expected = (0..parts).map(|index| part(key, generation, index));
            if !found.iter().map(|(key, _)| key).eq(expected.collect::<Vec<_>>().iter()) {
                return Err(missing_parts(key, generation));
            }
            let bytes: Vec<u8> = found.into_iter().flat_map(|(_, bytes)| bytes).collect();
            if bytes.len() as u64 != stored {
                return Err(Error::corrupt(place(key), format!("its parts have {} bytes, not {stored}", bytes.len())));
            }
            Ok(Some(Stored { list: unpacked(key, &head, &bytes)?, generation: Some(generation) }))
        }
        HomeRecord::Whole { head, stored } => {
            Ok(Some(Stored { list: unpacked(key, &head, stored)?, generation: None }))
        }
        HomeRecord::Version1(list) => Ok(Some(Stored { list: list.to_vec(), generation: None })),
    }
}

/// The entity list in the value of a home that is kept whole; of one in parts nothing.
pub(crate) fn unpack_value(value: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    Ok(match decode(&[], value)? {
        HomeRecord::Parts { .. } => None,
        HomeRecord::Whole { head, stored } => Some(unpacked(&[], &head, stored)?),
        HomeRecord::Version1(list) => Some(list.to_vec()),
    })
}

fn decode<'v>(key: &[u8], value: &'v [u8]) -> Result<HomeRecord<'v>, Error> {
    HomeRecord::decode(value).map_err(|e| Error::decode(place(key), e))
}

fn unpacked(key: &[u8], head: &HomeHead, stored: &[u8]) -> Result<Vec<u8>, Error> {
    // Its bound was checked by the decoder.
    let length = usize::try_from(head.length).unwrap_or(usize::MAX);
    let list = match head.packing {
        Packing::Plain => stored.to_vec(),
        Packing::Lz4 => lz4_flex::block::decompress(stored, length)
            .map_err(|e| Error::corrupt(place(key), format!("its list does not unpack: {e}")))?,
    };
    if list.len() != length || xxh3_64(&list) != head.hash {
        return Err(Error::corrupt(place(key), "its list does not match its hash"));
    }
    Ok(list)
}

fn place(key: &[u8]) -> String {
    format!("key {} of the store", readable(key))
}

fn missing_parts(key: &[u8], generation: u64) -> Error {
    Error::corrupt(place(key), format!("parts of its generation {generation} are missing"))
}

/// Puts homes together from pairs in key order, as a range read over all homes gives them.
#[derive(Debug)]
pub(crate) struct Assembler {
    region: Region,
    pending: Option<Pending>,
    /// Keys of parts that no record refers to: left by a flush that was cut short.
    pub(crate) unreferenced: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Pending {
    home: HomeId,
    key: Vec<u8>,
    head: HomeHead,
    generation: u64,
    parts: u32,
    stored: u64,
    next: u32,
    bytes: Vec<u8>,
}

impl Assembler {
    pub(crate) fn new(region: Region) -> Self {
        Assembler { region, pending: None, unreferenced: Vec::new() }
    }

    /// Takes the next pair, and returns a home that is complete with it, and its list.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<Option<(HomeId, Vec<u8>)>, Error> {
        let Some(HomeKey { home, part }) = self.region.home_key(key) else {
            return Err(Error::corrupt(place(key), "it is not the key of a home"));
        };
        let Some((generation, index)) = part else {
            self.finish()?;
            return match decode(key, value)? {
                HomeRecord::Version1(list) => Ok(Some((home, list.to_vec()))),
                HomeRecord::Whole { head, stored } => Ok(Some((home, unpacked(key, &head, stored)?))),
                HomeRecord::Parts { head, generation, parts, stored } => {
                    let key = key.to_owned();
                    self.pending =
                        Some(Pending { home, key, head, generation, parts, stored, next: 0, bytes: Vec::new() });
                    Ok(None)
                }
            };
        };
        let Some(pending) =
            self.pending.as_mut().filter(|pending| pending.home == home && pending.generation == generation)
        else {
            self.unreferenced.push(key.to_owned());
            return Ok(None);
        };
        if index != pending.next {
            return Err(missing_parts(&pending.key, generation));
        }
        pending.next += 1;
        pending.bytes.extend_from_slice(value);
        if pending.next < pending.parts {
            return Ok(None);
        }
        let Some(pending) = self.pending.take() else { return Ok(None) };
        if pending.bytes.len() as u64 != pending.stored {
            let detail = format!("its parts have {} bytes, not {}", pending.bytes.len(), pending.stored);
            return Err(Error::corrupt(place(&pending.key), detail));
        }
        Ok(Some((home, unpacked(&pending.key, &pending.head, &pending.bytes)?)))
    }

    /// There are no more pairs: no home may be half there.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        self.pending.take().map_or(Ok(()), |pending| Err(missing_parts(&pending.key, pending.generation)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::Database;
    use proptest::prelude::*;
    use vsekai_schema::units::ChunkKey;

    const HOME: HomeId = HomeId::Chunk(ChunkKey { x: 3, z: -9 });

    fn list(seed: u64, length: usize, variety: u8) -> Vec<u8> {
        let mut state = seed | 1;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0] % variety.max(1)
        };
        (0..length).map(next).collect()
    }

    fn put(transaction: &mut Transaction, key: &[u8], encoded: &Encoded, generation: u64) {
        transaction.set(key, encoded.reference(generation));
        for (key, value) in encoded.parts(key, generation) {
            transaction.set(&key, value);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_list_comes_back_whole_or_in_parts(seed: u64, length in 1usize..60_000, variety: u8, in_parts: bool) {
            let list = list(seed, length, variety);
            let encoded = Encoded::new(&list, 7);
            prop_assert!(encoded.bytes() <= list.len());
            let database = Database::open("mem:").unwrap();
            let key = Region::WHOLE.home(HOME);
            let mut transaction = database.begin().unwrap();
            // What an older flush and one that was cut short have left.
            put(&mut transaction, &key, &Encoded::new(&[9; 20_000], 1), 3);
            put(&mut transaction, &key, &Encoded::new(&[8; 20_000], 1), 6);
            if in_parts { put(&mut transaction, &key, &encoded, 5) } else { transaction.set(&key, encoded.whole()) }
            transaction.commit().unwrap();
            let mut transaction = database.begin().unwrap();
            prop_assert_eq!(read_home(&mut transaction, Region::WHOLE, HOME).unwrap(), Some(list.clone()));
            let (begin, end) = Region::WHOLE.chunks();
            let mut assembler = Assembler::new(Region::WHOLE);
            let mut homes = Vec::new();
            for (key, value) in transaction.get_range(&RangeRead::new(&begin, &end)).unwrap() {
                homes.extend(assembler.push(&key, &value).unwrap());
            }
            assembler.finish().unwrap();
            prop_assert_eq!(homes, vec![(HOME, list)]);
            prop_assert_eq!(assembler.unreferenced.len(), 2, "20,000 equal bytes are packed into one part");
        }
    }

    #[test]
    fn a_missing_or_changed_part_is_named() {
        let database = Database::open("mem:").unwrap();
        let key = Region::WHOLE.home(HOME);
        let encoded = Encoded::new(&list(5, 30_000, 255), 7);
        let damages: [fn(&mut Transaction, &[u8]); 4] = [
            |t, key| t.clear(&part(key, 5, 0)),
            |t, key| t.clear(&part(key, 5, 1)),
            |t, key| t.clear(&part(key, 5, 3)),
            |t, key| t.set(&part(key, 5, 2), [7; PART_BYTES]),
        ];
        for damage in damages {
            let mut transaction = database.begin().unwrap();
            put(&mut transaction, &key, &encoded, 5);
            damage(&mut transaction, &key);
            let error = read(&mut transaction, &key).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }) && error.to_string().contains("key \\x01c/"), "{error}");
            let (begin, end) = Region::WHOLE.chunks();
            let pairs = transaction.get_range(&RangeRead::new(&begin, &end)).unwrap();
            let mut assembler = Assembler::new(Region::WHOLE);
            let all = pairs.iter().try_for_each(|(key, value)| assembler.push(key, value).map(drop));
            let error = all.and_then(|()| assembler.finish()).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        }
    }
}
