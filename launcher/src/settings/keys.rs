//! The keys that `vsekai config` knows, and what each may be.

use super::{Profile, Settings};
use crate::auth::Keep;
use crate::error::{Exit, TaskError};
use std::path::PathBuf;

/// `Err` says what is allowed.
type Check = fn(&str) -> Result<(), &'static str>;

/// One key of the settings that no profile has.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// As `--key` takes it and as it stands in the file (`auth.issuer` is `issuer` of the table `auth`).
    pub name: &'static str,
    /// In one line.
    pub help: &'static str,
    get: fn(&Settings) -> Option<String>,
    set: fn(&mut Settings, Option<String>),
    allows: Check,
}

impl Key {
    /// Its value, or `None` where there is none.
    pub fn value(&self, settings: &Settings) -> Option<String> {
        (self.get)(settings)
    }

    pub(super) fn allows(&self, value: &str) -> Result<(), &'static str> {
        (self.allows)(value)
    }
}

/// One key of a profile.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProfileKey {
    pub name: &'static str,
    pub get: fn(&Profile) -> String,
    set: fn(&mut Profile, String),
    pub allows: Check,
}

fn number(value: Option<String>, otherwise: u64) -> u64 {
    // Checked before it is set.
    value.and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

fn within(value: &str, allowed: std::ops::RangeInclusive<u64>) -> bool {
    value.parse().is_ok_and(|value: u64| allowed.contains(&value))
}

fn is_address(value: &str) -> bool {
    let host = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
    value.len() <= 2_048
        && host.is_some_and(|host| !host.is_empty() && !host.starts_with('/'))
        && !value.contains(|c: char| c.is_whitespace() || c.is_control())
}

fn address(value: &str) -> Result<(), &'static str> {
    is_address(value).then_some(()).ok_or("an address that begins with https:// or http://")
}

fn is_named(value: &str, longest: usize, letter: fn(char) -> bool) -> bool {
    (1..=longest).contains(&value.len()) && value.chars().all(letter)
}

/// Of a profile.
pub(super) fn profile_name(value: &str) -> Result<(), &'static str> {
    is_named(value, 64, |c| c.is_ascii_alphanumeric() || "_-".contains(c))
        .then_some(())
        .ok_or("1 to 64 of A-Z, a-z, 0-9, _ and -")
}

fn line(value: &str) -> Result<(), &'static str> {
    ((1..=1_024).contains(&value.len()) && !value.contains(char::is_control))
        .then_some(())
        .ok_or("1 to 1,024 bytes on one line")
}

fn path(value: &str) -> Result<(), &'static str> {
    (line(value).is_ok() && value.starts_with('/')).then_some(()).ok_or("an absolute path")
}

macro_rules! optional {
    ($name:literal, $help:literal, $($field:ident).+, $allows:expr) => {
        Key {
            name: $name,
            help: $help,
            get: |settings| settings.$($field).+.clone(),
            set: |settings, value| settings.$($field).+ = value,
            allows: $allows,
        }
    };
}

/// All of them.
pub const KEYS: &[Key] = &[
    Key {
        name: "profile",
        help: "the profile that commands work on",
        get: |settings| Some(settings.profile.clone()),
        set: |settings, value| settings.profile = value.unwrap_or_else(|| Settings::default().profile),
        allows: profile_name,
    },
    Key {
        name: "bandwidth_limit",
        help: "what downloads may use, KiB a second; 0 for all there is",
        get: |settings| Some(settings.bandwidth_limit.to_string()),
        set: |settings, value| settings.bandwidth_limit = number(value, 0),
        allows: |value| {
            within(value, 0..=100_000_000).then_some(()).ok_or("0 to 100000000 (KiB a second; 0 for no limit)")
        },
    },
    Key {
        name: "connections",
        help: "requests at a time",
        get: |settings| Some(settings.connections.to_string()),
        set: |settings, value| settings.connections = number(value, Settings::default().connections),
        allows: |value| within(value, 1..=64).then_some(()).ok_or("1 to 64"),
    },
    Key {
        name: "token_store",
        help: "where the login is kept: auto (the keyring if there is one), keyring or file",
        get: |settings| Some(settings.token_store.name().to_owned()),
        set: |settings, value| settings.token_store = value.and_then(|value| Keep::parse(&value)).unwrap_or_default(),
        allows: |value| Keep::parse(value).map(|_| ()).ok_or("auto, keyring or file"),
    },
    Key {
        name: "log_level",
        help: "the least severe entry that is logged",
        get: |settings| Some(settings.log_level.clone()),
        set: |settings, value| settings.log_level = value.unwrap_or_else(|| Settings::default().log_level),
        allows: |value| {
            ["error", "warn", "info", "debug", "trace"]
                .contains(&value)
                .then_some(())
                .ok_or("error, warn, info, debug or trace")
        },
    },
    Key {
        name: "log_size",
        help: "size of a log file at which the next one is begun, MiB",
        get: |settings| Some(settings.log_size.to_string()),
        set: |settings, value| settings.log_size = number(value, Settings::default().log_size),
        allows: |value| within(value, 1..=1_024).then_some(()).ok_or("1 to 1024 (MiB)"),
    },
    optional!("service", "address of the update service, if not the profile's repository", service, address),
    optional!("ca_file", "the only authorities that https believes, a file of certificates (PEM)", ca_file, path),
    optional!(
        "client_certificate",
        "certificate and private key (PEM) for servers that ask for one",
        client_certificate,
        path
    ),
    optional!("auth.issuer", "address of the login provider", auth.issuer, address),
    optional!("auth.client_id", "the provider's name for this launcher", auth.client_id, line),
    optional!("auth.scope", "scopes to ask for, a blank between two", auth.scope, line),
    optional!("auth.redirect_uri", "address on loopback that the provider sends back to", auth.redirect_uri, address),
    optional!("auth.authorization_endpoint", "instead of the discovered one", auth.authorization_endpoint, address),
    optional!("auth.token_endpoint", "instead of the discovered one", auth.token_endpoint, address),
    optional!("auth.device_endpoint", "instead of the discovered one", auth.device_endpoint, address),
];

/// Those of a profile; for the current one, also without `profiles.NAME.` before them.
pub(super) const PROFILE_KEYS: &[ProfileKey] = &[
    ProfileKey {
        name: "repository",
        get: |profile| profile.repository.clone(),
        set: |profile, value| profile.repository = value,
        allows: |value| {
            let scheme = value.contains("://");
            (if scheme { is_address(value) } else { line(value).is_ok() && value.starts_with('/') })
                .then_some(())
                .ok_or("https://…, http://… or the absolute path of a folder")
        },
    },
    ProfileKey {
        name: "client_id",
        get: |profile| profile.client_id.clone(),
        set: |profile, value| profile.client_id = value,
        allows: |value| {
            is_named(value, 64, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
                .then_some(())
                .ok_or("1 to 64 of a-z, 0-9 and -")
        },
    },
    ProfileKey {
        name: "channel",
        get: |profile| profile.channel.clone(),
        set: |profile, value| profile.channel = value,
        allows: |value| {
            is_named(value, 32, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
                .then_some(())
                .ok_or("1 to 32 of a-z, 0-9 and -")
        },
    },
    ProfileKey {
        name: "root",
        get: |profile| profile.root.to_string_lossy().into_owned(),
        set: |profile, value| profile.root = PathBuf::from(value),
        allows: path,
    },
];

/// What `--key` names.
enum Named<'a> {
    Global(&'static Key),
    OfProfile(&'a str, &'static ProfileKey),
}

impl Settings {
    fn named<'a>(&'a self, key: &'a str) -> Result<Named<'a>, TaskError> {
        if let Some(global) = KEYS.iter().find(|known| known.name == key) {
            return Ok(Named::Global(global));
        }
        let (profile, of_it) = match key.strip_prefix("profiles.").and_then(|rest| rest.rsplit_once('.')) {
            Some((profile, of_it)) => (profile, of_it),
            None => (self.profile.as_str(), key),
        };
        let known = PROFILE_KEYS.iter().find(|known| known.name == of_it);
        known.map(|known| Named::OfProfile(profile, known)).ok_or_else(|| {
            let global = KEYS.iter().map(|known| known.name);
            let allowed = global.chain(PROFILE_KEYS.iter().map(|known| known.name)).collect::<Vec<_>>().join(", ");
            TaskError::new(Exit::Usage, format!("unknown key `{key}`: allowed are {allowed} and profiles.NAME.KEY"))
        })
    }

    /// The value of a key; `None` where none is set.
    pub fn value(&self, key: &str) -> Result<Option<String>, TaskError> {
        match self.named(key)? {
            Named::Global(global) => Ok(global.value(self)),
            Named::OfProfile(profile, of_it) => Ok(Some((of_it.get)(self.profile(Some(profile))?))),
        }
    }

    /// Sets a key, or back to its default with `None`.
    pub fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), TaskError> {
        let refuse = |allowed: &str| {
            TaskError::new(Exit::Usage, format!("`{key}` cannot be `{}`: it must be {allowed}", value.unwrap_or("")))
        };
        match self.named(key)? {
            Named::Global(global) => {
                if let Some(value) = value {
                    global.allows(value).map_err(refuse)?;
                }
                (global.set)(self, value.map(str::to_owned));
            }
            Named::OfProfile(profile, of_it) => {
                let name = profile.to_owned();
                self.profile(Some(&name))?;
                let Some(value) = value else {
                    let why = format!(
                        "`{key}` belongs to profile `{name}` and has no default: set it, or remove the profile"
                    );
                    return Err(TaskError::new(Exit::Usage, why));
                };
                (of_it.allows)(value).map_err(refuse)?;
                if let Some(profile) = self.profiles.get_mut(&name) {
                    (of_it.set)(profile, value.to_owned());
                }
            }
        }
        Ok(())
    }

    /// All keys with their values, in the order of the file, those of profiles by their full name.
    pub fn all(&self) -> Vec<(String, Option<String>, &'static str)> {
        let global = KEYS.iter().map(|key| (key.name.to_owned(), key.value(self), key.help));
        let profiles = self.profiles.iter().flat_map(|(name, profile)| {
            PROFILE_KEYS.iter().map(move |key| (format!("profiles.{name}.{}", key.name), Some((key.get)(profile)), ""))
        });
        global.chain(profiles).collect()
    }
}
