//! What tests and proofs run against a store; not for shards.

pub mod conformance;
pub mod crash;
pub mod decoders;
pub mod disk_faults;
mod history;
pub mod model;
mod random;

pub use crate::journal::trial as journal_trial;
use crate::kv::Database;

/// A store to check.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'d> {
    /// The store.
    pub database: &'d Database,
    /// The embedded engine behind it, where faults are injected; `None` where there is none, as in a cluster.
    pub engine: Option<&'d Database>,
    /// All keys begin with it.
    pub prefix: &'d [u8],
    /// More of everything, and what takes seconds.
    pub long: bool,
}
