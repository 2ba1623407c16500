//! The embedded store behind `mem:`, `local:` and the server of `unix:`: versions, conflicts, group commit, watches, faults.
//!
//! Commits that arrive while one is being written wait and are then written together, with one sync. They get one
//! version, and their versionstamps differ in the last two bytes, as in FoundationDB. One of the waiting threads does the
//! work for all (the *leader*); no thread of its own is needed.

use super::faults::Faults;
use super::local::{LocalSnapshot, LocalStore, LocalWriter};
use super::memory::{MemorySnapshot, MemoryStore, MemoryWriter};
use super::operation::{
    Atomic, CommitRequest, Committed, KeyRange, Mutation, Pair, VERSIONSTAMP_BYTES, key_behind, versionstamp,
};
use super::resolver::{Ranges, Resolver};
use super::watch::{WatchState, Watches};
use crate::error::Error;
use crate::sync::locked;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A transaction may read and commit for this long after its read version, as in FoundationDB.
pub(super) const TRANSACTION_AGE_MAX: Duration = Duration::from_secs(5);
/// Most commits in one group: their order has two bytes in the versionstamp.
const GROUP_MAX: usize = 4_096;
/// After so long without a commit, a `local:` store prepares for a quick start.
const QUIET: Duration = Duration::from_millis(200);

/// Where the pairs lie.
#[derive(Debug)]
pub(super) enum Backend {
    Memory(MemoryStore),
    Local(LocalStore),
}

/// The store at one version.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) version: u64,
    pairs: SnapshotPairs,
}

#[derive(Debug)]
enum SnapshotPairs {
    Memory(MemorySnapshot),
    Local(LocalSnapshot),
}

/// An open embedded store.
#[derive(Debug)]
pub(super) struct Engine {
    backend: Backend,
    pub(super) faults: Faults,
    queue: Mutex<Queue>,
    /// Held through a whole group.
    resolver: Mutex<Resolver>,
    current: Mutex<Current>,
    watches: Watches,
    quiet: Arc<Quiet>,
}

/// An engine, and the thread that checkpoints it. Dropping it ends both.
#[derive(Debug)]
pub(super) struct RunningEngine {
    engine: Arc<Engine>,
    checkpoints: Option<JoinHandle<()>>,
}

/// Tells the checkpoint thread of commits.
#[derive(Debug, Default)]
struct Quiet {
    state: Mutex<LastCommit>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Waiting>,
    has_leader: bool,
}

#[derive(Debug)]
struct Waiting {
    slot: Arc<Slot>,
    request: CommitRequest,
    reads: Ranges,
}

/// Where one waiting transaction is told what comes next: each has its own, so that nobody is woken for another's answer.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<SlotState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum SlotState {
    #[default]
    Waits,
    /// Its thread is to write the next group.
    Leads,
    Answered(Result<Committed, Error>),
}

impl Slot {
    fn fill(&self, next: SlotState) {
        *locked(&self.state) = next;
        self.changed.notify_one();
    }

    fn is_waiting(&self) -> bool {
        matches!(*locked(&self.state), SlotState::Waits)
    }

    /// The answer, or `None` when its thread is to lead.
    fn wait(&self) -> Option<Result<Committed, Error>> {
        let mut state = locked(&self.state);
        loop {
            match std::mem::take(&mut *state) {
                SlotState::Answered(answer) => return Some(answer),
                SlotState::Leads => return None,
                SlotState::Waits => {}
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The newest snapshot, and the older ones that somebody still holds.
#[derive(Debug)]
struct Current {
    snapshot: Arc<Snapshot>,
    older: BTreeMap<u64, Weak<Snapshot>>,
}

#[derive(Debug, Default)]
struct LastCommit {
    at: Option<Instant>,
    stop: bool,
}

impl RunningEngine {
    /// Serves `backend`. A `local:` one gets a thread that checkpoints in quiet moments.
    pub(super) fn start(backend: Backend) -> Result<Self, Error> {
        let is_local = matches!(backend, Backend::Local(_));
        let engine = Arc::new(Engine::new(backend)?);
        let checkpoints = if is_local {
            let engine = engine.clone();
            let run = move || checkpoint_when_quiet(&engine);
            // Without the thread only the next start after a kill is slower.
            let started = std::thread::Builder::new().name("checkpoint".into()).spawn(run);
            started
                .inspect_err(|error| tracing::warn!(%error, "no thread for checkpoints: a start after a kill is slow"))
                .ok()
        } else {
            None
        };
        Ok(RunningEngine { engine, checkpoints })
    }

    pub(super) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
}

impl Drop for RunningEngine {
    fn drop(&mut self) {
        locked(&self.engine.quiet.state).stop = true;
        self.engine.quiet.changed.notify_all();
        if let Some(thread) = self.checkpoints.take() {
            // It cannot have panicked but with the engine, which says so itself.
            let _ = thread.join();
        }
    }
}

impl Engine {
    fn new(backend: Backend) -> Result<Self, Error> {
        let version = match &backend {
            Backend::Memory(_) => 0,
            Backend::Local(store) => store.version()?,
        };
        let snapshot = Arc::new(backend.snapshot(version)?);
        Ok(Engine {
            resolver: Mutex::new(Resolver::new(version)),
            current: Mutex::new(Current { snapshot, older: BTreeMap::new() }),
            backend,
            faults: Faults::default(),
            queue: Mutex::default(),
            watches: Watches::default(),
            quiet: Arc::default(),
        })
    }

    /// The newest version.
    pub(super) fn snapshot(&self) -> Result<Arc<Snapshot>, Error> {
        self.faults.on_read()?;
        Ok(locked(&self.current).snapshot.clone())
    }

    /// The store as it was at `version`, if somebody still holds it.
    pub(super) fn snapshot_at(&self, version: u64) -> Result<Arc<Snapshot>, Error> {
        let current = locked(&self.current);
        if version > current.snapshot.version {
            return Err(Error::FutureVersion);
        }
        if version == current.snapshot.version {
            return Ok(current.snapshot.clone());
        }
        current.older.get(&version).and_then(Weak::upgrade).ok_or(Error::TooOld)
    }

    /// Decides on a transaction and makes it durable. The request must have been checked ([`Mutation::check`]).
    pub(super) fn commit(&self, request: CommitRequest) -> Result<Committed, Error> {
        self.faults.around_commit(|| self.answer(&self.enqueue(request)))
    }

    /// Does the same with several, in as few groups as possible, and answers in order.
    pub(super) fn commit_all(&self, requests: Vec<CommitRequest>) -> Vec<Result<Committed, Error>> {
        // Whatever strikes one of them strikes before any is written, or after all are.
        let mut answers = Vec::with_capacity(requests.len());
        let mut slots = Vec::with_capacity(requests.len());
        for request in requests {
            match self.faults.before_commit() {
                Ok(fault) => {
                    slots.push((answers.len(), self.enqueue(request), fault));
                    // Until it has its own.
                    answers.push(Err(Error::CommitUnknownResult));
                }
                Err(error) => answers.push(Err(error)),
            }
        }
        for (place, slot, fault) in slots {
            answers[place] = self.answer(&slot).and_then(|committed| fault.map_or(Ok(committed), |f| Err(f.error())));
        }
        answers
    }

    /// Puts a transaction into the next group.
    fn enqueue(&self, mut request: CommitRequest) -> Arc<Slot> {
        let reads = Ranges::new(std::mem::take(&mut request.read_conflicts));
        let slot = Arc::new(Slot::default());
        locked(&self.queue).waiting.push(Waiting { slot: slot.clone(), request, reads });
        slot
    }

    /// Waits for the answer, or writes the group for all who wait.
    fn answer(&self, slot: &Slot) -> Result<Committed, Error> {
        let mut leads = {
            let mut queue = locked(&self.queue);
            let leads = !queue.has_leader && slot.is_waiting();
            queue.has_leader |= leads;
            leads
        };
        loop {
            if !leads && let Some(answer) = slot.wait() {
                return answer;
            }
            let group: Vec<Waiting> = {
                let mut queue = locked(&self.queue);
                let group_size = queue.waiting.len().min(GROUP_MAX);
                queue.waiting.drain(..group_size).collect()
            };
            let slots: Vec<Arc<Slot>> = group.iter().map(|waiting| waiting.slot.clone()).collect();
            let answers = self.commit_group(group);
            // The next leader first: it can begin while the others are told. Those of one thread are answered in order, so
            // the thread of the one chosen waits for it, or is about to.
            {
                let mut queue = locked(&self.queue);
                match queue.waiting.first() {
                    Some(next) => next.slot.fill(SlotState::Leads),
                    None => queue.has_leader = false,
                }
            }
            for (slot, answer) in slots.into_iter().zip(answers) {
                slot.fill(SlotState::Answered(answer));
            }
            leads = false;
        }
    }

    /// One answer per transaction, in order.
    fn commit_group(&self, group: Vec<Waiting>) -> Vec<Result<Committed, Error>> {
        let mut resolver = locked(&self.resolver);
        let version = locked(&self.current).snapshot.version + 1;
        let mut written = Vec::new();
        let mut verdicts = Vec::with_capacity(group.len());
        let mut accepted = Vec::new();
        for waiting in group {
            // Those of the same group come first: what they wrote is newer than any read.
            let verdict = match resolver.check(waiting.request.read_version, &waiting.reads) {
                Ok(()) if written.iter().any(|earlier: &Ranges| earlier.overlap(&waiting.reads)) => {
                    Err(Error::Conflict)
                }
                other => other,
            };
            verdicts.push(verdict.map(|()| {
                let stamp = versionstamp(version, u16::try_from(accepted.len()).unwrap_or(u16::MAX));
                let mutations = stamped(waiting.request.mutations, stamp);
                written.push(write_ranges(&mutations, waiting.request.write_conflicts));
                accepted.push(mutations);
                Committed { version, versionstamp: Some(stamp) }
            }));
        }
        if accepted.is_empty() {
            return verdicts;
        }
        if let Err(error) = self.backend.apply(version, &accepted) {
            // Nothing of it was written; which error each gets does not matter, but each must get one.
            let text = error.chain();
            let mut first = Some(error);
            return verdicts
                .into_iter()
                .map(|verdict| verdict.and_then(|_| Err(first.take().unwrap_or_else(|| Error::Poisoned(text.clone())))))
                .collect();
        }
        let all_written = Ranges::new(written.into_iter().flat_map(Ranges::into_inner).collect());
        let snapshot = match self.backend.snapshot(version) {
            Ok(snapshot) => Arc::new(snapshot),
            Err(error) => {
                // It is durable, but can't be read: whoever asks next finds the reason.
                tracing::error!(error = error.chain(), "the store cannot be read after a commit");
                return verdicts.into_iter().map(|verdict| verdict.and(Err(Error::CommitUnknownResult))).collect();
            }
        };
        self.watches.notify(&all_written, &snapshot);
        resolver.record(version, all_written);
        let mut current = locked(&self.current);
        let before = std::mem::replace(&mut current.snapshot, snapshot);
        current.older.retain(|_, older| older.strong_count() > 0);
        current.older.insert(before.version, Arc::downgrade(&before));
        drop(current);
        // The thread looks by itself every so often: no need to wake it for each commit.
        locked(&self.quiet.state).at = Some(Instant::now());
        verdicts
    }

    /// The URL of the store.
    pub(super) fn name(&self) -> String {
        match &self.backend {
            Backend::Memory(_) => "mem:".into(),
            Backend::Local(store) => format!("local:{}", store.directory().display()),
        }
    }

    /// Begins a watch: it fires when `key` has, or gets, another value than `state` knows. If it can't begin, that is for its
    /// holder to hear: the transaction is committed by now.
    pub(super) fn watch(&self, key: Vec<u8>, state: &Arc<WatchState>) {
        // No commit may come between the look and the list.
        let _no_commit = locked(&self.resolver);
        let snapshot = locked(&self.current).snapshot.clone();
        let begun = match snapshot.get(&key) {
            Ok(value) if value.as_deref() == state.value() => self.watches.add(key, state),
            Ok(_) => return state.fire(Ok(())),
            Err(error) => Err(error),
        };
        if let Err(error) = begun {
            state.fire(Err(error.chain()));
        }
    }
}

impl Backend {
    fn snapshot(&self, version: u64) -> Result<Snapshot, Error> {
        let pairs = match self {
            Backend::Memory(store) => SnapshotPairs::Memory(store.snapshot()),
            Backend::Local(store) => SnapshotPairs::Local(store.snapshot()?),
        };
        Ok(Snapshot { version, pairs })
    }

    fn apply(&self, version: u64, transactions: &[Vec<Mutation>]) -> Result<(), Error> {
        let all = |writer: &mut Writer<'_, '_>| transactions.iter().flatten().try_for_each(|one| writer.apply(one));
        match self {
            Backend::Memory(store) => store.write(version, |writer| all(&mut Writer::Memory(writer))),
            Backend::Local(store) => store.write(version, |writer| all(&mut Writer::Local(writer))),
        }
    }
}

enum Writer<'w, 's> {
    Memory(&'w mut MemoryWriter<'s>),
    Local(&'w mut LocalWriter<'s>),
}

impl Writer<'_, '_> {
    fn apply(&mut self, mutation: &Mutation) -> Result<(), Error> {
        match mutation {
            Mutation::Set(key, value) => self.put(key, Some(value)),
            Mutation::Clear((begin, end)) if *end == key_behind(begin) => self.put(begin, None),
            Mutation::Clear(range) => match self {
                Writer::Memory(writer) => {
                    writer.clear(range);
                    Ok(())
                }
                Writer::Local(writer) => writer.clear(range),
            },
            Mutation::Atomic(atomic, key, operand) => self.compute(*atomic, key, operand),
            // `stamped` has made plain writes of these.
            Mutation::SetVersionstampedKey(..) | Mutation::SetVersionstampedValue(..) => Ok(()),
        }
    }

    fn compute(&mut self, atomic: Atomic, key: &[u8], operand: &[u8]) -> Result<(), Error> {
        let stored = match self {
            Writer::Memory(writer) => writer.get(key),
            Writer::Local(writer) => writer.get(key)?,
        };
        let value = atomic.apply(stored.as_deref(), operand);
        if value == stored { Ok(()) } else { self.put(key, value.as_deref()) }
    }

    fn put(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), Error> {
        match self {
            Writer::Memory(writer) => {
                writer.put(key, value);
                Ok(())
            }
            Writer::Local(writer) => writer.put(key, value),
        }
    }
}

impl Snapshot {
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match &self.pairs {
            SnapshotPairs::Memory(snapshot) => Ok(snapshot.get(key)),
            SnapshotPairs::Local(snapshot) => snapshot.get(key),
        }
    }

    /// Up to `limit` pairs of `begin..end`; fewer only when there are no more.
    pub(super) fn range(&self, begin: &[u8], end: &[u8], limit: usize, reverse: bool) -> Result<Vec<Pair>, Error> {
        match &self.pairs {
            SnapshotPairs::Memory(snapshot) => Ok(snapshot.range(begin, end, limit, reverse)),
            SnapshotPairs::Local(snapshot) => snapshot.range(begin, end, limit, reverse),
        }
    }
}

/// Plain writes, with the versionstamp in its places.
fn stamped(mutations: Vec<Mutation>, stamp: [u8; VERSIONSTAMP_BYTES]) -> Vec<Mutation> {
    let put = |bytes: &mut [u8], offset: u32| {
        let offset = offset as usize;
        bytes[offset..offset + VERSIONSTAMP_BYTES].copy_from_slice(&stamp);
    };
    let plain = mutations.into_iter().map(|mutation| match mutation {
        Mutation::SetVersionstampedKey(mut key, offset, value) => {
            put(&mut key, offset);
            Mutation::Set(key, value)
        }
        Mutation::SetVersionstampedValue(key, mut value, offset) => {
            put(&mut value, offset);
            Mutation::Set(key, value)
        }
        other => other,
    });
    plain.collect()
}

fn write_ranges(mutations: &[Mutation], mut ranges: Vec<KeyRange>) -> Ranges {
    ranges.extend(mutations.iter().map(|mutation| match mutation {
        Mutation::Clear(range) => range.clone(),
        Mutation::Set(key, _)
        | Mutation::Atomic(_, key, _)
        | Mutation::SetVersionstampedKey(key, ..)
        | Mutation::SetVersionstampedValue(key, ..) => (key.clone(), key_behind(key)),
    }));
    Ranges::new(ranges)
}

/// Checkpoints once after each run of commits, until told to stop.
fn checkpoint_when_quiet(engine: &Engine) {
    let mut last = locked(&engine.quiet.state);
    while !last.stop {
        if last.at.is_some_and(|at| at.elapsed() >= QUIET) {
            last.at = None;
            drop(last);
            // No commit meanwhile: it would wait for the file anyway.
            let no_commit = locked(&engine.resolver);
            if let Backend::Local(store) = &engine.backend
                && let Err(error) = store.checkpoint()
            {
                tracing::warn!(error = error.chain(), "no checkpoint: a start after a kill is slow");
            }
            drop(no_commit);
            last = locked(&engine.quiet.state);
        } else {
            last = engine.quiet.changed.wait_timeout(last, QUIET).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
