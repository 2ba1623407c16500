//! Whole-system tests and proofs, with real processes.

pub mod harness;
pub mod proofs;
