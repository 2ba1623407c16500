//! Plain data shared by every other crate: identifiers, units, wire messages, disk records and content definitions,
//! with their codecs and versions. No systems, no I/O; nothing here can block, and no decoder here can panic or
//! allocate more than a small multiple of its input.
//!
//! - [`id`], [`units`]: names of things and their measures.
//! - [`bits`]: bit-packed values, for what is sent many times a second.
//! - [`layout`]: bit-packed records, described once for Rust and for the generators of other languages' codecs.
//! - [`codec`]: the two primitives (variable-length integers and length-prefixed bytes) that all containers use.
//! - [`record`]: what is written to disk.
//! - [`wire`]: what is sent to and from game clients.
//! - [`content`]: what designers write.

pub mod bits;
pub mod codec;
pub mod content;
#[cfg(test)]
mod fixtures;
pub mod id;
pub mod layout;
pub mod record;
pub mod units;
pub mod wire;
