//! `vsekai sync start|pause|resume|check-status|stop`: jobs of the background daemon.

use crate::daemon::{Client, Job, Order, Status};
use crate::error::{Exit, TaskError};
use crate::output::{bytes, say};
use crate::settings;
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// The flags of `vsekai sync start`.
#[derive(Debug, Args)]
pub struct Start {
    /// A repository (https://…, http://… or a folder), or a plain folder, which is copied; the profile's repository if not given
    #[arg(long, value_name = "ADDRESS", requires = "destination")]
    source: Option<String>,
    /// The folder of the installation or copy; the profile's if not given
    #[arg(long, value_name = "FOLDER")]
    destination: Option<PathBuf>,
    /// Which build; a folder with only one need not be told
    #[arg(long = "client_id", alias = "client-id", value_name = "NAME")]
    client_id: Option<String>,
    /// The channel that is followed
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// Take the catalogue of a folder as it is: nothing proves who wrote it
    #[arg(long)]
    unsigned: bool,
    /// Most bytes a second from the repository
    #[arg(long = "limit_rate", alias = "limit-rate", value_name = "BYTES")]
    limit_rate: Option<u64>,
    /// Paths that belong to the player, beside those the build names. May be repeated
    #[arg(long, value_name = "GLOB")]
    keep: Vec<String>,
    /// Wait until it is over, and end as it ends
    #[arg(long)]
    wait: bool,
}

/// Which jobs.
#[derive(Debug, Args)]
pub struct Which {
    /// One job; all if not given
    #[arg(long, value_name = "NUMBER")]
    job: Option<u64>,
}

impl Start {
    /// Does the task.
    pub fn run(self, json: bool) -> Result<(), TaskError> {
        let absolute =
            |path: PathBuf| std::path::absolute(&path).map_err(|source| TaskError::unreadable(&path, source));
        // With a source of its own a job has nothing to do with the profile.
        let profile = if self.source.is_some() { None } else { Some(settings::profile(None)?) };
        let source = self.source.or(profile.as_ref().map(|profile| profile.repository.clone())).unwrap_or_default();
        let destination = self.destination.or(profile.as_ref().map(|profile| profile.root.clone())).unwrap_or_default();
        let source = if source.contains("://") {
            source
        } else {
            let folder = absolute(source.into())?;
            folder
                .to_str()
                .map(str::to_owned)
                .ok_or_else(|| TaskError::new(Exit::Usage, "the source's name is not Unicode"))?
        };
        let order = Order {
            source,
            destination: absolute(destination)?,
            client_id: self.client_id.or(profile.as_ref().map(|profile| profile.client_id.clone())),
            channel: self.channel.or(profile.map(|profile| profile.channel)).unwrap_or_else(|| "stable".into()),
            unsigned: self.unsigned,
            limit_rate: self.limit_rate,
            keep: self.keep,
        };
        let client = Client::start()?;
        let mut job = client.begin(&order)?;
        while self.wait && matches!(job.status, Status::Queued | Status::Running | Status::Paused) {
            std::thread::sleep(Duration::from_millis(100));
            let found = client.jobs()?.into_iter().find(|other| other.id == job.id);
            job = found
                .ok_or_else(|| TaskError::new(Exit::NotFound, format!("job {} was replaced by another", job.id)))?;
        }
        show(json, std::slice::from_ref(&job))?;
        if let Some(failure) = job.failure.filter(|_| self.wait) {
            return Err(TaskError::new(job.exit.and_then(exit).unwrap_or(Exit::Failed), failure));
        }
        Ok(())
    }
}

/// The kind of failure that an exit code stands for.
fn exit(code: u8) -> Option<Exit> {
    use Exit::*;
    let all =
        [Failed, Usage, Unreadable, Damaged, Unwritable, Network, Untrusted, Denied, NoSpace, NotFound, Busy, Stopped];
    all.into_iter().find(|exit| *exit as u8 == code)
}

impl Which {
    /// Pauses or resumes.
    pub fn tell(self, json: bool, what: &str) -> Result<(), TaskError> {
        let jobs = Client::start()?.tell(self.job, what)?;
        show(json, &self.pick(jobs)?)
    }

    /// Says how far they are.
    pub fn check(self, json: bool) -> Result<(), TaskError> {
        let jobs = Client::start()?.jobs()?;
        show(json, &self.pick(jobs)?)
    }

    fn pick(&self, jobs: Vec<Job>) -> Result<Vec<Job>, TaskError> {
        let picked: Vec<Job> = jobs.into_iter().filter(|job| self.job.is_none_or(|id| id == job.id)).collect();
        match self.job {
            Some(id) if picked.is_empty() => Err(TaskError::new(Exit::NotFound, format!("no job {id}"))),
            _ => Ok(picked),
        }
    }
}

/// Ends the daemon, if one runs.
pub fn stop(json: bool) -> Result<(), TaskError> {
    match Client::running()? {
        None => Err(TaskError::new(Exit::NotFound, "no daemon runs")),
        Some(client) => show(json, &client.stop()?),
    }
}

fn show(json: bool, jobs: &[Job]) -> Result<(), TaskError> {
    say(json, &jobs, || listed(jobs))
}

fn listed(jobs: &[Job]) -> String {
    if jobs.is_empty() {
        return "no jobs".into();
    }
    let mut text = String::new();
    for job in jobs {
        text += &format!(
            "{}  {:?}  {} -> {}",
            job.id,
            job.status,
            job.order.source,
            crate::error::shown(&job.order.destination)
        );
        if let Some(look) = &job.progress {
            text += &format!("  {} {} of {}", look.state, bytes(look.done), bytes(look.total));
        }
        if let Some(version) = &job.version {
            text += &format!("  version {version}");
        }
        if let Some(failure) = &job.failure {
            text += &format!("  {failure}");
        }
        text += "\n";
    }
    text
}
