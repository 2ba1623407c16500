//! Journal and store, each for itself, on a disk that dies at every step, and rots at every place.
//!
//! - [`journal_crashes`], [`store_crashes`]: the power goes off in each operation of a script, and again in each operation of
//!   the recovery. What was reported durable must be there, in order, whole, and nothing that was never asked for.
//! - [`journal_damage`], [`store_damage`]: each byte turns over, each sector is zeroed. What is then read must be right, or
//!   refused by name.
//!
//! Each returns what it counted, or the first case that failed, with what is needed to see it again.

mod damage;
mod journal;
mod store;

pub use damage::{Ending, journal_damage, store_damage};
pub use journal::journal_crashes;
pub use store::store_crashes;

use crate::disk::{CrashChoice, SimulatedDisk};
use crate::error::Error;
use std::collections::BTreeMap;
use std::fmt;

/// What an enumeration of crashes went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CrashCounts {
    /// Operations of the script; the power went off in each.
    pub operations: u64,
    /// Disks that were recovered: operations times choices.
    pub recoveries: u64,
    /// Crashes in an operation of a recovery, each followed by another recovery.
    pub crashes_in_recovery: u64,
    /// Records, or commits, that had been reported durable and were found again, over all recoveries.
    pub acknowledged_found: u64,
    /// Those found beyond: written, and durable by luck.
    pub unacknowledged_found: u64,
}

impl fmt::Display for CrashCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} operations, {} recoveries, {} crashes in recovery; found {} acknowledged and {} others; lost 0",
            self.operations,
            self.recoveries,
            self.crashes_in_recovery,
            self.acknowledged_found,
            self.unacknowledged_found
        )
    }
}

/// What an enumeration of damage came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DamageCounts {
    /// Bytes turned over and sectors zeroed, one at a time.
    pub changes: u64,
    /// After which everything was read right.
    pub harmless: u64,
    /// After which reading was refused, by the kind of error.
    pub refused: BTreeMap<&'static str, u64>,
    /// After which the last group of the journal was taken for torn: the case that nothing in the journal can tell.
    pub taken_for_torn: u64,
}

impl fmt::Display for DamageCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} changes: {} harmless", self.changes, self.harmless)?;
        for (kind, count) in &self.refused {
            write!(f, ", {count} refused as {kind}")?;
        }
        write!(f, ", {} taken for a torn write; read wrong 0", self.taken_for_torn)
    }
}

/// All the ways in which a crash may leave the disk that are tried: nothing kept, all kept, and `random` others.
fn choices(random: u64, seed: u64, operation: u64) -> impl Iterator<Item = CrashChoice> {
    let seeds = (0..random).map(move |index| {
        CrashChoice::Random(seed.wrapping_add(operation.wrapping_mul(1_000_003)).wrapping_add(index))
    });
    [CrashChoice::NoneKept, CrashChoice::AllKept].into_iter().chain(seeds)
}

/// A disk on which `operation` is the last, and fails.
fn doomed(operation: u64) -> SimulatedDisk {
    let disk = SimulatedDisk::new();
    disk.crash_at(operation);
    disk
}

/// The name of an error's kind.
fn kind(error: &Error) -> &'static str {
    match error {
        Error::Corrupt { .. } => "Corrupt",
        Error::Decode { .. } => "Decode",
        Error::Mismatch { .. } => "Mismatch",
        Error::Store { .. } => "Store",
        Error::Io { .. } => "Io",
        _ => "other",
    }
}

#[cfg(test)]
mod tests;
