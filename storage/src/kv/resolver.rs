//! Which transactions conflict: optimistic, by comparing what one read with what later ones wrote.
//! (H. T. Kung, J. T. Robinson, "On Optimistic Methods for Concurrency Control", 1981, backward validation.)

use super::operation::KeyRange;
use crate::error::Error;
use std::collections::VecDeque;

/// How many commits are remembered. A transaction that began before the oldest of them is too old.
const COMMITS_MAX: usize = 65_536;
/// How many bytes of keys are remembered, whatever the number of commits.
const KEY_BYTES_MAX: usize = 64 << 20;

/// Key ranges, sorted and merged, so that an overlap is found by bisection.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Ranges(Vec<KeyRange>);

impl Ranges {
    pub(super) fn new(mut ranges: Vec<KeyRange>) -> Self {
        ranges.retain(|(begin, end)| begin < end);
        ranges.sort_unstable();
        ranges.dedup_by(|next, kept| {
            let touches = next.0 <= kept.1;
            if touches && next.1 > kept.1 {
                kept.1 = std::mem::take(&mut next.1);
            }
            touches
        });
        Ranges(ranges)
    }

    pub(super) fn overlap(&self, other: &Ranges) -> bool {
        let (few, many) = if self.0.len() < other.0.len() { (self, other) } else { (other, self) };
        few.0.iter().any(|(begin, end)| {
            let at = many.0.partition_point(|(_, many_end)| many_end <= begin);
            many.0.get(at).is_some_and(|(many_begin, _)| many_begin < end)
        })
    }

    pub(super) fn into_inner(self) -> Vec<KeyRange> {
        self.0
    }

    fn key_bytes(&self) -> usize {
        self.0.iter().map(|(begin, end)| begin.len() + end.len()).sum()
    }
}

/// What the latest commits wrote, with their versions, oldest first.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    recent: VecDeque<(u64, Ranges)>,
    key_bytes: usize,
    /// Everything newer than this version is remembered.
    known_from: u64,
}

impl Resolver {
    /// Nothing is known of commits up to `version`.
    pub(super) fn new(version: u64) -> Self {
        Resolver { known_from: version, ..Resolver::default() }
    }

    /// Refuses a transaction that read at `read_version` when something of it was changed since.
    pub(super) fn check(&self, read_version: u64, reads: &Ranges) -> Result<(), Error> {
        if reads.0.is_empty() {
            return Ok(());
        }
        if read_version < self.known_from {
            return Err(Error::TooOld);
        }
        let newer = self.recent.iter().rev().take_while(|(version, _)| *version > read_version);
        if newer.into_iter().any(|(_, writes)| reads.overlap(writes)) { Err(Error::Conflict) } else { Ok(()) }
    }

    /// Remembers a commit.
    pub(super) fn record(&mut self, version: u64, writes: Ranges) {
        self.key_bytes += writes.key_bytes();
        self.recent.push_back((version, writes));
        while self.recent.len() > COMMITS_MAX || self.key_bytes > KEY_BYTES_MAX {
            let Some((version, oldest)) = self.recent.pop_front() else { break };
            self.key_bytes -= oldest.key_bytes();
            self.known_from = version;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ranges(bounds: &[(u8, u8)]) -> Vec<KeyRange> {
        bounds.iter().map(|(begin, end)| (vec![*begin], vec![*end])).collect()
    }

    proptest! {
        #[test]
        fn an_overlap_is_found_exactly_when_some_key_is_in_both(
            left in prop::collection::vec((0u8..40, 0u8..40), 0..6),
            right in prop::collection::vec((0u8..40, 0u8..40), 0..6),
        ) {
            let within = |bounds: &[(u8, u8)], key: u8| bounds.iter().any(|(begin, end)| (*begin..*end).contains(&key));
            let expected = (0..40).any(|key| within(&left, key) && within(&right, key));
            prop_assert_eq!(Ranges::new(ranges(&left)).overlap(&Ranges::new(ranges(&right))), expected);
        }
    }

    #[test]
    fn what_is_no_longer_remembered_is_too_old() {
        let mut resolver = Resolver::new(0);
        let written = || Ranges::new(ranges(&[(1, 2)]));
        for version in 1..=COMMITS_MAX as u64 + 1 {
            resolver.record(version, written());
        }
        let unrelated = Ranges::new(ranges(&[(5, 6)]));
        assert!(matches!(resolver.check(0, &unrelated), Err(Error::TooOld)));
        assert!(resolver.check(1, &unrelated).is_ok());
        assert!(resolver.check(0, &Ranges::default()).is_ok());
        assert!(matches!(resolver.check(COMMITS_MAX as u64, &written()), Err(Error::Conflict)));
        assert!(resolver.check(COMMITS_MAX as u64 + 1, &written()).is_ok());
    }
}
