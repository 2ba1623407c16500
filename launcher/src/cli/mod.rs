//! The command line: one file per group of commands. Only what works stands here; anything else is refused.

pub mod auth;
pub mod config;
pub mod jobs;
pub mod keys;
pub mod log;
pub mod manual;
pub mod portal;
pub mod profile;
pub mod release;
pub mod serve;
pub mod sync;
pub mod system;
pub mod version;

use crate::bar::{Bar, line};
use crate::error::{EXIT_CODES, TaskError};
use crate::install::Progress;
use clap::{Parser, Subcommand};
use std::sync::Arc;

/// Distributes, installs, verifies and runs big builds.
#[derive(Debug, Parser)]
#[command(name = "vsekai", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// Print one JSON object (or one a line, for what goes on) instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
}

/// The groups of commands.
#[derive(Debug, Subcommand)]
pub enum Task {
    /// Chunks, indexes, stores and archives as casync and desync write them; installing and following a build.
    #[command(subcommand, after_help = EXIT_CODES)]
    Sync(sync::Sync),
    /// Logging in at the provider that the update service believes.
    #[command(subcommand, after_help = EXIT_CODES)]
    Auth(auth::Auth),
    /// The settings, key by key.
    #[command(subcommand, after_help = EXIT_CODES)]
    Config(config::Config),
    /// A studio's signing keys.
    #[command(subcommand, after_help = EXIT_CODES)]
    Keys(keys::Keys),
    /// The update service: serves a repository, and takes uploads.
    #[command(after_help = EXIT_CODES)]
    Serve(Box<serve::Serve>),
    /// What the launcher has done, and what failed.
    #[command(subcommand, after_help = EXIT_CODES)]
    Log(log::Log),
    /// Profiles: which builds are followed, from where, to where.
    #[command(subcommand, after_help = EXIT_CODES)]
    Profile(profile::Profiles),
    /// The game client: launched, kept, closed.
    Portal(portal::PortalArgs),
    /// The installation that follows a channel.
    #[command(subcommand, after_help = EXIT_CODES)]
    System(system::System),
    /// Versions of a build.
    #[command(subcommand, after_help = EXIT_CODES)]
    Version(version::Version),
    /// Print what makes a shell complete this program's commands and flags.
    #[command(after_help = EXIT_CODES)]
    Completions(manual::Completions),
    /// Write the manual: a page for each command.
    #[command(after_help = EXIT_CODES)]
    Man(manual::Man),
}

impl Task {
    /// Group and command, for the log: never an argument, which may be secret.
    pub fn name(&self) -> String {
        let debug = format!("{self:?}");
        let words = debug.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.take(2).collect::<Vec<_>>().join(" ").to_lowercase()
    }
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> Result<(), TaskError> {
        let json = self.json;
        match self.task {
            Task::Sync(task) => task.run(json),
            Task::Auth(task) => task.run(json),
            Task::Config(task) => task.run(json),
            Task::Keys(task) => task.run(json),
            Task::Serve(task) => task.run(json),
            Task::Log(task) => task.run(json),
            Task::Profile(task) => task.run(json),
            Task::Portal(task) => task.run(json),
            Task::System(task) => task.run(json),
            Task::Version(task) => task.run(json),
            Task::Completions(task) => task.run(),
            Task::Man(task) => task.run(json),
        }
    }
}

/// A progress bar of an installation's work.
fn watch(progress: Arc<Progress>) -> Bar {
    Bar::show(move || {
        let look = progress.look();
        let worth = look.state.is_at_work() || look.total > 0;
        worth.then(|| line(&look.state.to_string(), look.done, look.total))
    })
}
