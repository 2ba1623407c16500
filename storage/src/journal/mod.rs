//! The journal: append-only segments on the local disk. A frame is durable once its record is synced here.
//!
//! A directory of `{first_lsn:020}.seg` files, preallocated, each a run of records whose lsn has no gaps across files.
//! [`mod@scan`] checks all of it before anything else reads or writes, [`append`] writes groups with one sync each,
//! [`tail`] reads what is durable, [`segments`] knows the files and removes those that are done with, [`synced`] remembers
//! beside them how far they were synced. [`mod@trial`] tries all of it on a simulated disk.
//!
//! Invariants: a segment is synced before the next one exists, so only the last can end in a torn record; whatever was
//! ever reported durable is found again, or the scan fails and says where.

pub(crate) mod append;
pub(crate) mod record;
pub(crate) mod scan;
pub(crate) mod segments;
pub(crate) mod synced;
pub(crate) mod tail;
pub mod trial;

pub(crate) use append::Appender;
pub(crate) use record::{HEADER_BYTES, Header, PAYLOAD_BYTES_MAX};
pub(crate) use scan::{Scan, scan};
pub(crate) use segments::Segments;
pub(crate) use tail::{Record, Tail};

#[cfg(test)]
mod tests;
