//! What can go wrong in a cluster, made to go wrong on purpose in the embedded stores, so that everything above the API is
//! tested against it.

use super::operation::Committed;
use crate::error::Error;
use crate::sync::locked;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The commit conflicts, and did not happen.
    Conflict,
    /// Whether the commit happened is not told; it did.
    UnknownButCommitted,
    /// Whether the commit happened is not told; it did not.
    UnknownAndLost,
    /// The transaction is too old.
    TooOld,
    /// The version is not reached yet.
    FutureVersion,
    /// A process is behind.
    ProcessBehind,
    /// It works, but takes this much longer.
    Slow(Duration),
}

/// Random faults: in how many of a thousand operations each kind strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomFaults {
    /// Decides all of them.
    pub seed: u64,
    /// Of a thousand commits, how many meet each of the kinds that a commit can meet.
    pub commits_per_mille: u16,
    /// Of a thousand reads, how many meet each of the kinds that a read can meet.
    pub reads_per_mille: u16,
}

const ON_COMMIT: [Fault; 6] = [
    Fault::Conflict,
    Fault::UnknownButCommitted,
    Fault::UnknownAndLost,
    Fault::TooOld,
    Fault::FutureVersion,
    Fault::ProcessBehind,
];
const ON_READ: [Fault; 3] = [Fault::TooOld, Fault::FutureVersion, Fault::ProcessBehind];

/// The faults of one store.
#[derive(Debug, Default)]
pub(super) struct Faults {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    commits: VecDeque<Fault>,
    reads: VecDeque<Fault>,
    random: Option<RandomFaults>,
    /// Commits wait.
    held: bool,
}

impl Faults {
    pub(super) fn next_commits(&self, faults: impl IntoIterator<Item = Fault>) {
        locked(&self.state).commits.extend(faults);
    }

    pub(super) fn next_reads(&self, faults: impl IntoIterator<Item = Fault>) {
        locked(&self.state).reads.extend(faults);
    }

    pub(super) fn random(&self, faults: Option<RandomFaults>) {
        locked(&self.state).random = faults;
    }

    pub(super) fn hold(&self, held: bool) {
        locked(&self.state).held = held;
        self.changed.notify_all();
    }

    /// What strikes the commit at hand. Waits while commits are held.
    fn on_commit(&self) -> Option<Fault> {
        let mut state = locked(&self.state);
        while state.held {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let fault = state.commits.pop_front().or_else(|| {
            let random = state.random.as_mut()?;
            drawn(&mut random.seed, random.commits_per_mille, &ON_COMMIT)
        });
        drop(state);
        slept(fault)
    }

    /// Lets a commit happen, or not, and be told of, or not, as the fault that strikes it will have it.
    pub(super) fn around_commit(&self, commit: impl FnOnce() -> Result<Committed, Error>) -> Result<Committed, Error> {
        let fault = self.before_commit()?;
        let committed = commit()?;
        fault.map_or(Ok(committed), |fault| Err(fault.error()))
    }

    /// What strikes before the commit is the error; what strikes after it, to be told instead of its success, is returned.
    pub(super) fn before_commit(&self) -> Result<Option<Fault>, Error> {
        match self.on_commit() {
            None => Ok(None),
            Some(Fault::UnknownButCommitted) => Ok(Some(Fault::UnknownButCommitted)),
            Some(fault) => Err(fault.error()),
        }
    }

    pub(super) fn on_read(&self) -> Result<(), Error> {
        let mut state = locked(&self.state);
        let fault = state.reads.pop_front().or_else(|| {
            let random = state.random.as_mut()?;
            drawn(&mut random.seed, random.reads_per_mille, &ON_READ)
        });
        drop(state);
        slept(fault).map_or(Ok(()), |fault| Err(fault.error()))
    }
}

impl Fault {
    pub(super) fn error(self) -> Error {
        match self {
            Fault::Conflict => Error::Conflict,
            Fault::UnknownButCommitted | Fault::UnknownAndLost => Error::CommitUnknownResult,
            Fault::FutureVersion => Error::FutureVersion,
            Fault::ProcessBehind => Error::ProcessBehind,
            // A slow read has no error of its own: it is the transaction that grows too old.
            Fault::TooOld | Fault::Slow(_) => Error::TooOld,
        }
    }
}

fn slept(fault: Option<Fault>) -> Option<Fault> {
    if let Some(Fault::Slow(time)) = fault {
        std::thread::sleep(time);
        return None;
    }
    fault
}

/// SplitMix64 (G. L. Steele, D. Lea, C. H. Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
fn drawn(seed: &mut u64, per_mille: u16, kinds: &[Fault]) -> Option<Fault> {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let place = usize::try_from(mixed % 1_000).unwrap_or_default();
    kinds.get(place / usize::from(per_mille).max(1)).copied().filter(|_| per_mille > 0)
}
