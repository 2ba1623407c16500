//! What can go wrong. Each is one line for an operator.

use std::time::Duration;
use thiserror::Error;

/// Why FoundationDB refused, failed or was not reached.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The C library is missing, too old or does not start. Install the package that the text names.
    #[error("{0}")]
    Library(String),
    /// The cluster file is missing, unreadable or not one. Correct the path or the file.
    #[error("{0}")]
    ClusterFile(String),
    /// No answer came within the bound. Nothing was written.
    #[error(
        "the FoundationDB cluster at {addresses} is unreachable: no answer within {} ms (cluster file {cluster_file})",
        .waited.as_millis()
    )]
    Unreachable {
        /// The addresses in the cluster file.
        addresses: String,
        /// Which cluster file.
        cluster_file: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The library answered with an error.
    #[error("FoundationDB error {code}: {message}")]
    Code {
        /// Its number.
        code: i32,
        /// The library's words for it.
        message: String,
        /// The library says that the transaction may succeed if run again.
        retryable: bool,
        /// The library says that the transaction may have happened.
        maybe_committed: bool,
    },
}

impl Error {
    /// The library's number for the error, if it is one of the library's.
    pub fn code(&self) -> Option<i32> {
        match self {
            Error::Code { code, .. } => Some(*code),
            _ => None,
        }
    }
}
