//! The state tree: a small durable tree of nodes for operators and servers, with what is useful of Khepri's.
//!
//! - [`machine`]: the tree as a state machine: commands in, a reply and effects out; no I/O. [`command`] is what goes in and
//!   comes out, as data; [`condition`] and [`path`] are its parts, `state` the nodes and their indexes, `change_log` the last
//!   changes, [`limits`] the bounds of everything.
//! - [`snapshot`]: the whole tree as JSON.
//! - [`store`]: makes what a command did durable, in one transaction of the key-value store. [`handle`]: the thread that owns
//!   both, and what everybody else asks it by. [`error`]: why it did not do it.
//! - [`http`]: the tree over HTTP, described by [`openapi`]. [`client`] asks it so, for the command line of [`cli`].
//!
//! What it promises stands in `supervisor/docs/tree.md`.

pub mod change_log;
pub mod cli;
pub mod client;
pub mod command;
pub mod condition;
pub mod error;
pub mod handle;
pub mod http;
pub mod limits;
pub mod machine;
pub mod openapi;
pub mod path;
pub mod snapshot;
mod state;
pub mod store;

pub use error::TreeError;
pub use handle::TreeHandle;
pub use limits::Limits;

#[cfg(test)]
mod tests;
