//! The sidekick: keeps game servers running, or any other command, and gives up in the open when it cannot.
//!
//! Many children, from a configuration:
//! - [`config`]: the file, checked.
//! - [`fleet`]: what to do and when, as a pure state machine over all children. No clock, no process.
//! - [`engine`]: does it: keepers, health, crash reports.
//! - [`keeper`]: a small process per child, which outlives the supervisor; [`link`] is what the two say to each other.
//! - [`notify`], [`log`], [`procfs`]: what children say, what is kept of their lines, what Linux says about them.
//! - [`api`]: HTTP and the page; [`client`] and [`cli`] are the command line's side of it.
//!
//! One command in the foreground:
//! - [`policy`]: the state machine of one command.
//! - [`runner`]: does it.
//!
//! And [`store`] serves an embedded store to this machine's shards; [`error`] is what makes the runner itself fail.

pub mod api;
pub mod cli;
pub mod client;
pub mod config;
pub mod engine;
pub mod error;
pub mod fleet;
pub mod keeper;
pub mod link;
pub mod log;
pub mod notify;
pub mod policy;
pub mod procfs;
pub mod runner;
pub mod store;
pub mod tree;
