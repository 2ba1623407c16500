//! The state tree: a small durable tree of nodes for operators and servers, with what is useful of Khepri's.
//!
//! - [`machine`]: the tree as a state machine: commands in, a reply and effects out; no I/O. [`command`] is what goes in and
//!   comes out, as data; [`condition`] and [`path`] are its parts, `state` the nodes and their indexes, `change_log` the last
//!   changes, [`limits`] the bounds of everything.
//! - [`snapshot`]: the whole tree as JSON.
//!
//! What it promises stands in `supervisor/docs/tree.md`.

pub mod change_log;
pub mod command;
pub mod condition;
pub mod limits;
pub mod machine;
pub mod path;
pub mod snapshot;
mod state;

pub use limits::Limits;
