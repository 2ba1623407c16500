//! `mem:`: an ordered map that keeps the versions of each key that some snapshot may still read. For tests and simulation.

use super::operation::{KeyRange, Pair};
use crate::sync::locked;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

/// The versions of one key, rising; `None` is no value.
type History = Vec<(u64, Option<Arc<[u8]>>)>;

#[derive(Debug, Default)]
struct Map {
    keys: BTreeMap<Vec<u8>, History>,
    version: u64,
    /// How many snapshots read each version.
    readers: BTreeMap<u64, usize>,
    /// Keys of which something may be forgotten once nobody reads below the version.
    overwritten: VecDeque<(u64, Vec<u8>)>,
}

/// The map.
#[derive(Debug, Default)]
pub(super) struct MemoryStore(Arc<Mutex<Map>>);

/// The map as it was at one version.
#[derive(Debug)]
pub(super) struct MemorySnapshot {
    map: Arc<Mutex<Map>>,
    version: u64,
}

/// The changes of the next version.
pub(super) struct MemoryWriter<'m> {
    map: &'m mut Map,
    version: u64,
}

impl MemoryStore {
    pub(super) fn snapshot(&self) -> MemorySnapshot {
        let mut map = locked(&self.0);
        let version = map.version;
        *map.readers.entry(version).or_default() += 1;
        MemorySnapshot { map: self.0.clone(), version }
    }

    /// Makes `version` of what `body` writes.
    pub(super) fn write<T>(&self, version: u64, body: impl FnOnce(&mut MemoryWriter<'_>) -> T) -> T {
        let mut map = locked(&self.0);
        let done = body(&mut MemoryWriter { map: &mut map, version });
        map.version = version;
        map.forget();
        done
    }
}

impl Map {
    /// Drops what no snapshot can read any more.
    fn forget(&mut self) {
        let oldest = self.readers.first_key_value().map_or(self.version, |(version, _)| *version);
        while self.overwritten.front().is_some_and(|(version, _)| *version <= oldest) {
            let Some((_, key)) = self.overwritten.pop_front() else { break };
            let Some(history) = self.keys.get_mut(&key) else { continue };
            let needed = history.partition_point(|(version, _)| *version <= oldest).saturating_sub(1);
            history.drain(..needed);
            if let [(version, None)] = history[..]
                && version <= oldest
            {
                self.keys.remove(&key);
            }
        }
    }
}

impl MemoryWriter<'_> {
    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.map.keys.get(key).and_then(|history| history.last()?.1.as_deref().map(<[u8]>::to_vec))
    }

    pub(super) fn put(&mut self, key: &[u8], value: Option<&[u8]>) {
        let is_missing = value.is_none();
        let history = match self.map.keys.get_mut(key) {
            Some(history) => history,
            None if is_missing => return,
            None => self.map.keys.entry(key.to_owned()).or_default(),
        };
        match history.last_mut() {
            Some(last) if last.0 == self.version => last.1 = value.map(Arc::from),
            _ => history.push((self.version, value.map(Arc::from))),
        }
        if history.len() > 1 || is_missing {
            self.map.overwritten.push_back((self.version, key.to_owned()));
        }
    }

    pub(super) fn clear(&mut self, range: &KeyRange) {
        let keys: Vec<Vec<u8>> = self
            .map
            .keys
            .range::<[u8], _>((Bound::Included(&range.0[..]), Bound::Excluded(&range.1[..])))
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.put(&key, None);
        }
    }
}

impl MemorySnapshot {
    fn at<'h>(&self, history: &'h History) -> Option<&'h [u8]> {
        let known = history.partition_point(|(version, _)| *version <= self.version);
        history[..known].last()?.1.as_deref()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        locked(&self.map).keys.get(key).and_then(|history| self.at(history).map(<[u8]>::to_vec))
    }

    pub(super) fn range(&self, begin: &[u8], end: &[u8], limit: usize, reverse: bool) -> Vec<Pair> {
        let map = locked(&self.map);
        let keys = map.keys.range::<[u8], _>((Bound::Included(begin), Bound::Excluded(end)));
        let pair = |(key, history): (&Vec<u8>, &History)| Some((key.clone(), self.at(history)?.to_vec()));
        if reverse {
            keys.rev().filter_map(pair).take(limit).collect()
        } else {
            keys.filter_map(pair).take(limit).collect()
        }
    }
}

impl Drop for MemorySnapshot {
    fn drop(&mut self) {
        let mut map = locked(&self.map);
        if let Some(count) = map.readers.get_mut(&self.version) {
            *count -= 1;
            if *count == 0 {
                map.readers.remove(&self.version);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_kept_as_long_as_somebody_reads_them_and_no_longer() {
        let store = MemoryStore::default();
        store.write(1, |writer| writer.put(b"a", Some(b"1")));
        let old = store.snapshot();
        store.write(2, |writer| writer.put(b"a", Some(b"2")));
        store.write(3, |writer| writer.put(b"a", None));
        assert_eq!(old.get(b"a"), Some(b"1".to_vec()));
        assert_eq!(store.snapshot().get(b"a"), None);
        assert_eq!(locked(&store.0).keys[&b"a"[..]].len(), 3);
        drop(old);
        store.write(4, |writer| writer.put(b"b", Some(b"4")));
        assert!(!locked(&store.0).keys.contains_key(&b"a"[..]));
        assert!(locked(&store.0).overwritten.is_empty());
        store.write(5, |writer| writer.clear(&(b"a".to_vec(), b"z".to_vec())));
        assert!(locked(&store.0).keys.is_empty());
    }
}
