//! What supervisor and keepers say to each other, and what a keeper leaves behind for a supervisor that was not there.
//!
//! Lines of JSON over a Unix socket in the child's folder (mode 0700). A keeper's first line is its [`Record`]. Both ends are the
//! same program, but perhaps of different versions: a supervisor may be replaced while keepers stay. So nothing may be
//! taken away from these forms, and what is added must have a default.

use crate::log::LogLimits;
use crate::notify::Said;
use crate::procfs::Process;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Most bytes of a line of either side, or of a record.
pub const LINE_BYTES_MAX: usize = 256 * 1_024;
/// In the child's folder: held by its keeper as long as it lives.
pub const LOCK: &str = "lock";
/// In the child's folder: where its keeper listens.
pub const SOCKET: &str = "keeper.sock";
/// In the child's folder: where its keeper hears what it says.
pub const NOTIFY_SOCKET: &str = "notify.sock";
/// In the child's folder: the [`Record`] of the run.
pub const RECORD: &str = "run.json";
/// In the child's folder: its lines.
pub const LOGS: &str = "logs";
/// In the child's folder: its crash reports.
pub const CRASHES: &str = "crashes";

/// What a keeper is to run; it reads this from its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The child's name.
    pub name: String,
    /// Counts the child's runs.
    pub run: u64,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Added to the supervisor's own environment.
    pub environment: BTreeMap<String, String>,
    /// Where it is started.
    pub directory: PathBuf,
    /// Most descriptors it may have.
    pub open_files: Option<u64>,
    /// The absolute path of [`NOTIFY_SOCKET`], if it speaks over one.
    pub notify_socket: Option<PathBuf>,
    /// How often it must be heard, told to it in its environment.
    pub watchdog_us: Option<u64>,
    /// How long it has after a stop that nobody is there to follow up.
    pub grace_ms: u64,
    /// What is kept of its lines.
    pub log: LogLimits,
}

/// How a child's process ended, or why there never was one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// It exited by itself with this code.
    Exited(i32),
    /// This signal ended it.
    Signalled(i32),
    /// It could not be started, with the operating system's reason.
    NotStarted(String),
    /// Its keeper ended before it could say.
    Unknown,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Exited(code) => write!(f, "exited with code {code}"),
            Ending::Signalled(signal) => match signal_hook::low_level::signal_name(*signal) {
                Some(name) => write!(f, "was ended by signal {signal} ({name})"),
                None => write!(f, "was ended by signal {signal}"),
            },
            Ending::NotStarted(reason) => write!(f, "could not be started: {reason}"),
            Ending::Unknown => write!(f, "ended together with its keeper"),
        }
    }
}

/// When and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// How.
    pub ending: Ending,
    /// When its keeper saw it, microseconds since 1970.
    pub at_unix_us: u64,
}

/// A run of a child: the keeper's own account, kept in [`RECORD`] and told first to whoever connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The child's name.
    pub name: String,
    /// Counts the child's runs.
    pub run: u64,
    /// Which start of the machine it belongs to.
    pub boot_id: String,
    /// Who keeps it.
    pub keeper: Process,
    /// The child's process, once there was one.
    pub process: Option<Process>,
    /// When it was started, milliseconds since 1970.
    pub started_unix_ms: u64,
    /// What is run, for people.
    pub command: Vec<String>,
    /// What it has said.
    pub said: Said,
    /// Its end, once there was one.
    pub exit: Option<Exit>,
    /// Everybody of it is gone.
    #[serde(default)]
    pub gone: bool,
}

impl Record {
    /// Reads the record in a child's folder; `None` when there is none that can be read.
    pub fn read(folder: &Path) -> Option<Record> {
        let path = folder.join(RECORD);
        if fs::metadata(&path).ok()?.len() > LINE_BYTES_MAX as u64 {
            return None;
        }
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }

    /// Replaces the record in a child's folder, so that it is the old or the new one whatever happens.
    ///
    /// # Errors
    /// When the disk refuses; the old record is still there.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        write_whole(&folder.join(RECORD), &serde_json::to_vec(self)?)
    }
}

/// Replaces a file by rename, durably.
///
/// # Errors
/// When the disk refuses; the old file is still there.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// What a keeper says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromKeeper {
    /// First of all: how things stand.
    Record(Box<Record>),
    /// The child's process runs.
    Started(Process),
    /// It said something new.
    Said(Said),
    /// The child's process has ended; others of it may still live.
    Ended(Exit),
    /// Lines written so far, and lines lost.
    Log(u64, u64),
    /// Nobody of it is left, and all is written; the keeper is about to end.
    Gone,
}

/// What a keeper is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToKeeper {
    /// Send SIGTERM to the child's process group and let those who outlive its leader finish, for this long at most.
    Stop {
        /// Milliseconds.
        grace_ms: u64,
    },
    /// Send SIGABRT to the child's process.
    Abort,
    /// Kill everybody below the keeper.
    Kill,
}
