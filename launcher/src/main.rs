//! The `vsekai` command: reads its arguments, does one task, turns failures into one line and an exit code.
//!
//! - [`cli`]: the command line.
//! - [`caibx`]: casync's chunk index, read and checked.
//! - [`list_chunks`]: `vsekai sync list-chunks`.
//! - [`error`]: failures and their exit codes.

mod caibx;
mod cli;
mod error;
mod list_chunks;

use clap::Parser;
use cli::{Cli, Sync, Task};
use std::process::ExitCode;

fn main() -> ExitCode {
    let Cli { task } = Cli::parse();
    let done = match task {
        Task::Sync(Sync::ListChunks { index, json }) => list_chunks::list(&index, json, &mut std::io::stdout().lock()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit_code();
            eprintln!("vsekai: {}", error::one_line(error));
            ExitCode::from(code)
        }
    }
}
