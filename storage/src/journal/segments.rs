//! The files of the journal.

use crate::disk::{Disk, LockedDirectory};
use crate::error::Error;
use crate::sync::locked;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The path of the segment whose first record has `first_lsn`.
pub(crate) fn segment_path(directory: &Path, first_lsn: u64) -> PathBuf {
    directory.join(format!("{first_lsn:020}.seg"))
}

/// The first lsns of all segments in `directory`, rising. No directory is an empty journal; what does not end in `.seg` is
/// none of the journal's records.
pub(crate) fn list(disk: &dyn Disk, directory: &Path) -> Result<Vec<u64>, Error> {
    let paths = match disk.list(directory) {
        Ok(paths) => paths,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list the journal", directory, e)),
    };
    let mut all = Vec::new();
    for path in paths {
        if path.extension().is_none_or(|extension| extension != "seg") {
            continue;
        }
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        match number {
            Some(first_lsn) if segment_path(directory, first_lsn) == path => all.push(first_lsn),
            _ => return Err(Error::corrupt(path.display().to_string(), "its name is not that of a segment")),
        }
    }
    all.sort_unstable();
    Ok(all)
}

/// The segments there are, shared by the one who appends and the one who reads and removes.
#[derive(Debug)]
pub(crate) struct Segments {
    directory: LockedDirectory,
    first_lsns: Mutex<VecDeque<u64>>,
}

impl Segments {
    pub(crate) fn new(directory: LockedDirectory, first_lsns: impl IntoIterator<Item = u64>) -> Self {
        Segments { directory, first_lsns: Mutex::new(first_lsns.into_iter().collect()) }
    }

    pub(crate) fn directory(&self) -> &LockedDirectory {
        &self.directory
    }

    /// Takes up a segment that was just made behind all others.
    pub(crate) fn push(&self, first_lsn: u64) {
        locked(&self.first_lsns).push_back(first_lsn);
    }

    /// The first lsn of the segment that holds `lsn`.
    pub(crate) fn holding(&self, lsn: u64) -> Option<u64> {
        locked(&self.first_lsns).iter().rev().find(|first| **first <= lsn).copied()
    }

    /// Removes the segments whose records are all no newer than `stored_lsn`, but keeps the last stored record, so that the
    /// journal always says by itself which frame was the last durable one.
    pub(crate) fn remove_stored(&self, stored_lsn: u64) -> Result<(), Error> {
        loop {
            let oldest = {
                let segments = locked(&self.first_lsns);
                match (segments.front(), segments.get(1)) {
                    (Some(oldest), Some(next)) if *next <= stored_lsn => *oldest,
                    _ => return Ok(()),
                }
            };
            self.remove(oldest)?;
        }
    }

    /// Removes one segment, durably: oldest first, so that a crash leaves no hole. One that is gone already is as good.
    pub(crate) fn remove(&self, first_lsn: u64) -> Result<(), Error> {
        let path = segment_path(self.directory.path(), first_lsn);
        match self.directory.disk().remove(&path) {
            // A process from which this one has taken the journal over may remove what it had brought into the store.
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io("remove the segment", &path, e)),
            _ => {}
        }
        self.directory.sync()?;
        locked(&self.first_lsns).retain(|first| *first != first_lsn);
        Ok(())
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        locked(&self.first_lsns).len()
    }
}
