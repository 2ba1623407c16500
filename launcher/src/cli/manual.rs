//! `vsekai completions` and `vsekai man`: what shells and `man` are told, made from the command line's own description.

use super::Cli;
use crate::error::TaskError;
use crate::output::say;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

/// Of `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// Which shell; for bash, for example: `source <(vsekai completions bash)`.
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<(), TaskError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "vsekai", &mut script);
        match std::io::stdout().lock().write_all(&script) {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(TaskError::output(error)),
            _ => Ok(()),
        }
    }
}

/// Of `man`.
#[derive(Debug, Args)]
pub struct Man {
    /// The folder for the pages, such as `~/.local/share/man/man1`; made if it is not there.
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
}

impl Man {
    pub(super) fn run(self, json: bool) -> Result<(), TaskError> {
        std::fs::create_dir_all(&self.output).map_err(|source| TaskError::unwritable(&self.output, source))?;
        clap_mangen::generate_to(Cli::command(), &self.output)
            .map_err(|source| TaskError::unwritable(&self.output, source))?;
        let pages = std::fs::read_dir(&self.output).map_err(|source| TaskError::unreadable(&self.output, source))?;
        let pages = pages.flatten().filter(|page| page.file_name().to_string_lossy().starts_with("vsekai")).count();
        say(json, &json!({ "folder": self.output, "pages": pages }), || {
            let folder = self.output.display();
            format!("{pages} pages in {folder}: man -l {folder}/vsekai.1")
        })
    }
}
