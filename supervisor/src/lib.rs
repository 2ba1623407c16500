//! The sidekick: keeps one command running, and gives up in the open when it cannot.
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
