//! `vsekai keys …`: a studio's signing keys.

use crate::error::{EXIT_CODES, Exit, TaskError};
use crate::output::{say, table};
use crate::trust::{self, KeyRing, Lifetimes, Passphrase, Role, SignedMetadata, Thresholds};
use crate::whole;
use clap::{Args, Subcommand};
use std::path::{Path, PathBuf};

/// A studio's signing keys: root and targets are kept offline, snapshot and timestamp may be given to the update service.
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Make keys for all roles, and a repository's first signed metadata.
    #[command(after_help = EXIT_CODES)]
    Generate {
        /// The keys.
        #[command(flatten)]
        keys: KeyFolder,
        /// The repository's folder.
        #[arg(long)]
        repository: PathBuf,
        /// Root keys to make.
        #[arg(long = "root_count", alias = "root-count", default_value_t = 1)]
        root_count: u64,
        /// Root keys that must sign.
        #[arg(long = "root_threshold", alias = "root-threshold", default_value_t = 1)]
        root_threshold: u64,
        /// Targets keys to make.
        #[arg(long = "targets_count", alias = "targets-count", default_value_t = 1)]
        targets_count: u64,
        /// Targets keys that must sign.
        #[arg(long = "targets_threshold", alias = "targets-threshold", default_value_t = 1)]
        targets_threshold: u64,
        /// How long signatures are valid.
        #[command(flatten)]
        days: Days,
    },
    /// Replace keys by new ones and sign all that hangs on them. Clients follow by themselves.
    #[command(after_help = EXIT_CODES)]
    Rotate {
        /// The keys.
        #[command(flatten)]
        keys: KeyFolder,
        /// The repository's folder.
        #[arg(long)]
        repository: PathBuf,
        /// Whose keys: root, targets, snapshot, timestamp; several with commas between them.
        #[arg(long, value_delimiter = ',', required = true)]
        role: Vec<String>,
        /// How long signatures are valid.
        #[command(flatten)]
        days: Days,
    },
    /// Print the keys of a folder; secrets are not shown, and no passphrase is needed.
    #[command(after_help = EXIT_CODES)]
    Show {
        /// The keys' folder.
        #[arg(long)]
        keys: PathBuf,
    },
}

/// Where keys are, and what opens them.
#[derive(Debug, Args)]
pub struct KeyFolder {
    /// The keys' folder.
    #[arg(long)]
    pub keys: PathBuf,
    /// A file with the passphrase that seals the keys; else VSEKAI_KEY_PASSPHRASE. Without either, only permission bits protect them.
    #[arg(long = "passphrase_file", alias = "passphrase-file")]
    pub passphrase_file: Option<PathBuf>,
}

/// How long signatures are valid.
#[derive(Debug, Args)]
pub struct Days {
    /// Days for which the root is valid.
    #[arg(long = "root_days", alias = "root-days", default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=3_650))]
    root_days: u64,
    /// Days for which the list of catalogues is valid.
    #[arg(long = "targets_days", alias = "targets-days", default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=3_650))]
    targets_days: u64,
    /// Days for which the snapshot is valid.
    #[arg(long = "snapshot_days", alias = "snapshot-days", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_650))]
    snapshot_days: u64,
    /// Days for which the timestamp is valid: so long can an old state be held out to clients. A static host needs it to be renewed.
    #[arg(long = "timestamp_days", alias = "timestamp-days", default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..=3_650))]
    timestamp_days: u64,
}

impl From<&Days> for Lifetimes {
    fn from(days: &Days) -> Self {
        Self {
            root: days.root_days,
            targets: days.targets_days,
            snapshot: days.snapshot_days,
            timestamp: days.timestamp_days,
        }
    }
}

/// The passphrase of this file, or of the environment.
pub fn passphrase(file: Option<&Path>) -> Result<Passphrase, TaskError> {
    let Some(file) = file else {
        return Ok(Passphrase(std::env::var("VSEKAI_KEY_PASSPHRASE").ok().filter(|word| !word.is_empty())));
    };
    let bytes = whole::read(file, 4_096)?;
    let text = bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
    let text = text.filter(|text| !text.is_empty());
    let missing = || TaskError::new(Exit::NotFound, format!("{}: no passphrase there", file.display()));
    Ok(Passphrase(Some(text.ok_or_else(missing)?)))
}

impl KeyFolder {
    /// Opens the keys.
    pub fn open(&self) -> Result<KeyRing, TaskError> {
        KeyRing::open(&self.keys, passphrase(self.passphrase_file.as_deref())?)
    }
}

/// Says what was signed.
pub fn say_signed(json: bool, signed: &SignedMetadata) -> Result<(), TaskError> {
    say(json, signed, || {
        format!(
            "signed: root {}, targets {}, snapshot {}, timestamp {}; to be renewed before {}",
            signed.root, signed.targets, signed.snapshot, signed.timestamp, signed.expires
        )
    })
}

impl Keys {
    /// Does the task.
    pub fn run(self, json: bool) -> Result<(), TaskError> {
        match self {
            Self::Generate { keys, repository, root_count, root_threshold, targets_count, targets_threshold, days } => {
                let thresholds =
                    Thresholds { root_count, root: root_threshold, targets_count, targets: targets_threshold };
                let signed = trust::create(&repository, &mut keys.open()?, thresholds, (&days).into(), trust::now())?;
                say_signed(json, &signed)
            }
            Self::Rotate { keys, repository, role, days } => {
                let unknown = |name: &str| {
                    TaskError::new(Exit::Usage, format!("--role {name}: must be root, targets, snapshot or timestamp"))
                };
                let roles = role
                    .iter()
                    .map(|name| Role::parse(name).ok_or_else(|| unknown(name)))
                    .collect::<Result<Vec<_>, _>>()?;
                say_signed(json, &trust::rotate(&repository, &mut keys.open()?, &roles, (&days).into(), trust::now())?)
            }
            Self::Show { keys } => {
                let found = KeyRing::list(&keys)?;
                say(json, &found, || {
                    let row = |key: &trust::KeyFile| {
                        let sealed = if key.sealed { "sealed" } else { "open" };
                        vec![key.role.to_owned(), key.key_id.clone(), sealed.to_owned(), key.file.display().to_string()]
                    };
                    let heading = ["ROLE", "KEY", "SECRET", "FILE"].map(str::to_owned).to_vec();
                    table(&std::iter::once(heading).chain(found.iter().map(row)).collect::<Vec<_>>())
                })
            }
        }
    }
}
