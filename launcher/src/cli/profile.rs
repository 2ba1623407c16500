//! `vsekai profile …`: which builds are followed, from where, to where.

use crate::error::{EXIT_CODES, Exit, TaskError};
use crate::fetch;
use crate::output::{say, table};
use crate::settings::{self, Profile, Purpose, Settings};
use crate::trust::{self, Pin};
use crate::whole;
use clap::Subcommand;
use serde_json::json;
use std::path::PathBuf;

/// Profiles: which builds are followed, from where, to where.
#[derive(Debug, Subcommand)]
pub enum Profiles {
    /// Make another profile the one that commands work on.
    #[command(after_help = EXIT_CODES)]
    Switch {
        /// Its name.
        #[arg(long = "profile_name", alias = "profile-name")]
        profile_name: String,
    },
    /// Print all profiles.
    #[command(after_help = EXIT_CODES)]
    List,
    /// Add a profile. The first one becomes the current one.
    #[command(after_help = EXIT_CODES)]
    Add {
        /// 1 to 64 of A-Z, a-z, 0-9, _ and -.
        #[arg(long = "profile_name", alias = "profile-name")]
        profile_name: String,
        /// https://…, http://… or a folder.
        #[arg(long)]
        repository: String,
        /// Which build: 1 to 64 of a-z, 0-9 and -.
        #[arg(long = "client_id", alias = "client-id")]
        client_id: String,
        /// The channel to follow.
        #[arg(long, default_value = "stable")]
        channel: String,
        /// Folder of the installation; a folder of the launcher's own if none is given.
        #[arg(long)]
        root: Option<PathBuf>,
        /// The studio's 1.root.json, which came on a way that is trusted: its repository is believed from then on.
        #[arg(long = "root_file", alias = "root-file", group = "pin")]
        root_file: Option<PathBuf>,
        /// The id of one of the studio's root keys (`vsekai keys show`), which came on a way that is trusted.
        #[arg(long = "root_key", alias = "root-key", group = "pin")]
        root_key: Option<String>,
        /// Believe whatever root the repository has now. Safe only if nobody stands between at this moment.
        #[arg(long = "trust_on_first_use", alias = "trust-on-first-use", group = "pin")]
        trust_on_first_use: bool,
    },
    /// Remove a profile. The installation stays.
    #[command(after_help = EXIT_CODES)]
    Remove {
        /// Its name.
        #[arg(long = "profile_name", alias = "profile-name")]
        profile_name: String,
    },
}

impl Profiles {
    /// Does the task.
    pub fn run(self, json: bool) -> Result<(), TaskError> {
        match self {
            Self::Switch { profile_name: name } => {
                Settings::change(|settings| {
                    settings.profile(Some(&name))?;
                    settings.set("profile", Some(&name))
                })?;
                say(json, &json!({ "profile": name }), || format!("commands now work on profile {name}"))
            }
            Self::List => list(json),
            Self::Add {
                profile_name: name,
                repository,
                client_id,
                channel,
                root,
                root_file,
                root_key,
                trust_on_first_use,
            } => {
                let root = match root {
                    Some(root) => std::path::absolute(&root).map_err(|error| TaskError::unreadable(&root, error))?,
                    None => settings::folder(Purpose::Data)?.join(&name),
                };
                let repository = if repository.contains("://") {
                    repository
                } else {
                    let folder = std::path::absolute(&repository);
                    folder.map_err(|error| TaskError::unreadable(repository.as_ref(), error))?.display().to_string()
                };
                let profile = Profile { repository, client_id, channel, root };
                profile.check().map_err(|why| TaskError::new(Exit::Usage, why))?;
                let trusted = pin(&profile, root_file, root_key, trust_on_first_use)?;
                let current = Settings::change(|settings| {
                    if settings.profiles.contains_key(&name) {
                        let why = format!(
                            "there is a profile `{name}` already: remove it first, or change it with `vsekai config set`"
                        );
                        return Err(TaskError::new(Exit::Usage, why));
                    }
                    if settings.profiles.is_empty() {
                        settings.set("profile", Some(&name))?;
                    }
                    settings.profiles.insert(name.clone(), profile.clone());
                    Ok(settings.profile == name)
                })?;
                say(
                    json,
                    &json!({ "profile": name, "current": current, "trusted": trusted, "settings": profile }),
                    || {
                        format!(
                            "profile {name}: {} from {} into {}",
                            profile.client_id,
                            profile.repository,
                            profile.root.display()
                        )
                    },
                )
            }
            Self::Remove { profile_name: name } => {
                Settings::change(|settings| {
                    settings.profile(Some(&name))?;
                    settings.profiles.remove(&name);
                    Ok(())
                })?;
                say(json, &json!({ "removed": name }), || format!("profile {name} is removed; its installation stays"))
            }
        }
    }
}

/// Pins the repository's root of trust. True if one is pinned now, or was before.
fn pin(profile: &Profile, file: Option<PathBuf>, key: Option<String>, first_use: bool) -> Result<bool, TaskError> {
    let state = settings::trust_folder(&profile.repository, &profile.client_id)?;
    let bytes = match &file {
        Some(file) => {
            let missing = || TaskError::new(Exit::NotFound, format!("{}: not there", file.display()));
            Some(whole::read(file, trust::ROOT_BYTES_MAX)?.ok_or_else(missing)?)
        }
        None => None,
    };
    let pin = match (&bytes, &key, first_use) {
        (Some(bytes), _, _) => Pin::File(bytes),
        (None, Some(key), _) => Pin::Key(key),
        (None, None, true) => Pin::FirstUse,
        (None, None, false) => return Ok(trust::pinned(&state)),
    };
    // Another profile of the same repository may have done it; it must not be replaced in silence, nor another root be ignored.
    if !trust::pinned(&state) {
        trust::pin(&*fetch::open(&profile.repository, Settings::load()?.limits(None))?, &state, pin)?;
    } else if !trust::agrees(&state, pin)? {
        let why = format!(
            "{}: another root of trust is pinned for this repository; if it is to be trusted anew, remove that folder first",
            state.display()
        );
        return Err(TaskError::new(Exit::Untrusted, why));
    }
    Ok(true)
}

fn list(json: bool) -> Result<(), TaskError> {
    let settings = Settings::load()?;
    let rows = settings.profiles.iter().map(|(name, profile)| {
        let mark = if *name == settings.profile { "*" } else { "" };
        let root = profile.root.display().to_string();
        vec![
            mark.to_owned(),
            name.clone(),
            profile.client_id.clone(),
            profile.channel.clone(),
            profile.repository.clone(),
            root,
        ]
    });
    say(json, &json!({ "current": settings.profile, "profiles": settings.profiles }), || {
        let heading = ["", "PROFILE", "BUILD", "CHANNEL", "REPOSITORY", "FOLDER"].map(str::to_owned).to_vec();
        table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())
    })
}
