//! `mem:`: an ordered map, for tests and simulation.

use crate::sync::locked;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};

type Map = BTreeMap<Vec<u8>, Arc<[u8]>>;

/// The current map. A commit copies it only while a snapshot is still read.
#[derive(Debug, Default)]
pub(super) struct MemoryStore(Mutex<Arc<Map>>);

/// The map as it was when the snapshot was taken.
pub(super) struct MemorySnapshot(Arc<Map>);

impl MemoryStore {
    pub(super) fn snapshot(&self) -> MemorySnapshot {
        MemorySnapshot(locked(&self.0).clone())
    }

    pub(super) fn apply(&self, cleared: &[(Vec<u8>, Vec<u8>)], writes: &BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
        let mut current = locked(&self.0);
        let map = Arc::make_mut(&mut current);
        for (begin, end) in cleared {
            let gone: Vec<Vec<u8>> = map.range(begin.clone()..end.clone()).map(|(key, _)| key.clone()).collect();
            for key in gone {
                map.remove(&key);
            }
        }
        for (key, value) in writes {
            match value {
                Some(value) => map.insert(key.clone(), value.as_slice().into()),
                None => map.remove(key),
            };
        }
    }
}

impl MemorySnapshot {
    pub(super) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key).map(|value| value.to_vec())
    }

    /// Calls `visit` for each pair in order until it returns false.
    pub(super) fn range(&self, begin: &[u8], end: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) {
        for (key, value) in self.0.range::<[u8], _>((Bound::Included(begin), Bound::Excluded(end))) {
            if !visit(key, value) {
                return;
            }
        }
    }
}
