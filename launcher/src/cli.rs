//! The command line. Only what works stands here; anything else is refused.

use clap::{Parser, Subcommand};
use std::path::PathBuf;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  2  the command line is wrong
  3  a file cannot be read
  4  a file is not what it should be: damaged, cut off, or of another format
  5  the result cannot be written";

/// Tools for distributing big builds in chunks.
#[derive(Debug, Parser)]
#[command(name = "vsekai", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) task: Task,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    /// Work with chunk indexes as casync and desync write them.
    #[command(subcommand, after_help = EXIT_CODES)]
    Sync(Sync),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sync {
    /// List the chunks of an index (.caibx or .caidx), after checking all of it.
    ///
    /// Nothing is listed of an index that fails a check. Reads the file twice, in constant memory.
    #[command(after_help = EXIT_CODES)]
    ListChunks {
        /// The index file.
        #[arg(long, value_name = "FILE")]
        index: PathBuf,
        /// Print one JSON object instead of a table.
        #[arg(long)]
        json: bool,
    },
}
