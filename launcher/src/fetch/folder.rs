//! A repository in a folder: a USB stick, a network drive, a trial.

use super::http::Pace;
use super::{Broken, Fetch, FetchError, Limits, is_path, pass_on};
use crate::error::{Exit, TaskError, shown};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Reads files below a folder.
#[derive(Debug)]
pub struct Folder {
    folder: PathBuf,
    pace: Pace,
    connections: usize,
}

impl Folder {
    /// Of `limits`, only the bandwidth and the number of connections are used.
    ///
    /// # Errors
    /// When it is not there.
    pub fn open(folder: &Path, limits: Limits) -> Result<Self, TaskError> {
        if !folder.is_dir() {
            return Err(TaskError::new(Exit::Unreadable, format!("{}: no such folder", shown(folder))));
        }
        Ok(Self {
            folder: folder.to_owned(),
            pace: Pace::new(limits.bytes_per_second),
            connections: limits.connections,
        })
    }

    fn file(&self, path: &str) -> Result<(File, u64), FetchError> {
        if !is_path(path) {
            return Err(FetchError::NotFound { path: path.into() });
        }
        let opened = File::open(self.folder.join(path)).and_then(|file| {
            let found = file.metadata()?;
            if found.is_file() { Ok((file, found.len())) } else { Err(io::ErrorKind::NotFound.into()) }
        });
        opened.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => FetchError::NotFound { path: path.into() },
            _ => network(path, &error),
        })
    }
}

fn network(path: &str, error: &io::Error) -> FetchError {
    FetchError::Network { path: path.into(), why: error.to_string() }
}

impl Fetch for Folder {
    fn connections(&self) -> usize {
        self.connections
    }

    fn whole(&self, path: &str, max: u64) -> Result<Vec<u8>, FetchError> {
        let (file, size) = self.file(path)?;
        let mut bytes = vec![];
        if size <= max {
            file.take(max + 1).read_to_end(&mut bytes).map_err(|error| network(path, &error))?;
        }
        if size > max || bytes.len() as u64 > max {
            return Err(FetchError::TooLong { path: path.into(), max });
        }
        Ok(bytes)
    }

    fn range(
        &self,
        path: &str,
        range: Range<u64>,
        into: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), FetchError> {
        let (mut file, _) = self.file(path)?;
        file.seek(SeekFrom::Start(range.start)).map_err(|error| network(path, &error))?;
        let mut next = range.start;
        pass_on(&mut file, &self.pace, 0, &mut next, range.end, into).map_err(|broken| match broken {
            Broken::Ended => {
                let why = format!("ends {} bytes before {}", range.end - next, range.end);
                FetchError::Network { path: path.into(), why }
            }
            Broken::Read(error) => network(path, &error),
            Broken::Sink(source) => FetchError::Sink { path: path.into(), source },
        })
    }
}
