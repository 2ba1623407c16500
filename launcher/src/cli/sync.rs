//! `vsekai sync …`

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
}

impl Sync {
    /// Does the task.
    pub fn run(self, json: bool) -> Result<(), TaskError> {
        match self {
            Self::ListChunks { index } => list_chunks::list(&index, json, &mut std::io::stdout().lock()),
        }
    }
}
