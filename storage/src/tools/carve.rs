//! Finds pairs in a `local:` file that the engine refuses, without the engine: looks at every page whether it is a leaf of
//! redb's tree, and takes the pairs whose own checksum fits.
//!
//! Pages that are free by now still hold what was in them, so older values of a key turn up beside the newest, and values of
//! keys that are gone. Which value is the newest, the records say themselves: homes by their frame, the register by its
//! commit id, parts by their generation. That a home was rewritten or emptied later than what was found of it, the change
//! log says.

use super::ToolError;
use crate::keys::{HomeId, Region};
use crate::kv::{Database, store_file};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use vsekai_schema::id::EntityId;
use vsekai_schema::record::{ChangeRecord, HomeRecord, OwnRecord};
use vsekai_schema::units::ChunkKey;
use xxhash_rust::xxh3::Xxh3;

/// redb puts pages at multiples of this.
const PAGE_BYTES: usize = 4_096;
/// How a leaf begins (redb `src/tree_store/btree_base.rs`): this byte, one more, the count of pairs; then the ends of all
/// keys and of all values, counted from the page's start; then the keys, then the values.
const LEAF: u8 = 1;
const CHECKSUM_BYTES: usize = 8;
/// Pairs that are put into the store of what was found at a time.
const BATCH_PAIRS: usize = 1_000;

/// Every value that was found, by key: all of them, in no order.
pub(super) struct Carved {
    region: Region,
    values: BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>,
    /// Keys that were found with a value that is not as it was written.
    rotten: BTreeSet<Vec<u8>>,
}

/// The newest of what was found.
pub(super) struct Chosen {
    /// In a store of its own.
    pub(super) database: Database,
    /// Homes that a later frame rewrote or emptied than any of which something was found, and that frame: left out.
    pub(super) outdated: Vec<(HomeId, u64)>,
    /// Homes whose newest record is rotten: left out, too.
    pub(super) rotten: Vec<HomeId>,
}

/// A pair of a leaf.
struct Found<'p> {
    key: &'p [u8],
    /// `None` when it is not as it was written.
    value: Option<&'p [u8]>,
}

/// Looks through the file of the `local:` store in `directory`.
pub(super) fn carve(directory: &Path, region: Region) -> Result<Carved, ToolError> {
    let path = store_file(directory);
    let bytes = std::fs::read(&path).map_err(|source| ToolError::file("read the store", &path, source))?;
    let mut carved = Carved { region, values: BTreeMap::new(), rotten: BTreeSet::new() };
    for at in (0..bytes.len()).step_by(PAGE_BYTES) {
        for Found { key, value } in pairs_of(&bytes[at..]) {
            match value {
                Some(value) => drop(carved.values.entry(key.to_vec()).or_default().insert(value.to_vec())),
                // What only looks like a leaf has no keys of ours.
                None if region.home_key(key).is_some() => drop(carved.rotten.insert(key.to_vec())),
                None => {}
            }
        }
    }
    Ok(carved)
}

/// The pairs of the leaf at the beginning of `page`, if there is one.
fn pairs_of(page: &[u8]) -> Vec<Found<'_>> {
    let Some([LEAF, _, low, high]) = page.first_chunk::<4>() else { return Vec::new() };
    let count = usize::from(u16::from_le_bytes([*low, *high]));
    let end = |index: usize| {
        let bytes = page.get(4 + 4 * index..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let pair = |index: usize| {
        let key_begin = if index == 0 { 4 + 8 * count } else { end(index - 1)? };
        // The values begin where the last key ends.
        let value_begin = end(count + index - 1)?;
        let key = page.get(key_begin..end(index)?)?;
        let (sum, value) = page.get(value_begin..end(count + index)?)?.split_first_chunk::<CHECKSUM_BYTES>()?;
        let is_sound = u64::from_le_bytes(*sum) == checksum(key, value);
        Some(Found { key, value: is_sound.then_some(value) })
    };
    (0..count).filter_map(pair).collect()
}

/// What stands before each value in a `local:` file: see `storage/docs/format.md`.
fn checksum(key: &[u8], value: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&(key.len() as u64).to_le_bytes());
    hash.update(key);
    hash.update(value);
    hash.digest()
}

impl Carved {
    /// The newest register that was found.
    pub(super) fn own(&self) -> Option<OwnRecord> {
        let found = self.values.get(&self.region.own())?;
        found.iter().filter_map(|value| OwnRecord::decode(value).ok()).max_by_key(|own| (own.last_commit_id, own.epoch))
    }

    /// The newest value of each key: of homes, the newest that is not of a frame behind `last_frame`. A commit that never
    /// came to its end may have left such.
    pub(super) fn newest(&self, last_frame: u64) -> Result<Chosen, ToolError> {
        let own = self.own();
        let own_key = self.region.own();
        let rewritten = self.rewritten(last_frame);
        let rotten_keys = self.rotten.iter().filter_map(|key| self.region.home_key(key));
        let rotten_records: BTreeSet<HomeId> =
            rotten_keys.filter(|key| key.part.is_none()).map(|key| key.home).collect();
        let mut missing: BTreeSet<HomeId> = rotten_records.iter().chain(rewritten.keys()).copied().collect();
        let mut pairs: Vec<(&[u8], Vec<u8>)> = Vec::new();
        for (key, values) in &self.values {
            let value = match self.region.home_key(key) {
                Some(home) if home.part.is_none() => {
                    let newest = values.iter().map(|value| (frame_of(value), value));
                    let newest = newest.filter(|(frame, _)| *frame <= last_frame).max();
                    let later = rewritten.get(&home.home).copied().unwrap_or(0);
                    match newest {
                        Some((frame, value)) if frame >= later => {
                            missing.remove(&home.home);
                            value.clone()
                        }
                        _ => continue,
                    }
                }
                // Parts and entries have one value ever; of the lease any will do.
                _ if *key != own_key => values.iter().next().cloned().unwrap_or_default(),
                _ => own.as_ref().map(OwnRecord::encode).unwrap_or_default(),
            };
            pairs.push((key, value));
        }
        let (rotten, outdated): (Vec<_>, Vec<_>) = missing.into_iter().partition(|home| rotten_records.contains(home));
        let outdated = outdated.into_iter().map(|home| (home, rewritten.get(&home).copied().unwrap_or(0))).collect();
        let database = Database::open("mem:")?;
        for some in pairs.chunks(BATCH_PAIRS) {
            database.run(|transaction| {
                some.iter().for_each(|(key, value)| transaction.set(key, value.as_slice()));
                Ok(())
            })?;
        }
        Ok(Chosen { database, outdated, rotten })
    }

    /// The last frame of the last flush that rewrote each home, as far as the change log was found.
    fn rewritten(&self, last_frame: u64) -> BTreeMap<HomeId, u64> {
        let (begin, end) = self.region.changes();
        let mut rewritten = BTreeMap::new();
        for value in self.values.range(begin..end).flat_map(|(_, values)| values) {
            let Ok(entry) = ChangeRecord::decode(value) else { continue };
            if entry.last_frame > last_frame {
                continue;
            }
            let chunks = entry.chunks.iter().map(|code| HomeId::Chunk(ChunkKey::from_morton(*code)));
            let entities = entry.entities.iter().map(|id| HomeId::Entity(EntityId(*id)));
            for home in chunks.chain(entities) {
                let latest = rewritten.entry(home).or_insert(0);
                *latest = entry.last_frame.max(*latest);
            }
        }
        rewritten
    }
}

/// The frame that a home's record is of; 0 when it does not say.
fn frame_of(value: &[u8]) -> u64 {
    match HomeRecord::decode(value) {
        Ok(HomeRecord::Whole { head, .. } | HomeRecord::Parts { head, .. }) => head.frame,
        _ => 0,
    }
}
