//! A transaction of the double: one of the memory store, and what the library would answer.

use crate::database::{Database, Trouble};
use crate::error::{
    CLIENT_INVALID_OPERATION, EXACT_MODE_WITHOUT_LIMITS, INVALID_MUTATION_TYPE, INVERTED_RANGE, NO_COMMIT_VERSION,
    RANGE_LIMITS_INVALID, TRANSACTION_CANCELLED, USED_DURING_COMMIT, code_of, is_retryable,
};
use crate::future::{Answer, Future, Pairs};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vsekai_storage::Error;
use vsekai_storage::kv::{self, Atomic, ConflictKind, RangeRead};

/// Pairs of one page where the library chooses: few, so that tests meet several pages.
const PAGE: usize = 100;
/// How long a slow commit takes.
const SLOW: Duration = Duration::from_millis(400);
/// How long a watch's thread waits before it looks whether anybody still wants the answer.
const WATCH_ROUND: Duration = Duration::from_millis(20);

/// `FDB_STREAMING_MODE_EXACT`.
const EXACT: i32 = 0;

/// What an `FDBTransaction` points to.
pub(crate) struct Transaction {
    database: Arc<Database>,
    state: Mutex<State>,
}

struct State {
    inner: kv::Transaction,
    /// Why nothing more can be asked.
    over: Option<i32>,
    /// The first error of a call that could not tell it.
    deferred: Option<i32>,
    committed_version: i64,
    versionstamps: Vec<Arc<Future>>,
    /// Answers to come, which end with the transaction.
    unanswered: Vec<Arc<Future>>,
}

/// One end of a range as a key selector: key, `or_equal`, offset.
pub(crate) type Selector<'k> = (&'k [u8], bool, i32);

impl Transaction {
    pub(crate) fn new(database: Arc<Database>) -> Result<Self, i32> {
        let state = Mutex::new(State::new(&database)?);
        Ok(Transaction { database, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer that is there at once, unless the cluster can't be reached.
    fn answered(&self, ask: impl FnOnce(&mut kv::Transaction) -> Result<Answer, i32>) -> Arc<Future> {
        let mut state = self.state();
        if self.database.trouble == Trouble::Unreachable && state.over.is_none() {
            let future = Arc::<Future>::default();
            state.unanswered.push(future.clone());
            return future;
        }
        let outcome = state.usable();
        Future::ready(outcome.and_then(|()| ask(&mut state.inner)))
    }

    /// A call without an answer: its error is told by the next one that has one.
    fn noted(&self, ask: impl FnOnce(&mut kv::Transaction) -> Result<(), i32>) {
        let mut state = self.state();
        let outcome = state.usable().and_then(|()| ask(&mut state.inner));
        if let Err(code) = outcome {
            state.deferred.get_or_insert(code);
        }
    }

    pub(crate) fn set_read_version(&self, version: i64) {
        let version = u64::try_from(version).unwrap_or_default();
        self.noted(|inner| inner.set_read_version(version).map_err(code));
    }

    pub(crate) fn read_version(&self) -> Arc<Future> {
        self.answered(|inner| {
            let version = inner.read_version().map_err(code)?;
            Ok(Answer::Number(i64::try_from(version).unwrap_or(i64::MAX)))
        })
    }

    pub(crate) fn get(&self, key: &[u8], snapshot: bool) -> Arc<Future> {
        self.answered(|inner| {
            let value = if snapshot { inner.get_snapshot(key) } else { inner.get(key) };
            value.map(Answer::Value).map_err(code)
        })
    }

    pub(crate) fn get_range(
        &self,
        begin: Selector<'_>,
        end: Selector<'_>,
        limit: i32,
        mode: i32,
        snapshot: bool,
        reverse: bool,
    ) -> Arc<Future> {
        self.answered(|inner| {
            let (begin, end) = (resolved(begin)?, resolved(end)?);
            let limit = match usize::try_from(limit) {
                Err(_) => return Err(RANGE_LIMITS_INVALID),
                Ok(0) if mode == EXACT => return Err(EXACT_MODE_WITHOUT_LIMITS),
                Ok(limit) if mode == EXACT => limit,
                Ok(0) => PAGE,
                Ok(limit) => limit.min(PAGE),
            };
            let read = RangeRead { begin: &begin, end: &end, limit, reverse, snapshot };
            let pairs = inner.get_range(&read).map_err(code)?;
            let more = pairs.len() == limit;
            Ok(Answer::Pairs(Pairs::new(pairs, more)))
        })
    }

    pub(crate) fn set(&self, key: &[u8], value: &[u8]) {
        self.noted(|inner| {
            inner.set(key, value);
            Ok(())
        });
    }

    pub(crate) fn clear(&self, key: &[u8]) {
        self.noted(|inner| {
            inner.clear(key);
            Ok(())
        });
    }

    pub(crate) fn clear_range(&self, begin: &[u8], end: &[u8]) {
        self.noted(|inner| {
            if begin > end {
                return Err(INVERTED_RANGE);
            }
            inner.clear_range(begin, end);
            Ok(())
        });
    }

    pub(crate) fn atomic(&self, key: &[u8], operand: &[u8], mutation: i32) {
        self.noted(|inner| {
            let atomic = match mutation {
                2 => Atomic::Add,
                12 => Atomic::Max,
                13 => Atomic::Min,
                14 => {
                    let (template, offset) = with_offset(key)?;
                    inner.set_versionstamped_key(template, offset, operand);
                    return Ok(());
                }
                15 => {
                    let (template, offset) = with_offset(operand)?;
                    inner.set_versionstamped_value(key, template, offset);
                    return Ok(());
                }
                16 => Atomic::ByteMin,
                17 => Atomic::ByteMax,
                20 => Atomic::CompareAndClear,
                _ => return Err(INVALID_MUTATION_TYPE),
            };
            inner.atomic(atomic, key, operand);
            Ok(())
        });
    }

    pub(crate) fn add_conflict_range(&self, begin: &[u8], end: &[u8], kind: i32) -> Result<(), i32> {
        let mut state = self.state();
        state.usable()?;
        if begin > end {
            return Err(INVERTED_RANGE);
        }
        let kind = match kind {
            0 => ConflictKind::Read,
            1 => ConflictKind::Write,
            _ => return Err(CLIENT_INVALID_OPERATION),
        };
        state.inner.add_conflict_range(kind, begin, end).map_err(code)
    }

    pub(crate) fn watch(&self, key: &[u8]) -> Arc<Future> {
        let mut state = self.state();
        let watch = state.usable().and_then(|()| state.inner.watch(key).map_err(code));
        let watch = match watch {
            Ok(watch) => watch,
            Err(code) => return Future::ready(Err(code)),
        };
        let future = Arc::<Future>::default();
        let answering = future.clone();
        std::thread::spawn(move || {
            while !answering.is_ready() {
                match watch.wait(WATCH_ROUND) {
                    Ok(false) => {}
                    Ok(true) => answering.answer(Ok(Answer::Nothing)),
                    Err(Error::Unavailable(_)) => answering.answer(Err(TRANSACTION_CANCELLED)),
                    Err(error) => answering.answer(Err(code(error))),
                }
            }
        });
        future
    }

    pub(crate) fn versionstamp(&self) -> Arc<Future> {
        let mut state = self.state();
        if let Err(code) = state.usable() {
            return Future::ready(Err(code));
        }
        let future = Arc::<Future>::default();
        state.versionstamps.push(future.clone());
        future
    }

    pub(crate) fn commit(&self) -> Arc<Future> {
        let mut state = self.state();
        if let Err(code) = state.usable() {
            return Future::ready(Err(code));
        }
        state.over = Some(USED_DURING_COMMIT);
        let future = Arc::<Future>::default();
        if self.database.trouble == Trouble::Unreachable {
            state.unanswered.push(future.clone());
            return future;
        }
        let planted = self.database.commit_error();
        let outcome = planted.map_or_else(|| state.inner.commit().map_err(code), Err);
        let stamp = match outcome {
            Ok(kv::Committed { version, versionstamp: Some(stamp) }) => {
                state.committed_version = i64::try_from(version).unwrap_or(i64::MAX);
                Ok(stamp)
            }
            Ok(_) => Err(NO_COMMIT_VERSION),
            Err(code) => Err(code),
        };
        for waiting in std::mem::take(&mut state.versionstamps) {
            waiting.answer(stamp.map(|stamp| Answer::Key(stamp.to_vec())));
        }
        let answer = outcome.map(|_| Answer::Nothing);
        if self.database.trouble == Trouble::Slow {
            // A cancelled transaction ends the waiting for its commit, as with the library.
            state.unanswered.push(future.clone());
            let answering = future.clone();
            std::thread::spawn(move || {
                let (never, silence): (Sender<()>, Receiver<()>) = channel();
                // Nobody sends: this is the time going by.
                let _ = silence.recv_timeout(SLOW);
                drop(never);
                answering.answer(answer);
            });
        } else {
            future.answer(answer);
        }
        future
    }

    pub(crate) fn committed_version(&self) -> i64 {
        self.state().committed_version
    }

    pub(crate) fn on_error(&self, error: i32) -> Arc<Future> {
        if self.state().over == Some(TRANSACTION_CANCELLED) {
            return Future::ready(Err(TRANSACTION_CANCELLED));
        }
        if !is_retryable(error) {
            return Future::ready(Err(error));
        }
        self.reset();
        Future::ready(Ok(Answer::Nothing))
    }

    pub(crate) fn reset(&self) {
        let mut state = self.state();
        state.end(TRANSACTION_CANCELLED);
        match State::new(&self.database) {
            Ok(anew) => *state = anew,
            Err(code) => state.over = Some(code),
        }
    }

    pub(crate) fn cancel(&self) {
        let mut state = self.state();
        state.over = Some(TRANSACTION_CANCELLED);
        state.end(TRANSACTION_CANCELLED);
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.state().end(TRANSACTION_CANCELLED);
    }
}

impl State {
    fn new(database: &Database) -> Result<Self, i32> {
        Ok(State {
            inner: database.store.begin().map_err(code)?,
            over: None,
            deferred: None,
            committed_version: -1,
            versionstamps: Vec::new(),
            unanswered: Vec::new(),
        })
    }

    fn usable(&self) -> Result<(), i32> {
        self.over.or(self.deferred).map_or(Ok(()), Err)
    }

    fn end(&mut self, code: i32) {
        let waiting = self.versionstamps.drain(..).chain(self.unanswered.drain(..));
        waiting.for_each(|future| future.answer(Err(code)));
    }
}

fn code(error: Error) -> i32 {
    code_of(&error)
}

/// The key that a selector stands for. The two kinds that a plain range needs are known here.
fn resolved((key, or_equal, offset): Selector<'_>) -> Result<Vec<u8>, i32> {
    match (or_equal, offset) {
        // The first key at or behind it.
        (false, 1) => Ok(key.to_vec()),
        // The first key behind it.
        (true, 1) => Ok([key, &[0]].concat()),
        _ => Err(CLIENT_INVALID_OPERATION),
    }
}

/// Splits off the place of the versionstamp, which stands in the last 4 bytes.
fn with_offset(bytes: &[u8]) -> Result<(&[u8], u32), i32> {
    let (template, offset) = bytes.split_last_chunk::<4>().ok_or(CLIENT_INVALID_OPERATION)?;
    Ok((template, u32::from_le_bytes(*offset)))
}
