//! Bytes in, chunks into a store and an index out, on all cores and in bounded memory.
//!
//! Whoever has the bytes pushes them ([`Write`], or [`Pipeline::read_all`] without a copy). They are gathered in segments; a full segment
//! is cut into chunks, and goes with its cuts to a worker, which takes each chunk's digest, asks whether the store has it, and
//! packs and writes what it does not have. Results come back in any order and enter the index in theirs. There is a fixed number of
//! segments: when all are with the workers, pushing waits.

use crate::caibx::{Header, IndexWriter, flags};
use crate::castr::{COMPRESSION_LEVEL, Packer, Store, StoreError};
use crate::chunker::Chunker;
use crate::digest::{Digest, Id};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// All segments together, unless chunks are so large that two largest chunks for each of the fewest segments are more.
const MEMORY: usize = 24 << 20;
/// Segments have at least room for this, so that work is not handed over in crumbs.
const SEGMENT_MIN: usize = 1 << 20;

/// What was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Made {
    /// Chunks in the index.
    pub chunk_count: u64,
    /// Their bytes: of the blob or archive.
    pub total_size: u64,
    /// Chunks that the store did not have. One that comes twice in the same second may count twice.
    pub new_chunk_count: u64,
    /// Their bytes, plain and packed.
    pub new_size: u64,
    pub new_packed_size: u64,
}

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("packing a chunk failed")]
    Pack(#[source] io::Error),
    #[error("the index cannot be written")]
    Index(#[source] io::Error),
    #[error("the input cannot be read")]
    Input(#[source] io::Error),
}

struct Job {
    number: u64,
    bytes: Vec<u8>,
    /// Sizes of the chunks, from the beginning of `bytes`.
    cuts: Vec<u32>,
}

struct Done {
    number: u64,
    bytes: Vec<u8>,
    chunks: Result<Vec<(u32, Id)>, PipelineError>,
    new: Made,
}

/// The workers, who go home when it is dropped.
struct Crew {
    jobs: Option<Sender<Job>>,
    stopped: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl Drop for Crew {
    fn drop(&mut self) {
        // What is still queued then, after a failure, is not worth doing.
        self.stopped.store(true, Ordering::Relaxed);
        self.jobs = None;
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// See the module.
pub struct Pipeline<W: Write> {
    chunker: Chunker,
    index: IndexWriter<W>,
    made: Made,
    /// The segment that is being filled: always of full length, `filled` of it are worth something.
    segment: Vec<u8>,
    filled: usize,
    segment_size: usize,
    /// Segments that may still be made.
    unmade: usize,
    free: Vec<Vec<u8>>,
    next_job: u64,
    next_done: u64,
    early: BTreeMap<u64, Vec<(u32, Id)>>,
    done: Receiver<Done>,
    crew: Crew,
    /// What [`Write`] failed with, which can only tell a kind.
    failure: Option<PipelineError>,
}

impl<W: Write> Pipeline<W> {
    /// Begins an index on `index`, with the archive's feature flags if it is one; chunks go into `store` if there is one.
    pub fn new(
        chunker: Chunker,
        digest: Digest,
        archive_flags: Option<u64>,
        store: Option<Arc<Store>>,
        index: W,
    ) -> Result<Self, PipelineError> {
        let sizes = chunker.sizes();
        let header = Header {
            digest,
            flags: flags(digest, archive_flags),
            chunk_size_min: sizes.min as u64,
            chunk_size_avg: sizes.avg as u64,
            chunk_size_max: sizes.max as u64,
            chunk_count: 0,
        };
        let index = IndexWriter::new(index, &header).map_err(PipelineError::Index)?;
        let threads = store.as_ref().map_or_else(|| 2, |store| store.threads());
        let segment_size = SEGMENT_MIN.max(2 * sizes.max);
        let segments = (MEMORY / segment_size).clamp(3, 2 * threads + 2);
        // More threads than segments would stand about.
        let threads = threads.min(segments - 1);
        let (jobs, jobs_of_workers) = channel();
        let (done_of_workers, done) = channel();
        let jobs_of_workers = Arc::new(Mutex::new(jobs_of_workers));
        let stopped = Arc::new(AtomicBool::new(false));
        let workers = (0..threads)
            .map(|_| {
                let (jobs, done) = (Arc::clone(&jobs_of_workers), done_of_workers.clone());
                let (store, stopped) = (store.clone(), Arc::clone(&stopped));
                std::thread::spawn(move || work(&jobs, &done, store.as_deref(), digest, &stopped))
            })
            .collect();
        Ok(Self {
            chunker,
            index,
            made: Made::default(),
            segment: vec![0; segment_size],
            filled: 0,
            segment_size,
            unmade: segments - 1,
            free: Vec::new(),
            next_job: 0,
            next_done: 0,
            early: BTreeMap::new(),
            done,
            crew: Crew { jobs: Some(jobs), stopped, workers },
            failure: None,
        })
    }

    /// Pushes all that `input` gives; `each` is told the bytes as they come.
    pub fn read_all(&mut self, input: &mut impl Read, mut each: impl FnMut(u64)) -> Result<(), PipelineError> {
        loop {
            if self.filled == self.segment.len() {
                self.dispatch(false)?;
            }
            match input.read(&mut self.segment[self.filled..]) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.filled += count;
                    each(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(PipelineError::Input(error)),
            }
        }
    }

    /// Pushes the end: waits for all chunks, and completes the index.
    pub fn finish(mut self) -> Result<(W, Made), PipelineError> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        self.dispatch(true)?;
        while self.next_done < self.next_job {
            self.take_done()?;
        }
        (self.made.chunk_count, self.made.total_size) = self.index.written();
        let made = self.made;
        Ok((self.index.finish().map_err(PipelineError::Index)?, made))
    }

    /// What [`Write`] failed with, in full.
    pub fn failure(&mut self) -> Option<PipelineError> {
        self.failure.take()
    }

    /// Cuts what is in the segment and hands it over. What cannot be cut yet begins the next segment.
    fn dispatch(&mut self, last: bool) -> Result<(), PipelineError> {
        let (mut cuts, mut cut) = (Vec::new(), 0);
        while let Some(size) = self.chunker.cut(&self.segment[cut..self.filled], last) {
            cuts.push(u32::try_from(size).expect("a chunk has at most 128 MiB"));
            cut += size;
        }
        if cuts.is_empty() {
            return Ok(());
        }
        let mut next = self.free_segment()?;
        let rest = self.filled - cut;
        next[..rest].copy_from_slice(&self.segment[cut..self.filled]);
        let bytes = std::mem::replace(&mut self.segment, next);
        self.filled = rest;
        let job = Job { number: self.next_job, bytes, cuts };
        self.next_job += 1;
        self.crew.jobs.as_ref().expect("not finished").send(job).expect("workers live as long as there are jobs");
        Ok(())
    }

    fn free_segment(&mut self) -> Result<Vec<u8>, PipelineError> {
        loop {
            if let Some(segment) = self.free.pop() {
                return Ok(segment);
            }
            if self.unmade > 0 {
                self.unmade -= 1;
                return Ok(vec![0; self.segment_size]);
            }
            self.take_done()?;
        }
    }

    fn take_done(&mut self) -> Result<(), PipelineError> {
        let Done { number, bytes, chunks, new } =
            self.done.recv().map_err(|_| PipelineError::Pack(io::Error::other("the workers have died")))?;
        self.free.push(bytes);
        self.early.insert(number, chunks?);
        self.made.new_chunk_count += new.new_chunk_count;
        self.made.new_size += new.new_size;
        self.made.new_packed_size += new.new_packed_size;
        while let Some(chunks) = self.early.remove(&self.next_done) {
            self.next_done += 1;
            for (size, id) in chunks {
                self.index.add(u64::from(size), &id).map_err(PipelineError::Index)?;
            }
        }
        Ok(())
    }
}

impl<W: Write> Write for Pipeline<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.filled == self.segment.len()
            && let Err(failure) = self.dispatch(false)
        {
            self.failure = Some(failure);
            return Err(io::Error::other("see Pipeline::failure"));
        }
        let count = bytes.len().min(self.segment.len() - self.filled);
        self.segment[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn work(jobs: &Mutex<Receiver<Job>>, done: &Sender<Done>, store: Option<&Store>, digest: Digest, stopped: &AtomicBool) {
    let mut packer = None;
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { number, bytes, cuts }) = job else { return };
        let mut new = Made::default();
        let chunks = chunks(&bytes, &cuts, store, digest, &mut packer, &mut new, stopped);
        if done.send(Done { number, bytes, chunks, new }).is_err() {
            return;
        }
    }
}

fn chunks(
    mut bytes: &[u8],
    cuts: &[u32],
    store: Option<&Store>,
    digest: Digest,
    packer: &mut Option<Packer>,
    new: &mut Made,
    stopped: &AtomicBool,
) -> Result<Vec<(u32, Id)>, PipelineError> {
    let mut chunks = Vec::with_capacity(cuts.len());
    for &size in cuts {
        if stopped.load(Ordering::Relaxed) {
            break;
        }
        let (chunk, rest) = bytes.split_at(size as usize);
        bytes = rest;
        let id = digest.of(chunk);
        chunks.push((size, id));
        let Some(store) = store else { continue };
        if store.has(&id)? {
            continue;
        }
        let packer = match packer {
            Some(packer) => packer,
            None => packer.insert(Packer::new(COMPRESSION_LEVEL).map_err(PipelineError::Pack)?),
        };
        let packed = packer.pack(chunk).map_err(PipelineError::Pack)?;
        store.write(&id, packed)?;
        new.new_chunk_count += 1;
        new.new_size += u64::from(size);
        new.new_packed_size += packed.len() as u64;
    }
    Ok(chunks)
}
