//! `vsekai version sign|channel|upload|list|download|delete`.

use super::keys::{Days, KeyFolder, say_signed};
use crate::bar::{Bar, line};
use crate::catalogue;
use crate::error::{Exit, TaskError, shown};
use crate::fetch;
use crate::install::{self, Follow, Installation, Links, Progress};
use crate::offers::Offers;
use crate::output::{bytes, say, table};
use crate::publish::{Job, publish};
use crate::release::{Catalogue, Channel};
use crate::settings::{self, Profile, Purpose, Settings, trust_folder};
use crate::sync::archive::unpack;
use crate::trust::{self, time};
use crate::upload::{Report, Service};
use crate::whole;
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of `version sign`.
#[derive(Debug, Args)]
pub struct Sign {
    /// The repository's folder.
    #[arg(long)]
    repository: PathBuf,
    /// The keys.
    #[command(flatten)]
    keys: KeyFolder,
    /// Sign only the list of catalogues: the update service has the other keys.
    #[arg(long = "service_signs", alias = "service-signs")]
    service_signs: bool,
    /// How long signatures are valid.
    #[command(flatten)]
    days: Days,
}

impl Sign {
    pub(super) fn run(self, json: bool) -> Result<(), TaskError> {
        sign(&self.repository, &self.keys, self.service_signs, &self.days, json)
    }
}

fn sign(repository: &Path, keys: &KeyFolder, service_signs: bool, days: &Days, json: bool) -> Result<(), TaskError> {
    if service_signs {
        let version = trust::sign_targets(repository, &keys.open()?, days.into(), trust::now())?;
        return say(json, &json!({ "targets": version }), || format!("signed: targets {version}"));
    }
    say_signed(json, &trust::sign(repository, &keys.open()?, days.into(), trust::now())?)
}

/// Of `version channel`.
#[derive(Debug, Args)]
pub struct ChannelArguments {
    /// The repository's folder.
    #[arg(long)]
    repository: PathBuf,
    /// Which build.
    #[arg(long = "client_id", alias = "client-id")]
    client_id: String,
    /// The channel: 1 to 32 of a-z, 0-9 and -.
    #[arg(long)]
    channel: String,
    /// The version that it stands for from now on. Going back to an earlier one is a rollback for all.
    #[arg(long)]
    version: String,
    /// Of all installations, how many per cent are offered it; the others keep what the channel stood for before.
    #[arg(long = "rollout_percent", alias = "rollout-percent", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    rollout_percent: u8,
}

impl ChannelArguments {
    pub(super) fn run(self, json: bool) -> Result<(), TaskError> {
        change(&self.repository, &self.client_id, |catalogue| {
            let new = |previous| Channel {
                name: self.channel.clone(),
                version: self.version.clone(),
                previous,
                rollout_percent: self.rollout_percent,
            };
            match catalogue.channels.iter_mut().find(|channel| channel.name == self.channel) {
                // The same version to more or fewer: the others keep what they have.
                Some(channel) if channel.version == self.version => *channel = new(channel.previous.take()),
                Some(channel) => *channel = new(Some(channel.version.clone())),
                None => catalogue.channels.push(new(None)),
            }
            catalogue.channels.sort_by(|one, other| one.name.cmp(&other.name));
            Ok(())
        })?;
        let said = json!({ "channel": self.channel, "version": self.version, "rollout_percent": self.rollout_percent, "signed": false });
        say(json, &said, || {
            format!("{} stands for {} for {} %; to be signed", self.channel, self.version, self.rollout_percent)
        })
    }
}

/// Changes a catalogue in a repository's folder; what would be refused by clients is not written.
fn change(
    repository: &Path,
    client_id: &str,
    edit: impl FnOnce(&mut Catalogue) -> Result<(), TaskError>,
) -> Result<(), TaskError> {
    if !catalogue::is_client_id(client_id) {
        return Err(TaskError::new(Exit::Usage, format!("{client_id:?} is no build: 1 to 64 of a-z, 0-9 and -")));
    }
    let file = repository.join("catalogue").join(format!("{client_id}.json"));
    let read = whole::read(&file, catalogue::BYTES_MAX)?;
    let read = read.ok_or_else(|| TaskError::new(Exit::NotFound, format!("{}: no such build here", shown(&file))))?;
    let damaged = |why: String| TaskError::new(Exit::Damaged, format!("{}: {why}", shown(&file)));
    let mut catalogue = catalogue::parse(&read).map_err(damaged)?;
    edit(&mut catalogue)?;
    catalogue::check(&catalogue).map_err(|why| TaskError::new(Exit::Usage, why))?;
    let text = serde_json::to_vec_pretty(&catalogue).map_err(|error| damaged(error.to_string()))?;
    whole::write(&file, &text, whole::PUBLIC)
}

/// Which service, and which profile.
#[derive(Debug, Args)]
pub struct At {
    /// The update service's address; else the setting `service`, else the profile's repository.
    #[arg(long)]
    service: Option<String>,
    /// Another profile than the current one.
    #[arg(long)]
    profile: Option<String>,
}

impl At {
    fn service(&self) -> Result<Service, TaskError> {
        let settings = Settings::load()?;
        let address = match (&self.service, &settings.service) {
            (Some(given), _) | (None, Some(given)) => given.clone(),
            (None, None) => settings.profile(self.profile.as_deref())?.repository.clone(),
        };
        Service::new(&address)
    }
}

/// Of `version upload`.
#[derive(Debug, Args)]
pub struct Upload {
    /// A build: its folder, an archive of it (.catar, as `sync tar` makes it), or a file that is all of it. Or a repository's folder that is
    /// packed and signed already.
    #[arg(long)]
    file: PathBuf,
    /// Which service.
    #[command(flatten)]
    at: At,
    /// What this version is called; needed for a build.
    #[arg(long)]
    version: Option<String>,
    /// Which build; else the profile's.
    #[arg(long = "client_id", alias = "client-id")]
    client_id: Option<String>,
    /// The channel that offers it from now on.
    #[arg(long)]
    channel: Option<String>,
    /// To how many per cent of the installations the channel offers it.
    #[arg(long = "rollout_percent", alias = "rollout-percent", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    rollout_percent: u8,
    /// A text file for players.
    #[arg(long)]
    notes: Option<PathBuf>,
    /// The studio's own repository folder; one of the launcher's if none is given.
    #[arg(long)]
    repository: Option<PathBuf>,
    /// The keys' folder; needed for a build.
    #[arg(long)]
    keys: Option<PathBuf>,
    /// A file with the passphrase that seals the keys; else VSEKAI_KEY_PASSPHRASE.
    #[arg(long = "passphrase_file", alias = "passphrase-file")]
    passphrase_file: Option<PathBuf>,
    /// Sign only the list of catalogues: the update service has the other keys.
    #[arg(long = "service_signs", alias = "service-signs")]
    service_signs: bool,
}

/// Brings a repository up, with a progress bar.
fn publish_with_bar(service: &Service, repository: &Path) -> Result<Report, TaskError> {
    let counts = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
    let seen = counts.clone();
    let _bar = Bar::show(move || {
        let (sent, all) = (seen.0.load(Ordering::Relaxed), seen.1.load(Ordering::Relaxed));
        (all > 0).then(|| line("Uploading", sent, all))
    });
    service.publish(repository, &mut |sent, all| {
        counts.0.store(sent, Ordering::Relaxed);
        counts.1.store(all, Ordering::Relaxed);
    })
}

impl Upload {
    pub(super) fn run(self, json: bool) -> Result<(), TaskError> {
        let service = self.at.service()?;
        let packed = self.file.join(trust::METADATA).is_dir() && self.file.join("catalogue").is_dir();
        let repository = if packed { self.file.clone() } else { self.pack()? };
        let report = publish_with_bar(&service, &repository)?;
        say(json, &report, || {
            let list = |what: &str, names: &[String]| {
                if names.is_empty() { String::new() } else { format!("; {what}: {}", names.join(", ")) }
            };
            format!(
                "{} files ({}) sent, {} were there{}{}",
                report.sent_files,
                bytes(report.sent_bytes),
                report.present_files,
                list("new", &report.added),
                list("removed", &report.removed)
            )
        })
    }

    /// Packs and signs the build in the studio's own repository.
    fn pack(&self) -> Result<PathBuf, TaskError> {
        let missing =
            |flag: &str| TaskError::new(Exit::Usage, format!("{}: a build needs --{flag}", shown(&self.file)));
        let version = self.version.clone().ok_or_else(|| missing("version"))?;
        let keys = self.keys.clone().ok_or_else(|| missing("keys"))?;
        let client_id = match &self.client_id {
            Some(client_id) => client_id.clone(),
            None => settings::profile(self.at.profile.as_deref())?.client_id,
        };
        let repository = match &self.repository {
            Some(repository) => repository.clone(),
            None => settings::folder(Purpose::Data)?.join("repositories").join(&client_id),
        };
        let notes = match &self.notes {
            None => String::new(),
            Some(file) => std::fs::read_to_string(file).map_err(|error| TaskError::unreadable(file, error))?,
        };
        let unreadable = |error| TaskError::unreadable(&self.file, error);
        let single = if std::fs::metadata(&self.file).map_err(unreadable)?.is_file() {
            // Where the repository is there is room for builds.
            whole::make_folder(&repository, 0o755).map_err(|error| TaskError::unwritable(&repository, error))?;
            let folder =
                tempfile::tempdir_in(&repository).map_err(|error| TaskError::unwritable(&repository, error))?;
            if self.file.extension().is_some_and(|ending| ending == "catar") {
                unpack(&self.file, folder.path())?;
            } else {
                std::fs::copy(&self.file, folder.path().join(self.file.file_name().unwrap_or_default()))
                    .map_err(unreadable)?;
            }
            Some(folder)
        } else {
            None
        };
        publish(&Job {
            source: single.as_ref().map_or(self.file.clone(), |folder| folder.path().to_owned()),
            repository: repository.clone(),
            client_id,
            version,
            notes,
            published: trust::now(),
            channel: self.channel.clone().map(|channel| (channel, self.rollout_percent)),
            deltas: 3,
            sizes: None,
            level: 3,
            keep: Vec::new(),
        })?;
        let ring = KeyFolder { keys, passphrase_file: self.passphrase_file.clone() }.open()?;
        let lifetimes = trust::Lifetimes::default();
        if self.service_signs {
            trust::sign_targets(&repository, &ring, lifetimes, trust::now())?;
        } else {
            trust::sign(&repository, &ring, lifetimes, trust::now())?;
        }
        Ok(repository)
    }
}

/// Of `version list` and `version download`: which repository is believed.
#[derive(Debug, Args)]
pub struct Followed {
    /// Another profile than the current one.
    #[arg(long)]
    profile: Option<String>,
}

impl Followed {
    fn open(&self) -> Result<(Profile, trust::Signed), TaskError> {
        let profile = settings::profile(self.profile.as_deref())?;
        let fetch = fetch::open(&profile.repository, Settings::load()?.limits(None))?;
        let signed = trust::Signed {
            fetch,
            state: trust_folder(&profile.repository, &profile.client_id)?,
            client_id: profile.client_id.clone(),
        };
        Ok((profile, signed))
    }

    /// `version list`: what the studio has signed.
    pub(super) fn list(&self, json: bool) -> Result<(), TaskError> {
        let catalogue = self.open()?.1.catalogue()?;
        say(json, &catalogue, || {
            let of = |version: &str| {
                let in_it = catalogue.channels.iter().filter(|channel| channel.version == version);
                let shown = |channel: &Channel| match channel.rollout_percent {
                    100 => channel.name.clone(),
                    percent => format!("{} ({percent} %)", channel.name),
                };
                in_it.map(shown).collect::<Vec<_>>().join(", ")
            };
            let row = |release: &crate::release::Release| {
                let notes =
                    release.notes.lines().next().unwrap_or("").chars().filter(|c| !c.is_control()).take(60).collect();
                vec![release.version.clone(), time::format(release.published), of(&release.version), notes]
            };
            let heading = ["VERSION", "PUBLISHED", "CHANNELS", "NOTES"].map(str::to_owned).to_vec();
            table(&std::iter::once(heading).chain(catalogue.releases.iter().rev().map(row)).collect::<Vec<_>>())
        })
    }
}

/// Of `version download`.
#[derive(Debug, Args)]
pub struct Download {
    /// Which version.
    #[arg(long)]
    version: String,
    /// The folder that gets it, under `current/`; a folder of the launcher's own if none is given.
    #[arg(long)]
    destination: Option<PathBuf>,
    /// From where.
    #[command(flatten)]
    followed: Followed,
}

impl Download {
    pub(super) fn run(self, json: bool) -> Result<(), TaskError> {
        let (profile, signed) = self.followed.open()?;
        let folder = match self.destination {
            Some(destination) => destination,
            None => settings::folder(Purpose::Data)?.join("downloads").join(&profile.client_id).join(&self.version),
        };
        let fetch = fetch::open(&profile.repository, Settings::load()?.limits(None))?;
        let progress = Arc::new(Progress::default());
        let _bar = super::watch(progress.clone());
        let outcome = install::update(
            &Installation::open(&folder)?,
            &Follow {
                offers: &signed,
                fetch: &*fetch,
                channel: profile.channel,
                version: Some(self.version),
                again: true,
                keep: Vec::new(),
                links: Links::Auto,
                progress: &progress,
            },
        )?;
        let place = folder.join("current");
        say(json, &json!({ "version": outcome.version, "folder": place, "fetched": outcome.fetched }), || {
            format!("{} is in {} ({} fetched)", outcome.version, place.display(), bytes(outcome.fetched))
        })
    }
}

/// Of `version delete`.
#[derive(Debug, Args)]
pub struct Delete {
    /// Which version.
    #[arg(long)]
    version: String,
    /// Which service.
    #[command(flatten)]
    at: At,
    /// Which build; else the profile's.
    #[arg(long = "client_id", alias = "client-id")]
    client_id: Option<String>,
    /// The studio's own repository folder; the launcher's one if none is given.
    #[arg(long)]
    repository: Option<PathBuf>,
    /// The keys.
    #[command(flatten)]
    keys: KeyFolder,
    /// Sign only the list of catalogues: the update service has the other keys.
    #[arg(long = "service_signs", alias = "service-signs")]
    service_signs: bool,
}

impl Delete {
    /// Takes the version out of the signed catalogue. The service keeps its files for the grace time.
    pub(super) fn run(self, json: bool) -> Result<(), TaskError> {
        let service = self.at.service()?;
        let client_id = match self.client_id {
            Some(client_id) => client_id,
            None => settings::profile(self.at.profile.as_deref())?.client_id,
        };
        let repository = match self.repository {
            Some(repository) => repository,
            None => settings::folder(Purpose::Data)?.join("repositories").join(&client_id),
        };
        change(&repository, &client_id, |catalogue| {
            let version = &self.version;
            if let Some(channel) = catalogue.channels.iter().find(|channel| channel.version == *version) {
                let why = format!(
                    "{} stands for {version}: give it another version first (`vsekai version channel`)",
                    channel.name
                );
                return Err(TaskError::new(Exit::Usage, why));
            }
            let before = catalogue.releases.len();
            catalogue.releases.retain(|release| release.version != *version);
            if catalogue.releases.len() == before {
                return Err(TaskError::new(Exit::NotFound, format!("no version {version} of {client_id}")));
            }
            for channel in &mut catalogue.channels {
                channel.previous = channel.previous.take().filter(|previous| previous != version);
            }
            Ok(())
        })?;
        let ring = self.keys.open()?;
        let lifetimes = trust::Lifetimes::default();
        if self.service_signs {
            trust::sign_targets(&repository, &ring, lifetimes, trust::now())?;
        } else {
            trust::sign(&repository, &ring, lifetimes, trust::now())?;
        }
        let report = publish_with_bar(&service, &repository)?;
        say(json, &report, || {
            format!("removed: {}; its files stay for the service's grace time", report.removed.join(", "))
        })
    }
}
