//! The command line: one file per group of commands. Only what works stands here; anything else is refused.

pub mod config;
mod output;
pub mod portal;
pub mod profile;
pub mod sync;

use crate::error::{EXIT_CODES, TaskError};
use clap::{Parser, Subcommand};

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
    /// The settings, key by key.
    #[command(subcommand, after_help = EXIT_CODES)]
    Config(config::Config),
    /// Profiles: which builds are followed, from where, to where.
    #[command(subcommand, after_help = EXIT_CODES)]
    Profile(profile::Profiles),
    /// The game client: launched, kept, closed.
    Portal(portal::PortalArgs),
}

impl Cli {
    /// Does what was asked.
    pub fn run(self) -> Result<(), TaskError> {
        let json = self.json;
        match self.task {
            Task::Sync(task) => task.run(json),
            Task::Config(task) => task.run(json),
            Task::Profile(task) => task.run(json),
            Task::Portal(task) => task.run(json),
        }
    }
}
