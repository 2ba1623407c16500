//! Puts the chunks of an index together as a file, from seeds and stores, on several threads and in bounded memory.

use super::seed::{Seed, verified};
use super::stream::StreamError;
use crate::caibx::{Chunk, IndexReader};
use crate::castr::{ChunkReader, Store};
use crate::digest::Digest;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

/// Chunks that are handed to a thread at once.
const BATCH: usize = 16;

/// Where the bytes came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Sources {
    /// Bytes that the file had already, where they belong.
    pub kept_size: u64,
    /// Bytes from seeds.
    pub seed_size: u64,
    /// Chunks from stores, their bytes, and the packed bytes that were fetched for them.
    pub store_chunk_count: u64,
    pub store_size: u64,
    pub fetched_size: u64,
}

/// Why the file is not whole.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    #[error(transparent)]
    Chunk(#[from] StreamError),
    #[error("the file cannot be written")]
    Write(#[source] io::Error),
}

/// What chunks come from, in this order.
pub struct From<'a> {
    /// What the file was before, if it was.
    pub before: Option<&'a File>,
    pub seeds: &'a [Seed],
    pub stores: &'a [Store],
}

/// Writes all chunks of `index`, which is fresh, into `file`; `each` is told the bytes as they are done.
pub fn assemble<R: Read>(
    mut index: IndexReader<R>,
    from: &From<'_>,
    file: &File,
    each: &(dyn Fn(u64) + Sync),
) -> Result<Sources, AssembleError> {
    let digest = index.header().digest;
    let threads = from.stores.iter().map(Store::threads).max().unwrap_or(2);
    let totals = Totals::default();
    let (stopped, failure) = (AtomicBool::new(false), Mutex::new(None));
    let (batches, receiver) = sync_channel::<Vec<Chunk>>(2 * threads);
    let receiver = Mutex::new(receiver);
    let fail = |error: AssembleError| {
        stopped.store(true, Ordering::Relaxed);
        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut reader = None;
                let mut buffer = Vec::new();
                loop {
                    let batch = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(batch) = batch else { return };
                    for chunk in batch {
                        if stopped.load(Ordering::Relaxed) {
                            break;
                        }
                        let done = one(&chunk, from, file, digest, &mut reader, &mut buffer, &totals);
                        match done {
                            Ok(()) => each(chunk.size),
                            Err(error) => fail(error),
                        }
                    }
                }
            });
        }
        let mut dispatch = || {
            loop {
                let mut batch = Vec::with_capacity(BATCH);
                while batch.len() < BATCH
                    && let Some(chunk) = index.next_chunk().map_err(StreamError::from)?
                {
                    batch.push(chunk);
                }
                if batch.is_empty() || stopped.load(Ordering::Relaxed) {
                    return Ok(());
                }
                if batches.send(batch).is_err() {
                    return Ok(());
                }
            }
        };
        if let Err(error) = dispatch() {
            fail(error);
        }
        drop(batches);
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(totals.sum()),
    }
}

#[derive(Default)]
struct Totals {
    kept_size: AtomicU64,
    seed_size: AtomicU64,
    store_chunk_count: AtomicU64,
    store_size: AtomicU64,
    fetched_size: AtomicU64,
}

impl Totals {
    fn sum(self) -> Sources {
        Sources {
            kept_size: self.kept_size.into_inner(),
            seed_size: self.seed_size.into_inner(),
            store_chunk_count: self.store_chunk_count.into_inner(),
            store_size: self.store_size.into_inner(),
            fetched_size: self.fetched_size.into_inner(),
        }
    }
}

fn one(
    chunk: &Chunk,
    from: &From<'_>,
    file: &File,
    digest: Digest,
    reader: &mut Option<ChunkReader>,
    buffer: &mut Vec<u8>,
    totals: &Totals,
) -> Result<(), AssembleError> {
    buffer.resize(usize::try_from(chunk.size).expect("at most 128 MiB"), 0);
    let add = |total: &AtomicU64, count| total.fetch_add(count, Ordering::Relaxed);
    if from.before.is_some_and(|before| verified(before, chunk.offset, chunk, digest, buffer)) {
        add(&totals.kept_size, chunk.size);
    } else if from.seeds.iter().any(|seed| seed.read(chunk, digest, buffer)) {
        add(&totals.seed_size, chunk.size);
    } else {
        let reader = match reader {
            Some(reader) => reader,
            None => reader.insert(ChunkReader::new().map_err(StreamError::Unpack)?),
        };
        let fetched = reader.read(from.stores, digest, &chunk.id, buffer).map_err(StreamError::from)?;
        add(&totals.store_chunk_count, 1);
        add(&totals.store_size, chunk.size);
        add(&totals.fetched_size, fetched);
    }
    file.write_all_at(buffer, chunk.offset).map_err(AssembleError::Write)
}

/// Whether `file` holds all chunks of `index` where they belong; reads until the first that it does not hold.
pub fn is_whole<R: Read>(mut index: IndexReader<R>, file: &File) -> Result<bool, StreamError> {
    let digest = index.header().digest;
    let size = file.metadata().map_err(StreamError::Unpack)?.len();
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(16);
    let (batches, receiver) = sync_channel::<Vec<Chunk>>(2 * threads);
    let (receiver, differs) = (Mutex::new(receiver), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut buffer = Vec::new();
                loop {
                    let batch = receiver.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(batch) = batch else { return };
                    for chunk in batch {
                        buffer.resize(usize::try_from(chunk.size).expect("at most 128 MiB"), 0);
                        if !differs.load(Ordering::Relaxed)
                            && !verified(file, chunk.offset, &chunk, digest, &mut buffer)
                        {
                            differs.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
        let mut dispatch = || {
            loop {
                let mut batch = Vec::with_capacity(BATCH);
                while batch.len() < BATCH
                    && let Some(chunk) = index.next_chunk()?
                {
                    batch.push(chunk);
                }
                if batch.is_empty() || differs.load(Ordering::Relaxed) || batches.send(batch).is_err() {
                    return Ok(());
                }
            }
        };
        let dispatched = dispatch();
        drop(batches);
        dispatched
    })
    .map(|()| !differs.load(Ordering::Relaxed) && index.total_size() == size)
}
