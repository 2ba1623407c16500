//! The table of contents at a directory's end.

use super::{GOODBYE, GOODBYE_TAIL, HEADER_SIZE};
use siphasher::sip::SipHasher24;

/// One entry of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Where its FILENAME begins in the archive.
    pub begin: u64,
    /// Where the entry ends.
    pub end: u64,
    /// [`hash`] of its name.
    pub hash: u64,
}

/// The hash by which names are found; the key is casync's.
pub fn hash(name: &[u8]) -> u64 {
    SipHasher24::new_with_keys(0x8574_442b_0f1d_84b3, 0x2736_ed30_d1c2_2ec1).hash(name)
}

/// Bytes of the element for a directory of `count` entries.
pub fn size(count: usize) -> u64 {
    HEADER_SIZE + 24 * (count as u64 + 1)
}

/// The whole element; `items` in the order of the archive, which is lost. The directory's ENTRY begins at `entry`, the element itself
/// at `begin`.
pub fn element(items: &mut [Item], entry: u64, begin: u64) -> Vec<u8> {
    let size = size(items.len());
    // casync sorts by what it writes, the offset back, and of equal hashes the later entry has the smaller one.
    items.sort_unstable_by_key(|item| (item.hash, begin - item.begin));
    let mut element = Vec::with_capacity(usize::try_from(size).expect("entries are bounded"));
    for word in [size, GOODBYE] {
        element.extend(word.to_le_bytes());
    }
    for position in tree_order(items.len()) {
        let item = items[position];
        for word in [begin - item.begin, item.end - item.begin, item.hash] {
            element.extend(word.to_le_bytes());
        }
    }
    for word in [begin - entry, size, GOODBYE_TAIL] {
        element.extend(word.to_le_bytes());
    }
    element
}

/// For each place of a complete binary search tree in array order (children of `i` at `2i+1` and `2i+2`), which of `count` sorted
/// items stands there.
fn tree_order(count: usize) -> Vec<usize> {
    let mut order = vec![0; count];
    // Walks the tree in order: down to the left, the place itself, then to the right.
    let (mut path, mut place, mut next) = (Vec::new(), 0, 0);
    loop {
        while place < count {
            path.push(place);
            place = 2 * place + 1;
        }
        let Some(top) = path.pop() else { return order };
        order[top] = next;
        next += 1;
        place = 2 * top + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tree_is_a_search_tree() {
        assert_eq!(tree_order(6), [3, 1, 5, 0, 2, 4]);
        for count in 0..200 {
            let order = tree_order(count);
            let mut seen = order.clone();
            seen.sort_unstable();
            assert!(seen.iter().copied().eq(0..count), "{count}");
            for (place, &item) in order.iter().enumerate() {
                let left = order.get(2 * place + 1).is_none_or(|&child| child < item);
                let right = order.get(2 * place + 2).is_none_or(|&child| child > item);
                assert!(left && right, "{count}: {order:?}");
            }
        }
    }
}
