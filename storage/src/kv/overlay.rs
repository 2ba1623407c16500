//! What a transaction has written, laid over what it reads.

use super::operation::{Atomic, KeyRange, Mutation, VERSIONSTAMP_BYTES, key_behind};
use super::resolver::Ranges;
use crate::error::Error;
use std::collections::BTreeMap;
use std::ops::Bound;

/// The latest state of one written key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Written {
    /// Known without the store; `None` is cleared.
    Value(Option<Vec<u8>>),
    /// To be computed from what is stored.
    Atomics(Vec<(Atomic, Vec<u8>)>),
    /// Known only after the commit.
    Unreadable,
}

/// The writes of one transaction, in order, and what they make of each key.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    mutations: Vec<Mutation>,
    bytes: usize,
    keys: BTreeMap<Vec<u8>, Written>,
    cleared: Vec<KeyRange>,
    /// Where keys with a versionstamp will lie.
    unreadable: Vec<KeyRange>,
}

/// What the overlay says about a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Its value, whatever is stored.
    Value(Option<Vec<u8>>),
    /// It must be read; then [`Overlay::over`].
    Stored,
}

impl Overlay {
    pub(super) fn is_empty(&self) -> bool {
        self.mutations.is_empty()
    }

    /// Key and operand bytes of all writes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn into_mutations(self) -> Vec<Mutation> {
        self.mutations
    }

    pub(super) fn push(&mut self, mutation: Mutation) {
        self.bytes += mutation.bytes();
        match &mutation {
            Mutation::Set(key, value) => self.set(key, value),
            Mutation::Clear((begin, end)) => self.clear(begin, end),
            Mutation::Atomic(atomic, key, operand) => self.compute(*atomic, key, operand),
            Mutation::SetVersionstampedKey(key, offset, _) => {
                let mut range = (key.clone(), key.clone());
                let stamp = *offset as usize..*offset as usize + VERSIONSTAMP_BYTES;
                // A stamp that does not fit is refused at commit.
                if let (Some(low), Some(high)) = (range.0.get_mut(stamp.clone()), range.1.get_mut(stamp)) {
                    low.fill(0x00);
                    high.fill(0xff);
                    self.unreadable.push((range.0, key_behind(&range.1)));
                }
            }
            Mutation::SetVersionstampedValue(key, ..) => self.write(key, Written::Unreadable),
        }
        self.mutations.push(mutation);
    }

    /// What was written with a versionstamp stays unreadable until it is cleared, also when set to something else
    /// (FoundationDB `fdbclient/WriteMap.cpp`, `mutate`).
    fn set(&mut self, key: &[u8], value: &[u8]) {
        if self.keys.get(key) != Some(&Written::Unreadable) {
            self.write(key, Written::Value(Some(value.to_owned())));
        }
    }

    fn write(&mut self, key: &[u8], written: Written) {
        self.keys.insert(key.to_owned(), written);
    }

    fn clear(&mut self, begin: &[u8], end: &[u8]) {
        if begin >= end {
            return;
        }
        if end == key_behind(begin) {
            return self.write(begin, Written::Value(None));
        }
        self.keys.retain(|key, _| key.as_slice() < begin || key.as_slice() >= end);
        self.cleared.push((begin.to_owned(), end.to_owned()));
    }

    fn compute(&mut self, atomic: Atomic, key: &[u8], operand: &[u8]) {
        let is_cleared = self.is_cleared(key);
        match self.keys.get_mut(key) {
            Some(Written::Value(value)) => *value = atomic.apply(value.as_deref(), operand),
            Some(Written::Atomics(steps)) => steps.push((atomic, operand.to_owned())),
            Some(Written::Unreadable) => {}
            None if is_cleared => self.write(key, Written::Value(atomic.apply(None, operand))),
            None => self.write(key, Written::Atomics(vec![(atomic, operand.to_owned())])),
        }
    }

    fn is_cleared(&self, key: &[u8]) -> bool {
        self.cleared.iter().any(|(begin, end)| begin.as_slice() <= key && key < end.as_slice())
    }

    /// What is known of `key` without the store.
    pub(super) fn known(&self, key: &[u8]) -> Result<Known, Error> {
        if self.unreadable.iter().any(|(begin, end)| begin.as_slice() <= key && key < end.as_slice()) {
            return Err(Error::Unreadable);
        }
        match self.keys.get(key) {
            Some(Written::Value(value)) => Ok(Known::Value(value.clone())),
            Some(Written::Unreadable) => Err(Error::Unreadable),
            Some(Written::Atomics(_)) => Ok(Known::Stored),
            None if self.is_cleared(key) => Ok(Known::Value(None)),
            None => Ok(Known::Stored),
        }
    }

    /// The value of a key that holds `stored` in the store.
    pub(super) fn over(&self, key: &[u8], stored: Option<Vec<u8>>) -> Option<Vec<u8>> {
        match self.keys.get(key) {
            Some(Written::Atomics(steps)) => {
                steps.iter().fold(stored, |value, (atomic, operand)| atomic.apply(value.as_deref(), operand))
            }
            Some(Written::Value(value)) => value.clone(),
            _ if self.is_cleared(key) => None,
            _ => stored,
        }
    }

    /// The written keys of `begin..end`, in order. Some may have no value in the end.
    pub(super) fn keys_in(&self, begin: &[u8], end: &[u8]) -> Result<impl DoubleEndedIterator<Item = &[u8]>, Error> {
        let asked = Ranges::new(vec![(begin.to_owned(), end.to_owned())]);
        if Ranges::new(self.unreadable.clone()).overlap(&asked) {
            return Err(Error::Unreadable);
        }
        let range = || self.keys.range::<[u8], _>((Bound::Included(begin), Bound::Excluded(end)));
        if range().any(|(_, written)| *written == Written::Unreadable) {
            return Err(Error::Unreadable);
        }
        Ok(range().map(|(key, _)| key.as_slice()))
    }
}
