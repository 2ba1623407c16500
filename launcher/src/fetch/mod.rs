//! Where a repository's files come from: a folder, a plain static web server, the update service. All three are the same tree of files.

mod folder;
mod http;

pub use folder::Folder;
pub use http::{Http, Limits};

use crate::error::{Exit, TaskError};
use crate::read;
use crate::tls;
use http::Pace;
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;

/// Reads files of a repository by their path in it (`/` between the parts, never `..`). Callers run on several threads.
pub trait Fetch: Send + Sync {
    /// How many requests are worth making at a time.
    fn connections(&self) -> usize {
        Limits::default().connections
    }

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

impl FetchError {
    /// As the failure of a task.
    pub fn into_task(self) -> TaskError {
        match self {
            Self::NotFound { path } => TaskError::new(
                Exit::NotFound,
                format!("{path}: the repository does not have it; it may be deleted or not yet copied"),
            ),
            Self::TooLong { .. } => TaskError::new(Exit::Damaged, self.to_string()),
            Self::Network { .. } => TaskError::new(Exit::Network, self.to_string()),
            Self::Sink { path, source } => {
                let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
                let exit = if full { Exit::NoSpace } else { Exit::Unwritable };
                TaskError::because(exit, format!("{path}: what came cannot be written"), source)
            }
        }
    }
}

/// Opens a repository: a web address (`http://`, `https://`) or a folder.
///
/// # Errors
/// When the address is neither, the folder is not there, or the settings for https are not what they should be.
pub fn open(repository: &str, limits: Limits) -> Result<Box<dyn Fetch>, TaskError> {
    if repository.starts_with("http://") || repository.starts_with("https://") {
        return Ok(Box::new(Http::new(repository, limits, tls::config(repository)?)));
    }
    if let Some((scheme, _)) = repository.split_once("://") {
        return Err(TaskError::new(
            Exit::Usage,
            format!("{repository}: {scheme} is not spoken, only http, https and folders are"),
        ));
    }
    Ok(Box::new(Folder::open(Path::new(repository), limits)?))
}

/// What came between a reader and `into`.
enum Broken {
    /// The reader ended too early.
    Ended,
    Read(io::Error),
    Sink(io::Error),
}

/// Gives `into` the bytes from `next` to `end`, having passed over `skip` of them; `next` says how far it came.
fn pass_on(
    reader: &mut dyn Read,
    pace: &Pace,
    mut skip: u64,
    next: &mut u64,
    end: u64,
    into: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> Result<(), Broken> {
    let mut piece = vec![0; 64 << 10];
    while *next < end {
        let wanted = piece.len().min(usize::try_from(skip + end - *next).unwrap_or(usize::MAX));
        let count = match read::some(reader, &mut piece[..wanted]).map_err(Broken::Read)? {
            0 => return Err(Broken::Ended),
            count => count,
        };
        pace.take(count as u64);
        let skipped = count.min(usize::try_from(skip).unwrap_or(usize::MAX));
        skip -= skipped as u64;
        let bytes = &piece[skipped..count];
        if !bytes.is_empty() {
            into(bytes).map_err(Broken::Sink)?;
            *next += bytes.len() as u64;
        }
    }
    Ok(())
}

/// Whether a path in a repository is one: a server may be asked for anything, a folder must not be left.
pub(crate) fn is_path(path: &str) -> bool {
    let name =
        |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains(['\\', '\0', '?', '#', '%']);
    path.len() <= 512 && path.split('/').all(name)
}
