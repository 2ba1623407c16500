//! Whole-system tests and proofs, with real processes.

pub mod browser;
pub mod codecs;
pub mod harness;
pub mod proofs;
pub mod relay;

// The measurements need peers, too, and tests may use the bench, not the other way.
pub use vsekai_bench::debian;
