//! What can go wrong, and the exit code that tells a script which of it did.

use std::error::Error;
use std::fmt;
use std::path::Path;

/// What kind of failure it was: the process's exit code. 0 is success and 2 a wrong command line (clap's own code). Documented
/// in `--help` and `docs/README.md`; numbers are never given a second meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Nothing below fits.
    Failed = 1,
    /// The command line asks for what cannot be.
    Usage = 2,
    /// A file is missing, forbidden, a directory, or the disk fails.
    Unreadable = 3,
    /// A file, chunk, pack or answer is not what it should be: damaged, cut off, of another format.
    Damaged = 4,
    /// The result cannot be written: read-only, forbidden, the disk fails.
    Unwritable = 5,
    /// A server cannot be reached, or breaks off after all retries.
    Network = 6,
    /// Signed metadata is refused: signature, threshold, expiry, an older version than one seen before.
    Untrusted = 7,
    /// Not logged in, or not allowed.
    Denied = 8,
    /// There is not enough room; said before anything is written, where it can be known.
    NoSpace = 9,
    /// No such version, channel, profile, key, or running process.
    NotFound = 10,
    /// Another `vsekai` is at work on the same installation or store.
    Busy = 11,
    /// Stopped or paused on request before it was done; going on later is safe.
    Stopped = 12,
}

/// The exit codes as `--help` shows them.
pub const EXIT_CODES: &str = "\
Exit codes:
   0  done
   1  failed for a reason that no other code names
   2  the command line is wrong
   3  a file cannot be read
   4  a file is not what it should be: damaged, cut off, or of another format
   5  the result cannot be written
   6  a server cannot be reached, or broke off after all retries
   7  signed metadata is refused: signature, threshold, expiry, rollback
   8  not logged in, or not allowed
   9  not enough room
  10  no such version, channel, profile, key or process
  11  another vsekai is at work here
  12  stopped on request; going on later is safe";

/// A task failed: which kind of failure, on what, and why.
#[derive(Debug)]
pub struct TaskError {
    /// The exit code.
    pub exit: Exit,
    /// What it was about, for people: a file, an address, a version, and what is wrong with it.
    pub what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl TaskError {
    /// A failure that needs no further cause.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { exit, what: what.into(), source: None }
    }

    /// A failure and what it comes from, which is said after it.
    pub fn because(exit: Exit, what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { exit, what: what.into(), source: Some(source.into()) }
    }

    /// `file` cannot be read.
    pub fn unreadable(file: &Path, source: std::io::Error) -> Self {
        Self::because(Exit::Unreadable, format!("{}: cannot be read", shown(file)), source)
    }

    /// `file` cannot be written: [`Exit::NoSpace`] when the disk or quota is full, else [`Exit::Unwritable`].
    pub fn unwritable(file: &Path, source: std::io::Error) -> Self {
        let full = matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        let exit = if full { Exit::NoSpace } else { Exit::Unwritable };
        Self::because(exit, format!("{}: cannot be written", shown(file)), source)
    }

    /// The result cannot be written to standard output.
    pub fn output(source: std::io::Error) -> Self {
        Self::because(Exit::Unwritable, "the result cannot be written", source)
    }
}

impl fmt::Display for TaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for TaskError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The error and all its causes on one line.
pub fn one_line(error: TaskError) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

/// A file's name with whatever would break a line or a terminal made visible.
pub fn shown(file: &Path) -> String {
    file.to_string_lossy()
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect()
}
