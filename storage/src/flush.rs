//! Brings durable frames from the journal into the store, batch by batch, each with the register that says so.
//!
//! A batch that fits one transaction is one transaction. A larger one writes the lists as parts of a new generation first,
//! which nothing refers to yet, then all home records and the register in one transaction (the *flip*), and collects the
//! parts of the old generations last. A crash before the flip leaves the old state and some unreferenced parts; one behind
//! it the new state and some unreferenced parts: the next start takes those away.

use crate::change_log;
use crate::config::Config;
use crate::error::Error;
use crate::fold::{Change, Changes, Fold, merge};
use crate::home::{self, Encoded, Stored};
use crate::home_cache::HomeCache;
use crate::journal::{Record, Segments, Tail};
use crate::keys::{HomeId, Region, parts_of, readable};
use crate::kv::Transaction;
use crate::planted::{Bug, is_planted};
use crate::register::Register;
use crate::sync::give_way;
use rayon::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vsekai_schema::id::EntityId;
use vsekai_schema::record::{ChangeRecord, FrameReader, Home, OwnRecord};

/// What a key, its conflict ranges and a home's head come to in a transaction, about.
const KEY_BYTES: usize = 128;
/// Lists up to this length stay in the home's record even in a flip.
const FLIP_LIST_BYTES: usize = 128;

/// How much of the journal one flush takes in: bounds the memory that a large backlog needs.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// How many homes one flush rewrites, unless its first frame alone changes more: bounds the flip.
const BATCH_HOMES_MAX: usize = 8_000;
/// One transaction reads homes for so long at most, well below the age that FoundationDB allows.
const READ_TIME_MAX: Duration = Duration::from_secs(2);
/// From so many homes on, they are folded in parallel.
const PARALLEL_HOMES_MIN: usize = 64;

/// The only writer of the store once the world exists.
#[derive(Debug)]
pub(crate) struct Flusher {
    register: Register,
    segments: Arc<Segments>,
    tail: Tail,
    /// Read from the journal, but not taken in yet.
    carried: Vec<Record>,
    cache: HomeCache,
    change_log_frames: u64,
    transaction_bytes: usize,
    /// `None`: everything runs on the flusher's thread.
    pool: Option<rayon::ThreadPool>,
}

/// What one flush took in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Flushed {
    pub(crate) frames: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) entities: u64,
    pub(crate) homes: u64,
    /// Keys and values given to the store.
    pub(crate) store_bytes: u64,
}

/// What becomes of one home.
struct Outcome {
    home: HomeId,
    key: Vec<u8>,
    /// Generation of the parts that it has in the store.
    old_generation: Option<u64>,
    /// `None` when nothing is left in it.
    new: Option<(Encoded, Vec<u8>)>,
    /// True when the store holds nothing of it, either.
    was_missing: bool,
}

impl Flusher {
    /// Begins behind the last record that the store has.
    pub(crate) fn new(register: Register, segments: Arc<Segments>, config: &Config) -> Self {
        let threads = usize::try_from(config.flush_threads).unwrap_or(1);
        let tail = Tail::new(segments.clone(), register.own().last_lsn + 1);
        let named = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let named = named.thread_name(|at| format!("fold-{at}")).start_handler(|_| give_way());
        let pool = if threads > 1 { named.build().ok() } else { None };
        Flusher {
            register,
            segments,
            tail,
            carried: Vec::new(),
            cache: HomeCache::default(),
            change_log_frames: config.change_log_frames,
            transaction_bytes: config.transaction_bytes(),
            pool,
        }
    }

    pub(crate) fn register(&mut self) -> &mut Register {
        &mut self.register
    }

    /// Ends the flusher and gives the register back.
    pub(crate) fn into_register(self) -> Register {
        self.register
    }

    pub(crate) fn own(&self) -> &OwnRecord {
        self.register.own()
    }

    /// True when the store has all records up to `lsn`.
    pub(crate) fn has(&self, lsn: u64) -> bool {
        self.register.own().last_lsn >= lsn
    }

    /// Folds the next records, up to `durable_lsn`, into the store. Segments that are done with go away.
    pub(crate) fn flush_batch(&mut self, durable_lsn: u64) -> Result<Flushed, Error> {
        let records = self.next_records(durable_lsn)?;
        let mut next = self.register.own().clone();
        let mut fold = Fold::default();
        let mut flushed = Flushed::default();
        let last_lsn = records.last().map_or(0, |record| record.lsn);
        for record in &records {
            if record.epoch != next.epoch {
                return Err(Error::Fenced { ours: record.epoch, found: next.epoch });
            }
            let place = || format!("the frame in journal record {}", record.lsn);
            let head = if is_planted(Bug::FrameSkipped) && flushed.frames > 0 && record.lsn == last_lsn {
                FrameReader::new(&record.payload).map_err(|e| Error::decode(place(), e))?.head
            } else {
                fold.add(&record.payload).map_err(|e| Error::decode(place(), e))?
            };
            if head.frame != next.last_frame + 1 {
                let detail = format!("it is frame {}, {} is next", head.frame, next.last_frame + 1);
                return Err(Error::corrupt(place(), detail));
            }
            next.last_frame = head.frame;
            next.last_lsn = record.lsn;
            next.state_hash = head.state_hash;
            flushed.frames += 1;
            flushed.payload_bytes += record.payload.len() as u64;
        }
        if flushed.frames == 0 {
            return Ok(flushed);
        }
        let outcomes = self.fold_homes(&fold, next.last_frame)?;
        flushed.homes = outcomes.len() as u64;
        flushed.entities = fold.entity_count() as u64;
        let change = change_record(self.register.own().last_frame + 1, &next, &outcomes);
        if is_planted(Bug::SegmentsRemovedEarly) {
            self.segments.remove_stored(next.last_lsn)?;
        }
        flushed.store_bytes = self.commit(next, &outcomes, &change)?;
        for outcome in outcomes {
            let generation =
                outcome.new.as_ref().and_then(|(encoded, _)| self.generation_of(encoded, flushed.store_bytes));
            let stored = outcome.new.map(|(_, list)| Stored { list, generation });
            self.cache.put(outcome.key, stored);
        }
        self.segments.remove_stored(self.register.own().last_lsn)?;
        tracing::debug!(?flushed, "flushed");
        Ok(flushed)
    }

    /// The generation that a home has after the last commit, which came to `store_bytes`.
    fn generation_of(&self, encoded: &Encoded, store_bytes: u64) -> Option<u64> {
        let in_parts = encoded.bytes() > self.list_bytes_max(usize::try_from(store_bytes).unwrap_or(usize::MAX));
        in_parts.then_some(self.register.own().last_commit_id)
    }

    /// The longest list that stays in its home's record, in a flush of so many bytes.
    fn list_bytes_max(&self, flush_bytes: usize) -> usize {
        if flush_bytes > self.transaction_bytes { FLIP_LIST_BYTES } else { home::PART_BYTES }
    }

    /// As many of the next records as one flush takes in.
    fn next_records(&mut self, durable_lsn: u64) -> Result<Vec<Record>, Error> {
        let mut records = std::mem::take(&mut self.carried);
        let waiting: usize = records.iter().map(|record| record.payload.len()).sum();
        records.extend(self.tail.read_batch(durable_lsn, BATCH_BYTES_MAX.saturating_sub(waiting))?);
        let mut homes = HashSet::new();
        for (index, record) in records.iter().enumerate() {
            let damaged = |e| Error::decode(format!("the frame in journal record {}", record.lsn), e);
            let mut reader = FrameReader::new(&record.payload).map_err(damaged)?;
            while let Some(change) = reader.next_change().map_err(damaged)? {
                homes.insert(home_of(change.home, change.entity));
            }
            if homes.len() > BATCH_HOMES_MAX && index > 0 {
                self.carried = records.split_off(index);
                break;
            }
        }
        Ok(records)
    }

    /// What becomes of each home that the frames changed. The store is only read.
    fn fold_homes(&mut self, fold: &Fold<'_>, frame: u64) -> Result<Vec<Outcome>, Error> {
        let region = self.register.region();
        let mut jobs = Vec::with_capacity(fold.chunks.len() + fold.alone.len());
        for (chunk, changes) in &fold.chunks {
            jobs.push((HomeId::Chunk(*chunk), region.chunk(*chunk), Touched::Chunk(changes)));
        }
        for (id, change) in &fold.alone {
            jobs.push((HomeId::Entity(*id), region.entity(*id), Touched::Entity(*id, change)));
        }
        jobs.sort_unstable_by_key(|(home, ..)| *home);
        let mut stored = Vec::with_capacity(jobs.len());
        while stored.len() < jobs.len() {
            let part = self.register.read(|transaction| {
                let began = Instant::now();
                let mut part: Vec<Option<Stored>> = Vec::new();
                for (_, key, _) in &jobs[stored.len()..] {
                    part.push(match self.cache.take(key) {
                        Some(known) => known,
                        None => home::read(transaction, key)?,
                    });
                    if began.elapsed() > READ_TIME_MAX {
                        break;
                    }
                }
                Ok(part)
            })?;
            stored.extend(part);
        }
        let fold_one = |((home, key, touched), stored): ((HomeId, Vec<u8>, Touched<'_, '_>), Option<Stored>)| {
            let list = stored.as_ref().map(|stored| stored.list.as_slice());
            let merged = match touched {
                Touched::Chunk(changes) => merge(list, changes.iter()),
                Touched::Entity(id, change) => merge(list, std::iter::once((&id, change))),
            };
            let merged =
                merged.map_err(|e| Error::decode(format!("the value of key {} of the store", readable(&key)), e))?;
            let old_generation = stored.as_ref().and_then(|stored| stored.generation);
            let new = merged.map(|list| (Encoded::new(&list, frame), list));
            Ok(Outcome { home, key, old_generation, new, was_missing: stored.is_none() })
        };
        let work = jobs.into_iter().zip(stored);
        match &self.pool {
            Some(pool) if work.len() >= PARALLEL_HOMES_MIN => {
                let work: Vec<_> = work.collect();
                pool.install(|| work.into_par_iter().map(fold_one).collect())
            }
            _ => work.map(fold_one).collect(),
        }
    }

    /// Makes the outcomes and `next` the state of the store, and returns how many bytes that took.
    fn commit(&mut self, mut next: OwnRecord, outcomes: &[Outcome], change: &ChangeRecord) -> Result<u64, Error> {
        let region = self.register.region();
        if is_planted(Bug::CursorAhead) {
            next.last_lsn += 1;
            next.last_frame += 1;
        }
        let bytes: usize = outcomes.iter().map(Outcome::bytes).sum();
        let generation = if is_planted(Bug::GenerationReused) { 1 } else { self.register.next_commit_id() };
        let is_large = bytes > self.transaction_bytes;
        let list_bytes_max = self.list_bytes_max(bytes);
        let parts = || outcomes.iter().flat_map(|outcome| outcome.parts(generation, list_bytes_max));
        if is_planted(Bug::CollectedBeforeFlip) {
            self.collect(outcomes, generation)?;
        }
        if is_large {
            write_in_batches(parts(), self.transaction_bytes, |batch| {
                self.register.write_aside(|transaction| {
                    batch.iter().for_each(|(key, value): &(Vec<u8>, &[u8])| transaction.set(key, *value));
                    Ok(())
                })
            })?;
        }
        let change_log_frames = self.change_log_frames;
        let write = |transaction: &mut Transaction, wanted: &dyn Fn(&Outcome) -> bool| {
            for outcome in outcomes.iter().filter(|outcome| wanted(outcome)) {
                outcome.write(transaction, generation, list_bytes_max);
            }
        };
        if is_planted(Bug::CursorBeforeHomes) {
            self.register.update(next.clone(), |_| Ok(()))?;
        }
        self.register.update(next, |transaction| {
            if !is_large {
                parts().for_each(|(key, value)| transaction.set(&key, value));
                collect_old(transaction, outcomes);
            }
            let is_apart = |outcome: &Outcome| matches!(outcome.home, HomeId::Chunk(_)) && is_planted(Bug::ChunksApart);
            write(transaction, &|outcome| !is_apart(outcome));
            change_log::append(transaction, region, change, change_log_frames)
        })?;
        if is_planted(Bug::ChunksApart) {
            self.register.write_aside(|transaction| {
                write(transaction, &|outcome| matches!(outcome.home, HomeId::Chunk(_)));
                Ok(())
            })?;
        }
        if is_large {
            self.collect(outcomes, generation)?;
        }
        Ok(bytes as u64)
    }

    /// Takes the parts away that the flip left unreferenced.
    fn collect(&self, outcomes: &[Outcome], generation: u64) -> Result<(), Error> {
        let old = outcomes.iter().filter(|outcome| outcome.old_generation.is_some_and(|old| old != generation));
        let old: Vec<&Outcome> = old.collect();
        for some in old.chunks(self.transaction_bytes / (2 * KEY_BYTES)) {
            self.register.write_aside(|transaction| {
                some.iter().for_each(|outcome| outcome.collect(transaction));
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The changes to one home.
enum Touched<'c, 'f> {
    Chunk(&'c Changes<'f>),
    Entity(EntityId, &'c Change<'f>),
}

impl Outcome {
    /// What it comes to in a transaction that writes all of it.
    fn bytes(&self) -> usize {
        let lists =
            |(encoded, _): &(Encoded, Vec<u8>)| encoded.bytes() + encoded.bytes() / home::PART_BYTES * KEY_BYTES;
        KEY_BYTES + self.new.as_ref().map_or(0, lists)
    }

    /// Writes the home's record. Lists longer than `list_bytes_max` are in the parts of `generation`.
    fn write(&self, transaction: &mut Transaction, generation: u64, list_bytes_max: usize) {
        match &self.new {
            Some((encoded, _)) if encoded.bytes() > list_bytes_max => {
                transaction.set(&self.key, encoded.reference(generation));
            }
            Some((encoded, _)) => transaction.set(&self.key, encoded.whole()),
            None if self.was_missing => {}
            None => transaction.clear(&self.key),
        }
    }

    /// The parts of a list longer than `list_bytes_max`.
    fn parts(&self, generation: u64, list_bytes_max: usize) -> impl Iterator<Item = (Vec<u8>, &[u8])> {
        let new = self.new.iter().map(|(encoded, _)| encoded).filter(move |new| new.bytes() > list_bytes_max);
        new.flat_map(move |encoded| encoded.parts(&self.key, generation))
    }

    fn collect(&self, transaction: &mut Transaction) {
        if let Some(generation) = self.old_generation {
            let (begin, end) = parts_of(&self.key, generation);
            transaction.clear_range(&begin, &end);
        }
    }
}

fn collect_old(transaction: &mut Transaction, outcomes: &[Outcome]) {
    outcomes.iter().for_each(|outcome| outcome.collect(transaction));
}

fn home_of(home: Home, entity: EntityId) -> HomeId {
    match home {
        Home::Chunk(chunk) => HomeId::Chunk(chunk),
        Home::Alone => HomeId::Entity(entity),
    }
}

fn change_record(first_frame: u64, next: &OwnRecord, outcomes: &[Outcome]) -> ChangeRecord {
    let mut homes: BTreeMap<bool, Vec<u64>> = BTreeMap::new();
    for outcome in outcomes {
        match outcome.home {
            HomeId::Chunk(chunk) => homes.entry(true).or_default().push(chunk.morton()),
            HomeId::Entity(entity) => homes.entry(false).or_default().push(entity.0),
        }
    }
    let mut sorted = |is_chunk| {
        let mut list = homes.remove(&is_chunk).unwrap_or_default();
        list.sort_unstable();
        list
    };
    ChangeRecord {
        first_frame,
        last_frame: next.last_frame,
        state_hash: next.state_hash,
        chunks: sorted(true),
        entities: sorted(false),
        complete: true,
    }
}

/// Gives `pairs` to `write` in batches that fit one transaction each.
pub(crate) fn write_in_batches<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    pairs: impl Iterator<Item = (K, V)>,
    bytes_max: usize,
    mut write: impl FnMut(&[(K, V)]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    for (key, value) in pairs {
        let more = KEY_BYTES + value.as_ref().len();
        if bytes + more > bytes_max && !batch.is_empty() {
            write(&batch)?;
            batch.clear();
            bytes = 0;
        }
        bytes += more;
        batch.push((key, value));
    }
    if batch.is_empty() { Ok(()) } else { write(&batch) }
}

/// Takes `unreferenced` parts of `region` away.
pub(crate) fn collect_unreferenced(
    register: &Register,
    unreferenced: &[Vec<u8>],
    bytes_max: usize,
) -> Result<(), Error> {
    debug_assert!(unreferenced.iter().all(|key| is_part(register.region(), key)));
    write_in_batches(unreferenced.iter().map(|key| (key, [])), bytes_max, |batch| {
        register.write_aside(|transaction| {
            batch.iter().for_each(|(key, _)| transaction.clear(key));
            Ok(())
        })
    })
}

fn is_part(region: Region, key: &[u8]) -> bool {
    region.home_key(key).is_some_and(|key| key.part.is_some())
}
