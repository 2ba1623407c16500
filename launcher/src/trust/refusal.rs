//! Why metadata is not trusted, by the attack's name.

use crate::error::{Exit, TaskError};
use std::fmt;

/// What it would be, if it is no mistake. Names as in the TUF specification and `launcher/docs/trust.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    /// Not signed by enough of the right keys.
    Signature,
    /// Older than what was seen before.
    Rollback,
    /// Expired: an old state is held out.
    Freeze,
    /// A version so high that no later one could follow.
    FastForward,
    /// Files that do not belong together.
    MixAndMatch,
    /// Longer than it may be.
    EndlessData,
    /// Not what it should be at all.
    Malformed,
    /// This machine's clock says an earlier time than it did.
    Clock,
    /// No root is pinned.
    NoRoot,
}

impl Attack {
    /// As error messages begin.
    pub fn name(self) -> &'static str {
        match self {
            Self::Signature => "arbitrary software",
            Self::Rollback => "rollback",
            Self::Freeze => "freeze",
            Self::FastForward => "fast-forward",
            Self::MixAndMatch => "mix-and-match",
            Self::EndlessData => "endless data",
            Self::Malformed => "malformed",
            Self::Clock => "clock set back",
            Self::NoRoot => "no trusted root",
        }
    }
}

/// A file that is not trusted.
#[derive(Debug)]
pub struct Refusal {
    file: String,
    attack: Attack,
    why: String,
}

impl Refusal {
    pub fn new(file: &str, attack: Attack, why: impl Into<String>) -> Self {
        Self { file: file.to_owned(), attack, why: why.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.file, self.attack.name(), self.why)
    }
}

impl From<Refusal> for TaskError {
    fn from(refusal: Refusal) -> Self {
        Self::new(Exit::Untrusted, refusal.to_string())
    }
}
