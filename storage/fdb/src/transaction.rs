//! Transactions and watches: each call waits for its answer.
#![expect(unsafe_code, reason = "calls a C library with the pointers it gave")]

use crate::client::client;
use crate::database::{Handle, READ_TIMEOUT};
use crate::declared::{
    ConflictKind, FdbFuture, FdbTransaction, Functions, Mutation, STREAMING_EXACT, STREAMING_WANT_ALL,
};
use crate::error::Error;
use crate::future::Future;
use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// Up to so many pairs are asked for in one page. More come in pages of the library's choice, so that each page is
/// answered within the bound of a read.
const EXACT_LIMIT_MAX: usize = 1_000;

/// The 10 bytes that a commit writes in the place of each versionstamp.
pub type Versionstamp = [u8; 10];

/// A read of several keys in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeRead<'k> {
    /// The first key.
    pub begin: &'k [u8],
    /// The key behind the last.
    pub end: &'k [u8],
    /// Most pairs returned.
    pub limit: usize,
    /// From the last key down instead of from the first up.
    pub reverse: bool,
    /// What it finds may be changed by others without a conflict.
    pub snapshot: bool,
}

/// A commit that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// Its version; `None` of a transaction that wrote nothing.
    pub version: Option<u64>,
    /// What stands where it asked for a versionstamp; `None` of a transaction that wrote nothing.
    pub versionstamp: Option<Versionstamp>,
}

/// Reads at one version and writes that happen all at once, or not at all when dropped. After a commit, a failed one too,
/// it takes [`Transaction::reset`] or [`Transaction::on_error`] before it is used again.
pub struct Transaction {
    database: Arc<Handle>,
    raw: NonNull<FdbTransaction>,
    has_read_version: bool,
}

// SAFETY: the library allows its transactions to be used from any thread.
unsafe impl Send for Transaction {}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Transaction").field("database", &self.database).finish_non_exhaustive()
    }
}

impl Transaction {
    pub(crate) fn new(database: Arc<Handle>) -> Result<Self, Error> {
        // Refuses once the network is stopped: no answer would ever come.
        let client = client()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: the database is alive, and the place for the answer, too.
        let code = unsafe { (client.functions.fdb_database_create_transaction)(database.raw.as_ptr(), &mut raw) };
        client.check(code)?;
        let raw =
            NonNull::new(raw).ok_or_else(|| Error::Library("FoundationDB's library gave no transaction".into()))?;
        Ok(Transaction { database, raw, has_read_version: false })
    }

    /// The version of all reads.
    pub fn read_version(&mut self) -> Result<u64, Error> {
        // SAFETY: the transaction is alive.
        let future = self.future(|functions, raw| unsafe { (functions.fdb_transaction_get_read_version)(raw) })?;
        self.wait_for_read(&future)?;
        let version = future.int64()?;
        self.has_read_version = true;
        Ok(u64::try_from(version).unwrap_or_default())
    }

    /// Reads at `version`. It must come before the first read.
    pub fn set_read_version(&mut self, version: u64) {
        let version = i64::try_from(version).unwrap_or(i64::MAX);
        // SAFETY: the transaction is alive.
        unsafe { (self.functions().fdb_transaction_set_read_version)(self.raw.as_ptr(), version) };
        self.has_read_version = true;
    }

    /// The value of `key`; a `snapshot` read without a conflict when another transaction changes it.
    pub fn get(&mut self, key: &[u8], snapshot: bool) -> Result<Option<Vec<u8>>, Error> {
        // SAFETY: the transaction is alive, and the library copies the key.
        let future = self.future(|functions, raw| unsafe {
            (functions.fdb_transaction_get)(raw, key.as_ptr(), length(key), c_int::from(snapshot))
        })?;
        self.wait_for_read(&future)?;
        self.has_read_version = true;
        future.value()
    }

    /// The pairs that `read` asks for, in as many pages as it takes.
    pub fn get_range(&mut self, read: &RangeRead<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Error> {
        let RangeRead { begin, end, limit, reverse, snapshot } = *read;
        let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut iteration: c_int = 1;
        while pairs.len() < limit {
            let wanted = limit - pairs.len();
            let mode = if wanted <= EXACT_LIMIT_MAX { STREAMING_EXACT } else { STREAMING_WANT_ALL };
            // Zero is no limit.
            let wanted = c_int::try_from(wanted).unwrap_or(0);
            // The page behind the last pair: upwards the first key greater than its key, downwards up to before it. As
            // selectors, `(key, or_equal, offset)` of `(key, 0, 1)` is the first key at or behind it, `(key, 1, 1)` the
            // first one behind it.
            let last = pairs.last().map(|(key, _)| key.as_slice());
            let (begin, begin_or_equal) = last.filter(|_| !reverse).map_or((begin, 0), |key| (key, 1));
            let end = last.filter(|_| reverse).unwrap_or(end);
            // SAFETY: the transaction is alive, and the library copies the keys.
            let future = self.future(|functions, raw| unsafe {
                (functions.fdb_transaction_get_range)(
                    raw,
                    begin.as_ptr(),
                    length(begin),
                    begin_or_equal,
                    1,
                    end.as_ptr(),
                    length(end),
                    0,
                    1,
                    wanted,
                    0,
                    mode,
                    iteration,
                    c_int::from(snapshot),
                    c_int::from(reverse),
                )
            })?;
            self.wait_for_read(&future)?;
            self.has_read_version = true;
            let (page, more) = future.page()?;
            // An empty page has no key to go on from: it is the last, whatever it says.
            let is_last = !more || page.is_empty();
            pairs.extend(page);
            if is_last {
                break;
            }
            iteration = iteration.saturating_add(1);
        }
        Ok(pairs)
    }

    /// Gives `key` a value.
    pub fn set(&mut self, key: &[u8], value: &[u8]) {
        // SAFETY: the transaction is alive, and the library copies key and value.
        unsafe {
            (self.functions().fdb_transaction_set)(
                self.raw.as_ptr(),
                key.as_ptr(),
                length(key),
                value.as_ptr(),
                length(value),
            );
        }
    }

    /// Takes `key` away.
    pub fn clear(&mut self, key: &[u8]) {
        // SAFETY: the transaction is alive, and the library copies the key.
        unsafe { (self.functions().fdb_transaction_clear)(self.raw.as_ptr(), key.as_ptr(), length(key)) };
    }

    /// Takes all keys of `begin..end` away.
    pub fn clear_range(&mut self, begin: &[u8], end: &[u8]) {
        // SAFETY: the transaction is alive, and the library copies the keys.
        unsafe {
            (self.functions().fdb_transaction_clear_range)(
                self.raw.as_ptr(),
                begin.as_ptr(),
                length(begin),
                end.as_ptr(),
                length(end),
            );
        }
    }

    /// Has the store compute a change of `key` at commit.
    pub fn atomic(&mut self, mutation: Mutation, key: &[u8], operand: &[u8]) {
        // SAFETY: the transaction is alive, and the library copies key and operand.
        unsafe {
            (self.functions().fdb_transaction_atomic_op)(
                self.raw.as_ptr(),
                key.as_ptr(),
                length(key),
                operand.as_ptr(),
                length(operand),
                mutation as c_int,
            );
        }
    }

    /// Counts `begin..end` as read or written, for conflicts.
    pub fn add_conflict_range(&mut self, kind: ConflictKind, begin: &[u8], end: &[u8]) -> Result<(), Error> {
        // SAFETY: the transaction is alive, and the library copies the keys.
        let code = unsafe {
            (self.functions().fdb_transaction_add_conflict_range)(
                self.raw.as_ptr(),
                begin.as_ptr(),
                length(begin),
                end.as_ptr(),
                length(end),
                kind as c_int,
            )
        };
        self.database.client.check(code)
    }

    /// Waits for another value of `key` than this transaction sees, from its commit on.
    pub fn watch(&mut self, key: &[u8]) -> Result<Watch, Error> {
        // SAFETY: the transaction is alive, and the library copies the key.
        let future =
            self.future(|functions, raw| unsafe { (functions.fdb_transaction_watch)(raw, key.as_ptr(), length(key)) })?;
        Ok(Watch(future))
    }

    /// Makes the writes durable, all at once, and waits for the answer as long as that takes: a commit that was given up
    /// may still happen. What can be bounded is bounded: without a read before, the read version is asked for first, and
    /// a cluster out of reach is found by that.
    pub fn commit(&mut self) -> Result<Committed, Error> {
        if !self.has_read_version {
            self.read_version()?;
        }
        // Must be asked for before the commit, and is answered by it.
        // SAFETY: the transaction is alive.
        let versionstamp =
            self.future(|functions, raw| unsafe { (functions.fdb_transaction_get_versionstamp)(raw) })?;
        // SAFETY: the transaction is alive.
        let commit = self.future(|functions, raw| unsafe { (functions.fdb_transaction_commit)(raw) })?;
        commit.wait(None);
        commit.outcome()?;
        let mut version = 0;
        // SAFETY: the transaction is alive and committed, and the place for the answer is alive.
        let code = unsafe { (self.functions().fdb_transaction_get_committed_version)(self.raw.as_ptr(), &mut version) };
        self.database.client.check(code)?;
        // -1 says that there was nothing to commit.
        let Ok(version) = u64::try_from(version) else {
            return Ok(Committed { version: None, versionstamp: None });
        };
        versionstamp.wait(None);
        let stamp = versionstamp.key()?;
        let stamp = stamp.try_into().map_err(|bytes: Vec<u8>| {
            Error::Library(format!("FoundationDB's library gave a versionstamp of {} bytes instead of 10", bytes.len()))
        })?;
        Ok(Committed { version: Some(version), versionstamp: Some(stamp) })
    }

    /// Prepares another attempt after the error with this number: the library pauses as it sees fit, and begins anew. An
    /// error after which nothing may be tried again comes back.
    pub fn on_error(&mut self, code: i32) -> Result<(), Error> {
        // SAFETY: the transaction is alive.
        let future = self.future(|functions, raw| unsafe { (functions.fdb_transaction_on_error)(raw, code) })?;
        self.has_read_version = false;
        // The library's own pause may be longer than a short bound for reads.
        if !future.wait(Some(self.database.read_timeout.max(READ_TIMEOUT))) {
            self.cancel();
            return Err(self.database.unreachable());
        }
        future.outcome()
    }

    /// Begins anew, without reads and writes.
    pub fn reset(&mut self) {
        self.has_read_version = false;
        // SAFETY: the transaction is alive.
        unsafe { (self.functions().fdb_transaction_reset)(self.raw.as_ptr()) };
    }

    /// Ends the transaction. Whatever is asked of it is refused until [`Transaction::reset`].
    pub fn cancel(&mut self) {
        // SAFETY: the transaction is alive. No commit is in flight: those are waited for.
        unsafe { (self.functions().fdb_transaction_cancel)(self.raw.as_ptr()) };
    }

    fn functions(&self) -> &'static Functions {
        &self.database.client.functions
    }

    fn future(&self, ask: impl FnOnce(&Functions, *mut FdbTransaction) -> *mut FdbFuture) -> Result<Future, Error> {
        // SAFETY: the library's functions return a new future that is ours.
        unsafe { Future::new(self.database.client, ask(self.functions(), self.raw.as_ptr())) }
    }

    /// Waits for a read, for so long; then the transaction is over.
    fn wait_for_read(&mut self, future: &Future) -> Result<(), Error> {
        if future.wait(Some(self.database.read_timeout)) {
            return future.outcome();
        }
        self.cancel();
        Err(self.database.unreachable())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // SAFETY: ours alone, and goes now. Watches outlive it.
        unsafe { (self.functions().fdb_transaction_destroy)(self.raw.as_ptr()) };
    }
}

/// Waits for one key to get another value. Dropped, it is cancelled.
pub struct Watch(Future);

impl std::fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Watch")
    }
}

impl Watch {
    /// True when the key has changed, false when `timeout` went by.
    pub fn wait(&self, timeout: Duration) -> Result<bool, Error> {
        if !self.0.wait(Some(timeout)) {
            return Ok(false);
        }
        self.0.outcome().map(|()| true)
    }
}

/// A length as the library takes it. What is longer than it can say is far beyond its limits and is refused.
fn length(bytes: &[u8]) -> c_int {
    c_int::try_from(bytes.len()).unwrap_or(c_int::MAX)
}
