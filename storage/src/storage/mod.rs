//! The handle that a shard holds: opens and recovers, takes frames, and runs the two threads behind.
//!
//! - `drain`: a dead shard's journal into the store.
//! - `recover`: journal and store into a world; a new world into the store.
//! - `workers`: the journal's writer thread, the flusher thread, and what they share.

mod drain;
mod exporter;
mod recover;
mod workers;

pub use drain::{Drained, drain_journal, journal_bytes};
pub use exporter::Exporter;
pub use recover::{NewWorld, Opened, SavedWorld, last_durable_frame};

use crate::config::Config;
use crate::disk::{Disk, RealDisk};
use crate::error::Error;
use crate::flush::Flusher;
use crate::journal::{Appender, PAYLOAD_BYTES_MAX, Segments};
use crate::keys::Region;
use crate::kv::Database;
use crate::lease::{Lease, host};
use crate::register::Register;
use crate::sync::locked;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vsekai_schema::codec::{DecodeError, Reader};
use vsekai_schema::record::IdBlock;
use workers::Running;

/// What happens behind the handle. Each is told once, from a thread of the storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// All frames up to this one survive a crash from now on.
    Durable {
        /// The last of them.
        frame: u64,
    },
    /// Ids asked for with [`Storage::reserve_ids`].
    IdsGranted(IdBlock),
    /// Nothing more will be made durable: stop the shard. The text names the cause.
    Failed(String),
}

/// Takes events. It runs on the thread that makes frames durable: hand over and return, never block or call back.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;

/// How the storage is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// The last frame that survives a crash.
    pub durable_frame: u64,
    /// The last frame taken.
    pub appended_frame: u64,
    /// The last frame that is in the store.
    pub flushed_frame: u64,
    /// Bytes of frames that the store does not have yet, in the queue and in the journal: what `backlog_bytes_max` bounds.
    pub journal_bytes: u64,
    /// Frames taken but not yet given to the disk.
    pub queued_records: u64,
    /// Groups written and synced.
    pub sync_count: u64,
    /// How long the last group took to write and sync, in microseconds.
    pub last_sync_micros: u64,
    /// The 99th percentile of that over the last 256 groups.
    pub p99_sync_micros: u64,
    /// Bytes free on the journal's disk when that was last looked at.
    pub free_bytes: u64,
    /// True while that is too little: no frames are taken.
    pub read_only: bool,
    /// True while frames are being brought into the store.
    pub is_flushing: bool,
    /// Transactions by which frames were brought into the store.
    pub flush_count: u64,
    /// How long the last of them took, in microseconds.
    pub last_flush_micros: u64,
    /// Homes (chunks and lone entities) rewritten by all of them.
    pub flushed_homes: u64,
    /// Bytes of keys and values given to the store by all of them.
    pub flushed_bytes: u64,
    /// What the store says, and for how long already, while it does not answer: frames stay in the journal.
    pub outage: Option<(String, Duration)>,
    /// Why nothing more is made durable, if so.
    pub failed: Option<String>,
}

/// Keeps one region's world. Dropped without [`Storage::close`], it stops at once, as a crash would.
#[derive(Debug)]
pub struct Storage {
    config: Config,
    database: Database,
    segments: Arc<Segments>,
    /// The journal's.
    identity: u64,
    sink: Sink,
    /// `None` until there is a world.
    running: Mutex<Option<Running>>,
}

/// An [`EventSink`] that can be printed.
#[derive(Clone)]
struct Sink(EventSink);

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EventSink")
    }
}

impl Storage {
    /// Opens store and journal, and returns the world if there is one: brings the journal's remaining frames into the
    /// store, raises the epoch there (which fences every other shard), reserves a block of ids, and loads.
    pub fn open(config: Config, sink: EventSink) -> Result<Opened, Error> {
        config.validate()?;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let database = Database::open_on_disk(&config.store_url, &disk)?;
        Self::open_on(database, config, &disk, sink)
    }

    /// The same on a store that is open already, with the journal on `disk`; `config.store_url` then only names the store.
    pub fn open_on(database: Database, config: Config, disk: &Arc<dyn Disk>, sink: EventSink) -> Result<Opened, Error> {
        config.validate()?;
        recover::open(database, config, disk, Sink(sink))
    }

    /// Writes a new world, after which frames can be appended. A crash on the way leaves no world.
    pub fn create(&self, world: NewWorld) -> Result<IdBlock, Error> {
        let mut running = locked(&self.running);
        if running.is_some() {
            return Err(Error::WorldExists);
        }
        let (own, block) = recover::create(&self.database, &self.config, world, self.identity, self.journal_place())?;
        let register = Register::new(self.database.clone(), Region::WHOLE, own);
        *running = Some(self.start(register, 0));
        Ok(block)
    }

    /// Refuses as [`Storage::append`] would for want of room, before the frame is made.
    pub fn check_room(&self) -> Result<(), Error> {
        locked(&self.running).as_ref().map_or(Ok(()), |running| running.shared().check_room(0))
    }

    /// Takes the next frame. It is durable once [`Event::Durable`] says so; on an error nothing was taken.
    pub fn append(&self, frame: u64, record: Vec<u8>) -> Result<(), Error> {
        if record.len() > PAYLOAD_BYTES_MAX {
            return Err(Error::TooLarge { what: "frame", found: record.len(), limit: PAYLOAD_BYTES_MAX });
        }
        let inside = frame_number(&record).map_err(|e| Error::decode("the frame at hand", e))?;
        if inside != frame {
            return Err(Error::FrameOrder { expected: frame, found: inside });
        }
        match &*locked(&self.running) {
            Some(running) => running.append(frame, record),
            None => Err(Error::NoWorld),
        }
    }

    /// The last frame that survives a crash; 0 when there is no world.
    pub fn durable_frame(&self) -> u64 {
        locked(&self.running).as_ref().map_or(0, Running::durable_frame)
    }

    /// Asks for `count` more entity ids; they come with [`Event::IdsGranted`].
    pub fn reserve_ids(&self, count: u64) {
        if let Some(running) = &*locked(&self.running) {
            running.reserve_ids(count);
        }
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        locked(&self.running).as_ref().map(Running::status).unwrap_or_default()
    }

    /// Blocks until the store has everything that is durable now.
    pub fn flush_now(&self) -> Result<(), Error> {
        let shared = locked(&self.running).as_ref().map(Running::shared);
        shared.map_or(Ok(()), |shared| shared.flush_now())
    }

    /// A handle that writes the world into files while frames go on; for another thread.
    pub fn exporter(&self) -> Exporter {
        Exporter::new(self.database.clone(), locked(&self.running).as_ref().map(Running::shared))
    }

    /// Makes durable what was taken, brings it into the store, and stops.
    pub fn close(self) -> Result<(), Error> {
        let running = locked(&self.running).take();
        running.map_or(Ok(()), Running::close)
    }

    /// Starts the threads behind a register whose frames are all in the store.
    fn start(&self, register: Register, previous_crc: u32) -> Running {
        let own = register.own().clone();
        let segments = self.segments.clone();
        let appender =
            Appender::new(segments.clone(), self.config.segment_bytes, own.epoch, own.last_lsn + 1, previous_crc);
        let lease = if self.database.is_exclusive() {
            None
        } else {
            let ttl = Duration::from_millis(self.config.lease_ttl_ms);
            let mut lease = Lease::new(self.database.clone(), register.region(), own.epoch, ttl);
            // Before anybody can see that this shard runs: one that hangs at once can be taken over, too.
            if let Err(error) = lease.beat() {
                tracing::warn!(error = error.chain(), "the lease could not be taken");
            }
            Some(lease)
        };
        Running::start(&self.config, self.sink.0.clone(), segments, appender, self.flusher(register), lease, &own)
    }

    fn flusher(&self, register: Register) -> Flusher {
        Flusher::new(register, self.segments.clone(), &self.config)
    }

    /// Where the journal is, for people.
    fn journal_place(&self) -> String {
        let path = self.segments.directory().path();
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        format!("{}:{}", host(), absolute.display())
    }
}

/// The number of the frame in `record`, without decoding the rest.
fn frame_number(record: &[u8]) -> Result<u64, DecodeError> {
    let mut reader = Reader::new(record);
    reader.byte()?;
    reader.varint()
}

#[cfg(test)]
mod tests;
