//! What is remembered of a run, in files of the portal's folder that are replaced as a whole.

use crate::error::{Exit, TaskError, shown};
use crate::whole;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use vsekai_supervisor::procfs::Process;

/// Held by the keeper as long as it lives.
pub(super) const LOCK_FILE: &str = "lock";
/// [`Run`].
pub(super) const RUN_FILE: &str = "run.json";
/// [`Ended`]; not there while it runs.
pub(super) const ENDED_FILE: &str = "ended.json";
/// What the keeper itself has to say.
pub(super) const WORDS_FILE: &str = "keeper.log";
/// What the game writes to its standard output and error.
pub(super) const LOG_FOLDER: &str = "logs";

const RECORD_BYTES_MAX: u64 = 1 << 20;

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Program {
    pub(super) program: PathBuf,
    #[serde(default)]
    pub(super) arguments: Vec<String>,
}

/// One launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    /// Random; in the environment of the game.
    pub(super) id: String,
    /// `None` until it has begun.
    pub(super) keeper: Option<Process>,
    /// How often the game was started.
    pub(super) starts: u32,
    /// Absolute.
    pub(super) program: Program,
    /// The version's folder, which becomes the working directory.
    pub(super) folder: PathBuf,
    pub(super) version: Option<String>,
    pub(super) address: Option<String>,
    /// A secret: this file has mode 0600.
    pub(super) session: Option<String>,
    pub(super) restart: bool,
    pub(super) grace_ms: u64,
    /// Seconds since 1970.
    pub(super) since: u64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ended {
    pub(super) outcome: String,
    /// Seconds since 1970.
    pub(super) at: u64,
}

pub(super) fn load<T: DeserializeOwned>(file: &Path) -> Result<Option<T>, TaskError> {
    let Some(bytes) = whole::read(file, RECORD_BYTES_MAX)? else { return Ok(None) };
    let damaged =
        |error| TaskError::because(Exit::Damaged, format!("{}: remove it if nothing runs", shown(file)), error);
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

pub(super) fn store(file: &Path, record: &impl Serialize) -> Result<(), TaskError> {
    let bytes = serde_json::to_vec(record).map_err(|error| TaskError::output(error.into()))?;
    whole::write(file, &bytes, whole::PRIVATE)
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
