//! A small, safe, blocking client of FoundationDB (7.3 and 7.4) over its C library `libfdb_c.so`.
//!
//! The library is loaded at run time, so nothing of it is needed to build or to start a program that may use FoundationDB
//! but does not. The functions are declared by hand, after `fdb_c.h` of API versions 730 and 740, in `declared`.
//!
//! - [`Database`], [`Transaction`], [`Watch`]: what callers use.
//! - `client`: the library found, loaded and started, once per process. [`stop_network`] ends it.
//! - `future`: waiting for the library's answers, with or without a bound.
//! - `declared`: the C functions, numbers and structures.
//!
//! The library waits for ever for a cluster that can't be reached. Here every read has a bound ([`READ_TIMEOUT`]); a
//! commit has none, because one that was given up may still happen.
//!
//! Source: <https://apple.github.io/foundationdb/api-c.html> and the header itself.

mod client;
mod cluster_file;
mod database;
mod declared;
mod error;
mod future;
mod transaction;

pub use client::{LIBRARY_VARIABLE, stop_network, use_library};
pub use database::{Database, READ_TIMEOUT, READ_TIMEOUT_VARIABLE};
pub use declared::{ConflictKind, Mutation};
pub use error::Error;
pub use transaction::{Committed, RangeRead, Transaction, Versionstamp, Watch};
