//! Whole-system tests and proofs, with real processes.

pub mod browser;
pub mod harness;
pub mod proofs;
pub mod relay;
