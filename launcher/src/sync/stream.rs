//! The chunks of an index, one after the other, fetched by several threads ahead of the reader.

use crate::caibx::{Chunk, IndexError, IndexReader};
use crate::castr::{ChunkReader, Store, StoreError};
use crate::digest::Digest;
use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Bytes of chunks that are fetched ahead, unless two of the largest are more.
const AHEAD: usize = 12 << 20;

/// Why the stream ends early.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the index is damaged")]
    Index(#[from] IndexError),
    #[error("unpacking cannot begin")]
    Unpack(#[source] io::Error),
}

struct Job {
    chunk: Chunk,
    /// Used again.
    buffer: Vec<u8>,
    answer: SyncSender<Result<Vec<u8>, StreamError>>,
}

/// Fetches chunks on threads of its own.
pub struct Fetchers {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Fetchers {
    pub fn new(stores: Arc<Vec<Store>>, digest: Digest) -> Self {
        let (jobs, receiver) = channel();
        let receiver = Arc::new(Mutex::new(receiver));
        let threads = stores.iter().map(Store::threads).max().unwrap_or(1);
        let threads = (0..threads)
            .map(|_| {
                let (receiver, stores) = (Arc::clone(&receiver), Arc::clone(&stores));
                std::thread::spawn(move || work(&receiver, &stores, digest))
            })
            .collect();
        Self { jobs: Some(jobs), threads }
    }

    pub fn count(&self) -> usize {
        self.threads.len()
    }

    /// Asks for a chunk; the answer comes when it is there.
    pub fn fetch(&self, chunk: Chunk, buffer: Vec<u8>) -> Receiver<Result<Vec<u8>, StreamError>> {
        let (answer, receiver) = sync_channel(1);
        self.jobs.as_ref().expect("not dropped").send(Job { chunk, buffer, answer }).expect("threads live as long");
        receiver
    }
}

impl Drop for Fetchers {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(jobs: &Mutex<Receiver<Job>>, stores: &[Store], digest: Digest) {
    let mut reader = None;
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { chunk, mut buffer, answer }) = job else { return };
        let mut fetch = || {
            let reader = match &mut reader {
                Some(reader) => reader,
                None => reader.insert(ChunkReader::new().map_err(StreamError::Unpack)?),
            };
            buffer.resize(usize::try_from(chunk.size).expect("at most 128 MiB"), 0);
            reader.read(stores, digest, &chunk.id, &mut buffer)?;
            Ok(std::mem::take(&mut buffer))
        };
        // Nobody waits any more when the stream is dropped early.
        let _ = answer.send(fetch());
    }
}

/// What an index stands for, from front to back.
pub struct IndexStream<R> {
    index: IndexReader<R>,
    fetchers: Fetchers,
    waiting: VecDeque<Receiver<Result<Vec<u8>, StreamError>>>,
    waiting_max: usize,
    current: Vec<u8>,
    position: usize,
    spare: Vec<Vec<u8>>,
    failure: Option<StreamError>,
}

impl<R: Read> IndexStream<R> {
    /// `index` is fresh: no chunk was read from it.
    pub fn new(index: IndexReader<R>, stores: Arc<Vec<Store>>) -> Self {
        let header = index.header();
        let fetchers = Fetchers::new(stores, header.digest);
        let waiting_max = (AHEAD / usize::try_from(header.chunk_size_max).expect("at most 128 MiB"))
            .clamp(2, 2 * fetchers.count() + 2);
        Self {
            index,
            fetchers,
            waiting: VecDeque::new(),
            waiting_max,
            current: Vec::new(),
            position: 0,
            spare: Vec::new(),
            failure: None,
        }
    }

    /// What [`Read`] failed with, in full.
    pub fn failure(&mut self) -> Option<StreamError> {
        self.failure.take()
    }

    /// Makes the next chunk the current one; false at the end.
    fn advance(&mut self) -> Result<bool, StreamError> {
        while self.waiting.len() < self.waiting_max
            && let Some(chunk) = self.index.next_chunk()?
        {
            let buffer = self.spare.pop().unwrap_or_default();
            self.waiting.push_back(self.fetchers.fetch(chunk, buffer));
        }
        let Some(next) = self.waiting.pop_front() else { return Ok(false) };
        let died = |_| StreamError::Unpack(io::Error::other("the threads that fetch have died"));
        let chunk = next.recv().map_err(died)??;
        self.spare.push(std::mem::replace(&mut self.current, chunk));
        self.position = 0;
        Ok(true)
    }
}

impl<R: Read> Read for IndexStream<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.position == self.current.len() && !bytes.is_empty() {
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(failure) => {
                    self.failure = Some(failure);
                    return Err(io::Error::other("see IndexStream::failure"));
                }
            }
        }
        let count = bytes.len().min(self.current.len() - self.position);
        bytes[..count].copy_from_slice(&self.current[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}
