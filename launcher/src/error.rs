//! What can go wrong, and the exit code that tells a script which of it did.

use crate::caibx::IndexError;
use std::io;
use std::path::{Path, PathBuf};

/// A task failed. Every variant says what to look at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    /// The file is missing, forbidden, a directory, or the disk fails.
    #[error("{}: cannot be read", shown(.file))]
    Unreadable { file: PathBuf, source: io::Error },
    /// The file was read, and is not a sound index.
    #[error("{}", shown(.file))]
    BadIndex { file: PathBuf, source: IndexError },
    /// The result could not be delivered.
    #[error("the result cannot be written")]
    Output(#[source] io::Error),
}

impl TaskError {
    /// Documented in `--help` and `docs/README.md`. 0 is success and 2 a wrong command line (clap's own code).
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Unreadable { .. } => 3,
            Self::BadIndex { .. } => 4,
            Self::Output(_) => 5,
        }
    }
}

/// The error and all its causes on one line.
pub(crate) fn one_line(error: TaskError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

/// A file's name with whatever would break a line or a terminal made visible.
pub(crate) fn shown(file: &Path) -> String {
    file.to_string_lossy()
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}
