//! Random transactions, concurrent in one thread or in several, with and without faults, and the check that one order
//! explains all that they saw (`history`).
//!
//! [`interleaved`] runs given steps of several open transactions in one thread: deterministic, so that a failure can be
//! made smaller. [`run`] draws such steps from a seed, and also runs threads, whose order only the store decides.

use super::Subject;
use super::history::{Attempt, Deed, History, Outcome, Read};
use super::random::Random;
use crate::error::Error;
use crate::kv::{
    Atomic, ConflictKind, Fault, Mutation, RandomFaults, RangeRead, Transaction, VERSIONSTAMP_BYTES, Versionstamp,
};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::AddAssign;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Keys that all transactions share: few, so that they meet.
pub const KEYS: u8 = 12;
/// Transactions open at once in one thread. The last one has keys of its own.
pub const OPEN: u8 = 5;
/// Threads; the last one has keys of its own.
const THREADS: u8 = 8;

/// One thing that a transaction does. Keys are numbers below [`KEYS`], bounds may be [`KEYS`] itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Reads a key.
    Get {
        /// Which.
        key: u8,
        /// Without tracking.
        snapshot: bool,
    },
    /// Reads a range.
    Range {
        /// The first key.
        begin: u8,
        /// The key behind the last.
        end: u8,
        /// Most pairs, or all.
        limit: Option<u8>,
        /// Downwards.
        reverse: bool,
        /// Without tracking.
        snapshot: bool,
    },
    /// Sets a key to a value that nobody else sets.
    Set(u8),
    /// Clears a key.
    Clear(u8),
    /// Clears a range.
    ClearRange(u8, u8),
    /// An atomic operation; the operand has up to eight bytes.
    Atomic(Atomic, u8, Vec<u8>),
    /// Sets a key that begins as the given one and ends with the versionstamp.
    SetVersionstampedKey(u8),
    /// Sets a key to the versionstamp and what is added to it.
    SetVersionstampedValue(u8),
    /// Counts a range as read or written.
    Conflict(ConflictKind, u8, u8),
    /// Commits, and begins the next transaction.
    Commit,
    /// Drops the transaction, and begins the next one.
    Abandon,
}

/// An action of one of the open transactions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which one, below [`OPEN`].
    pub transaction: u8,
    /// What it does.
    pub action: Action,
}

/// What was run and checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Transactions begun that did anything.
    pub transactions: u64,
    /// Of these, told to be committed.
    pub committed: u64,
    /// Refused as conflicts.
    pub conflicts: u64,
    /// With an unknown result.
    pub unknown: u64,
    /// Refused with another retryable error.
    pub refused: u64,
    /// Commits that shared their version with others.
    pub grouped: u64,
    /// Reads that were explained.
    pub reads_checked: u64,
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.transactions += other.transactions;
        self.committed += other.committed;
        self.conflicts += other.conflicts;
        self.unknown += other.unknown;
        self.refused += other.refused;
        self.grouped += other.grouped;
        self.reads_checked += other.reads_checked;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { transactions, committed, conflicts, unknown, refused, grouped, reads_checked } = self;
        write!(
            f,
            "{transactions} transactions: {committed} committed ({grouped} in groups), {conflicts} conflicts, {unknown} \
             unknown results, {refused} refused otherwise; {reads_checked} reads explained"
        )
    }
}

/// Runs `cases` random cases, with the seeds from `seed` on, and panics when one can't be explained. Every other case is of
/// threads; where there is an engine, two of four have faults.
pub fn run(subject: Subject<'_>, cases: u32, seed: u64) -> Report {
    let mut report = Report::default();
    for case in 0..u64::from(cases) {
        let seed = seed.wrapping_add(case);
        let faults = Some(RandomFaults { seed, commits_per_mille: 30, reads_per_mille: 20 });
        let faults = faults.filter(|_| seed / 2 % 2 == 1);
        let checked = if seed.is_multiple_of(2) {
            let mut random = Random::new(seed);
            let steps: Vec<Step> = (0..200).map(|_| drawn_step(&mut random)).collect();
            interleaved(subject, &steps, faults)
        } else {
            threaded(subject, seed, faults)
        };
        report += checked.unwrap_or_else(|reason| {
            panic!("a case cannot be explained; VSEKAI_SEED={seed} with one case replays it: {reason}")
        });
    }
    report
}

/// Runs `steps` of [`OPEN`] transactions in one thread. An error says what can't be explained.
pub fn interleaved(subject: Subject<'_>, steps: &[Step], faults: Option<RandomFaults>) -> Result<Report, String> {
    let ground = Ground::new(subject, faults.is_some())?;
    let with_faults = Faults::begin(subject, faults);
    let mut open =
        (0..OPEN).map(|slot| Session::new(&ground, slot, slot + 1 == OPEN)).collect::<Result<Vec<_>, _>>()?;
    for step in steps {
        let slot = usize::from(step.transaction % OPEN);
        open[slot].act(&step.action)?;
    }
    for session in &mut open {
        session.act(&Action::Commit)?;
    }
    let attempts = open.into_iter().flat_map(|session| session.attempts).collect();
    drop(with_faults);
    ground.check(attempts)
}

/// Runs transactions in threads. An error says what can't be explained.
fn threaded(subject: Subject<'_>, seed: u64, faults: Option<RandomFaults>) -> Result<Report, String> {
    let transactions = if subject.long { 200 } else { 30 };
    let ground = Ground::new(subject, faults.is_some())?;
    let with_faults = Faults::begin(subject, faults);
    let barrier = Barrier::new(usize::from(THREADS));
    let run = |slot: u8| -> Result<Vec<Attempt>, String> {
        let mut random = Random::new(seed ^ (u64::from(slot) << 48));
        let session = Session::new(&ground, slot, slot + 1 == THREADS);
        // Before any error is returned: all others wait here, too.
        barrier.wait();
        let mut session = session?;
        for _ in 0..transactions {
            for _ in 0..random.below(8) {
                session.act(&drawn_action(&mut random))?;
                if random.percent(30) {
                    std::thread::yield_now();
                }
            }
            session.act(if random.percent(95) { &Action::Commit } else { &Action::Abandon })?;
        }
        Ok(session.attempts)
    };
    let attempts = std::thread::scope(|scope| {
        let run = &run;
        let running: Vec<_> = (0..THREADS).map(|slot| scope.spawn(move || run(slot))).collect();
        // Commits that were held come all at once, and so in groups.
        while let Some(engine) = subject.engine
            && running.iter().any(|thread| !thread.is_finished())
        {
            engine.hold_commits(true);
            (0..20).for_each(|_| std::thread::yield_now());
            engine.hold_commits(false);
            (0..20).for_each(|_| std::thread::yield_now());
        }
        let attempts =
            running.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())));
        attempts.collect::<Result<Vec<_>, _>>()
    });
    drop(with_faults);
    ground.check(attempts?.into_iter().flatten().collect())
}

/// Mostly shared keys, few commits: transactions shall meet.
fn drawn_step(random: &mut Random) -> Step {
    let transaction = byte(random, OPEN);
    let action = match random.below(100) {
        0..12 => Action::Commit,
        12 => Action::Abandon,
        _ => drawn_action(random),
    };
    Step { transaction, action }
}

fn drawn_action(random: &mut Random) -> Action {
    let key = byte(random, KEYS);
    let (begin, end) = (byte(random, KEYS), byte(random, KEYS + 1));
    let snapshot = random.percent(25);
    match random.below(100) {
        0..22 => Action::Get { key, snapshot },
        22..42 => {
            let limit = random.percent(60).then(|| byte(random, 5));
            Action::Range { begin, end, limit, reverse: random.percent(50), snapshot }
        }
        42..62 => Action::Set(key),
        62..69 => Action::Clear(key),
        69..75 => Action::ClearRange(begin, end),
        75..88 => {
            let atomic = Atomic::ALL[usize::from(byte(random, 6))];
            let width = if random.percent(50) { 8 } else { usize::from(byte(random, 9)) };
            Action::Atomic(atomic, key, random.next().to_le_bytes()[..width].to_vec())
        }
        88..92 => Action::SetVersionstampedKey(key),
        92..95 => Action::SetVersionstampedValue(key),
        95..98 => Action::Conflict(ConflictKind::Read, begin, end),
        _ => Action::Conflict(ConflictKind::Write, begin, end),
    }
}

fn byte(random: &mut Random, end: u8) -> u8 {
    random.below(u64::from(end)).to_le_bytes()[0]
}

/// Faults, as long as it lives.
struct Faults<'s>(Subject<'s>);

impl<'s> Faults<'s> {
    fn begin(subject: Subject<'s>, faults: Option<RandomFaults>) -> Self {
        if let Some(engine) = subject.engine {
            engine.fail_at_random(faults);
            // So that a case with faults has one, however short it is.
            engine.fail_next_commits(faults.map(|_| Fault::UnknownButCommitted));
        }
        Faults(subject)
    }
}

impl Drop for Faults<'_> {
    fn drop(&mut self) {
        if let Some(engine) = self.0.engine {
            engine.fail_at_random(None);
        }
    }
}

/// The keys of one case, and what its transactions share.
struct Ground<'s> {
    subject: Subject<'s>,
    prefix: Vec<u8>,
    has_faults: bool,
    /// Counts what happens, so that it has an order in time.
    clock: AtomicU64,
    next_id: AtomicU32,
}

impl<'s> Ground<'s> {
    fn new(subject: Subject<'s>, has_faults: bool) -> Result<Self, String> {
        let prefix = [subject.prefix, b"model/"].concat();
        let ground = Ground { subject, prefix, has_faults, clock: AtomicU64::new(0), next_id: AtomicU32::new(0) };
        ground.clear()?;
        Ok(ground)
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    /// The `number`-th key, shared or of one slot only.
    fn key(&self, own_slot: Option<u8>, number: u8) -> Vec<u8> {
        match own_slot {
            Some(slot) => [&self.prefix[..], format!("own/{slot:02}/{number:02}").as_bytes()].concat(),
            None => [&self.prefix[..], format!("shared/{number:02}").as_bytes()].concat(),
        }
    }

    fn marker(&self, id: u32) -> Vec<u8> {
        [&self.prefix[..], b"marker/", &id.to_be_bytes()].concat()
    }

    /// All keys whose part behind the prefix begins with `part`.
    fn area(&self, part: &str) -> (Vec<u8>, Vec<u8>) {
        let begin = [&self.prefix[..], part.as_bytes()].concat();
        let end = [&begin[..], &[0xff]].concat();
        (begin, end)
    }

    fn clear(&self) -> Result<(), String> {
        let (begin, end) = self.area("");
        let cleared = self.subject.database.run_idempotent(|transaction| {
            transaction.clear_range(&begin, &end);
            Ok(())
        });
        cleared.map_err(|error| format!("the keys cannot be cleared: {error}"))
    }

    /// Reads what is left, and checks everything.
    fn check(&self, attempts: Vec<Attempt>) -> Result<Report, String> {
        let read = self.subject.database.run(|transaction| {
            let mut read = |part: &str| {
                let (begin, end) = self.area(part);
                transaction.get_range(&RangeRead::new(&begin, &end))
            };
            Ok((read("marker/")?, [read("own/")?, read("shared/")?].concat()))
        });
        let (markers, stored) = read.map_err(|error| format!("what is left cannot be read: {error}"))?;
        let marker = |(key, stamp): (Vec<u8>, Vec<u8>)| {
            let id = key.last_chunk().map(|id| u32::from_be_bytes(*id));
            id.zip(Versionstamp::try_from(stamp).ok()).ok_or_else(|| "a marker is no versionstamp".to_owned())
        };
        let markers = markers.into_iter().map(marker).collect::<Result<BTreeMap<_, _>, _>>()?;
        let mut report = Report::default();
        for attempt in &attempts {
            report.transactions += 1;
            match &attempt.outcome {
                Outcome::Committed(_) => report.committed += 1,
                Outcome::Conflict => report.conflicts += 1,
                Outcome::Unknown => report.unknown += 1,
                Outcome::Refused => report.refused += 1,
                Outcome::Abandoned => {}
            }
        }
        if !self.has_faults && self.subject.engine.is_some() && report.unknown + report.refused > 0 {
            return Err(format!("without a fault only conflicts are refused: {report}"));
        }
        let checked = History { attempts, markers, stored }.check()?;
        report.reads_checked = checked.reads;
        report.grouped = checked.grouped;
        self.clear()?;
        Ok(report)
    }
}

/// One transaction after the other.
struct Session<'g, 's> {
    ground: &'g Ground<'s>,
    /// The slot, if the keys are its own.
    own_slot: Option<u8>,
    transaction: Transaction,
    attempt: Attempt,
    /// Makes values unlike all others.
    written: u32,
    attempts: Vec<Attempt>,
}

fn begun(ground: &Ground<'_>) -> Attempt {
    Attempt {
        id: ground.next_id.fetch_add(1, Ordering::SeqCst),
        deeds: Vec::new(),
        has_writes: false,
        read_at: 0,
        read_version: None,
        commit_at: 0,
        ended_at: 0,
        outcome: Outcome::Abandoned,
    }
}

impl<'g, 's> Session<'g, 's> {
    fn new(ground: &'g Ground<'s>, slot: u8, has_own_keys: bool) -> Result<Self, String> {
        let transaction = ground.subject.database.begin().map_err(|error| format!("no transaction begins: {error}"))?;
        Ok(Session {
            ground,
            own_slot: has_own_keys.then_some(slot),
            transaction,
            attempt: begun(ground),
            written: 0,
            attempts: Vec::new(),
        })
    }

    fn key(&self, number: u8) -> Vec<u8> {
        self.ground.key(self.own_slot, number)
    }

    fn act(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Get { key, snapshot } => {
                let key = self.key(*key);
                let end = [key.as_slice(), &[0]].concat();
                let read =
                    Read { begin: key, end, limit: usize::MAX, reverse: false, snapshot: *snapshot, found: None };
                self.read(read, true)
            }
            Action::Range { begin, end, limit, reverse, snapshot } => {
                let limit = limit.map_or(usize::MAX, usize::from);
                let (begin, end) = (self.key(*begin), self.key(*end));
                self.read(Read { begin, end, limit, reverse: *reverse, snapshot: *snapshot, found: None }, false)
            }
            Action::Conflict(kind, begin, end) if begin < end => {
                let (begin, end) = (self.key(*begin), self.key(*end));
                match kind {
                    ConflictKind::Read => self.before_read(),
                    ConflictKind::Write => self.attempt.has_writes = true,
                }
                match self.transaction.add_conflict_range(*kind, &begin, &end) {
                    Ok(()) if *kind == ConflictKind::Read => self.note_version(),
                    Ok(()) => Ok(()),
                    Err(error) => self.failed(error),
                }
            }
            Action::Conflict(..) => Ok(()),
            Action::Commit => self.commit(),
            Action::Abandon => {
                self.end(Outcome::Abandoned);
                self.renew()
            }
            write => {
                self.write(write);
                Ok(())
            }
        }
    }

    fn write(&mut self, action: &Action) {
        self.written += 1;
        let value = [self.attempt.id.to_le_bytes(), self.written.to_le_bytes()].concat();
        let stamp = [0; VERSIONSTAMP_BYTES];
        let mutation = match action {
            Action::Set(key) => Mutation::Set(self.key(*key), value),
            Action::Clear(key) => {
                let begin = self.key(*key);
                let end = [begin.as_slice(), &[0]].concat();
                Mutation::Clear((begin, end))
            }
            Action::ClearRange(begin, end) if begin < end => Mutation::Clear((self.key(*begin), self.key(*end))),
            Action::Atomic(atomic, key, operand) => Mutation::Atomic(*atomic, self.key(*key), operand.clone()),
            Action::SetVersionstampedKey(key) => {
                let key = self.key(*key);
                let offset = u32::try_from(key.len()).unwrap_or_default();
                Mutation::SetVersionstampedKey([&key[..], &stamp].concat(), offset, value)
            }
            Action::SetVersionstampedValue(key) => {
                Mutation::SetVersionstampedValue(self.key(*key), [&stamp[..], &value].concat(), 0)
            }
            // An inverted range, or no write at all.
            _ => return,
        };
        match &mutation {
            Mutation::Set(key, value) => self.transaction.set(key, value.clone()),
            Mutation::Clear((begin, end)) if matches!(action, Action::Clear(_)) => {
                debug_assert!(begin < end);
                self.transaction.clear(begin);
            }
            Mutation::Clear((begin, end)) => self.transaction.clear_range(begin, end),
            Mutation::Atomic(atomic, key, operand) => self.transaction.atomic(*atomic, key, operand),
            Mutation::SetVersionstampedKey(key, offset, value) => {
                self.transaction.set_versionstamped_key(key, *offset, value);
            }
            Mutation::SetVersionstampedValue(key, value, offset) => {
                self.transaction.set_versionstamped_value(key, value, *offset);
            }
        }
        self.attempt.deeds.push(Deed::Write(mutation));
        self.attempt.has_writes = true;
    }

    fn before_read(&mut self) {
        if self.attempt.read_version.is_none() {
            self.attempt.read_at = self.ground.now();
        }
    }

    fn read(&mut self, read: Read, is_single: bool) -> Result<(), String> {
        self.before_read();
        let found = if is_single {
            let value = if read.snapshot {
                self.transaction.get_snapshot(&read.begin)
            } else {
                self.transaction.get(&read.begin)
            };
            value.map(|value| value.map(|value| (read.begin.clone(), value)).into_iter().collect())
        } else {
            let Read { limit, reverse, snapshot, .. } = read;
            self.transaction.get_range(&RangeRead { begin: &read.begin, end: &read.end, limit, reverse, snapshot })
        };
        let found = match found {
            Ok(found) => Some(found),
            Err(Error::Unreadable) => None,
            Err(error) => return self.failed(error),
        };
        self.attempt.deeds.push(Deed::Read(Read { found, ..read }));
        self.note_version()
    }

    fn note_version(&mut self) -> Result<(), String> {
        match self.transaction.read_version() {
            Ok(version) if self.attempt.read_version.is_none_or(|known| known == version) => {
                self.attempt.read_version = Some(version);
                Ok(())
            }
            Ok(version) => Err(format!("the read version changes from {:?} to {version}", self.attempt.read_version)),
            Err(error) => self.failed(error),
        }
    }

    fn commit(&mut self) -> Result<(), String> {
        if self.attempt.has_writes {
            let marker = self.ground.marker(self.attempt.id);
            self.transaction.set_versionstamped_value(&marker, &[0; VERSIONSTAMP_BYTES], 0);
        }
        self.attempt.commit_at = self.ground.now();
        match self.transaction.commit() {
            Ok(committed) => {
                self.end(Outcome::Committed(committed));
                self.renew()
            }
            Err(error) => self.failed(error),
        }
    }

    /// Ends the attempt with what the store says; the transaction itself goes on as the next one.
    fn failed(&mut self, error: Error) -> Result<(), String> {
        let outcome = match &error {
            Error::Conflict if self.own_slot.is_some() && !self.ground.has_faults => {
                return Err("a transaction conflicts whose keys nobody else touches".into());
            }
            Error::Conflict => Outcome::Conflict,
            Error::CommitUnknownResult => Outcome::Unknown,
            other if other.is_retryable() => Outcome::Refused,
            // Damage, or a store that has gone: nothing that a model explains.
            other => return Err(format!("an error that nothing explains: {other}")),
        };
        self.end(outcome);
        self.transaction.on_error(error).map_err(|error| format!("no other attempt after: {error}"))
    }

    fn renew(&mut self) -> Result<(), String> {
        let next = self.ground.subject.database.begin();
        self.transaction = next.map_err(|error| format!("no transaction begins: {error}"))?;
        Ok(())
    }

    fn end(&mut self, outcome: Outcome) {
        let ended = std::mem::replace(&mut self.attempt, begun(self.ground));
        let ended_at = self.ground.now();
        self.attempts.push(Attempt { outcome, ended_at, ..ended });
    }
}
