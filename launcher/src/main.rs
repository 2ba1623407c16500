//! The `vsekai` command: reads its arguments, does one task, turns failures into one line and an exit code.

use clap::Parser;
use std::process::ExitCode;
use vsekai_launcher::cli::Cli;
use vsekai_launcher::error;

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = error.exit as u8;
            eprintln!("vsekai: {}", error::one_line(error));
            ExitCode::from(code)
        }
    }
}
