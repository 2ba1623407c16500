//! A player's seat: what outlives a connection, so that the player can come back to it.

use crate::transport::PeerId;
use std::collections::VecDeque;
use std::time::Duration;
use vsekai_schema::id::EntityId;
use vsekai_schema::wire::ResumeSecret;

/// Results that are kept for a client that does not say which it has. One that does says so every sixteen.
pub const RESULTS_KEPT_MAX: usize = 256;

/// A player who is in the world, or about to enter it.
#[derive(Debug)]
pub(super) struct Seat {
    /// Who plays; `None` while the player is away.
    pub(super) peer: Option<PeerId>,
    /// Since when the player is away.
    pub(super) away_since: Option<Duration>,
    /// The body, once there is one.
    pub(super) player: Option<EntityId>,
    /// Display name.
    pub(super) name: String,
    /// By which the player comes back.
    pub(super) secret: ResumeSecret,
    /// Number of the last command that arrived.
    pub(super) received: u32,
    /// The newest movement that arrived, while away.
    pub(super) newest_input: u32,
    /// What the player was told, or is yet to be told.
    pub(super) results: Results,
}

/// The session's results, in the order in which they were sent: the last ones that may not have arrived.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// How many came before the first that is kept.
    forgotten: u32,
    kept: VecDeque<Vec<u8>>,
}

impl Results {
    /// One more; forgets the oldest when too many are kept.
    pub(super) fn push(&mut self, message: Vec<u8>) {
        if self.kept.len() == RESULTS_KEPT_MAX {
            self.kept.pop_front();
            self.forgotten = self.forgotten.wrapping_add(1);
        }
        self.kept.push_back(message);
    }

    /// So many arrived. A number that cannot be true changes nothing.
    pub(super) fn arrived(&mut self, count: u32) {
        let more = count.wrapping_sub(self.forgotten) as usize;
        if more <= self.kept.len() {
            self.kept.drain(..more);
            self.forgotten = count;
        }
    }

    /// What did not arrive when `count` did; `None` when that is not known any more, or cannot be true.
    pub(super) fn since(&mut self, count: u32) -> Option<impl Iterator<Item = &Vec<u8>>> {
        self.arrived(count);
        (self.forgotten == count).then(|| self.kept.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_kept_until_they_arrived() {
        let mut results = Results::default();
        (0..5).for_each(|number| results.push(vec![number]));
        let since = |results: &mut Results, count| {
            results.since(count).map(|kept| kept.map(|message| message[0]).collect::<Vec<_>>())
        };
        assert_eq!(since(&mut results, 0), Some(vec![0, 1, 2, 3, 4]));
        assert_eq!(since(&mut results, 2), Some(vec![2, 3, 4]));
        assert_eq!(since(&mut results, 1), None, "what arrived is forgotten");
        assert_eq!(since(&mut results, 6), None, "more than there were");
        results.arrived(5);
        assert_eq!(since(&mut results, 5), Some(vec![]));
    }

    #[test]
    fn a_client_that_never_says_what_arrived_costs_no_more() {
        let mut results = Results::default();
        (0..RESULTS_KEPT_MAX + 3).for_each(|_| results.push(vec![]));
        assert_eq!(results.kept.len(), RESULTS_KEPT_MAX);
        assert!(results.since(2).is_none());
        assert_eq!(results.since(3).map(Iterator::count), Some(RESULTS_KEPT_MAX));
    }
}
