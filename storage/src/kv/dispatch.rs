//! The one transaction that callers see, over that of whichever store the URL named.

use super::fdb::{FdbTransaction, FdbWatch};
use super::operation::{Atomic, Committed, ConflictKind, Pair, RangeRead};
use super::transaction::{EmbeddedTransaction, EmbeddedWatch};
use crate::error::Error;
use std::time::Duration;

/// Reads at one version and writes that happen all at once, or not at all when dropped.
#[derive(Debug)]
pub struct Transaction(Kind);

#[derive(Debug)]
enum Kind {
    Embedded(EmbeddedTransaction),
    Fdb(FdbTransaction),
}

/// Waits for one key to get another value. Dropped, it is forgotten.
#[derive(Debug)]
pub struct Watch(WatchKind);

#[derive(Debug)]
enum WatchKind {
    Embedded(EmbeddedWatch),
    Fdb(FdbWatch),
}

impl From<EmbeddedTransaction> for Transaction {
    fn from(transaction: EmbeddedTransaction) -> Self {
        Transaction(Kind::Embedded(transaction))
    }
}

impl From<FdbTransaction> for Transaction {
    fn from(transaction: FdbTransaction) -> Self {
        Transaction(Kind::Fdb(transaction))
    }
}

impl Transaction {
    /// The version of all reads, taken at the first of them. It grows with every commit to the store.
    pub fn read_version(&mut self) -> Result<u64, Error> {
        match &mut self.0 {
            Kind::Embedded(transaction) => transaction.read_version(),
            Kind::Fdb(transaction) => transaction.read_version(),
        }
    }

    /// Reads at `version`, one that another transaction has read or committed at. It must come before the first read.
    pub fn set_read_version(&mut self, version: u64) -> Result<(), Error> {
        match &mut self.0 {
            Kind::Embedded(transaction) => transaction.set_read_version(version),
            Kind::Fdb(transaction) => transaction.set_read_version(version),
        }
    }

    /// The value of `key`. Another transaction that changes it before this one commits is a conflict.
    pub fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match &mut self.0 {
            Kind::Embedded(transaction) => transaction.get(key),
            Kind::Fdb(transaction) => transaction.get(key),
        }
    }

    /// The value of `key`, without a conflict when another transaction changes it.
    pub fn get_snapshot(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match &mut self.0 {
            Kind::Embedded(transaction) => transaction.get_snapshot(key),
            Kind::Fdb(transaction) => transaction.get_snapshot(key),
        }
    }

    /// The pairs that `read` asks for. What lies beyond the last one returned, when there are `limit`, is not counted as read.
    pub fn get_range(&mut self, read: &RangeRead<'_>) -> Result<Vec<Pair>, Error> {
        match &mut self.0 {
            Kind::Embedded(transaction) => transaction.get_range(read),
            Kind::Fdb(transaction) => transaction.get_range(read),
        }
    }

    /// Gives `key` a value. Like all writes it is checked at commit.
    pub fn set(&mut self, key: &[u8], value: impl Into<Vec<u8>>) {
        match &mut self.0 {
            Kind::Embedded(transaction) => transaction.set(key, value.into()),
            Kind::Fdb(transaction) => transaction.set(key, value.into()),
        }
    }

    /// Takes `key` away.
    pub fn clear(&mut self, key: &[u8]) {
        match &mut self.0 {
            Kind::Embedded(transaction) => transaction.clear(key),
            Kind::Fdb(transaction) => transaction.clear(key),
        }
    }

    /// Takes all keys of `begin..end` away.
    pub fn clear_range(&mut self, begin: &[u8], end: &[u8]) {
        match &mut self.0 {
            Kind::Embedded(transaction) => transaction.clear_range(begin, end),
            Kind::Fdb(transaction) => transaction.clear_range(begin, end),
        }
    }

    /// Has the store compute the value of `key` from the one it has at commit and `operand`. No conflict comes of it.
    pub fn atomic(&mut self, atomic: Atomic, key: &[u8], operand: &[u8]) {
        match &mut self.0 {
            Kind::Embedded(transaction) => transaction.atomic(atomic, key, operand),
            Kind::Fdb(transaction) => transaction.atomic(atomic, key, operand),
        }
    }

    /// Sets the key that `template` becomes when the commit's versionstamp is written over its 10 bytes at `offset`.
    pub fn set_versionstamped_key(&mut self, template: &[u8], offset: u32, value: &[u8]) {
        match &mut self.0 {
            Kind::Embedded(transaction) => transaction.set_versionstamped_key(template, offset, value),
            Kind::Fdb(transaction) => transaction.set_versionstamped_key(template, offset, value),
        }
    }

    /// Sets `key` to what `template` becomes when the commit's versionstamp is written over its 10 bytes at `offset`.
    pub fn set_versionstamped_value(&mut self, key: &[u8], template: &[u8], offset: u32) {
        match &mut self.0 {
            Kind::Embedded(transaction) => transaction.set_versionstamped_value(key, template, offset),
            Kind::Fdb(transaction) => transaction.set_versionstamped_value(key, template, offset),
        }
    }

    /// Counts `begin..end` as read or written, for conflicts.
    pub fn add_conflict_range(&mut self, kind: ConflictKind, begin: &[u8], end: &[u8]) -> Result<(), Error> {
        match &mut self.0 {
            Kind::Embedded(transaction) => transaction.add_conflict_range(kind, begin, end),
            Kind::Fdb(transaction) => transaction.add_conflict_range(kind, begin, end),
        }
    }

    /// Waits for another value of `key` than this transaction sees, from its commit on. If it never commits, the watch
    /// ends with an error.
    pub fn watch(&mut self, key: &[u8]) -> Result<Watch, Error> {
        match &mut self.0 {
            Kind::Embedded(transaction) => Ok(Watch(WatchKind::Embedded(transaction.watch(key)?))),
            Kind::Fdb(transaction) => Ok(Watch(WatchKind::Fdb(transaction.watch(key)?))),
        }
    }

    /// Makes the writes durable, all at once. Without writes nothing is checked, and nothing happens.
    pub fn commit(&mut self) -> Result<Committed, Error> {
        match &mut self.0 {
            Kind::Embedded(transaction) => transaction.commit(),
            Kind::Fdb(transaction) => transaction.commit(),
        }
    }

    /// Prepares another attempt after a retryable `error`: pauses, and begins anew without reads and writes. Any other error
    /// comes back. After [`Error::CommitUnknownResult`] the first attempt may have happened.
    pub fn on_error(&mut self, error: Error) -> Result<(), Error> {
        match &mut self.0 {
            Kind::Embedded(transaction) => transaction.on_error(error),
            Kind::Fdb(transaction) => transaction.on_error(error),
        }
    }
}

impl Watch {
    /// True when the key has another value than the transaction saw, false when `timeout` went by. A watch may also say
    /// true when the value has changed and changed back.
    pub fn wait(&self, timeout: Duration) -> Result<bool, Error> {
        match &self.0 {
            WatchKind::Embedded(watch) => watch.wait(timeout),
            WatchKind::Fdb(watch) => watch.wait(timeout),
        }
    }
}
