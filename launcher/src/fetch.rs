//! Where a repository's files come from: a folder, a plain static web server, the update service. All three are the same tree of files.

use std::io;
use std::ops::Range;

/// Reads files of a repository by their path in it (`/` between the parts, never `..`). Callers run on several threads.
pub trait Fetch: Send + Sync {
    /// The whole file, refused when it is longer than `max` bytes.
    fn whole(&self, path: &str, max: u64) -> Result<Vec<u8>, FetchError>;

    /// The bytes `range` of a file, given to `into` piece by piece, in order, exactly as many as asked for.
    fn range(
        &self,
        path: &str,
        range: Range<u64>,
        into: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), FetchError>;
}

/// Why a file did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The repository has no such file.
    #[error("{path}: not there")]
    NotFound {
        /// In the repository.
        path: String,
    },
    /// More bytes than were asked for or allowed: an endless answer is cut here.
    #[error("{path}: longer than the {max} bytes allowed")]
    TooLong {
        /// In the repository.
        path: String,
        /// Bytes.
        max: u64,
    },
    /// The server is not there, answers with an error, or broke off, after all retries.
    #[error("{path}: {why}")]
    Network {
        /// In the repository.
        path: String,
        /// For people.
        why: String,
    },
    /// `into` failed: the disk is full, say.
    #[error("{path}: what came cannot be written")]
    Sink {
        /// In the repository.
        path: String,
        /// What `into` said.
        #[source]
        source: io::Error,
    },
}
