//! `vsekai system …`: the installation in the foreground.

use crate::error::{EXIT_CODES, Exit, TaskError};
use crate::fetch;
use crate::install::{self, Follow, Installation, Links, Outcome, Progress, Verdict};
use crate::output::{bytes, say};
use crate::settings::{self, Profile, Settings};
use clap::{Args, Subcommand};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The tasks of `vsekai system`.
#[derive(Debug, Subcommand)]
pub enum System {
    /// Install what the channel offers, if it is not installed
    ///
    /// The new version is built beside the current one and becomes current in one step. A kill at any moment leaves the one or the other;
    /// going on later fetches nothing twice.
    #[command(after_help = EXIT_CODES)]
    Update {
        /// Which build is followed
        #[command(flatten)]
        origin: Origin,
        /// How it is done
        #[command(flatten)]
        how: How,
        /// This version instead of what the channel offers
        #[arg(long, value_name = "NAME")]
        version: Option<String>,
        /// Install again what was gone back from
        #[arg(long)]
        again: bool,
    },
    /// Say whether there is an update, what it would take, and where the last one is
    ///
    /// Changes nothing. With --exit_code it ends with 0 if there is an update and with 10 if there is none.
    #[command(after_help = EXIT_CODES)]
    Check {
        /// Which build is followed
        #[command(flatten)]
        origin: Origin,
        /// Say by the exit code whether there is an update
        #[arg(long = "exit_code", alias = "exit-code")]
        exit_code: bool,
    },
    /// Go back to the version before, with today's saves and mods
    #[command(after_help = EXIT_CODES)]
    Rollback {
        /// The profile to work on, instead of the current one
        #[arg(long = "profile_name", alias = "profile-name", value_name = "NAME")]
        profile_name: Option<String>,
        /// The folder of the installation, instead of the profile's
        #[arg(long, value_name = "FOLDER")]
        root: Option<PathBuf>,
    },
    /// Read every file of the current version and say which are damaged, and what a repair would fetch
    ///
    /// Ends with 4 if any is.
    #[command(after_help = EXIT_CODES)]
    Verify {
        /// Which build is followed
        #[command(flatten)]
        origin: Origin,
    },
    /// Build the current version again from what is sound of it and from the repository
    #[command(after_help = EXIT_CODES)]
    Repair {
        /// Which build is followed
        #[command(flatten)]
        origin: Origin,
        /// How it is done
        #[command(flatten)]
        how: How,
        /// Only say what would be fetched
        #[arg(long = "dry_run", alias = "dry-run")]
        dry_run: bool,
    },
}

/// Which build is followed, from where, to where.
#[derive(Debug, Clone, Args)]
pub struct Origin {
    /// The profile to work on, instead of the current one
    #[arg(long = "profile_name", alias = "profile-name", value_name = "NAME")]
    pub profile_name: Option<String>,
    /// The repository, instead of the profile's: https://…, http://… or a folder
    #[arg(long, value_name = "ADDRESS")]
    pub repository: Option<String>,
    /// Which build, instead of the profile's
    #[arg(long = "client_id", alias = "client-id", value_name = "NAME")]
    pub client_id: Option<String>,
    /// The channel that is followed, instead of the profile's
    #[arg(long, value_name = "NAME")]
    pub channel: Option<String>,
    /// The folder of the installation, instead of the profile's
    #[arg(long, value_name = "FOLDER")]
    pub root: Option<PathBuf>,
    /// Take the catalogue of a folder as it is: nothing proves who wrote it
    #[arg(long)]
    pub unsigned: bool,
}

/// How it is done.
#[derive(Debug, Clone, Args)]
pub struct How {
    /// Paths that belong to the player, beside those the build names: never damage, never deleted, carried over. May be repeated
    #[arg(long, value_name = "GLOB")]
    pub keep: Vec<String>,
    /// Most bytes a second from the repository
    #[arg(long = "limit_rate", alias = "limit-rate", value_name = "BYTES")]
    pub limit_rate: Option<u64>,
    /// How unchanged files come into the new version
    #[arg(long, value_enum, default_value_t = Links::Auto)]
    pub links: Links,
}

impl Origin {
    /// The profile, with what the flags say instead. Without a profile the flags must say all but the channel.
    pub fn profile(&self) -> Result<Profile, TaskError> {
        let known = settings::profile(self.profile_name.as_deref());
        let repository = match &self.repository {
            Some(address) if !address.contains("://") => Some(absolute(address)?),
            other => other.clone(),
        };
        let mut profile = match (known, repository.clone(), &self.client_id, &self.root) {
            (Ok(profile), ..) => profile,
            (Err(_), Some(repository), Some(client_id), Some(root)) if self.profile_name.is_none() => {
                Profile { repository, client_id: client_id.clone(), channel: "stable".into(), root: root.clone() }
            }
            (Err(error), ..) => return Err(error),
        };
        profile.repository = repository.unwrap_or(profile.repository);
        profile.client_id = self.client_id.clone().unwrap_or(profile.client_id);
        profile.channel = self.channel.clone().unwrap_or(profile.channel);
        profile.root = self.root.clone().unwrap_or(profile.root);
        profile.root =
            std::path::absolute(&profile.root).map_err(|source| TaskError::unreadable(&profile.root, source))?;
        profile.check().map_err(|why| TaskError::new(Exit::Usage, why))?;
        Ok(profile)
    }
}

/// A folder's whole name, as settings want it.
fn absolute(folder: &str) -> Result<String, TaskError> {
    let whole = std::path::absolute(folder).map_err(|source| TaskError::unreadable(folder.as_ref(), source))?;
    whole
        .into_os_string()
        .into_string()
        .map_err(|_| TaskError::new(Exit::Usage, format!("{folder}: its whole name is not Unicode")))
}

impl System {
    /// Does the task.
    pub fn run(self, json: bool) -> Result<(), TaskError> {
        match self {
            Self::Update { origin, how, version, again } => {
                with(&origin, Some(&how), version, again, |follow, root| {
                    let installation = Installation::open(root)?;
                    report(json, &install::update(&installation, follow)?)
                })
            }
            Self::Check { origin, exit_code } => {
                with(&origin, None, None, false, |follow, root| check(json, root, exit_code, follow))
            }
            Self::Rollback { profile_name, root } => {
                let root = match root {
                    Some(root) => root,
                    None => settings::profile(profile_name.as_deref())?.root,
                };
                let installation = Installation::open(&root)?;
                report(json, &install::rollback(&installation, &Progress::default())?)
            }
            Self::Verify { origin } => with(&origin, None, None, false, |follow, root| {
                let verdict = install::verify(&Installation::look(root)?, follow)?;
                judge(json, &verdict)?;
                if verdict.damaged.is_empty() {
                    return Ok(());
                }
                let what = format!("{} files are damaged; `system repair` mends them", verdict.damaged.len());
                Err(TaskError::new(Exit::Damaged, what))
            }),
            Self::Repair { origin, how, dry_run } => with(&origin, Some(&how), None, false, |follow, root| {
                if dry_run {
                    return judge(json, &install::verify(&Installation::look(root)?, follow)?);
                }
                let installation = Installation::open(root)?;
                let mut told = Ok(());
                let outcome = install::repair(&installation, follow, &mut |verdict| {
                    if !json {
                        told = judge(json, verdict);
                    }
                    told.is_ok()
                })?;
                told.and_then(|()| if outcome.done || json { report(json, &outcome) } else { Ok(()) })
            }),
        }
    }
}

/// Makes all that an update needs, and shows a progress bar meanwhile.
fn with(
    origin: &Origin,
    how: Option<&How>,
    version: Option<String>,
    again: bool,
    task: impl FnOnce(&Follow<'_>, &Path) -> Result<(), TaskError>,
) -> Result<(), TaskError> {
    let profile = origin.profile()?;
    let offers = crate::daemon::offers(&profile.repository, &profile.client_id, origin.unsigned)?;
    let fetch = fetch::open(&profile.repository, Settings::load()?.limits(how.and_then(|how| how.limit_rate)))?;
    let progress = Arc::new(Progress::default());
    let _bar = super::watch(progress.clone());
    let follow = Follow {
        offers: &*offers,
        fetch: &*fetch,
        channel: profile.channel,
        version,
        again,
        keep: how.map(|how| how.keep.clone()).unwrap_or_default(),
        links: how.map_or(Links::Auto, |how| how.links),
        progress: &progress,
    };
    task(&follow, &profile.root)
}

fn check(json: bool, root: &Path, exit_code: bool, follow: &Follow<'_>) -> Result<(), TaskError> {
    let installation = Installation::look(root)?;
    let answer = install::check(&installation, follow)?;
    let notes = installation.notes();
    let mut object = serde_json::to_value(&answer).expect("an answer is JSON");
    object["state"] = json!(notes.state);
    object["target"] = json!(notes.target);
    object["failure"] = json!(notes.failure);
    say(json, &object, || {
        let installed = answer.installed.as_deref().unwrap_or("nothing");
        let mut text = match (answer.update, answer.held) {
            (true, _) => format!(
                "{installed} is installed, {} is offered: {} in {} requests\n",
                answer.offered,
                bytes(answer.bytes),
                answer.requests
            ),
            (false, true) => format!(
                "{installed} is installed, {} was gone back from: `system update --again` installs it\n",
                answer.offered
            ),
            (false, false) => format!("{installed} is installed and is what is offered\n"),
        };
        if !answer.changed.is_empty() {
            text += &format!(
                "{} files were changed since, {} the first: `system repair` mends them\n",
                answer.changed.len(),
                answer.changed[0]
            );
        }
        text += &format!("state: {}", notes.state);
        if let Some(target) = &notes.target {
            text += &format!(" (version {target})");
        }
        if let Some(failure) = &notes.failure {
            text += &format!(": {failure}");
        }
        text
    })?;
    if exit_code && !answer.update {
        return Err(TaskError::new(Exit::NotFound, "no update"));
    }
    Ok(())
}

fn report(json: bool, outcome: &Outcome) -> Result<(), TaskError> {
    say(json, outcome, || told(outcome))
}

fn told(outcome: &Outcome) -> String {
    let before = outcome.before.as_deref().unwrap_or("nothing");
    let mut text = if outcome.done {
        format!(
            "version {} is current, {before} was before; {} in {} requests\n",
            outcome.version,
            bytes(outcome.fetched),
            outcome.requests
        )
    } else if outcome.held {
        format!(
            "version {} stays current: what is offered was gone back from, `--again` installs it\n",
            outcome.version
        )
    } else {
        format!("version {} is current already\n", outcome.version)
    };
    if !outcome.changed.is_empty() {
        text += &format!(
            "{} files were changed since, {} the first: `system repair` mends them\n",
            outcome.changed.len(),
            outcome.changed[0]
        );
    }
    text
}

fn judge(json: bool, verdict: &Verdict) -> Result<(), TaskError> {
    say(json, verdict, || judged(verdict))
}

fn judged(verdict: &Verdict) -> String {
    let mut text = String::new();
    for path in &verdict.damaged {
        text += &format!("damaged  {path}\n");
    }
    for path in &verdict.extra {
        text += &format!("extra    {path}\n");
    }
    let (count, fetch) = (verdict.damaged.len(), bytes(verdict.repair_bytes.unwrap_or(0)));
    text += &format!("version {}: {count} damaged", verdict.version);
    if count > 0 {
        text += &format!("; repair will fetch {fetch} in {} requests", verdict.repair_requests.unwrap_or(0));
    }
    text
}
