//! The `vsekai` command: reads its arguments, does one task, turns failures into one line and an exit code.

use clap::Parser;
use std::process::ExitCode;
use vsekai_launcher::cli::Cli;
use vsekai_launcher::{error, log};

fn main() -> ExitCode {
    let cli = Cli::parse();
    log::begin();
    let task = cli.task.name();
    match cli.run() {
        Ok(()) => {
            tracing::info!(task, "done");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let code = error.exit as u8;
            let why = error::one_line(error);
            tracing::error!(task, exit = code, "{why}");
            eprintln!("vsekai: {why}");
            ExitCode::from(code)
        }
    }
}
