//! From disk to a world and back: opening, loading, creating.

use super::{Sink, Storage};
use crate::config::Config;
use crate::error::Error;
use crate::files::LockedDirectory;
use crate::flush::Flusher;
use crate::journal::append::cut_tail;
use crate::journal::scan::Last;
use crate::journal::{Scan, Segments, scan};
use crate::keys::Region;
use crate::kv::{Database, RangeRead};
use crate::register::{ID_BLOCK, Register, read_own};
use std::path::Path;
use std::sync::{Arc, Mutex};
use vsekai_schema::id::EntityId;
use vsekai_schema::record::{FrameHead, FrameReader, IdBlock, OwnRecord};
use vsekai_schema::units::ChunkKey;

/// Most bytes of keys and values in one transaction of a new world (FoundationDB: "over 1 MB, modify your design").
const CREATE_BYTES_MAX: usize = 900_000;

/// An open storage.
#[derive(Debug)]
pub struct Opened {
    /// The handle.
    pub storage: Storage,
    /// The world, or `None` when there is none yet and [`Storage::create`] must make it.
    pub world: Option<SavedWorld>,
}

/// A world as it was after its last durable frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedWorld {
    /// That frame.
    pub frame: u64,
    /// The hash of the state after it, as the frame said.
    pub state_hash: u64,
    /// A fresh block of ids. Those of the last run are never given again, used or not.
    pub ids: IdBlock,
    /// The entity list of each chunk that holds anything, in Morton order.
    pub chunks: Vec<(ChunkKey, Vec<u8>)>,
    /// The entity list (of one) of each entity kept by itself, in order of id.
    pub alone: Vec<Vec<u8>>,
}

/// A world to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewWorld {
    /// The frame after which the world is as it stands here; the first to be appended is the next one.
    pub frame: u64,
    /// The hash of that state.
    pub state_hash: u64,
    /// An entity list per chunk.
    pub chunks: Vec<(ChunkKey, Vec<u8>)>,
    /// An entity list of one for each entity kept by itself.
    pub alone: Vec<(EntityId, Vec<u8>)>,
    /// One behind the largest id in use; the first block begins here.
    pub ids_used_to: u64,
}

/// Opens on `database`: see [`Storage::open`].
pub(super) fn open(database: Database, config: Config, sink: Sink) -> Result<Opened, Error> {
    let directory = LockedDirectory::open(&config.journal_dir)?;
    let mut found = scan(directory.path(), |_| Ok(()))?;
    let own = read_own(&mut database.begin()?, Region::WHOLE)?;
    check_pair(directory.path(), &found, own.as_ref())?;
    let segments = Arc::new(Segments::new(directory, found.segments.iter().copied()));
    if found.torn {
        tracing::warn!(journal = %config.journal_dir.display(), "the journal's last write was torn; it is cut off");
    }
    cut_tail(&segments, &mut found)?;
    let storage =
        Storage { config, database: database.clone(), segments: segments.clone(), sink, running: Mutex::default() };
    let Some(own) = own else { return Ok(Opened { storage, world: None }) };

    let last_lsn = found.last.as_ref().map_or(0, |last| last.header.lsn);
    let mut previous_crc = found.last.as_ref().map_or(0, |last| last.header.crc);
    if is_behind(&found, &own)? {
        // Nothing here is of use, and the next record must not leave a hole behind it.
        tracing::warn!(journal = %storage.config.journal_dir.display(), "the store is ahead of the journal, whose segments are removed");
        for first_lsn in found.segments {
            segments.remove(first_lsn)?;
        }
        previous_crc = 0;
    }
    let mut flusher = Flusher::new(Register::new(database, Region::WHOLE, own), segments);
    while !flusher.has(last_lsn) {
        flusher.flush_batch(last_lsn)?;
    }
    let mut register = flusher.into_register();
    let ids = register.take_over()?;
    let world = load(&register, ids)?;
    *crate::sync::locked(&storage.running) = Some(storage.start(register, previous_crc));
    Ok(Opened { storage, world: Some(world) })
}

/// Refuses a journal that cannot be the one in front of this store.
fn check_pair(directory: &Path, found: &Scan, own: Option<&OwnRecord>) -> Result<(), Error> {
    let mismatch = |detail: String| Err(Error::Mismatch { path: directory.to_owned(), detail });
    let Some(own) = own else {
        return match &found.last {
            Some(last) => mismatch(format!("it holds records up to {}, and the store no world", last.header.lsn)),
            None => Ok(()),
        };
    };
    if let Some(first) = found.first_lsn()
        && first > own.last_lsn + 1
    {
        return mismatch(format!("it begins at record {first}, and the store ends at record {}", own.last_lsn));
    }
    match &found.last {
        Some(last) if last.header.lsn > own.last_lsn && last.header.epoch != own.epoch => {
            let (epoch, lsn) = (last.header.epoch, last.header.lsn);
            mismatch(format!(
                "record {lsn} is of epoch {epoch}, but the region was taken over and has epoch {}",
                own.epoch
            ))
        }
        _ => Ok(()),
    }
}

/// True when the journal does not end in the history that the store has: it is an older copy, or that of a shard that was
/// fenced before it had flushed.
fn is_behind(found: &Scan, own: &OwnRecord) -> Result<bool, Error> {
    match &found.last {
        Some(last) if last.header.lsn > own.last_lsn => Ok(false),
        Some(last) if last.header.lsn == own.last_lsn => Ok(last_head(last)?.state_hash != own.state_hash),
        Some(_) => Ok(true),
        None => Ok(false),
    }
}

fn last_head(last: &Last) -> Result<FrameHead, Error> {
    let place = || format!("the frame in journal record {}", last.header.lsn);
    Ok(FrameReader::new(&last.payload).map_err(|e| Error::decode(place(), e))?.head)
}

fn load(register: &Register, ids: IdBlock) -> Result<SavedWorld, Error> {
    let region = register.region();
    let mut transaction = register.database().begin()?;
    let mut all = |(begin, end): (Vec<u8>, Vec<u8>)| transaction.get_range(&RangeRead::new(&begin, &end));
    let chunks = all(region.chunks())?.into_iter().map(|(key, payload)| {
        let chunk = region.chunk_of(&key);
        let place = || format!("key {} of the store", crate::keys::readable(&key));
        chunk.map(|chunk| (chunk, payload)).ok_or_else(|| Error::corrupt(place(), "it is not the key of a chunk"))
    });
    let chunks = chunks.collect::<Result<_, _>>()?;
    let alone = all(region.entities())?.into_iter().map(|(_, payload)| payload).collect();
    let own = register.own();
    Ok(SavedWorld { frame: own.last_frame, state_hash: own.state_hash, ids, chunks, alone })
}

/// Writes a new world in parts, the register last: a crash on the way leaves no world, and the next try begins by
/// clearing what this one left.
pub(super) fn create(database: &Database, region: Region, world: NewWorld) -> Result<(OwnRecord, IdBlock), Error> {
    let chunks = world.chunks.into_iter().map(|(chunk, payload)| (region.chunk(chunk), payload));
    let alone = world.alone.into_iter().map(|(id, payload)| (region.entity(id), payload));
    let block = IdBlock {
        next: world.ids_used_to,
        end: world
            .ids_used_to
            .checked_add(ID_BLOCK)
            .ok_or_else(|| Error::Config("the ids of the new world are used up".into()))?,
    };
    let own = OwnRecord {
        epoch: 1,
        last_frame: world.frame,
        last_lsn: 0,
        state_hash: world.state_hash,
        ids_reserved_to: block.end,
        last_commit_id: 1,
    };
    let mut part = vec![];
    let mut part_bytes = 0;
    let commit = |part: &[(Vec<u8>, Vec<u8>)], is_first: bool, own: Option<&OwnRecord>| {
        database.run(|transaction| {
            if read_own(transaction, region)?.is_some() {
                return Err(Error::WorldExists);
            }
            if is_first {
                for (begin, end) in [region.chunks(), region.entities()] {
                    transaction.clear_range(&begin, &end);
                }
            }
            for (key, payload) in part {
                transaction.set(key, payload.as_slice());
            }
            if let Some(own) = own {
                transaction.set(&region.own(), own.encode());
            }
            Ok(())
        })
    };
    let mut is_first = true;
    for (key, payload) in chunks.chain(alone) {
        let bytes = key.len() + payload.len();
        if part_bytes + bytes > CREATE_BYTES_MAX && !part.is_empty() {
            commit(&part, is_first, None)?;
            is_first = false;
            part.clear();
            part_bytes = 0;
        }
        part_bytes += bytes;
        part.push((key, payload));
    }
    commit(&part, is_first, Some(&own))?;
    Ok((own, block))
}

/// The number of the last frame that survived, and the hash of the state after it; `None` when there is no world. Changes
/// nothing: looks into the journal, and when that never held a frame into a copy of the store.
pub fn last_durable_frame(config: &Config) -> Result<Option<(u64, u64)>, Error> {
    config.validate()?;
    if let Some(last) = scan(&config.journal_dir, |_| Ok(()))?.last {
        let head = last_head(&last)?;
        return Ok(Some((head.frame, head.state_hash)));
    }
    let Some(database) = Database::open_copy(&config.store_url)? else { return Ok(None) };
    let own = read_own(&mut database.begin()?, Region::WHOLE)?;
    Ok(own.map(|own| (own.last_frame, own.state_hash)))
}
