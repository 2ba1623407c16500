//! Why the tree did not do what was asked. Variants say what the caller does.

use super::change_log::Compacted;
use super::command::Refusal;
use super::machine::Damaged;

/// Why a request to the tree failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The command was refused, and nothing changed. Ask for something else.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The cursor can't be resumed from. Read the tree again.
    #[error(transparent)]
    Compacted(#[from] Compacted),
    /// Too many requests wait already. Try again later.
    #[error("{waiting} requests wait for the state tree already")]
    Busy {
        /// How many may.
        waiting: usize,
    },
    /// Too many watch already. Try again later.
    #[error("there are {limit} watchers already")]
    TooManyWatchers {
        /// How many may be.
        limit: usize,
    },
    /// A durable write failed: the tree does nothing more until it is opened anew. Whether the command at hand is durable is
    /// not known.
    #[error("the state tree has stopped: {0}")]
    Stopped(String),
}

/// Why the tree could not be opened, or not be written. It must be opened anew.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store failed.
    #[error("the state tree's store failed")]
    Store(#[from] vsekai_storage::Error),
    /// What is in the store is not what was written.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// Another process has written the tree since.
    #[error("another process has written the state tree in the same store")]
    Fenced,
    /// The limits can't be met.
    #[error("a node of the largest size does not fit into one value of the store")]
    Limits,
    /// The operating system refused a thread.
    #[error("the state tree's thread can't be started")]
    Thread(#[source] std::io::Error),
}
