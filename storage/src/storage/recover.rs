//! From disk to a world and back: opening, loading, creating.

use super::{Sink, Storage};
use crate::config::Config;
use crate::disk::{Disk, LockedDirectory, RealDisk};
use crate::error::Error;
use crate::flush::{collect_unreferenced, write_in_batches};
use crate::home::{Assembler, Encoded};
use crate::journal::append::cut_tail;
use crate::journal::scan::Last;
use crate::journal::{Header, Scan, Segments, scan};
use crate::keys::{HomeId, Region};
use crate::kv::{Database, RangeRead};
use crate::lease::{Owner, observe};
use crate::register::{ID_BLOCK, Register, read_own};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vsekai_schema::id::EntityId;
use vsekai_schema::record::{FrameHead, FrameReader, IdBlock, OwnRecord};
use vsekai_schema::units::ChunkKey;

/// How many pairs of the store are read at a time when a world is loaded.
const LOAD_PAIRS: usize = 4_096;
/// One transaction loads for so long at most, well below the age that FoundationDB allows.
const LOAD_TIME_MAX: Duration = Duration::from_secs(2);
/// The generation of the parts that a new world's homes have.
const FIRST_GENERATION: u64 = 1;

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
pub(super) fn open(database: Database, config: Config, disk: &Arc<dyn Disk>, sink: Sink) -> Result<Opened, Error> {
    let directory = lock(&database, disk, &config.journal_dir)?;
    let Pair { segments, identity, own, last_lsn, previous_crc } =
        pair(&database, directory, config.abandon_journal, |_| Ok(()))?;
    let storage = Storage {
        config,
        database: database.clone(),
        segments: segments.clone(),
        identity,
        sink,
        running: Mutex::default(),
    };
    let Some(own) = own else { return Ok(Opened { storage, world: None }) };
    let mut flusher = storage.flusher(Register::new(database, Region::WHOLE, own));
    while !flusher.has(last_lsn) {
        flusher.flush_batch(last_lsn)?;
    }
    let mut register = flusher.into_register();
    let ids = register.take_over(identity, &storage.journal_place())?;
    let world = load(&register, ids, storage.config.transaction_bytes())?;
    *crate::sync::locked(&storage.running) = Some(storage.start(register, previous_crc));
    Ok(Opened { storage, world: Some(world) })
}

/// A journal and the store behind it, found to belong together.
pub(super) struct Pair {
    pub(super) segments: Arc<Segments>,
    /// The journal's.
    pub(super) identity: u64,
    /// `None`: there is no world yet.
    pub(super) own: Option<OwnRecord>,
    /// The last record that the store must have before anybody goes on; 0 when the journal holds nothing of use.
    pub(super) last_lsn: u64,
    previous_crc: u32,
}

/// Checks that the locked journal is the one in front of this store, and takes away what was torn, came too late or is
/// behind. `visit` sees each record's header, in order, before that.
pub(super) fn pair(
    database: &Database,
    directory: LockedDirectory,
    abandon_journal: bool,
    visit: impl FnMut(&Header) -> Result<(), Error>,
) -> Result<Pair, Error> {
    let journal = directory.path().to_owned();
    let identity = directory.identity()?;
    let mut found = scan(directory.disk(), directory.path(), visit)?;
    let own = database.run(|transaction| read_own(transaction, Region::WHOLE))?;
    let fit = check_pair(&journal, identity, &found, own.as_ref(), abandon_journal)?;
    found.check_end(own.as_ref().map_or(0, |own| own.last_lsn))?;
    let segments = Arc::new(Segments::new(directory, found.segments.iter().copied()));
    if found.torn {
        tracing::warn!(journal = %journal.display(), "the journal's last write was torn; it is cut off");
    }
    cut_tail(&segments, &mut found)?;
    let mut last_lsn = found.last.as_ref().map_or(0, |last| last.header.lsn);
    let mut previous_crc = found.last.as_ref().map_or(0, |last| last.header.crc);
    if let Some(own) = &own
        && (fit == Fit::Late || is_behind(&found, own)?)
    {
        // Nothing here is of use, and the next record must not leave a hole behind it.
        tracing::warn!(journal = %journal.display(), "the journal holds nothing that the store lacks; its segments are removed");
        for first_lsn in found.segments {
            segments.remove(first_lsn)?;
        }
        previous_crc = 0;
        last_lsn = 0;
    }
    Ok(Pair { segments, identity, own, last_lsn, previous_crc })
}

/// Locks the journal. One that a hung process holds is taken from it once the store shows that it is hung.
fn lock(database: &Database, disk: &Arc<dyn Disk>, journal_dir: &Path) -> Result<LockedDirectory, Error> {
    let busy = match LockedDirectory::open(disk, journal_dir) {
        Err(busy @ Error::InUse(_)) if !database.is_exclusive() => busy,
        other => return other,
    };
    // A process that was killed a moment ago may still be dying.
    let mut freed = None;
    let has_ended = || {
        freed = LockedDirectory::open(disk, journal_dir).ok();
        freed.is_some()
    };
    let owner = observe(database, Region::WHOLE, has_ended)?;
    if let Some(directory) = freed {
        return Ok(directory);
    }
    match owner {
        Owner::Alive(holder) => Err(Error::Owned(holder)),
        Owner::Unknown => Err(busy),
        // It may have ended meanwhile.
        Owner::Gone => match LockedDirectory::open(disk, journal_dir) {
            Err(Error::InUse(_)) => {
                tracing::warn!(journal = %journal_dir.display(), "the shard that holds the journal is hung; it is taken over");
                LockedDirectory::seize(disk, journal_dir)
            }
            other => other,
        },
    }
}

/// How a journal and a store belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// The store lacks nothing but what may be in the journal.
    Good,
    /// What the store lacks of the journal was written by a shard that had been fenced already, and never acknowledged.
    Late,
}

/// Refuses a journal that cannot be the one in front of this store.
fn check_pair(
    directory: &Path,
    identity: u64,
    found: &Scan,
    own: Option<&OwnRecord>,
    abandon_journal: bool,
) -> Result<Fit, Error> {
    let mismatch = |detail: String| Err(Error::Mismatch { path: directory.to_owned(), detail });
    let Some(own) = own else {
        return match &found.last {
            Some(last) => mismatch(format!("it holds records up to {}, and the store no world", last.header.lsn)),
            None => Ok(Fit::Good),
        };
    };
    if own.journal != 0 && own.journal != identity {
        if !abandon_journal {
            return Err(Error::OtherJournal { last_frame: own.last_frame, place: own.journal_place.clone() });
        }
        tracing::warn!(
            last_frame = own.last_frame,
            journal = own.journal_place,
            "the frames in that journal are given up"
        );
    }
    if let Some(first) = found.first_lsn()
        && first > own.last_lsn + 1
    {
        return mismatch(format!("it begins at record {first}, and the store ends at record {}", own.last_lsn));
    }
    match &found.last {
        Some(last) if last.header.lsn > own.last_lsn && last.header.epoch != own.epoch => {
            let (epoch, lsn) = (last.header.epoch, last.header.lsn);
            // The takeover that raised the epoch drained this very journal first.
            if own.journal == identity && epoch < own.epoch {
                return Ok(Fit::Late);
            }
            mismatch(format!(
                "record {lsn} is of epoch {epoch}, but the region was taken over and has epoch {}",
                own.epoch
            ))
        }
        _ => Ok(Fit::Good),
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

fn load(register: &Register, ids: IdBlock, transaction_bytes: usize) -> Result<SavedWorld, Error> {
    let region = register.region();
    let own = register.own();
    let (mut chunks, mut alone) = (Vec::new(), Vec::new());
    let mut unreferenced = Vec::new();
    for range in [region.chunks(), region.entities()] {
        let mut assembler = Assembler::new(region);
        read_pairs(register, range, |key, value| {
            match assembler.push(key, value)? {
                Some((HomeId::Chunk(chunk), list)) => chunks.push((chunk, list)),
                Some((HomeId::Entity(_), list)) => alone.push(list),
                None => {}
            }
            Ok(())
        })?;
        assembler.finish()?;
        unreferenced.append(&mut assembler.unreferenced);
    }
    if !unreferenced.is_empty() {
        tracing::info!(parts = unreferenced.len(), "taking away what a flush that was cut short has left");
        collect_unreferenced(register, &unreferenced, transaction_bytes)?;
    }
    Ok(SavedWorld { frame: own.last_frame, state_hash: own.state_hash, ids, chunks, alone })
}

/// Visits all pairs of a range in order, in as many transactions as that takes. Each checks that the owner is still this
/// one: then nobody else has written in between.
fn read_pairs(
    register: &Register,
    range: (Vec<u8>, Vec<u8>),
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let (mut begin, end) = range;
    let mut ended = false;
    while !ended {
        let began = Instant::now();
        let mut pages = Vec::new();
        register.read(|transaction| {
            pages.clear();
            let mut begin = begin.clone();
            while began.elapsed() < LOAD_TIME_MAX {
                let page = transaction.get_range(&RangeRead::new(&begin, &end).limit(LOAD_PAIRS).snapshot())?;
                let is_last = page.len() < LOAD_PAIRS;
                if let Some((last, _)) = page.last() {
                    begin = [&last[..], &[0]].concat();
                }
                pages.push(page);
                // A page at a time bounds the memory; what is visited can't be visited again.
                if is_last || pages.len() == 8 {
                    break;
                }
            }
            Ok(())
        })?;
        for (key, value) in pages.iter().flatten() {
            visit(key, value)?;
        }
        ended = pages.last().is_some_and(|page| page.len() < LOAD_PAIRS);
        if let Some((last, _)) = pages.iter().rev().find_map(|page| page.last()) {
            begin = [&last[..], &[0]].concat();
        }
    }
    Ok(())
}

/// Writes a new world in parts, the register last: a crash on the way leaves no world, and the next try begins by
/// clearing what this one left.
pub(super) fn create(
    database: &Database,
    config: &Config,
    world: NewWorld,
    journal: u64,
    journal_place: String,
) -> Result<(OwnRecord, IdBlock), Error> {
    let region = Region::WHOLE;
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
        last_commit_id: FIRST_GENERATION,
        journal,
        journal_place,
    };
    let write = |pairs: &[(Vec<u8>, Vec<u8>)], is_first: bool, own: Option<&OwnRecord>| {
        database.run_idempotent(|transaction| {
            match read_own(transaction, region)? {
                None => {}
                // The answer to the last attempt was lost.
                Some(found) if own == Some(&found) => return Ok(()),
                Some(_) => return Err(Error::WorldExists),
            }
            if is_first {
                for (begin, end) in [region.chunks(), region.entities(), region.changes()] {
                    transaction.clear_range(&begin, &end);
                }
            }
            for (key, value) in pairs {
                transaction.set(key, value.as_slice());
            }
            if let Some(own) = own {
                transaction.set(&region.own(), own.encode());
            }
            Ok(())
        })
    };
    write(&[], true, None)?;
    let chunks = world.chunks.into_iter().map(|(chunk, list)| (HomeId::Chunk(chunk), list));
    let alone = world.alone.into_iter().map(|(id, list)| (HomeId::Entity(id), list));
    let pairs = chunks.chain(alone).flat_map(|(home, list)| {
        let key = region.home(home);
        let encoded = Encoded::new(&list, world.frame);
        if encoded.bytes() <= crate::home::PART_BYTES {
            return vec![(key, encoded.whole())];
        }
        let parts = encoded.parts(&key, FIRST_GENERATION).map(|(key, bytes)| (key, bytes.to_vec()));
        let mut pairs: Vec<_> = parts.collect();
        pairs.push((key.clone(), encoded.reference(FIRST_GENERATION)));
        pairs
    });
    write_in_batches(pairs, config.transaction_bytes(), |batch| write(batch, false, None))?;
    write(&[], false, Some(&own))?;
    Ok((own, block))
}

/// The number of the last frame that survived, and the hash of the state after it; `None` when there is no world. Changes
/// nothing: looks into the journal, and when that never held a frame into a copy of the store.
pub fn last_durable_frame(config: &Config) -> Result<Option<(u64, u64)>, Error> {
    config.validate()?;
    let found = scan(&RealDisk, &config.journal_dir, |_| Ok(()))?;
    if let Some(last) = &found.last {
        found.check_end(0)?;
        let head = last_head(last)?;
        return Ok(Some((head.frame, head.state_hash)));
    }
    let Some(database) = Database::open_copy(&config.store_url)? else { return Ok(None) };
    let own = database.run(|transaction| read_own(transaction, Region::WHOLE))?;
    Ok(own.map(|own| (own.last_frame, own.state_hash)))
}
