//! `vsekai sync …`

use super::jobs;
use crate::error::{EXIT_CODES, TaskError};
use crate::sync::archive::{Tar, Untar};
use crate::sync::extract::Extract;
use crate::sync::make::Make;
use crate::sync::mount::MountIndex;
use crate::sync::prune::Prune;
use crate::sync::serve::Serve;
use crate::sync::verify::Verify;
use crate::sync::{Job as _, list_chunks};
use clap::Subcommand;
use std::path::PathBuf;

/// The tasks of `vsekai sync`.
#[derive(Debug, Subcommand)]
pub enum Sync {
    /// Cut a file or a folder into chunks: adds them to a store and writes an index.
    #[command(after_help = EXIT_CODES)]
    Make(Make),
    /// Put a file together from its index, from stores and seeds.
    ///
    /// Every chunk's digest is checked. The file appears when it is whole; what it was before is used for what did not change.
    #[command(after_help = EXIT_CODES)]
    Extract(Extract),
    /// Check a store, an index's chunks in stores, or a file against its index. Damage is exit code 4.
    #[command(after_help = EXIT_CODES)]
    Verify(Verify),
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
    /// Mount an index as a file that is fetched as it is read, until SIGINT, SIGTERM or `umount`.
    #[command(after_help = EXIT_CODES)]
    MountIndex(MountIndex),
    /// Archive a folder as .catar, or as .caidx and chunks.
    #[command(after_help = EXIT_CODES)]
    Tar(Tar),
    /// Unpack an archive (.catar), or an archive's index (.caidx) from stores, into a folder.
    ///
    /// Devices, set-uid bits, links that leave the folder, and names that some system cannot hold are refused by name.
    #[command(after_help = EXIT_CODES)]
    Untar(Untar),
    /// Remove from a store the chunks that no index names.
    #[command(after_help = EXIT_CODES)]
    Prune(Prune),
    /// Serve a store, and indexes, over HTTP, as casync's and desync's clients speak it.
    #[command(after_help = EXIT_CODES)]
    Serve(Serve),
}

impl Sync {
    /// Does the task.
    pub fn run(self, json: bool) -> Result<(), TaskError> {
        match self {
            Self::Make(task) => task.run_and_print(json),
            Self::Extract(task) => task.run_and_print(json),
            Self::Verify(task) => task.run_and_print(json),
            Self::ListChunks { index } => list_chunks::list(&index, json, &mut std::io::stdout().lock()),
            Self::Start(start) => start.run(json),
            Self::Pause(which) => which.tell(json, "pause"),
            Self::Resume(which) => which.tell(json, "resume"),
            Self::CheckStatus(which) => which.check(json),
            Self::Stop => jobs::stop(json),
            Self::Daemon => crate::daemon::serve(),
            Self::MountIndex(task) => task.run_and_print(json),
            Self::Tar(task) => task.run_and_print(json),
            Self::Untar(task) => task.run_and_print(json),
            Self::Prune(task) => task.run_and_print(json),
            Self::Serve(task) => task.run_and_print(json),
        }
    }
}
