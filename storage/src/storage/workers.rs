//! Two threads: one writes groups of frames to the journal, one brings durable frames into the store. They share a queue,
//! a few counters and the poison.

use super::{Event, EventSink, Status};
use crate::config::Config;
use crate::error::Error;
use crate::flush::{Flushed, Flusher};
use crate::journal::{Appender, HEADER_BYTES, Segments};
use crate::lease::{BEATS, Lease};
use crate::planted::{Bug, is_planted};
use crate::register::Patience;
use crate::sync::{give_way, locked};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vsekai_schema::record::{IdBlock, OwnRecord};

const SYNC_TIMES: usize = 256;
/// The pauses between attempts to reach a store that does not answer, doubling.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The threads.
#[derive(Debug)]
pub(super) struct Running {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    flusher: Option<JoinHandle<()>>,
    lease: Option<JoinHandle<()>>,
}

/// What the threads and the handle share.
pub(super) struct Shared {
    sink: EventSink,
    flush_interval: Duration,
    backlog_bytes_max: u64,
    min_free_bytes: u64,
    /// The journal's disk, as last seen.
    free_bytes: AtomicU64,
    /// Each frame has one record, so frame number and lsn differ by this for ever.
    frame_of_lsn_0: u64,
    /// Bytes of frames that the store does not have yet.
    backlog_bytes: AtomicU64,
    durable_lsn: AtomicU64,
    queue: Mutex<Queue>,
    queue_changed: Condvar,
    flush: Mutex<FlushState>,
    flush_changed: Condvar,
    sync_times: Mutex<SyncTimes>,
    flush_totals: Mutex<FlushTotals>,
    outage: Mutex<Option<Outage>>,
    lease: Mutex<Stop>,
    lease_changed: Condvar,
    poison: OnceLock<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
enum Stop {
    #[default]
    No,
    /// Finish what was taken.
    Drain,
    /// Leave everything as it is.
    AtOnce,
}

struct Queue {
    records: VecDeque<Vec<u8>>,
    /// The last frame taken.
    appended_frame: u64,
    stop: Stop,
}

struct FlushState {
    flushed_lsn: u64,
    wanted: bool,
    /// Ids asked for, request by request.
    id_requests: VecDeque<u64>,
    stop: Stop,
}

#[derive(Debug, Clone, Copy, Default)]
struct FlushTotals {
    is_running: bool,
    count: u64,
    homes: u64,
    store_bytes: u64,
    last_micros: u64,
}

/// The store does not answer.
struct Outage {
    since: Instant,
    reason: String,
}

#[derive(Default)]
struct SyncTimes {
    count: u64,
    recent_micros: VecDeque<u64>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Running {
    pub(super) fn start(
        config: &Config,
        sink: EventSink,
        segments: Arc<Segments>,
        appender: Appender,
        flusher: Flusher,
        lease: Option<Lease>,
        own: &OwnRecord,
    ) -> Self {
        let shared = Arc::new(Shared {
            sink,
            flush_interval: Duration::from_millis(config.flush_interval_ms),
            backlog_bytes_max: config.backlog_bytes_max,
            min_free_bytes: config.min_free_bytes,
            free_bytes: AtomicU64::new(u64::MAX),
            frame_of_lsn_0: own.last_frame - own.last_lsn,
            backlog_bytes: AtomicU64::new(0),
            durable_lsn: AtomicU64::new(own.last_lsn),
            queue: Mutex::new(Queue { records: VecDeque::new(), appended_frame: own.last_frame, stop: Stop::No }),
            queue_changed: Condvar::new(),
            flush: Mutex::new(FlushState {
                flushed_lsn: own.last_lsn,
                wanted: false,
                id_requests: VecDeque::new(),
                stop: Stop::No,
            }),
            flush_changed: Condvar::new(),
            sync_times: Mutex::default(),
            flush_totals: Mutex::default(),
            outage: Mutex::default(),
            lease: Mutex::default(),
            lease_changed: Condvar::new(),
            poison: OnceLock::new(),
        });
        let beat = Duration::from_millis(config.lease_ttl_ms) / BEATS;
        shared.look_at_disk(&segments);
        let writer = spawn("journal", shared.clone(), move |shared| write_groups(shared, appender));
        let mut flusher = flusher;
        flusher.register().be_patient(shared.clone());
        let flusher = spawn("flusher", shared.clone(), move |shared| flush_batches(shared, flusher, &segments));
        let lease =
            lease.and_then(|lease| spawn("lease", shared.clone(), move |shared| keep_lease(shared, lease, beat)));
        Running { shared, writer, flusher, lease }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    pub(super) fn append(&self, frame: u64, record: Vec<u8>) -> Result<(), Error> {
        self.shared.append(frame, record)
    }

    pub(super) fn durable_frame(&self) -> u64 {
        self.shared.frame_at(self.shared.durable_lsn.load(Ordering::Acquire))
    }

    pub(super) fn reserve_ids(&self, count: u64) {
        locked(&self.shared.flush).id_requests.push_back(count);
        self.shared.flush_changed.notify_all();
    }

    pub(super) fn status(&self) -> Status {
        self.shared.status()
    }

    pub(super) fn close(mut self) -> Result<(), Error> {
        self.stop(Stop::Drain);
        self.shared.check_poison()
    }

    /// The writer first: the flusher then finds everything durable.
    fn stop(&mut self, how: Stop) {
        locked(&self.shared.queue).stop = how;
        self.shared.queue_changed.notify_all();
        join(self.writer.take());
        locked(&self.shared.flush).stop = how;
        self.shared.flush_changed.notify_all();
        join(self.flusher.take());
        *locked(&self.shared.lease) = how;
        self.shared.lease_changed.notify_all();
        join(self.lease.take());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop(Stop::AtOnce);
    }
}

impl Shared {
    fn append(&self, frame: u64, record: Vec<u8>) -> Result<(), Error> {
        self.check_poison()?;
        let bytes = record_bytes(record.len());
        let mut queue = locked(&self.queue);
        let expected = queue.appended_frame + 1;
        if frame != expected {
            return Err(Error::FrameOrder { expected, found: frame });
        }
        if let Err(error) = self.check_room(bytes) {
            drop(queue);
            locked(&self.flush).wanted = true;
            self.flush_changed.notify_all();
            return Err(error);
        }
        self.backlog_bytes.fetch_add(bytes, Ordering::Relaxed);
        queue.records.push_back(record);
        queue.appended_frame = frame;
        drop(queue);
        self.queue_changed.notify_all();
        Ok(())
    }

    /// Refuses when there is no room for `bytes` more.
    pub(super) fn check_room(&self, bytes: u64) -> Result<(), Error> {
        let free = self.free_bytes.load(Ordering::Relaxed);
        if free < self.min_free_bytes {
            return Err(Error::DiskNearlyFull { free, needed: self.min_free_bytes });
        }
        let waiting = self.backlog_bytes.load(Ordering::Relaxed);
        // A frame larger than the whole bound still passes when nothing else waits.
        if waiting > 0 && waiting + bytes > self.backlog_bytes_max {
            return Err(Error::Backlogged { waiting, limit: self.backlog_bytes_max });
        }
        Ok(())
    }

    /// What can't be told counts as plenty: the write itself will say.
    fn look_at_disk(&self, segments: &Segments) {
        let free = segments.directory().free_bytes().unwrap_or(u64::MAX);
        let before = self.free_bytes.swap(free, Ordering::Relaxed);
        if (free < self.min_free_bytes) != (before < self.min_free_bytes) {
            tracing::warn!(
                free,
                needed = self.min_free_bytes,
                read_only = free < self.min_free_bytes,
                "the journal's disk"
            );
        }
    }

    /// Blocks until the store has everything that is durable now.
    pub(super) fn flush_now(&self) -> Result<(), Error> {
        let target = self.durable_lsn.load(Ordering::Acquire);
        let mut state = locked(&self.flush);
        while state.flushed_lsn < target {
            self.check_poison()?;
            state.wanted = true;
            self.flush_changed.notify_all();
            state = self.flush_changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.check_poison()
    }

    fn status(&self) -> Status {
        let durable_frame = self.frame_at(self.durable_lsn.load(Ordering::Acquire));
        let flushed_frame = self.frame_at(locked(&self.flush).flushed_lsn);
        let (appended_frame, queued_records) = {
            let queue = locked(&self.queue);
            (queue.appended_frame, queue.records.len() as u64)
        };
        let flushes = *locked(&self.flush_totals);
        let free_bytes = self.free_bytes.load(Ordering::Relaxed);
        let outage = locked(&self.outage).as_ref().map(|outage| (outage.reason.clone(), outage.since.elapsed()));
        let times = locked(&self.sync_times);
        let mut sorted: Vec<u64> = times.recent_micros.iter().copied().collect();
        sorted.sort_unstable();
        Status {
            durable_frame,
            appended_frame,
            flushed_frame,
            journal_bytes: self.backlog_bytes.load(Ordering::Relaxed),
            queued_records,
            sync_count: times.count,
            last_sync_micros: times.recent_micros.back().copied().unwrap_or_default(),
            p99_sync_micros: sorted.get(sorted.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default(),
            free_bytes,
            read_only: free_bytes < self.min_free_bytes,
            is_flushing: flushes.is_running,
            flush_count: flushes.count,
            last_flush_micros: flushes.last_micros,
            flushed_homes: flushes.homes,
            flushed_bytes: flushes.store_bytes,
            outage,
            failed: self.poison.get().cloned(),
        }
    }

    fn frame_at(&self, lsn: u64) -> u64 {
        lsn + self.frame_of_lsn_0
    }

    fn check_poison(&self) -> Result<(), Error> {
        self.poison.get().map_or(Ok(()), |text| Err(Error::Poisoned(text.clone())))
    }

    /// Stops everything for good. Only the first cause counts, and is told once.
    fn fail(&self, text: String) {
        if self.poison.set(text.clone()).is_ok() {
            tracing::error!(cause = text, "storage has failed");
            (self.sink)(Event::Failed(text));
        }
        // Under the locks, so that nobody is between its look at the poison and its wait.
        drop(locked(&self.queue));
        self.queue_changed.notify_all();
        drop(locked(&self.flush));
        self.flush_changed.notify_all();
        drop(locked(&self.lease));
        self.lease_changed.notify_all();
    }

    /// The next group, or `None` when there will be none.
    fn next_group(&self) -> Option<VecDeque<Vec<u8>>> {
        let mut queue = locked(&self.queue);
        loop {
            if queue.stop == Stop::AtOnce || self.poison.get().is_some() {
                return None;
            }
            if !queue.records.is_empty() {
                return Some(std::mem::take(&mut queue.records));
            }
            if queue.stop == Stop::Drain {
                return None;
            }
            queue = self.queue_changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn note_sync(&self, took: Duration) {
        let mut times = locked(&self.sync_times);
        times.count += 1;
        if times.recent_micros.len() == SYNC_TIMES {
            times.recent_micros.pop_front();
        }
        times.recent_micros.push_back(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    fn note_flush(&self, flushed: &Flushed, took: Duration) {
        let mut totals = locked(&self.flush_totals);
        totals.is_running = false;
        if flushed.frames > 0 {
            totals.count += 1;
            totals.homes += flushed.homes;
            totals.store_bytes += flushed.store_bytes;
            totals.last_micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        }
    }

    /// Waits until a flush is due or ids are asked for, and says how to stop.
    fn await_flush(&self, last_flush: Instant) -> (Stop, VecDeque<u64>, bool) {
        let mut state = locked(&self.flush);
        loop {
            let left = self.flush_interval.saturating_sub(last_flush.elapsed());
            let is_due = state.wanted || left.is_zero() || state.stop == Stop::Drain;
            if is_due || !state.id_requests.is_empty() || state.stop != Stop::No || self.poison.get().is_some() {
                let id_requests = std::mem::take(&mut state.id_requests);
                state.wanted &= !is_due;
                let stop = if self.poison.get().is_some() { Stop::AtOnce } else { state.stop };
                return (stop, id_requests, is_due);
            }
            state = self.flush_changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// An outage of the store is sat out for as long as the journal takes the frames; an orderly stop does not wait for its end.
impl Patience for Shared {
    fn wait(&self, error: &Error, attempt: u32) -> bool {
        let pause = PAUSE_MIN.saturating_mul(1 << attempt.min(16)).min(PAUSE_MAX);
        let reason = error.chain();
        let mut outage = locked(&self.outage);
        match &mut *outage {
            Some(outage) => outage.reason = reason,
            None => {
                tracing::warn!(error = reason, "the store does not answer; frames stay in the journal until it does");
                *outage = Some(Outage { since: Instant::now(), reason });
            }
        }
        drop(outage);
        let goes_on = |state: &FlushState| state.stop == Stop::No && self.poison.get().is_none();
        let state = locked(&self.flush);
        let waited = self.flush_changed.wait_timeout_while(state, pause, |state| goes_on(state));
        goes_on(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }

    fn answered(&self) {
        if let Some(outage) = locked(&self.outage).take() {
            tracing::warn!(outage_s = outage.since.elapsed().as_secs_f64(), "the store answers again");
        }
    }
}

/// Writes groups until told to stop: everything queued, one sync, one event.
fn write_groups(shared: &Shared, mut appender: Appender) -> Result<(), Error> {
    while let Some(group) = shared.next_group() {
        if is_planted(Bug::AcknowledgedBeforeSync) {
            let durable_lsn = shared.durable_lsn.load(Ordering::Acquire) + group.len() as u64;
            (shared.sink)(Event::Durable { frame: shared.frame_at(durable_lsn) });
        }
        let began = Instant::now();
        let durable_lsn = appender.append_group(group.iter().map(Vec::as_slice))?;
        shared.note_sync(began.elapsed());
        // Once the failure was told, nothing more is acknowledged.
        shared.check_poison()?;
        shared.durable_lsn.store(durable_lsn, Ordering::Release);
        (shared.sink)(Event::Durable { frame: shared.frame_at(durable_lsn) });
        if shared.backlog_bytes.load(Ordering::Relaxed) > shared.backlog_bytes_max / 2 {
            locked(&shared.flush).wanted = true;
            shared.flush_changed.notify_all();
        }
    }
    Ok(())
}

/// Flushes until told to stop. Asked-for ids are served between transactions.
fn flush_batches(shared: &Shared, mut flusher: Flusher, segments: &Segments) -> Result<(), Error> {
    give_way();
    let mut last_flush = Instant::now();
    loop {
        let (stop, id_requests, is_due) = shared.await_flush(last_flush);
        for count in id_requests {
            if is_planted(Bug::IdsGrantedEarly) {
                let next = flusher.own().ids_reserved_to;
                (shared.sink)(Event::IdsGranted(IdBlock { next, end: next + count }));
            }
            let block = flusher.register().reserve_ids(count)?;
            (shared.sink)(Event::IdsGranted(block));
        }
        if stop == Stop::AtOnce {
            return Ok(());
        }
        if is_due {
            let durable_lsn = shared.durable_lsn.load(Ordering::Acquire);
            let began = Instant::now();
            locked(&shared.flush_totals).is_running = true;
            let flushed = flusher.flush_batch(durable_lsn).map_err(|error| match stop {
                Stop::Drain if error.may_pass() => Error::Unavailable(format!(
                    "{}; the frames that the store lacks are in the journal, and the next start brings them in",
                    error.chain()
                )),
                _ => error,
            })?;
            shared.note_flush(&flushed, began.elapsed());
            shared.look_at_disk(segments);
            let bytes = flushed.payload_bytes + flushed.frames * HEADER_BYTES as u64;
            shared.backlog_bytes.fetch_sub(bytes, Ordering::Relaxed);
            let mut state = locked(&shared.flush);
            state.flushed_lsn = flusher.own().last_lsn;
            if flusher.has(durable_lsn) {
                last_flush = Instant::now();
            } else {
                state.wanted = true;
            }
            drop(state);
            shared.flush_changed.notify_all();
            if stop == Stop::Drain && flusher.has(durable_lsn) {
                return flusher.register().leave();
            }
        }
    }
}

/// Shows signs of life until told to stop. A store that does not answer is no reason to stop: nobody can take over then,
/// either.
fn keep_lease(shared: &Shared, mut lease: Lease, every: Duration) -> Result<(), Error> {
    loop {
        match lease.beat() {
            Err(error @ Error::Fenced { .. }) => return Err(error),
            Err(error) => tracing::warn!(error = error.chain(), "the lease could not be renewed"),
            Ok(()) => {}
        }
        let stop = locked(&shared.lease);
        let wait = |stop: &mut Stop| *stop == Stop::No && shared.poison.get().is_none();
        let (stop, _) =
            shared.lease_changed.wait_timeout_while(stop, every, wait).unwrap_or_else(PoisonError::into_inner);
        match *stop {
            Stop::No if shared.poison.get().is_none() => {}
            Stop::Drain => return lease.leave(),
            _ => return Ok(()),
        }
    }
}

fn record_bytes(payload: usize) -> u64 {
    (HEADER_BYTES + payload) as u64
}

/// Runs `body` on a thread of its own. Its error, or its panic, poisons.
fn spawn(
    name: &str,
    shared: Arc<Shared>,
    body: impl FnOnce(&Shared) -> Result<(), Error> + Send + 'static,
) -> Option<JoinHandle<()>> {
    let in_thread = shared.clone();
    let run = move || match catch_unwind(AssertUnwindSafe(|| body(&in_thread))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => in_thread.fail(error.chain()),
        Err(_) => in_thread.fail("a storage thread panicked".into()),
    };
    match std::thread::Builder::new().name(name.into()).spawn(run) {
        Ok(handle) => Some(handle),
        Err(error) => {
            shared.fail(format!("cannot start the {name} thread: {error}"));
            None
        }
    }
}

fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread {
        // A panic was caught inside already.
        let _ = thread.join();
    }
}
