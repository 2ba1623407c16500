//! The sidekick: keeps one command running, and gives up in the open when it cannot.
//!
//! - [`policy`]: what to do and when, as a pure state machine: events and time in, actions out. No clock, no process.
//! - [`runner`]: does it: processes, process groups, signals, waiting.
//! - [`store`]: serves an embedded store to this machine's shards.
//! - [`error`]: what makes the supervisor itself fail (the command's failures are not errors, but events).

pub mod error;
pub mod policy;
pub mod runner;
pub mod store;
pub mod tree;
