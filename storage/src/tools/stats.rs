//! How much of what is in the store.

use super::snapshot::{Size, read_region, read_strays};
use super::{Progress, Report, ToolError, visit_list};
use crate::error::Error;
use crate::keys::{HomeId, Region};
use crate::kv::{Database, RangeRead, StoreUrl, store_file};
use vsekai_schema::units::ChunkKey;

pub use super::snapshot::Size as Space;

/// Counts of one region.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// The world is that after this frame; `None` when the register can't be read.
    pub frame: Option<u64>,
    /// The register.
    pub own: Space,
    /// The lease.
    pub lease: Space,
    /// The change log.
    pub changes: Space,
    /// Records of chunks, with their lists where those are short.
    pub chunk_records: Space,
    /// Parts of chunks.
    pub chunk_parts: Space,
    /// Records of entities kept by themselves.
    pub entity_records: Space,
    /// Parts of those.
    pub entity_parts: Space,
    /// Parts that nothing refers to.
    pub unreferenced_parts: Space,
    /// Keys of no known kind, counted up to 1,000.
    pub strays: u64,
    /// Homes that can't be read; see `check`.
    pub unreadable_homes: u64,
    /// Homes still in the form of version 1.
    pub version_1_homes: u64,
    /// Entities that stand in chunks.
    pub entities_in_chunks: u64,
    /// Entities kept by themselves.
    pub entities_alone: u64,
    /// Bytes of all entity lists, unpacked.
    pub list_bytes: u64,
    /// The chunk with the longest list.
    pub largest_chunk: Option<LargestChunk>,
    /// Size of the file of a `local:` store.
    pub file_bytes: Option<u64>,
}

/// A chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LargestChunk {
    /// Which.
    pub chunk: ChunkKey,
    /// Bytes of its list, unpacked.
    pub bytes: u64,
    /// How many entities it holds.
    pub entities: u64,
}

impl StoreStats {
    /// All entities.
    pub fn entities(&self) -> u64 {
        self.entities_in_chunks + self.entities_alone
    }

    /// Everything together.
    pub fn total(&self) -> Space {
        let mut total = Space::default();
        for space in [
            self.own,
            self.lease,
            self.changes,
            self.chunk_records,
            self.chunk_parts,
            self.entity_records,
            self.entity_parts,
            self.unreferenced_parts,
        ] {
            total.add(space);
        }
        total
    }

    /// Bytes of keys and values of all homes for each entity; 0 when there is none.
    pub fn bytes_per_entity(&self) -> f64 {
        let homes = [self.chunk_records, self.chunk_parts, self.entity_records, self.entity_parts];
        let bytes: u64 = homes.iter().map(|space| space.key_bytes + space.value_bytes).sum();
        if self.entities() == 0 { 0.0 } else { bytes as f64 / self.entities() as f64 }
    }
}

/// What is kept of a home.
struct Counted {
    home: HomeId,
    record: Size,
    parts: Size,
    unreferenced: Size,
    list_bytes: u64,
    entities: u64,
    is_unreadable: bool,
    is_version_1: bool,
}

/// Counts what `region` of the store at `url`, open as `database`, holds.
///
/// # Errors
/// When it can't be read at all, or holds nothing. Single homes that can't be read are counted as such.
pub fn stats(database: &Database, url: &str, region: Region, report: Report<'_>) -> Result<StoreStats, ToolError> {
    let snapshot = read_region(
        database,
        region,
        |found| {
            let mut entities = 0;
            let read = match &found.list {
                Some(Ok(list)) => visit_list(list, |_, _| entities += 1).is_ok(),
                Some(Err(_)) => false,
                None => true,
            };
            let list = found.list.and_then(Result::ok);
            Counted {
                home: found.home,
                record: found.record,
                parts: found.parts,
                unreferenced: found.unreferenced,
                list_bytes: list.as_ref().map_or(0, |list| list.len() as u64),
                entities,
                is_unreadable: !read,
                is_version_1: list.is_some() && found.frame.is_none(),
            }
        },
        report,
    )?;
    let mut counted = StoreStats {
        frame: snapshot.own.and_then(Result::ok).map(|own| own.last_frame),
        strays: read_strays(database, region, 1_000)?.len() as u64 + snapshot.strays.len() as u64,
        ..StoreStats::default()
    };
    for home in snapshot.homes.into_values() {
        let (records, parts, entities) = match home.home {
            HomeId::Chunk(chunk) => {
                if counted.largest_chunk.is_none_or(|largest| largest.bytes < home.list_bytes) {
                    counted.largest_chunk =
                        Some(LargestChunk { chunk, bytes: home.list_bytes, entities: home.entities });
                }
                (&mut counted.chunk_records, &mut counted.chunk_parts, &mut counted.entities_in_chunks)
            }
            HomeId::Entity(_) => (&mut counted.entity_records, &mut counted.entity_parts, &mut counted.entities_alone),
        };
        records.add(home.record);
        parts.add(home.parts);
        *entities += home.entities;
        counted.unreferenced_parts.add(home.unreferenced);
        counted.list_bytes += home.list_bytes;
        counted.unreadable_homes += u64::from(home.is_unreadable);
        counted.version_1_homes += u64::from(home.is_version_1);
    }
    let behind = |key: &[u8]| [key, &[0]].concat();
    counted.own = size_of(database, &region.own(), &behind(&region.own()), report)?;
    counted.lease = size_of(database, &region.lease(), &behind(&region.lease()), report)?;
    let (begin, end) = region.changes();
    counted.changes = size_of(database, &begin, &end, report)?;
    if counted.total().keys == 0 {
        return Err(Error::NoWorld.into());
    }
    if let StoreUrl::Local(directory) = StoreUrl::parse(url)? {
        counted.file_bytes = std::fs::metadata(store_file(&directory)).ok().map(|file| file.len());
    }
    Ok(counted)
}

/// What can be read of a range, page by page.
fn size_of(database: &Database, begin: &[u8], end: &[u8], report: Report<'_>) -> Result<Size, ToolError> {
    const PAGE: usize = 64;
    let (mut begin, mut size) = (begin.to_vec(), Size::default());
    loop {
        let page = database.run(|transaction| {
            match transaction.get_range(&RangeRead::new(&begin, end).limit(PAGE).snapshot()) {
                // `check` says what is wrong; the rest of the range is left out here.
                Err(error) if super::is_damage(&error) => Ok(Vec::new()),
                other => other,
            }
        })?;
        page.iter().for_each(|pair| size.add(Size::of(pair)));
        match page.last() {
            Some((last, _)) if page.len() == PAGE => begin = [&last[..], &[0]].concat(),
            _ => return Ok(size),
        }
        report(Progress { stage: "reading the change log", done: size.keys, total: None, unit: "entries" });
    }
}
