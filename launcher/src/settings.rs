//! Settings and profiles: which build is followed, from where, to where, and how the launcher behaves.
//!
//! One TOML file, `config.toml`, in the configuration folder ([`folder`]); `vsekai config` and `vsekai profile` write it,
//! people may edit it. Unknown keys are refused with what is allowed.

mod keys;

use crate::auth::Keep;
use crate::error::{Exit, TaskError, shown};
use crate::fetch::Limits;
use crate::whole;
pub use keys::{KEYS, Key};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Longer settings are not read: nobody has so many profiles.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// What stands first in the file.
const HEADING: &str = "# Written by `vsekai config` and `vsekai profile`, which keep no comments. What is allowed: `vsekai config list`.\n\n";

/// One profile, complete: what the commands of `system`, `version` and `sync start` work on unless a flag says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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

/// How a user logs in; see `vsekai auth login`. Endpoints that are not given are discovered from the issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Login {
    /// The provider's address, under which `/.well-known/openid-configuration` stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The provider's name for this launcher.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Scopes that are asked for, a blank between two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// On loopback, as registered with the provider; port 0 or none stands for any free port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect_uri: Option<String>,
    /// Instead of the discovered one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authorization_endpoint: Option<String>,
    /// Instead of the discovered one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_endpoint: Option<String>,
    /// Instead of the discovered one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_endpoint: Option<String>,
}

/// The whole file, checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Name of the profile that commands work on.
    pub profile: String,
    /// What downloads may use, KiB a second; 0 for all there is.
    pub bandwidth_limit: u64,
    /// Requests at a time: 1 to 64.
    pub connections: u64,
    /// Where the login's tokens are kept.
    pub token_store: Keep,
    /// The least severe entry that goes into the launcher's log: `error`, `warn`, `info`, `debug` or `trace`.
    pub log_level: String,
    /// Size of a log file at which the next one is begun, MiB: 1 to 1,024. Five are kept.
    pub log_size: u64,
    /// Address of the update service, for `vsekai version`; none stands for the profile's repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// A file with the certificates (PEM) of the only authorities that https believes; none stands for those that browsers believe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// A file with the certificate and private key (PEM) that this machine shows to servers that ask for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    /// How to log in.
    pub auth: Login,
    /// By name: 1 to 64 of `[A-Za-z0-9_-]`.
    pub profiles: BTreeMap<String, Profile>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            profile: "default".into(),
            bandwidth_limit: 0,
            connections: Limits::default().connections as u64,
            token_store: Keep::Auto,
            log_level: "info".into(),
            log_size: 8,
            service: None,
            ca_file: None,
            client_certificate: None,
            auth: Login::default(),
            profiles: BTreeMap::new(),
        }
    }
}

/// Folders of the launcher's own, each by its purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Settings.
    Config,
    /// What is remembered: trusted metadata, logs, tokens, progress of the daemon.
    State,
    /// What can be made anew.
    Cache,
    /// Installations whose place nobody has chosen.
    Data,
}

/// The folder for this purpose: `vsekai` in the XDG base directory, or in `VSEKAI_HOME` if that is set. It may not exist yet.
pub fn folder(purpose: Purpose) -> Result<PathBuf, TaskError> {
    let (own, xdg, fallback) = match purpose {
        Purpose::Config => ("config", "XDG_CONFIG_HOME", ".config"),
        Purpose::State => ("state", "XDG_STATE_HOME", ".local/state"),
        Purpose::Cache => ("cache", "XDG_CACHE_HOME", ".cache"),
        Purpose::Data => ("data", "XDG_DATA_HOME", ".local/share"),
    };
    // The XDG specification: relative paths are to be ignored.
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    match (std::env::var_os("VSEKAI_HOME").filter(|home| !home.is_empty()), absolute(xdg), absolute("HOME")) {
        (Some(home), _, _) => Ok(std::path::absolute(home).map_err(TaskError::output)?.join(own)),
        (None, Some(base), _) => Ok(base.join("vsekai")),
        (None, None, Some(home)) => Ok(home.join(fallback).join("vsekai")),
        (None, None, None) => {
            Err(TaskError::new(Exit::Usage, format!("none of VSEKAI_HOME, {xdg} and HOME is set: no folder for {own}")))
        }
    }
}

/// The settings file's place.
pub fn file() -> Result<PathBuf, TaskError> {
    Ok(folder(Purpose::Config)?.join("config.toml"))
}

/// The profile of this name, or the current one. [`Exit::NotFound`] when there is none.
pub fn profile(name: Option<&str>) -> Result<Profile, TaskError> {
    Settings::load()?.profile(name).cloned()
}

/// Where trust in a repository is remembered: the pinned root and the newest metadata seen. The same for all
/// profiles of the same repository and build, so that switching channels cannot roll back.
pub fn trust_folder(repository: &str, client_id: &str) -> Result<PathBuf, TaskError> {
    let mut repository = repository.to_owned();
    if !repository.contains("://") {
        let folder =
            std::path::absolute(&repository).map_err(|error| TaskError::unreadable(repository.as_ref(), error))?;
        repository = folder.display().to_string();
    }
    let of = blake3::hash(repository.trim_end_matches('/').as_bytes()).to_hex();
    Ok(folder(Purpose::State)?.join("trust").join(format!("{client_id}-{}", &of[..16])))
}

impl Settings {
    /// Reads and checks the file; the defaults when there is none.
    pub fn load() -> Result<Self, TaskError> {
        Self::load_from(&file()?)
    }

    /// The same of this file.
    pub fn load_from(file: &Path) -> Result<Self, TaskError> {
        let Some(bytes) = whole::read(file, FILE_BYTES_MAX)? else { return Ok(Self::default()) };
        let text = String::from_utf8(bytes)
            .map_err(|_| TaskError::new(Exit::Damaged, format!("{}: not UTF-8", shown(file))))?;
        let settings: Self = toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            TaskError::new(Exit::Damaged, format!("{}: line {line}: {}", shown(file), error.message()))
        })?;
        settings.check().map_err(|why| TaskError::new(Exit::Damaged, format!("{}: {why}", shown(file))))?;
        Ok(settings)
    }

    /// Changes the file, alone: other processes wait. What `change` makes is checked before anything is written.
    pub fn change<T>(change: impl FnOnce(&mut Self) -> Result<T, TaskError>) -> Result<T, TaskError> {
        let file = file()?;
        let _held = whole::lock(&file.with_extension("lock"))?;
        let mut settings = Self::load_from(&file)?;
        let result = change(&mut settings)?;
        settings.check().map_err(|why| TaskError::new(Exit::Usage, why))?;
        let text = toml::to_string_pretty(&settings)
            .map_err(|error| TaskError::because(Exit::Usage, "the settings cannot be written as TOML", error))?;
        whole::write(&file, format!("{HEADING}{text}").as_bytes(), whole::PRIVATE)?;
        Ok(result)
    }

    /// What downloads may take. `bytes_per_second` is asked for instead of the setting.
    pub fn limits(&self, bytes_per_second: Option<u64>) -> Limits {
        let kib = Some(self.bandwidth_limit).filter(|&kib| kib > 0);
        Limits {
            bytes_per_second: bytes_per_second.or(kib.map(|kib| kib.saturating_mul(1_024))),
            // Checked to be 1 to 64.
            connections: usize::try_from(self.connections).unwrap_or(1),
            ..Limits::default()
        }
    }

    /// The profile of this name, or the current one.
    pub fn profile(&self, name: Option<&str>) -> Result<&Profile, TaskError> {
        let name = name.unwrap_or(&self.profile);
        self.profiles.get(name).ok_or_else(|| {
            let there = self.profiles.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            let there = if there.is_empty() { "there is none yet".into() } else { format!("there are {there}") };
            TaskError::new(
                Exit::NotFound,
                format!("no profile `{name}`: {there}; `vsekai profile add --profile_name {name} …` makes it"),
            )
        })
    }

    /// What is wrong, for people.
    fn check(&self) -> Result<(), String> {
        for key in KEYS {
            if let Some(value) = key.value(self) {
                key.allows(&value).map_err(|allowed| format!("`{}` is `{value}`, but must be {allowed}", key.name))?;
            }
        }
        for (name, profile) in &self.profiles {
            keys::profile_name(name).map_err(|allowed| format!("profile `{name}`: the name must be {allowed}"))?;
            profile.check().map_err(|why| format!("profile `{name}`: {why}"))?;
        }
        Ok(())
    }
}

impl Profile {
    /// What is wrong with it, for people.
    pub fn check(&self) -> Result<(), String> {
        for key in keys::PROFILE_KEYS {
            let value = (key.get)(self);
            (key.allows)(&value).map_err(|allowed| format!("`{}` is `{value}`, but must be {allowed}", key.name))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
