//! One store per cluster file.

use crate::error::{IO_ERROR, NO_CLUSTER_FILE};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// What the cluster file asks the double to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    None,
    Unreachable,
    Slow,
}

/// What an `FDBDatabase` points to.
pub(crate) struct Database {
    pub(crate) store: vsekai_storage::kv::Database,
    pub(crate) trouble: Trouble,
    /// The error of the next commit.
    next_commit: Mutex<Option<i32>>,
}

static DATABASES: Mutex<BTreeMap<PathBuf, Arc<Database>>> = Mutex::new(BTreeMap::new());

impl Database {
    pub(crate) fn open(cluster_file: &Path) -> Result<Arc<Self>, i32> {
        let cluster_file = cluster_file.canonicalize().map_err(|_| NO_CLUSTER_FILE)?;
        let mut databases = DATABASES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = databases.get(&cluster_file) {
            return Ok(database.clone());
        }
        let text = std::fs::read_to_string(&cluster_file).map_err(|_| NO_CLUSTER_FILE)?;
        let description = text.split_once(':').map_or("", |(description, _)| description.trim());
        let trouble = match description {
            "unreachable" => Trouble::Unreachable,
            "slow" => Trouble::Slow,
            _ => Trouble::None,
        };
        let next_commit = description.strip_prefix("fails_").and_then(|code| code.parse().ok());
        let store = vsekai_storage::kv::Database::open("mem:").map_err(|_| IO_ERROR)?;
        let database = Arc::new(Database { store, trouble, next_commit: Mutex::new(next_commit) });
        databases.insert(cluster_file, database.clone());
        Ok(database)
    }

    /// The error that the commit at hand must end with.
    pub(crate) fn commit_error(&self) -> Option<i32> {
        self.next_commit.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
