//! What makes the supervisor itself fail. The caller can only stop: the command has been killed by then.

use std::io;

/// The operating system refused something without which no process can be supervised.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The handlers for SIGTERM and SIGINT could not be installed or read.
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
    /// The started process could not be held by a descriptor; without one its end cannot be seen (Linux 5.4 or newer).
    #[error("the started process cannot be watched")]
    Watch(#[source] io::Error),
    /// Waiting for the next event failed.
    #[error("waiting for events failed")]
    Poll(#[source] io::Error),
    /// The end of the process could not be collected.
    #[error("the ended process cannot be collected")]
    Collect(#[source] io::Error),
    /// A signal could not be sent to the process group.
    #[error("the process group cannot be signalled")]
    Signal(#[source] io::Error),
}
