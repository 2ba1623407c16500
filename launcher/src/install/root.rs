//! The folder of an installation, and what is written down in it.
//!
//! ```text
//! current                        symbolic link to versions/DIR; replaced by rename, so that it always leads to a whole version
//!                                (on systems without such links: a file with DIR in it, replaced the same way)
//! versions/DIR/…                 whole versions; DIR is VERSION, or VERSION~N when it had to be built again
//! incoming/…                     the next version while it is being built: any part of it may be anything, and is looked at before it is used
//! kept/DIR/…                     saves of removed versions that no later version has as new
//! .vsekai/lock                   held by whoever changes anything here
//! .vsekai/state.json             [`Notes`]
//! .vsekai/installed/DIR.json     [`Record`], written before DIR appears
//! .vsekai/manifests/BLAKE3       manifests of versions that are here or coming
//! .vsekai/deltas/BLAKE3          heads of deltas that are being fetched
//! ```

use super::beneath::Folder;
use super::machine::State;
use crate::error::{Exit, TaskError, shown};
use crate::hex::hex;
use crate::manifest::{Id, MANIFEST_SIZE_MAX, Manifest};
use crate::release::Blob;
use crate::whole;
use rand::RngExt;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// What is remembered from one run to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notes {
    /// Random; draws the lot in staged rollouts. Nothing else is known by it.
    pub installation: String,
    /// Where the last update, or the one going on, is.
    pub state: State,
    /// The version that it is about.
    pub target: Option<String>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// The player went back from this version: it is not installed again unasked.
    pub rolled_back_from: Option<String>,
    /// Globs of what belongs to the player, beside those of the manifest.
    pub keep: Vec<String>,
}

/// A version that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub version: String,
    /// Its manifest.
    pub manifest: Blob,
    /// What was current before it: where `rollback` leads.
    pub previous: Option<String>,
    /// For each entry of the manifest, size in bytes and time of the last change in nanoseconds since 1970, as it was left here.
    pub files: Vec<(u64, i64)>,
}

/// A version's folder and, if they are sound, its record and manifest.
#[derive(Debug)]
pub(crate) struct Installed {
    pub dir: String,
    pub record: Option<Record>,
}

/// An installation that is open.
#[derive(Debug)]
pub struct Installation {
    /// Where it is.
    pub path: PathBuf,
    pub(crate) root: Folder,
    notes: Mutex<Notes>,
    /// Held as long as this is open, if anything may be changed.
    _lock: Option<File>,
}

const RECORD_SIZE_MAX: u64 = 64 << 20;

impl Installation {
    /// Opens an installation to change it, and makes it if it is not there.
    ///
    /// # Errors
    /// [`Exit::Busy`] when another process has it open so, [`Exit::Unwritable`] when nothing can be written there.
    pub fn open(path: &Path) -> Result<Self, TaskError> {
        let unwritable = |source: io::Error| TaskError::unwritable(path, source);
        std::fs::create_dir_all(path).map_err(unwritable)?;
        let root = Folder::open(path).map_err(unwritable)?;
        for folder in [".vsekai/installed", ".vsekai/manifests", ".vsekai/deltas", "versions"] {
            root.make_folders(folder).map_err(unwritable)?;
        }
        let lock = root.write(".vsekai/lock").map_err(unwritable)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let what =
                    format!("{}: another vsekai is at work on this installation; wait for it, or end it", shown(path));
                return Err(TaskError::new(Exit::Busy, what));
            }
            Err(error) => return Err(unwritable(error.into())),
        }
        whole::remove_leftovers(&path.join(".vsekai")).map_err(unwritable)?;
        let notes = read_notes(&root);
        let known = notes.is_some();
        let notes = Mutex::new(notes.unwrap_or_else(new_notes));
        let installation = Self { path: path.to_owned(), root, notes, _lock: Some(lock) };
        if !known {
            installation.note(|_| {})?;
        }
        Ok(installation)
    }

    /// Opens an installation to look at it, whoever is at work on it. One that is not there yet is empty.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn look(path: &Path) -> Result<Self, TaskError> {
        let opened = match Folder::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => nothing(),
            other => other,
        };
        let root = opened.map_err(|source| TaskError::unreadable(path, source))?;
        let notes = read_notes(&root).unwrap_or_else(new_notes);
        Ok(Self { path: path.to_owned(), root, notes: Mutex::new(notes), _lock: None })
    }

    pub(crate) fn unwritable(&self, source: io::Error) -> TaskError {
        TaskError::unwritable(&self.path, source)
    }

    pub(crate) fn unreadable(&self, source: io::Error) -> TaskError {
        TaskError::unreadable(&self.path, source)
    }

    /// What is remembered.
    pub fn notes(&self) -> Notes {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Remembers something.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Notes)) -> Result<(), TaskError> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut notes);
        let text = serde_json::to_vec(&*notes).expect("notes are JSON");
        let path = self.path.join(".vsekai/state.json");
        whole::write(&path, &text, whole::PUBLIC)
    }

    /// The folder under `versions/` that `current` leads to.
    pub(crate) fn current_dir(&self) -> Result<Option<String>, TaskError> {
        let target = self.root.link_target("current").map_err(|source| self.unreadable(source))?;
        let dir = target.and_then(|target| target.strip_prefix("versions/").map(str::to_owned));
        Ok(dir.filter(|dir| is_dir_name(dir)))
    }

    /// The version that `current` leads to.
    pub(crate) fn current(&self) -> Result<Option<Installed>, TaskError> {
        let Some(dir) = self.current_dir()? else { return Ok(None) };
        if self.root.folder(&format!("versions/{dir}")).is_err() {
            return Ok(None);
        }
        let record = self.record(&dir);
        Ok(Some(Installed { dir, record }))
    }

    /// The record of a version, if it is there and sound.
    pub(crate) fn record(&self, dir: &str) -> Option<Record> {
        let file = self.root.read(&format!(".vsekai/installed/{dir}.json")).ok()?;
        let mut text = vec![];
        file.take(RECORD_SIZE_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub(crate) fn write_record(&self, dir: &str, record: &Record) -> Result<(), TaskError> {
        let path = self.path.join(".vsekai/installed").join(format!("{dir}.json"));
        let text = serde_json::to_vec(record).expect("a record is JSON");
        whole::write(&path, &text, whole::PUBLIC)
    }

    /// A manifest's bytes from the cache, if they are what they should be.
    pub(crate) fn cached_manifest(&self, id: &str) -> Option<Vec<u8>> {
        let file = self.root.read(&format!(".vsekai/manifests/{id}")).ok()?;
        let mut bytes = vec![];
        file.take(MANIFEST_SIZE_MAX + 1).read_to_end(&mut bytes).ok()?;
        (blake3::hash(&bytes).to_hex().as_str() == id).then_some(bytes)
    }

    pub(crate) fn cache_manifest(&self, bytes: &[u8]) -> Result<(), TaskError> {
        let path = self.path.join(".vsekai/manifests").join(blake3::hash(bytes).to_hex().as_str());
        whole::write(&path, bytes, whole::PUBLIC)
    }

    /// The manifest of a version that is here, if the cache has it.
    pub(crate) fn manifest_of(&self, record: &Record) -> Option<Manifest> {
        Manifest::decode(&self.cached_manifest(&record.manifest.blake3)?).ok()
    }

    /// All folders under `versions/`.
    pub(crate) fn dirs(&self) -> Result<Vec<String>, TaskError> {
        let listed = self.root.folder("versions").and_then(|versions| versions.names());
        match listed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
            listed => listed.map_err(|source| self.unreadable(source)),
        }
    }

    /// A name under `versions/` that nothing has.
    pub(crate) fn free_dir(&self, version: &str) -> Result<String, TaskError> {
        let taken = self.dirs()?;
        let names = std::iter::once(version.to_owned()).chain((2..).map(|number| format!("{version}~{number}")));
        Ok(names.into_iter().find(|name| !taken.contains(name)).expect("there is always another number"))
    }

    /// Lets `current` lead to a version, at once and for good.
    pub(crate) fn point_to(&self, dir: &str) -> Result<(), TaskError> {
        let swap = || {
            self.root.remove(".vsekai/current.new")?;
            self.root.symlink(".vsekai/current.new", &format!("versions/{dir}"))?;
            self.root.rename(".vsekai/current.new", &self.root, "current")?;
            self.root.sync()
        };
        swap().map_err(|source| self.unwritable(source))
    }
}

/// A folder with nothing in it that nobody sees: removed, but open.
fn nothing() -> io::Result<Folder> {
    let id: Id = rand::rng().random();
    let path = std::env::temp_dir().join(format!("vsekai-{}", &hex(&id)[..16]));
    std::fs::create_dir(&path)?;
    let folder = Folder::open(&path);
    std::fs::remove_dir(&path)?;
    folder
}

/// What may be a name under `versions/`.
fn is_dir_name(dir: &str) -> bool {
    let (version, number) = dir.split_once('~').unwrap_or((dir, "2"));
    crate::catalogue::is_version(version) && number.parse::<u32>().is_ok()
}

fn read_notes(root: &Folder) -> Option<Notes> {
    let mut text = vec![];
    root.read(".vsekai/state.json").ok()?.take(1 << 20).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

fn new_notes() -> Notes {
    let id: Id = rand::rng().random();
    Notes {
        installation: hex(&id)[..32].to_owned(),
        state: State::Idle,
        target: None,
        failure: None,
        rolled_back_from: None,
        keep: vec![],
    }
}
