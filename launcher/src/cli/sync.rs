//! `vsekai sync …`

use super::jobs;
use crate::error::{EXIT_CODES, TaskError};
use crate::sync::list_chunks;
use clap::Subcommand;
use std::path::PathBuf;

/// The tasks of `vsekai sync`.
#[derive(Debug, Subcommand)]
pub enum Sync {
    /// List the chunks of an index (.caibx or .caidx), after checking all of it.
    ///
    /// Nothing is listed of an index that fails a check. Reads the file twice, in constant memory.
    #[command(after_help = EXIT_CODES)]
    ListChunks {
        /// The index file.
        #[arg(long, value_name = "FILE")]
        index: PathBuf,
    },
    /// Install a build, or copy a folder, in the background, and go on after restarts.
    #[command(after_help = EXIT_CODES)]
    Start(jobs::Start),
    /// Pause a job, or all; what was fetched stays.
    #[command(after_help = EXIT_CODES)]
    Pause(jobs::Which),
    /// Go on with a job, or with all that are paused or failed.
    #[command(after_help = EXIT_CODES)]
    Resume(jobs::Which),
    /// Say how far the jobs are.
    #[command(name = "check-status", after_help = EXIT_CODES)]
    CheckStatus(jobs::Which),
    /// End the daemon; jobs go on when one is started again.
    #[command(after_help = EXIT_CODES)]
    Stop,
    /// Be the daemon.
    #[command(hide = true)]
    Daemon,
}

impl Sync {
    /// Does the task.
    pub fn run(self, json: bool) -> Result<(), TaskError> {
        match self {
            Self::ListChunks { index } => list_chunks::list(&index, json, &mut std::io::stdout().lock()),
            Self::Start(start) => start.run(json),
            Self::Pause(which) => which.tell(json, "pause"),
            Self::Resume(which) => which.tell(json, "resume"),
            Self::CheckStatus(which) => which.check(json),
            Self::Stop => jobs::stop(json),
            Self::Daemon => crate::daemon::serve(),
        }
    }
}
