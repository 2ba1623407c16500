//! What can go wrong. Variants say what the caller does; `Display` says its own part and `source` the rest.

use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;
use vsekai_schema::codec::DecodeError;

/// Why storage refused or failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// Something that the transaction read was changed by another one. Run it again.
    #[error("the transaction conflicts with another one")]
    Conflict,
    /// The transaction took so long that conflicts can no longer be told. Run it again.
    #[error("the transaction is too old")]
    TooOld,
    /// The store can't say whether the commit happened; it is not in flight any more. Run the transaction again only if it
    /// finds out by itself, or does no harm twice.
    #[error("the store does not know whether the commit happened")]
    CommitUnknownResult,
    /// The transaction asked for a version that the store has not reached. Run it again.
    #[error("the store has not reached the transaction's version yet")]
    FutureVersion,
    /// A process of the cluster is behind the others. Run the transaction again.
    #[error("a process of the store is behind")]
    ProcessBehind,
    /// The transaction reads a key that it has written with a versionstamp, whose value is known only after the commit.
    #[error("a key written with a versionstamp can't be read in the same transaction")]
    Unreadable,
    /// A key outside of what may be read or written: those from `\xff` on belong to the store itself.
    #[error("key {0} is outside of the legal range")]
    KeyOutside(String),
    /// The store can't be reached, or not be used on this machine. The text names address or package.
    #[error("{0}")]
    Unavailable(String),
    /// Another error of FoundationDB, by its number (`fdbcli` and its documentation explain them).
    #[error("FoundationDB error {code}: {message}")]
    Foundation {
        /// Its number.
        code: i32,
        /// Its own words.
        message: String,
        /// True when the same transaction may succeed if run again.
        retryable: bool,
    },
    /// Too much waits for the disk. Nothing was taken; try the same frame again, or stop taking input.
    #[error("{waiting} bytes of frames wait for the store, at most {limit} may")]
    Backlogged {
        /// Bytes waiting.
        waiting: u64,
        /// The configured limit.
        limit: u64,
    },
    /// The journal's disk is nearly full. Nothing was taken; try the same frame again when there is room.
    #[error("the disk of the journal has {free} bytes free, at least {needed} must be: make room, the world waits")]
    DiskNearlyFull {
        /// Bytes free.
        free: u64,
        /// The configured reserve.
        needed: u64,
    },
    /// Another shard shows signs of life. Stop that one first.
    #[error("the region is owned by {0}, which is alive")]
    Owned(String),
    /// The frames since the last flush are in another journal. Start where that is, or give them up knowingly.
    #[error(
        "the last frames of this world, those after {last_frame}, may be in the journal {place}; start with that journal, or \
         give them up with `abandon_journal`"
    )]
    OtherJournal {
        /// The last frame in the store.
        last_frame: u64,
        /// Where that journal is.
        place: String,
    },
    /// An earlier durable write failed: nothing more is made durable. Stop the shard.
    #[error("storage has stopped: {0}")]
    Poisoned(String),
    /// Another shard has taken the region over. Stop the shard.
    #[error("another shard owns the region: this one has epoch {ours}, the store says {found}")]
    Fenced {
        /// The epoch of this writer, or of the journal at hand.
        ours: u64,
        /// The epoch in the store.
        found: u64,
    },
    /// Another process has taken the journal over, as this one hung. Stop the shard.
    #[error("another process has taken the journal {} over", .0.display())]
    Seized(PathBuf),
    /// Another process, or another handle of this one, holds the path. Stop that one first.
    #[error("{} is already in use by another process", .0.display())]
    InUse(PathBuf),
    /// What is on disk is not what was written. Restore it from a copy; nothing was changed.
    #[error("{place} is corrupt: {detail}")]
    Corrupt {
        /// File and offset, or store and key.
        place: String,
        /// What was found.
        detail: String,
    },
    /// A stored record can't be read: damaged, or of a newer version.
    #[error("{place} cannot be read")]
    Decode {
        /// Which record.
        place: String,
        /// What the decoder says.
        #[source]
        source: DecodeError,
    },
    /// The operating system refused.
    #[error("cannot {action} {}{}", .path.display(), hint(.source))]
    Io {
        /// What was tried, as a verb phrase.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's own words.
        #[source]
        source: io::Error,
    },
    /// The embedded store failed.
    #[error("the store {} failed", .path.display())]
    Store {
        /// The store's file.
        path: PathBuf,
        /// The engine's own words.
        #[source]
        source: Box<redb::Error>,
    },
    /// A setting is out of range. Correct it.
    #[error("{0}")]
    Config(String),
    /// A frame that is not the one behind the last. A bug of the caller.
    #[error("frame {found} was appended, {expected} is next")]
    FrameOrder {
        /// The only frame that can be appended now.
        expected: u64,
        /// The frame at hand.
        found: u64,
    },
    /// A frame, key or value is larger than the format allows. Limits belong where state is changed.
    #[error("{what} has {found} bytes, at most {limit} are allowed")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        found: usize,
        /// The largest allowed.
        limit: usize,
    },
    /// There is no world yet: create it first.
    #[error("the store holds no world yet")]
    NoWorld,
    /// There is a world already: it is never overwritten.
    #[error("the store holds a world already")]
    WorldExists,
    /// Journal and store don't belong together. Put the right pair together, or move the journal away.
    #[error("the journal {} does not belong to this store: {detail}", .path.display())]
    Mismatch {
        /// The journal's directory.
        path: PathBuf,
        /// What does not fit.
        detail: String,
    },
}

impl Error {
    /// True when the same transaction may succeed if run again from its start, and is known not to have happened.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Conflict | Error::TooOld | Error::FutureVersion | Error::ProcessBehind => true,
            Error::Foundation { retryable, .. } => *retryable,
            _ => false,
        }
    }

    /// True when the store may do later what it does not do now: nothing is wrong with what was asked.
    pub fn may_pass(&self) -> bool {
        self.is_retryable() || matches!(self, Error::CommitUnknownResult | Error::Unavailable(_))
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Error::Io { action, path: path.to_owned(), source: source.into() }
    }

    pub(crate) fn corrupt(place: impl Into<String>, detail: impl Into<String>) -> Self {
        Error::Corrupt { place: place.into(), detail: detail.into() }
    }

    pub(crate) fn decode(place: impl Into<String>, source: DecodeError) -> Self {
        Error::Decode { place: place.into(), source }
    }

    /// The whole chain in one line: what is kept when the error itself can't be.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }
}

/// What an operator can do about the commonest refusals.
fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => " (no rights: is it owned by another user?)",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => " (the disk is full)",
        io::ErrorKind::ReadOnlyFilesystem => " (the file system is read-only)",
        _ => "",
    }
}
