//! Where the world survives: a FoundationDB-shaped key-value store, a journal in front of it, and the flusher between.
//!
//! A frame is appended to the journal, is durable once that is synced, and is folded into the store some seconds later
//! together with the register that says how far the store is. Recovery drains the journal and then loads the store.
//! Formats and invariants: `storage/docs/format.md`.
//!
//! - [`Storage`]: the handle that a shard holds.
//! - [`kv`]: the key-value API and its stores, `mem:`, `local:DIR`, `unix:SOCKET`, `fdb:CLUSTER_FILE`; [`keys`]: what lies where.
//! - [`disk`]: what journal and store lie on, the machine's disk or a simulated one.
//! - [`tools`]: what operators do with a store.
//! - `journal`: segments, records, scanning, tailing; `fold`: frames into entity lists; `flush`: into the store.
//!
//! A failed durable write is never retried: it poisons the storage, and the shard stops and starts anew from disk.

mod change_log;
mod config;
pub mod disk;
mod error;
mod flush;
mod fold;
mod home;
mod home_cache;
mod journal;
pub mod keys;
pub mod kv;
mod lease;
mod planted;
pub mod proof;
mod register;
mod storage;
mod sync;
pub mod tools;

pub use change_log::read_changes;
pub use config::Config;
pub use error::Error;
pub use home::read_home;
pub use register::ID_BLOCK;
pub use storage::{
    Drained, Event, EventSink, Exporter, NewWorld, Opened, SavedWorld, Status, Storage, drain_journal, journal_bytes,
    last_durable_frame,
};
