//! Profiles: which build is followed, from where, to where.

use std::path::PathBuf;

/// One profile, complete: what the commands of `system`, `version` and `sync start` work on unless a flag says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// The repository's address: `https://…`, `http://…` or a folder.
    pub repository: String,
    /// Which build: 1 to 64 of `[a-z0-9-]`.
    pub client_id: String,
    /// The channel that is followed.
    pub channel: String,
    /// The folder of the installation: versions beside each other, and the pointer to the current one.
    pub root: PathBuf,
}
