//! The tasks of `vsekai sync`, one file each.

pub mod list_chunks;
