//! `fdb:CLUSTER_FILE`: a FoundationDB cluster, by its own client library (`vsekai_fdb`). Here its errors become ours, and
//! what the embedded stores refuse is refused in the same words. Guide: `storage/docs/foundationdb.md`.

use super::operation::{
    Atomic, Committed, ConflictKind, Mutation, Pair, RangeRead, TRANSACTION_BYTES_MAX, VALUE_BYTES_MAX, check_bound,
    check_key,
};
use super::{KEY_BYTES_MAX, WATCHES_MAX};
use crate::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The library's numbers (<https://apple.github.io/foundationdb/api-error-codes.html>).
mod code {
    pub(super) const TRANSACTION_TOO_OLD: i32 = 1_007;
    pub(super) const FUTURE_VERSION: i32 = 1_009;
    pub(super) const NOT_COMMITTED: i32 = 1_020;
    pub(super) const COMMIT_UNKNOWN_RESULT: i32 = 1_021;
    pub(super) const TRANSACTION_CANCELLED: i32 = 1_025;
    pub(super) const TOO_MANY_WATCHES: i32 = 1_032;
    pub(super) const ACCESSED_UNREADABLE: i32 = 1_036;
    pub(super) const PROCESS_BEHIND: i32 = 1_037;
    pub(super) const BROKEN_PROMISE: i32 = 1_100;
    pub(super) const OPERATION_CANCELLED: i32 = 1_101;
    pub(super) const KEY_OUTSIDE_LEGAL_RANGE: i32 = 2_004;
    pub(super) const TRANSACTION_TOO_LARGE: i32 = 2_101;
    pub(super) const KEY_TOO_LARGE: i32 = 2_102;
    pub(super) const VALUE_TOO_LARGE: i32 = 2_103;
}

/// A cluster.
#[derive(Debug)]
pub(super) struct FdbStore(vsekai_fdb::Database);

impl FdbStore {
    pub(super) fn open(cluster_file: &Path) -> Result<Self, Error> {
        Ok(FdbStore(vsekai_fdb::Database::open(cluster_file).map_err(told)?))
    }

    pub(super) fn begin(&self) -> Result<FdbTransaction, Error> {
        Ok(FdbTransaction {
            inner: self.0.begin().map_err(told)?,
            has_begun: false,
            has_written: false,
            bytes: 0,
            refused: None,
            unknown: code::COMMIT_UNKNOWN_RESULT,
            abandoned: Arc::default(),
        })
    }
}

/// A transaction of a cluster.
#[derive(Debug)]
pub(super) struct FdbTransaction {
    inner: vsekai_fdb::Transaction,
    /// The read version is taken: it can't be set any more.
    has_begun: bool,
    has_written: bool,
    /// Key and operand bytes of all writes, and key bytes of conflict ranges.
    bytes: usize,
    /// The first write that no store takes: told at the commit, as by the others.
    refused: Option<Error>,
    /// The library's number for the latest unknown result: there is more than one.
    unknown: i32,
    /// Tells the watches of this attempt that it did not commit. The library tells them, too, but some time later.
    abandoned: Arc<AtomicBool>,
}

impl FdbTransaction {
    pub(super) fn read_version(&mut self) -> Result<u64, Error> {
        self.has_begun = true;
        self.inner.read_version().map_err(told)
    }

    pub(super) fn set_read_version(&mut self, version: u64) -> Result<(), Error> {
        if self.has_begun {
            return Err(Error::Config("the read version is set after the first read".into()));
        }
        self.has_begun = true;
        self.inner.set_read_version(version);
        Ok(())
    }

    pub(super) fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.get_as(key, false)
    }

    pub(super) fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.get_as(key, true)
    }

    fn get_as(&mut self, key: &[u8], snapshot: bool) -> Result<Option<Vec<u8>>, Error> {
        check_key(key)?;
        self.has_begun = true;
        self.inner.get(key, snapshot).map_err(told)
    }

    pub(super) fn get_range(&mut self, read: &RangeRead<'_>) -> Result<Vec<Pair>, Error> {
        let RangeRead { begin, end, limit, reverse, snapshot } = *read;
        check_bound(begin)?;
        check_bound(end)?;
        if begin >= end || limit == 0 {
            return Ok(Vec::new());
        }
        self.has_begun = true;
        self.inner.get_range(&vsekai_fdb::RangeRead { begin, end, limit, reverse, snapshot }).map_err(told)
    }

    pub(super) fn set(&mut self, key: &[u8], value: Vec<u8>) {
        self.write(Mutation::Set(key.to_owned(), value));
    }

    pub(super) fn clear(&mut self, key: &[u8]) {
        match check_key(key) {
            Ok(()) => {
                self.bytes += key.len();
                self.has_written = true;
                self.inner.clear(key);
            }
            Err(error) => self.refuse(error),
        }
    }

    pub(super) fn clear_range(&mut self, begin: &[u8], end: &[u8]) {
        if begin < end {
            self.write(Mutation::Clear((begin.to_owned(), end.to_owned())));
        }
    }

    pub(super) fn atomic(&mut self, atomic: Atomic, key: &[u8], operand: &[u8]) {
        self.write(Mutation::Atomic(atomic, key.to_owned(), operand.to_owned()));
    }

    pub(super) fn set_versionstamped_key(&mut self, template: &[u8], offset: u32, value: &[u8]) {
        self.write(Mutation::SetVersionstampedKey(template.to_owned(), offset, value.to_owned()));
    }

    pub(super) fn set_versionstamped_value(&mut self, key: &[u8], template: &[u8], offset: u32) {
        self.write(Mutation::SetVersionstampedValue(key.to_owned(), template.to_owned(), offset));
    }

    fn write(&mut self, mutation: Mutation) {
        // What the library would refuse must not reach it: there the next read would fail, not the commit.
        if let Err(error) = mutation.check() {
            return self.refuse(error);
        }
        self.bytes += mutation.bytes();
        self.has_written = true;
        // Since API version 520 the place of a versionstamp stands in the last 4 bytes.
        let with_offset = |template: &[u8], offset: u32| [template, &offset.to_le_bytes()].concat();
        match &mutation {
            Mutation::Set(key, value) => self.inner.set(key, value),
            Mutation::Clear((begin, end)) => self.inner.clear_range(begin, end),
            Mutation::Atomic(atomic, key, operand) => self.inner.atomic(native(*atomic), key, operand),
            Mutation::SetVersionstampedKey(key, offset, value) => {
                let key = with_offset(key, *offset);
                self.inner.atomic(vsekai_fdb::Mutation::SetVersionstampedKey, &key, value);
            }
            Mutation::SetVersionstampedValue(key, value, offset) => {
                let value = with_offset(value, *offset);
                self.inner.atomic(vsekai_fdb::Mutation::SetVersionstampedValue, key, &value);
            }
        }
    }

    fn refuse(&mut self, error: Error) {
        self.refused.get_or_insert(error);
    }

    pub(super) fn add_conflict_range(&mut self, kind: ConflictKind, begin: &[u8], end: &[u8]) -> Result<(), Error> {
        check_bound(begin)?;
        check_bound(end)?;
        if begin >= end {
            return Ok(());
        }
        let kind = match kind {
            ConflictKind::Read => {
                // As if it were read now: changes count from here on.
                self.read_version()?;
                vsekai_fdb::ConflictKind::Read
            }
            ConflictKind::Write => {
                self.has_written = true;
                vsekai_fdb::ConflictKind::Write
            }
        };
        self.bytes += begin.len() + end.len();
        self.inner.add_conflict_range(kind, begin, end).map_err(told)
    }

    pub(super) fn watch(&mut self, key: &[u8]) -> Result<FdbWatch, Error> {
        check_key(key)?;
        // A watch of a cluster out of reach would say nothing, for ever.
        self.read_version()?;
        Ok(FdbWatch { inner: self.inner.watch(key).map_err(told)?, abandoned: self.abandoned.clone() })
    }

    pub(super) fn commit(&mut self) -> Result<Committed, Error> {
        if self.bytes > TRANSACTION_BYTES_MAX {
            return Err(Error::TooLarge { what: "transaction", found: self.bytes, limit: TRANSACTION_BYTES_MAX });
        }
        if let Some(error) = self.refused.take() {
            // The library holds the writes that were fine: they must not be committed by another try.
            self.refused = Some(Error::Config("the transaction was refused before".into()));
            return Err(error);
        }
        // Without writes there is no version but that of the reads.
        let read_version = if self.has_written { 0 } else { self.read_version()? };
        match self.inner.commit() {
            Ok(vsekai_fdb::Committed { version, versionstamp }) => {
                // Its watches live on when the transaction goes.
                self.abandoned = Arc::default();
                Ok(Committed { version: version.unwrap_or(read_version), versionstamp })
            }
            // Whatever its number: if it may have happened, that is what the caller must know.
            Err(vsekai_fdb::Error::Code { code, maybe_committed: true, .. }) => {
                self.unknown = code;
                Err(Error::CommitUnknownResult)
            }
            Err(error) => Err(told(error)),
        }
    }

    pub(super) fn on_error(&mut self, error: Error) -> Result<(), Error> {
        let code = match &error {
            Error::Conflict => code::NOT_COMMITTED,
            Error::TooOld => code::TRANSACTION_TOO_OLD,
            Error::FutureVersion => code::FUTURE_VERSION,
            Error::ProcessBehind => code::PROCESS_BEHIND,
            Error::CommitUnknownResult => self.unknown,
            Error::Foundation { code, retryable: true, .. } => *code,
            _ => return Err(error),
        };
        self.abandon();
        // The library knows how long to pause after which error.
        self.inner.on_error(code).map_err(told)?;
        self.has_begun = false;
        self.has_written = false;
        self.bytes = 0;
        self.refused = None;
        Ok(())
    }

    fn abandon(&mut self) {
        std::mem::take(&mut self.abandoned).store(true, Ordering::Release);
    }
}

impl Drop for FdbTransaction {
    fn drop(&mut self) {
        self.abandon();
    }
}

/// A watch of a cluster. Dropped, it is cancelled.
#[derive(Debug)]
pub(super) struct FdbWatch {
    inner: vsekai_fdb::Watch,
    abandoned: Arc<AtomicBool>,
}

impl FdbWatch {
    pub(super) fn wait(&self, timeout: Duration) -> Result<bool, Error> {
        let never = || Error::Unavailable("the transaction of the watch was not committed".into());
        if self.abandoned.load(Ordering::Acquire) {
            return Err(never());
        }
        self.inner.wait(timeout).map_err(|error| match error.code() {
            Some(code::TRANSACTION_CANCELLED | code::OPERATION_CANCELLED | code::BROKEN_PROMISE) => never(),
            _ => told(error),
        })
    }
}

fn native(atomic: Atomic) -> vsekai_fdb::Mutation {
    match atomic {
        Atomic::Add => vsekai_fdb::Mutation::Add,
        Atomic::Max => vsekai_fdb::Mutation::Max,
        Atomic::Min => vsekai_fdb::Mutation::Min,
        Atomic::ByteMax => vsekai_fdb::Mutation::ByteMax,
        Atomic::ByteMin => vsekai_fdb::Mutation::ByteMin,
        Atomic::CompareAndClear => vsekai_fdb::Mutation::CompareAndClear,
    }
}

/// Our error for one of the library's.
fn told(error: vsekai_fdb::Error) -> Error {
    let vsekai_fdb::Error::Code { code, message, retryable, .. } = error else {
        return Error::Unavailable(error.to_string());
    };
    // The library does not say how large: above the limit, at least by one.
    let too_large = |what, limit| Error::TooLarge { what, found: limit + 1, limit };
    match code {
        code::TRANSACTION_TOO_OLD => Error::TooOld,
        code::FUTURE_VERSION => Error::FutureVersion,
        code::NOT_COMMITTED => Error::Conflict,
        code::COMMIT_UNKNOWN_RESULT => Error::CommitUnknownResult,
        code::ACCESSED_UNREADABLE => Error::Unreadable,
        code::PROCESS_BEHIND => Error::ProcessBehind,
        code::KEY_OUTSIDE_LEGAL_RANGE => Error::KeyOutside("of the transaction".into()),
        code::TRANSACTION_TOO_LARGE => too_large("transaction", TRANSACTION_BYTES_MAX),
        code::KEY_TOO_LARGE => too_large("key", KEY_BYTES_MAX),
        code::VALUE_TOO_LARGE => too_large("value", VALUE_BYTES_MAX),
        code::TOO_MANY_WATCHES => too_large("list of watches", WATCHES_MAX),
        _ => Error::Foundation { code, message, retryable },
    }
}
