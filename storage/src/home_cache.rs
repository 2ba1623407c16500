//! The homes that the flusher has written or read last, so that a busy home is not read again for every flush. Only the
//! owner of the region writes, so what it wrote is what is stored.

use crate::home::Stored;
use std::collections::HashMap;

/// Bytes of lists kept.
const BYTES_MAX: usize = 32 << 20;

/// Two generations: what is used moves to the young one; when that has half of the room, it becomes the old one.
#[derive(Debug, Default)]
pub(crate) struct HomeCache {
    young: HashMap<Vec<u8>, Option<Stored>>,
    old: HashMap<Vec<u8>, Option<Stored>>,
    young_bytes: usize,
}

impl HomeCache {
    /// Takes out what is known of the home under `key`; the inner `None` is a home that is not in the store.
    pub(crate) fn take(&mut self, key: &[u8]) -> Option<Option<Stored>> {
        if let Some(stored) = self.young.remove(key) {
            self.young_bytes -= bytes(key, stored.as_ref());
            return Some(stored);
        }
        self.old.remove(key)
    }

    /// Keeps what was just written.
    pub(crate) fn put(&mut self, key: Vec<u8>, stored: Option<Stored>) {
        self.young_bytes += bytes(&key, stored.as_ref());
        if let Some(before) = self.young.insert(key.clone(), stored) {
            self.young_bytes -= bytes(&key, before.as_ref());
        }
        self.old.remove(&key);
        if self.young_bytes > BYTES_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }
}

fn bytes(key: &[u8], stored: Option<&Stored>) -> usize {
    // An entry of the map itself costs about as much.
    128 + key.len() + stored.map_or(0, |stored| stored.list.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_kept_within_the_bound() {
        let mut cache = HomeCache::default();
        let stored = |byte: u8| Some(Stored { list: vec![byte; 1 << 20], generation: None });
        for number in 0..100u8 {
            cache.put(vec![number], stored(number));
            cache.put(vec![number], stored(number));
        }
        let held = cache.young.len() + cache.old.len();
        assert!((16..=32).contains(&held), "{held} MiB are held");
        assert_eq!(cache.take(&[99]), Some(stored(99)));
        assert_eq!(cache.take(&[99]), None, "it was taken out");
        assert_eq!(cache.take(&[0]), None, "it was pushed out");
        cache.put(vec![1], None);
        assert_eq!(cache.take(&[1]), Some(None));
    }
}
